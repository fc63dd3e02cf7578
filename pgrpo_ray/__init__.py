"""Posterior-GRPO on Ray: reasoning is rewarded, but only when the program passes.

Importing this package loads nothing heavy: the names of `pgrpo_ray.api` are looked up when they are used. See
`pgrpo_ray.driver` for the one training loop.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgrpo_ray.api import (
        RecordedRun,
        RewardRule,
        Signals,
        Term,
        load_config,
        load_problems,
        open_execution_pool,
        open_reward_model,
        reward_rule,
        train,
    )

__version__ = "0.1.0"
__all__ = [
    "RecordedRun",
    "RewardRule",
    "Signals",
    "Term",
    "__version__",
    "load_config",
    "load_problems",
    "open_execution_pool",
    "open_reward_model",
    "reward_rule",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pgrpo_ray import api

    return getattr(api, name)
