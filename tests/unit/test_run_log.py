"""The run folder: nothing is overwritten, everything is flushed, a full disk is explained."""

import json
import os
import subprocess

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pgrpo_ray.config import parse
from pgrpo_ray.data import arrow
from pgrpo_ray.errors import ConfigError, EnvironmentFault
from pgrpo_ray.obs.run_log import RunLog, explain_full_disk


def config(folder, name="one"):
    return parse({"run": {"dir": str(folder), "name": name}})


def test_every_step_is_on_disk_at_once_and_unknown_numbers_are_null(tmp_path):
    log = RunLog(config(tmp_path))
    log.step(1, {"pass_rate": 0.5, "thinking_passers": float("nan")})
    line = json.loads((log.folder / "metrics.jsonl").read_text())
    assert line == {"step": 1, "pass_rate": 0.5, "thinking_passers": None}
    events = EventAccumulator(str(log.folder / "tensorboard")).Reload()
    assert events.Tags()["tensors"] == ["pass_rate"]  # an unknown number is left out of a curve
    (event,) = events.Tensors("pass_rate")
    assert (event.step, event.tensor_proto.float_val[0]) == (1, 0.5)
    log.close()


def test_an_earlier_run_is_moved_aside_whole(tmp_path):
    for number in range(3):
        log = RunLog(config(tmp_path))
        log.summary({"number": number})
        log.close()
    assert json.loads((tmp_path / "one" / "summary.json").read_text()) == {"number": 2}
    assert json.loads((tmp_path / "one.1" / "summary.json").read_text()) == {"number": 0}
    assert json.loads((tmp_path / "one.2" / "summary.json").read_text()) == {"number": 1}


def test_a_name_in_use_is_refused_and_its_folder_left_alone(tmp_path):
    log = RunLog(config(tmp_path))
    log.step(1, {"a": 1.0})
    with pytest.raises(ConfigError, match=r"run\.name"):
        RunLog(config(tmp_path))
    assert (tmp_path / "one" / "metrics.jsonl").read_text()
    log.close()
    RunLog(config(tmp_path)).close()


def test_a_folder_that_cannot_be_made_is_explained(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match=r"run\.dir"):
        RunLog(config(tmp_path / "file"))


def test_a_full_disk_is_explained_and_keeps_what_was_written(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system to fill")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        table = arrow.build_table(
            arrow.THINKING_SCHEMA, {"thinking_reward": [0.5] * 10, "thinking_error": [os.urandom(9).hex()] * 10}
        )
        arrow.write_ipc(disk / "step-000001.arrow", table, {})
        noise = {"thinking_reward": [0.5] * 40000, "thinking_error": [os.urandom(9).hex() for _ in range(40000)]}
        with pytest.raises(EnvironmentFault, match="No space left"), explain_full_disk(disk):
            arrow.write_ipc(disk / "step-000002.arrow", arrow.build_table(arrow.THINKING_SCHEMA, noise), {})
        assert [path.name for path in disk.iterdir()] == ["step-000001.arrow"]
        assert arrow.read_ipc(disk / "step-000001.arrow").num_rows == 10
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_resumed_run_goes_back_to_its_checkpoint_and_keeps_what_came_after(tmp_path):
    log = RunLog(config(tmp_path))
    for step in (1, 2, 3):
        log.step(step, {"pass_rate": step / 10})
        arrow.write_ipc(log.rollouts_path(step), arrow.pa.table({"step": [step]}), {})
        arrow.write_ipc(log.ledger_path(step), arrow.pa.table({"step": [step]}), {})
    for name in ("before", "step-000002", "step-000003", "after"):
        arrow.write_ipc(log.evaluation_path(name), arrow.pa.table({"step": [0]}), {})
    log.close()
    log.close()
    with (log.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "pass_')  # the process died here
    again = RunLog(config(tmp_path), resume=True)
    assert again.moved_to is None
    aside = again.rewind(2)
    assert [json.loads(line)["step"] for line in (log.folder / "metrics.jsonl").read_text().splitlines()] == [1, 2]
    assert (aside / "metrics.jsonl").read_text().splitlines()[1] == '{"step": 4, "pass_'
    left = {str(path.relative_to(log.folder)) for path in log.folder.glob("*/*.arrow")}
    assert left == {
        *(f"{name}/step-00000{step}.arrow" for name in ("rollouts", "ledger") for step in (1, 2)),
        "evaluations/before.arrow",
        "evaluations/step-000002.arrow",
    }
    moved = {str(path.relative_to(aside)) for path in aside.rglob("*.arrow")}
    assert moved == {
        *(f"{name}/step-000003.arrow" for name in ("rollouts", "ledger", "evaluations")),
        "evaluations/after.arrow",
    }
    again.step(3, {"pass_rate": 0.9})
    again.close()
    events = EventAccumulator(str(log.folder / "tensorboard")).Reload().Tensors("pass_rate")
    assert [(event.step, round(event.tensor_proto.float_val[0], 1)) for event in events] == [
        (1, 0.1),
        (2, 0.2),
        (3, 0.9),
    ]
    third = RunLog(config(tmp_path), resume=True)
    assert third.rewind(2).name == "2"
    third.close()


def test_what_was_never_run_cannot_be_resumed(tmp_path):
    with pytest.raises(ConfigError, match="there is no run named 'one'"):
        RunLog(config(tmp_path), resume=True)
    RunLog(config(tmp_path)).close()  # its name is free again
