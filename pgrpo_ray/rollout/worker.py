"""The rollout worker: requests in, Arrow tables of finished groups out.

Owns: the text view of a rollout and its parsing. Does not own: how tokens are sampled (`RolloutEngine`) and in which
thread (`EngineLoop`), where the worker runs (`actors`). Emits each group when its last response ends, so that execution
starts while others sample; groups that end while nobody takes them travel together.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pgrpo_ray.data import arrow
from pgrpo_ray.data.response import parse, text_of
from pgrpo_ray.errors import ModelError
from pgrpo_ray.rollout.engine_loop import EngineLoop
from pgrpo_ray.types import PromptRequest, SampledGroup

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


class RolloutWorker:
    """Turns requests into ROLLOUT tables."""

    def __init__(self, loop: EngineLoop, tokenizer: "PreTrainedTokenizerBase"):
        self._loop = loop
        self.tokenizer = tokenizer

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
        texts = [text_of(self.tokenizer, response) for response in ids]
        parsed = [parse(text) for text in texts]
        requests = [group.request for group in groups for _ in group.response_ids]
        prompts = {group.request.prompt_ids: self.tokenizer.decode(group.request.prompt_ids) for group in groups}
        table = arrow.build_table(
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
        _check_logprobs(table)
        return table


def _check_logprobs(table: pa.Table) -> None:
    """Raise `ModelError` where the engine gave a token a logprob that is no number, or none at all."""
    lengths, logprobs = arrow.list_lengths(table["response_ids"]), table["rollout_logprobs"].combine_chunks()
    given = arrow.list_lengths(logprobs)
    finite = np.isfinite(logprobs.flatten().to_numpy())
    broken = np.repeat(np.arange(len(given)), given)[~finite]
    if broken.size or (given != lengths).any():
        row = int(broken[0] if broken.size else np.flatnonzero(given != lengths)[0])
        named = table.select(["problem_id", "sample_index", "policy_version"]).slice(row, 1).to_pylist()[0]
        raise ModelError(
            f"rollout worker: the engine gave problem {named['problem_id']}, sample {named['sample_index']} "
            f"{lengths[row]} tokens and {np.isfinite(logprobs[row].values.to_numpy()).sum()} logprobs that are "
            f"numbers, with policy version {named['policy_version']}: its weights or its kernels are broken. Try "
            "rollout.enforce_eager=true or policy.dtype=float32."
        )
