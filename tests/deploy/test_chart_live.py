"""The chart on a real API server, by Helm: what it makes there, and what becomes of it. No node, no operator.

Opt-in, as the server must be built first (ten minutes):

    deploy/helm/build-api-server.sh FOLDER
    PGRPO_KUBE_APISERVER=FOLDER python -m pytest tests/deploy/test_chart_live.py
"""

import copy
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_server import ApiServer, Object, Refused, api_server, chart_for_1_20, pod_for_1_20
from conftest import CHART, EXAMPLES, MATRIX, RELEASE, Release, Values, crd_folder
from kuberay_rules import QUANTITY, quantity

BINARIES = os.environ.get("PGRPO_KUBE_APISERVER")
if not BINARIES:
    pytest.skip(
        "PGRPO_KUBE_APISERVER is not set: deploy/helm/build-api-server.sh FOLDER builds it in ten minutes",
        allow_module_level=True,
    )

Named = tuple[str, str]
"""Kind and name."""
CLAIM = "PersistentVolumeClaim"


@dataclass
class Place:
    """A namespace of its own on the server, and Helm there."""

    server: ApiServer
    namespace: str
    chart: Any
    helm: Any

    def install(self, name: str, values: Values) -> dict[Named, Object]:
        """Install the chart; what Helm sent."""
        return _objects(self.helm.install(self.chart, name, values))

    def upgrade(self, name: str, values: Values) -> dict[Named, Object]:
        return _objects(self.helm.upgrade(self.chart, name, values))

    def get(self, like: Object) -> Object:
        return self.server.get(like, self.namespace)

    @property
    def objects(self) -> dict[Named, Object]:
        """All that is there, but for Helm's own records."""
        found = self.server.all(self.namespace)
        return {key: one for key, one in found.items() if one.get("type") != "helm.sh/release.v1"}


def _objects(release: dict[str, Any]) -> dict[Named, Object]:
    parts = [one for one in yaml.safe_load_all(release["manifest"]) if one]
    return {(one["kind"], one["metadata"]["name"]): one for one in parts}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    crds = crd_folder()
    if crds is None:
        pytest.skip("KubeRay's CRDs are absent: PGRPO_CRDS names a folder with ray.io_rayjobs.yaml.gz and its like")
    with api_server(Path(BINARIES), tmp_path_factory.mktemp("api-server"), crds) as server:
        # What a cluster must have for what the values name.
        priority = {"metadata": {"name": "training"}, "value": 1000}
        server.request("POST", "/apis/scheduling.k8s.io/v1/priorityclasses", priority)
        for name in ("sysbox-runc", "gvisor"):
            runtime = {"metadata": {"name": name}, "handler": name}
            server.request("POST", "/apis/node.k8s.io/v1/runtimeclasses", runtime)
        yield server


numbers = itertools.count()


@pytest.fixture
def place(server: ApiServer, tmp_path: Path) -> Iterator[Place]:
    helm = pytest.importorskip("helm_python", reason="Helm's engine is not installed: pip install -e '.[dev]'")
    namespace = f"rl-{next(numbers)}"
    server.request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    with helm.Config(kubeconfig_content=server.kubeconfig(), namespace=namespace) as config:
        yield Place(server, namespace, helm.Chart.load(chart_for_1_20(CHART, tmp_path)), config)


def lost(sent: Any, got: Any, path: str = "$") -> Iterator[str]:
    """Where the server keeps something else than it was sent. It may add; it may leave out what is empty."""
    if isinstance(sent, dict) and isinstance(got, dict):
        for key, value in sent.items():
            if key in got:
                yield from lost(value, got[key], f"{path}.{key}")
            elif value not in (None, False, "", {}, []):
                yield f"{path}.{key}"
    elif isinstance(sent, list) and isinstance(got, list) and len(sent) <= len(got):
        for index, value in enumerate(sent):
            yield from lost(value, got[index], f"{path}[{index}]")
    elif sent != got and not (
        QUANTITY.match(str(sent)) and QUANTITY.match(str(got)) and quantity(sent) == quantity(got)
    ):
        yield f"{path}: {sent} became {got}"


@pytest.mark.parametrize("name", MATRIX)
def test_the_server_keeps_all_that_it_is_sent(place: Place, name: str) -> None:
    """A field that no schema knows would be dropped in silence; a name that no schema knows would not be served."""
    sent = place.install(RELEASE, MATRIX[name])
    assert place.objects.keys() == sent.keys()
    for key, one in sent.items():
        assert list(lost(one, place.get(one))) == [], key
    if ("RayJob", RELEASE) in sent:
        spec = place.objects["RayJob", RELEASE]["spec"]
        assert spec["submissionMode"] == "K8sJobMode"
        assert {group["numOfHosts"] for group in spec["rayClusterSpec"]["workerGroupSpecs"]} == {1}


