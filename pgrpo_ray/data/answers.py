"""The text side of answers that are compared: where the answer stands in what was written, and its plain form.

Pure functions of text, linear in its length, whatever the policy writes. What an answer means is `evaluation.maths`'s.
"""

import re
import unicodedata

MAX_ANSWER_CHARS = 1000
"""Longer answers count as unreadable (ours): real ones have some tens of characters, and readers of LaTeX are slow."""

_BOXES = (r"\boxed{", r"\fbox{", r"\framebox{")
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
"""With what a backslash takes along: an escaped brace is none."""
_WRAPPED = re.compile(r"\\(?:text|textbf|textit|textrm|mbox|mathrm|mathbf)\s*\{([^{}]*)\}")
_SPACE = re.compile(r"(\\\\)|\\[,;: ]|\\(?:thin|med|thick)?space(?![A-Za-z])|~")
"""A line break of a matrix, which stays, or a space."""
_NO_SPACE = re.compile(r"(?<!\\)\\!\s*|\\negthinspace(?![A-Za-z])")
_IDLE = re.compile(r"\\left(?![A-Za-z])|\\right(?![A-Za-z])|\$|\\displaystyle(?![A-Za-z])")
_FREE_SPACE = re.compile(r"(?<![^\W_])(?<!\.) | (?![^\W_]|\.\d)|(?<=\d) (?![eE])(?=[^\W\d_])")
"""Spaces that separate nothing. Without the others `1 1/2` would be `11/2`; `2 x` is `2x`."""
_THOUSANDS = re.compile(r"(?<![\w.,\\}] )(?<![\w.,\\}])([1-9]\d{0,2}(?: \d{3})+)(?![\w,]| \d)")
_MIXED = re.compile(
    r"(?<![\w.,\\^_])(\d+)"
    r"(?: +(\d+) ?/ ?(\d+)| *\\[dt]?frac *(?:\{ *(\d+) *\}|(\d)) *(?:\{ *(\d+) *\}|(\d)))(?![\w.]*\d)"
)
_ROOT = re.compile(r"√ *(?:\(([^()]*)\)|(\d+(?:\.\d+)?|\w))")
_SMALL = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+|[₀₁₂₃₄₅₆₇₈₉]+")
_FRACTION = re.compile("(\\d+)\N{FRACTION SLASH}(\\d+)")
_SIGNS = {
    "∞": "\\infty ",
    "\N{MULTIPLICATION SIGN}": "\\times ",
    "÷": "\\div ",
    "·": "\\cdot ",
    "≤": "\\le ",
    "≥": "\\ge ",
    "≠": "\\neq ",
    "≈": "\\approx ",
    "±": "\\pm ",
    "\N{UNION}": "\\cup ",
    "∩": "\\cap ",
    "∈": "\\in ",
    "π": "\\pi ",
    "°": "^\\circ ",
    "\N{MINUS SIGN}": "-",
    "\N{NO-BREAK SPACE}": " ",
    "\N{NARROW NO-BREAK SPACE}": " ",
    "\N{THIN SPACE}": " ",
}
_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
_BASE = r"(?:\\(?:text|mathrm|mbox) *\{)? *(?:base *)?\(?(\d{1,9}|" + "|".join(_BASES) + r")\)?"
_NUMERAL = re.compile(
    r"(?<![\w.,\\])(?:\( *(\d++) *\)|(\d++)) *"
    rf"(?:_ *(?:\{{ *{_BASE} *\}}* *\}}|(\d{{1,9}}))|\(? *(?:\\text\{{)? *(?:in )?base {_BASE}\}}?\)?)?(?![\w.,]*\w)"
)
"""A whole number, and its base where it says one: `52_8`, `(52)_{8}`, `52_{\\text{eight}}`, `52 (base 8)`."""
_SCIENTIFIC = re.compile(r"(?<![\w.\\])(-?\d+(?:\.\d*)?|-?\.\d+)[eE]([+-]?\d+)(?![\w.])")
_WORDS = re.compile(r"\\(?:text|textbf|mbox)\s*\{[A-Za-z .'()-]+\}|\([A-Z]\)")


