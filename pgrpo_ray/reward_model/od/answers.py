"""What a generator's raw answer holds: the reasoning between its tags, or why there is none. Never a guess."""

import re

CUT, REFUSAL, MISSING, SEVERAL, EMPTY, FILTERED, REJECTED = FAILURES = (
    "cut",
    "refusal",
    "missing_tags",
    "several_tags",
    "empty",
    "filtered",
    "rejected",
)
"""Cut at its bound on tokens; a refusal; no pair of tags; tags more than once or the wrong way round; nothing between
them; held back by the endpoint's content filter; the endpoint or engine would not take the request at all."""

_OPEN, _CLOSE = "<reasoning>", "</reasoning>"
_THOUGHT = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
"""Models that reason before they answer; their tags and drafts in there are not the answer."""
_CANNOT = (
    r"(?:\ can(?:not|'?t|\ not)|\ could\ ?n[o']t|\ won'?t|\ will\ not|(?:\ am|\ are|'m|'re)\ (?:not\ able|unable)\ to)"
)
_VERB = r"(?:provide|fulfil+|answer|write|rewrite|create|produce|generate)"
_OBJECT = (
    r"(?:(?:this|that|these|those|your|such)(?:\ \w+)?\ "
    r"(?:request|task|problem|question|prompt|instruction|content|text|reasoning|help|assistance)s?\b"
    r"|(?:that|this|you)\s*(?:[.,;!]|\Z))"
)
_REFUSAL = re.compile(
    r"""\W*(?:
        (?:i'?m|i\ am|we'?re|we\ are)\ (?:\w+\ )?sorry\b
      | (?:sorry|apologies)\W+(?:but\W+)?(?:i|we)\b
      | i\ apologi[sz]e\b
      | (?:as|being)\ an?\ (?:ai|language|large\ language)\b
      | (?:unfortunately\W+(?:but\W+)?)?
        (?:
            (?:i|we)
            (?: CANNOT \ (?:(?:help|assist)(?:\ you)?|comply|do\ (?:that|this)) (?:\ with\ OBJECT | \s*(?:[.,;!]|\Z))
              | (?:\ must|\ have\ to)?\ (?:decline|refuse)\ (?:to\ (?:\w+\ ){1,2})?OBJECT
            )
          | i (?:\ must|\ have\ to)?\ (?:decline|refuse)\b
          | i CANNOT \ (?:help(?!\ but\b)|assist|comply|VERB(?!\ (?:all|each|every)\b))\b
          | we CANNOT \ VERB \ OBJECT
        )
    )""".replace("CANNOT", _CANNOT)
    .replace("OBJECT", _OBJECT)
    .replace("VERB", _VERB),
    re.IGNORECASE | re.VERBOSE,
)
"""Only at the beginning, and only of refusing to do the task: `we cannot sort here` is reasoning, and so is `we cannot
answer each query in O(n)`, which names no task as its object."""
_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'})


def plain_quotes(text: str) -> str:
    """Return `text` with typewriter quotes."""
    return text.translate(_QUOTES)


def is_refusal(text: str) -> bool:
    """Say whether `text` begins as models decline a task."""
    return bool(_REFUSAL.match(plain_quotes(text[:500])))


def parse_answer(text: str | None, finish_reason: str) -> tuple[str | None, str]:
    """Return (reasoning, "") or (None, one of `FAILURES`).

    Exactly one pair of tags must be there; text around it is allowed, as models announce what they do.
    """
    if text is None:
        return None, REJECTED
    if finish_reason == "content_filter":
        return None, FILTERED
    answer = _THOUGHT.sub("", text, count=1)
    opened, closed = answer.count(_OPEN), answer.count(_CLOSE)
    if opened == 1 and closed == 1 and answer.index(_OPEN) < answer.index(_CLOSE):
        inside = answer[answer.index(_OPEN) + len(_OPEN) : answer.index(_CLOSE)].strip()
        if not inside:
            return None, EMPTY
        return (None, REFUSAL) if is_refusal(inside) else (inside, "")
    if finish_reason == "length":
        return None, CUT
    if is_refusal(answer):
        return None, REFUSAL
    if not answer.strip():
        return None, EMPTY
    return None, MISSING if opened + closed < 2 else SEVERAL
