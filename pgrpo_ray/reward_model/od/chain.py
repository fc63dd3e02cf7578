"""The chain of requests: an original reasoning per problem, then better and worse versions, then pairs of them.

Owns what is asked, under which key, with which seed, and which pairs come of the answers; not who answers (`ChatModel`)
nor where answers are kept (`ledger`). Everything here is a pure function: the same problems, prompts and settings give
the same keys, and so a resumed job asks for exactly what is missing.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pgrpo_ray.reward_model.od.prompts import ALL, DEGRADE, DIMENSIONS, OPTIMISE, ORIGINAL, Prompts
from pgrpo_ray.reward_model.pairs import KINDS, pair_id, problem_hash
from pgrpo_ray.types import ChatRequest, Problem


@dataclass(frozen=True)
class Recipe:
    """What decides every request beside the problem."""

    prompts: Prompts
    generator: str
    """Name of the model."""
    dimensions: str
    """`each` or `all`."""
    temperature: float
    max_tokens: int
    seed: int

    @property
    def groups(self) -> tuple[str, ...]:
        """For what a problem's reasoning is rewritten, each time for better and for worse."""
        return DIMENSIONS if self.dimensions == "each" else (ALL,)

    @property
    def calls_per_problem(self) -> int:
        """Requests when nothing fails."""
        return 1 + 2 * len(self.groups)


@dataclass(frozen=True)
class Call:
    """One request of the chain."""

    problem: Problem
    stage: str
    dimension: str
    """Empty for the original."""
    source: str = ""
    """Original reasoning that is rewritten; empty for the original itself."""

    def key(self, recipe: Recipe) -> str:
        """Return 32 hex digits of everything that decides the answer."""
        decides = [
            problem_hash(self.problem.prompt),
            self.stage,
            self.dimension,
            self.source,
            recipe.prompts.hash,
            recipe.generator,
            recipe.temperature,
            recipe.max_tokens,
            recipe.seed,
        ]
        return hashlib.blake2b(json.dumps(decides).encode(), digest_size=16).hexdigest()

    def request(self, recipe: Recipe) -> ChatRequest:
        """Return what the generator is asked; its id is the key, its seed follows from it."""
        key = self.key(recipe)
        return ChatRequest(
            id=key,
            prompt=recipe.prompts.render(self.stage, self.problem.prompt, self.source, self.dimension),
            system=recipe.prompts.system,
            seed=int(key[:8], 16) & 0x7FFFFFFF,
            temperature=recipe.temperature,
            max_tokens=recipe.max_tokens,
        )


def rewrites(problem: Problem, original: str, recipe: Recipe) -> list[Call]:
    """Return the calls that make `original` better and worse, dimension by dimension."""
    return [Call(problem, stage, dimension, original) for dimension in recipe.groups for stage in (OPTIMISE, DEGRADE)]


def pairs_of(problem: Problem, original: str, versions: dict[tuple[str, str], str], recipe: Recipe) -> Iterator[dict]:
    """Yield rows of PAIR_SCHEMA for one problem: three per dimension, fewer where a version is missing.

    `versions` maps (stage, dimension) to the reasoning that came of it.
    """
    for dimension in recipe.groups:
        texts = {
            "original": original,
            "optimised": versions.get((OPTIMISE, dimension)),
            "degraded": versions.get((DEGRADE, dimension)),
        }
        for kind, (better, worse) in KINDS.items():
            if texts[better] is not None and texts[worse] is not None:
                yield _row(problem, kind, dimension, better, worse, texts, recipe)


def _row(
    problem: Problem, kind: str, dimension: str, better: str, worse: str, texts: dict[str, Any], recipe: Recipe
) -> dict[str, Any]:
    return {
        "pair_id": pair_id(problem.prompt, kind, dimension, texts[better], texts[worse]),
        "problem_id": problem.id,
        "problem_hash": problem_hash(problem.prompt),
        "difficulty": str(problem.metadata.get("difficulty") or ""),
        "prompt": problem.prompt,
        "better": texts[better],
        "worse": texts[worse],
        "kind": kind,
        "dimension": dimension,
        "better_role": better,
        "worse_role": worse,
        "source": "od",
        "generator": recipe.generator,
        "prompts_version": recipe.prompts.version,
        "prompts_hash": recipe.prompts.hash,
        "temperature": recipe.temperature,
        "seed": recipe.seed,
    }


__all__ = ["ORIGINAL", "Call", "Recipe", "pairs_of", "rewrites"]
