"""Where text of a language model that is not the policy comes from: this project's vLLM workers, or an endpoint.

One section, used by every command that asks such a model: pairs, the judge and the sampling of LCB-RB.
"""

import os
from typing import Literal

from pydantic import Field

from pgrpo_ray.config.base import SecretName, Section
from pgrpo_ray.errors import ConfigError


class ChatSection(Section):
    """A chat model and how it is asked. `actors.chat.open_chat_model` opens it."""

    backend: Literal["vllm", "endpoint"] = "vllm"
    """`vllm`: this project's own workers on Ray; `endpoint`: any server that speaks OpenAI's chat completions."""
    model: str = "starter"
    """`vllm`: `starter`, a folder in Hugging Face format, or a hub name; `endpoint`: the name that the server knows."""
    name: str | None = None
    """What provenance calls the model; None: `model`."""
    concurrency: int = Field(32, ge=1, le=1000)
    """Requests in flight at a time: at the endpoint, or in each vLLM worker."""

    base_url: str | None = None
    """Of the endpoint, such as http://localhost:8000/v1."""
    api_key_env: SecretName | None = None
    """Name of the environment variable that holds the key, never the key itself. None: the endpoint wants none."""
    timeout_s: float = Field(120, gt=0)
    """One attempt of one request at the endpoint, seconds."""
    deadline_s: float = Field(600, gt=0)
    """One request at the endpoint, all attempts and pauses together, seconds."""
    retries: int = Field(5, ge=0)
    """Attempts after the first, when the endpoint answers 408, 409, 429, 5xx, nonsense, or not in time."""
    backoff_s: float = Field(1.0, gt=0)
    """Pause before the second attempt; it doubles with each, up to a minute, and is drawn from its upper half."""
    requests_per_minute: float | None = Field(None, gt=0)
    """Attempts that may begin in a minute, evenly spaced. None: as many as `concurrency` allows."""
    max_tokens_key: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """Under which key the endpoint wants the bound on an answer's tokens; OpenAI's newer models want the second."""
    send_seed: bool = True
    """Send each request's seed. Off for endpoints that refuse the key."""
    prompt_price: float = Field(0.0, ge=0)
    """For a million prompt tokens, in any currency; only for the count of what a job cost."""
    completion_price: float = Field(0.0, ge=0)
    """For a million tokens of answers, in the same currency."""

    address: str = "local"
    """vLLM: `local` starts Ray here; `auto` or an address joins a cluster."""
    num_workers: int = Field(1, ge=1)
    """vLLM: engines, each one actor."""
    gpus_per_worker: Literal[0, 1] = 0
    """vLLM: GPUs of each worker, all its own; 0 runs the CPU build."""
    threads_per_worker: int = Field(1, ge=1)
    """vLLM: OpenMP threads of a CPU worker."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """vLLM: of the weights."""
    max_model_tokens: int = Field(8192, ge=32)
    """vLLM: prompt plus answer, tokens. A longer prompt is refused, a longer answer is cut."""
    kv_cache_mib: int | None = Field(None, ge=16)
    """vLLM: size of the KV cache, MiB. None: vLLM's own choice."""
    enforce_eager: bool = False
    """vLLM: skip graph capture; slower on GPUs, faster start on CPU."""
    startup_timeout_s: float = Field(600, gt=0)
    """vLLM: until every worker answers, seconds."""
    answer_timeout_s: float = Field(1800, gt=0)
    """vLLM: for the next answer of any worker, seconds. On expiry the job stops; what came before is kept."""

    @property
    def label(self) -> str:
        """What provenance calls the model."""
        return self.name or self.model

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return what these tokens cost, in the currency of the prices."""
        return (prompt_tokens * self.prompt_price + completion_tokens * self.completion_price) / 1e6

    def check(self, path: str) -> None:
        """Refuse what cannot work. `path` is the dotted name of this section. Raises `ConfigError`; changes nothing."""
        if self.backend == "vllm":
            return
        if self.model == "starter":
            raise ConfigError(
                f"{path}.model is `starter`, which no endpoint serves. Give the name that the endpoint knows, or set "
                f"{path}.backend=vllm.",
                path=f"{path}.model",
            )
        if {"@", "?"} & set(self.base_url or ""):  # an address is written beside results and into errors
            raise ConfigError(
                f"{path}.base_url holds a user or a query (`@`, `?`), and with it perhaps a secret, which would be "
                f"written beside results. Take it out; {path}.api_key_env names the variable that holds a key.",
                path=f"{path}.base_url",
            )
        if not (self.base_url or "").startswith(("http://", "https://")):
            raise ConfigError(
                f"{path}.base_url is {self.base_url!r}: an endpoint needs an address such as http://localhost:8000/v1.",
                path=f"{path}.base_url",
            )
        if self.api_key_env is not None:
            key = os.environ.get(self.api_key_env, "").strip()
            if not key:
                raise ConfigError(
                    f"{path}.api_key_env names {self.api_key_env!r}, which the environment does not hold. Set that "
                    "variable to the key (never put a key into the config).",
                    path=f"{path}.api_key_env",
                )
            if not (key.isascii() and key.isprintable()):  # else the client would refuse, and quote it
                raise ConfigError(
                    f"{path}.api_key_env names {self.api_key_env!r}, whose value holds a line end or another character "
                    "that no HTTP header may hold. Set that variable to the key alone.",
                    path=f"{path}.api_key_env",
                )
        if self.deadline_s < self.timeout_s:
            raise ConfigError(
                f"{path}.deadline_s ({self.deadline_s:g}) is below {path}.timeout_s ({self.timeout_s:g}): no attempt "
                "could use its time. Raise the one or lower the other.",
                path=f"{path}.deadline_s",
            )
