"""The run that a release starts: its config as the product reads it, room for its roles, its command, its metrics."""

import json
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from conftest import CHART, EXAMPLES, MATRIX, ROOT, Release
from kuberay_rules import quantity

import pgrpo_ray
from pgrpo_ray.config import RunConfig, load
from pgrpo_ray.errors import ConfigError


def _config(release: Release, folder: Path) -> RunConfig:
    """The release's config, by the product's own loader and rules."""
    file = folder / "config.yaml"
    file.write_text(release.of("ConfigMap")["demo-config"]["data"]["config.yaml"], encoding="utf-8")
    return load(file)


@pytest.mark.parametrize("name", [name for name, values in MATRIX.items() if "existingConfigMap" not in values])
def test_the_product_takes_the_config(render: Callable[..., Release], tmp_path: Path, name: str) -> None:
    release = render(MATRIX[name])
    config = _config(release, tmp_path)
    assert config.cluster.address == "auto"
    assert set(config.cluster.pinned) == release.groups.keys() - {"sandbox"}
    mounts = {one["name"]: one["mountPath"] for one in release.pods["head"]["spec"]["containers"][0]["volumeMounts"]}
    assert config.run.dir == mounts["runs"]
    # `coder-7b-posterior` stands in the file of the single-node example, and its author's name wins.
    assert config.run.name == ("coder-7b-posterior" if name == "single-node" else "demo")


def _training_configs() -> list[Path]:
    found = []
    for file in sorted((ROOT / "cluster").glob("*.yaml")):
        try:
            load(file)
        except ConfigError:  # of another command
            continue
        found.append(file)
    return found


@pytest.mark.parametrize("file", _training_configs(), ids=lambda file: file.stem)
def test_files_of_the_other_doors_open_this_one(render: Callable[..., Release], tmp_path: Path, file: Path) -> None:
    """No number changes on its way through Helm, and only the four keys differ that are the chart's."""
    there = load(file).model_dump()
    values = {"configFile": file.read_text(encoding="utf-8"), "config": {"run": {"dir": "/data/runs"}}}
    here = _config(render(values), tmp_path).model_dump()
    assert here["cluster"].pop("address") == "auto"
    assert here["cluster"].pop("pinned") == ["rollout", "learner", "reward"]
    assert here["run"].pop("dir") == "/data/runs"
    del there["cluster"]["address"], there["cluster"]["pinned"], there["run"]["dir"]
    assert here == there


def test_values_win_over_the_file(render: Callable[..., Release], tmp_path: Path) -> None:
    values = {
        "configFile": "run: {steps: 3, seed: 1}",
        "config": {"run": {"steps": 5, "name": "x", "dir": "/data/runs/elsewhere"}},
    }
    run = _config(render(values), tmp_path).run
    assert (run.steps, run.seed, run.name, run.dir) == (5, 1, "x", "/data/runs/elsewhere")


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_groups_of_the_examples_hold_their_roles(render: Callable[..., Release], tmp_path: Path, name: str) -> None:
    release = render(EXAMPLES[name])
    config = _config(release, tmp_path)
    reward, learner, rollout = config.reward_model, config.learner, config.rollout
    wanted = {  # processes, CPUs of each, GPUs of each
        "rollout": (rollout.num_workers, rollout.threads_per_worker, rollout.gpus_per_worker),
        "learner": (learner.num_ranks, learner.threads_per_rank, learner.gpus_per_rank),
        "reward": (reward.replicas, reward.threads, reward.gpus),
    }
    for role, (processes, cpus, gpus) in wanted.items():
        group = release.groups[role]
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert group["replicas"] * int(limits["cpu"]) >= processes * cpus, role
        assert group["replicas"] * int(limits.get("nvidia.com/gpu", 0)) == processes * gpus, role
    engine = next(one for one in release.pods["sandbox"]["spec"]["initContainers"] if one["name"] == "engine")
    limits = engine["resources"]["limits"]
    assert int(limits["cpu"]) >= config.sandbox.slots
    assert quantity(limits["memory"]) >= config.sandbox.slots * config.sandbox.memory_mib * 2**20 + 2**30


