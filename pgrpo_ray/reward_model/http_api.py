"""The reward server's HTTP side: schemas and answers. Knows nothing of Ray.

Nobody is left without an answer: no token 401, what cannot be parsed 400, wrong input 422, too much of it 413, a body
that does not arrive 408, a full queue 429, no replica 503 (both with Retry-After), a deadline that has passed 504, a
model that gives no number and a defect of the server 500; each with a JSON body that says what to do
(`http_failures`). What is refused before its body is read: `http_door`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field

from pgrpo_ray import __version__
from pgrpo_ray.config.serving import ServerSection
from pgrpo_ray.errors import PgrpoError
from pgrpo_ray.reward_model.http_door import Door
from pgrpo_ray.reward_model.http_failures import explain, failure, retry_after
from pgrpo_ray.reward_model.scorer import Scored, ServedModel

HEALTH_TIMEOUT_S = 5.0
"""For Ray Serve to count the replicas; silence is no health."""


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Item(_Schema):
    """A reasoning to score."""

    prompt: str = Field(min_length=1, description="The problem's statement, without any chat template.")
    reasoning: str = Field(min_length=1, description="The reasoning alone: no tags, no program.")


class ScoreRequest(_Schema):
    """Reasonings to score together."""

    items: list[Item] = Field(min_length=1, description="Answered in this order.")
    timeout_s: float | None = Field(
        None, gt=0, description="Give up after so many seconds; at most, and by default, the server's own deadline."
    )


class ScoreMapInfo(_Schema):
    """The map from `raw` to `score`: of z = (raw - offset) / temperature."""

    name: str
    temperature: float
    offset: float


class Version(_Schema):
    """What gives the scores."""

    model: str
    version: str = Field(description="Content hash of the model's folder, or the hub's commit.")
    backend: str
    score_map: ScoreMapInfo
    max_length_tokens: int = Field(description="Longer inputs lose the beginning of the reasoning.")
    server: str = Field(description="Version of pgrpo_ray.")


class ScoredItem(_Schema):
    """One reasoning's score."""

    raw: float = Field(description="The model's scalar, unbounded.")
    score: float = Field(ge=0, le=1, description="R^t.")
    tokens: int = Field(description="Length of the model's input after cutting.")
    truncated: bool = Field(description="The reasoning lost its beginning.")


class ScoreAnswer(Version):
    """Scores in the order of the items, and what gave them."""

    items: list[ScoredItem]


class Health(_Schema):
    """Whether requests are answered."""

    status: str = Field(description="`ok` or `unavailable`.")
    replicas: dict[str, int] = Field(description="Number by state, such as RUNNING.")


class Failure(_Schema):
    """Why there are no scores."""

    error: str = Field(
        description="unauthorised, slow_body, too_large, length_required, overloaded, unavailable, deadline, model or "
        "internal."
    )
    message: str = Field(description="What was wrong and what to do.")


Score = Callable[[Sequence[tuple[str, str]], float], Awaitable[tuple[ServedModel, list[Scored]]]]
"""Scores (problem prompt, reasoning) within seconds; raises `UnavailableError`, `DeadlineError`, `ModelError`, ..."""

_FAILURES: dict[int | str, dict[str, Any]] = {400: {"description": "The body cannot be parsed."}}
_FAILURES |= {
    status: {"model": Failure, "description": description}
    for status, description in (
        (401, "The token is missing or wrong."),
        (408, "The body did not arrive within the server's deadline: nothing was done."),
        (411, "The request does not say how long it is."),
        (413, "Too many items or characters."),
        (429, "The queue is full: nothing was done; ask again after Retry-After seconds."),
        (500, "The model gave no number, or failed; or the server has a defect."),
        (503, "No replica is running: nothing was scored; ask again after Retry-After seconds."),
        (504, "The deadline passed."),
    )
}


