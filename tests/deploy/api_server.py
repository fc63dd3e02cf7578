"""A real Kubernetes API server for tests: etcd and kube-apiserver on this machine, with KubeRay's CRDs and no node.

The binaries are made by deploy/helm/build-api-server.sh. They are of Kubernetes 1.20, the last that can be built from
Debian's sources, and say that they are 1.29, as the chart asks for it. What the chart uses of what is newer stands
in NEWER_..., and is taken out before it is sent.
"""

import copy
import gzip
import json
import re
import secrets
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

# What Kubernetes has learnt since 1.20, and the chart uses. The server would refuse it, or drop it in silence.
NEWER_API = {
    "policy/v1\n": "policy/v1beta1\n",  # 1.21; of the same fields
    r", endPort: \d+": "",  # of NetworkPolicy, 1.21: without it a range of ports is its first
}
NEWER_IN_PODS = {"hostUsers"}  # 1.25
NEWER_IN_INIT_CONTAINERS = {
    "restartPolicy",  # 1.28: the native sidecar
    "startupProbe",  # which only such an init container may have
}


def chart_for_1_20(chart: Path, folder: Path) -> Path:
    """A copy of the chart without NEWER_API."""
    copied = Path(shutil.copytree(chart, folder / chart.name))
    for file in copied.rglob("*.yaml"):
        text = file.read_text(encoding="utf-8")
        for newer, older in NEWER_API.items():
            text = re.sub(newer, older, text)
        file.write_text(text, encoding="utf-8")
    return copied


def pod_for_1_20(pod: Object) -> Object:
    """A pod template as a Pod without what is newer."""
    spec = {key: value for key, value in copy.deepcopy(pod["spec"]).items() if key not in NEWER_IN_PODS}
    for container in spec.get("initContainers", []):
        for key in NEWER_IN_INIT_CONTAINERS & container.keys():
            del container[key]
    metadata = {"generateName": "template-"} | {key: pod["metadata"].get(key, {}) for key in ("labels", "annotations")}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


class Refused(Exception):
    """The server's answer to what it does not take: `code`, and its message."""

    def __init__(self, code: int, message: str):
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclass(frozen=True)
class ApiServer:
    """A server that runs, and its administrator's token."""

    url: str
    certificate: Path
    token: str

    def request(self, method: str, path: str, body: Any = None, content: str = "application/json") -> Any:
        """The object that the server answers with."""
        request = urllib.request.Request(
            self.url + path,
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {self.token}", "Content-Type": content},
            method=method,
        )
        trust = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=self.certificate))
        try:  # no proxy: it is on this machine
            with urllib.request.build_opener(urllib.request.ProxyHandler({}), trust).open(
                request, timeout=30
            ) as response:
                text = response.read().decode()
        except urllib.error.HTTPError as error:
            text = error.read().decode()
            raise Refused(error.code, json.loads(text)["message"] if text.startswith("{") else text) from None
        return json.loads(text) if text.startswith("{") else text

    def dry_run(self, one: Object, namespace: str) -> Object:
        """What an object would be if it were made."""
        return self.request("POST", f"{self.path(one['apiVersion'], one['kind'], namespace)}?dryRun=All", one)

    def get(self, like: Object, namespace: str) -> Object:
        """The object of the kind and name of another."""
        path = self.path(like["apiVersion"], like["kind"], namespace)
        return self.request("GET", f"{path}/{like['metadata']['name']}")

    def change(self, like: Object, namespace: str, change: Object, manager: str) -> Object:
        """Merge a change into an object, in the name of some controller."""
        path = f"{self.path(like['apiVersion'], like['kind'], namespace)}/{like['metadata']['name']}"
        return self.request("PATCH", f"{path}?fieldManager={manager}", change, "application/merge-patch+json")

    def all(self, namespace: str) -> dict[tuple[str, str], Object]:
        """Every object of a namespace that a release may have made, by kind and name."""
        found = {}
        for kind, version in KINDS.items():
            for one in self.request("GET", self.path(version, kind, namespace))["items"]:
                found[kind, one["metadata"]["name"]] = one
        return found

    def kubeconfig(self) -> str:
        """How a client gets here, and nowhere else: what the machine's own configuration says does not count."""
        cluster = {"server": self.url, "certificate-authority": str(self.certificate)}
        return json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "test", "cluster": cluster}],
                "users": [{"name": "test", "user": {"token": self.token}}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                "current-context": "test",
            }
        )

    @staticmethod
    def path(version: str, kind: str, namespace: str) -> str:
        """Where objects of a kind are."""
        plural = re.sub("ys$", "ies", kind.lower() + "s")
        return f"/api{'' if version == 'v1' else 's'}/{version}/namespaces/{namespace}/{plural}"


