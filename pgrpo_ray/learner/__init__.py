"""Training the policy: the engine (`zero3`, the only file that imports deepspeed) and the worker that owns a step."""
