"""The errors that people and processes meet, named by the boundary that was crossed.

Every class takes one message plus keyword fields *with defaults*: Ray 2.60 can carry exactly such exceptions across
processes with type and fields intact, and turns all others into `UnserializableException`. A message says what was
wrong, where, and how to fix it.
"""

from typing import Any


class PgrpoError(Exception):
    """Base of all errors that end a command with a message instead of a traceback."""


class ConfigError(PgrpoError, ValueError):
    """The configuration is wrong. Raised before anything is started.

    `path` is the dotted key, such as `rollout.group_size`; empty when the whole file is meant.
    """

    def __init__(self, message: str, path: str = ""):
        super().__init__(message)
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.path)


class DataError(PgrpoError, ValueError):
    """A data file cannot be used. `file` and `line` (from 1; 0 where no line is to blame) say where."""

    def __init__(self, message: str, file: str = "", line: int = 0):
        super().__init__(message)
        self.file = file
        self.line = line

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.args[0]}" if where else str(self.args[0])

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.file, self.line)


class ModelError(PgrpoError):
    """A model or tokenizer cannot be loaded, or does not fit its role."""


class EnvironmentFault(PgrpoError):
    """The machine lacks something that the run needs: an engine, a device, memory, disk."""


class SandboxError(PgrpoError):
    """The machinery around untrusted code failed. Never the program's fault, never a verdict.

    The caller retries on another slot; after its retries the rollout carries an error and gets no gradient.
    """


class NotBegunError(SandboxError):
    """The sandbox failed under another program before it began with this one. Trying again is free."""


class ExhaustedError(SandboxError):
    """The kernel killed in the sandbox for want of memory, and the sandbox with it."""


class CheckerError(PgrpoError):
    """A problem's checker is defective. Never the program's fault, never a verdict, and no retry would mend it.

    `checker` is its name as the problem gives it.
    """

    def __init__(self, message: str, checker: str = ""):
        super().__init__(message)
        self.checker = checker

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.checker)


class OverloadError(PgrpoError):
    """The reward server's queue is full. Ask again after `retry_after_s` seconds: nothing was done."""

    def __init__(self, message: str, retry_after_s: float = 1.0):
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.retry_after_s)


class UnavailableError(OverloadError):
    """No replica of the reward server answers now; one is being started. Ask again as after an overload."""


class DeadlineError(PgrpoError):
    """The reward server had no score by the request's deadline. Ask again with more time or fewer reasonings."""


class WeightSyncError(PgrpoError):
    """Weights did not arrive whole: a checksum, a name or a version differs. The engine does not serve them."""


class MismatchError(PgrpoError):
    """Engine and learner give the same tokens different probabilities: they do not compute the same policy.

    Nothing that was learned from such rollouts can be trusted; they are in the run's folder.
    """


class CheckpointError(PgrpoError):
    """There is no checkpoint to go on from, or it is damaged, or of another run. The message offers another."""


class OwnershipError(PgrpoError):
    """Another process writes the checkpoints of this run by now. Nothing of them was touched; this one must end."""


class GradientError(PgrpoError):
    """Too many optimizer steps in a row had a gradient that is no number or far out of line. None of them was taken."""


class CorruptionError(PgrpoError):
    """What one role holds is not what another one sent or was asked for: rows, token ids, texts or a tokenizer.

    A defect, or a machine that damages data; trying again does not mend it. What was written before stays.
    """


class StageError(PgrpoError):
    """What a role (rollout worker, execution pool, reward server, learner) gave cannot be used.

    `stage` names the role; the message carries the first cause.
    """

    def __init__(self, message: str, stage: str = ""):
        super().__init__(message)
        self.stage = stage

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.stage)


class LostError(StageError):
    """A role's process or node died, failed with an error that is not ours, or missed its deadline.

    Another process in its place may do better, so who started it may start it again. `actor_id` is Ray's, as hex; empty
    where it is not known.
    """

    def __init__(self, message: str, stage: str = "", actor_id: str = ""):
        super().__init__(message, stage)
        self.actor_id = actor_id

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.stage, self.actor_id)
