"""A checkpoint that cannot be begun: told, counted, and no harm to the one before."""

from types import MappingProxyType, SimpleNamespace

import pytest

from pgrpo_ray.actors import waits
from pgrpo_ray.actors.checkpointing import Checkpointer
from pgrpo_ray.config import CheckpointSection
from pgrpo_ray.errors import EnvironmentFault, OwnershipError
from pgrpo_ray.obs.checkpoint_files import put_file
from pgrpo_ray.obs.checkpoints import STATE, CheckpointStore

HICCUP, TAKEN = EnvironmentFault("the storage does not answer"), OwnershipError("taken over by process 7")


class Store(CheckpointStore):
    """Fails where it is told to; storage like an object store's, where a draft has its checkpoint's name."""

    failing, error = "", HICCUP

    def check_owner(self):
        if self.failing == "check_owner":
            raise self.error
        super().check_owner()

    def begin(self, step):
        if self.failing == "begin":
            raise self.error
        return super().begin(step)


def begin(checkpointer, step, metrics=MappingProxyType({})):
    state = SimpleNamespace(step=step, model_dump_json=lambda: "{}")
    checkpointer.begin(state, metrics, lambda draft: [], 1.0, waits.wait_any)


@pytest.fixture
def store():
    store = Store("memory://bucket/hiccup")
    store.claim()
    yield store
    store._fs.rm("/bucket/hiccup", recursive=True)


@pytest.mark.parametrize("failing", ["check_owner", "begin"])
def test_a_hiccup_of_the_storage_costs_this_one_alone(store, failing):
    told = []
    checkpointer = Checkpointer(store, CheckpointSection(max_failures=2), [], told.append)
    begin(checkpointer, 1)
    facts = put_file(f"{store.root}/step-000001", STATE, lambda path: path.write_text("{}"))
    store.commit(f"{store.root}/step-000001", 1, dict([facts]))
    store.failing = failing
    begin(checkpointer, 2)
    begin(checkpointer, 3)
    assert [text.partition(":")[0] for text in told] == [f"[red]no checkpoint of step {step}" for step in (2, 3)]
    with pytest.raises(EnvironmentFault, match="does not answer"):
        begin(checkpointer, 4)
    assert store.open().name == "step-000001"


def test_who_was_replaced_ends_at_once(store):
    store.failing, store.error = "check_owner", TAKEN
    checkpointer = Checkpointer(store, CheckpointSection(max_failures=2), [], pytest.fail)
    with pytest.raises(OwnershipError):
        begin(checkpointer, 1)


def test_a_name_that_no_number_has_is_told_once_with_what_it_may_mean(store):
    told = []
    checkpointer = Checkpointer(store, CheckpointSection(best_by="pas_rate"), [], told.append)
    for step in (1, 2):
        begin(checkpointer, step, {"pass_rate": 0.5, "entropy": 1.0})
    assert len(told) == 1
    assert "checkpoint.best_by='pas_rate': step 1 has no such number (near: pass_rate)" in told[0]


@pytest.mark.parametrize("best_by", ["heldout_pass_at_1", "pass_rate"])
def test_a_number_that_only_some_steps_have_is_no_wrong_name(store, best_by):
    checkpointer = Checkpointer(store, CheckpointSection(best_by=best_by), [], pytest.fail)
    begin(checkpointer, 1, {"pass_rate": float("nan")})
