"""Config files and `--set`: whatever they hold, `ConfigError` or a tree that survives being written and read."""

from pathlib import Path

import pytest
import yaml
from fuzzing import as_file, damaged, edited, fuzz, nested, shuffled_lines
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_ray.config import RunConfig, apply_override, derive, dump_tree, load_tree, parse_tree
from pgrpo_ray.config.data_preparation import PreparationConfig
from pgrpo_ray.config.evaluation_job import EvaluationConfig
from pgrpo_ray.config.lcb_rb import LcbRbConfig, ProbeConfig, ScoreConfig
from pgrpo_ray.config.pairs import PairsConfig
from pgrpo_ray.config.rm_training import RewardTrainingConfig
from pgrpo_ray.config.serving import ServingConfig
from pgrpo_ray.errors import ConfigError

TREES = (
    *(RunConfig, EvaluationConfig, PairsConfig, LcbRbConfig, RewardTrainingConfig, ServingConfig),
    *(PreparationConfig, ScoreConfig, ProbeConfig),
)
FILES = [file.read_bytes() for file in sorted((Path(__file__).parents[2] / "cluster").glob("*.yaml"))]
WHOLE = [yaml.safe_dump(tree().model_dump(mode="json")).encode() for tree in TREES]
"""Every key of every tree, at its default."""
SEEDS = [*FILES, *WHOLE]
VALUES = [yaml.safe_load(seed) for seed in SEEDS]
TOKENS = [
    b"&a [*a, *a]", b"*a", b"&a x", b"<<", b"? ", b"- ", b"|", b"!!int x", b"!!float ''", b"!!bool x", b"!!timestamp x",
    b"!!binary x", b"!!set {a, b}", b"!!python/object:os.system x", b"!x y", b"2001-13-45", b"0000-00-00",
    b"0x_", b"0b", b"190:20:30", b".inf", b".nan", b"1e400", b"0x" + b"f" * 4000, b"9" * 5000, b"'1e5'", b"'~'",
    b"~nobody-here/x",
    b"\"~\\0\"", b"\"\\ud83d\\ude00\"", b"\xef\xbb\xbf", b"\xff", b"\x00", b"\x85", b"\xe2\x80\xa8", b"{a: {b: c}}",
    b"[1, [2]]", nested(400).encode(), nested(400, "{a: ", "}").encode(), b"%YAML 9.9", b"---", b"...", b"\t",
]  # fmt: skip
"""What YAML may surprise with."""


def read(data: bytes, overrides: tuple[str, ...] = ()) -> None:
    """Load `data` as the tree that it looks most like; what loads must be written and read as an equal one."""
    tree = max(TREES, key=lambda tree: sum(b"\n%s:" % name.encode() in b"\n" + data for name in tree.model_fields))
    try:
        config = load_tree(tree, as_file(data, "config.yaml"), list(overrides))
    except ConfigError as error:
        # Values are quoted in part; keys and findings are no more than the file holds.
        assert len(str(error)) < 10_000 + 40 * (len(data) + sum(map(len, overrides)))
        return
    survives(config)


def survives(config):
    again = load_tree(type(config), as_file(dump_tree(config).encode(), "again.yaml"))
    assert again == config
    if isinstance(config, RunConfig):
        derive(config)


@fuzz(250)
@given(st.one_of(damaged(SEEDS, TOKENS), shuffled_lines(SEEDS, TOKENS), st.binary(max_size=60)))
def test_files(data):
    read(data)


YAML_TEXT = st.lists(st.sampled_from([*"{}[]:,-?&*!|>'\"%@`#\n ~ab01", ": ", "\n  ", "- "]), max_size=30).map("".join)


@fuzz(300)
@given(YAML_TEXT | st.text(max_size=40))
def test_random_text(text):
    read(text.encode("utf-8", "surrogatepass"))


@fuzz(200)
@given(edited(VALUES), st.sampled_from(TREES))
def test_values(values, tree):
    """Without YAML in between, as the command line makes trees of options."""
    if not isinstance(values, dict):
        return
    try:
        config = parse_tree(tree, values)
        config.check()
    except ConfigError:
        return
    survives(config)


PATHS = sorted({f"{section}.{key}" for values in VALUES for section, keys in values.items() for key in keys})


@fuzz(300)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=12),
            st.builds("{}={}".format, st.sampled_from(PATHS), YAML_TEXT | st.text(max_size=8)),
            st.builds(
                "{}={}".format,
                st.sampled_from(PATHS) | st.text("run.steps ", max_size=9),
                st.sampled_from([token.decode("utf-8", "surrogateescape") for token in TOKENS]),
            ),
        ),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from(FILES),
)
def test_overrides(overrides, data):
    read(data, tuple(overrides))


def test_aliases_of_aliases_are_refused_before_they_are_anything():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    with pytest.raises(ConfigError, match="'a0' stands for a list or a mapping") as caught:
        load_tree(RunConfig, as_file("\n".join(lines).encode()))
    assert len(str(caught.value)) < 500
    with pytest.raises(ConfigError, match="stands for a list"):
        load_tree(RunConfig, as_file(b"run: &a [*a]"))


def test_an_alias_of_one_value_is_that_value():
    config = load_tree(RunConfig, as_file(b"run: {name: &name bold, dir: *name}"))
    assert (config.run.name, config.run.dir) == ("bold", "bold")


@pytest.mark.parametrize("name", ["1e5", "0x10", "2001-01-01", "null", "yes", "1_0"])
def test_text_that_looks_like_something_else_is_written_as_text(name):
    survives(parse_tree(RunConfig, {"run": {"name": name}}))


@pytest.mark.parametrize("path", ["~nobody-here/runs", "~\0"])
def test_nobodys_home_is_refused_with_its_key(path):
    with pytest.raises(ConfigError, match=r"run\.dir: .* names nobody's home") as caught:
        parse_tree(RunConfig, {"run": {"dir": path}})
    assert caught.value.path == "run.dir"


@pytest.mark.parametrize(
    "value",
    [
        "2001-13-45",
        "0x_",
        "0b_",
        "9" * 5000,
        "0x" + "f" * 20,
        "!!int x",
        "!!int ''",
        "!!float x",
        "!!bool x",
        "!!timestamp x",
    ],
)
def test_what_yaml_stumbles_over_is_no_valid_yaml(value):
    for load in (
        lambda: load_tree(RunConfig, as_file(f"run: {{seed: {value}}}".encode())),
        lambda: apply_override({}, f"run.seed={value}"),
    ):
        with pytest.raises(ConfigError, match="not valid YAML"):
            load()


def test_long_values_are_quoted_in_part():
    with pytest.raises(ConfigError, match=r"run\.steps") as caught:
        parse_tree(RunConfig, {"run": {"steps": [["x" * 10_000] * 10_000]}})
    assert len(str(caught.value)) < 3000
