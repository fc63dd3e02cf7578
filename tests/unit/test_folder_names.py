"""A name that becomes a folder stays inside the folder that it is made in."""

from pathlib import Path

import pytest

from pgrpo_ray.config import RunConfig, parse_tree
from pgrpo_ray.config.evaluation_job import EvaluationConfig
from pgrpo_ray.config.lcb_rb import LcbRbConfig
from pgrpo_ray.config.rm_training import RewardTrainingConfig
from pgrpo_ray.errors import ConfigError, DataError
from pgrpo_ray.evaluation.benchmarks import named

NAMED = {"run": RunConfig, "output": RewardTrainingConfig, "lcb_rb": LcbRbConfig}
"""Section with a name -> its tree."""
ESCAPES = ["..", ".", "", "../up", "a/../../b", "/etc", "a/b", "a\\b", "~", "~root", ".hidden"]
ODD = ["a\n", "a\0b", "é", "a" * 129]


@pytest.mark.parametrize("section", NAMED)
@pytest.mark.parametrize("name", ESCAPES + ODD)
def test_names_that_lead_elsewhere_are_refused(section, name):
    with pytest.raises(ConfigError, match=rf"{section}\.name: "):
        parse_tree(NAMED[section], {section: {"name": name}})


@pytest.mark.parametrize("section", NAMED)
@pytest.mark.parametrize("name", ["local", "7b-seed.1", "a..b", "A" * 128])
def test_other_names_are_taken(section, name):
    assert getattr(parse_tree(NAMED[section], {section: {"name": name}}), section).name == name


@pytest.mark.parametrize("model", ["..", "../../etc", "/abs/model", "org/name", "a\\b", "...", "\n", "./x/../y"])
def test_an_evaluation_is_two_folders_deep_whatever_its_model_is_called(model):
    config = parse_tree(EvaluationConfig, {"policy": {"model": model}, "benchmark": {"name": "humaneval"}})
    where = config.folder
    assert where.parts[0] == "evaluations" and len(where.parts) == 3
    assert where.resolve().parent.parent == Path("evaluations").resolve()


@pytest.mark.parametrize("benchmark", ["../up", "/etc", "humaneval/../../x"])
def test_a_benchmark_is_one_that_is_known(benchmark):
    with pytest.raises(DataError, match="is not known"):
        named(benchmark)
