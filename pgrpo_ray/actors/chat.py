"""One door to every chat model: a config section in, an open `ChatModel` out. Light until it is opened."""

import contextlib
from collections.abc import Iterator

from pgrpo_ray.config.chat import ChatSection
from pgrpo_ray.protocols import ChatModel


@contextlib.contextmanager
def open_chat_model(section: ChatSection) -> Iterator[ChatModel]:
    """Open the model that `section` describes for the length of the block; `model=starter` must be resolved before.

    An endpoint is not asked anything yet. vLLM workers are started on Ray, which is joined or started for them where
    this process has none; they answer when the block begins. Raises `ConfigError`, `ModelError`, `EnvironmentFault`.
    """
    if section.backend == "endpoint":
        from pgrpo_ray.chat.endpoint import EndpointChat

        model: ChatModel = EndpointChat(section)
    else:
        from pgrpo_ray.actors.chat_workers import WorkerChat

        model = WorkerChat(section)
    try:
        yield model
    finally:
        model.close()