def last_boxed(text: str) -> str | None:
    r"""Return what stands in the last whole `\boxed{...}` (or `\fbox{...}`) of `text`; None where there is none."""
    starts = sorted(
        (match.end() for box in _BOXES for match in re.finditer(re.escape(box), text)),
        reverse=True,
    )
    end_of_later = len(text)
    for start in starts:
        # Braces are counted up to the later box only: so all boxes together cost one pass over the text.
        depth = 1
        for brace in _BRACES.finditer(text, start, end_of_later):
            depth += {"{": 1, "}": -1}.get(brace[0], 0)
            if not depth:
                return text[start : brace.start()]
        end_of_later = start
    return None


def final_answer(text: str) -> str:
    r"""Return the answer in what stands inside `<answer>`: the last `\boxed{...}` if any, else all of it, stripped."""
    boxed = last_boxed(text)
    return (text if boxed is None else boxed).strip()


def plain(text: str) -> str:
    r"""Return `text` without what does not change an answer: dollars, `\text{}`, `\left`, white space that separates
    nothing, a final full stop. Case stays.
    """
    text = _IDLE.sub(" ", spaced(_WRAPPED.sub(r"\1", text.replace("\\$", ""))))
    text = _FREE_SPACE.sub("", " ".join(text.split()))
    return text.removesuffix(".")


def spaced(text: str) -> str:
    r"""Write all of LaTeX's spaces as one plain space: `\,`, `\;`, `~`; `\!` is none at all."""
    return " ".join(_SPACE.sub(lambda match: match[1] or " ", _NO_SPACE.sub("", text)).split())


def same_text(one: str, other: str) -> bool:
    """Whether two answers in words are the same: in plain form, whatever the case, brackets around it left aside."""
    first, second = (plain(text).casefold().strip("()") for text in (one, other))
    return bool(first) and first == second


def in_words(text: str) -> bool:
    r"""Whether a reference says of itself that it is words or a choice: `\text{Evelyn}`, `(C)`; not `x`, no formula."""
    return _WORDS.fullmatch(text.replace("$", "").strip()) is not None


def spell_powers_of_ten(text: str) -> str:
    r"""Write `4.5e33` as `4.5 \times 10^{33}`: read as LaTeX, its `e` would be Euler's number."""
    return _SCIENTIFIC.sub(r"\1 \\times 10^{\2}", text)


def spell_unicode(text: str) -> str:
    r"""Write common signs as LaTeX: `½`, `√2`, `∞`, `3²`, `52₈`, `≤`."""
    if text.isascii():
        return text
    text = "".join(
        _FRACTION.sub(r"\\frac{\1}{\2}", unicodedata.normalize("NFKC", sign))
        if unicodedata.decomposition(sign).startswith("<fraction>")
        else _SIGNS.get(sign, sign)
        for sign in text
    )
    text = _SMALL.sub(lambda match: f"{'^' if match[0] < '₀' else '_'}{{{_normal_size(match[0])}}}", text)
    return _ROOT.sub(lambda match: f"\\sqrt{{{match[1] or match[2]}}}", text)


def _normal_size(text: str) -> str:
    return unicodedata.normalize("NFKC", text).replace("\N{MINUS SIGN}", "-")


def join_numbers(text: str) -> str:
    r"""Write what stands in several pieces and is one number in one: `1 1/2` and `1 \frac{1}{2}` as `(3/2)`, `58 500`
    as `58500`. Left to math-verify, two numbers side by side are their sum.
    """
    return _MIXED.sub(_improper, _THOUSANDS.sub(lambda match: match[1].replace(" ", ""), text))


def _improper(match: re.Match[str]) -> str:
    whole, over, under = match[1], match[2] or match[4] or match[5], match[3] or match[6] or match[7]
    if len(match[0]) > MAX_ANSWER_CHARS or int(over) >= int(under):
        return match[0]
    return f"({int(whole) * int(under) + int(over)}/{under})"


def numerals(text: str) -> list[tuple[str, int | None]]:
    """Return the whole numbers in `text` as (digits, base or None)."""
    return [_numeral(match) for match in _NUMERAL.finditer(text)]


def lone_numeral(text: str) -> tuple[str, int | None] | None:
    """Return (digits, base or None) where `text` is one whole number and nothing else."""
    match = _NUMERAL.fullmatch(text.strip())
    return match and _numeral(match)


def _numeral(match: re.Match[str]) -> tuple[str, int | None]:
    digits = (match[1] or match[2]).lstrip("0") or "0"
    base = next((part for part in match.groups()[2:] if part), None)
    return digits, None if base is None else _BASES[base] if base in _BASES else int(base)
