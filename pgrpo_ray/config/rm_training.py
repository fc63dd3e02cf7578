"""The config tree of `pgrpo rm train`: pairs (or scores) in, a reward model out."""

from typing import Annotated, Literal

from pydantic import Field

from pgrpo_ray.config.base import ConfigTree, FolderName, Section
from pgrpo_ray.config.sections import STARTER, ClusterSection, LearnerSection, StarterSection
from pgrpo_ray.errors import ConfigError


class OutputSection(Section):
    """Identity and place of the result."""

    name: FolderName = "reward-model"
    """Folder name under `dir`."""
    dir: str = "runs"
    """Where result folders are made. On a cluster the node of rank 0 writes the model there, so it must be shared."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Seeds the fresh head and the order of rows, and the starter's pairs; not the split, which follows content."""
    min_free_mib: int = Field(1024, ge=0)
    """Refuse to start with less free disk under `dir`, MiB."""


class RewardDataSection(Section):
    """What to learn from, what to hold out, what must not be in it."""

    pairs: str | None = None
    """File of preference pairs (docs/reward-model.md), or `starter`: pairs with planted flaws. With objective `score`
    they only measure, and None makes them of held-out reasonings of one problem that were scored differently."""
    starter_pairs: int = Field(9600, ge=16)
    """How many pairs `starter` stands for, those held out included."""
    scores: str | None = None
    """File of {"prompt", "reasoning", "score"} with scores in [0, 1], JSON lines or Parquet; objective `score` only."""
    mixture: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Share of the training rows by `kind`, relative; 0 leaves a kind out of training. Either every kind of the pairs
    is named or none; none: every pair as often as every other. The paper does not say its own."""
    heldout_frac: float = Field(0.1, gt=0, lt=0.9)
    """Share of the problems that is not trained on, in [0, 1]: half of it chooses weights and temperature
    (validation), half only measures (test). By content, so the same problem is held out of every file. Of `pairs:
    starter` it is the share of the pairs that are about the starter's held-out problems."""
    max_heldout_pairs: int = Field(2000, ge=2)
    """Of validation, and of test: pairs beyond are neither trained on nor looked at. Bounds what one look costs."""
    eval_sets: dict[str, Literal["jsonl", "humaneval", "mbpp", "livecodebench", "pairs"]] = Field(default_factory=dict)
    """Files with problems that will be measured on, each with its format (`pairs`: preference pairs)."""
    overlap_words: int = Field(13, ge=2)
    """Length of the runs of words by which overlap with `eval_sets` is found (13: Brown et al. 2020)."""
    overlap_min_frac: float = Field(0.5, gt=0, le=1)
    """A problem counts as overlapping from this share of its runs on, in [0, 1] (ours: set phrases give a few)."""
    max_overlap_frac: float = Field(0.0, ge=0, le=1)
    """Refuse to train when a larger share of an eval set overlaps with the training problems, in [0, 1]."""


class BaseModelSection(Section):
    """The model that is trained."""

    base: str = STARTER
    """`starter` (its proofreader, docs/reward-model.md), a folder in Hugging Face format, or a hub name: a causal
    language model, or a sequence classifier of one label, whose head is then trained on."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights. Scores in bfloat16 have 8 bits: near ones become ties."""
    max_length_tokens: int = Field(2048, ge=16)
    """Longer inputs lose the beginning of the reasoning, tokens."""


class ObjectiveSection(Section):
    """What is minimised; formulas in `algo.preferences`."""

    kind: Literal["bradley_terry", "score"] = "bradley_terry"
    """`score` is the +Score baseline: squared error of sigmoid(raw) on scalar scores."""
    margin: float = Field(0.0, ge=0)
    """The better side shall lead by this, raw-score units; `bradley_terry` only, like the two below."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Probability with which a pair is taken for mislabelled, in [0, 1]."""
    centering: float = Field(0.01, ge=0)
    """Weight of (better + worse)**2, which keeps the level of scores near zero (0.01: as TRL's documentation)."""


class ScheduleSection(Section):
    """How long to train."""

    epochs: float = Field(1.0, gt=0)
    """Times that as many rows are trained on as there are."""
    batch_rows: int = Field(64, ge=1)
    """Pairs (or scored reasonings) per optimizer step, over all ranks."""
    eval_every: int = Field(50, ge=1)
    """Optimizer steps between two looks at the validation pairs; there is always one at the end."""
    patience: int = Field(5, ge=0)
    """Looks without improvement after which training ends; 0: never. The best weights are what is kept."""


class RewardLearnerSection(LearnerSection):
    """DeepSpeed ZeRO-3. After the warm-up the learning rate falls linearly to zero."""

    learning_rate: float = Field(1e-5, gt=0)
    """Peak."""
    warmup_steps: int = Field(10, ge=0)
    """Optimizer steps of linear warm-up."""
    grad_spike_factor: float | None = Field(None, gt=1)
    """As for the policy, but off: once pairs are told apart the usual gradient is tiny, and each hard pair a spike."""


class RewardTrainingConfig(ConfigTree):
    """The whole tree."""

    output: OutputSection = OutputSection()
    data: RewardDataSection = RewardDataSection()
    model: BaseModelSection = BaseModelSection()
    objective: ObjectiveSection = ObjectiveSection()
    schedule: ScheduleSection = ScheduleSection()
    learner: RewardLearnerSection = RewardLearnerSection()
    cluster: ClusterSection = ClusterSection()
    starter: StarterSection = StarterSection()

    @property
    def uses_starter(self) -> bool:
        """True when any artifact of the starter is needed."""
        return STARTER in (self.model.base, self.data.pairs)

    def check(self) -> None:
        """Refuse combinations that cannot work. Raises `ConfigError`; changes nothing."""
        self.learner.check_offload()
        scored = self.objective.kind == "score"
        if scored and self.data.scores is None:
            raise ConfigError(
                "objective.kind=score trains on data.scores, a file of scored reasonings, which is not given.",
                path="data.scores",
            )
        if not scored and self.data.scores is not None:
            raise ConfigError(
                f"data.scores is given, but objective.kind={self.objective.kind} trains on pairs. Set "
                "objective.kind=score, or leave data.scores out.",
                path="data.scores",
            )
        if not scored and self.data.pairs is None:
            raise ConfigError(
                "data.pairs is not given: there is nothing to train on. Name a file, or `starter`.", path="data.pairs"
            )
        if scored and self.data.mixture:
            raise ConfigError(
                "data.mixture weighs kinds of pairs; objective.kind=score trains on no pairs. Leave it out.",
                path="data.mixture",
            )
        if self.data.mixture and not any(self.data.mixture.values()):
            raise ConfigError("data.mixture gives every kind the weight 0. Raise one.", path="data.mixture")
        longest = self.model.max_length_tokens * (1 if scored else 2)
        if self.learner.micro_batch_tokens < longest:
            raise ConfigError(
                f"learner.micro_batch_tokens ({self.learner.micro_batch_tokens}) cannot hold one row of "
                f"{'one sequence' if scored else 'two sequences'} of model.max_length_tokens = "
                f"{self.model.max_length_tokens} tokens. Raise it to {longest} or more.",
                path="learner.micro_batch_tokens",
            )
