"""Reward rules: the paper's R = R^f + R^o + R^o * R^t, its arms, a user's own, and what failed machinery does."""

import math
import sys
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_ray.algo.rewards import (
    RULES,
    Signals,
    Term,
    compose,
    find_rule,
    outweighed,
    reward_rule,
    with_length_penalty,
)
from pgrpo_ray.errors import ConfigError

NAN = np.nan
POSTERIOR = RULES["posterior"]


def signals(format_ok, passed, thinking, failed=None, pass_frac=None, tokens=None):
    size = len(passed)
    return Signals(
        format_ok=np.asarray(format_ok, bool),
        passed=np.asarray(passed, bool),
        pass_frac=np.asarray(passed if pass_frac is None else pass_frac, float),
        thinking=np.asarray(thinking, float),
        response_tokens=np.zeros(size, int) if tokens is None else np.asarray(tokens),
        failed=np.zeros(size, bool) if failed is None else np.asarray(failed, bool),
    )


#              bad format, wrong, wrong, passed, passed
EVERY = {
    "format_ok": [False, True, True, True, True],
    "passed": [False, False, False, True, True],
    "thinking": [NAN, 0.0, 0.8, 0.25, 1.0],
    "pass_frac": [0.0, 0.0, 0.5, 1.0, 1.0],
}


@pytest.mark.parametrize(
    ("rule", "reward", "thinking"),
    [
        ("posterior", [0, 1, 1, 2.25, 3], [0, 0, 0, 0.25, 1]),
        ("outcome_only", [0, 1, 1, 2, 2], None),
        ("linear", [0, 1, 1.8, 2.25, 3], [0, 0, 0.8, 0.25, 1]),
        ("soft", [0, 1, 1.9, 2.25, 3], [0, 0, 0.4, 0.25, 1]),
        ("decoupled", [0, 1, 1, 2.25, 3], [0, 0, 0, 0.25, 1]),
    ],
)
def test_the_composition_of_every_kind_of_rollout_by_hand(rule, reward, thinking):
    rewards = compose(RULES[rule], signals(**EVERY))
    assert rewards.reward.tolist() == pytest.approx(reward)
    assert rewards.terms["format"].tolist() == [0, 1, 1, 1, 1]
    if thinking is None:
        assert "thinking" not in rewards.terms
    else:
        assert rewards.terms["thinking"].tolist() == pytest.approx(thinking)
    assert not rewards.dropped.any()


def test_reasoning_earns_nothing_for_a_program_that_fails():
    with_score = compose(POSTERIOR, signals([True], [False], [0.99]))
    without = compose(POSTERIOR, signals([True], [False], [NAN]))
    assert with_score.reward.tolist() == without.reward.tolist() == [1.0]


def test_failed_machinery_drops_a_rollout_instead_of_scoring_it_zero():
    # The first was never judged; the second passed and has no score; the third is sound.
    given = signals([True] * 3, [False, True, True], [NAN, NAN, 0.5], [True, False, False])
    rewards = compose(POSTERIOR, given)
    assert rewards.dropped.tolist() == [True, True, False]
    assert np.isnan(rewards.reward).tolist() == [True, True, False]
    assert all(np.isnan(term).tolist() == [True, True, False] for term in rewards.terms.values())


def test_a_missing_score_drops_only_where_the_rule_reads_it():
    missing = signals([True, True, False], [True, False, False], [NAN, NAN, NAN])
    assert compose(RULES["outcome_only"], missing).dropped.tolist() == [False, False, False]
    assert compose(POSTERIOR, missing).dropped.tolist() == [True, False, False]
    assert compose(RULES["linear"], missing).dropped.tolist() == [True, True, False]  # no reasoning, no score to miss


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([False], [True], [0.5]), "format is wrong"),
        (([True], [True], [0.5], [True]), "no verdict"),
        (([True], [True], [1.01]), r"\[0, 1\]"),
        (([True], [True], [-0.1]), r"\[0, 1\]"),
        (([True], [True], [np.inf]), r"\[0, 1\]"),
        (([True], [True, True], [0.5]), "one shape"),
    ],
)
def test_impossible_signals_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        compose(POSTERIOR, signals(*arguments))


def test_numbers_in_place_of_booleans_are_refused():
    given = signals([True], [True], [0.5])
    fraction = Signals(given.format_ok, np.array([0.7]), given.pass_frac, given.thinking, given.passed, given.failed)
    with pytest.raises(ValueError, match="passed must be bool"):
        compose(POSTERIOR, fraction)


def test_an_empty_batch_has_empty_rewards():
    assert compose(POSTERIOR, signals([], [], [])).reward.shape == (0,)


@given(st.lists(st.tuples(st.sampled_from(["bad", "wrong", "passed", "failed"]), st.floats(0, 1)), max_size=30))
def test_under_the_gate_a_failing_program_never_outranks_a_passing_one(rows):
    kinds = np.array([kind for kind, _ in rows], dtype=object)
    scores = [score for _, score in rows]
    rewards = compose(POSTERIOR, signals(kinds != "bad", kinds == "passed", scores, kinds == "failed"))
    passing, failing = rewards.reward[kinds == "passed"], rewards.reward[(kinds == "wrong") | (kinds == "bad")]
    assert ((passing >= 2) & (passing <= 3)).all()
    assert (failing <= 1).all()
    assert np.isnan(rewards.reward[kinds == "failed"]).all()


