"""Errors cross processes by pickle; Ray can rebuild only such that survive it."""

import inspect
import pickle

import pytest

from pgrpo_ray import errors

CLASSES = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, errors.PgrpoError)]


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_survives_pickling(cls):
    again = pickle.loads(pickle.dumps(cls("what, where, how")))
    assert type(again) is cls
    assert str(again) == "what, where, how"


def test_fields_survive_pickling():
    again = pickle.loads(pickle.dumps(errors.DataError("bad", file="a.jsonl", line=3)))
    assert str(again) == "a.jsonl:3: bad"
    assert pickle.loads(pickle.dumps(errors.ConfigError("bad", path="run.steps"))).path == "run.steps"
    assert pickle.loads(pickle.dumps(errors.StageError("bad", stage="learner"))).stage == "learner"
