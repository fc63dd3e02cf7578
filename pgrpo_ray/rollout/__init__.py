"""Sampling from the policy: the engine (`vllm_engine`, the only file here that imports vllm) and its worker."""