@pytest.mark.parametrize("name", MATRIX)
def test_every_template_makes_a_pod(place: Place, render: Callable[..., Release], name: str) -> None:
    """KubeRay's schema lets much of a pod pass that the server refuses when KubeRay makes the pod of it."""
    for role, template in render(MATRIX[name]).pods.items():
        pod = pod_for_1_20(template)
        assert list(lost(pod, place.server.dry_run(pod, place.namespace))) == [], role


def _specs(place: Place) -> dict[Named, Any]:
    return {key: (one.get("spec"), one.get("data"), one["metadata"]["uid"]) for key, one in place.objects.items()}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_upgrade_and_the_way_back(place: Place, name: str) -> None:
    values = EXAMPLES[name]
    place.install(RELEASE, values)
    first = _specs(place)
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "observability"}}}
    changed = values | {
        "config": {**values["config"], "evaluation": {"every_steps": 7}},
        "job": {**values["job"], "ttlSecondsAfterFinished": 60},
        "networkPolicy": {"metricsFrom": [peer]},
    }
    sent = place.upgrade(RELEASE, changed)
    second = _specs(place)
    assert {key for key in first if first[key] != second[key]} == {
        *(("ConfigMap", "demo-config"), ("RayJob", "demo"), ("NetworkPolicy", "demo-ray")),
        ("NetworkPolicy", "demo-sandbox"),
    }
    assert [one for key in sent for one in lost(sent[key], place.get(sent[key]))] == []
    place.helm.rollback(RELEASE)
    assert _specs(place) == first
    history = place.helm.history(RELEASE)
    assert [(one["revision"], one["status"]) for one in history] == [
        *((1, "superseded"), (2, "superseded"), (3, "deployed")),
    ]


@pytest.mark.parametrize("name", EXAMPLES)
def test_only_claims_that_are_kept_stay(place: Place, name: str) -> None:
    """And the next release of that name goes on with them."""
    sent = place.install(RELEASE, EXAMPLES[name])
    kept = {
        key
        for key, one in sent.items()
        if one["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep"
    }
    assert kept == {"smoke": set(), "single-node": {(CLAIM, "demo-runs")}, "multi-node": set()}[name]
    before = _specs(place)
    for _ in range(2):  # a claim that was taken over is kept again
        place.helm.uninstall(RELEASE)
        assert _specs(place) == {key: before[key] for key in kept}
        assert place.install(RELEASE, EXAMPLES[name]).keys() == sent.keys()
        assert {key: one for key, one in _specs(place).items() if key in kept} == {key: before[key] for key in kept}


def test_another_release_takes_the_claims_by_their_names(place: Place) -> None:
    place.install(RELEASE, {})
    place.helm.uninstall(RELEASE)
    claims = {which: {"existingClaim": f"demo-{which}"} for which in ("runs", "cache")}
    place.install("next", {"storage": claims})
    place.helm.uninstall("next")
    assert place.objects.keys() == {(CLAIM, "demo-runs"), (CLAIM, "demo-cache")}


def test_a_kept_claim_is_taken_as_it_is(place: Place) -> None:
    from helm_python.errors import HelmError

    place.install(RELEASE, {})
    before = _specs(place)
    place.helm.uninstall(RELEASE)
    with pytest.raises(HelmError, match="spec is immutable"):
        place.install(RELEASE, {"storage": {"runs": {"size": "600Gi"}}})
    place.helm.uninstall(RELEASE)
    assert _specs(place) == {key: one for key, one in before.items() if key[0] == CLAIM}
    place.install(RELEASE, {"storage": {"runs": {"existingClaim": "demo-runs", "size": "600Gi"}}})


def test_an_upgrade_leaves_the_queue_its_say(place: Place) -> None:
    """Kueue suspends what waits. An upgrade must neither start the run nor fail."""
    sent = place.install(RELEASE, EXAMPLES["multi-node"])
    job = sent["RayJob", RELEASE]
    place.server.change(job, place.namespace, {"spec": {"suspend": True}}, "kueue")
    place.upgrade(RELEASE, EXAMPLES["multi-node"] | {"networkPolicy": {}})
    assert place.get(job)["spec"]["suspend"] is True


def test_an_upgrade_asks_where_the_autoscaler_has_resized(place: Place) -> None:
    """Of a RayCluster; a RayJob's cluster is KubeRay's object, not Helm's. `--force-conflicts` has its way."""
    from helm_python.errors import HelmError

    values = MATRIX["autoscaling"] | {"workload": "RayCluster"}
    cluster = place.install(RELEASE, values)["RayCluster", RELEASE]
    groups = copy.deepcopy(place.get(cluster)["spec"]["workerGroupSpecs"])
    groups[0]["replicas"] = 4
    place.server.change(cluster, place.namespace, {"spec": {"workerGroupSpecs": groups}}, "autoscaler")
    with pytest.raises(HelmError, match=r'conflict with "autoscaler".*workerGroupSpecs'):
        place.upgrade(RELEASE, values | {"env": {"A": "b"}})
    assert place.get(cluster)["spec"]["workerGroupSpecs"] == groups


def _worker(ray: Object) -> Object:
    return ray["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]


@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        (lambda ray: ray["spec"].update(backoffLimit="3"), "spec.backoffLimit"),
        (lambda ray: _worker(ray)["rayStartParams"].update({"num-cpus": 0}), "rayStartParams.num-cpus"),
        (lambda ray: _worker(ray).update(replicas="two"), "workerGroupSpecs.replicas"),
        (
            lambda ray: _worker(ray)["template"]["spec"]["containers"][0]["resources"]["limits"].update(cpu="4 cores"),
            "limits.cpu",
        ),
    ],
)
def test_a_wrong_type_is_refused(place: Place, render: Callable[..., Release], spoil, where: str) -> None:
    ray = copy.deepcopy(render().ray)
    assert list(lost(ray, place.server.dry_run(ray, place.namespace))) == []
    spoil(ray)
    with pytest.raises(Refused, match="422") as refusal:
        place.server.dry_run(ray, place.namespace)
    assert where in str(refusal.value)


