"""Posterior-GRPO on Ray: reasoning is rewarded, but only when the program passes.

Importing this package loads nothing heavy; see `pgrpo_ray.driver` for the one training loop.
"""

__version__ = "0.1.0"
