"""Joining and starting Ray: what a cluster must offer, and a pool with real containers in local mode."""

import pytest
import ray
from ray.cluster_utils import Cluster

from pgrpo_ray.actors.spawn import _spawn_pools, ray_session
from pgrpo_ray.config import parse
from pgrpo_ray.errors import EnvironmentFault
from pgrpo_ray.types import Problem, StdinCase, TestStyle

pytestmark = [pytest.mark.ray]


def test_a_cluster_without_a_node_for_the_pools_is_refused():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 16, "include_dashboard": False})
    try:
        refuse({"cluster": {"address": cluster.address}}, "0 living nodes offer the resource `sandbox`")
        cluster.add_node(num_cpus=1, resources={"sandbox": 1})
        wanted = {"cluster": {"address": cluster.address}, "sandbox": {"placement": "with_gpus"}}
        refuse(wanted, "1 living nodes offer .* sandbox.placement=with_gpus")
    finally:
        cluster.shutdown()


def refuse(tree, words):
    cure = r""".*ray start ... --resources='\{"sandbox": 1\}'.*KubeRay"""
    with pytest.raises(EnvironmentFault, match=words + cure), ray_session(parse(tree)):
        pytest.fail("the session began")
    assert not ray.is_initialized()


@pytest.mark.docker
def test_local_mode_offers_the_resource_itself_and_judges_in_containers(docker_engine, rollout_table):
    problem = Problem("echo", "?", TestStyle.STDIN, (StdinCase("1\n", "1\n"), StdinCase("2\n", "2\n")))
    programs = ["print(input())", "print(1)", None, "while True: pass"]
    config = parse({"sandbox": {"slots": 1}})
    with ray_session(config):
        problems = ray.put([problem])
        pools = _spawn_pools(config, "docker", problems)
        try:
            judging = pools.judge(ray.put(rollout_table("echo", programs)))
            assert pools.answer(judging, 60)["verdict"].to_pylist() == ["passed", "wrong_answer", None, "time_limit"]
            assert ray.get(judging.verdicts)["sandbox"].to_pylist() == ["docker", "docker", None, "docker"]
        finally:
            pools.close(5)
