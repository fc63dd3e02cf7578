"""The config trees of `pgrpo lcb-rb build`, `pgrpo lcb-rb score` and `pgrpo rm probe`."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from pgrpo_ray.config.base import ConfigTree, FolderName, Section
from pgrpo_ray.config.chat import ChatSection
from pgrpo_ray.config.sections import (
    DEFAULT_SYSTEM_PROMPT,
    STARTER,
    ClusterSection,
    PolicySection,
    RolloutSection,
    SandboxSection,
    StarterSection,
)
from pgrpo_ray.errors import ConfigError


class LcbRbSection(Section):
    """Identity and place of a build."""

    name: FolderName = "local"
    """Folder name under `dir`."""
    dir: str = "lcb-rb"
    """Where build folders are made."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Seeds sampling and the choice of pairs."""
    min_free_mib: int = Field(512, ge=0)
    """Refuse to start with less free disk under `dir`, MiB."""


class ProblemsSection(Section):
    """The problems that the benchmark is about."""

    file: str = STARTER
    """`starter`, or a file of problems in `format`."""
    format: Literal["jsonl", "humaneval", "mbpp", "livecodebench"] = "jsonl"
    """Of `file`."""
    starter_split: Literal["heldout", "train"] = "heldout"
    """Which of the starter's problems."""
    max_problems: int | None = Field(None, ge=1)
    """Take the first so many. None: all."""
    system_prompt: str = DEFAULT_SYSTEM_PROMPT
    """Told to the policy before each problem, through its chat template. Empty: none."""
    max_prompt_tokens: int = Field(1024, ge=1)
    """Longer prompts are an error before anything starts, tokens."""


class SamplesSection(Section):
    """Samples that are there already. Without files, `policy` is sampled as `rollout` says."""

    files: list[str] = Field(default_factory=list)
    """Arrow files of a run (`runs/<name>/evaluations/*.arrow`, `rollouts/*.arrow`); patterns are allowed."""
    policy: str | None = None
    """What provenance calls the model that wrote them. None: the run's name, as the files say it."""


class JudgeSection(Section):
    """Who decides whether reasoning is sound."""

    kind: Literal["none", "starter", "llm"] = "none"
    """`none`: the execution outcome alone; `starter`: a programmatic judge, for the starter's own problems; `llm`: a
    language model, asked in both presentation orders."""
    chat: ChatSection = ChatSection()
    """The language model of `llm`."""
    prompt: str | None = None
    """File with the prompt that asks for soundness. None: the project's own."""
    preference_prompt: str | None = None
    """File with the prompt that asks which side is better, for scoring. None: the project's own."""
    temperature: float = Field(0.0, ge=0)
    """Of the judge. 0: its most likely answer."""
    max_tokens: int = Field(2048, ge=1)
    """Of one answer; a cut answer has no verdict line and counts as unparsed."""

    @property
    def needs_starter(self) -> bool:
        """True when the starter's policy is the judge: plumbing, for its answers cannot be read."""
        return self.kind == "llm" and self.chat.backend == "vllm" and self.chat.model == STARTER

    def with_starter(self, policy: str | Path, version: str) -> "JudgeSection":
        """Return this section with `policy`, the starter's folder, where it names the starter; else itself.

        `version` tells it from other starters: without it in the name, kept answers of another one would be taken.
        """
        if not self.needs_starter:
            return self
        chat = self.chat.model_copy(update={"model": str(policy), "name": self.chat.name or f"starter-{version}"})
        return self.model_copy(update={"chat": chat})


class SelectionSection(Section):
    """Which candidates are judged, and which of the accepted ones make the benchmark."""

    difficulty_from: Literal["metadata", "pass_rate"] = "metadata"
    """`metadata`: the problem set's own word `difficulty`, or the pass rate where no problem has one; `pass_rate`: the
    share of the problem's samples that pass, in thirds."""
    max_candidates_per_problem: int = Field(8, ge=1)
    """Judged at most; bounds what an LLM judge costs."""
    max_pairs_per_problem: int = Field(2, ge=1)
    """Pairs that one problem may give."""
    num_pairs: int | None = Field(None, ge=1)
    """Of the benchmark, even over difficulty buckets as far as there is material. None: all, whatever the buckets."""
    max_length_ratio: float | None = Field(None, ge=1)
    """Longer side over shorter side, characters; candidates beyond are left out. None: any."""
    balance_length: bool = False
    """As many pairs with the longer side chosen as with the shorter one: then length alone says nothing."""


