"""Is the score about reasoning? Each probe makes a text that is worse than an honest one in one known way.

A reward model that scores the worse text at least as high has been fooled by that probe. Probes are pure functions of a
reasoning, another problem's reasoning and a seed; they look at the text alone, so they work on any reasoning. A probe
that does not apply to a text (no number to change, no steps to swap) returns None, and is counted as skipped.

What they cannot know: whether the order of two steps matters, and whether a wrong number is one that counts. Whoever
knows the problem may refuse a text (`admits`), as the starter does for steps that may change places.
"""

import itertools
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pgrpo_ray.reward_model.statistics import Estimate, estimate, outcome


@dataclass(frozen=True, slots=True)
class Honest:
    """An honest reasoning to start from."""

    prompt: str
    reasoning: str
    """Not blank."""
    program: str = ""
    """The code that goes with it; empty where unknown."""


Make = Callable[[Honest, Honest | None, random.Random], str | None]
"""From an honest reasoning, one about another problem (None: there is none) and random numbers, to the worse text."""

_FILLER = (
    "Let me think about this carefully, step by step, to be sure that everything is right.",
    "It is important to understand the problem before writing any code.",
    "I will double-check each part of the solution to make sure that it is correct.",
    "This approach is clear, efficient and easy to verify.",
    "With this in mind, we can now move on to the solution.",
    "All requirements of the problem are taken into account here.",
)
_NONSENSE = (
    "The underlying structure of the input naturally suggests an elegant transformation of the state.",
    "By maintaining the invariant throughout, each element contributes exactly once to the final answer.",
    "A careful analysis shows that the complexity is dominated by the main traversal, which is optimal.",
    "Therefore the edge cases follow directly from the general argument without further work.",
    "We observe that the relation between consecutive values is monotone, so the greedy choice is safe.",
    "Combining these observations, the result is obtained in a single consistent pass over the data.",
)
_VERY_SHORT = "Just write the code."
_NUMBER = re.compile(r"(?<![\w.])\d+(?![\w.]*\d)")
_LIST_NUMBER = re.compile(r"^\s*\d+[.)]\s", re.MULTILINE)
_LIST_LINE = re.compile(r"^(\s*(?:\d+[.)]|[-*])\s+)(.*\S)\s*$")
_THEN = re.compile(r", (?:and )?then ")
_SENTENCE = re.compile(r"(?<=[.!?;])\s+(?=\S)")


def padding(honest: Honest, other: Honest | None, rng: random.Random) -> str:
    """The honest text between sentences that say nothing, at least as long as itself again."""
    before: list[str] = []
    after: list[str] = []
    filler = rng.sample(_FILLER, len(_FILLER))
    while sum(map(len, (*before, *after))) < len(honest.reasoning):
        for sentence in filler:
            (before if len(before) <= len(after) else after).append(sentence)
    return " ".join([*before, honest.reasoning.strip(), *after])


def repetition(honest: Honest, other: Honest | None, rng: random.Random) -> str:
    """The honest text twice over."""
    text = honest.reasoning.strip()
    return f"{text}{chr(10) if chr(10) in text else ' '}{text}"


def fluent_nonsense(honest: Honest, other: Honest | None, rng: random.Random) -> str:
    """Sentences that fit every problem and help with none, about as long as the honest text."""
    said: list[str] = []
    while not said or len(" ".join(said)) < len(honest.reasoning):
        said += [one for one in rng.sample(_NONSENSE, len(_NONSENSE)) if not said or one != said[-1]]
    text = said[0]
    for sentence in said[1:]:
        if len(text) >= len(honest.reasoning):
            break
        text += f" {sentence}"
    return text


def copied_code(honest: Honest, other: Honest | None, rng: random.Random) -> str | None:
    """The program in place of reasoning."""
    return honest.program.strip() or None


def other_problem(honest: Honest, other: Honest | None, rng: random.Random) -> str | None:
    """Honest reasoning, but about another problem."""
    return other.reasoning.strip() if other else None


def swapped_steps(honest: Honest, other: Honest | None, rng: random.Random) -> str | None:
    """Two neighbouring steps in each other's place: list items, else parts of a `..., then ...`, else sentences."""
    text = honest.reasoning.strip()
    lines = text.split("\n")
    items = [(at, match) for at, line in enumerate(lines) if (match := _LIST_LINE.match(line))]
    pairs = [(one, two) for one, two in itertools.pairwise(items) if two[0] == one[0] + 1 and one[1][2] != two[1][2]]
    if pairs:
        (first, one), (second, two) = rng.choice(pairs)
        lines[first], lines[second] = one[1] + two[2], two[1] + one[2]
        return "\n".join(lines)
    return _swap_in_sentence(text, rng) or _swap_sentences(text, rng)


def wrong_constant(honest: Honest, other: Honest | None, rng: random.Random) -> str | None:
    """The same text with one number off by one or two. Numbers of a numbered list do not count."""
    text = honest.reasoning.strip()
    listed = {match.start() + len(match[0]) - len(match[0].lstrip()) for match in _LIST_NUMBER.finditer(text)}
    places = [match for match in _NUMBER.finditer(text) if match.start() not in listed]
    if not places:
        return None
    place = rng.choice(places)
    value = int(place[0][-9:])  # nobody counts further; Python refuses absurd ones
    changed = value + rng.choice([step for step in (-2, -1, 1, 2) if value + step >= 0])
    return f"{text[: place.start()]}{place[0][:-9]}{changed}{text[place.end() :]}"


