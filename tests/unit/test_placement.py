"""Which nodes hold a run: numbers by hand on small clusters."""

import pytest

from pgrpo_ray.config import parse
from pgrpo_ray.config.placement import PIN, Bundle, bundles, fitted, lacking, place

CPU_NODE, GPU_NODE = {"CPU": 8.0, "sandbox": 1.0}, {"CPU": 16.0, "GPU": 2.0}


def config(**cluster):
    return parse(
        {
            "rollout": {"num_workers": 2, "gpus_per_worker": 1, "threads_per_worker": 3, "kv_cache_mib": 64},
            "learner": {"num_ranks": 2, "gpus_per_rank": 1, "threads_per_rank": 4},
            "reward_model": {"replicas": 1, "threads": 2},
            "cluster": cluster,
        }
    )


def test_what_each_process_takes():
    rank, _, worker, _, replica = bundles(config(pinned=["rollout"]))
    assert rank == Bundle("learner", {"CPU": 4, "GPU": 1})
    assert worker == Bundle("rollout", {"CPU": 3, "GPU": 1, "rollout": PIN})
    assert replica == Bundle("reward", {"CPU": 2})
    assert str(worker) == "3 CPU, 1 GPU, `rollout`"


def test_a_pair_that_shares_a_gpu_takes_it_once():
    pair, _, replica = bundles(config(colocate=True, pinned=["learner", "rollout"]))
    assert pair.takes == {"CPU": 7, "GPU": 1, "learner": PIN, "rollout": PIN}
    assert replica.role == "reward"


def test_roles_land_where_they_belong():
    wanted = bundles(config(pinned=["rollout", "learner", "reward"]))
    nodes = {
        "a": GPU_NODE | {"learner": 1.0},
        "b": GPU_NODE | {"rollout": 1.0},
        "c": CPU_NODE | {"reward": 1.0},
        "d": GPU_NODE,
    }
    assert place(wanted, nodes) == ["a", "a", "b", "b", "c"]
    assert lacking(wanted, nodes) == []


def test_what_needs_no_gpu_leaves_gpu_nodes_alone():
    wanted = bundles(config())
    assert place(wanted, {"gpu": GPU_NODE | {"GPU": 4.0}, "cpu": CPU_NODE}) == ["gpu"] * 4 + ["cpu"]


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ({"a": GPU_NODE, "b": CPU_NODE}, ["all roles together take 4 GPUs, the nodes have 2"]),
        ({"a": CPU_NODE}, ["learner: 2 times (4 CPU, 1 GPU) is wanted, the nodes can hold 0", "rollout: 2 times"]),
        ({}, ["the nodes have 0"]),
        ({"a": {"CPU": 3.0, "GPU": 9.0}, "b": {"CPU": 3.0}, "c": {"CPU": 99.0}}, ["learner: 2 times"]),
    ],
)
def test_what_is_missing_is_said(nodes, words):
    said = lacking(bundles(config()), nodes)
    assert all(any(word in line for line in said) for word in words), said


def test_a_resource_that_no_node_offers_is_named():
    (line,) = lacking(bundles(config(pinned=["reward"])), {"a": GPU_NODE | {"GPU": 4.0, "CPU": 99.0}})
    assert line == "reward: 1 times (2 CPU, `reward`) is wanted, the nodes can hold 0"


def test_one_mark_is_enough_for_a_thousand_processes():
    wanted = [Bundle("rollout", {"CPU": 1, "rollout": PIN})] * 1000
    assert None not in place(wanted, {"a": {"CPU": 1000.0, "rollout": 1.0}})


PINNED, PAIRS = {"pinned": ["rollout", "learner"]}, {"pinned": ["rollout", "learner"], "colocate": True}


@pytest.mark.parametrize(
    ("cluster", "nodes", "left"),
    [
        (PINNED, [{"CPU": 8, "GPU": 4, "learner": 1}, {"CPU": 8, "GPU": 4, "rollout": 1}], (4, 4)),
        (PINNED, [{"CPU": 2, "GPU": 2, "learner": 1}, {"CPU": 8, "GPU": 4, "rollout": 1}], (4, 2)),  # who lacks room
        (PINNED, [{"CPU": 8, "GPU": 4, "learner": 1}, {"CPU": 3, "GPU": 3, "rollout": 1}], (3, 4)),
        (PINNED, [{"CPU": 8, "GPU": 4, "learner": 1}], (4, 4)),  # one has no node: in vain, and told by a later check
        (PAIRS, [{"CPU": 9, "GPU": 2, "learner": 1, "rollout": 1}], (2, 2)),
        ({}, [{"CPU": 16, "GPU": 4}], (2, 2)),
        ({}, [{"CPU": 16, "GPU": 4}, {"CPU": 16, "GPU": 3}], (3, 4)),
        ({}, [{"CPU": 16, "GPU": 2}, {"CPU": 16}], (1, 1)),
        ({}, [{"CPU": 16, "GPU": 1}], (1, 1)),  # one of each stays
        ({}, [], (4, 4)),
    ],
)
def test_what_the_nodes_that_are_left_can_hold(cluster, nodes, left):
    tree = {
        "rollout": {"num_workers": 4, "gpus_per_worker": 1, "kv_cache_mib": 64},
        "learner": {"num_ranks": 4, "gpus_per_rank": 1},
        "reward_model": {"replicas": 1},
        "cluster": cluster,
    }
    fit = fitted(parse(tree), dict(enumerate(nodes)))
    assert (fit.rollout.num_workers, fit.learner.num_ranks) == left


def test_several_give_way_to_a_replica_that_takes_more_than_one():
    tree = {
        "rollout": {"num_workers": 4, "gpus_per_worker": 1, "kv_cache_mib": 64},
        "learner": {"num_ranks": 1},
        "reward_model": {"replicas": 1, "threads": 4},
    }
    fit = fitted(parse(tree), {"a": {"CPU": 6.0, "GPU": 8.0}})
    assert (fit.rollout.num_workers, fit.learner.num_ranks) == (1, 1)
