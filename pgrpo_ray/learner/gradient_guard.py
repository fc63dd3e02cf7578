"""Which gradients become optimizer steps: not those that are no number, nor those that are far out of line.

Owns the decision and its count. Does not own the norm, or how a step is skipped (`zero3`). Every rank decides for
itself, on a norm that all of them hold alike: it comes out of an all-reduce.
"""

import math
from collections import deque
from statistics import median

from pgrpo_ray.errors import GradientError

RECENT = 64
"""Norms that the median is taken of. Ours: long enough that one odd step hardly moves it, short enough to follow a run
whose gradients grow or shrink."""
FIRST = 8
"""Norms that must be known before one is called a spike. Ours: of fewer the median is itself noise, and in the first
steps of a run Adam's warm-up and clipping hold a large step back as they always do."""


class GradientGuard:
    """Judges one optimizer's steps, in their order."""

    def __init__(self, spike_factor: float | None, max_skipped: int):
        """Settings: `learner.grad_spike_factor`, `learner.max_skipped_steps`."""
        self._spike_factor = spike_factor
        self._max_skipped = max_skipped
        self.norms: deque[float] = deque(maxlen=RECENT)
        """Of the last steps that were taken, oldest first; those of 0 left out, as any would be a spike beside them."""
        self.in_a_row = 0
        """Steps skipped since the last that was taken."""
        self.why = ""
        """What was wrong with the last gradient; empty where it was accepted."""

    def accepts(self, norm: float) -> bool:
        """Whether a step with this gradient norm (before clipping; not finite: a gradient that is no number) is taken.

        To be called once a step.
        """
        self.why = self._fault(norm)
        if self.why:
            self.in_a_row += 1
            return False
        self.in_a_row = 0
        if norm > 0:
            self.norms.append(norm)
        return True

    def check(self, rollouts: str = "") -> None:
        """Raise `GradientError` where as many steps in a row as may be were skipped. `rollouts`: see there."""
        if self.in_a_row < self._max_skipped:
            return
        raise GradientError(
            f"learner: {self.in_a_row} optimizer steps in a row were skipped (learner.max_skipped_steps="
            f"{self._max_skipped}); the last: {self.why}. {rollouts}The weights are those of the last step that was "
            "taken. If gradients are no number: look at these rollouts in the run's folder, lower "
            "learner.learning_rate, or set policy.dtype=float32. If they have only become larger and training went "
            "well: raise learner.grad_spike_factor."
        )

    def _fault(self, norm: float) -> str:
        if not math.isfinite(norm):
            return "its gradient is no finite number"
        if self._spike_factor is None or len(self.norms) < FIRST:
            return ""
        usual = median(self.norms)
        if norm <= self._spike_factor * usual:
            return ""
        return (
            f"its gradient norm is {norm:.3g}, {norm / usual:.3g} times the median {usual:.3g} of the last "
            f"{len(self.norms)} steps (learner.grad_spike_factor={self._spike_factor:g})"
        )
