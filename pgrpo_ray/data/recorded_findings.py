"""What the hacking monitor says of a recorded run: the same as it said live, whatever thresholds it is asked with."""

from functools import partial

from pgrpo_ray.config import MonitorSection
from pgrpo_ray.data.arrow import list_lengths
from pgrpo_ray.data.recorded_run import RecordedRun
from pgrpo_ray.data.scalars import Columns, to_columns
from pgrpo_ray.data.wording import wording
from pgrpo_ray.obs.hacking import Finding, HackingMonitor, read_probe

_SCALARS = ("problem_id", "sample_index", "verdict", "thinking_reward", "reward_thinking", "dropped")


def findings_of(run: RecordedRun, section: MonitorSection | None = None) -> list[Finding]:
    """Return all findings of a run in the order in which they began, each with rollouts of its step to read.

    `section`: the thresholds; None: the defaults of today, as a record may be older than the monitor or have had it
    off. A record that is older than `phrases_repeated_frac` and `same_words_frac` has no findings of these.
    Raises `DataError` for a damaged record, `ConfigError` for a `section.probe` that cannot be read.
    """
    section = section or MonitorSection()
    monitor = HackingMonitor(section, read_probe(section.probe) if section.probe else None)
    for metrics in run.metrics:
        step = metrics["step"]
        monitor.observe(step, metrics, partial(_columns, run, step) if step in run.steps else None)
    return monitor.findings


def _columns(run: RecordedRun, step: int) -> Columns:
    """The columns that suspects are found by."""
    table = run.rollouts(step, [*_SCALARS, "response_ids", "thinking"])
    lengths = {"response_length": list_lengths(table["response_ids"])}
    return to_columns(table.select(list(_SCALARS))) | lengths | wording(table["thinking"].to_pylist())
