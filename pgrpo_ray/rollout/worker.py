"""The rollout worker: requests in, one Arrow table per finished group out.

Owns: the text view of a rollout and its parsing. Does not own: how tokens are sampled (`RolloutEngine`) and in which
thread (`EngineLoop`), where the worker runs (`actors`). Emits each group when its last response ends, so that execution
starts while others sample.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pgrpo_ray.data import arrow
from pgrpo_ray.data.response import parse
from pgrpo_ray.rollout.engine_loop import EngineLoop
from pgrpo_ray.types import PromptRequest, SampledGroup

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


class RolloutWorker:
    """Turns requests into ROLLOUT tables."""

    def __init__(self, loop: EngineLoop, tokenizer: "PreTrainedTokenizerBase"):
        self._loop = loop
        self._tokenizer = tokenizer

    @property
    def parameters(self) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        """What a whole version of the weights has, by name: dtype and shape."""
        return self._loop.parameters

    def generate(
        self,
        requests: Sequence[PromptRequest],
        group_size: int,
        temperature: float,
        version: int | None = None,
        name: str = "",
    ) -> Iterator[pa.Table]:
        """Yield one table of `group_size` rows per request, in the order in which groups finish; see `EngineLoop`."""
        for group in self._loop.generate(requests, group_size, temperature, version, name):
            yield self._table(group)

    def drop(self, name: str) -> int:
        """Give up what has not ended of the calls of `generate` with that name; return how many groups that are."""
        return self._loop.drop(name)

    def load_weights(self, weights: Iterable[tuple[str, "torch.Tensor"]], version: int) -> None:
        """Serve `version` from the next token on. What fails here leaves an engine that refuses to sample."""
        self._loop.load_weights(weights, version)

    def order(self, what: Callable[[Any], Any]) -> Any:
        """Have `what` called with the engine between two tokens, in its thread."""
        return self._loop.order(what)

    def _table(self, group: SampledGroup) -> pa.Table:
        size = len(group.response_ids)
        texts = [self._tokenizer.decode(ids, skip_special_tokens=True) for ids in group.response_ids]
        parsed = [parse(text) for text in texts]
        return arrow.build_table(
            arrow.ROLLOUT_SCHEMA,
            {
                "problem_id": [group.request.problem_id] * size,
                "sample_index": list(range(size)),
                "policy_version": [spans[0][0] for spans in group.versions],
                "prompt": [self._tokenizer.decode(group.request.prompt_ids)] * size,
                "prompt_ids": [list(group.request.prompt_ids)] * size,
                "response_ids": list(group.response_ids),
                "rollout_logprobs": list(group.rollout_logprobs),
                "versions": [[version for version, _ in spans] for spans in group.versions],
                "version_starts": [[start for _, start in spans] for spans in group.versions],
                "response": texts,
                "finish_reason": list(group.finish_reasons),
                "format_ok": [p.format_ok for p in parsed],
                "thinking": [p.thinking for p in parsed],
                "program": [p.program for p in parsed],
            },
        )
