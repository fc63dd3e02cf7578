"""Sampling from the policy: the engine (`vllm_engine`, the only file that imports vllm) and the worker around it."""
