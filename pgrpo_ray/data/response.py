"""Split a response into reasoning and program, and decide R^f.

Owns the template rule; does not run programs. Linear in the length of the text, whatever the policy writes: counts,
finds and one anchored pattern, nothing that backtracks over the text.

The paper only says that R^f checks the tag structure. The exact rule is ours: each of the four tags exactly once, in
order, nothing but white space outside, a non-empty answer. A tag named in passing inside the reasoning therefore costs
the format reward; that is the price of a rule without a second reading.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pgrpo_ray.types import ParsedResponse

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
"""In the order in which they must stand."""

_LANGUAGE = re.compile(r"[\w+.#-]*")
_WRONG = ParsedResponse(format_ok=False, thinking=None, program=None)


def text_of(tokenizer: "PreTrainedTokenizerBase", response_ids: Sequence[int]) -> str:
    """Return the text view of a response's token ids, without end of sequence: what is parsed and judged."""
    text: str = tokenizer.decode(response_ids, skip_special_tokens=True)
    return text


def parse(text: str) -> ParsedResponse:
    """Split `text`, the decoded response without its end-of-sequence token, by the template.

    `thinking` loses surrounding white space and may be empty. `program` keeps the indentation of its first line,
    because a program that starts indented continues a `completion_prefix`.
    """
    if any(text.count(tag) != 1 for tag in TAGS):
        return _WRONG
    # Each stands exactly once, so the first find is the only one and their order is all that is left to check.
    starts = [text.find(tag) for tag in TAGS]
    if starts != sorted(starts):
        return _WRONG
    ends = [start + len(tag) for start, tag in zip(starts, TAGS, strict=True)]
    outside = (text[: starts[0]], text[ends[1] : starts[2]], text[ends[3] :])
    if any(piece and not piece.isspace() for piece in outside):
        return _WRONG
    program = strip_fence(text[ends[2] : starts[3]])
    if not program:
        return _WRONG
    return ParsedResponse(format_ok=True, thinking=text[ends[0] : starts[1]].strip(), program=program)


def strip_fence(answer: str) -> str:
    """Return the program inside an answer: without surrounding blank lines and without one enclosing code fence.

    Only a fence around the whole answer is taken off. Prose before or after it stays and will not compile: which of
    several blocks was meant is not ours to guess.
    """
    answer = _trim(answer)
    first, newline, body = answer.lstrip().partition("\n")
    ticks = first[: len(first) - len(first.lstrip("`"))]
    is_fence = newline and len(ticks) >= 3 and _LANGUAGE.fullmatch(first[len(ticks) :].strip())
    # A body that does not end with the fence was cut or has text behind it: then nothing is taken off.
    if not is_fence or not body.endswith(ticks):
        return answer
    return _trim(body.rstrip("`"))


def _trim(text: str) -> str:
    """Drop leading blank lines and trailing white space; keep the first line's indentation."""
    body = text.rstrip()
    first_ink = len(body) - len(body.lstrip())
    return body[body.rfind("\n", 0, first_ink) + 1 :]
