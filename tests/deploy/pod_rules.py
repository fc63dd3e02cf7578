"""Kubernetes' Pod Security Standards and NetworkPolicy, as far as the chart's objects can meet or break them.

After https://kubernetes.io/docs/concepts/security/pod-security-standards/ and the API reference of NetworkPolicy.
"""

from collections.abc import Iterable
from typing import Any

BASELINE_CAPABILITIES = {
    *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP"),
    *("SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
}
RESTRICTED_VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"),
}


def pod_security(spec: dict[str, Any]) -> tuple[set[str], set[str]]:
    """What a pod's spec breaks of the baseline, and of the restricted profile: `container: rule`, or the rule alone."""
    pod = spec.get("securityContext", {})
    volumes = [key for volume in spec.get("volumes", []) for key in volume.keys() - {"name"}]
    baseline = {key for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)}
    baseline |= {"hostPath"} & set(volumes) | ({"sysctls"} & pod.keys())
    restricted = {f"volume {key}" for key in volumes if key not in RESTRICTED_VOLUMES}
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        own, name = container.get("securityContext", {}), container["name"]
        both = {**pod, **own}  # the container's wins
        added = set(own.get("capabilities", {}).get("add", []))
        seccomp = both.get("seccompProfile", {}).get("type")
        rules = {
            "privileged": own.get("privileged"),
            "capabilities": added - BASELINE_CAPABILITIES,
            "hostPort": any("hostPort" in port for port in container.get("ports", [])),
            "procMount": own.get("procMount", "Default") != "Default",
            "unconfined": seccomp == "Unconfined",
        }
        baseline |= {f"{name}: {rule}" for rule, broken in rules.items() if broken}
        rules = {
            "escalation": own.get("allowPrivilegeEscalation") is not False,
            "root": both.get("runAsNonRoot") is not True or both.get("runAsUser") == 0,
            "seccomp": seccomp not in {"RuntimeDefault", "Localhost"},
            "capabilities": "ALL" not in own.get("capabilities", {}).get("drop", []) or added - {"NET_BIND_SERVICE"},
        }
        restricted |= {f"{name}: {rule}" for rule, broken in rules.items() if broken}
    return baseline, restricted | baseline


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a LabelSelector selects these labels."""
    within = {
        "In": lambda value, values: value in values,
        "NotIn": lambda value, values: value not in values,
        "Exists": lambda value, _: value is not None,
        "DoesNotExist": lambda value, _: value is None,
    }
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        within[rule["operator"]](labels.get(rule["key"]), rule.get("values", []))
        for rule in selector.get("matchExpressions", [])
    )


Pod = tuple[str, dict[str, str]]
"""Namespace and labels; the namespace's own labels are its name alone."""


def connects(policies: Iterable[dict[str, Any]], home: str, source: Pod, target: Pod, port: int) -> bool:
    """Whether policies of the namespace `home` let TCP from one pod to a port of another."""
    ways = (("Egress", "egress", "to", source, target), ("Ingress", "ingress", "from", target, source))
    for kind, rules, side, own, other in ways:
        applying = [
            policy["spec"]
            for policy in policies
            if own[0] == home
            and kind in policy["spec"]["policyTypes"]
            and selects(policy["spec"]["podSelector"], own[1])
        ]
        if applying and not any(
            _admits(rule, side, other, port, home) for spec in applying for rule in spec.get(rules, [])
        ):
            return False
    return True


def _admits(rule: dict[str, Any], side: str, other: Pod, port: int, home: str) -> bool:
    ports = rule.get("ports")
    at_port = not ports or any(
        one["protocol"] == "TCP" and one["port"] <= port <= one.get("endPort", one["port"]) for one in ports
    )
    peers = rule.get(side)
    return at_port and (not peers or any(_is(peer, other, home) for peer in peers))


def _is(peer: dict[str, Any], other: Pod, home: str) -> bool:
    namespace, labels = other
    in_namespace = namespace == home
    if "namespaceSelector" in peer:
        in_namespace = selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": namespace})
    return in_namespace and selects(peer.get("podSelector", {}), labels)
