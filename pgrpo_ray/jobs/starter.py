"""Where every command gets the starter's artifacts: made, or found in the cache.

Owns what a person is told meanwhile, which family a command can use, and the error of a full disk; what is made, and
that it is made once, is the business of `pgrpo_ray.starter`.
"""

from collections.abc import Callable, Collection

from pgrpo_ray.config import StarterSection
from pgrpo_ray.errors import ConfigError
from pgrpo_ray.obs.disk import explain_full_disk
from pgrpo_ray.preflight.disk import cache_folder
from pgrpo_ray.starter.artifacts import PARTS, StarterPaths, ensure_starter

CODE = ("code",)
FAMILIES = ("code", "maths")


def make_starter(
    section: StarterSection,
    stage: Callable[[str], None],
    progress: Callable[[float], None] = lambda done: None,
    families: Collection[str] = CODE,
) -> StarterPaths:
    """Return the paths of the starter's artifacts, which are made where they are not in the cache.

    `stage` is told in words what is being made, `progress` how much of everything is, in [0, 1]. Raises `ConfigError`
    for a family that is not one of `families`, and for what `ensure_starter` refuses; `EnvironmentFault`.
    """
    check_family(section, families)
    parts = ("problems", *PARTS)

    def tell(part: str, done: float) -> None:
        stage(f"making the starter's {part.replace('_', ' ')}: {100 * done:.0f} %")
        progress((parts.index(part) + done) / len(parts))

    cache = cache_folder()
    with explain_full_disk(cache):
        return ensure_starter(section, cache, tell)


def check_family(section: StarterSection, families: Collection[str] = CODE) -> None:
    """Raise `ConfigError` when the section's family is not one that the command can use."""
    if section.family not in families:
        raise ConfigError(
            f"starter.family={section.family}: this command knows the starter's family {' and '.join(families)} only. "
            "Leave starter.family out, or name files of your own.",
            path="starter.family",
        )
