"""Which starter a command gets, what is said meanwhile, and which family it is refused."""

from types import SimpleNamespace

import pytest

from pgrpo_ray.config import StarterSection, parse_tree
from pgrpo_ray.config.pairs import PairsConfig
from pgrpo_ray.errors import ConfigError, EnvironmentFault
from pgrpo_ray.jobs import starter
from pgrpo_ray.jobs.pairs_sources import starter_rows


def maker(made):
    def make(section, cache, tell):
        for part in ("problems", "policy", "reward_model"):
            tell(part, 0.0)
            tell(part, 1.0)
        made.append(section.family)
        return SimpleNamespace(name=section.family)

    return make


def test_the_family_decides_what_is_made_and_progress_is_told(monkeypatch):
    made, said, done = [], [], []
    monkeypatch.setattr(starter, "ensure_starter", maker(made))
    assert starter.make_starter(StarterSection(), said.append, done.append).name == "code"
    maths = StarterSection(family="maths")
    assert starter.make_starter(maths, said.append, families=starter.FAMILIES).name == "maths"
    assert made == ["code", "maths"]
    assert done == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 1])
    assert said[:6][-1] == "making the starter's reward model: 100 %"
    with pytest.raises(ConfigError, match=r"starter\.family=maths: this command knows the starter's family code only"):
        starter.make_starter(maths, said.append)
    assert made == ["code", "maths"]


def test_a_cache_that_can_not_be_written_is_an_environment_fault(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(starter, "ensure_starter", full)
    with pytest.raises(EnvironmentFault, match=r"No space left on device.*PGRPO_CACHE"):
        starter.make_starter(StarterSection(), lambda text: None)


def test_pairs_are_made_of_the_code_family_alone():
    config = parse_tree(PairsConfig, {"pairs": {"source": "starter"}, "starter": {"family": "maths"}})
    with pytest.raises(ConfigError, match=r"starter\.family=maths"):
        next(starter_rows(config))
