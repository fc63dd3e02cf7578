"""Who may do what: pod security, who reaches whom, what a sandbox pod holds, limits of every container."""

from collections.abc import Callable

import pytest
import yaml
from conftest import MATRIX, NAMESPACE, SECRETS, Release, containers
from kuberay_rules import quantity
from pod_rules import connects, pod_security

ENGINE_BREAKS = {
    "sysbox": set(),
    "gvisor": {"engine: capabilities"},
    "host-socket": {"hostPath"},
}
"""What a sandbox pod breaks of the baseline, by entry of the matrix; all others are privileged."""
MODES = [name for name in MATRIX if name not in {"single-node", *ENGINE_BREAKS}]


def test_all_pods_but_the_sandbox_are_restricted(release: Release) -> None:
    broken = {role: pod_security(pod["spec"])[1] for role, pod in release.pods.items() if role != "sandbox"}
    assert not any(broken.values()), broken
    if autoscaler := release.cluster.get("autoscalerOptions"):
        head = release.pods["head"]["spec"]
        assert pod_security({**head, "containers": [{"name": "autoscaler", **autoscaler}]})[1] == set()


@pytest.mark.parametrize("name", MODES)
def test_of_a_sandbox_pod_the_engine_alone_is_privileged(render: Callable[..., Release], name: str) -> None:
    baseline, restricted = pod_security(render(MATRIX[name]).pods["sandbox"]["spec"])
    assert baseline == {"engine: privileged"}
    assert {rule.partition(":")[0] for rule in restricted} == {"engine"}


@pytest.mark.parametrize("name", ENGINE_BREAKS)
def test_hardened_engines_are_not_privileged(render: Callable[..., Release], name: str) -> None:
    spec = render(MATRIX[name]).pods["sandbox"]["spec"]
    assert pod_security(spec)[0] == ENGINE_BREAKS[name]
    assert spec.get("runtimeClassName") == {"sysbox": "sysbox-runc", "gvisor": "gvisor"}.get(name)


def test_the_profiles_are_checked(render: Callable[..., Release]) -> None:
    """The checks can fail: a container without a securityContext breaks what it should."""
    spec = {"containers": [{"name": "ray", "image": "x"}], "hostNetwork": True, "volumes": [{"name": "a", "nfs": {}}]}
    baseline, restricted = pod_security(spec)
    assert baseline == {"hostNetwork"}
    rules = {f"ray: {rule}" for rule in ("escalation", "root", "seccomp", "capabilities")}
    assert restricted == {"hostNetwork", "volume nfs", *rules}


def test_a_sandbox_pod_holds_nothing_of_yours(release: Release) -> None:
    pod = release.pods["sandbox"]["spec"]
    text = yaml.safe_dump(pod)
    for word in ("secret", "persistentVolumeClaim", "projected", "serviceAccountToken", "configMap", "HF_", "nvidia"):
        assert word not in text, word
    assert pod["automountServiceAccountToken"] is False
    assert pod["serviceAccountName"] != release.pods["head"]["spec"]["serviceAccountName"]
    accounts = release.of("ServiceAccount")
    assert "annotations" not in accounts.get(pod["serviceAccountName"], {"metadata": {}})["metadata"]


def test_others_get_the_secrets_by_reference(render: Callable[..., Release]) -> None:
    release = render({"secretEnv": SECRETS})
    reference = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}
    having = {role for role, pod in release.pods.items() if reference in pod["spec"]["containers"][0].get("env", [])}
    assert having == {"head", "rollout", "learner", "reward", "test"}
    assert not release.of("Secret")


def test_only_the_socket_mode_mounts_the_node(release: Release, request: pytest.FixtureRequest) -> None:
    mounted = [role for role, pod in release.pods.items() if "hostPath" in yaml.safe_dump(pod)]
    assert mounted == (["sandbox"] if "host-socket" in request.node.name else [])


def test_every_container_has_limits_and_asks_for_no_less(release: Release) -> None:
    for role, pod in release.pods.items():
        for container in containers(pod):
            resources = container["resources"]
            assert {"cpu", "memory"} <= resources["limits"].keys(), (role, container["name"])
            assert resources["requests"] == resources["limits"], (role, container["name"])
        for volume in pod["spec"].get("volumes", []):
            assert "sizeLimit" in volume.get("emptyDir", {"sizeLimit": None}), (role, volume)


def test_shared_memory_leaves_room(release: Release) -> None:
    """/dev/shm counts as memory of the container: full, it must not be what the kernel kills for."""
    for role, pod in release.pods.items():
        for volume in pod["spec"].get("volumes", []):
            if volume["name"] == "shm":
                memory = pod["spec"]["containers"][0]["resources"]["limits"]["memory"]
                assert quantity(volume["emptyDir"]["sizeLimit"]) <= quantity(memory) / 2, role


def test_the_engine_starts_before_ray_and_ends_after_it(render: Callable[..., Release]) -> None:
    image, engine, load = render().pods["sandbox"]["spec"]["initContainers"]
    assert (image["name"], engine["name"], load["name"]) == ("image", "engine", "load")
    assert engine["restartPolicy"] == "Always" and "startupProbe" in engine
    socket = "unix:///run/pgrpo/docker.sock"
    assert f"--host={socket}" in engine["command"] and f"--host={socket}" in load["command"]
    (ray,) = render().pods["sandbox"]["spec"]["containers"]
    assert {"name": "DOCKER_HOST", "value": socket} in ray["env"]
    assert f"--group={render().pods['sandbox']['spec']['securityContext']['runAsGroup']}" in engine["command"]


