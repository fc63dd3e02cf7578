"""This project's own vLLM workers as a `ChatModel`: Ray actors, each with one engine, answers streamed as they end.

Who waits for whom: `WorkerChat.answer` deals requests out in chunks, one chunk to a worker at a time, and waits for the
next answer of any worker, `answer_timeout_s` at most. A chunk is several times what an engine decodes at a time, so
that the engine stays full; whoever ends its chunk gets the next. Owns the actors, and Ray where it had to start it.
A model without chat template gets plain text.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import ray

from pgrpo_ray.actors import waits
from pgrpo_ray.actors.cluster import actor_class, check_capacity, start_ray, vllm_env
from pgrpo_ray.config import RolloutSection
from pgrpo_ray.config.chat import ChatSection
from pgrpo_ray.types import ChatAnswer, ChatRequest, PromptRequest

STAGE = "chat worker"
_CHUNK = 8
"""Chunk over concurrency (ours): an engine then runs half empty for about an eighth of a chunk."""


class ChatRole:
    """One engine that answers. The constructor keeps arguments; `start` loads."""

    def __init__(self, section: ChatSection, index: int):
        self._section = section
        self._index = index

    def start(self) -> None:
        """Load tokenizer and engine."""
        from transformers import AutoTokenizer

        from pgrpo_ray.rollout.vllm_engine import VllmEngine

        section = self._section
        rollout = RolloutSection(
            gpus_per_worker=section.gpus_per_worker,
            threads_per_worker=section.threads_per_worker,
            max_response_tokens=section.max_model_tokens,
            max_concurrent=section.concurrency,
            kv_cache_mib=section.kv_cache_mib,
            enforce_eager=section.enforce_eager,
        )
        self._tokenizer = AutoTokenizer.from_pretrained(section.model, trust_remote_code=False)
        self._engine = VllmEngine(section.model, section.dtype, rollout, section.max_model_tokens, seed=self._index)

    def answer(self, requests: list[ChatRequest]) -> Iterator[ChatAnswer]:
        """Yield one answer per request, as they end. A prompt that is too long is answered as `rejected`."""
        from pgrpo_ray.data.prompts import encode_prompt

        alike = defaultdict(list)  # the engine takes one temperature and one bound on tokens a call
        for request in requests:
            ids = tuple(encode_prompt(self._tokenizer, request.prompt, request.system))
            if len(ids) >= self._section.max_model_tokens:
                problem = f"the prompt has {len(ids)} tokens, chat.max_model_tokens is {self._section.max_model_tokens}"
                yield ChatAnswer(request.id, None, "rejected", problem)
            else:
                prompt = PromptRequest(problem_id=request.id, prompt_ids=ids, seed=request.seed)
                alike[request.temperature, request.max_tokens].append(prompt)
        for (temperature, max_tokens), prompts in alike.items():
            for group in self._engine.generate(prompts, 1, temperature, max_tokens):
                text = self._tokenizer.decode(group.response_ids[0], skip_special_tokens=True)
                tokens = len(group.request.prompt_ids), len(group.response_ids[0])
                yield ChatAnswer(group.request.problem_id, text, group.finish_reasons[0], "", *tokens)


class WorkerChat:
    """Implements `protocols.ChatModel` with `num_workers` actors of `ChatRole`. One caller at a time."""

    def __init__(self, section: ChatSection):
        """Start Ray where this process has none, and the workers; return when all answer.

        Raises `EnvironmentFault` when the cluster cannot be had or is too small, `StageError` with the first cause when
        a worker cannot start.
        """
        self.name = section.label
        self._section = section
        self._workers: list[Any] = []
        self._owns_ray = not ray.is_initialized()
        wanted = section.num_workers * section.threads_per_worker
        try:
            if self._owns_ray:
                start_ray(section.address, wanted, key="chat.address")
            gpus = section.num_workers * section.gpus_per_worker
            where, fix = f"chat.address={section.address!r}", "chat.num_workers or what each takes"
            check_capacity("the chat model", wanted, gpus, where, fix)
            role = actor_class(
                ChatRole,
                cpus=section.threads_per_worker,
                gpus=section.gpus_per_worker,
                threads=section.threads_per_worker,
                env=vllm_env(section.gpus_per_worker),
            )
            self._workers = [role.remote(section, index) for index in range(section.num_workers)]
            deadline = time.monotonic() + section.startup_timeout_s
            for ref in [worker.start.remote() for worker in self._workers]:
                waits.get(ref, max(0.1, deadline - time.monotonic()), STAGE)
        except BaseException:
            self.close()
            raise

    def answer(self, requests: Iterable[ChatRequest]) -> Iterator[ChatAnswer]:
        """Yield one answer per request, as they end. Raises `StageError` when a worker dies or nothing comes.

        A caller that stops early leaves each worker at its chunk, which it ends before it begins with another.
        """
        waiting, size = iter(requests), _CHUNK * self._section.concurrency
        first = list(islice(waiting, size * len(self._workers)))
        share = -(-len(first) // len(self._workers))  # few requests are dealt out evenly
        streams: dict[Any, Any] = {}
        for number, worker in enumerate(self._workers):
            _hand_out(streams, worker, first[number * share : (number + 1) * share])
        while streams:
            for stream in waits.wait_any(list(streams), self._section.answer_timeout_s, STAGE):
                try:
                    ref = next(stream)
                except StopIteration:
                    _hand_out(streams, streams.pop(stream), list(islice(waiting, size)))
                    continue
                yield waits.get(ref, self._section.answer_timeout_s, STAGE)

    def close(self) -> None:
        """Kill the workers; end Ray where it was started here. Idempotent."""
        workers, self._workers = self._workers, []
        if ray.is_initialized():
            for worker in workers:
                ray.kill(worker)
            if self._owns_ray:
                ray.shutdown()
        self._owns_ray = False


def _hand_out(streams: dict[Any, Any], worker: Any, chunk: list[ChatRequest]) -> None:
    if chunk:
        streams[worker.answer.options(num_returns="streaming").remote(chunk)] = worker
