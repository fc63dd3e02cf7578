"""How answers are read and compared: math-verify (sympy). The only file that imports it. It gives no verdicts.

Text is never executed: math-verify evaluates only what consists of digits, operators and brackets. What this does not
protect against: a hole in the parser, and answers without end; `worker` bounds those.
"""

import re
from collections.abc import Iterator
from itertools import product
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify
from sympy import And, Basic, Derivative, E, Eq, FiniteSet, I, Interval, Number, NumberSymbol, Symbol, Tuple, nan, zoo
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational

from pgrpo_ray.data.answers import (
    join_numbers,
    lone_numeral,
    numerals,
    plain,
    same_text,
    spaced,
    spell_powers_of_ten,
    spell_unicode,
)

_TINY = 1e-2
_TINY_TOLERANCE = 1e-3
"""Below `_TINY`, two numbers are equal only within this share of the larger one (ours). math-verify 0.9 rounds to six
decimals, so that to it 1.6e-19, 2.0e-19 and, written without a power, 0 are the same; physics is full of such numbers.
"""
_BOLD = re.compile(r"\\(?:textbf|mathbf|boldsymbol|bf)\s*\{([^{}]*)\}")
_ENERGY = re.compile(r"(?<![A-Za-z\\])E_")
"""To the parser `E` is Euler's number, which has no index."""
_IDLE_POINT = re.compile(r"(?<=\d)\.(?=\s*(?:[-+*/)}]|$))")
"""As in `-1./3`, or at the end of a sentence."""
_APPROXIMATE = re.compile(r"\\(?:approx|approxeq|thickapprox|simeq|cong|doteq)(?![A-Za-z])")
"""Read as `=`: the parser drops what stands behind them."""
_SHORT_FRACTION = re.compile(r"(\\[dt]?(?:frac|binom)) *(\d) +(\d)")
_TWO_NUMBERS = re.compile(r"\d +\.?\d|\d *\\q?quad\b *[-\d.]|(?<![A-Za-z\d_^.\\])[\d.]*\d *\{ *\d")
"""To the parser `5 7` and `5{7}` are 12, as `5 \\frac{1}{2}` is 5.5."""
_EQUALS = re.compile(r"(?<![\\<!>])=")
_NUMBER_IN_WORDS = re.compile(r"[^A-Za-z]*\d")
"""`\\text{24}` is a symbol to the parser."""
_THOUSANDS_AT_END = re.compile(r"= *[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?$")
"""Behind a name the parser would take their commas for those of a list."""
_MARKS = re.compile(r"\\[()\[\]]|(?<!\\)\$")
_DELIMITED = re.compile(r"\\\(|\\\[|(?<!\\)\$[^$]*(?<!\\)\$")
_NOT_PROSE = re.compile(
    r"\\(?:text|textbf|textit|textrm|mbox|mathrm|mathbf|operatorname)\s*\{[^{}]*\}|\\[A-Za-z]+|"
    r"\b(?:sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|sinh|cosh|tanh|log|ln|exp|sqrt|pi|max|min|mod|gcd|lcm|or|and)\b"
)
_BREAK = re.compile(r"[,;:.?!]\s|(?<![A-Za-z\d\\_^{])[A-Za-z]{2,}")
"""Where a formula in running text ends."""
_WORD = re.compile(r"(?<![A-Za-z\d\\_^{])[A-Za-z]{2,}")


def read(text: str) -> list[Any]:
    """Return what `text` means, as sympy's objects and as math-verify's own text; no object where it means nothing.

    With marks of mathematics in it (`$`, `\\(`) it is read as running text, the last formula counts. So is a sentence
    with numbers in it ("12 apples"). Everything else is one formula.
    """
    text, running = _prepared(text)
    if not text:
        return []
    if running:
        return parse(text, parsing_timeout=None)
    if _TWO_NUMBERS.search(text):
        return []
    # As LaTeX and as a whole: a formula that cannot be read would otherwise be taken for a number in it.
    return parse(f"${text}$", [LatexExtractionConfig()], extraction_mode="first_match", parsing_timeout=None)


