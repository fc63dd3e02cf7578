"""`pgrpo rm serve`: from a checked model to an HTTP server in the foreground, and to nothing left behind.

Order: the token is found or made, the port is taken and the model's files are checked before Ray starts; the replicas
load, and who connects meanwhile waits; then requests are answered. Ctrl-C or SIGTERM closes the port, lets what is on
its way finish for `server.drain_s`, and ends replicas and, where this started it, Ray. The HTTP side runs in this
process and asks the replicas by handle (`actors.reward_server`).
"""

import contextlib
import json
import math
import os
import shlex
import socket
import time
from collections.abc import Callable, Iterator

import uvicorn
from fastapi import FastAPI
from rich.console import Console

from pgrpo_ray.actors.cluster import cluster_session
from pgrpo_ray.actors.reward_server import RewardServer
from pgrpo_ray.actors.spawn import reward_env
from pgrpo_ray.config import STARTER
from pgrpo_ray.config.serving import ServerSection, ServingConfig
from pgrpo_ray.errors import ConfigError, EnvironmentFault
from pgrpo_ray.interrupts import interruptible
from pgrpo_ray.jobs.starter import FAMILIES, make_starter
from pgrpo_ray.obs.disk import keep_secret
from pgrpo_ray.obs.display import working
from pgrpo_ray.preflight.disk import cache_folder
from pgrpo_ray.reward_model.checkpoint import inspect
from pgrpo_ray.reward_model.http_api import make_app


def serve(config: ServingConfig, console: Console) -> None:
    """Serve the reward model until interrupted. Raises the project's errors, before Ray starts where that is possible.

    An interrupt ends it cleanly and is no error.
    """
    section = config.server
    token, shown = _token(section)
    with _listening(section.host, section.port) as listener, interruptible():
        _check_devices(config)
        reward_model = config.reward_model
        if reward_model.model == STARTER:
            with working(console, "making the starter") as tell:
                made = make_starter(config.starter, tell, families=FAMILIES).reward_model
            reward_model = reward_model.model_copy(update={"model": str(made)})
        checkpoint = inspect(reward_model.model)
        name = f"pgrpo-rm-serve-{os.getpid()}-{time.time_ns():x}"
        server = RewardServer(name, reward_model, checkpoint.version, reward_env(reward_model), section.drain_s)
        local = config.cluster.address == "local"
        console.print(
            f"loading {reward_model.model}, backend {reward_model.backend}, replicas: {reward_model.replicas}",
            soft_wrap=True,
        )
        # Ray replaces the signal handlers of its process when it starts, so they are set again.
        with cluster_session(config.cluster, reward_model.replicas * reward_model.threads, {}), interruptible():
            try:
                server.deploy()
                served = server.wait_ready(config.cluster.startup_timeout_s)
                app = make_app(section, served, server.score, server.replicas, token=token)
                _Foreground(app, section.drain_s, lambda: _announce(console, listener, served.version, shown)).listen(
                    listener
                )
            finally:
                server.close(cluster_ends=local)
    console.print("ended")


class _Foreground(uvicorn.Server):
    """uvicorn in this process; says when it listens, and leaves quietly when interrupted."""

    def __init__(self, app: FastAPI, drain_s: float, announce: Callable[[], None]):
        super().__init__(
            uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=math.ceil(drain_s))
        )
        self._announce = announce

    def listen(self, listener: socket.socket) -> None:
        """Serve until SIGINT or SIGTERM; then until what is on its way has finished, or `drain_s` has passed."""
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn drains first and then sends itself the signal again
            self.run(sockets=[listener])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then announce."""
        await super().startup(sockets)
        self._announce()


MIN_TOKEN_CHARACTERS = 16
"""Of a token that the user sets. Ours: what can be guessed is no token; a made one has 64."""


def _token(section: ServerSection) -> tuple[str | None, str]:
    """Return the token that callers must send, and how a shell writes it without showing it. None: there is none.

    Raises `ConfigError` for one that cannot serve, `EnvironmentFault` where a new one cannot be kept.
    """
    if section.authentication == "none":
        return None, ""
    token = os.environ.get(section.token_env, "").strip()
    if token:
        if not _usable(token):
            raise ConfigError(
                f"server.token_env names {section.token_env!r}, whose value is shorter than {MIN_TOKEN_CHARACTERS} "
                "characters or holds some that no HTTP header may. Set it to a longer random text, or unset it: a "
                "token is made then.",
                path="server.token_env",
            )
        return token, f"${section.token_env}"
    path = cache_folder() / "reward-server-token"
    try:
        keep_secret(path)
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise EnvironmentFault(
            f"the server's token cannot be kept in {path}: {error}. Make that folder writable, name another with "
            f"PGRPO_CACHE, or set {section.token_env} to a token of your own."
        ) from error
    if not _usable(token):
        raise EnvironmentFault(f"{path} holds no token that can serve. Remove it, and a new one is made.")
    return token, f"$(cat {shlex.quote(str(path))})"


def _usable(token: str) -> bool:
    return len(token) >= MIN_TOKEN_CHARACTERS and token.isascii() and token.isprintable()


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """Take the port now: a port in use is told before minutes of loading. Who connects waits until requests are served.

    Listening, because two sockets that are only bound may share a port: another server that still loads would not be
    noticed. Sharing as such stays allowed, or a restart would have to wait for the old connections to be forgotten.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen()
        except OSError as error:
            raise EnvironmentFault(
                f"server.host={host}, server.port={port}: cannot listen there ({error.strerror or error}). Choose "
                "another with --host and --port; port 0 takes any free one."
            ) from error
        yield listener


def _check_devices(config: ServingConfig) -> None:
    wanted = config.reward_model.replicas * config.reward_model.gpus
    if not wanted or config.cluster.address != "local":
        return
    import torch

    if wanted > torch.cuda.device_count():
        raise EnvironmentFault(
            f"the server wants {wanted:g} GPUs, torch sees {torch.cuda.device_count()}. Lower reward_model.gpus or "
            "reward_model.replicas."
        )


def _announce(console: Console, listener: socket.socket, version: str, token: str) -> None:
    """Print address and example. `token` is how a shell writes the token, which itself is never printed."""
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    example = json.dumps({"items": [{"prompt": "Add 2 to each number.", "reasoning": "I add 2 to each."}]})
    console.print(f"serving version {version} at {url} (schemas: {url}/docs); Ctrl-C ends it", soft_wrap=True)
    sent = f'-H "Authorization: Bearer {token}" ' if token else ""
    console.print(
        f"  curl -s {url}/score {sent}-H 'Content-Type: application/json' -d {shlex.quote(example)}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
