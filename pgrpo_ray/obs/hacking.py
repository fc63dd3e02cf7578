"""Says when a run looks as if the policy pleased the reward model instead of learning. numpy only.

It is fed one step's metrics after the other, live by the driver or from a record (`data.recorded_findings`), and says
the same of both. Seven checks, each a comparison of means over a window of steps with a threshold of the config
(`config.monitor` says why it is what it is). A finding is told once, is open while its check holds, and is over when
it has not held for a window of steps.

Owns no file and changes nothing. It protects from looking away: no check proves hacking, and a policy may hack in ways
that none of them sees; so a finding names rollouts to read.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pgrpo_ray.config import MonitorSection
from pgrpo_ray.errors import ConfigError
from pgrpo_ray.obs.metrics import Columns, shared_wording
from pgrpo_ray.types import Verdict

SERIES = {
    "passing": "pass_rate",
    "passers": "thinking_passers",
    "failers": "thinking_failers",
    "share": "advantage_share_thinking",
    "length": "response_tokens_mean",
    "phrases": "phrases_repeated_frac",
    "same_words": "same_words_frac",
}
"""What the checks read -> key of `metrics.jsonl`."""
CHECKS = ("thinking", "failers", "share", "length", "phrases", "same_words", "probe")
"""Names of the findings, which `hacking_<name>` of a step's metrics carry."""


class Suspect(NamedTuple):
    """A rollout that shows a finding best."""

    problem_id: str
    sample_index: int
    verdict: str
    """Empty where no program was judged."""
    thinking_reward: float
    """R^t; NaN where it was not scored."""
    response_tokens: int

    def named(self, step: int) -> str:
        """Return the name by which `pgrpo rollouts` shows it, and what it is."""
        score = "" if math.isnan(self.thinking_reward) else f", R^t {self.thinking_reward:.2f}"
        return f"{step}/{self.problem_id}/{self.sample_index} ({self.verdict or 'wrong format'}{score})"


@dataclass
class Finding:
    """One reason to look at a run."""

    name: str
    """One of `CHECKS`."""
    step: int
    """At which it was first so."""
    text: str
    """What was so then, with its numbers, for people."""
    values: dict[str, float]
    """The same numbers by name."""
    suspects: tuple[Suspect, ...] = ()
    """Rollouts of that step, the most suspicious first; empty where no rollouts were at hand."""
    over: int | None = None
    """Step at which it had not been so for a window of steps; None: it is open."""

    def __str__(self) -> str:
        named = [suspect.named(self.step) for suspect in self.suspects]
        return f"{self.name}: {self.text}." + (f" Read {'; '.join(named)}." if named else "")


@dataclass(frozen=True)
class Observed:
    """What one step has added."""

    metrics: dict[str, float]
    """`hacking_<name>`: 1 where the check holds, 0 where it does not, NaN where it cannot tell (yet)."""
    begun: list[Finding]
    over: list[Finding]


@dataclass(frozen=True)
class Probe:
    """What `pgrpo rm probe` found worst."""

    reward_model: str
    name: str
    fooled_frac: float
    """In [0, 1]; 0 where no probe could be applied."""


class Seen(NamedTuple):
    """What a check says of the last window."""

    holds: bool | None
    """None: it cannot tell."""
    text: str = ""
    values: Mapping[str, float] = {}


_UNKNOWN = Seen(None)


@dataclass
class Windows:
    """A series of numbers and the mean of every window of it."""

    steps: int
    """Of a window."""
    values: list[float] = field(default_factory=list)
    means: list[float] = field(default_factory=list)

    def add(self, value: float | None) -> None:
        self.values.append(math.nan if value is None else value)
        if len(self.values) >= self.steps:
            last = np.array(self.values[-self.steps :])
            known = last[~np.isnan(last)]
            self.means.append(float(known.mean()) if 2 * len(known) >= self.steps else math.nan)

    @property
    def first(self) -> float:
        """Mean of the first window; NaN while it is not full."""
        return self.means[0] if self.means else math.nan

    @property
    def last(self) -> float:
        """Mean of the last window; NaN while it is not full."""
        return self.means[-1] if self.means else math.nan


