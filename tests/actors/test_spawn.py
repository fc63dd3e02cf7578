"""Joining and starting Ray: what a cluster must offer, and a pool with real containers in local mode."""

import sys
import threading
from dataclasses import replace

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group, placement_group_table

from pgrpo_ray.actors import cluster as cluster_module
from pgrpo_ray.actors import pool_metrics, reservation, spawn
from pgrpo_ray.actors.cluster import start_ray
from pgrpo_ray.actors.pools import RESOURCE
from pgrpo_ray.actors.reservation import ray_session
from pgrpo_ray.actors.roles import ExecutionRole
from pgrpo_ray.actors.spawn import spawn_pools
from pgrpo_ray.config import parse
from pgrpo_ray.config.placement import bundles
from pgrpo_ray.errors import EnvironmentFault
from pgrpo_ray.types import Problem, StdinCase, TestStyle

pytestmark = [pytest.mark.ray]

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module by name
ECHO = Problem("echo", "?", TestStyle.STDIN, (StdinCase("1\n", "1\n"), StdinCase("2\n", "2\n")))


def test_a_cluster_without_a_node_for_the_pools_is_refused():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 16, "include_dashboard": False})
    try:
        refuse({"cluster": {"address": cluster.address}}, "0 living nodes offer the resource `sandbox`")
        cluster.add_node(num_cpus=1, resources={"sandbox": 1})
        wanted = {"cluster": {"address": cluster.address}, "sandbox": {"placement": "with_gpus"}}
        refuse(wanted, "1 living nodes offer .* sandbox.placement=with_gpus")
    finally:
        cluster.shutdown()


@pytest.mark.parametrize(("failures", "attempts"), [(1, 2), (9, cluster_module.LOCAL_STARTS)])
def test_a_ray_of_our_own_that_misses_its_time_is_started_once_more(monkeypatch, failures, attempts):
    asked = []

    def init(**options):
        asked.append(options["address"])
        if len(asked) <= failures:
            raise Exception("The current node timed out during startup.")  # as bare as Ray's

    monkeypatch.setattr(cluster_module.ray, "init", init)
    if failures < attempts:
        start_ray("local", 1)
    else:
        with pytest.raises(EnvironmentFault, match="timed out during startup"):
            start_ray("local", 1)
    assert len(asked) == attempts
    asked.clear()
    with pytest.raises(EnvironmentFault, match="cannot be reached"):
        start_ray("10.0.0.1:6379", 1)
    assert len(asked) == 1  # somebody else's is not up to us


def test_a_node_whose_resource_another_run_holds_is_named(monkeypatch):
    monkeypatch.setattr(reservation, "RELEASE_TIMEOUT_S", 1.0)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 16, "include_dashboard": False})
    try:
        node = cluster.add_node(num_cpus=1, resources={RESOURCE: 1})
        config = parse({"cluster": {"address": cluster.address}})
        with ray_session(config):
            holder = ray.remote(num_cpus=0, resources={RESOURCE: 1})(Holder).remote()
            ray.get(holder.__ray_ready__.remote(), timeout=60)
            with pytest.raises(EnvironmentFault, match=rf"another run .*`sandbox` of .*\({node.node_id[:6]}\)"):
                reservation.check_free(reservation.check_room(config))
            ray.kill(holder)
            monkeypatch.setattr(reservation, "RELEASE_TIMEOUT_S", 10.0)
            reservation.check_free(reservation.check_room(config))
    finally:
        cluster.shutdown()


class Holder:
    pass


def test_a_pool_that_lacks_a_checker_cannot_start_and_says_so_to_all_who_wait():
    fetched, failures = [], []

    def fetch():
        fetched.append(True)
        return [replace(ECHO, checker="absent_module:check")]

    role = ExecutionRole(parse({}), "process", fetch, "execution pool on a node")

    def start():
        with pytest.raises(
            EnvironmentFault, match=r"execution pool on a node: .*'absent_module' cannot be imported"
        ) as e:
            role.start()
        failures.append(e)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(failures), len(fetched)) == (4, 1)


def test_metrics_go_on_after_an_error(monkeypatch):
    monkeypatch.setattr(pool_metrics, "PERIOD_S", 0.01)
    asked, twice = [], threading.Event()

    def stats():
        asked.append(True)
        if len(asked) > 1:
            twice.set()
        raise ValueError("no numbers now")

    metrics = pool_metrics.PoolMetrics()
    metrics.follow(stats)
    try:
        assert twice.wait(10)
    finally:
        metrics.close()


def refuse(tree, words):
    cure = r""".*ray start ... --resources='\{"sandbox": 1\}'.*KubeRay"""
    with pytest.raises(EnvironmentFault, match=words + cure), ray_session(parse(tree)):
        pytest.fail("the session began")
    assert not ray.is_initialized()


