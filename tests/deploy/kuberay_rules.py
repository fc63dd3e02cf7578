"""What refuses a RayJob or RayCluster: the API server by KubeRay's CRDs, and the operator by rules that the CRDs lack.

The CRDs are read from outside the project (`crd_folder`). `Crd.findings` does what an API server with strict field
validation does: defaults, nulls pruned, structure, keys of list-maps, CEL rules but those about changes. The operator's
rules are ours after `ValidateRayJobSpec` and `ValidateRayClusterSpec` of KubeRay 1.7.0, as far as they concern us.
"""

import gzip
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import celpy
import yaml
from celpy.adapter import json_to_cel
from jsonschema import Draft202012Validator

QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m|k|Ki|M|Mi|G|Gi|T|Ti)?$")
UNITS = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
UNITS |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def quantity(value: Any) -> float:
    """A Kubernetes quantity as a number."""
    number, unit = QUANTITY.match(str(value)).groups()
    return float(number) * UNITS[unit or ""]


class Crd:
    """The schema of one custom resource."""

    def __init__(self, file: Path):
        definition = yaml.load(gzip.decompress(file.read_bytes()), yaml.CSafeLoader)
        version = next(version for version in definition["spec"]["versions"] if version["name"] == "v1")
        self.schema = version["schema"]["openAPIV3Schema"]
        self._validators: dict[tuple[str, ...], Draft202012Validator] = {}

    def findings(self, value: dict[str, Any], *path: str) -> list[str]:
        """What the API server would say of an object, or of the part of one that the schema has at `path`."""
        schema = self.schema
        for key in path:
            schema = schema["items"] if key == "items" else schema["properties"][key]
        if path not in self._validators:
            self._validators[path] = Draft202012Validator(_strict(schema, root=True))
        value = _completed(value, schema)
        errors = [f"{one.json_path}: {one.message[:200]}" for one in self._validators[path].iter_errors(value)]
        return errors + list(_beyond_schema(value, schema, "$"))


def _strict(schema: Any, root: bool = False) -> Any:
    """OpenAPI v3 of a CRD as JSON Schema in which an unknown field is an error."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(one) for key, one in schema.items() if not key.startswith("x-kubernetes")}
    if "properties" in schema and isinstance(schema["properties"], dict):
        strict["properties"] = {name: _strict(one) for name, one in schema["properties"].items()}
        if root and "metadata" in strict["properties"]:
            strict["properties"]["metadata"] = {"type": "object"}  # ObjectMeta, which a CRD does not spell out
        strict.setdefault("additionalProperties", False)
    return strict


def _completed(value: Any, schema: dict[str, Any]) -> Any:
    """`value` with the schema's defaults and without nulls."""
    if isinstance(value, list):
        return [_completed(one, schema.get("items", {})) for one in value]
    if not isinstance(value, dict):
        return value
    properties, others = schema.get("properties", {}), schema.get("additionalProperties", {})
    defaults = {name: one["default"] for name, one in properties.items() if "default" in one}
    below = others if isinstance(others, dict) else {}
    return {
        key: _completed(one, properties.get(key, below)) for key, one in (defaults | value).items() if one is not None
    }


def _beyond_schema(value: Any, schema: dict[str, Any], path: str) -> Iterator[str]:
    """Keys of list-maps that stand twice, and CEL rules that do not hold."""
    for rule in schema.get("x-kubernetes-validations", []):
        if "oldSelf" not in rule["rule"] and not _holds(rule["rule"], value):
            yield f"{path}: {rule['message']}"
    if isinstance(value, list):
        keys = schema.get("x-kubernetes-list-map-keys", [])
        names = Counter(tuple(one.get(key) for key in keys) for one in value) if keys else {}
        yield from (f"{path}: {name} stands {count} times" for name, count in names.items() if count > 1)
        for index, one in enumerate(value):
            yield from _beyond_schema(one, schema.get("items", {}), f"{path}[{index}]")
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _beyond_schema(one, schema.get("properties", {}).get(key, {}), f"{path}.{key}")


def _holds(rule: str, value: Any) -> bool:
    environment = celpy.Environment()
    return bool(environment.program(environment.compile(rule)).evaluate({"self": json_to_cel(value)}))


