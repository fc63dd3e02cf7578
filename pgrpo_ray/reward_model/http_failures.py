"""What a caller of the reward server gets who gets no scores: a status, and a JSON body that says what to do."""

import math

from fastapi.responses import JSONResponse

from pgrpo_ray.errors import DeadlineError, OverloadError, PgrpoError, UnavailableError


def explain(error: PgrpoError) -> JSONResponse:
    """Return the answer to a request that met `error`."""
    if isinstance(error, UnavailableError):
        return failure(503, "unavailable", str(error), retry_after(error.retry_after_s))
    if isinstance(error, OverloadError):
        return failure(429, "overloaded", str(error), retry_after(error.retry_after_s))
    if isinstance(error, DeadlineError):
        return failure(504, "deadline", str(error))
    return failure(500, "model", str(error))


def failure(status: int, error: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return a `Failure` (`http_api`)."""
    return JSONResponse({"error": error, "message": message}, status, headers=headers)


def retry_after(seconds: float) -> dict[str, str]:
    """Return the header that says when to ask again; HTTP knows whole seconds only."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))}
