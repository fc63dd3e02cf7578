"""`pgrpo lcb-rb review`: one HTML page, without a network, on which a person judges pairs blindly.

`obs.pages` says how text of models is kept from doing anything there.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from pgrpo_ray.obs import pages
from pgrpo_ray.obs.disk import check_out, write_out
from pgrpo_ray.reward_model.lcb_rb import schema
from pgrpo_ray.reward_model.lcb_rb.schema import ReasoningPair

TEMPLATES = Path(schema.__file__).parents[1] / "templates"


def write_page(file: Path, out: Path, sample: int | None, seed: int, console: Console) -> int:
    """Write the page for the pairs of `file`, return how many it shows. Raises `DataError`, `EnvironmentFault`."""
    pairs = schema.read_pairs(file)
    check_out(out, inputs=[file])
    rng = random.Random(f"review/{seed}")
    shown = rng.sample(pairs, min(sample or len(pairs), len(pairs)))
    page = render(shown, f"{file.parent.name}/{file.name}", seed)
    write_out(out, page.encode(errors="replace").decode())  # lone surrogates of a model's text have no UTF-8
    console.print(escape(f"{len(shown)} pairs to review: open {out} in a browser"), highlight=False, soft_wrap=True)
    return len(shown)


def render(pairs: Sequence[ReasoningPair], title: str, seed: int) -> str:
    """Return the page. Which side stands left follows from the seed and the pair's id."""
    script = (TEMPLATES / "review.js").read_text(encoding="utf-8")
    data = [_shown(pair, seed) for pair in pairs]
    key = schema.content_hash(str(seed), *(pair.id for pair in pairs))[:16]
    return (
        pages.environment(TEMPLATES)
        .get_template("review.html")
        .render(
            title=title,
            count=len(pairs),
            data=pages.in_script({"key": key, "pairs": data}),
            script=script,
            style=(TEMPLATES / "review.css").read_text(encoding="utf-8"),
            policy=pages.policy(script),
        )
    )


def _shown(pair: ReasoningPair, seed: int) -> dict[str, Any]:
    chosen_left = random.Random(f"side/{seed}/{pair.id}").random() < 0.5
    chosen = {"text": pair.chosen, "program": pair.chosen_program, "verdict": pair.chosen_verdict}
    rejected = {"text": pair.rejected, "program": pair.rejected_program, "verdict": pair.rejected_verdict}
    return {
        "id": pair.id,
        "problem": pair.prompt,
        "problem_id": pair.problem_id,
        "difficulty": pair.difficulty,
        "left": chosen if chosen_left else rejected,
        "right": rejected if chosen_left else chosen,
        "chosen": "left" if chosen_left else "right",
        "judge": pair.judge,
        "decision": pair.decision,
        "answers": list(pair.judge_answers),
    }
