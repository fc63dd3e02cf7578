"""What is told of actors whose node is dead, stuck or out of memory: each test starts a Ray of its own."""

import os
import signal
import sys
import time

import pytest
import ray
from ray._common.utils import get_system_memory
from ray._private.utils import get_used_memory
from ray.cluster_utils import Cluster
from ray.exceptions import RayError

from pgrpo_ray.actors import watchdog as watchdog_module
from pgrpo_ray.actors.cluster import actor_class
from pgrpo_ray.actors.postmortem import describe_death
from pgrpo_ray.actors.watchdog import Watchdog

pytestmark = [pytest.mark.ray]

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module by name
QUICK = {
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
    "health_check_initial_delay_ms": 500,
}
"""Ray declares a node dead after 2 s instead of 15."""


class Worker:
    def take(self, mib):
        self.taken = []
        for _ in range(0, mib, 64):
            self.taken.append(b"x" * (64 << 20))
            time.sleep(0.02)
        time.sleep(60)


@pytest.fixture
def far_worker(request):
    """Start a head, a node, and a worker there; return the node, the worker and its pulse."""
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": request.param}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        node = cluster.add_node(num_cpus=1, resources={"there": 1})
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        actor = actor_class(Worker, cpus=0, threads=1, resources={"there": 1}).remote()
        pulse = ray.get(actor.ping.remote(), timeout=60)
        assert pulse.node_id == node.node_id
        yield cluster, node, actor, pulse
    finally:
        ray.shutdown()
        cluster.shutdown()


def error_of(ref):
    with pytest.raises(RayError) as caught:
        ray.get(ref, timeout=60)
    return caught.value


@pytest.mark.parametrize("far_worker", [QUICK], indirect=True, ids=["quick"])
def test_a_dead_node_is_named_and_not_asked(far_worker):
    cluster, node, actor, pulse = far_worker
    cluster.remove_node(node, allow_graceful=False)
    error = error_of(actor.take.remote(0))
    start = time.monotonic()
    death = describe_death(actor, error, "rollout worker 0", pulse=pulse)
    assert time.monotonic() - start < 5
    assert death.reason.startswith(f"its node {node.node_id[:6]} died (")
    assert death.node_alive is False
    assert death.note == "What it wrote last lies on its node, which is dead."
    assert (death.pid, death.log_lines, death.node_total_bytes) == (pulse.pid, (), 0)


@pytest.mark.parametrize("far_worker", [{}], indirect=True, ids=["patient"])
def test_a_stuck_node_is_not_waited_for(far_worker, monkeypatch):
    _, node, actor, pulse = far_worker
    monkeypatch.setattr(watchdog_module, "EXAMINE_S", 4.0)
    dog = Watchdog(2.0, 30.0)
    dog.watch("rollout worker 0", actor)
    while not dog._watched["rollout worker 0"].pulse:
        dog.look()
        time.sleep(0.1)
    processes = (node.all_processes["raylet"][0].process.pid, pulse.pid)
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        start, longest = time.monotonic(), 0.0
        while not (seen := dog.look()).silent:
            assert time.monotonic() - start < 14, seen
            time.sleep(0.2)
            before = time.monotonic()
            dog.look()
            longest = max(longest, time.monotonic() - before)
        assert str(seen.silent[0]).endswith("its node did not examine it within 4 s either.")
        assert longest < 0.5  # a look waits for nobody
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)


def test_one_that_rays_memory_monitor_killed(monkeypatch):
    used, total = get_used_memory(), get_system_memory()
    if total - used < 10 << 30:
        pytest.skip("less than 10 GiB of memory are free")
    # The monitor looks at the whole machine: 4 GiB for Ray and what others take meanwhile, 4 more for what they free.
    enough = used + (4 << 30)
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{enough / total:.4f}")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        actor = actor_class(Worker, cpus=0, threads=1).remote()
        pulse = ray.get(actor.ping.remote(), timeout=60)
        death = describe_death(actor, error_of(actor.take.remote(8 << 10)), "reward replica", pulse=pulse)
        assert death.reason.startswith("killed by Ray's memory monitor, as its node ran out of memory (")
        assert death.resident_bytes > 1 << 30
        assert death.note == ""  # the node tells, though it was short of memory a moment before
        assert death.pid == pulse.pid
    finally:
        ray.shutdown()
