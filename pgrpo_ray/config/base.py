"""How every config tree is read: YAML, then `--set a.b=c`, then validation.

Rules: an unknown key is an error with a suggestion; every field states unit and range; a default stands in its tree and
nowhere else; `load_tree` returns a frozen tree, which nobody rewrites afterwards. No field holds a secret: trees are
written beside results, so a field names the environment variable that holds it (`SecretName`).
"""

import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pgrpo_ray.config import explain
from pgrpo_ray.errors import ConfigError

FolderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=128)]
"""A name that becomes a folder's: no separator and no leading dot, so it stays inside the folder it is made in."""

SecretName = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$", max_length=64)]
"""Name of an environment variable that holds a secret, in capitals so that a pasted secret hardly passes."""


class Section(BaseModel):
    """Base of all sections: frozen, and an unknown key is an error."""

    # strict: `steps: true` or `steps: "10"` is a slip of the pen, not a number.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class ConfigTree(Section):
    """Base of all trees: a section of sections, which can say what does not go together."""

    def check(self) -> None:
        """Refuse combinations that cannot work. Raises `ConfigError`; changes nothing."""


Tree = TypeVar("Tree", bound=ConfigTree)


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: `1e-4` is a number (YAML 1.1 reads text), a key that stands twice is an error.

    An alias stands for one value only: lists of aliases of lists of aliases would be larger than any memory. Integers
    have 64 bits, as in what reads them. What PyYAML stumbles over (`2001-13-45`, `0x_`) is a `YAMLError` as well.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            alias = self.peek_event()  # type: ignore[no-untyped-call]  # in its stubs
            if isinstance(self.anchors.get(alias.anchor), yaml.CollectionNode):
                message = f"alias {alias.anchor!r} stands for a list or a mapping: write that out"
                raise yaml.composer.ComposerError(None, None, message, alias.start_mark)
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, int) and not -(2**63) <= value < 2**63:
                raise ValueError("an integer has at most 64 bits")
        except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError) as error:
            message = f"this is no {node.tag.rpartition(':')[2]} ({error})"
            raise yaml.constructor.ConstructorError(None, None, message, node.start_mark) from error
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            keys, seen = [self.construct_object(key, deep=True) for key, _ in node.value], set()
            twice = next(key for key in keys if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise yaml.constructor.ConstructorError(None, None, f"key {twice!r} stands twice", node.start_mark)
        return mapping


class _Dumper(yaml.SafeDumper):
    """Quotes text that `_Loader` would read as something else."""


for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )


def load_tree(tree: type[Tree], file: str | Path, overrides: list[str] | None = None) -> Tree:
    """Read `file` as a config `tree`, apply `overrides` such as `learner.learning_rate=1e-4`, validate and check.

    Raises `ConfigError` with file, dotted path, value received and a fix.
    """
    values = read_values(file)
    for override in overrides or []:
        apply_override(values, override)
    config = parse_tree(tree, values, where=str(file))
    config.check()
    return config


def read_values(file: str | Path) -> dict[str, Any]:
    """Read a YAML file of sections as plain values. Raises `ConfigError` with file and place."""
    file = Path(file)
    try:
        values = yaml.load(file.read_text(encoding="utf-8"), _Loader)  # a SafeLoader
    except OSError as error:
        near = explain.similar_file(file) if isinstance(error, FileNotFoundError) else ""
        message = f"{file}: cannot be read ({error.strerror}). Give the path of a YAML config.{near}"
        raise ConfigError(message) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(explain.broken_yaml(error, str(file))) from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: must be a mapping of sections such as `run:`, not a {type(values).__name__}.")
    return values


def dump_tree(config: ConfigTree) -> str:
    """Return `config` as YAML that `load_tree` reads as an equal tree."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False)


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Set one `a.b=value` in `tree`; the value is YAML."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {override!r}: write it as section.key=value, such as run.steps=10.")
    try:
        value = yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(explain.broken_yaml(error, f"--set {explain.QUOTE.repr(override)}"), path=path) from error
    node = tree
    for key in keys[:-1]:
        if node.get(key) is None:
            node[key] = {}
        node = node[key]
        if not isinstance(node, dict):
            message = f"--set {override!r}: {key} is a value, not a section. Write --set SECTION.{key}=VALUE."
            raise ConfigError(message, path=path)
    node[keys[-1]] = value


def parse_tree(tree: type[Tree], values: dict[str, Any], where: str = "config") -> Tree:
    """Validate plain values; turn pydantic's findings into one `ConfigError` that lists each with its fix."""
    try:
        return _expand_home(tree.model_validate(values), where)
    except ValidationError as error:
        first = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ConfigError(f"{where}: {explain.findings(error.errors(), tree)}", path=first) from error


def _expand_home(config: Tree, where: str) -> Tree:
    """Expand a leading `~` in every path: after `=`, no shell does."""
    sections = {}
    for name, section in config:
        paths = {key: value for key, value in section if str(value).startswith("~")}
        for key, value in paths.items():
            try:
                paths[key] = str(Path(value).expanduser())
            except (RuntimeError, ValueError) as error:  # no such user; a NUL in the name
                message = (
                    f"{where}: {name}.{key}: {explain.QUOTE.repr(value)} names nobody's home. Write the whole path."
                )
                raise ConfigError(message, path=f"{name}.{key}") from error
        sections[name] = section.model_copy(update=paths) if paths else section
    return config.model_copy(update=sections)
