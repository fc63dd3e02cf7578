"""A language model as a judge of reasoning: what it is asked, how its answer is read, what both orders say together.

Judges favour a place (the first text, or the second), so every pair is asked in both presentation orders. In order 0
the chosen side is A, in order 1 it is B. An answer that cannot be read is never guessed: it is `None`, and what depends
on it is undecided. Owns words and parsing; who answers is a `protocols.ChatModel`, and keeping answers is the caller's.

Guards against reasoning that addresses the judge: the texts stand between marks that carry a hash of the texts, so no
text can close its own, and verdict lines count only at the very end of the judge's own answer. It does not guard
against a judge that is persuaded.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from pgrpo_ray.errors import ConfigError
from pgrpo_ray.reward_model.lcb_rb.schema import ACCEPT, REJECT, UNPARSED, content_hash
from pgrpo_ray.types import ChatRequest

SOUNDNESS, PREFERENCE = "soundness", "preference"
"""What may be asked: is each side sound (for building), or which side is better (for scoring)."""
NUM_ORDERS = 2
_TEMPLATES = Path(__file__).parent / "templates"
_VERDICT = re.compile(r"^\W*verdict\W+([ab])\W*:\W*(sound|flawed)\W*$", re.IGNORECASE)
_BETTER = re.compile(r"^\W*better\W*:\W*([ab])\W*$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class JudgePrompt:
    """A prompt file, readable and replaceable."""

    task: str
    """`soundness` or `preference`: what its answers are read as."""
    text: str
    """A Jinja template of `problem`, `a`, `b` and `mark`."""

    @property
    def hash(self) -> str:
        """12 hex digits of task and text."""
        return content_hash(self.task, self.text)[:12]

    def render(self, problem: str, a: str, b: str) -> str:
        """Return what the judge is asked about two reasonings."""
        environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True)
        mark = content_hash(problem, a, b)[:12]
        return environment.from_string(self.text).render(problem=problem, a=a, b=b, mark=mark)


def load_prompt(task: str, path: str | Path | None = None) -> JudgePrompt:
    """Read the prompt of a task: the project's own, or the one at `path`.

    Raises `ConfigError` when it cannot be read, is no template, or leaves out the problem or a side.
    """
    file = Path(path) if path else _TEMPLATES / f"judge_{task}.txt"
    try:
        prompt = JudgePrompt(task, file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"judge prompt {file} cannot be read ({error}). Name a text file.", "judge.prompt") from error
    probe = {"problem": "the-problem", "a": "the-side-a", "b": "the-side-b"}
    try:
        shown = prompt.render(**probe)
    except jinja2.TemplateError as error:
        raise ConfigError(
            f"judge prompt {file} is no usable template ({error}). It may use {{{{ problem }}}}, {{{{ a }}}}, "
            "{{ b }} and {{ mark }}.",
            "judge.prompt",
        ) from error
    absent = [name for name, text in probe.items() if text not in shown]
    if absent:
        raise ConfigError(
            f"judge prompt {file} never shows {{{{ {absent[0]} }}}}. Put it in, or the judge cannot see it.",
            "judge.prompt",
        )
    return prompt


@dataclass(frozen=True, slots=True)
class Question:
    """One pair to judge, the side that ought to be better first."""

    id: str
    problem: str
    chosen: str
    rejected: str


def requests(
    question: Question, prompt: JudgePrompt, *, seed: int, temperature: float, max_tokens: int
) -> list[ChatRequest]:
    """Return the two requests of a question, one per presentation order; their ids end in `/0` and `/1`."""
    sides = ((question.chosen, question.rejected), (question.rejected, question.chosen))
    return [
        ChatRequest(
            id=f"{question.id}/{order}",
            prompt=prompt.render(question.problem, *sides[order]),
            seed=seed,
            temperature=temperature,
            max_tokens=max_tokens,
        )
        for order in range(NUM_ORDERS)
    ]


@dataclass(frozen=True, slots=True)
class Soundness:
    """What one answer says of each side, whichever place it had."""

    chosen: bool
    """True: sound."""
    rejected: bool


def parse_soundness(answer: str, order: int) -> Soundness | None:
    """Read the two verdict lines at the end of an answer; None where they are not there, once each."""
    lines = [line for line in answer.splitlines() if line.strip()][-2:]
    found = [match for line in lines if (match := _VERDICT.match(line))]
    said = {match[1].lower(): match[2].lower() == "sound" for match in found}
    if len(found) != 2 or len(said) != 2:
        return None
    return Soundness(said["a"], said["b"]) if order == 0 else Soundness(said["b"], said["a"])


def parse_preference(answer: str, order: int) -> bool | None:
    """Read the last line of an answer: True where the chosen side is better; None where it does not say."""
    lines = [line for line in answer.splitlines() if line.strip()]
    match = _BETTER.match(lines[-1]) if lines else None
    return None if match is None else (match[1].lower() == "a") == (order == 0)


def decide(answers: Sequence[Soundness | None]) -> str:
    """Return `accept` where both orders find the chosen side sound and the rejected one flawed, else `reject`.

    `unparsed` where an answer could not be read and the other one does not reject by itself.
    """
    if any(answer is not None and (not answer.chosen or answer.rejected) for answer in answers):
        return REJECT
    return ACCEPT if all(answer is not None for answer in answers) else UNPARSED


def preference_outcome(answers: Sequence[bool | None]) -> float | None:
    """Return 1 or 0 where both orders prefer the same side, 0.5 where they differ, None where one cannot be read."""
    if any(answer is None for answer in answers):
        return None
    return sum(bool(answer) for answer in answers) / len(answers)
