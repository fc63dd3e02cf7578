"""The config tree of `pgrpo data prepare`: which published rows become problems to train on, and which do not."""

import datetime

from pydantic import Field

from pgrpo_ray.config.base import ConfigTree, Section
from pgrpo_ray.config.sections import DEFAULT_SYSTEM_PROMPT
from pgrpo_ray.errors import ConfigError


class PreparationSection(Section):
    """What is kept of the rows."""

    max_tests: int = Field(15, ge=1)
    """Cases kept of a problem, those with the longest inputs (15 is what DeepCoder's own trainer runs)."""
    max_tests_kib: int = Field(4096, ge=1)
    """Inputs and expected outputs kept of a problem, KiB together (ours: they travel to a runner for every program)."""
    tokenizer: str | None = None
    """Folder or hub name of the policy's tokenizer, to leave out problems with longer prompts than
    `max_prompt_tokens`. None: lengths are not looked at, and `pgrpo check` refuses the file if one is too long."""
    max_prompt_tokens: int | None = Field(None, ge=1)
    """With the chat template and `system_prompt`, tokens; goes with `tokenizer`."""
    system_prompt: str = DEFAULT_SYSTEM_PROMPT
    """As `data.system_prompt` of the run, for the count of tokens."""
    from_date: str | None = Field(None, pattern=r"^\d{4}-\d\d-\d\d$")
    """First day of a LiveCodeBench problem's contest, YYYY-MM-DD. Problems of other sets have no window."""
    to_date: str | None = Field(None, pattern=r"^\d{4}-\d\d-\d\d$")
    """Last day of it, YYYY-MM-DD, included."""
    overlap_words: int = Field(13, ge=2)
    """Length of the runs of words by which overlap with `--exclude` is found (13: Brown et al. 2020)."""
    overlap_min_frac: float = Field(0.5, gt=0, le=1)
    """A problem of an excluded set counts as overlapping from this share of its runs on, in [0, 1]."""
    min_free_mib: int = Field(1024, ge=0)
    """Refuse to start with less free disk, MiB."""


class PreparationConfig(ConfigTree):
    """The whole tree."""

    prepare: PreparationSection = PreparationSection()

    def check(self) -> None:
        """Refuse combinations that cannot work. Raises `ConfigError`; changes nothing."""
        section = self.prepare
        for key in ("from_date", "to_date"):
            value = getattr(section, key)
            try:
                datetime.date.fromisoformat(value or "2000-01-01")
            except ValueError as error:
                raise ConfigError(
                    f"prepare.{key} is {value!r}, no date. Write YYYY-MM-DD.", f"prepare.{key}"
                ) from error
        if section.from_date and section.to_date and section.from_date > section.to_date:
            raise ConfigError(
                f"prepare.from_date ({section.from_date}) is after prepare.to_date ({section.to_date}): nothing would "
                "be kept. Swap them.",
                path="prepare.from_date",
            )
        if (section.tokenizer is None) != (section.max_prompt_tokens is None):
            raise ConfigError(
                "prepare.tokenizer and prepare.max_prompt_tokens go together: one without the other says nothing. Give "
                "both or none.",
                path="prepare.tokenizer",
            )
