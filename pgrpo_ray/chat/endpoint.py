"""Any endpoint that speaks OpenAI's chat completions, as a `ChatModel`. The only file that imports openai.

Owns: how many requests are in flight, when an attempt may begin, what is tried again and what is not, deadlines, the
count of tokens. Does not own: what is asked, what an answer means.

- A request is tried again after 408, 409, 429, 5xx, a lost connection, an answer that is none (no choices, no content,
  no JSON), or no answer within `timeout_s`. Pauses double and honour Retry-After, which holds back all other requests
  too: the endpoint means the client, not the request. After `retries` or at `deadline_s` the request has failed.
- 400, 413 and 422 concern one request: it is answered as `rejected` and not tried again.
- 401, 403, 404 and an endpoint that nobody can reach concern all: they end the job. So do as many failures in a row as
  there are lanes: a dead endpoint is not asked thousands of times.

The client's event loop runs in a thread of its own; the caller of `answer` waits for it, for `deadline_s` and a little
at most, and hands in the next request when one is done.
"""

import asyncio
import concurrent.futures
import contextlib
import email.utils
import os
import random
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import openai

from pgrpo_ray.config.chat import ChatSection
from pgrpo_ray.errors import ConfigError, EnvironmentFault, PgrpoError
from pgrpo_ray.types import ChatAnswer, ChatRequest

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam

REJECTED = "rejected"
"""Finish reason of a request that the endpoint will never answer."""
_LONGEST_PAUSE_S = 60.0
_GRACE_S = 10.0
"""Beyond a request's own deadline, until the event loop counts as stuck."""
_MIN_FAILURES = 4
"""In a row, before an endpoint that answered once counts as dead, however few the lanes (ours)."""
_REJECTING, _FORBIDDING, _PASSING = {400, 413, 422}, {401, 403, 404}, {408, 409, 429}
_EXCERPT = 300


