"""The config tree of `pgrpo rm pairs`: which problems, which generator, which prompts, which filters."""

from typing import Literal

from pydantic import Field

from pgrpo_ray.config.base import ConfigTree, Section
from pgrpo_ray.config.chat import ChatSection
from pgrpo_ray.config.sections import STARTER, StarterSection
from pgrpo_ray.errors import ConfigError


class PairsSection(Section):
    """What is made, and where it goes."""

    source: Literal["od", "starter"] = "od"
    """`od`: a language model optimises and degrades; `starter`: the starter's program plants flaws, without a model."""
    out: str = "runs/pairs/pairs.parquet"
    """Parquet file to write; reports and side files stand beside it."""
    work: str | None = None
    """Folder of the answers so far, from which a stopped job goes on. None: `out` with `.work` appended."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Every request's seed follows from it and from what is asked."""
    max_problems: int | None = Field(None, ge=1)
    """Only the first so many problems; may be raised later, and the job goes on. None: all."""
    dimensions: Literal["each", "all"] = "each"
    """`each`: an optimised and a degraded version per dimension; `all`: one of each for all dimensions at once."""
    prompts: str = "v1"
    """A version that ships with the project, or a folder of one's own prompts."""
    temperature: float = Field(0.7, ge=0)
    """Of the generator (ours; the paper does not say)."""
    max_tokens: int = Field(4096, ge=16)
    """Longest answer, tokens; a reasoning that is cut is a failure, not a pair."""
    starter_pairs: int = Field(6000, ge=1)
    """How many pairs source `starter` makes, before filters."""
    min_free_mib: int = Field(256, ge=0)
    """Refuse to start with less free disk, MiB."""


class ProblemsSection(Section):
    """The problems that are reasoned about."""

    file: str = STARTER
    """`starter`, or a file in `format`."""
    format: Literal["jsonl", "humaneval", "mbpp", "livecodebench"] = "jsonl"
    """Of `file`."""


class FiltersSection(Section):
    """Which pairs are left out because a shortcut would tell their sides apart. All bounds are ours."""

    max_length_ratio: float = Field(1.5, ge=1)
    """Longer side over shorter side, in characters."""
    normalise_format: bool = True
    """Take headings, bullets, numbering, emphasis and spacing off both sides, so that they look alike."""
    max_side_similarity: float = Field(0.99, gt=0, le=1)
    """Between the two sides, in [0, 1]: above it, next to nothing distinguishes them."""
    max_pair_similarity: float = Field(0.9, gt=0, le=1)
    """Between a pair and an earlier one, in [0, 1]: above it, the later one is left out."""
    max_code_lines: int = Field(3, ge=0)
    """Lines of code in a row that a reasoning may hold; a code fence is always too much."""


class PairsConfig(ConfigTree):
    """The whole tree."""

    pairs: PairsSection = PairsSection()
    problems: ProblemsSection = ProblemsSection()
    chat: ChatSection = ChatSection()
    filters: FiltersSection = FiltersSection()
    starter: StarterSection = StarterSection()

    def check(self) -> None:
        """Refuse combinations that cannot work. Raises `ConfigError`; changes nothing."""
        section = self.pairs
        if not section.out.endswith(".parquet"):
            raise ConfigError(
                f"pairs.out is {section.out!r}: pairs are written as Parquet. Let the name end in .parquet.",
                path="pairs.out",
            )
        if section.source == "starter":
            if self.problems.file != STARTER:
                raise ConfigError(
                    f"pairs.source=starter plants flaws in the starter's own exercises, and problems.file is "
                    f"{self.problems.file!r}. Set pairs.source=od to have a model reason about your problems.",
                    path="pairs.source",
                )
            return
        self.chat.check("chat")
        if self.chat.backend == "vllm" and section.max_tokens >= self.chat.max_model_tokens:
            raise ConfigError(
                f"pairs.max_tokens ({section.max_tokens}) leaves no room for a prompt in chat.max_model_tokens "
                f"({self.chat.max_model_tokens}). Lower the one or raise the other.",
                path="pairs.max_tokens",
            )
