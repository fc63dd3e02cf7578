"""Prompt files of benchmarks, and what of a response is judged.

A prompt file has one part or two, each under a line `[system]` or `[user]`. The system part is taken as it stands; the
user part is a Jinja template of `prompt` (the problem's statement), `id` and `entry_point`. The defaults lie in
`templates/` beside this file; a hash of the text goes into every result.
"""

import hashlib
import re
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import jinja2

from pgrpo_ray.data.response import parse, strip_fence
from pgrpo_ray.errors import ConfigError
from pgrpo_ray.types import Problem, TestStyle

TEMPLATES = Path(__file__).parent / "templates"
_PART = re.compile(r"^\[(system|user)\][ \t]*\n", re.MULTILINE)
_PROBE = "the problem's statement, to see that it is there"
_FENCE = re.compile(r"^(`{3,})([\w+.#-]*)[ \t]*$", re.MULTILINE)
"""A line that begins a fenced block, or ends one where it names no language."""
_SAMPLE = {"prompt": _PROBE, "id": "x", "entry_point": "f"}


@dataclass(frozen=True, slots=True)
class PromptFile:
    """A prompt file, read."""

    name: str
    """File name, for people."""
    text: str

    @property
    def hash(self) -> str:
        """12 hex digits of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:12]

    @property
    def system(self) -> str:
        """What the system says; empty: nothing."""
        return self._parts().get("system", "").strip()

    def render(self, problem: Problem) -> str:
        """Return what the user says about `problem`; the default files give its prompt to the letter, as training."""
        return self._render({"prompt": problem.prompt, "id": problem.id, "entry_point": problem.entry_point or ""})

    def _parts(self) -> dict[str, str]:
        pieces = _PART.split(self.text)
        return dict(zip(pieces[1::2], pieces[2::2], strict=True))

    def _render(self, values: dict[str, str]) -> str:
        environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)
        return environment.from_string(self._parts()["user"].strip("\n")).render(values)


def load_prompt_file(name: str, path: str | Path | None = None) -> PromptFile:
    """Read the project's own prompt file `name`, or the one at `path`.

    Raises `ConfigError` when it cannot be read, has other parts than `[system]` and `[user]`, or leaves the problem
    out.
    """
    file = Path(path).expanduser() if path else TEMPLATES / f"{name}.txt"
    try:
        prompt = PromptFile(file.name, file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no UTF-8 text"
        message = f"--template {file}: cannot be read ({reason}). Give the path of a prompt file (docs/evaluation.md)."
        raise ConfigError(message, path="prompt.template") from error
    parts = _PART.split(prompt.text)
    titles = parts[1::2]
    if parts[0].strip() or titles not in (["user"], ["system", "user"]):
        raise ConfigError(
            f"--template {file}: must be a part under a line `[user]`, and before it, if wanted, one under `[system]`. "
            f"{TEMPLATES / f'{name}.txt'} is an example.",
            path="prompt.template",
        )
    try:
        rendered = prompt._render(_SAMPLE)
    except jinja2.TemplateError as error:
        raise ConfigError(
            f"--template {file}: is no Jinja template of prompt, id and entry_point: {error}", path="prompt.template"
        ) from error
    if _PROBE not in rendered:
        raise ConfigError(
            f"--template {file}: leaves the problem out. Write {{{{ prompt }}}} where its statement belongs.",
            path="prompt.template",
        )
    return prompt


def judged_part(response: str, style: TestStyle, answers: str) -> str | None:
    """Return what of a response is judged, None where there is nothing.

    `answers` is `tags`: what stands in `<answer>`, where the tag structure is right, as in training; or `fenced`, for
    models that were not trained on tags: that, else the last fenced block behind the reasoning, else (maths) all that
    is behind the reasoning.
    """
    parsed = parse(response)
    if parsed.program is not None or answers == "tags":
        return parsed.program
    behind = response.rpartition("</think>")[2]
    if style is TestStyle.ANSWER:
        return behind.strip() or None
    blocks = _blocks(behind)
    return (strip_fence(blocks[-1]) or None) if blocks else None


def _blocks(text: str) -> list[str]:
    """Return what stands in each fenced block that ends, in time linear in `text`, whatever was written."""
    fences = list(_FENCE.finditer(text))
    ends = [0 if fence[2] else len(fence[1]) for fence in fences]
    longest = [*accumulate(reversed(ends), max, initial=0)][::-1]  # of the ends from each fence on
    blocks, opening = [], None
    for index, fence in enumerate(fences):
        if opening is None:
            opening = fence if len(fence[1]) <= longest[index + 1] else None
        elif ends[index] >= len(opening[1]):
            blocks.append(text[opening.end() + 1 : fence.start()])
            opening = None
    return blocks
