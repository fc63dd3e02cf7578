"""Are the texts that were judged those of the tokens that are trained on? Looked at where tokens are trained on.

Token ids are the only truth; a rollout's texts are views that the rollout worker made of them. A column that slipped
by a row, or a tokenizer that differs from the worker's, gives other texts, and the verdict on them would reward the
wrong tokens. A column that slips does so in every row, so some rows of each update are enough.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pgrpo_ray.data.response import parse, text_of
from pgrpo_ray.errors import CorruptionError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VIEWS = ("prompt", "response", "format_ok", "thinking", "program")
"""Columns of a ROLLOUT table that follow from its token ids."""
LOOKED_AT = 8
"""Rows that a rank decodes again per update, spread evenly. Ours: some milliseconds each where responses are long."""


def check_texts(tables: Sequence[pa.Table], rows: Sequence[int], tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raise `CorruptionError` where a text of a ROLLOUT table is not that of its token ids.

    `rows`: of all tables one after another, those that are trained on.
    """
    if not len(rows):
        return
    looked_at = np.asarray(rows)[np.unique(np.linspace(0, len(rows) - 1, LOOKED_AT).astype(np.int64))]
    columns = ["problem_id", "sample_index", "prompt_ids", "response_ids", *VIEWS]
    for row in pa.concat_tables(tables).select(columns).take(pa.array(looked_at)).to_pylist():
        text = text_of(tokenizer, row["response_ids"])
        parsed = parse(text)
        prompt = tokenizer.decode(row["prompt_ids"])
        views = (prompt, text, parsed.format_ok, parsed.thinking, parsed.program)
        for column, expected in zip(VIEWS, views, strict=True):
            if row[column] != expected:
                raise CorruptionError(
                    f"learner: {column} of {row_name(row)} is {_excerpt(row[column])}, but its token ids say "
                    f"{_excerpt(expected)}: what was judged is not what is trained on. Is the policy's tokenizer the "
                    "same on every node? Else the rows of a table were mixed up; they are in the run's folder."
                )


def row_name(row: dict) -> str:
    """Return what people find a rollout by in the step's file."""
    return f"problem {row['problem_id']}, sample {row['sample_index']}"


def _excerpt(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:40]} ... {text[-36:]}"