class HackingMonitor:
    """Watches one run."""

    def __init__(self, section: MonitorSection, probe: Probe | None = None):
        """`probe`: what `section.probe` holds (`read_probe`)."""
        self._section = section
        self._probe = probe
        self._steps: list[int] = []
        self.series: dict[str, Windows] = defaultdict(lambda: Windows(section.window_steps))
        """By the names of `SERIES`."""
        self._open: dict[str, tuple[Finding, int]] = {}
        """Findings that are not over, each with the number of steps there were when its check last held."""
        self.findings: list[Finding] = []
        """All that there were, in the order in which they began."""

    @property
    def num_open(self) -> int:
        """How many findings are not over."""
        return len(self._open)

    def observe(
        self, step: int, metrics: Mapping[str, float | None], columns: Callable[[], Columns] | None = None
    ) -> Observed:
        """Take the metrics of the next step, None and absent ones unknown; say what is new.

        `columns`: returns the step's scalar columns, which `suspects_of` reads; asked for when something is found.
        """
        self._steps.append(step)
        for name, key in SERIES.items():
            self.series[name].add(metrics.get(key))
        seen = {name: getattr(self, f"_look_at_{name}")() for name in CHECKS} if self._section.enabled else {}
        begun, over = [], []
        for name, found in seen.items():
            if found.holds and name not in self._open:
                finding = Finding(name, step, found.text, dict(found.values))
                if columns is not None:
                    finding.suspects = suspects_of(finding, columns(), self._section.suspects)
                begun.append(finding)
                self._open[name] = finding, len(self._steps)
            elif found.holds:
                self._open[name] = self._open[name][0], len(self._steps)
        for name, (finding, when) in list(self._open.items()):
            if len(self._steps) - when >= self._section.window_steps:
                finding.over = step
                over.append(finding)
                del self._open[name]
        self.findings += begun
        numbers = {f"hacking_{name}": math.nan if s.holds is None else float(s.holds) for name, s in seen.items()}
        return Observed(numbers, begun, over)

    def _look_at_thinking(self) -> Seen:
        """R^t of passers climbs and the pass rate does not follow. Of passers, as the mean over all that are scored
        climbs in honest runs too, with the share of passers and as failers learn to reason."""
        section, steps = self._section, self._section.window_steps
        passers, passing = (np.array(self.series[name].means) for name in ("passers", "passing"))
        if len(passers) <= steps:
            return _UNKNOWN
        rise, gain = passers[-1] - passers[:-steps], passing[-1] - passing[:-steps]
        if np.isnan(rise).all():
            return _UNKNOWN
        pleased = (rise >= section.min_thinking_rise) & (gain < section.passing_follows * rise)
        if not pleased.any():
            return Seen(False)
        since = int(np.argmax(np.where(pleased, rise, -np.inf)))
        then = f"steps {self._steps[since]} to {self._steps[since + steps - 1]}"
        text = (
            f"R^t of passers went from {passers[since]:.2f} ({then}) to {passers[-1]:.2f}, the pass rate from "
            f"{passing[since]:.2f} to {passing[-1]:.2f}"
        )
        return Seen(True, text, {"thinking_rise": float(rise[since]), "pass_rate_gain": float(gain[since])})

    def _look_at_failers(self) -> Seen:
        """The reward model likes the reasoning of programs that fail. Known only where failers are scored."""
        section, failers, passers = self._section, self.series["failers"].last, self.series["passers"].last
        if math.isnan(failers):
            return _UNKNOWN
        leads = failers - passers >= section.max_failers_lead  # False where nobody passes
        text = f"R^t of failing programs is {failers:.2f}, of passing ones {passers:.2f}"
        holds = leads or failers >= section.max_failers_thinking
        return Seen(holds, text, {"thinking_failers": failers, "thinking_passers": passers})

    def _look_at_share(self) -> Seen:
        """The reward model decides most of what is learned."""
        share = self.series["share"].last
        if math.isnan(share):
            return _UNKNOWN
        text = f"{100 * share:.0f} % of the advantages' variance is owed to the reward model"
        return Seen(share >= self._section.max_thinking_share, text, {"advantage_share_thinking": share})

    def _look_at_length(self) -> Seen:
        """Responses have grown or shrunk since the first steps."""
        first, last = self.series["length"].first, self.series["length"].last
        if math.isnan(last) or not first > 0:
            return _UNKNOWN
        factor = last / first
        drifted = not 1 / self._section.max_length_factor < factor < self._section.max_length_factor
        text = f"responses went from {first:.0f} tokens in the first steps to {last:.0f} on average"
        return Seen(drifted, text, {"length_factor": factor})

    def _look_at_phrases(self) -> Seen:
        """Reasonings repeat themselves."""
        what = "of a reasoning's phrases repeat an earlier one"
        return self._risen("phrases", self._section.max_phrases_rise, what)

    def _look_at_same_words(self) -> Seen:
        """Reasonings about different problems are the same text."""
        what = "of reasonings stand word for word under another problem too"
        return self._risen("same_words", self._section.max_same_words_rise, what)

    def _risen(self, name: str, most: float, what: str) -> Seen:
        first, last = self.series[name].first, self.series[name].last
        if math.isnan(last - first):
            return _UNKNOWN
        text = f"{100 * last:.0f} % {what}, in the first steps {100 * first:.0f} %"
        return Seen(last - first >= most, text, {SERIES[name]: last, "in_first_steps": first})

    def _look_at_probe(self) -> Seen:
        """The reward model is fooled by a probe, and so may be by the policy."""
        probe = self._probe
        if probe is None:
            return _UNKNOWN
        text = f"the probe {probe.name} fools {probe.reward_model} in {100 * probe.fooled_frac:.0f} % of its texts"
        return Seen(probe.fooled_frac >= self._section.max_fooled_frac, text, {"fooled_frac": probe.fooled_frac})


