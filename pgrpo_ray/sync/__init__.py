"""Weights from learner to rollout workers: packing, checking, unpacking. See `weights`."""
