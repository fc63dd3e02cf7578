"""Execution pools on a cluster of several nodes, all on this machine, with the real pool over the process sandbox.

What Ray sees is a cluster: nodes die, processes are killed, resources differ. What it shares is one machine and one
address, so nothing here says how networks fail.
"""

import os
import re
import signal
import sys
import time
import urllib.request

import pytest
import ray
from ray.cluster_utils import Cluster

from pgrpo_ray.actors.pools import RESOURCE, sandbox_nodes
from pgrpo_ray.actors.spawn import spawn_pools
from pgrpo_ray.config import parse
from pgrpo_ray.types import CallCase, Problem, TestStyle

pytestmark = [pytest.mark.ray]

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module by name
PROBLEM = Problem("double", "?", TestStyle.CALL, (CallCase([2], 4), CallCase([3], 6)), entry_point="double")
RIGHT, WRONG = "def double(x): return 2 * x", "def double(x): return x"
SLOW = "import time\ntime.sleep(8)\ndef double(x): return 2 * x"


@pytest.fixture(scope="module")
def cluster():
    """A head without the resource, and a node with it on each side of the placement filter; one GPU is pretended."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    cluster.beside = cluster.add_node(num_cpus=1, num_gpus=1, resources={RESOURCE: 1})
    cluster.apart = cluster.add_node(num_cpus=1, resources={RESOURCE: 1})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def config(placement="anywhere", deadline_s=1200.0, startup_timeout_s=300.0):
    return parse(
        {
            "sandbox": {"placement": placement, "slots": 2, "backend": "process", "deadline_s": deadline_s},
            "cluster": {"startup_timeout_s": startup_timeout_s},
        }
    )


@pytest.fixture
def make_pools(cluster):
    opened, problems = [], ray.put([PROBLEM])

    def make(placement="anywhere", **seconds):
        pools = spawn_pools(config(placement, **seconds), "process", problems)
        opened.append(pools)
        ray.get([actor.start.remote() for actor in pools.actors], timeout=60)
        return pools

    yield make
    for pools in opened:
        pools.close(5)
        for actor in pools.actors:
            ray.kill(actor)


def finish(pools, judgings):
    """Follow groups to their end, as the driver does; return the verdicts of each."""
    scalars = []
    for judging in judgings:
        while (table := pools.answer(judging, 60)) is None:
            judging = pools.again(judging)
        scalars.append(table["verdict"].to_pylist())
    return scalars


@ray.remote(num_cpus=0)
def sampled(table):
    """A group as a small object that travels within messages.

    Ray 2.60 may try to pull a large one from a node that just died, for 10 s at a time, until it knows of the death.
    """
    return table


def node_and_pid(_):
    return ray.get_runtime_context().get_node_id(), os.getpid()


def whereabouts(pools):
    return [ray.get(actor.__ray_call__.remote(node_and_pid), timeout=60) for actor in pools.actors]


def test_placement_chooses_among_the_nodes_with_the_resource(cluster):
    ids = {
        placement: {node.id for node in sandbox_nodes(config(placement))}
        for placement in ("anywhere", "with_gpus", "without_gpus")
    }
    assert ids == {
        "anywhere": {cluster.beside.node_id, cluster.apart.node_id},
        "with_gpus": {cluster.beside.node_id},
        "without_gpus": {cluster.apart.node_id},
    }


def test_one_pool_on_each_such_node_and_every_verdict_is_right(cluster, make_pools, rollout_table):
    pools = make_pools()
    assert {node for node, _ in whereabouts(pools)} == {cluster.beside.node_id, cluster.apart.node_id}
    group = sampled.remote(rollout_table("double", [RIGHT, WRONG, None]))
    assert finish(pools, [pools.judge(group) for _ in range(6)]) == [["passed", "wrong_answer", None]] * 6


def test_a_pool_killed_in_mid_judge_answers_all(make_pools, rollout_table):
    pools = make_pools("without_gpus")
    judgings = [pools.judge(sampled.remote(rollout_table("double", [SLOW, WRONG]))) for _ in range(3)]
    ((node, pid),) = whereabouts(pools)
    ready, _ = ray.wait([judging.scalars for judging in judgings], timeout=0.5)
    assert not ready
    os.kill(pid, signal.SIGKILL)
    assert finish(pools, judgings) == [["passed", "wrong_answer"]] * 3
    ((node_after, pid_after),) = whereabouts(pools)
    assert node_after == node
    assert pid_after != pid
    assert pools.counts().judged_again == 0  # Ray restarted it, and it judged again itself


def test_what_a_stopped_process_keeps_another_judges(make_pools, rollout_table):
    pools = make_pools(deadline_s=10.0, startup_timeout_s=10.0)
    pid = dict(zip(pools.by_name, whereabouts(pools), strict=True))[next(iter(pools.by_name))][1]
    os.kill(pid, signal.SIGSTOP)
    try:
        judging = pools.judge(sampled.remote(rollout_table("double", [RIGHT, WRONG])))
        ready, _ = ray.wait([judging.scalars], timeout=20.5)
        assert not ready
        assert pools.overdue([judging]) == [judging]
        assert finish(pools, [judging]) == [["passed", "wrong_answer"]]
        assert pools.counts().judged_again == 1
    finally:
        os.kill(pid, signal.SIGCONT)


def test_what_a_dying_node_had_another_judges(cluster, make_pools, rollout_table):
    dying = cluster.add_node(num_cpus=1, resources={RESOURCE: 1})
    try:
        pools = make_pools("without_gpus")
        judgings = [pools.judge(sampled.remote(rollout_table("double", [SLOW, WRONG]))) for _ in range(4)]
        ready, _ = ray.wait([judging.scalars for judging in judgings], timeout=0.5)
        assert not ready
    finally:
        cluster.remove_node(dying, allow_graceful=False)
    assert finish(pools, judgings) == [["passed", "wrong_answer"]] * 4
    assert pools.counts().judged_again == 2


def test_the_nodes_metrics_port_tells_what_the_pool_did(cluster, make_pools, rollout_table):
    pools = make_pools("with_gpus")
    (worker,) = [ray.get(actor.__ray_call__.remote(worker_id), timeout=60) for actor in pools.actors]
    finish(pools, [pools.judge(sampled.remote(rollout_table("double", [RIGHT, WRONG, WRONG])))])
    port = next(node["MetricsExportPort"] for node in ray.nodes() if node["NodeID"] == cluster.beside.node_id)
    wanted = {"queued": 0, "running": 0, "verdicts_total:passed": 1, "verdicts_total:wrong_answer": 2}
    wanted |= {"verdict_seconds_count": 3}
    deadline = time.monotonic() + 60  # Ray exports every 10 s
    while not wanted.items() <= (seen := exported(port, worker)).items():
        assert time.monotonic() < deadline, seen
        time.sleep(0.5)


def worker_id(_):
    return ray.get_runtime_context().get_worker_id()


def exported(port, worker):
    """Our numbers of one process at a node's metrics port: name, with the verdict behind a colon, to value.

    Those of other processes stay there for 2 minutes after their death.
    """
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    lines = re.findall(r"^ray_pgrpo_sandbox_(\w+)\{(.*)\} (\S+)$", text, re.MULTILINE)
    lines = [line for line in lines if f'WorkerId="{worker}"' in line[1]]
    verdicts = [re.search(r'verdict="(\w+)"', labels) for _, labels, _ in lines]
    names = [name + (f":{found[1]}" if found else "") for (name, _, _), found in zip(lines, verdicts, strict=True)]
    return {name: float(value) for name, (_, _, value) in zip(names, lines, strict=True)}