@pytest.mark.docker
def test_local_mode_offers_the_resource_itself_and_judges_in_containers(docker_engine, rollout_table):
    programs = ["print(input())", "print(1)", None, "while True: pass"]
    config = parse({"sandbox": {"slots": 1}})
    with ray_session(config):
        problems = ray.put([ECHO])
        pools = spawn_pools(config, "docker", problems)
        try:
            judging = pools.judge(ray.put(rollout_table("echo", programs)))
            assert pools.answer(judging, 60)["verdict"].to_pylist() == ["passed", "wrong_answer", None, "time_limit"]
            assert ray.get(judging.verdicts)["sandbox"].to_pylist() == ["docker", "docker", None, "docker"]
        finally:
            pools.close(5)


def test_rank_and_worker_of_a_pair_share_a_gpu_and_no_other():
    """GPUs that Ray is told of and nobody uses."""
    ray.init(address="local", num_cpus=8, num_gpus=2, include_dashboard=False, log_to_driver=False)
    try:
        config = parse(
            {
                "rollout": {"num_workers": 2, "gpus_per_worker": 1, "kv_cache_mib": 64},
                "learner": {"num_ranks": 2, "gpus_per_rank": 1},
                "cluster": {"colocate": True},
            }
        )
        config.check()
        pairs = reservation.reserve(config)
        actors = [*spawn.learner_ranks(config, "m", pairs), *spawn.rollout_workers(config, "m", pairs)]
        visible = [actor.__ray_call__.remote(lambda _: ray.get_gpu_ids()) for actor in actors]
        ranks_and_workers = ray.get(visible, timeout=60)
        assert ranks_and_workers[:2] == ranks_and_workers[2:]
        assert sorted(ranks_and_workers[:2]) == [[0], [1]]
    finally:
        ray.shutdown()


@pytest.fixture
def two_nodes():
    """A head for reward and learner, and a node for a rollout worker and a pool; what they offer is pretended."""
    marks = {"learner": 1, "reward": 1}
    cluster = Cluster(True, head_node_args={"num_cpus": 3, "include_dashboard": False, "resources": marks})
    cluster.add_node(num_cpus=2, resources={"rollout": 1, RESOURCE: 1})
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def on(nodes, wait_for_nodes_s=0.0, **sections):
    cluster = {"address": nodes.address, "pinned": ["rollout", "learner", "reward"], "startup_timeout_s": 2.0}
    return parse({"cluster": cluster | {"wait_for_nodes_s": wait_for_nodes_s}} | sections)


def test_pinned_roles_go_where_they_belong_and_a_second_run_is_told_who_has_the_room(two_nodes):
    config = on(two_nodes, learner={"num_ranks": 2})
    with ray_session(config):
        group = reservation.reserve(config)
        actors = [*spawn.learner_ranks(config, "m", group), *spawn.rollout_workers(config, "m", group)]
        where = [actor.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id()) for actor in actors]
        *ranks, worker = ray.get(where, timeout=60)
        marks = {node["NodeID"]: node["Resources"] for node in ray.nodes()}
        assert all("learner" in marks[node] for node in ranks) and "rollout" in marks[worker]
        with pytest.raises(
            EnvironmentFault, match=r"no room for 2 x learner \(1 CPU, `learner`\), 1 x rollout .* within"
        ):
            reservation.reserve(config)


@pytest.fixture
def one_marked_node():
    """A node for reward replicas, and a smaller one: Ray puts groups where most is left."""
    cluster = Cluster(True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    marked = cluster.add_node(num_cpus=8, resources={"reward": 1, RESOURCE: 1})
    cluster.add_node(num_cpus=4)
    yield cluster, marked
    ray.shutdown()
    cluster.shutdown()


def test_a_pinned_reward_server_keeps_its_place_from_ranks_and_workers_that_may_go_anywhere(one_marked_node):
    cluster, marked = one_marked_node
    tree = {"cluster": {"address": cluster.address, "pinned": ["reward"]}, "reward_model": {"threads": 8}}
    with ray_session(config := parse(tree)):
        with reservation.kept_for_reward(config, "passers"):
            group = reservation.reserve(config)
        where = set(placement_group_table(group)["bundles_to_node_id"].values())
        assert marked.node_id not in where
        replicas = placement_group([dict(bundles(config)[-1].takes)])
        assert replicas.wait(30)


def test_a_node_that_joins_late_is_asked_of_an_autoscaler_and_waited_for(two_nodes, monkeypatch):
    wanted = on(two_nodes, rollout={"num_workers": 3})
    words = r"rollout: 3 times \(1 CPU, `rollout`\) is wanted, the nodes can hold 2\. .* nodes are .*2 CPU, 1 rollout"
    with pytest.raises(EnvironmentFault, match=words), ray_session(wanted):
        pytest.fail("the session began")
    asked = []

    def scale(bundles):
        asked.append(bundles)
        if len(asked) == 2:  # as where the wish of another run has taken the first one's place
            two_nodes.add_node(num_cpus=1, resources={"rollout": 1})

    monkeypatch.setattr(reservation, "request_resources", scale)
    with ray_session(on(two_nodes, wait_for_nodes_s=60.0, rollout={"num_workers": 3})):
        assert len(reservation.offers()) == 3
    assert [len(bundles) for bundles in asked[:2]] == [7, 7]
    assert asked[-1] == []  # nothing is asked for any more
