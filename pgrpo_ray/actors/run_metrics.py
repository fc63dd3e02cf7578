"""What the driver tells Ray's metrics of a run, after every step; `docs/metrics.md` lists the names.

Ray exports them at the metrics port of the driver's node, beside what the execution pools tell (`pool_metrics`).
"""

import math
from collections.abc import Mapping

from ray.util.metrics import Gauge

_TAGS = ("run",)


class RunMetrics:
    """Gauges of one run. Needs a Ray that is up."""

    def __init__(self, run: str):
        """`run`: `run.name`, which every number carries as a tag."""
        self._tags = {"run": run}
        self._gauges = {
            "step": Gauge("pgrpo_run_step", "Steps taken.", _TAGS),
            "pass_rate": Gauge("pgrpo_run_pass_rate", "Share that passed all tests.", _TAGS),
            "reward": Gauge("pgrpo_run_reward", "Mean reward.", _TAGS),
            "thinking_passers": Gauge("pgrpo_run_thinking_passers", "Mean R^t of passers.", _TAGS),
            "tokens_per_s": Gauge("pgrpo_run_tokens_per_s", "Response tokens per second of the step.", _TAGS),
            "staleness_max": Gauge("pgrpo_run_staleness", "Age of the oldest tokens, optimizer steps.", _TAGS),
            "step_s": Gauge("pgrpo_run_step_seconds", "Of the last step.", _TAGS),
        }
        self._findings = Gauge("pgrpo_run_hacking_findings", "Signs of reward hacking that are there.", _TAGS)
        self._busy = Gauge("pgrpo_run_busy_seconds", "How long of the last step a stage had work.", ("run", "stage"))

    def step(self, step: int, metrics: Mapping[str, float], num_findings: int) -> None:
        """Tell a step's numbers; one that is unknown stays what it was. `num_findings` are open."""
        for key, gauge in self._gauges.items():
            value = float(step if key == "step" else metrics[key])
            if math.isfinite(value):
                gauge.set(value, self._tags)
        self._findings.set(num_findings, self._tags)
        for key, seconds in metrics.items():
            if key.startswith("busy_"):
                stage = key.removeprefix("busy_").removesuffix("_s")
                self._busy.set(seconds, self._tags | {"stage": stage})
