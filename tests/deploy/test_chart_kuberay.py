"""KubeRay takes what the chart renders: its CRDs, its operator's rules, and Ray's own reading of the resources."""

import copy
from collections.abc import Callable

import pytest
from conftest import MATRIX, NAMESPACE, Release, crd_folder
from kuberay_rules import Crd, operator_findings, pod_findings


@pytest.fixture(scope="session")
def crds() -> dict[str, Crd]:
    """KubeRay's custom resources by kind; skips where they are not at hand."""
    folder = crd_folder()
    if folder is None:
        pytest.skip("KubeRay's CRDs are absent: PGRPO_CRDS names a folder with ray.io_rayjobs.yaml.gz and its like")
    return {"RayJob": Crd(folder / "ray.io_rayjobs.yaml.gz"), "RayCluster": Crd(folder / "ray.io_rayclusters.yaml.gz")}


def test_the_api_server_takes_it(release: Release, crds) -> None:
    assert crds[release.ray["kind"]].findings(release.ray) == []


def test_the_api_server_takes_what_is_kubernetes_own(release: Release, crds) -> None:
    """Pods, claims and rules of policies, by the parts of Kubernetes' schemas that KubeRay's CRDs quote."""
    cluster = "spec", "rayClusterSpec"
    pod = *cluster, "headGroupSpec", "template"
    claim = *pod, "spec", "volumes", "items", "ephemeral", "volumeClaimTemplate", "spec"
    findings = []
    for one in release.of("Pod").values():
        findings += crds["RayJob"].findings(one["spec"], *pod, "spec")
    for one in release.of("PersistentVolumeClaim").values():
        findings += crds["RayJob"].findings(one["spec"], *claim)
    for one in release.of("NetworkPolicy").values():
        for side, rules in (("ingress", "ingressRules"), ("egress", "egressRules")):
            value = one["spec"].get(side, [])
            findings += crds["RayJob"].findings(value, *cluster, "networkPolicy", "head", rules)
    assert findings == []


def test_the_operator_takes_it(release: Release) -> None:
    assert operator_findings(release.ray) == []


def test_pods_are_whole(release: Release) -> None:
    assert [(role, one) for role, pod in release.pods.items() for one in pod_findings(pod)] == []


def _worker(ray: dict) -> dict:
    return ray["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]


@pytest.mark.parametrize(
    ("spoil", "finding"),
    [
        (lambda ray: _worker(ray).update(replica=1), "'replica' was unexpected"),
        (lambda ray: _worker(ray)["rayStartParams"].update({"num-cpus": 0}), "0 is not of type 'string'"),
        (lambda ray: _worker(ray)["template"]["spec"].update(runtimeClass="x"), "'runtimeClass' was unexpected"),
        (
            lambda ray: _worker(ray)["template"]["spec"]["containers"][0]["resources"]["limits"].update(cpu="4 cores"),
            "4",
        ),
        (lambda ray: _worker(ray)["template"]["spec"]["containers"][0]["env"].append({"name": "HF_HOME"}), "2 times"),
        (lambda ray: ray["spec"].update(managedBy="me"), "managedBy field value must be"),
        (lambda ray: ray["spec"].update(deletionStrategy={"onSuccess": {"policy": "DeleteSelf"}}), "requires either"),
    ],
)
def test_a_slip_in_the_chart_would_show(render: Callable[..., Release], crds, spoil, finding: str) -> None:
    ray = copy.deepcopy(render().ray)
    spoil(ray)
    assert any(finding in one for one in crds["RayJob"].findings(ray)), crds["RayJob"].findings(ray)


@pytest.mark.parametrize(
    ("spoil", "finding"),
    [
        (lambda ray: ray["metadata"].update(name="a" * 48), "too long"),
        (lambda ray: ray["metadata"].update(name="7b"), "DNS-1035"),
        (lambda ray: ray["spec"].update(submissionMode="HttpMode"), "submissionMode"),
        (lambda ray: ray["spec"].update(suspend=True, shutdownAfterJobFinishes=False), "suspend"),
        (lambda ray: ray["spec"].update(entrypoint="pgrpo train x; rm -r /"), "plain"),
        (lambda ray: ray["spec"].update(activeDeadlineSeconds=0), "negative"),
        (lambda ray: _worker(ray)["rayStartParams"].update(resources="{}"), "both"),
        (lambda ray: _worker(ray).update(minReplicas=2), "not minReplicas"),
        (lambda ray: ray["spec"]["rayClusterSpec"].update(rayVersion="2.51.0"), "2.52"),
    ],
)
def test_a_slip_that_the_crd_lets_pass_would_show(render: Callable[..., Release], spoil, finding: str) -> None:
    ray = copy.deepcopy(render().ray)
    spoil(ray)
    assert any(finding in one for one in operator_findings(ray)), operator_findings(ray)


@pytest.mark.parametrize("name", ["defaults", "multi-node", "autoscaling", "ray-cluster"])
def test_ray_reads_the_resources_as_meant(render: Callable[..., Release], name: str) -> None:
    """By the function with which Ray's autoscaler reads a RayCluster: CPUs, GPUs, and the role's own resource."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    release = render(MATRIX[name])
    read = _derive_autoscaling_config_from_ray_cr(
        {"metadata": {"name": "demo", "namespace": NAMESPACE}, "spec": release.cluster}
    )["available_node_types"]
    assert read.pop("headgroup")["resources"]["CPU"] == 0
    assert set(read) == set(release.groups)
    for role, node in read.items():
        limits = release.groups[role]["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert node["resources"]["CPU"] == int(limits["cpu"])
        assert node["resources"].get("GPU", 0) == int(limits.get("nvidia.com/gpu", 0))
        assert {key for key in node["resources"] if key.islower()} == {"memory", role}
        assert node["resources"][role] == 1
        grows = name == "autoscaling" and role in {"rollout", "sandbox"}
        assert (node["min_workers"], node["max_workers"]) == (
            (2, 5) if grows else (release.groups[role]["replicas"],) * 2
        )


def test_only_a_group_that_grows_brings_the_autoscaler(release: Release) -> None:
    """It needs the API server, so the head has a token then, and only the head, and only then."""
    grows = any(group["minReplicas"] < group["maxReplicas"] for group in release.groups.values())
    assert release.cluster.get("enableInTreeAutoscaling", False) is grows
    mounted = {role for role, pod in release.pods.items() if pod["spec"]["automountServiceAccountToken"]}
    assert mounted == ({"head"} if grows else set())
