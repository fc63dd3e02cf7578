"""Pages of the reference: every key of every config tree and every command with its options, read from the code.

Nothing here is written twice: types, ranges and defaults are pydantic's, meanings are the docstrings under fields, the
commands are typer's. The pages exist only in the built site.
"""

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from typing import Any

from pydantic import BaseModel
from typer.main import get_command

from pgrpo_ray.cli import app
from pgrpo_ray.config import RunConfig
from pgrpo_ray.config.data_preparation import PreparationConfig
from pgrpo_ray.config.evaluation_job import EvaluationConfig
from pgrpo_ray.config.lcb_rb import LcbRbConfig, ProbeConfig, ScoreConfig
from pgrpo_ray.config.pairs import PairsConfig
from pgrpo_ray.config.rm_training import RewardTrainingConfig
from pgrpo_ray.config.serving import ServingConfig

TREES: dict[str, tuple[str, type[BaseModel]]] = {
    "reference/run.md": ("train", RunConfig),
    "reference/evaluation.md": ("eval", EvaluationConfig),
    "reference/pairs.md": ("rm pairs", PairsConfig),
    "reference/reward-training.md": ("rm train", RewardTrainingConfig),
    "reference/serving.md": ("rm serve", ServingConfig),
    "reference/lcb-rb.md": ("lcb-rb build", LcbRbConfig),
    "reference/scoring.md": ("lcb-rb score", ScoreConfig),
    "reference/probing.md": ("rm probe", ProbeConfig),
    "reference/preparation.md": ("data prepare", PreparationConfig),
}
"""Page -> the command whose config it lists, and the tree."""
COMMANDS = "reference/commands.md"
BOUNDS = {"minimum": ">= ", "exclusiveMinimum": "> ", "maximum": "<= ", "exclusiveMaximum": "< "}
"""Of a JSON schema, in the order in which they are told."""


def pages() -> dict[str, str]:
    """Return every generated page as Markdown, by its path in `docs`."""
    return {page: config_page(command, tree) for page, (command, tree) in TREES.items()} | {COMMANDS: commands_page()}


