"""What the chart takes and refuses, what its schema says, and what three sets of values render to, word for word.

After a change that is meant, write the golden files anew and read their diff:

    PGRPO_WRITE_GOLDEN=1 python -m pytest tests/deploy -k golden
"""

import copy
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import CHART, EXAMPLES, MATRIX, Release, Values, engine

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", EXAMPLES)
def test_golden(render: Callable[..., Release], name: str) -> None:
    file = GOLDEN / f"{name}.yaml"
    objects = copy.deepcopy(render(EXAMPLES[name]).objects)
    for one in objects:  # Grafana's is a file of the chart as it is
        one.get("data", {}).pop("pgrpo-ray.json", None)
    objects.sort(key=lambda one: (one["kind"], one["metadata"]["name"]))
    text = yaml.dump_all(objects, Dumper=_Plain, sort_keys=False, width=120)
    if os.environ.get("PGRPO_WRITE_GOLDEN"):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8"), "see the head of this file"


class _Plain(yaml.SafeDumper):
    """Without anchors: a golden file is read by people."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


@pytest.mark.parametrize("name", MATRIX)
def test_helm_finds_nothing_to_criticise(name: str) -> None:
    helm = pytest.importorskip("helm_python.chart", reason="Helm's engine is not installed: pip install -e '.[dev]'")
    report = helm.lint(CHART, MATRIX[name], strict=True, kube_version="1.29.0")
    assert not [one for one in report["messages"] if "icon is recommended" not in str(one)], report


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"grups": {}}, "grups"),
        ({"groups": {"rollout": {"gpu": 8}}}, "gpu"),
        ({"groups": {"rollout": {"replicas": "2"}}}, "groups/rollout/replicas"),
        ({"groups": {"learner": {"autoscaling": {"enabled": True}}}}, "autoscaling"),
        ({"groups": {"sandbox": {"gpus": 1}}}, "gpus"),
        ({"groups": {"sandbox": {"enabled": False}}}, "enabled"),
        ({"groups": {"rollout": {"memory": "16 GB"}}}, "groups/rollout/memory"),
        ({"groups": {"rollout": {"env": {"A": 1}}}}, "groups/rollout/env/A"),
        ({"workload": "RayService"}, "workload"),
        ({"image": {"digest": "latest"}}, "image/digest"),
        ({"job": {"suspend": True, "shutdownAfterJobFinishes": False}}, "job/shutdownAfterJobFinishes"),
        ({"secretEnv": {"HF_TOKEN": "hf_123"}}, "secretEnv/HF_TOKEN"),
        (engine(mode="docker"), "groups/sandbox/engine/mode"),
        ({"networkPolicy": {"dnsTo": []}}, "networkPolicy/dnsTo"),
    ],
)
def test_the_schema_refuses(render: Callable[..., Release], values: Values, where: str) -> None:
    from helm_python.errors import HelmValuesError

    with pytest.raises(HelmValuesError, match=re.escape(where)):
        render(values)


@pytest.mark.parametrize(
    ("values", "name", "message"),
    [
        ({}, "a" * 48, "at most 47"),
        ({}, "7b", "a letter first"),
        ({"workload": "RayCluster"}, "a" * 54, "at most 53"),
        ({"fullnameOverride": "My_Run"}, "demo", "lower-case"),
        (engine(mode="hostSocket"), "demo", "acknowledge to: programs of the model can become root"),
        ({"existingConfigMap": "mine", "config": {"run": {"steps": 1}}}, "demo", "one config"),
        ({"configFile": "run: [}"}, "demo", "configFile is no YAML"),
        ({"gcsFaultTolerance": {"enabled": True}}, "demo", "where is Redis"),
    ],
)
def test_templates_refuse_with_what_to_do(
    render: Callable[..., Release], values: Values, name: str, message: str
) -> None:
    from helm_python.errors import HelmRenderError

    with pytest.raises(HelmRenderError, match=re.escape(message)):
        render(values, name)


def test_longest_names_are_taken(render: Callable[..., Release]) -> None:
    assert render({}, "a" * 47).ray["metadata"]["name"] == "a" * 47
    assert render({"workload": "RayCluster"}, "a" * 53).ray["metadata"]["name"] == "a" * 53


def _fields(schema: dict[str, Any], root: dict[str, Any], path: str = "") -> Iterator[tuple[str, bool]]:
    """Path of every field that a schema names, and whether it is described there or where it refers to."""
    for name, field in _properties(schema, root).items():
        here = f"{path}.{name}".lstrip(".")
        yield here, any("description" in one for one in _chain(field, root))
        yield from _fields(field, root, here)


def _chain(schema: dict[str, Any], root: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield schema
    if "$ref" in schema:
        yield from _chain(root["$defs"][schema["$ref"].rpartition("/")[2]], root)


def _properties(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    return {name: field for one in _chain(schema, root) for name, field in one.get("properties", {}).items()}


def test_every_value_is_described_and_every_description_has_a_value() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    fields = dict(_fields(schema, schema))
    assert [path for path, described in fields.items() if not described] == []
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    for path in fields.keys() - {"global"}:
        value = values
        for key in path.split("."):
            if key == "digest" or (key == "pullPolicy" and "engine" in path):
                break
            assert key in value, path
            value = value[key]


def test_the_readme_names_every_value() -> None:
    readme = (CHART / "README.md").read_text(encoding="utf-8")
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert [key for key in values if f"`{key}`" not in readme and f"`{key}." not in readme] == []


def test_claims_stay_unless_told_otherwise(render: Callable[..., Release]) -> None:
    def policies(values: Values) -> dict[str, str | None]:
        claims = render(values).of("PersistentVolumeClaim")
        return {
            key: one["metadata"].get("annotations", {}).get("helm.sh/resource-policy") for key, one in claims.items()
        }

    assert policies({}) == {"demo-runs": "keep", "demo-cache": "keep"}
    assert policies(EXAMPLES["smoke"]) == {"demo-runs": None, "demo-cache": None}
    assert policies(MATRIX["existing"]) == {}


def test_a_queue_and_dedicated_nodes_are_asked_for(render: Callable[..., Release]) -> None:
    assert render(MATRIX["queued"]).ray["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
    sandbox = render().pods["sandbox"]["spec"]
    assert sandbox["nodeSelector"] == {"pgrpo.io/sandbox": "true"}
    taint = {"key": "pgrpo.io/sandbox", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
    assert sandbox["tolerations"] == [taint]
    gpu = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    pods = render(MATRIX["single-node"]).pods
    assert [role for role, pod in pods.items() if gpu in pod["spec"].get("tolerations", [])] == [
        *("rollout", "learner", "reward"),
    ]
