"""The chart, rendered by Helm's own engine over a matrix of values, and what the tests ask of the rendered objects."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "pgrpo-ray"
RELEASE, NAMESPACE = "demo", "rl"

Values = dict[str, Any]


def values_of(file: str, **more: Any) -> Values:
    """Values of one of the chart's files, and top-level keys beside."""
    return yaml.safe_load((CHART / file).read_text(encoding="utf-8")) | more


SINGLE_NODE = values_of(
    "ci/values-single-node.yaml", configFile=(ROOT / "cluster" / "qwen2.5-coder-7b-8gpu.yaml").read_text("utf-8")
)
EXAMPLES = {
    "smoke": values_of("values-smoke.yaml"),
    "single-node": SINGLE_NODE,
    "multi-node": values_of("ci/values-multi-node.yaml"),
}


def engine(**settings: Any) -> Values:
    """Values that set the sandbox's engine."""
    return {"groups": {"sandbox": {"engine": settings}}}


ACKNOWLEDGED = {"acknowledge": "programs of the model can become root on my nodes"}
SECRETS = {"HF_TOKEN": {"name": "hub", "key": "token"}}
GROWING = {"enabled": True, "minReplicas": 2, "maxReplicas": 5}
REDIS = {
    "enabled": True,
    "redisAddress": "redis:6379",
    "redisPasswordSecret": {"name": "redis", "key": "password"},
    "externalStorageNamespace": "demo",
}
MATRIX: dict[str, Values] = {
    "defaults": {},
    **EXAMPLES,
    "ray-cluster": {"workload": "RayCluster"},
    "redis": {"workload": "RayCluster", "gcsFaultTolerance": REDIS},
    "autoscaling": {
        "groups": {"rollout": {"gpus": 2, "autoscaling": GROWING}, "sandbox": {"autoscaling": GROWING}},
        "secretEnv": SECRETS,
    },
    "sysbox": engine(mode="sysbox"),
    "gvisor": engine(mode="gvisor"),
    "host-socket": engine(mode="hostSocket", hostSocket=ACKNOWLEDGED),
    "existing": {
        "existingConfigMap": "mine",
        "storage": {"runs": {"existingClaim": "runs"}, "cache": {"existingClaim": "cache"}},
        "serviceAccount": {"create": False, "name": "trainer"},
        "auth": {"secretName": "ray-token"},
        "secretEnv": SECRETS,
        "env": {"WANDB_MODE": "offline"},
    },
    "fewer-groups": {"groups": {"reward": {"enabled": False}, "learner": {"enabled": False}}},
    "open": {
        "auth": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
    },
    "queued": {"job": {"queueName": "research", "suspend": True, "activeDeadlineSeconds": 86400}},
}


@dataclass(frozen=True)
class Release:
    """What one set of values renders to."""

    objects: list[dict[str, Any]]
    notes: str

    def of(self, kind: str) -> dict[str, dict[str, Any]]:
        """Objects of a kind by name."""
        return {one["metadata"]["name"]: one for one in self.objects if one["kind"] == kind}

    @property
    def ray(self) -> dict[str, Any]:
        """The RayJob or RayCluster."""
        return next(one for one in self.objects if one["apiVersion"] == "ray.io/v1")

    @property
    def cluster(self) -> dict[str, Any]:
        """The spec of the Ray cluster."""
        return self.ray["spec"].get("rayClusterSpec", self.ray["spec"])

    @property
    def groups(self) -> dict[str, dict[str, Any]]:
        """Worker groups by name."""
        return {group["groupName"]: group for group in self.cluster["workerGroupSpecs"]}

    @property
    def pods(self) -> dict[str, dict[str, Any]]:
        """Every pod template, by what stands in its label `component`."""
        templates = [self.cluster["headGroupSpec"]["template"], *(group["template"] for group in self.groups.values())]
        templates += [self.ray["spec"]["submitterPodTemplate"]] if self.ray["kind"] == "RayJob" else []
        templates += self.of("Pod").values()
        return {pod["metadata"]["labels"]["app.kubernetes.io/component"]: pod for pod in templates}


def containers(pod: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every container of a pod template, init containers first."""
    yield from pod["spec"].get("initContainers", [])
    yield from pod["spec"]["containers"]


def crd_folder() -> Path | None:
    """Where KubeRay's CRDs lie: PGRPO_CRDS, or `shared/crds` beside a folder above this checkout."""
    named = os.environ.get("PGRPO_CRDS")
    places = [Path(named)] if named else [folder / "shared" / "crds" for folder in ROOT.parents]
    return next((place for place in places if (place / "ray.io_rayjobs.yaml.gz").is_file()), None)


@pytest.fixture(scope="session")
def render() -> Callable[..., Release]:
    """Render the chart with some values; equal values are rendered once."""
    helm = pytest.importorskip("helm_python", reason="Helm's engine is not installed: pip install -e '.[dev]'")
    chart = helm.Chart.load(CHART)

    @cache
    def render_once(values: str, name: str) -> Release:
        texts = chart.render(yaml.safe_load(values), name=name, namespace=NAMESPACE)
        notes = texts.pop("pgrpo-ray/templates/NOTES.txt")
        return Release([one for text in texts.values() for one in yaml.safe_load_all(text) if one], notes)

    return lambda values=None, name=RELEASE: render_once(yaml.safe_dump(values or {}), name)


@pytest.fixture(params=MATRIX)
def release(request: pytest.FixtureRequest, render: Callable[..., Release]) -> Release:
    """The chart under each entry of the matrix."""
    return render(MATRIX[request.param])