def _prepared(text: str) -> tuple[str, bool]:
    """Return `text` as it is given to the parser, and whether that is running text."""
    text = spell_powers_of_ten(_BOLD.sub(r"\1", spaced(spell_unicode(text))))
    text = _IDLE_POINT.sub("", _ENERGY.sub(r"\\mathcal{E}_", text))
    text = join_numbers(_SHORT_FRACTION.sub(r"\1{\2}{\3}", _APPROXIMATE.sub("=", text)))
    if len(re.findall(r"(?<!\\)\$", text)) == 1:  # a price
        text = text.replace("$", "")
    wordy = bool(_WORD.search(_NOT_PROSE.sub(" ", text)))
    if _DELIMITED.search(text):
        if wordy:
            return text, True
        text = " ".join(_MARKS.sub(" ", text).split())  # `$24$ = 25` is one formula too
    text = _THOUSANDS_AT_END.sub(lambda match: match[0].replace(",", ""), text)
    return text, wordy and bool(re.search(r"\d", text))


def means_something(reading: list[Any]) -> bool:
    """Whether `read` found an object, and not only text."""
    return any(not isinstance(part, str) for part in reading)


def equal(reference: list[Any], answer: list[Any]) -> bool:
    """Whether one meaning of the reference equals one of the answer."""
    return any(
        verify([one], [other], timeout_seconds=None) and not _undefined(one) and not _differ_though_tiny(one, other)
        for one, other in product(reference, answer)
    )


def _undefined(meaning: Any) -> bool:
    """Whether it came out as no value, as which all others that did are equal: `\\gamma^2` is read as the function."""
    return isinstance(meaning, Basic) and meaning.has(zoo, nan)


def _differ_though_tiny(one: Any, other: Any) -> bool:
    """Whether both are numbers too small for math-verify to tell apart, and differ."""
    if not (isinstance(one, Basic) and isinstance(other, Basic) and one.is_number and other.is_number):
        return False
    try:
        left, right = float(one), float(other)
    except (TypeError, ValueError, OverflowError):  # complex, or too large for a float: not tiny
        return False
    largest = max(abs(left), abs(right))
    return 0 < largest < _TINY and abs(left - right) > _TINY_TOLERANCE * largest


def says_one_thing(text: str, meaning: list[Any], single: bool) -> bool:
    """Whether every member of every chain of equations in an answer is a name, or equals the chain's last member.

    The last one is what counts, so that `x = 24 = 25` would be 25. `single`: one equation may have
    anything on its left.
    """
    found = next(part for part in meaning if not isinstance(part, str))
    chains = list(_chains(found)) or [_members_in(text, meaning, found)]
    for *members, last in chains:
        if single and len(members) == 1:
            continue
        if not all(_is_name(member, last) or equal([last], [member]) for member in members):
            return False
    return True


def _chains(found: Any) -> Iterator[list[Any]]:
    """Each chain of equations in what was read, as its members."""
    if isinstance(found, FiniteSet | Tuple):
        for part in found.args:
            yield from _chains(part)
    elif equations := _equations(found):
        yield [equations[0].lhs, *(equation.rhs for equation in equations)]


def _equations(found: Any) -> list[Any]:
    """`a = b = c` as its equations, in their order; none for anything else."""
    if isinstance(found, Eq):
        return [found]
    if not isinstance(found, And):
        return []
    parts = [_equations(part) for part in getattr(found, "_unsorted_args", found.args)]
    return [equation for part in parts for equation in part] if all(parts) else []


def _members_in(text: str, meaning: list[Any], found: Any) -> list[Any]:
    """The members of a chain of which the parser kept the last one, which is `found`.

    It does so with a chain that it cannot read as a whole, and in running text.
    """
    text, running = _prepared(text)
    if running and _DELIMITED.search(text):
        text, running = meaning[-1], False  # the formula that counts
    *firsts, last = _EQUALS.split(text)
    members = [found]
    if running:
        end = _BREAK.search(_hidden(last))
        meant = read(last[: end.start()] if end else last)
        if not firsts or not means_something(meant) or not equal(meant, [found]):
            return members  # the number that counts stands elsewhere
    for part in reversed(firsts):
        ends = [match.end() for match in _BREAK.finditer(_hidden(part))] if running else []
        part = part[ends[-1] :] if ends else part
        meant = [one for one in read(part) if not isinstance(one, str)]
        if meant or re.search(r"\d", part):
            # Digits in what cannot be read could be another answer.
            members.insert(0, meant[0] if meant else None)
        if ends:
            break
    return members