def test_a_field_that_no_schema_knows_would_show(place: Place, render: Callable[..., Release]) -> None:
    ray = copy.deepcopy(render().ray)
    ray["spec"]["backOffLimit"] = 3
    _worker(ray)["template"]["spec"]["runtimeClass"] = "gvisor"
    assert list(lost(ray, place.server.dry_run(ray, place.namespace))) == [
        "$.spec.rayClusterSpec.workerGroupSpecs[0].template.spec.runtimeClass",
        "$.spec.backOffLimit",
    ]


def test_helm_asks_before_it_makes_anything(place: Place) -> None:
    """The chart's own schema takes an affinity as it is; Helm holds it against the server's."""
    from helm_python.errors import HelmError

    with pytest.raises(HelmError, match=r"affinity\.nodeAffinity"):
        place.install(RELEASE, {"head": {"affinity": {"nodeAffinity": "near"}}})
    assert place.objects == {} and place.helm.list(all_states=True) == []


def test_what_fails_half_way_can_be_uninstalled(place: Place) -> None:
    from helm_python.errors import HelmError

    with pytest.raises(HelmError, match="must specify a peer"):
        place.install(RELEASE, {"networkPolicy": {"metricsFrom": [{}]}})
    assert [one["status"] for one in place.helm.history(RELEASE)] == ["failed"]
    place.helm.uninstall(RELEASE)
    assert {kind for kind, _ in place.objects} <= {CLAIM}
    place.install(RELEASE, {})


def test_two_releases_in_a_namespace(place: Place) -> None:
    sent = {name: place.install(name, MATRIX["defaults"]) for name in ("one", "two")}
    assert not sent["one"].keys() & sent["two"].keys()
    before = _specs(place)
    place.helm.uninstall("one")
    left = _specs(place)
    assert {key: left[key] for key in sent["two"]} == {key: before[key] for key in sent["two"]}
    assert left.keys() - sent["two"].keys() == {
        ("PersistentVolumeClaim", f"one-{which}") for which in ("runs", "cache")
    }


def test_a_name_that_would_share_an_account_is_refused(place: Place) -> None:
    """`demo` has an account demo-sandbox, which a release of that name would take for its trainers."""
    from helm_python.errors import HelmError

    place.install("demo", EXAMPLES["smoke"])
    before = _specs(place)
    with pytest.raises(HelmError, match=r'ServiceAccount "demo-sandbox".*exists and cannot be imported'):
        place.install("demo-sandbox", EXAMPLES["smoke"])
    assert _specs(place) == before
