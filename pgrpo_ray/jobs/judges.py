"""Asking a language model about pairs, with every answer kept: a job that is killed asks nothing twice.

`AnswerBook` is a file of answers, one JSON object a line, under a key of everything that decides an answer (model,
settings, prompt). Answers are appended and flushed as they come; a last line that a kill cut short is dropped at the
next start. A request that the machinery could not answer is not kept, so the next run asks it again.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pgrpo_ray.config.lcb_rb import JudgeSection
from pgrpo_ray.errors import DataError, EnvironmentFault
from pgrpo_ray.obs.run_log import explain_full_disk
from pgrpo_ray.protocols import ChatModel
from pgrpo_ray.reward_model.judging import NUM_ORDERS, JudgePrompt, Question, requests
from pgrpo_ray.reward_model.lcb_rb.schema import content_hash
from pgrpo_ray.types import ChatRequest


@dataclass(slots=True)
class Answers:
    """What a judge answered to a list of questions."""

    texts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By question id: its answers in both presentation orders. A question with an unanswered order is not here."""
    unanswered: dict[str, str] = field(default_factory=dict)
    """By question id: the machinery's first error."""
    num_asked: int = 0
    """Requests that went to the model; the others were in the book."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


class AnswerBook:
    """Answers of chat models on disk. For one process at a time."""

    def __init__(self, path: Path):
        """Read what is there. Raises `DataError` when it is no book."""
        self._path = path
        self._answers: dict[str, str] = {}
        if path.is_file():
            self._read()

    def _read(self) -> None:
        raw = self._path.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        if len(whole) < len(raw):  # a kill cut the last line short
            with self._path.open("r+b") as file:
                file.truncate(len(whole))
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                record = json.loads(line)
                self._answers[record["key"]] = str(record["text"])
            except (ValueError, KeyError, TypeError) as error:
                message = f"is no answer of a judge ({error}). Remove the file to ask anew."
                raise DataError(message, str(self._path), number) from error

    def ask(
        self,
        model: ChatModel,
        section: JudgeSection,
        prompt: JudgePrompt,
        questions: Sequence[Question],
        seed: int,
        on_progress: Callable[[int], None] = lambda num_answers: None,
    ) -> Answers:
        """Ask every question in both orders, what the book holds excepted.

        Raises `EnvironmentFault` when the model answered nothing at all of what it was asked.
        """
        found = Answers()
        texts: dict[str, str] = {}
        todo: dict[str, tuple[str, ChatRequest]] = {}
        for question in questions:
            asked = requests(
                question, prompt, seed=seed, temperature=section.temperature, max_tokens=section.max_tokens
            )
            for request in asked:
                key = _key(model.name, prompt, request)
                if key in self._answers:
                    texts[request.id] = self._answers[key]
                else:
                    todo[request.id] = (key, request)
        on_progress(len(texts))
        found.num_asked = len(todo)
        errors: dict[str, str] = {}
        for identity, key, text, error, tokens in self._answers_of(model, todo):
            found.prompt_tokens += tokens[0]
            found.completion_tokens += tokens[1]
            if text is None:
                errors[identity] = error
            else:
                self._keep(key, text)
                texts[identity] = text
            on_progress(1)
        for identity in todo.keys() - texts.keys() - errors.keys():
            errors[identity] = "the model gave no answer to this request"
        if todo and len(errors) == len(todo):
            raise EnvironmentFault(
                f"the judge {model.name!r} answered none of {len(todo)} requests; the first error: "
                f"{errors[next(iter(todo))]} Answers of earlier runs are kept in {self._path}."
            )
        for question in questions:
            ids = [f"{question.id}/{order}" for order in range(NUM_ORDERS)]
            failed = [errors[identity] for identity in ids if identity in errors]
            if failed:
                found.unanswered[question.id] = failed[0]
            else:
                found.texts[question.id] = tuple(texts[identity] for identity in ids)
        return found

    def _answers_of(
        self, model: ChatModel, todo: dict[str, tuple[str, ChatRequest]]
    ) -> Iterator[tuple[str, str, str | None, str, tuple[int, int]]]:
        """Yield (id, key, text, error, (prompt tokens, completion tokens)) as answers come."""
        if not todo:
            return
        for answer in model.answer([request for _, request in todo.values()]):
            if answer.id in todo:
                tokens = (answer.prompt_tokens, answer.completion_tokens)
                yield answer.id, todo[answer.id][0], answer.text, answer.error, tokens

    def _keep(self, key: str, text: str) -> None:
        self._answers[key] = text
        with explain_full_disk(self._path.parent), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "text": text}) + "\n")


def _key(model: str, prompt: JudgePrompt, request: ChatRequest) -> str:
    settings = (str(request.seed), f"{request.temperature:g}", str(request.max_tokens))
    return content_hash(model, prompt.hash, request.prompt, *settings)[:32]
