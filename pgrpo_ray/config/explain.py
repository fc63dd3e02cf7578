"""What is wrong with a config, in words that say how to mend it: pydantic's findings, YAML's, a file that is not there.

Owns the wording alone; `base` reads and validates. Every line says dotted path, rule and value received.
"""

import difflib
import re
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

QUOTE = reprlib.Repr()
QUOTE.maxstring = QUOTE.maxother = 200
"""Of values in messages: enough of a path, whatever the value's size."""

_RULES = {
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be above {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be below {lt}",
    "finite_number": "must be a finite number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be a text (in quotes where it looks like something else)",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "list_type": "must be a list, such as [a, b]",
    "model_type": "is a section: give its keys, such as {path}.KEY=VALUE",
    "missing": "is missing: give it a value as well",
}
"""By pydantic's type of a finding."""
_PATTERNS = {
    r"^[A-Za-z0-9][A-Za-z0-9._-]*$": "becomes a folder's name: letters, digits, `.`, `_` and `-`, beginning with a "
    "letter or digit",
    r"^\d{4}-\d\d-\d\d$": "must be a day as YYYY-MM-DD",
}
_READS = {
    "run": "train",
    "pairs": "rm pairs",
    "schedule": "rm train",
    "lcb_rb": "lcb-rb build",
    "benchmark": "eval --config",
    "server": "rm serve",
}
"""Section that one tree alone has -> the command that reads such files."""


def findings(errors: Iterable[Any], tree: type[BaseModel]) -> str:
    """One line for each of pydantic's findings on a `tree`; sections that no tree has share a line."""
    lines, unknown = [], []
    for error in errors:
        top = error["type"] == "extra_forbidden" and len(error["loc"]) == 1
        if top and not _nearest(str(error["loc"][0]), tree):
            unknown.append(QUOTE.repr(error["loc"][0]).strip("'"))
        else:
            lines.append(_explain(error, tree))
    if unknown:
        keys = "unknown key" if len(unknown) == 1 else "unknown keys"
        line = f"{', '.join(unknown[:12])}: {keys}."
        meant = next((command for section, command in _READS.items() if section in unknown), None)
        line += f" This looks like a config of `pgrpo {meant}`." if meant else ""
        lines.append(f"{line} Known keys: {', '.join(sorted(tree.model_fields))}.")
    return "\n".join(lines)


def broken_yaml(error: Exception, where: str) -> str:
    """Say at which line of `where` (a file, or an option `--...`) YAML ends, why, and what to do."""
    if isinstance(error, UnicodeDecodeError):
        return f"{where}: is not valid YAML: no UTF-8 text at byte {error.start}. Give the path of a YAML config."
    if isinstance(error, RecursionError):
        return f"{where}: is not valid YAML that anybody would write: it nests too deeply. Flatten it."
    mark = getattr(error, "problem_mark", None)
    reason = str(getattr(error, "problem", None) or getattr(error, "reason", None) or error)
    context = getattr(error, "context", None)
    reason = f"{context}: {reason}" if context else reason
    if where.startswith("--"):
        return f"{where}: is not valid YAML: {reason}. Close brackets and quotes, as in --set 'a.b=[1, 2]'."
    place = f"{where}:{mark.line + 1}:{mark.column + 1}" if isinstance(mark, yaml.Mark) else where
    return f"{place}: is not valid YAML: {reason}. Close brackets and quotes; write `key: value`, indented with spaces."


def similar_file(file: Path) -> str:
    """A sentence with the YAML file that was probably meant instead of `file`, which is not there; else nothing."""
    folders = [file.parent, *(path for path in (Path("cluster"),) if path != file.parent)]
    for folder in folders:
        near = difflib.get_close_matches(file.name, [path.name for path in folder.glob("*.y*ml")], n=1)
        if near:
            return f" Did you mean {folder / near[0]}?"
    return ""


def _explain(finding: Any, tree: type[BaseModel]) -> str:
    """One line for one of pydantic's findings: dotted path, rule, value received, nearest known word, default."""
    loc, kind, context = finding["loc"], finding["type"], finding.get("ctx", {})
    path = ".".join(str(part) for part in loc)
    if path.endswith("_env"):  # what was received may be the secret itself
        return f"{path}: give the name of an environment variable in capitals, such as MY_KEY, never the secret itself."
    if kind == "extra_forbidden":
        section = _section_at(loc[:-1], tree)
        hint = _nearest(str(loc[-1]), section) or f" Known keys: {', '.join(sorted(section.model_fields))}."
        return f"{path}: unknown key.{hint}"
    received = f"received {QUOTE.repr(finding['input'])}"
    if kind == "literal_error":
        return f"{path}: must be {context['expected']}, {received}.{_meant(finding['input'], context['expected'])}"
    if kind == "string_pattern_mismatch" and context["pattern"] in _PATTERNS:
        return f"{path}: {_PATTERNS[context['pattern']]}, {received}."
    context = {
        key: int(bound) if isinstance(bound, float) and bound % 1 == 0 else bound for key, bound in context.items()
    }
    rule = _RULES[kind].format(path=path, **context) if kind in _RULES else finding["msg"]
    return f"{path}: {rule}, {received}.{_default(loc, tree)}"


def _nearest(key: str, model: type[BaseModel]) -> str:
    """A sentence with the known key nearest to `key`, or the section of `model` that has just this key; or nothing."""
    close = difflib.get_close_matches(key, list(model.model_fields), n=1)
    if close:
        return f" Did you mean {close[0]!r}?"
    homes = [name for name, field in model.model_fields.items() if key in getattr(field.annotation, "model_fields", {})]
    return f" Did you mean {' or '.join(repr(f'{name}.{key}') for name in homes[:4])}?" if homes else ""


def _meant(value: Any, expected: str) -> str:
    close = difflib.get_close_matches(str(value), re.findall(r"'([^']*)'", expected), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _default(loc: tuple[Any, ...], tree: type[BaseModel]) -> str:
    """A sentence with the default of the key at `loc`, where it is a plain value."""
    try:
        value = _section_at(loc[:-1], tree).model_fields[str(loc[-1])].default
    except (KeyError, AttributeError):  # an element of a list
        return ""
    plain = value is None or isinstance(value, bool | int | float | str)
    return f" Left out, it is {'none' if value is None else repr(value)}." if plain else ""


def _section_at(loc: tuple[Any, ...], model: type[BaseModel]) -> type[BaseModel]:
    """The section at `loc` of a tree."""
    for part in loc:
        model = model.model_fields[str(part)].annotation  # type: ignore[assignment]
    return model
