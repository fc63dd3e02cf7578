"""A run's folder is read as it was written, while it is written too, and what is no run's is refused."""

import numpy as np
import pyarrow as pa
import pytest

from pgrpo_ray.config import parse
from pgrpo_ray.data.arrow import write_ipc
from pgrpo_ray.data.recorded_run import RecordedRun
from pgrpo_ray.errors import DataError
from pgrpo_ray.obs.run_log import RunLog


@pytest.fixture
def log(tmp_path):
    log = RunLog(parse({"run": {"name": "mine", "dir": str(tmp_path)}}))
    yield log
    log.close()


def test_what_a_run_writes_is_read(log):
    log.step(1, {"reward": 0.5, "thinking_passers": float("nan")})
    write_ipc(log.rollouts_path(1), pa.table({"reward": np.array([1.0])}), {"step": "1"})
    for name in ("after", "before", "step-000005"):
        write_ipc(log.evaluation_path(name), pa.table({"verdict": ["passed"]}), {})
    run = RecordedRun(log.folder)
    assert run.name == "mine"
    assert run.config.run.name == run.config_values["run"]["name"] == "mine"
    assert run.metrics == [{"step": 1, "reward": 0.5, "thinking_passers": None}]
    assert run.steps == [1]
    assert run.rollouts(1, ["reward"]).to_pylist() == [{"reward": 1.0}]
    assert run.evaluations == ["before", "step-000005", "after"]
    assert run.evaluation("after").num_rows == 1
    assert run.summary is None
    log.summary({"steps": 1})
    assert RecordedRun(log.folder).summary == {"steps": 1}


def test_a_line_that_is_being_written_is_left_out_and_a_torn_one_before_it_is_named(log):
    log.step(1, {})
    file = log.folder / "metrics.jsonl"
    file.write_text(file.read_text() + '{"step": 2, "rew')
    assert [line["step"] for line in RecordedRun(log.folder).metrics] == [1]
    file.write_text('{"step": 1, "rew\n{"step": 2}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl:1: is no JSON object"):
        _ = RecordedRun(log.folder).metrics


def test_what_is_not_there_is_said_with_what_is(log, tmp_path):
    with pytest.raises(DataError, match=r"no config\.yaml"):
        RecordedRun(tmp_path)
    write_ipc(log.rollouts_path(3), pa.table({"reward": [1.0]}), {})
    run = RecordedRun(log.folder)
    with pytest.raises(DataError, match=r"no rollouts of step 4\. There are steps 3 to 3"):
        run.rollouts(4)
    with pytest.raises(DataError, match=r"lacks the columns \['verdict'\]"):
        run.rollouts(3, ["verdict"])
    with pytest.raises(DataError, match="There are: none"):
        run.evaluation("after")
