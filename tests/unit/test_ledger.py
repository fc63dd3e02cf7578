"""Every rollout that was asked for has one fate, and one only."""

import numpy as np
import pytest

from pgrpo_ray.data.arrow import write_ipc
from pgrpo_ray.data.ledger import FATES, LEDGER_SCHEMA, Ledger, audit
from pgrpo_ray.errors import DataError, StageError

TRAINED, FLAT = FATES.index("trained"), FATES.index("no_gradient")


def test_what_is_settled_is_told_once_in_its_order():
    ledger = Ledger(2)
    assert list(ledger.issue(["a", "b"], 0, 1)) == [0, 1]
    assert list(ledger.issue(["a"], 1, 2)) == [2]
    ledger.settle(1, 1, np.array([TRAINED, FLAT]))
    ledger.settle(1, 0, np.array([FLAT, FLAT]))
    ledger.check()
    table = ledger.take()
    assert table.schema.equals(LEDGER_SCHEMA)
    assert table.to_pylist() == [
        {
            "number": number,
            "problem_id": problem,
            "epoch": 0,
            "issued_step": 1,
            "sample_index": sample,
            "settled_step": 1,
            "fate": fate,
        }
        for number, problem, sample, fate in (
            (1, "b", 0, "trained"),
            (1, "b", 1, "no_gradient"),
            (0, "a", 0, "no_gradient"),
            (0, "a", 1, "no_gradient"),
        )
    ]
    assert ledger.take().num_rows == 0
    assert ledger.settled == {"trained": 1, "no_gradient": 3}
    assert [ledger.is_open(number) for number in range(4)] == [False, False, True, False]


@pytest.mark.parametrize("number", [0, 7])
def test_a_group_that_comes_twice_or_unasked_is_noticed(number):
    ledger = Ledger(1)
    ledger.issue(["a", "b"], 0, 1)
    ledger.settle(1, 0, np.array([TRAINED]))
    with pytest.raises(StageError, match=f"group {number} .* it came twice, or nobody asked for it"):
        ledger.settle(2, number, np.array([TRAINED]))


def test_a_group_of_another_size_is_noticed():
    ledger = Ledger(2)
    ledger.issue(["a"], 0, 1)
    with pytest.raises(StageError, match="with 1 rollouts"):
        ledger.settle(1, 0, np.array([TRAINED]))


def test_a_resumed_ledger_knows_what_is_open():
    ledger = Ledger(2)
    ledger.issue(["a", "b", "c"], 0, 1)
    ledger.settle(1, 1, np.array([TRAINED, TRAINED]))
    again = Ledger(2, ledger.issued, ledger.settled)
    with pytest.raises(StageError, match=r"rollouts were lost: 6 were asked for, 2 are open or settled"):
        again.check()
    again.reopen({number: ledger.entry(number) for number in (0, 2)})
    again.check()
    again.settle(2, 2, np.array([FLAT, FLAT]))
    assert list(again.issue(["d"], 1, 2)) == [3]
    again.check()


def test_an_audit_adds_up_all_files_and_finds_what_was_settled_twice(tmp_path):
    with pytest.raises(DataError, match="holds no ledger"):
        audit(tmp_path)
    ledger = Ledger(2)
    ledger.issue(["a", "b", "c"], 0, 1)
    ledger.settle(1, 0, np.array([TRAINED, FLAT]))
    write_ipc(tmp_path / "step-000001.arrow", first := ledger.take(), {})
    ledger.settle(2, 2, np.array([TRAINED, TRAINED]))
    write_ipc(tmp_path / "end.arrow", ledger.take(), {})
    assert audit(tmp_path) == {"groups": 2, "missing_groups": 1, "trained": 3, "no_gradient": 1}
    write_ipc(tmp_path / "step-000002.arrow", first, {})
    with pytest.raises(DataError, match="2 rollouts were settled more than once"):
        audit(tmp_path)
