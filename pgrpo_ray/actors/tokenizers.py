"""Do all processes that turn text to token ids, or back, have the same tokenizer? Asked once, before any sampling.

On a cluster the policy's folder lies on every node, and copies of it can differ while their weights are alike. The
driver's process encodes prompts, rollout workers and learner ranks decode.
"""

from collections.abc import Mapping
from typing import Any

from pgrpo_ray.actors import waits
from pgrpo_ray.data.fingerprint import fingerprint
from pgrpo_ray.errors import CorruptionError


def check_tokenizers(actors: Mapping[str, Any], model: str, timeout_s: float) -> None:
    """Raise `CorruptionError` where the fingerprint that an actor's `tokenizer()` gives is not that of `model` here.

    `actors`: by name. `model`: the policy's folder or hub name.
    """
    from transformers import AutoTokenizer

    expected = fingerprint(AutoTokenizer.from_pretrained(model, trust_remote_code=False))
    asked = {actor.tokenizer.remote(): name for name, actor in actors.items()}
    found = dict(zip(asked.values(), waits.get_all(asked, timeout_s), strict=True))
    if others := [name for name, one in found.items() if one != expected]:
        raise CorruptionError(
            f"the tokenizer of {', '.join(others)} is not the one that prompts are encoded with: its fingerprint is "
            f"{found[others[0]]}, here it is {expected}. The same token ids would be other texts there. Make the files "
            f"of policy.model={model!r} equal on all nodes."
        )