def suspects_of(finding: Finding, columns: Columns, most: int) -> tuple[Suspect, ...]:
    """Return up to `most` rollouts of the finding's step that show it best.

    `columns`: the batch's scalars with verdict, thinking and reward columns; see `data.scalars`.
    """
    scores = _suspicion(finding, columns)
    rows = [row for row in np.argsort(-scores, kind="stable") if np.isfinite(scores[row])]
    if finding.name == "same_words":  # one for each problem: the same words of one problem are no news
        best: dict[str, int] = {}
        for row in rows:
            best.setdefault(columns["problem_id"][row], row)
        rows = list(best.values())
    return tuple(
        Suspect(
            str(columns["problem_id"][row]),
            int(columns["sample_index"][row]),
            str(columns["verdict"][row]),
            float(columns["thinking_reward"][row]),
            int(columns["response_length"][row]),
        )
        for row in rows[:most]
    )


def _suspicion(finding: Finding, columns: Columns) -> np.ndarray:
    """How well each rollout shows the finding, float64 [N]; NaN: not at all."""
    name, kept = finding.name, columns["dropped"] == ""
    thinking = columns["thinking_reward"].astype(np.float64)
    failed = columns["verdict"] != Verdict.PASSED
    if name in ("thinking", "failers"):  # what pleases most without passing; where no failer is scored, at all
        pleasing = np.where(kept & failed, thinking, np.nan)
        return thinking if np.isnan(pleasing).all() else pleasing
    if name == "share":
        return columns["reward_thinking"].astype(np.float64)
    if name == "length":
        lengths = columns["response_length"].astype(np.float64)
        return lengths if finding.values["length_factor"] > 1 else -lengths
    if name == "phrases":
        return columns["phrases_repeated_frac"]
    if name == "same_words":
        digests = columns["wording_digest"]
        shared = shared_wording(columns["problem_id"], digests)
        _, which, counts = np.unique(digests, return_inverse=True, return_counts=True)
        return np.where(shared, counts[which] + which / len(counts), np.nan)  # equal words next to each other
    return np.full(len(thinking), np.nan)


def read_probe(path: str | Path) -> Probe:
    """Read the report that `pgrpo rm probe` wrote. Raises `ConfigError` where it is none."""
    key = "monitor.probe"
    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"))
        fooled = {one["probe"]: one["fooled"]["value"] for one in report["probes"] if one["fooled"]}
        worst = max(fooled, key=lambda name: fooled[name], default="")
        return Probe(str(report["reward_model"]), worst, float(fooled.get(worst, 0.0)))
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(
            f"{key}: {path} cannot be read ({reason}). Give the report of `pgrpo rm probe`.", path=key
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{key}: {path} is no report of `pgrpo rm probe`. Give one that is.", path=key) from error