def test_the_smoke_values_take_what_they_say(render: Callable[..., Release]) -> None:
    cpus, memory, release = 0.0, 0.0, render(EXAMPLES["smoke"])
    for role, pod in release.pods.items():
        sidecars = [one for one in pod["spec"].get("initContainers", []) if one.get("restartPolicy") == "Always"]
        for container in [*sidecars, *pod["spec"]["containers"]] if role != "test" else []:
            cpus += quantity(container["resources"]["limits"]["cpu"])
            memory += quantity(container["resources"]["limits"]["memory"])
    head = (CHART / "values-smoke.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert f"six pods with {cpus:g} CPUs and {memory / 2**30:g} GiB" in head


def test_the_cluster_can_say_what_it_runs(render: Callable[..., Release]) -> None:
    assert render().ray["spec"]["entrypoint"] == "pgrpo train /etc/pgrpo/config.yaml --resume-if-any"
    assert "ray job submit" in render(MATRIX["ray-cluster"]).notes


def test_the_product_knows_the_entrypoints_options(render: Callable[..., Release]) -> None:
    import typer

    words = render().ray["spec"]["entrypoint"].split()
    command = typer.main.get_command(import_module("pgrpo_ray.cli").app).commands[words[1]]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_versions_agree(render: Callable[..., Release]) -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == pgrpo_ray.__version__
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{chart["appVersion"]}"' in project
    assert f']=={render().cluster["rayVersion"]}"' in next(line for line in project.splitlines() if '"ray[' in line)
    assert render().pods["head"]["spec"]["containers"][0]["image"] == f"pgrpo-ray:{chart['appVersion']}"


def test_the_dashboard_asks_for_metrics_that_are_exported() -> None:
    """By our own source, and by Ray's: what it declares, and what its own dashboards ask for."""
    dashboard = json.loads((CHART / "dashboards" / "pgrpo-ray.json").read_text(encoding="utf-8"))
    asked = set(
        re.findall(r"\bray_\w+", " ".join(t["expr"] for panel in dashboard["panels"] for t in panel["targets"]))
    )
    sources = [ROOT / "pgrpo_ray" / "actors" / name for name in ("pool_metrics.py", "run_metrics.py")]
    ours = "".join(source.read_text(encoding="utf-8") for source in sources)
    suffixes = {"Gauge": ("",), "Counter": ("_total",), "Histogram": ("_bucket", "_sum", "_count")}
    exported = {
        f"ray_{name}{suffix}"
        for kind, name in re.findall(r'(Gauge|Counter|Histogram)\(\s*"(\w+)"', ours)
        for suffix in suffixes[kind]
    }
    ray = Path(import_module("ray").__file__).parent / "dashboard" / "modules"
    exported |= {
        f"ray_{name}" for name in re.findall(r'"(\w+)": Gauge\(', (ray / "reporter" / "reporter_agent.py").read_text())
    }
    exported |= set(
        re.findall(r"\bray_\w+", (ray / "metrics" / "dashboards" / "default_dashboard_panels.py").read_text())
    )
    assert asked and asked <= exported, asked - exported
    assert {name for name in exported if name.startswith("ray_pgrpo_run_")} <= asked, "a number of the run has no panel"
    (run,) = (one for one in dashboard["templating"]["list"] if one["name"] == "run")
    assert run["allValue"] == ".*"  # outside of Kubernetes no metric has the label, and only this matches its absence
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_monitors_find_ports_and_labels(render: Callable[..., Release]) -> None:
    release = render(MATRIX["multi-node"])
    monitors = [*release.of("PodMonitor").values(), *release.of("ServiceMonitor").values()]
    assert len(monitors) == 2 and all(one["metadata"]["labels"]["release"] == "prometheus" for one in monitors)
    labels = release.cluster["headGroupSpec"]["headService"]["metadata"]["labels"]
    (service,) = release.of("ServiceMonitor").values()
    assert service["spec"]["selector"]["matchLabels"].items() <= labels.items()
    for role in ("head", *release.groups):
        assert {"name": "metrics", "containerPort": 8080} in release.pods[role]["spec"]["containers"][0]["ports"]
    (dashboard,) = (one for name, one in release.of("ConfigMap").items() if name.endswith("-dashboard"))
    assert json.loads(dashboard["data"]["pgrpo-ray.json"])["title"] == "pgrpo_ray"


def test_a_run_that_would_write_where_no_volume_is_mounted_is_refused(render: Callable[..., Release]) -> None:
    from helm_python.errors import HelmRenderError

    with pytest.raises(HelmRenderError, match=r'run.dir is "/shared/runs", where no volume is mounted'):
        render({"configFile": "run: {dir: /shared/runs}"})