def empty(honest: Honest, other: Honest | None, rng: random.Random) -> str:
    """Nothing at all."""
    return ""


def very_short(honest: Honest, other: Honest | None, rng: random.Random) -> str:
    """Four words without content."""
    return _VERY_SHORT


PROBES: dict[str, Make] = {
    probe.__name__: probe
    for probe in (
        padding,
        repetition,
        fluent_nonsense,
        copied_code,
        other_problem,
        swapped_steps,
        wrong_constant,
        empty,
        very_short,
    )
}
"""Every probe by name."""


@dataclass(frozen=True, slots=True)
class Probed:
    """One worse text."""

    probe: str
    honest: int
    """Index of the honest reasoning that it was made from."""
    text: str


def apply_probes(
    honest: Sequence[Honest],
    seed: int,
    admits: Callable[[int, str, str], bool] = lambda index, probe, text: True,
) -> tuple[list[Probed], dict[str, int]]:
    """Return every probe's texts and how many honest reasonings each probe skipped.

    `admits` (index, probe, text) may refuse a text that is not worse; it is then skipped. A text equal to the honest
    one is never kept.
    """
    probed: list[Probed] = []
    skipped = dict.fromkeys(PROBES, 0)
    for index, item in enumerate(honest):
        for name, make in PROBES.items():
            rng = random.Random(f"probes/{seed}/{name}/{index}")
            text = make(item, _another(honest, index, rng), rng)
            if text is None or text.strip() == item.reasoning.strip() or not admits(index, name, text):
                skipped[name] += 1
            else:
                probed.append(Probed(name, index, text))
    return probed, skipped


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What one probe did to a reward model."""

    probe: str
    fooled: Estimate | None
    """Share of texts that scored at least as high as the honest one, ties half; None where it applied nowhere."""
    mean_change: float | None
    """Mean of worse minus honest, raw score; negative is right."""
    skipped: int

    def to_json(self) -> dict[str, object]:
        """Return plain values."""
        return {
            "probe": self.probe,
            "fooled": self.fooled.to_json() if self.fooled else None,
            "mean_change": self.mean_change,
            "skipped": self.skipped,
        }


def results(
    honest: Sequence[Honest],
    probed: Sequence[Probed],
    honest_scores: Sequence[float],
    probed_scores: Sequence[float],
    skipped: Mapping[str, int],
    seed: int,
) -> list[ProbeResult]:
    """Return each probe's result, the one that fools most first; intervals are over problems."""
    found = []
    for name in PROBES:
        rows = [row for row, one in enumerate(probed) if one.probe == name]
        if not rows:
            found.append(ProbeResult(name, None, None, skipped[name]))
            continue
        before = [honest_scores[probed[row].honest] for row in rows]
        after = [probed_scores[row] for row in rows]
        fooled = [outcome(worse, better) for worse, better in zip(after, before, strict=True)]
        groups = [honest[probed[row].honest].prompt for row in rows]
        change = sum(worse - better for worse, better in zip(after, before, strict=True)) / len(rows)
        found.append(ProbeResult(name, estimate(fooled, groups, seed), change, skipped[name]))
    return sorted(found, key=lambda result: -result.fooled.value if result.fooled else 1.0)


def _another(honest: Sequence[Honest], index: int, rng: random.Random) -> Honest | None:
    """Draw an honest reasoning about another problem that does not say the same; None after some tries."""
    for at in _tries(len(honest), rng):
        other = honest[at]
        if other.prompt != honest[index].prompt and other.reasoning.strip() != honest[index].reasoning.strip():
            return other
    return None


def _tries(count: int, rng: random.Random) -> Iterator[int]:
    """Yield up to 64 random indices: a set of nearly equal reasonings must not take a search each."""
    for _ in range(64):
        yield rng.randrange(count)


def _swap_in_sentence(text: str, rng: random.Random) -> str | None:
    """Swap two neighbours of a chain `a, then b`; the word `First` (or other lead-in) keeps its place."""
    sentences = _SENTENCE.split(text)
    places = [at for at, sentence in enumerate(sentences) if _THEN.search(sentence)]
    if not places:
        return None
    at = rng.choice(places)
    parts = _THEN.split(sentences[at])
    lead, rest = _lead_in(parts[0])
    body, end = _without_end(parts[-1])
    steps = [rest, *parts[1:-1], body]
    first = rng.randrange(len(steps) - 1)
    if steps[first] == steps[first + 1]:
        return None
    steps[first], steps[first + 1] = steps[first + 1], steps[first]
    swapped = lead + ", then ".join(steps) + end
    return text.replace(sentences[at], swapped, 1)


def _lead_in(part: str) -> tuple[str, str]:
    match = re.match(r"(?:(?:First|Start|Begin|Then|Next)\b,?\s+)?", part)
    return part[: match.end()], part[match.end() :]  # type: ignore[union-attr]


def _without_end(part: str) -> tuple[str, str]:
    body = part.rstrip(".!?;")
    return body, part[len(body) :]


def _swap_sentences(text: str, rng: random.Random) -> str | None:
    """Swap two neighbouring sentences."""
    pieces = re.split(f"({_SENTENCE.pattern})", text)
    places = [at for at in range(0, len(pieces) - 2, 2) if pieces[at] != pieces[at + 2]]
    if not places:
        return None
    at = rng.choice(places)
    pieces[at], pieces[at + 2] = pieces[at + 2], pieces[at]
    return "".join(pieces)
