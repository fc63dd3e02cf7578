"""The config tree of `pgrpo rm serve`."""

import ipaddress
from typing import Literal

from pydantic import Field

from pgrpo_ray.config.base import ConfigTree, SecretName, Section
from pgrpo_ray.config.sections import ClusterSection, RewardModelSection, StarterSection
from pgrpo_ray.errors import ConfigError


class ServerSection(Section):
    """The HTTP side: where it listens, how much it takes, how long it may take."""

    host: str = Field("127.0.0.1", min_length=1)
    """Address to listen on: this machine alone, unless told otherwise. What goes over the network is not encrypted."""
    authentication: Literal["token", "none"] = "token"
    """`token`: who asks for a score must send `Authorization: Bearer TOKEN`; `none`: whoever reaches the port may ask,
    which must then be on this machine alone."""
    token_env: SecretName = "PGRPO_REWARD_TOKEN"
    """Name of the environment variable that holds the token, never the token itself. Where the environment does not
    hold it, a token is made once and kept in the cache folder, for its owner alone; its file is printed."""
    port: int = Field(8000, ge=0, le=65535)
    """0: any free one, which is printed."""
    deadline_s: float = Field(60, gt=0)
    """For the body of a request to arrive, and then again for queueing and scoring, where a request may ask for less:
    an HTTP request may take up to twice this. Seconds."""
    max_requests: int = Field(256, ge=1)
    """Requests on their way at a time, waiting or being scored; further ones are refused with 429."""
    retry_after_s: int = Field(1, ge=1)
    """What a refused caller is told to wait, seconds."""
    max_items: int = Field(64, ge=1)
    """Reasonings in one request; more are refused with 413."""
    max_characters: int = Field(100_000, ge=1)
    """Of one prompt or reasoning; longer ones are refused with 413. Characters."""
    drain_s: float = Field(30, gt=0)
    """For the requests on their way to finish when the server is told to end. Seconds."""


class ServingConfig(ConfigTree):
    """The whole tree."""

    server: ServerSection = ServerSection()
    reward_model: RewardModelSection = RewardModelSection()
    cluster: ClusterSection = ClusterSection()
    starter: StarterSection = StarterSection()
    """What `reward_model.model: starter` stands for."""

    def check(self) -> None:
        """Refuse an open door to the network. Raises `ConfigError`; changes nothing."""
        if self.server.authentication == "none" and not _is_loopback(self.server.host):
            raise ConfigError(
                f"server.host={self.server.host} lets other machines in, and server.authentication=none lets them all "
                "ask. Set server.authentication=token, or listen on 127.0.0.1.",
                path="server.authentication",
            )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