KINDS = {
    **dict.fromkeys(("ConfigMap", "PersistentVolumeClaim", "Pod", "Secret", "ServiceAccount"), "v1"),
    **dict.fromkeys(("RayJob", "RayCluster"), "ray.io/v1"),
    **dict.fromkeys(("PodMonitor", "ServiceMonitor"), "monitoring.coreos.com/v1"),
    "NetworkPolicy": "networking.k8s.io/v1",
    "PodDisruptionBudget": "policy/v1beta1",
}


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def _process(command: list[str], log: Path) -> Iterator[subprocess.Popen]:
    """A program that ends with the block."""
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def api_server(binaries: Path, folder: Path, crds: Path, patience_s: float = 120) -> Iterator[ApiServer]:
    """Start etcd and kube-apiserver of a folder on loopback, with their files in another; end both."""
    token, key = secrets.token_hex(16), folder / "accounts.key"
    tokens = folder / "tokens.csv"
    tokens.touch(mode=0o600)
    tokens.write_text(f'{token},admin,admin,"system:masters"\n', encoding="utf-8")
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    etcd, peer, port = (_free_port() for _ in range(3))
    etcd_url, peer_url = f"http://127.0.0.1:{etcd}", f"http://127.0.0.1:{peer}"
    etcd_command = [
        *(str(binaries / "etcd"), f"--data-dir={folder / 'etcd'}"),
        *(f"--listen-client-urls={etcd_url}", f"--advertise-client-urls={etcd_url}"),
        *(f"--listen-peer-urls={peer_url}", f"--initial-advertise-peer-urls={peer_url}"),
        f"--initial-cluster=default={peer_url}",
    ]
    server_command = [
        *(str(binaries / "kube-apiserver"), f"--etcd-servers={etcd_url}", f"--cert-dir={folder}"),
        *("--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", f"--secure-port={port}"),
        "--endpoint-reconciler-type=none",  # it would refuse to publish a loopback address, again and again
        *("--authorization-mode=RBAC", f"--token-auth-file={tokens}"),
        *("--service-account-issuer=https://kubernetes.default.svc", f"--service-account-signing-key-file={key}"),
        *(f"--service-account-key-file={key}", "--service-cluster-ip-range=10.0.0.0/24"),
        # They wait for what controllers do: make an account in each namespace, let go of a claim that is deleted.
        "--disable-admission-plugins=ServiceAccount,StorageObjectInUseProtection",
        "--allow-privileged=true",
    ]
    server = ApiServer(f"https://127.0.0.1:{port}", folder / "apiserver.crt", token)
    with ExitStack() as stack:
        logs = folder / "etcd.log", folder / "kube-apiserver.log"
        processes = [
            stack.enter_context(_process(command, log))
            for command, log in zip((etcd_command, server_command), logs, strict=True)
        ]
        deadline = time.monotonic() + patience_s
        while not _ready(server):
            dead = [log for process, log in zip(processes, logs, strict=True) if process.poll() is not None]
            if dead or time.monotonic() > deadline:
                raise RuntimeError("\n".join(log.read_text(errors="replace")[-3000:] for log in dead or logs))
            time.sleep(0.2)
        names = [_create_crd(server, crd) for crd in [*_kuberay(crds), *_monitors()]]
        while not all(_established(server, name) for name in names):
            if time.monotonic() > deadline:
                raise RuntimeError(f"not established: {names}")
            time.sleep(0.2)
        yield server


def _ready(server: ApiServer) -> bool:
    try:
        return server.request("GET", "/readyz") == "ok"
    except (OSError, Refused):  # no certificate yet, no port, or not all of it is up
        return False


def _kuberay(folder: Path) -> Iterator[Object]:
    for kind in ("rayjobs", "rayclusters"):
        yield yaml.load(gzip.decompress((folder / f"ray.io_{kind}.yaml.gz").read_bytes()), yaml.CSafeLoader)


def _monitors() -> Iterator[Object]:
    """The Prometheus operator's kinds without their schemas: enough that such objects can be made."""
    for kind in ("PodMonitor", "ServiceMonitor"):
        plural, group = f"{kind.lower()}s", "monitoring.coreos.com"
        schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
        yield {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{plural}.{group}"},
            "spec": {
                "group": group,
                "scope": "Namespaced",
                "names": {"kind": kind, "plural": plural},
                "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
            },
        }


CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def _create_crd(server: ApiServer, crd: Object) -> str:
    return server.request("POST", CRDS, crd)["metadata"]["name"]


def _established(server: ApiServer, name: str) -> bool:
    conditions = server.request("GET", f"{CRDS}/{name}").get("status", {}).get("conditions") or []
    return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)