def config_page(command: str, tree: type[BaseModel]) -> str:
    """Return the page of one config tree: a section a heading, a key a row."""
    parts = [
        f"# Config of `pgrpo {command}`",
        "A YAML file of these sections; what it leaves out has the default. `--set section.key=value` wins over the "
        "file. An unknown key is an error, with the nearest known one.",
    ]
    for path, section in sections(tree):
        parts += [f"## `{path}`", _prose(inspect.getdoc(section) or "")]
        rows = [
            f"| `{path}.{key}` | {type_of(section, key)} | `{default_of(section, key)}` | {_cell(meaning)} |"
            for key, meaning in keys(section).items()
        ]
        if rows:
            parts.append("\n".join(["| key | type and range | default | meaning |", "|---|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def sections(tree: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield each section of a tree with its dotted path, those inside of sections too."""
    for name, field in tree.model_fields.items():
        if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel):
            dotted = f"{path}.{name}" if path else name
            yield dotted, field.annotation
            yield from sections(field.annotation, dotted)


def keys(section: type[BaseModel]) -> dict[str, str]:
    """Return the keys of a section with what their docstrings say, sections in it left out."""
    inside = {path for path, _ in sections(section)}
    return {key: _docstrings(section).get(key, "") for key in section.model_fields if key not in inside}


@cache
def _docstrings(section: type[BaseModel]) -> dict[str, str]:
    """Return the docstring under each field, of its bases too: pydantic reads those of one class alone."""
    found: dict[str, str] = {}
    for base in reversed(section.__mro__):
        if base in (BaseModel, object) or not issubclass(base, BaseModel):
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(definition, ast.ClassDef)
        for node, after in zip(definition.body, [*definition.body[1:], None], strict=True):
            if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
                continue
            text = after.value if isinstance(after, ast.Expr) else None
            said = text.value if isinstance(text, ast.Constant) and isinstance(text.value, str) else ""
            found[node.target.id] = inspect.cleandoc(said)
    return found


def type_of(section: type[BaseModel], key: str) -> str:
    """Return the type and range of a key, as a cell of a table."""
    return _type(_schema(section)["properties"][key]).replace("|", "\\|")


@cache
def _schema(section: type[BaseModel]) -> dict[str, Any]:
    return section.model_json_schema()


def _type(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{json.dumps(value).strip(chr(34))}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        if "prefixItems" in schema:
            return "list of " + " and ".join(_type(one) for one in schema["prefixItems"])
        return f"list of {_type(schema.get('items', {}))}"
    names = {"integer": "whole number", "number": "number", "boolean": "`true`, `false`", "string": "text"}
    name = names.get(schema.get("type", ""), schema.get("type", "any"))
    ranges = [f"{sign}{_number(schema[bound])}" for bound, sign in BOUNDS.items() if bound in schema]
    if "pattern" in schema:
        ranges.append(f"that matches `{schema['pattern']}`")
    return " ".join([name, ", ".join(ranges)]).strip()


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def default_of(section: type[BaseModel], key: str) -> str:
    """Return the default of a key as YAML has it; `required` where there is none."""
    field = section.model_fields[key]
    if field.is_required():
        return "required"
    return json.dumps(field.get_default(call_default_factory=True), default=list, ensure_ascii=False)


def commands() -> Iterator[tuple[str, Any]]:
    """Yield every command with its words after `pgrpo`."""

    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        if hasattr(command, "commands"):
            for name, inner in command.commands.items():
                yield from walk(inner, (*words, name))
        else:
            yield " ".join(words), command

    yield from walk(get_command(app), ())


def commands_page() -> str:
    """Return the page of all commands."""
    parts = [
        "# Commands",
        "Exit status: 0 done, 1 the run or a machine failed, 2 the input is wrong, 130 interrupted. "
        "`pgrpo COMMAND --help` says the same as this page.",
    ]
    configs = {command: page for page, (command, _) in TREES.items()}
    for words, command in commands():
        arguments = [parameter.metavar for parameter in command.params if parameter.param_type_name == "argument"]
        parts += [f"## `pgrpo {words}`", f"```text\npgrpo {' '.join([words, *arguments, '[OPTIONS]'])}\n```"]
        parts.append(_prose(command.help or ""))
        if words in configs:
            parts.append(f"Every key: [config of `pgrpo {words}`]({configs[words].removeprefix('reference/')}).")
        rows = [_parameter_row(parameter) for parameter in command.params]
        parts.append("\n".join(["| | default | meaning |", "|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _parameter_row(parameter: Any) -> str:
    option = parameter.param_type_name == "option"
    name = ", ".join(f"`{word}`" for word in parameter.opts + parameter.secondary_opts)
    if not option:
        name = f"`{parameter.metavar}`"
    elif not parameter.is_flag:
        name += f" {parameter.metavar or parameter.type_descriptor.annotation.__name__.upper()}"
    default = "" if parameter.default in (None, False) else f"`{parameter.default}`"
    limits = ((">= ", parameter.min), ("<= ", parameter.max))
    bounds = [f"{sign}{_number(value)}" for sign, value in limits if value is not None]
    help_text = " ".join([parameter.help or "", *(["(" + ", ".join(bounds) + ")"] if bounds else [])])
    return f"| {name} | {'required' if parameter.required else default} | {_cell(help_text)} |"


def _prose(text: str) -> str:
    """Return a docstring as Markdown: indented lines are commands, `<` is no tag."""
    lines = inspect.cleandoc(text).split("\n")
    return "\n".join(line if line.startswith("    ") else line.replace("<", "&lt;") for line in lines)


def _cell(text: str) -> str:
    """Return a text for a cell of a table; what stands in backticks stays as it is."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    shown = [part if part.startswith("`") else part.replace("<", "&lt;").replace("*", "\\*") for part in parts]
    return "".join(shown).replace("|", "\\|")