def _hidden(text: str) -> str:
    """`text`, as long as it was, without the letters of commands and functions: what is left of letters is words."""
    return _NOT_PROSE.sub(lambda match: match[0] if match[0] in ("and", "or") else "\\" * len(match[0]), text)


def _is_name(member: Any, last: Any) -> bool:
    """Whether a member names what is sought: `x`, `f(2)`; beside a number also letters as in `m + n`."""
    if isinstance(member, Symbol):
        return not isinstance(last, Symbol | AppliedUndef) and not _NUMBER_IN_WORDS.match(member.name)
    if isinstance(member, AppliedUndef | Derivative) or member in (E, I):
        return not isinstance(last, Symbol | AppliedUndef)
    if isinstance(member, Tuple | Interval):  # `(x, y)`, which is the open interval too
        return all(isinstance(part, Symbol) for part in member.args[:2]) and not last.free_symbols & member.free_symbols
    if getattr(last, "free_symbols", True) or not isinstance(member, Basic) or isinstance(member, Relational):
        return False
    return _only_letters(member) and bool(member.free_symbols or member.atoms(AppliedUndef))


def _only_letters(part: Basic) -> bool:
    if isinstance(part, AppliedUndef):
        return True
    if isinstance(part, Number):
        return part in (1, -1)
    return not isinstance(part, NumberSymbol) and all(map(_only_letters, part.args))


def same_numeral(reference: tuple[str, int | None], answer: str) -> bool:
    """Whether `answer` is the number of the reference, in its base or without one."""
    text, running = _prepared(answer)
    *names, last = _EQUALS.split(_MARKS.sub(" ", text))
    found: list[tuple[str, int | None] | None]
    if running:
        found = [*numerals(last)[-1:]]
    else:
        found = [lone_numeral(part) for part in (*names, last) if re.search(r"\d", part)]
    return bool(found) and all(
        one is not None and one[0] == reference[0] and one[1] in (None, reference[1]) for one in found
    )


def _same(reference: str, answer: str, meaning: list[Any]) -> bool:
    """Whether an answer that was read equals one reference."""
    meant = read(reference)
    if not equal(meant, meaning):
        return False
    return says_one_thing(answer, meaning, any(_is_relation(part) for part in meant))


def _is_relation(part: Any) -> bool:
    return isinstance(part, Relational | And)


def compare(request: dict[str, Any]) -> str:
    """Return `equal`, `unequal` or `unreadable` (nothing was found in the answer)."""
    references, answer = request["references"], request["answer"]
    if request["checker"] == "text":
        readable = any(character.isalnum() for character in plain(answer))
        return "equal" if any(same_text(one, answer) for one in references) else "unequal" if readable else "unreadable"
    references, answer = [spell_unicode(one) for one in references], spell_unicode(answer)
    if plain(answer) and any(plain(one) == plain(answer) for one in references):
        return "equal"
    # To math-verify the base of a number is an index without a meaning.
    based = {one: numeral for one in references if (numeral := lone_numeral(plain(one))) and numeral[1] is not None}
    if any(same_numeral(numeral, answer) for numeral in based.values()):
        return "equal"
    meaning = read(answer)
    if not means_something(meaning):
        return "unreadable"
    return "equal" if any(_same(one, answer, meaning) for one in references if one not in based) else "unequal"


def prove(request: dict[str, Any]) -> str:
    """Return `equal` when every reference can be compared; else the one that cannot."""
    for reference in request["references"]:
        good = bool(plain(reference)) if request["checker"] == "text" else means_something(read(reference))
        if not good:
            return f"unreadable: {reference}"
    return "equal"