def test_the_length_penalty_falls_linearly_over_the_last_tokens():
    rule = with_length_penalty(RULES["outcome_only"], max_tokens=100, buffer_tokens=20)
    given = signals([True] * 4, [True] * 4, [NAN] * 4, tokens=[10, 80, 90, 100])
    rewards = compose(rule, given)
    assert rewards.terms["length"].tolist() == [0, 0, -0.5, -1]
    assert rewards.reward.tolist() == [2, 2, 1.5, 1]


def test_only_ungated_learned_terms_that_reach_the_outcome_are_warned_of():
    assert {name: bool(outweighed(rule)) for name, rule in RULES.items()} == {
        "posterior": False,
        "outcome_only": False,
        "linear": True,
        "soft": True,
        "decoupled": False,
    }
    terms = (Term("outcome", 0, 1), Term("style", 0, 0.4, learned=True), Term("taste", -0.3, 0.2, learned=True))
    assert not outweighed(reward_rule(terms=terms)(dict))
    taken = (Term("outcome", 0, 1), Term("penalty", -2, 0, learned=True, gated=True))
    assert "penalty" in outweighed(reward_rule(terms=taken)(dict))  # a passing program may earn less than a failing one
    assert "style, taste" in outweighed(reward_rule(terms=(*terms, Term("more", 0, 0.1, learned=True)))(dict))


def own_rule(values, **declared):
    terms = (Term("outcome", 0, 1), Term("brevity", 0, 0.5, **declared))
    return reward_rule(terms=terms, scores="none")(lambda given: {"outcome": given.passed, "brevity": values})


def test_a_rule_of_ones_own_is_held_to_what_it_declares():
    given = signals([True, True], [True, False], [NAN, NAN])
    assert compose(own_rule([0.5, 0.1]), given).reward.tolist() == [1.5, 0.1]
    with pytest.raises(ValueError, match=r"brevity is declared in \[0, 0.5\] and came as 0.1 to 0.6"):
        compose(own_rule([0.6, 0.1]), given)
    with pytest.raises(ValueError, match="declared gated"):
        compose(own_rule([0.5, 0.1], gated=True), given)
    with pytest.raises(ValueError, match="brevity is declared in"):
        compose(own_rule([NAN, 0.1]), given)
    endless = reward_rule(terms=(Term("outcome", 0, math.inf),), scores="none")(lambda _: {"outcome": [math.inf, 1.0]})
    with pytest.raises(ValueError, match=r"outcome is declared in \[0, inf\] and came as 1 to inf"):
        compose(endless, given)
    with pytest.raises(ValueError, match="shape"):
        compose(own_rule([0.5]), given)
    with pytest.raises(ValueError, match="gave"):
        compose(reward_rule(terms=(Term("outcome", 0, 1),))(lambda given: {}), given)


def test_a_declaration_that_contradicts_itself_is_refused():
    outcome = Term("outcome", 0, 1)
    with pytest.raises(ValueError, match="stand twice"):
        reward_rule(terms=(outcome, outcome))(dict)
    with pytest.raises(ValueError, match="is not among"):
        reward_rule(terms=(outcome,), apart=("thinking",))(dict)
    with pytest.raises(ConfigError, match="has already"):
        with_length_penalty(reward_rule(terms=(outcome, Term("length", -1, 0)))(dict), 100, 20)


def test_a_rule_is_found_by_its_own_name_where_it_was_defined():
    outcome = (Term("outcome", 0, 1),)

    @reward_rule(terms=outcome, scores="none")
    def of_this_process(given):
        return {"outcome": given.passed}

    first = of_this_process
    assert find_rule("of_this_process") is first
    with pytest.raises(ConfigError, match="Did you mean 'of_this_process'"):
        find_rule("of_this_proces")

    @reward_rule(terms=outcome, scores="none")
    def of_this_process(given):
        return {"outcome": given.passed}

    assert find_rule("of_this_process") is of_this_process is not first
    with pytest.raises(ValueError, match="is built in"):

        @reward_rule(terms=outcome)
        def posterior(given):
            return {"outcome": given.passed}


def test_a_rule_is_found_by_an_installed_packages_entry_point(tmp_path, monkeypatch):
    (tmp_path / "their_rewards.py").write_text(
        "from pgrpo_ray import Term, reward_rule\n"
        "theirs = reward_rule(terms=(Term('outcome', 0, 1),))(lambda given: {'outcome': given.passed})\n"
    )
    package = tmp_path / "their_rewards-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: their-rewards\nVersion: 1\n")
    (package / "entry_points.txt").write_text(
        "[pgrpo_ray.reward_rules]\ntheir_frugal = their_rewards:theirs\ntheir_missing = their_rewards:nothing\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert find_rule("their_frugal") is sys.modules["their_rewards"].theirs
    with pytest.raises(ConfigError, match="entry point their_rewards:nothing"):
        find_rule("their_missing")


def test_rules_are_found_by_name_and_by_import_path(monkeypatch):
    assert find_rule("posterior") is POSTERIOR
    module = ModuleType("my_rewards")
    module.mine, module.plain = own_rule([0.0]), len
    monkeypatch.setitem(sys.modules, "my_rewards", module)
    assert find_rule("my_rewards:mine") is module.mine
    for name, words in [
        ("posterier", "Did you mean 'posterior'"),
        ("no_such_module:mine", "cannot be imported"),
        ("my_rewards:none", "cannot be imported"),
        ("my_rewards:plain", "Decorate the function"),
    ]:
        with pytest.raises(ConfigError, match=words):
            find_rule(name)
