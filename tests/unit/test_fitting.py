"""The loop of training: when it looks, what it keeps, when it ends. The trainer is a script of scores."""

import pytest

from pgrpo_ray.errors import StageError
from pgrpo_ray.reward_model.fitting import Heldout, Schedule, fit

HELDOUT = Heldout(num_validation=2, num_test=1)


class Scripted:
    """Scores of look n come from `script[n]`: (better, worse) of the two validation pairs, each."""

    def __init__(self, script, losses=()):
        self.script, self.losses = script, list(losses)
        self.steps, self.looks, self.saved, self.rates = 0, 0, [], []

    def step(self, rows, rate):
        self.steps += 1
        self.rates.append(rate)
        return {"loss": self.losses[self.steps - 1] if self.losses else 1.0, "grad_norm": 1.0, "learning_rate": rate}

    def scores(self, numbers):
        if list(numbers) == [4, 5]:  # the test pair: say which look it belongs to
            return [float(self.looks), 0.0]
        assert list(numbers) == [0, 1, 2, 3]
        self.looks += 1
        return self.script[self.looks - 1]

    def save(self, folder):
        self.saved.append((self.steps, folder))


def test_the_best_weights_are_kept_with_their_scores_and_patience_ends_it(tmp_path):
    half, all_right, worse = [1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]
    trainer = Scripted([half, all_right, worse, half])
    seen = []
    fitted = fit(trainer, [[0]] * 100, Schedule(100, 0, eval_every=3, patience=2), HELDOUT, tmp_path, seen.append)
    assert [(one.step, one.accuracy, one.improved) for one in fitted.evaluations] == [
        (3, 0.5, True),
        (6, 1.0, True),
        (9, 0.0, False),
        (12, 0.5, False),
    ]
    assert trainer.saved == [(3, tmp_path), (6, tmp_path)]
    assert (fitted.best_step, fitted.stopped_early, len(fitted.losses)) == (6, True, 12)
    assert fitted.validation == ([1.0, 1.0], [0.0, 0.0])
    assert fitted.test == ([2.0], [0.0])  # scored by the weights of the second look, as the validation pairs were
    assert [one["step"] for one in seen] == list(range(1, 13))
    assert ["heldout_accuracy" in one for one in seen[:4]] == [False, False, True, False]


def test_at_equal_accuracy_the_likelier_order_wins_and_the_end_is_always_looked_at(tmp_path):
    sure, unsure = [2.0, 0.0, 2.0, 0.0], [1.0, 0.0, 1.0, 0.0]
    trainer = Scripted([unsure, sure, unsure])
    fitted = fit(trainer, [[0]] * 5, Schedule(5, 2, eval_every=2, patience=0), HELDOUT, tmp_path)
    assert [(one.step, one.improved) for one in fitted.evaluations] == [(2, True), (4, True), (5, False)]
    assert not fitted.stopped_early
    assert trainer.rates == pytest.approx([0.5, 1.0, 1.0, 2 / 3, 1 / 3])


def test_steps_that_were_skipped_are_counted(tmp_path):
    class Skipping(Scripted):
        def step(self, rows, rate):
            return super().step(rows, rate) | ({"skipped": 1.0} if self.steps == 2 else {})

    assert fit(Skipping([[1.0, 0.0, 1.0, 0.0]]), [[0]] * 3, Schedule(3, 0, 3, 0), HELDOUT, tmp_path).skipped_steps == 1


def test_a_loss_or_score_that_is_no_number_stops_with_what_to_do(tmp_path):
    trainer = Scripted([[1.0, 0.0, 1.0, 0.0]], [1.0, 1.0, float("nan")])
    with pytest.raises(StageError, match=r"loss of step 3 is nan.*learner.learning_rate"):
        fit(trainer, [[0]] * 5, Schedule(5, 0, 2, 0), HELDOUT, tmp_path)
    assert trainer.saved == [(2, tmp_path)]
    with pytest.raises(StageError, match="score of a held-out pair after step 1"):
        fit(Scripted([[float("nan"), 0.0, 1.0, 0.0]]), [[0]], Schedule(1, 0, 1, 0), HELDOUT, tmp_path)
