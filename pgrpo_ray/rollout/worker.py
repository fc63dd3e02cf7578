"""The rollout worker: requests in, Arrow tables of finished groups out.

Owns: the text view of a rollout and its parsing. Does not own: how tokens are sampled (`RolloutEngine`) and in which
thread (`EngineLoop`), where the worker runs (`actors`). Emits each group when its last response ends, so that execution
starts while others sample; groups that end while nobody takes them travel together.
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
        together: int = 1,
    ) -> Iterator[pa.Table]:
        """Yield `group_size` rows per request, group after group as they finish, in tables of up to `together` groups;
        see `EngineLoop`."""
        for groups in self._loop.generate(requests, group_size, temperature, version, name, together):
            yield self._table(groups)

    def drop(self, name: str) -> int:
        """Give up what has not ended of the calls of `generate` with that name; return how many groups that are."""
        return self._loop.drop(name)

    def load_weights(self, weights: Iterable[tuple[str, "torch.Tensor"]], version: int) -> None:
        """Serve `version` from the next token on. What fails here leaves an engine that refuses to sample."""
        self._loop.load_weights(weights, version)

    def order(self, what: Callable[[Any], Any]) -> Any:
        """Have `what` called with the engine between two tokens, in its thread."""
        return self._loop.order(what)

    def _table(self, groups: Sequence[SampledGroup]) -> pa.Table:
        ids = [ids for group in groups for ids in group.response_ids]
        spans = [spans for group in groups for spans in group.versions]
        texts = [self._tokenizer.decode(response, skip_special_tokens=True) for response in ids]
        parsed = [parse(text) for text in texts]
        requests = [group.request for group in groups for _ in group.response_ids]
        prompts = {group.request.prompt_ids: self._tokenizer.decode(group.request.prompt_ids) for group in groups}
        return arrow.build_table(
            arrow.ROLLOUT_SCHEMA,
            {
                "problem_id": [request.problem_id for request in requests],
                "sample_index": [index for group in groups for index in range(len(group.response_ids))],
                "policy_version": [versions[0][0] for versions in spans],
                "prompt": [prompts[request.prompt_ids] for request in requests],
                "prompt_ids": [list(request.prompt_ids) for request in requests],
                "response_ids": ids,
                "rollout_logprobs": [logprobs for group in groups for logprobs in group.rollout_logprobs],
                "versions": [[version for version, _ in versions] for versions in spans],
                "version_starts": [[start for _, start in versions] for versions in spans],
                "response": texts,
                "finish_reason": [reason for group in groups for reason in group.finish_reasons],
                "format_ok": [p.format_ok for p in parsed],
                "thinking": [p.thinking for p in parsed],
                "program": [p.program for p in parsed],
            },
        )