def operator_findings(ray: dict[str, Any]) -> list[str]:
    """What KubeRay's operator would refuse of a RayJob or RayCluster that the API server took."""
    spec, name, is_job = ray["spec"], ray["metadata"]["name"], ray["kind"] == "RayJob"
    found = []
    if len(name) > (47 if is_job else 53) or not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        found.append(f"{name} is no DNS-1035 label, or too long")
    if is_job:
        found += _job_findings(spec)
    return found + list(_cluster_findings(spec.get("rayClusterSpec", spec)))


def _job_findings(spec: dict[str, Any]) -> list[str]:
    mode = spec.get("submissionMode", "K8sJobMode")
    rules = {
        f"submissionMode {mode}": mode in {"K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"},
        "suspend without shutdownAfterJobFinishes": not spec.get("suspend") or spec.get("shutdownAfterJobFinishes"),
        "ttl without shutdownAfterJobFinishes": not spec.get("ttlSecondsAfterFinished")
        or spec.get("shutdownAfterJobFinishes"),
        "a deadline or limit is negative": all(
            spec.get(key, low) >= low
            for key, low in (
                ("activeDeadlineSeconds", 1),
                ("preRunningDeadlineSeconds", 1),
                ("backoffLimit", 0),
                ("ttlSecondsAfterFinished", 0),
            )
        ),
        "SidecarMode with submitterPodTemplate": mode != "SidecarMode" or "submitterPodTemplate" not in spec,
        # Not the operator's: it pastes the entrypoint into a shell line, where these would mean something.
        "entrypoint is no plain command": re.fullmatch(r"[\w./=:,+ -]+", spec.get("entrypoint", "")),
    }
    return [finding for finding, holds in rules.items() if not holds]


def _cluster_findings(spec: dict[str, Any]) -> Iterator[str]:
    grows = spec.get("enableInTreeAutoscaling", False)
    head = spec["headGroupSpec"]
    for name, group in [("head", head), *((group["groupName"], group) for group in spec["workerGroupSpecs"])]:
        params = group["rayStartParams"]
        if group.get("resources") and {"num-cpus", "num-gpus", "memory", "resources"} & params.keys():
            yield f"{name}: resources both in rayStartParams and in the group"
        if "labels" in params:
            yield f"{name}: labels in rayStartParams"
        if grows and group["template"]["spec"].get("restartPolicy", "Never") != "Never":
            yield f"{name}: restartPolicy beside the autoscaler v2"
    for group in spec["workerGroupSpecs"]:
        low, high = group.get("minReplicas"), group.get("maxReplicas")
        if not grows and (low is None or high is None):
            yield f"{group['groupName']}: minReplicas and maxReplicas"
        elif low is not None and high is not None and not 0 <= low <= group.get("replicas", low) <= high:
            yield f"{group['groupName']}: not minReplicas <= replicas <= maxReplicas"
    env = {one["name"] for one in head["template"]["spec"]["containers"][0].get("env", [])}
    if taken := env & {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME", "RAY_enable_autoscaler_v2"}:
        yield f"head: environment sets {sorted(taken)}, which is KubeRay's"
    if {"redis-password", "redis-username"} & head["rayStartParams"].keys():
        yield "head: redis in rayStartParams"
    if spec.get("authOptions", {}).get("mode") == "token":
        version = tuple(map(int, spec.get("rayVersion", "0").split(".")))
        if version < (2, 52, 0):
            yield "a token needs rayVersion 2.52.0"
    if "networkPolicy" in spec or "tlsOptions" in spec:
        yield "a feature behind a gate that is closed by default"


def pod_findings(pod: dict[str, Any]) -> Iterator[str]:
    """What a kubelet or an API server would refuse of a pod template, though its structure is right."""
    spec = pod["spec"]
    volumes = {volume["name"] for volume in spec.get("volumes", [])}
    for volume in spec.get("volumes", []):
        if len(volume.keys() - {"name"}) != 1:
            yield f"volume {volume['name']} has {len(volume) - 1} sources"
    everyone = [*spec.get("initContainers", []), *spec["containers"]]
    if len({one["name"] for one in everyone}) < len(everyone):
        yield "two containers have one name"
    for container in everyone:
        mounts = container.get("volumeMounts", [])
        yield from (f"{container['name']}: no volume {one['name']}" for one in mounts if one["name"] not in volumes)
        if len({one["mountPath"] for one in mounts}) < len(mounts):
            yield f"{container['name']}: two mounts at one path"
    for toleration in spec.get("tolerations", []):
        if toleration.get("operator", "Equal") not in {"Equal", "Exists"} or (
            toleration.get("operator") == "Exists" and "value" in toleration
        ):
            yield f"toleration {toleration}"
