"""Who decides whether a candidate of LCB-RB is a pair: nobody, the starter's judge, or an LLM in both orders."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pgrpo_ray.config.lcb_rb import LcbRbConfig
from pgrpo_ray.errors import DataError
from pgrpo_ray.jobs.judges import AnswerBook
from pgrpo_ray.obs.display import Display
from pgrpo_ray.reward_model import judging
from pgrpo_ray.reward_model.judging import JudgePrompt, Question, Soundness
from pgrpo_ray.reward_model.lcb_rb import schema
from pgrpo_ray.reward_model.lcb_rb.schema import ACCEPT, REJECT
from pgrpo_ray.reward_model.lcb_rb.selection import Candidate
from pgrpo_ray.types import Problem


@dataclass
class Judged:
    """What the judge said of the candidates."""

    name: str
    """Of the judge, as provenance has it."""
    prompt_hash: str = ""
    decisions: dict[int, str] = field(default_factory=dict)
    """By index of the candidate; one that the machinery could not ask about is not here."""
    answers: dict[int, tuple[str, ...]] = field(default_factory=dict)
    unparsed: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    """For the report."""


def judge(
    config: LcbRbConfig,
    folder: Path,
    problems: Sequence[Problem],
    candidates: Sequence[Candidate],
    prompt: JudgePrompt | None,
    display: Display,
) -> Judged:
    """Decide every candidate as `judge.kind` says; `prompt` is an LLM's. Raises the project's errors."""
    if prompt is not None:
        return _judge_by_llm(config, folder, problems, candidates, prompt, display)
    if config.judge.kind == "none":
        return Judged("none", decisions=dict.fromkeys(range(len(candidates)), ACCEPT))
    from pgrpo_ray.starter.judge import examine

    exercises = exercises_of(problems)
    judged = Judged("starter")
    for at, candidate in enumerate(candidates):
        exercise = exercises[candidate.problem_id]
        sides = [examine(exercise, sample.reasoning) for sample in (candidate.chosen, candidate.rejected)]
        judged.decisions[at] = ACCEPT if sides[0].sound and not sides[1].sound else REJECT
        judged.answers[at] = tuple(str(side) for side in sides)
    return judged


def _judge_by_llm(
    config: LcbRbConfig,
    folder: Path,
    problems: Sequence[Problem],
    candidates: Sequence[Candidate],
    prompt: JudgePrompt,
    display: Display,
) -> Judged:
    """Ask in both orders; keep every answer; count what cannot be read."""
    from pgrpo_ray.actors.chat import open_chat_model
    from pgrpo_ray.reward_model.lcb_rb.agreement import agreement

    statements = {problem.id: problem.prompt for problem in problems}
    questions = [
        Question(str(at), statements[one.problem_id], one.chosen.reasoning, one.rejected.reasoning)
        for at, one in enumerate(candidates)
    ]
    book = AnswerBook(folder / "judge-answers.jsonl")
    display.phase("judge", judging.NUM_ORDERS * len(questions))
    with open_chat_model(config.judge.chat) as model:
        name = f"llm:{model.name}"
        answers = book.ask(model, config.judge, prompt, questions, config.lcb_rb.seed, display.advance)
    judged = Judged(name, prompt.hash)
    read: dict[int, list[Soundness | None]] = {}
    for at, question in enumerate(questions):
        if question.id not in answers.texts:
            continue
        texts = answers.texts[question.id]
        read[at] = [judging.parse_soundness(text, order) for order, text in enumerate(texts)]
        judged.decisions[at] = judging.decide(read[at])
        judged.answers[at] = texts
        pair = schema.pair_id(candidates[at].problem_id, question.chosen, question.rejected)
        judged.unparsed += [
            {"pair_id": pair, "order": order, "answer": texts[order]}
            | ({"rejected": why} if (why := answers.rejected.get(f"{question.id}/{order}")) is not None else {})
            for order, soundness in enumerate(read[at])
            if soundness is None
        ]
    both_read = {at: sides for at, sides in read.items() if None not in sides}
    both = list(both_read.values())
    labels = [[word for sides in both for word in _labels(sides[order])] for order in range(judging.NUM_ORDERS)]
    groups = [candidates[at].problem_id for at in both_read for _ in ("chosen", "rejected")]
    kappa = agreement(labels[0], labels[1], groups, seed=config.lcb_rb.seed)
    judged.facts = {
        "requests": judging.NUM_ORDERS * len(questions),
        "prompt_tokens": answers.prompt_tokens,
        "completion_tokens": answers.completion_tokens,
        "cost": config.judge.chat.cost(answers.prompt_tokens, answers.completion_tokens),
        "answers_unparsed": len(judged.unparsed),
        "requests_rejected": len(answers.rejected),
        "first_rejection": next((why for _, why in sorted(answers.rejected.items())), ""),
        "unanswered": len(answers.unanswered),
        "first_error": next(iter(answers.unanswered.values()), ""),
        "position_bias_rate": sum(one != two for one, two in both) / len(both) if both else None,
        "sound_frac_when_first": _frac([sides[0].chosen for sides in both if sides[0]] + _second_first(both)),
        "sound_frac_when_second": _frac([sides[0].rejected for sides in both if sides[0]] + _second_second(both)),
        "agreement_between_orders": kappa.to_json() if kappa else None,
    }
    return judged


def _labels(soundness: Soundness | None) -> list[str]:
    assert soundness is not None
    return ["sound" if side else "flawed" for side in (soundness.chosen, soundness.rejected)]


def _second_first(both: Sequence[Sequence[Soundness | None]]) -> list[bool]:
    """In order 1 the rejected side stands first."""
    return [sides[1].rejected for sides in both if sides[1]]


def _second_second(both: Sequence[Sequence[Soundness | None]]) -> list[bool]:
    return [sides[1].chosen for sides in both if sides[1]]


def _frac(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def exercises_of(problems: Sequence[Problem]) -> dict[str, Any]:
    """The starter's exercises behind the problems. Raises `DataError` where a problem is none of the starter's."""
    from pgrpo_ray.data.own_format import problem_to_json
    from pgrpo_ray.starter.problems import Exercise

    exercises = {}
    for problem in problems:
        try:
            exercises[problem.id] = Exercise.from_json(problem_to_json(problem))
        except (KeyError, TypeError, IndexError) as error:
            raise DataError(
                f"judge.kind=starter knows the starter's own problems only, and {problem.id!r} is none of them (its "
                "metadata does not hold the steps). Set judge.kind=llm or none."
            ) from error
    return exercises
