"""Text from language models that are not the policy: endpoints, and the answers' bookkeeping."""
