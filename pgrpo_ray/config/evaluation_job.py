"""The config tree of `pgrpo eval`. Its options set the same keys, and win over the file."""

import re
from pathlib import Path
from typing import Literal

from pydantic import Field

from pgrpo_ray.config.base import ConfigTree, Section
from pgrpo_ray.config.sections import (
    STARTER,
    ClusterSection,
    PolicySection,
    RolloutSection,
    SandboxSection,
    StarterSection,
)
from pgrpo_ray.errors import ConfigError

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
OWN_FORMAT = "jsonl"
"""The benchmark that is a file of problems in our own format."""


class BenchmarkSection(Section):
    """Which problems are solved."""

    name: str | None = None
    """humaneval, humaneval_plus, mbpp, mbpp_plus, livecodebench, bigcodebench, math500, minerva, aime24, gsm8k, or
    jsonl (our own format). None: jsonl, and only where `data` is `starter`."""
    data: list[str] = Field(default_factory=list)
    """Files, a folder (with `release`), one hub id, or `starter`: its held-out problems."""
    release: Literal["", "v1", "v2", "v3", "v4", "v5", "v6"] = ""
    """LiveCodeBench: the files of this release in a folder. On the hub, empty means v1."""
    first_day: str = ""
    """Only problems published on this ISO day or later. Empty: all."""
    last_day: str = ""
    """Only problems published on this ISO day or earlier. Empty: all."""
    limit: int | None = Field(None, ge=1)
    """Take the first so many of them. None: all."""
    subset: str = ""
    """Of a hub set, such as `main` of GSM8K."""
    split: str = ""
    """Of a hub set. Empty: where the benchmark's own set has its problems, `test` for others."""
    variant: Literal["instruct", "complete"] = "instruct"
    """Which of BigCodeBench's two prompts."""
    skip_missing_libs: bool = False
    """Leave out the problems whose libraries the sandbox lacks; without it they are named, and nothing starts."""


class PromptSection(Section):
    """How problems are shown, and what of a response is judged."""

    template: str | None = None
    """Prompt file. None: the benchmark's own (docs/evaluation.md)."""
    answers: Literal["tags", "fenced"] = "tags"
    """`tags`: what stands in `<answer>`, as in training. `fenced`: where there are no tags, the last fenced block, and
    for maths the whole response; its default prompts ask for that."""


class SampledSection(RolloutSection):
    """Sampling, as in training but for these."""

    prompts_per_step: int = Field(32, ge=1)
    """Problems between two writes: what a killed evaluation may lose."""
    group_size: int = Field(1, ge=1)
    """n: samples per problem."""
    temperature: float = Field(0.0, ge=0)
    """0: the most likely token each time; then n is 1."""
    max_response_tokens: int | None = Field(None, ge=1)  # type: ignore[assignment]
    """Longer responses are cut, tokens. None: 4096, or what the model's positions leave beside the longest prompt."""


class EvaluationJobSection(Section):
    """What is reported, and where it goes."""

    out: str | None = None
    """Folder of the result. None: evaluations/<model>/<benchmark>."""
    k: list[int] = Field(default_factory=lambda: [1])
    """pass@k for these k."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Seeds sampling and bootstrap."""
    solutions: Literal["", "reference", "corrupted"] = ""
    """Judge the benchmark's own solutions, or these made wrong, instead of sampling: should give 100 % and 0 %."""
    min_free_mib: int = Field(512, ge=0)
    """Refuse to start with less free disk, MiB."""


class EvaluationConfig(ConfigTree):
    """The whole tree."""

    benchmark: BenchmarkSection = BenchmarkSection()
    prompt: PromptSection = PromptSection()
    evaluation: EvaluationJobSection = EvaluationJobSection()
    policy: PolicySection = PolicySection()
    rollout: SampledSection = SampledSection()
    sandbox: SandboxSection = SandboxSection()
    cluster: ClusterSection = ClusterSection()
    starter: StarterSection = StarterSection()

    @property
    def benchmark_name(self) -> str:
        """The benchmark's name, resolved."""
        return self.benchmark.name or OWN_FORMAT

    @property
    def samples(self) -> bool:
        """True when a model is sampled, False when solutions are judged."""
        return not self.evaluation.solutions

    @property
    def uses_starter_data(self) -> bool:
        """True when the problems are the starter's."""
        return self.benchmark.data == [STARTER]

    @property
    def uses_starter(self) -> bool:
        """True when any artifact of the starter is needed."""
        return self.uses_starter_data or (self.samples and self.policy.model == STARTER)

    @property
    def folder(self) -> Path:
        """Where the result goes."""
        if self.evaluation.out is not None:
            return Path(self.evaluation.out)
        who = re.sub(r"[^A-Za-z0-9._-]+", "-", self.policy.model).strip("-.") or "model"
        return (
            Path("evaluations")
            / (who if self.samples else f"{self.evaluation.solutions}-solutions")
            / (self.benchmark_name)
        )

    def check(self) -> None:
        """Refuse combinations that cannot work. Raises `ConfigError`; changes nothing."""
        self._check_benchmark()
        n, temperature = self.rollout.group_size, self.rollout.temperature
        if self.samples and temperature == 0 and n > 1:
            raise ConfigError(
                f"rollout.group_size is {n} and rollout.temperature 0: {n} samples of a problem would be one and the "
                "same. Give --temperature, such as 0.8, or --n 1.",
                path="rollout.temperature",
            )
        most = n if self.samples else 1
        for k in self.evaluation.k:
            if not 1 <= k <= most:
                raise ConfigError(
                    f"evaluation.k holds {k}: pass@{k} needs 1 <= k <= {most}, the samples per problem. Raise --n or "
                    "lower --k.",
                    path="evaluation.k",
                )
        self.sandbox.check_deadline(self.cluster, "the evaluation")
        self.sandbox.check_isolation(self.cluster)

    def _check_benchmark(self) -> None:
        section = self.benchmark
        if not section.data:
            raise ConfigError(
                "benchmark.data is empty. Give --data FILE, a hub id, or `starter`.", path="benchmark.data"
            )
        if STARTER in section.data and (len(section.data) > 1 or self.benchmark_name != OWN_FORMAT):
            raise ConfigError(
                f"benchmark.data names `starter`, which stands alone and is of benchmark {OWN_FORMAT}. Leave out "
                "--benchmark, or give a file.",
                path="benchmark.data",
            )
        if section.name is None and not self.uses_starter_data:
            raise ConfigError(
                "benchmark.name is missing. Give --benchmark, such as humaneval; `pgrpo eval --help` lists them.",
                path="benchmark.name",
            )
        for key in ("first_day", "last_day"):
            day = getattr(section, key)
            if day and not _DAY.fullmatch(day):
                raise ConfigError(f"benchmark.{key} is {day!r}. Write a day as 2024-08-01.", path=f"benchmark.{key}")
        if section.release and section.name != "livecodebench":
            raise ConfigError(
                "benchmark.release is LiveCodeBench's alone. Leave out --release.", path="benchmark.release"
            )