class EndpointChat:
    """Implements `protocols.ChatModel`. One caller at a time."""

    def __init__(self, section: ChatSection):
        """Connects to nothing yet. Raises `ConfigError` when the key's variable is not set."""
        section.check("chat")
        self.name = section.label
        self._section = section
        # Stripped: a line end, as `KEY=$(<file)` lets through from some tools, is no part of a header.
        self._key = os.environ.get(section.api_key_env, "").strip() if section.api_key_env else ""
        self._loop = asyncio.new_event_loop()
        # The client's own retries are off: they would neither hold back other requests nor know the deadline.
        self._client = openai.AsyncOpenAI(
            base_url=section.base_url, api_key=self._key or "none", max_retries=0, timeout=section.timeout_s
        )
        self._thread = threading.Thread(target=self._loop.run_forever, name="chat-endpoint", daemon=True)
        self._thread.start()
        self._lanes = section.concurrency
        if section.requests_per_minute is not None:  # more would spend their deadlines in waiting for their turns
            self._lanes = max(1, min(self._lanes, int(section.deadline_s * section.requests_per_minute / 120)))
        self._next_slot = self._held_until = 0.0
        self._held_because = "chat.requests_per_minute holds it back"
        self._failures_in_row = 0
        self._ever_answered = False
        self.num_attempts = 0
        """Requests sent, repeated ones included."""

    def answer(self, requests: Iterable[ChatRequest]) -> Iterator[ChatAnswer]:
        """Yield one answer per request, as they come; takes requests as lanes become free.

        Raises `ConfigError` (key, address or model refused) or `EnvironmentFault` (nobody answers); answers that were
        in by then are yielded first.
        """
        waiting = iter(requests)
        flying: set[concurrent.futures.Future[Any]] = set()
        try:
            while True:
                while len(flying) < self._lanes and (request := next(waiting, None)) is not None:
                    flying.add(asyncio.run_coroutine_threadsafe(self._outcome(request), self._loop))
                if not flying:
                    return
                done, flying = concurrent.futures.wait(
                    flying, self._section.deadline_s + _GRACE_S, return_when=concurrent.futures.FIRST_COMPLETED
                )
                if not done:
                    raise EnvironmentFault("the client of the endpoint hangs: its event loop does not answer.")
                outcomes = [future.result() for future in done]
                yield from (outcome for outcome in outcomes if isinstance(outcome, ChatAnswer))
                for outcome in outcomes:
                    if isinstance(outcome, PgrpoError):
                        raise outcome
        finally:
            for future in flying:
                future.cancel()

    def close(self) -> None:
        """Close connections and end the thread. Idempotent."""
        if self._loop.is_closed():
            return
        with contextlib.suppress(concurrent.futures.TimeoutError):
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(_GRACE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_GRACE_S)
        if not self._thread.is_alive():
            self._loop.close()

    async def _close(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.close()

    async def _outcome(self, request: ChatRequest) -> ChatAnswer | PgrpoError:
        """Ask; return what is wrong with the endpoint. Raised, it would be shown for each request nobody waits for."""
        try:
            return await self._ask(request)
        except PgrpoError as error:
            return error

    async def _ask(self, request: ChatRequest) -> ChatAnswer:
        """Answer one request, after as many attempts as it takes and may have."""
        deadline = time.monotonic() + self._section.deadline_s
        problem = ""
        for attempt in range(self._section.retries + 1):
            if not await self._turn(deadline):
                late = f"no attempt could begin within chat.deadline_s={self._section.deadline_s:g}"
                problem = problem or f"{late}; {self._held_because}"
                break
            self.num_attempts += 1
            limit_s = min(self._section.timeout_s, deadline - time.monotonic())
            try:
                completion = await asyncio.wait_for(self._send(request), limit_s)
                answer = _read(request, completion)
            except TimeoutError:  # of wait_for: a server that dribbles bytes never trips the client's own
                problem, pause_s = f"no answer within {limit_s:.0f} s", None
            except openai.APIStatusError as error:
                status, problem = error.status_code, _explain(error, self._key)
                if status in _REJECTING:
                    self._succeed()  # the endpoint is alive
                    return ChatAnswer(request.id, None, REJECTED, problem)
                if status in _FORBIDDING:
                    raise self._refused(status, problem) from error
                if status < 500 and status not in _PASSING:
                    return self._fail(request, problem)
                pause_s = _retry_after_s(error.response.headers)
            except (openai.OpenAIError, ValueError) as error:  # ValueError: the body is no JSON
                problem, pause_s = _describe(error, self._key), None
                if isinstance(error, openai.APIConnectionError) and not self._ever_answered:
                    problem = f"cannot be reached ({problem})"
            else:
                if answer is not None:
                    self._succeed()
                    return answer
                problem, pause_s = f"answered nonsense: {_excerpt(str(completion), self._key)!r}", None
            if attempt < self._section.retries:
                self._held_because = problem if pause_s is not None else self._held_because
                await self._pause(attempt, pause_s, deadline)
        return self._fail(request, problem)

    async def _send(self, request: ChatRequest) -> Any:
        messages: list[ChatCompletionMessageParam] = []
        if request.system:
            messages.append({"role": "system", "content": request.system})
        messages.append({"role": "user", "content": request.prompt})
        options: dict[str, Any] = {self._section.max_tokens_key: request.max_tokens}
        if self._section.send_seed:
            options["seed"] = request.seed
        return await self._client.chat.completions.create(
            model=self._section.model, messages=messages, temperature=request.temperature, **options
        )

    async def _turn(self, deadline: float) -> bool:
        """Wait until an attempt may begin; False when that is after the deadline."""
        while True:
            now = time.monotonic()
            start = max(now, self._held_until, self._next_slot)
            if start >= deadline:
                return False
            if self._section.requests_per_minute is not None:
                self._next_slot = start + 60 / self._section.requests_per_minute
            await asyncio.sleep(start - now)
            if self._held_until <= start:  # else another request was told to wait meanwhile, and this one waits too
                return True

    async def _pause(self, attempt: int, retry_after_s: float | None, deadline: float) -> None:
        """Wait before the next attempt; Retry-After holds all requests."""
        if retry_after_s is not None:  # `_turn` does that waiting
            self._held_until = max(self._held_until, time.monotonic() + retry_after_s)
        pause_s = min(_LONGEST_PAUSE_S, self._section.backoff_s * 2**attempt) * random.uniform(0.5, 1)
        await asyncio.sleep(max(0.0, min(pause_s, deadline - time.monotonic())))

    def _succeed(self) -> None:
        self._failures_in_row, self._ever_answered = 0, True

    def _fail(self, request: ChatRequest, problem: str) -> ChatAnswer:
        """Return the failure of one request; raise when it looks like that of the endpoint."""
        self._failures_in_row += 1
        unreachable = not self._ever_answered and problem.startswith("cannot be reached")
        if unreachable or self._failures_in_row >= max(_MIN_FAILURES, self._section.concurrency):
            raise EnvironmentFault(
                f"the endpoint {self._section.base_url} gives no answers: {problem}. {self._failures_in_row} requests "
                "in a row failed after all retries. Check that it runs and serves this model; what was answered is "
                "kept, so run the same command again."
            )
        return ChatAnswer(request.id, None, "", problem)

    def _refused(self, status: int, problem: str) -> ConfigError:
        if status == 404:
            return ConfigError(
                f"the endpoint {self._section.base_url} does not know the address or the model "
                f"{self._section.model!r}: {problem}. Correct chat.base_url (it usually ends in /v1) or chat.model.",
                path="chat.model",
            )
        where = f"in the environment variable {self._section.api_key_env}" if self._section.api_key_env else "(none)"
        return ConfigError(
            f"the endpoint {self._section.base_url} refuses the key {where}: {problem}. Set chat.api_key_env to the "
            "name of a variable that holds a valid key.",
            path="chat.api_key_env",
        )


def _read(request: ChatRequest, completion: Any) -> ChatAnswer | None:
    """Return the answer in a completion; None where it holds none. The client does not check what it parses."""
    choices = getattr(completion, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(choice, "message", None)
    reason = getattr(choice, "finish_reason", None)
    text = getattr(message, "content", None)
    refusal = getattr(message, "refusal", None)
    if text is None and isinstance(refusal, str):
        text = refusal
    if text is None and reason == "content_filter":
        text = ""
    if not isinstance(text, str):
        return None
    text = text.encode("utf-8", "replace").decode()  # half a surrogate pair can be sent as JSON, but not written
    usage = getattr(completion, "usage", None)
    counts = [getattr(usage, key, 0) for key in ("prompt_tokens", "completion_tokens")]
    return ChatAnswer(
        request.id, text, str(reason or ""), "", *(count if isinstance(count, int) else 0 for count in counts)
    )


def _retry_after_s(headers: Any) -> float | None:
    """Return the seconds that a Retry-After header asks for (a number, or a date), None where it asks for none."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass  # then it is a date, or nothing that can be read
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _explain(error: openai.APIStatusError, key: str) -> str:
    """Return status and body."""
    body = " ".join(error.response.text.split()) or "without a word"
    return f"status {error.status_code}: {_excerpt(body, key)}"


def _describe(error: Exception, key: str) -> str:
    """Name the innermost cause: the client's own words are `Connection error.`"""
    cause = error.__cause__ or error
    return _excerpt(f"{type(error).__name__}: {cause}", key)


def _excerpt(text: str, key: str) -> str:
    """Return the beginning of what others said; a key that they repeat is taken out before it could be cut in two."""
    return (text.replace(key, "***") if key else text)[:_EXCERPT]