def _pod(release: Release, role: str) -> tuple[str, dict[str, str]]:
    return NAMESPACE, release.pods[role]["metadata"]["labels"]


OPERATOR = ("kuberay-system", {"app.kubernetes.io/name": "kuberay-operator"})
DNS = ("kube-system", {"k8s-app": "kube-dns"})
STRANGER = (NAMESPACE, {"app": "stranger"})
INTERNET = ("elsewhere", {})


def test_the_policy_selects_exactly_the_sandbox(render: Callable[..., Release]) -> None:
    release = render()
    policies = release.of("NetworkPolicy").values()
    isolated = {role for role in release.pods if not connects(policies, NAMESPACE, _pod(release, role), INTERNET, 443)}
    assert isolated == {"sandbox"}
    other = render(name="other")
    assert connects(policies, NAMESPACE, _pod(other, "sandbox"), INTERNET, 443), "a policy reaches into another release"


@pytest.mark.parametrize(
    ("source", "target", "port", "allowed"),
    [
        ("sandbox", "head", 6379, True),
        ("sandbox", "rollout", 6381, True),  # objects that wait at the node that made them
        ("head", "sandbox", 10002, True),  # the driver calls the pool
        ("sandbox", "head", 8265, False),  # submitting jobs
        ("sandbox", "head", 10001, False),
        ("sandbox", "learner", 22, False),
        ("sandbox", DNS, 53, True),
        ("sandbox", DNS, 443, False),
        ("sandbox", INTERNET, 443, False),
        ("sandbox", INTERNET, 6379, False),
        ("sandbox", STRANGER, 6379, False),
        (STRANGER, "sandbox", 10002, False),
        (STRANGER, "head", 8265, False),
        (STRANGER, "learner", 6379, False),
        (OPERATOR, "head", 8265, True),
        (OPERATOR, "learner", 29500, False),
        ("submitter", "head", 8265, True),
        ("learner", "rollout", 29500, True),  # gloo and NCCL open any port
        ("learner", "sandbox", 29500, False),
        ("rollout", INTERNET, 443, True),
    ],
)
def test_who_reaches_whom(render: Callable[..., Release], source, target, port: int, allowed: bool) -> None:
    release = render()
    ends = [_pod(release, end) if isinstance(end, str) else end for end in (source, target)]
    assert connects(release.of("NetworkPolicy").values(), NAMESPACE, *ends, port) is allowed


def test_rays_ports_are_those_that_the_policy_opens(release: Release) -> None:
    """A port that Ray draws at random would be closed to the sandbox."""
    for group in (release.cluster["headGroupSpec"], *release.groups.values()):
        ports = {key: int(value) for key, value in group["rayStartParams"].items() if key.endswith("-port")}
        workers = ports.pop("min-worker-port"), ports.pop("max-worker-port")
        assert workers == (10002, 19999)
        expected = {"node-manager", "object-manager", "runtime-env-agent", "dashboard-agent-grpc"}
        assert ports.keys() == {f"{name}-port" for name in expected}
        assert all(6379 < port <= 6383 for port in ports.values())


def test_ray_takes_the_ports(render: Callable[..., Release]) -> None:
    """By Ray's own check, beside KubeRay's and the head's: none stands twice, none is a worker's."""
    from ray._private.parameter import RayParams

    params = {key: int(value) for key, value in render().groups["rollout"]["rayStartParams"].items()}
    named = {key.replace("-", "_"): port for key, port in params.items()}
    named["metrics_agent_port"] = named.pop("dashboard_agent_grpc_port")  # as `ray start` hands it on
    others = {"gcs_server_port": 6379, "ray_client_server_port": 10001, "dashboard_port": 8265}
    others |= {"metrics_export_port": 8080, "dashboard_agent_listen_port": 52365}
    RayParams(**named, **others).update_pre_selected_port()
    with pytest.raises(ValueError, match="worker_ports"):
        RayParams(**named | {"object_manager_port": 10005}, **others).update_pre_selected_port()


def test_prometheus_reaches_the_metrics_where_it_is_named(render: Callable[..., Release]) -> None:
    prometheus = ("monitoring", {})
    for values, allowed in ((MATRIX["multi-node"], True), ({}, False)):
        release = render(values)
        for role in ("head", "learner", "sandbox"):
            ends = prometheus, _pod(release, role)
            assert connects(release.of("NetworkPolicy").values(), NAMESPACE, *ends, 8080) is allowed
            assert not connects(release.of("NetworkPolicy").values(), NAMESPACE, *ends, 8265)


def test_the_budget_holds_head_and_learners(render: Callable[..., Release]) -> None:
    release = render(MATRIX["multi-node"])
    budgets = release.of("PodDisruptionBudget")
    assert {name: one["spec"]["minAvailable"] for name, one in budgets.items()} == {"demo-head": 1, "demo-learner": 2}
    for role, pod in release.pods.items():
        labels = pod["metadata"]["labels"].items()
        held = [name for name, one in budgets.items() if one["spec"]["selector"]["matchLabels"].items() <= labels]
        assert held == ([f"demo-{role}"] if role in {"head", "learner"} else [])


def test_weak_settings_are_told(render: Callable[..., Release]) -> None:
    assert "privileged" in render().notes
    assert "privileged" not in render(MATRIX["sysbox"]).notes
    assert "root on the node" in render(MATRIX["host-socket"]).notes
    assert "auth.enabled" in render(MATRIX["open"]).notes and "networkPolicy.enabled" in render(MATRIX["open"]).notes
