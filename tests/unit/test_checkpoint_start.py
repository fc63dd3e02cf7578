"""What is looked at before a run begins: room for its checkpoints, and whether there is one to go on from."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from pgrpo_ray import launch
from pgrpo_ray.config import parse
from pgrpo_ray.errors import ConfigError, EnvironmentFault
from pgrpo_ray.obs.checkpoint_files import put_file
from pgrpo_ray.obs.checkpoints import STATE, CheckpointStore
from pgrpo_ray.preflight.disk import check_checkpoint_room, check_disk
from pgrpo_ray.preflight.models import ModelFacts

MODEL = ModelFacts(num_parameters=1 << 20, max_positions=None)
"""Its checkpoint takes 12 MiB."""


@pytest.fixture
def free_mib(monkeypatch):
    """Sets the room that every disk has, MiB."""

    def set_free(mib):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=mib << 20))

    return set_free


def config(folder, **checkpoint):
    return parse({"run": {"dir": str(folder), "name": "mine"}, "checkpoint": checkpoint})


def write_checkpoint(config, step):
    store = CheckpointStore(config.checkpoint_root)
    draft = store.begin(step)
    files = [
        put_file(draft, STATE, lambda path: path.write_text("{}")),
        put_file(draft, "learner-00000-of-00001.safetensors", lambda path: path.write_bytes(bytes(12 << 20))),
    ]
    store.commit(draft, step, dict(files))


def test_a_disk_must_hold_those_that_are_kept_the_best_and_a_draft(tmp_path, free_mib):
    free_mib(60)
    check_checkpoint_room(config(tmp_path, keep=3), MODEL)
    free_mib(59)
    with pytest.raises(EnvironmentFault, match=r"has 59 MiB free; 5 checkpoints of 12 MiB .* take 60 MiB more\. Free"):
        check_checkpoint_room(config(tmp_path, keep=3), MODEL)
    check_checkpoint_room(config(tmp_path, keep=3, every_steps=0), MODEL)
    check_checkpoint_room(config(tmp_path, keep=3, dir="memory://bucket"), MODEL)


def test_what_a_run_that_is_resumed_has_written_counts(tmp_path, free_mib):
    write_checkpoint(config(tmp_path), 1)
    free_mib(48)
    check_checkpoint_room(config(tmp_path, keep=3), MODEL)


def test_what_a_resume_superseded_stays_and_does_not_count(tmp_path, free_mib):
    write_checkpoint(config(tmp_path), 1)
    write_checkpoint(config(tmp_path), 2)
    CheckpointStore(config(tmp_path).checkpoint_root).supersede(1)
    free_mib(48)
    check_checkpoint_room(config(tmp_path, keep=3), MODEL)
    free_mib(47)
    with pytest.raises(EnvironmentFault, match=r"take 48 MiB more\. Free"):
        check_checkpoint_room(config(tmp_path, keep=3), MODEL)


@pytest.mark.parametrize(
    ("run_dir", "checkpoint_dir", "refused"),
    [
        ("runs", None, "run.dir"),
        ("{shared}", "checkpoints", "checkpoint.dir"),
        ("{shared}", "{shared}", None),
        ("{shared}", "memory://bucket", None),
        ("{shared}", None, None),
    ],
)
def test_nothing_is_kept_in_what_ray_removes_after_a_job(tmp_path, monkeypatch, run_dir, checkpoint_dir, refused):
    unpacked = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_0"
    unpacked.mkdir(parents=True)
    monkeypatch.chdir(unpacked)
    shared = str(tmp_path / "shared")
    named = checkpoint_dir and checkpoint_dir.format(shared=shared)
    mine = parse({"run": {"dir": run_dir.format(shared=shared)}, "checkpoint": {"dir": named}})
    if refused is None:
        check_disk(mine, uses_starter=False)
        return
    with pytest.raises(ConfigError, match=rf"{refused}='\w+' is relative .* --set {refused}=") as caught:
        check_disk(mine, uses_starter=False)
    assert caught.value.path == refused


def test_a_job_begins_where_there_is_no_checkpoint_and_goes_on_where_there_is_one(tmp_path, monkeypatch):
    wanted = []
    monkeypatch.setattr(launch, "check_unused", lambda config: wanted.append("begins") or 1 / 0)
    monkeypatch.setattr(launch, "RunLog", lambda config, resume: wanted.append("goes on") or 1 / 0)
    short = {"data": {"max_prompt_tokens": 64}, "rollout": {"max_response_tokens": 128}}
    mine = parse({"run": {"dir": str(tmp_path), "name": "mine"}, "sandbox": {"backend": "process"}, **short})
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            launch.run(mine, SimpleNamespace(print=lambda *_, **__: None), launch.LATEST_IF_ANY)
        write_checkpoint(mine, 1)
    assert wanted == ["begins", "goes on"]


def test_a_run_that_is_refused_for_lack_of_room_ends_no_other_of_its_name(tmp_path, monkeypatch):
    mine = parse(
        {"run": {"dir": str(tmp_path)}, "checkpoint": {"dir": str(tmp_path / "kept")}, "cluster": {"address": "auto"}}
    )
    reward = SimpleNamespace(sized=lambda config: config, warnings=[])
    examined = SimpleNamespace(sandbox=SimpleNamespace(kind="docker"), reward=reward)
    monkeypatch.setattr(launch, "examine", lambda config: examined)
    monkeypatch.setattr(CheckpointStore, "claim", lambda store: pytest.fail("the other run ends"))

    def refuse(config):
        raise EnvironmentFault("no room")

    monkeypatch.setattr(launch, "ray_session", refuse)
    others_draft = Path(CheckpointStore(mine.checkpoint_root).begin(1))
    with pytest.raises(EnvironmentFault, match="no room"):
        launch.run(mine, Console(quiet=True))
    assert others_draft.exists()