class ContaminationSection(Section):
    """What the benchmark's problems are compared with, word for word and by runs of words."""

    training_pairs: list[str] = Field(default_factory=list)
    """Files of preference pairs that reward models were trained on."""
    problems: list[str] = Field(default_factory=list)
    """Files of problems, such as the policy's training set, in `problems_format`."""
    problems_format: Literal["jsonl", "humaneval", "mbpp", "livecodebench"] = "jsonl"
    """Of the files of problems."""
    ngram_words: int = Field(13, ge=1)
    """Length of a run of words."""
    min_shared_frac: float = Field(0.5, gt=0, le=1)
    """Share of a problem's runs that must occur elsewhere for it to count as overlapping."""


class LcbRbConfig(ConfigTree):
    """The tree of `pgrpo lcb-rb build`."""

    lcb_rb: LcbRbSection = LcbRbSection()
    problems: ProblemsSection = ProblemsSection()
    samples: SamplesSection = SamplesSection()
    policy: PolicySection = PolicySection()
    rollout: RolloutSection = RolloutSection()
    """As in training: `group_size` is the number of samples per problem, `prompts_per_step` how many problems are
    sampled between two writes."""
    sandbox: SandboxSection = SandboxSection()
    cluster: ClusterSection = ClusterSection()
    judge: JudgeSection = JudgeSection()
    selection: SelectionSection = SelectionSection()
    contamination: ContaminationSection = ContaminationSection()
    starter: StarterSection = StarterSection()

    @property
    def folder(self) -> Path:
        """Where the build lies."""
        return Path(self.lcb_rb.dir) / self.lcb_rb.name

    @property
    def samples_itself(self) -> bool:
        """True when the policy is to be sampled, False when samples are read from files."""
        return not self.samples.files

    @property
    def uses_starter(self) -> bool:
        """True when any artifact of the starter is needed."""
        sampled = self.samples_itself and self.policy.model == STARTER
        return self.problems.file == STARTER or sampled or self.judge.needs_starter

    def check(self) -> None:
        """Refuse combinations that cannot work. Raises `ConfigError`; changes nothing."""
        if self.samples_itself and self.rollout.group_size < 2:
            raise ConfigError(
                f"rollout.group_size is {self.rollout.group_size}: a pair needs a passing and a failing sample of one "
                "problem. Set it to 2 or more (the paper: 50).",
                path="rollout.group_size",
            )
        self.sandbox.check_isolation(self.cluster)
        self.sandbox.check_deadline(self.cluster, "the build")
        if self.judge.kind == "llm":
            self.judge.chat.check("judge.chat")


class ScoringSection(Section):
    """How a reward model is asked."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the reward model's weights."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the reward model is run."""
    batch_size: int = Field(16, ge=1)
    """Reasonings per forward pass, sorted by length."""
    max_length_tokens: int = Field(2048, ge=16)
    """Longer inputs lose the beginning of the reasoning, tokens."""
    threads: int = Field(2, ge=1)
    """CPU threads."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Of the bootstrap, and of a language model that judges."""


class ScoreConfig(ConfigTree):
    """The tree of `pgrpo lcb-rb score`, made of its options."""

    scoring: ScoringSection = ScoringSection()
    starter: StarterSection = StarterSection()


class ProbeSection(Section):
    """What is probed."""

    max_reasonings: int = Field(500, ge=1)
    """Honest reasonings that the probes start from, at most; chosen by the seed."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Of the choice of reasonings and of the probes."""


class ProbeConfig(ConfigTree):
    """The tree of `pgrpo rm probe`, made of its options."""

    probe: ProbeSection = ProbeSection()
    scoring: ScoringSection = ScoringSection()
    starter: StarterSection = StarterSection()
