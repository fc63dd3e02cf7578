"""When an attempt is lost: what is started again, what is waited for, what ends a run. Roles and nodes are scripted."""

import contextlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from pgrpo_ray import launch
from pgrpo_ray.actors import reservation
from pgrpo_ray.config import parse
from pgrpo_ray.errors import EnvironmentFault, LostError, OwnershipError
from pgrpo_ray.obs import checkpoints
from pgrpo_ray.obs.checkpoints import CheckpointStore

LOST, NO_ROOM = LostError("a rank died", "learner"), EnvironmentFault("no room")


@pytest.fixture
def training(tmp_path, monkeypatch):
    """Make a `Training` whose attempts go as a script says: (what its start raises, what its run raises), or None."""

    def make(script, **cluster):
        script, happened = iter(script), []

        @contextlib.contextmanager
        def fleet(config, *_):
            happened.append((config.rollout.num_workers, config.learner.num_ranks))
            made.starts, made.runs = next(script)
            if made.starts:
                raise made.starts
            yield "actors"

        def check_room(config, fewer):
            happened.append("fewer will do" if fewer else "all must fit")

        def run():
            if made.runs:
                raise made.runs
            return "done"

        config = parse(
            {
                "run": {"dir": str(tmp_path)},
                "rollout": {"num_workers": 2},
                "learner": {"num_ranks": 2},
                "cluster": {"pinned": ["rollout", "learner"], **cluster},
            }
        )
        reward = SimpleNamespace(sized=lambda config: config, scored="none")
        examined = SimpleNamespace(reward=reward, sandbox=SimpleNamespace(kind="process"))
        log = SimpleNamespace(rewind=lambda step: happened.append(f"rewound to {step}"))
        display = SimpleNamespace(note=lambda text: None, stage=lambda text: None)
        problems = SimpleNamespace(train=[], heldout=[])
        made = launch.Training(config, examined, None, problems, {}, log, display)
        made._driver = lambda actors, resumed: SimpleNamespace(run=run)
        for name, stands_in in (("fleet", fleet), ("check_room", check_room), ("rest_s", lambda attempts: 0.0)):
            monkeypatch.setattr(launch, name, stands_in)
        nodes = {"a": {"CPU": 8, "rollout": 1}, "b": {"CPU": 1, "learner": 1}}
        monkeypatch.setattr(launch, "offers", lambda: nodes)
        return made, happened

    return make


def test_a_start_that_finds_no_room_is_tried_again_where_a_node_may_be_lost(training):
    made, happened = training([(None, LOST), (NO_ROOM, None), (None, None)])
    assert made.run(None) == "done"
    again = ["all must fit", "rewound to 0", (2, 2)]
    assert happened == [(2, 2), *again, *again]


@pytest.mark.parametrize(
    "script", [[(NO_ROOM, None)], [(LOST, None)], [(None, NO_ROOM)], [(None, LOST), (None, NO_ROOM)]]
)
def test_the_first_start_and_a_fault_of_a_run_that_has_begun_are_not(training, script):
    made, _ = training([*script, (None, None)])
    with pytest.raises((EnvironmentFault, LostError), match=r"no room|a rank died"):
        made.run(None)


def test_starts_without_room_use_up_the_restarts(training):
    made, happened = training([(None, LOST), (NO_ROOM, None), (NO_ROOM, None), (None, None)], max_restarts=2)
    with pytest.raises(EnvironmentFault, match="no room"):
        made.run(None)
    assert happened.count((2, 2)) == 3


def test_who_goes_on_with_fewer_waits_until_those_fit(training):
    made, happened = training([(None, LOST), (None, None)], on_failure="go_on")
    assert made.run(None) == "done"
    assert happened == [(2, 1), "fewer will do", "rewound to 0", (2, 1)]


@pytest.mark.parametrize("when", ["during the attempt", "while nodes are waited for"])
def test_who_was_replaced_leaves_its_successors_files_alone(training, monkeypatch, when):
    made, happened = training([(None, LOST), (None, None)])
    store = CheckpointStore(made.config.checkpoint_root)
    store.claim()

    def take_over(*_, **__):
        with monkeypatch.context() as other:
            other.setattr(checkpoints, "_ME", "process 7 on elsewhere")
            store.claim()
            return store.begin(3)

    if when == "during the attempt":
        draft = Path(take_over())
    else:
        monkeypatch.setattr(launch, "check_room", take_over)
    with pytest.raises(OwnershipError, match="process 7 on elsewhere"):
        made.run(None)
    assert happened == [(2, 2)]
    assert when != "during the attempt" or draft.is_dir()


def test_room_for_fewer_is_enough_and_none_is_waited_for(monkeypatch):
    config = parse(
        {
            "rollout": {"num_workers": 4},
            "learner": {"num_ranks": 4},
            "cluster": {"pinned": ["rollout", "learner"], "wait_for_nodes_s": 60.0},
        }
    )
    learners = {"a": {"CPU": 5, "learner": 1}}
    later = iter([learners, learners, learners | {"b": {"CPU": 1, "rollout": 1}}])
    monkeypatch.setattr(reservation, "offers", lambda: next(later))
    monkeypatch.setattr(reservation, "sandbox_nodes", lambda config: ["c"])
    wishes = []
    monkeypatch.setattr(reservation, "request_resources", lambda bundles: wishes.append(len(bundles)))
    monkeypatch.setattr(reservation, "NODES_PAUSE_S", 0.0)
    assert reservation.check_room(config, fewer=True) == ["c"]
    assert next(later, None) is None
    assert wishes == [10, 10, 0]  # all of them, each time, as another run's wish may have taken its place; then none
    monkeypatch.setattr(reservation, "offers", lambda: learners)
    hasty = config.model_copy(update={"cluster": config.cluster.model_copy(update={"wait_for_nodes_s": 0.0})})
    with pytest.raises(EnvironmentFault, match=r"rollout: 4 times .* the nodes can hold 0\. .*nodes are a: 5 CPU"):
        reservation.check_room(hasty, fewer=True)


@pytest.mark.parametrize(
    ("pinned", "scored", "kept"),
    [(["reward"], "passers", True), (["reward"], "none", False), (["rollout"], "passers", False)],
)
def test_room_of_pinned_replicas_is_kept_while_the_others_is_reserved(monkeypatch, pinned, scored, kept):
    happened = []

    def placement_group(wanted, strategy):
        group = SimpleNamespace(wait=lambda timeout_s: True, what=[set(takes) for takes in wanted])
        happened.append(("reserved", group.what))
        return group

    monkeypatch.setattr(reservation, "placement_group", placement_group)
    monkeypatch.setattr(reservation, "remove_placement_group", lambda group: happened.append(("freed", group.what)))
    config = parse({"cluster": {"pinned": pinned}, "reward_model": {"replicas": 2}})
    with reservation.kept_for_reward(config, scored):
        happened.append("the others")
    replicas = [{"CPU", "reward"}] * 2
    assert happened == ([("reserved", replicas), "the others", ("freed", replicas)] if kept else ["the others"])