def make_app(
    section: ServerSection,
    served: ServedModel,
    score: Score,
    replicas: Callable[[], dict[str, int]],
    *,
    token: str | None,
) -> FastAPI:
    """Return the application. `replicas` counts replicas by state. `token`: what callers must send; None: nothing."""
    app = FastAPI(
        title="Reasoning reward model",
        version=__version__,
        description=f"Scores reasoning. At most {section.max_items} items a request, {section.max_characters} "
        "characters a text.",
    )
    # For the schemas alone: `Door` decides, before a body is read.
    locked = [] if token is None else [Depends(HTTPBearer(auto_error=False))]

    @app.post("/score", response_model=ScoreAnswer, responses=_FAILURES, dependencies=locked)
    async def score_items(request: ScoreRequest) -> Any:
        """Score reasonings; the higher, the better. Scores of different problems compare only roughly."""
        if excess := _excess(request, section):
            return failure(413, "too_large", excess)
        timeout_s = min(section.deadline_s, request.timeout_s or section.deadline_s)
        try:
            by, scored = await score([(item.prompt, item.reasoning) for item in request.items], timeout_s)
        except PgrpoError as error:
            return explain(error)
        return {**version_of(by), "items": [_scored(one) for one in scored]}

    @app.get("/health", response_model=Health, responses={503: {"model": Health}})
    async def health() -> Any:
        """Say whether a replica is there: status 200 or 503."""
        try:
            counts = await asyncio.wait_for(asyncio.to_thread(replicas), HEALTH_TIMEOUT_S)
        except Exception as error:  # whatever keeps Serve from answering, nobody should send requests here now
            logging.getLogger(__name__).warning("replicas cannot be counted: %s: %s", type(error).__name__, error)
            counts = {}
        ok = counts.get("RUNNING", 0) > 0
        body = {"status": "ok" if ok else "unavailable", "replicas": counts}
        return JSONResponse(body, 200 if ok else 503, headers=None if ok else retry_after(section.retry_after_s))

    @app.get("/version", response_model=Version, responses={401: _FAILURES[401]}, dependencies=locked)
    async def version() -> Any:
        """Name the model that gives the scores. Every replica has this version: another one may not start."""
        return version_of(served)

    @app.exception_handler(RequestValidationError)
    async def refuse(request: Request, error: RequestValidationError) -> JSONResponse:
        """Name each wrong field, without repeating the input: it may be long, or no text at all."""
        findings = [{key: finding[key] for key in ("type", "loc", "msg")} for finding in error.errors()]
        return JSONResponse({"detail": findings}, 422)

    @app.exception_handler(Exception)
    async def confess(request: Request, error: Exception) -> JSONResponse:
        """Answer what nobody foresaw. It goes on to the HTTP server, which logs it with its traceback."""
        return failure(500, "internal", f"A defect of the server ({type(error).__name__}); its log has the traceback.")

    app.add_middleware(Door, section=section, token=token)
    return app


def version_of(served: ServedModel) -> dict[str, Any]:
    """Return the fields of `Version`."""
    map_ = served.score_map
    return {
        "model": served.model,
        "version": served.version,
        "backend": served.backend,
        "score_map": {"name": map_.name, "temperature": map_.temperature, "offset": map_.offset},
        "max_length_tokens": served.max_length_tokens,
        "server": __version__,
    }


def _excess(request: ScoreRequest, section: ServerSection) -> str:
    """What is too much; empty where nothing is."""
    if len(request.items) > section.max_items:
        return f"items: {len(request.items)} were sent, at most {section.max_items} go into one request. Send several."
    for number, item in enumerate(request.items):
        for field, text in (("prompt", item.prompt), ("reasoning", item.reasoning)):
            if len(text) > section.max_characters:
                return (
                    f"items.{number}.{field}: {len(text)} characters, at most {section.max_characters}. The model "
                    "would not read them all anyway: shorten it, or raise server.max_characters."
                )
    return ""


def _scored(one: Scored) -> dict[str, Any]:
    return {"raw": one.raw, "score": one.score, "tokens": one.tokens, "truncated": one.truncated}
