"""Config trees: what a user may set, with its units, ranges and defaults. Light: imports neither torch nor Ray.

A tree a file: `run` is a training run's, made of `sections`, and `derived` what follows from it; the others belong to
the commands they are named after. `base` reads them all.
"""

from pgrpo_ray.config.base import ConfigTree, Section, apply_override, dump_tree, load_tree, parse_tree, read_values
from pgrpo_ray.config.derived import Derived, derive
from pgrpo_ray.config.monitor import MonitorSection
from pgrpo_ray.config.run import RunConfig, load, parse
from pgrpo_ray.config.sections import (
    DEFAULT_SYSTEM_PROMPT,
    MATHS_SYSTEM_PROMPT,
    SANDBOX_OVERHEAD_MIB,
    STARTER,
    AlgoSection,
    CheckpointSection,
    ClusterSection,
    DataSection,
    EvaluationSection,
    LearnerSection,
    PolicySection,
    RewardModelSection,
    RolloutSection,
    RunSection,
    SandboxSection,
    StarterSection,
    SyncSection,
)

__all__ = [
    "DEFAULT_SYSTEM_PROMPT",
    "MATHS_SYSTEM_PROMPT",
    "SANDBOX_OVERHEAD_MIB",
    "STARTER",
    "AlgoSection",
    "CheckpointSection",
    "ClusterSection",
    "ConfigTree",
    "DataSection",
    "Derived",
    "EvaluationSection",
    "LearnerSection",
    "MonitorSection",
    "PolicySection",
    "RewardModelSection",
    "RolloutSection",
    "RunConfig",
    "RunSection",
    "SandboxSection",
    "Section",
    "StarterSection",
    "SyncSection",
    "apply_override",
    "derive",
    "dump_tree",
    "load",
    "load_tree",
    "parse",
    "parse_tree",
    "read_values",
]
