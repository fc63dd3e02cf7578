"""The generator's prompts as plain-text files: system, original, optimise, degrade, and a text for each dimension.

A set of prompts is a folder of this layout, one that ships with the project (`prompts/v1`) or one's own:

    system.txt  original.txt  optimise.txt  degrade.txt
    dimensions/factual_accuracy.txt  dimensions/logical_rigour.txt  dimensions/logical_coherence.txt

Files are jinja2 templates. Owns their checks, their rendering and their hash, which goes into every row; `load_prompts`
refuses a set that could only produce failures, before anything is asked.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import jinja2
import jinja2.meta

from pgrpo_ray.errors import ConfigError

DIMENSIONS = ("factual_accuracy", "logical_rigour", "logical_coherence")
"""The paper's three."""
ALL = "all"
"""Stands for all dimensions at once."""
ORIGINAL, OPTIMISE, DEGRADE = STAGES = ("original", "optimise", "degrade")

_SHIPPED = Path(__file__).parent / "prompts"
_PLACEHOLDERS = {
    "system": frozenset(),
    ORIGINAL: frozenset({"problem"}),
    OPTIMISE: frozenset({"problem", "reasoning", "dimension"}),
    DEGRADE: frozenset({"problem", "reasoning", "dimension"}),
}
_TAGS = ("<reasoning>", "</reasoning>")


@dataclass(frozen=True)
class Prompts:
    """One checked set of prompts."""

    version: str
    """`v1` of what ships, or the name of one's own folder."""
    hash: str
    """blake2b of all files, 32 hex digits."""
    system: str
    templates: dict[str, jinja2.Template]
    """By stage."""
    dimensions: dict[str, str]
    """Text of each dimension, and of all together under `all`."""

    def render(self, stage: str, problem: str, reasoning: str = "", dimension: str = "") -> str:
        """Return the user's message of `stage`; the two rewriting stages need reasoning and dimension."""
        values = {"problem": problem}
        if stage != ORIGINAL:
            values |= {"reasoning": reasoning, "dimension": self.dimensions[dimension]}
        return self.templates[stage].render(values).strip()


def load_prompts(name: str) -> Prompts:
    """Read the shipped version `name`, or the folder of that path.

    Raises `ConfigError` for a file that is missing, blank, no valid template, lacks a placeholder, has one that nobody
    fills, or does not ask for the tags that answers are read from.
    """
    folder = _SHIPPED / name if (_SHIPPED / name).is_dir() else Path(name).expanduser()
    if not folder.is_dir():
        shipped = ", ".join(sorted(path.name for path in _SHIPPED.iterdir() if path.is_dir()))
        raise ConfigError(
            f"pairs.prompts is {name!r}: neither a version that ships ({shipped}) nor a folder. Copy {_SHIPPED / 'v1'} "
            "and change the copy.",
            path="pairs.prompts",
        )
    files = {stage: _read(folder, f"{stage}.txt") for stage in _PLACEHOLDERS}
    texts = {name: _read(folder, f"dimensions/{name}.txt") for name in DIMENSIONS}
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)
    templates = {stage: _template(environment, folder / f"{stage}.txt", text) for stage, text in files.items()}
    system = templates.pop("system").render().strip()
    dimensions = {name: text.strip() for name, text in texts.items()}
    digest = hashlib.blake2b(digest_size=16)
    for part in (*files.values(), *texts.values()):
        digest.update(f"{len(part)}\0{part}".encode())
    return Prompts(
        version=folder.name,
        hash=digest.hexdigest(),
        system=system,
        templates=templates,
        dimensions=dimensions | {ALL: "\n\n".join(dimensions.values())},
    )


def _read(folder: Path, name: str) -> str:
    try:
        text = (folder / name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise ConfigError(
            f"pairs.prompts: {folder / name} cannot be read ({reason}). A set of prompts needs it; copy it from "
            f"{_SHIPPED / 'v1'}.",
            path="pairs.prompts",
        ) from error
    if not text.strip():
        raise ConfigError(f"pairs.prompts: {folder / name} is blank. Write its text.", path="pairs.prompts")
    return text


def _template(environment: jinja2.Environment, file: Path, text: str) -> jinja2.Template:
    """Compile one file and hold it to its placeholders."""
    try:
        found = jinja2.meta.find_undeclared_variables(environment.parse(text))
        template = environment.from_string(text)
    except jinja2.TemplateError as error:
        line = f":{error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else ""
        raise ConfigError(
            f"pairs.prompts: {file}{line} is no valid jinja2 template: {error}.", path="pairs.prompts"
        ) from error
    wanted = _PLACEHOLDERS[file.stem]
    complaint = ""
    if missing := sorted(wanted - found):
        complaint = f"lacks the placeholder {{{{ {missing[0]} }}}}. Put it where that text belongs"
    elif extra := sorted(found - wanted):
        known = ", ".join(sorted(wanted)) or "none"
        complaint = f"has the placeholder {{{{ {extra[0]} }}}}, which nobody fills. Known here: {known}"
    elif file.stem != "system" and (absent := [tag for tag in _TAGS if tag not in text]):
        complaint = f"does not name the tag {absent[0]}, from which the answer is read. Ask for both tags"
    if complaint:
        raise ConfigError(f"pairs.prompts: {file} {complaint}.", path="pairs.prompts")
    return template
