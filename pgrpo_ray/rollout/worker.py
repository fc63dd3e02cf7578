"""The rollout worker: requests in, one Arrow table per finished group out.

Owns: the text view of a rollout and its parsing. Does not own: how tokens are sampled (`RolloutEngine`), where the
worker runs (`actors`). Emits each group when its last response ends, so that execution starts while others sample.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from pgrpo_ray.data import arrow
from pgrpo_ray.data.response import parse
from pgrpo_ray.protocols import RolloutEngine
from pgrpo_ray.types import PromptRequest, SampledGroup

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


class RolloutWorker:
    """Turns requests into ROLLOUT tables."""

    def __init__(self, engine: RolloutEngine, tokenizer: "PreTrainedTokenizerBase"):
        self._engine = engine
        self._tokenizer = tokenizer

    def generate(self, requests: Sequence[PromptRequest], group_size: int, temperature: float) -> Iterator[pa.Table]:
        """Yield one table of `group_size` rows per request, in the order in which groups finish."""
        for group in self._engine.generate(requests, group_size, temperature):
            yield self._table(group)

    def load_weights(self, weights: Iterable[tuple[str, "torch.Tensor"]], version: int) -> None:
        """Serve `version` from now on."""
        self._engine.load_weights(weights, version)

    def _table(self, group: SampledGroup) -> pa.Table:
        size = len(group.response_ids)
        texts = [self._tokenizer.decode(ids, skip_special_tokens=True) for ids in group.response_ids]
        parsed = [parse(text) for text in texts]
        return arrow.build_table(
            arrow.ROLLOUT_SCHEMA,
            {
                "problem_id": [group.request.problem_id] * size,
                "sample_index": list(range(size)),
                "policy_version": [group.policy_version] * size,
                "prompt": [self._tokenizer.decode(group.request.prompt_ids)] * size,
                "prompt_ids": [list(group.request.prompt_ids)] * size,
                "response_ids": list(group.response_ids),
                "rollout_logprobs": list(group.rollout_logprobs),
                "response": texts,
                "finish_reason": list(group.finish_reasons),
                "format_ok": [p.format_ok for p in parsed],
                "thinking": [p.thinking for p in parsed],
                "program": [p.program for p in parsed],
            },
        )
