"""The programs that `sandbox.py` judges: small, varied, made from templates and a seed, each with its known verdict.

A template is a function `f` with constants to fill in. The expected values come from running it here: the templates are
ours. Work per case is small on purpose, as it is in most training problems: it shows what judging costs, not Python.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pgrpo_ray.types import AssertCase, Problem, StdinCase, TestStyle, Verdict

CASES = 10
VARIANTS = 3
"""Programs per template, with other constants and other cases."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One program and what a judge must say about it."""

    problem: Problem
    program: str
    verdict: Verdict


def _numbers(rng: random.Random) -> list[int]:
    return [rng.randrange(-50, 200) for _ in range(rng.randrange(20, 80))]


def _word(rng: random.Random) -> str:
    return "".join(rng.choice("abcdefgh") for _ in range(rng.randrange(12, 40)))


def _brackets(rng: random.Random) -> str:
    return "".join(rng.choice("()[]") for _ in range(rng.randrange(4, 40)))


_OF_NUMBERS = (
    "def f(values):\n    return sum(v for v in values if v % {k} == 0)",
    "def f(values):\n    return sorted(values, key=lambda v: (v % {k}, -v))[:10]",
    "from collections import Counter\n\n\ndef f(values):\n    counts = Counter(v % {k} for v in values)\n"
    "    return min(key for key, count in counts.items() if count == max(counts.values()))",
    "def f(values):\n    seen, pairs = {{}}, 0\n    for v in values:\n        pairs += seen.get({k} * 10 - v, 0)\n"
    "        seen[v] = seen.get(v, 0) + 1\n    return pairs",
    "import heapq\n\n\ndef f(values):\n    return sum(heapq.nsmallest({k}, values)) - max(values)",
    "from bisect import bisect_left\n\n\ndef f(values):\n    tails = []\n    for v in values:\n"
    "        at = bisect_left(tails, v + {k})\n        tails[at:at + 1] = [v + {k}]\n    return len(tails)",
    "def f(values):\n    best = here = values[0]\n    for v in values[1:]:\n"
    "        here = max(v - {k}, here + v - {k})\n        best = max(best, here)\n    return best",
    "def f(values):\n    ways = [1] + [0] * 120\n    for coin in sorted({{abs(v) % {k} + 1 for v in values}}):\n"
    "        for total in range(coin, 121):\n            ways[total] += ways[total - coin]\n    return ways[120]",
    "import itertools\n\n\ndef f(values):\n    sums = list(itertools.accumulate(v - {k} for v in values))\n"
    "    return max(sums) - min(sums)",
    "import math\n\n\ndef f(values):\n    result = 0\n    for v in values:\n"
    "        result = math.gcd(result, v * {k}) + math.isqrt(abs(v))\n    return result",
    "from collections import deque\n\n\ndef f(values):\n    window, result = deque(), []\n"
    "    for i, v in enumerate(values):\n        while window and values[window[-1]] <= v:\n            window.pop()\n"
    "        window.append(i)\n        if window[0] <= i - {k}:\n            window.popleft()\n"
    "        result.append(values[window[0]])\n    return result",
    "class Best:\n    def __init__(self, room):\n        self.table = [0] * (room + 1)\n\n"
    "    def add(self, weight, value):\n        for room in range(len(self.table) - 1, weight - 1, -1):\n"
    "            self.table[room] = max(self.table[room], self.table[room - weight] + value)\n\n\n"
    "def f(values):\n    best = Best(60)\n    for v in values[:15]:\n        best.add(abs(v) % {k} + 3, v)\n"
    "    return best.table[-1]",
)
_OF_TEXT = (
    "def f(text):\n    return ''.join(chr((ord(c) - 97 + {k}) % 26 + 97) for c in text)",
    "def f(text):\n    left, right, changes = 0, len(text) - 1, 0\n    while left < right:\n"
    "        changes += text[left] != text[right]\n        left, right = left + 1, right - 1\n"
    "    return 'yes' if changes <= {k} else 'no'",
    "from itertools import groupby\n\n\ndef f(text):\n"
    "    return ''.join(f'{{c}}{{len(list(run)) * {k}}}' for c, run in groupby(text))",
    "def f(text):\n    other = 'abcdefgh' * {k}\n    row = list(range(len(other) + 1))\n    for c in text:\n"
    "        last, row[0] = row[0], row[0] + 1\n        for j, d in enumerate(other, 1):\n"
    "            last, row[j] = row[j], min(last + (c != d), row[j] + 1, row[j - 1] + 1)\n    return row[-1]",
    "from functools import lru_cache\n\n\ndef f(text):\n    other = text[::-1][:{k} + 8]\n\n    @lru_cache(None)\n"
    "    def common(i, j):\n        if i == len(text) or j == len(other):\n            return 0\n"
    "        if text[i] == other[j]:\n            return 1 + common(i + 1, j + 1)\n"
    "        return max(common(i + 1, j), common(i, j + 1))\n\n    return common(0, 0)",
    "from collections import defaultdict\n\n\ndef f(text):\n    places = defaultdict(list)\n"
    "    for i, c in enumerate(text):\n        places[c].append(i)\n"
    "    return [len(places[c]) * {k} + places[c][-1] for c in sorted(places)]",
    "def f(text):\n    return max(len(set(text[i:i + {k}])) for i in range(len(text) - {k} + 1))",
)
_OF_BRACKETS = (
    "def f(text):\n    stack, depth = [], 0\n    for c in text:\n        if c in '([':\n            stack.append(c)\n"
    "            depth = max(depth, len(stack))\n        elif stack and stack[-1] + c in ('()', '[]'):\n"
    "            stack.pop()\n    return depth * {k} + len(stack)",
)
TEMPLATES: tuple[tuple[str, Callable[[random.Random], Any]], ...] = (
    *((source, _numbers) for source in _OF_NUMBERS),
    *((source, _word) for source in _OF_TEXT),
    *((source, _brackets) for source in _OF_BRACKETS),
)
_READ_NUMBERS = (
    "values = list(map(int, input().split()))\n",
    "import sys\n\nvalues = [int(word) for word in sys.stdin.read().split()]\n",
    "import sys\n\nvalues = [int(word) for word in sys.stdin.buffer.readline().split()]\n",
)
_READ_TEXT = ("values = input()\n", "import sys\n\nvalues = sys.stdin.read().strip()\n", "values = input().strip()\n")
_PRINT = "result = f(values)\nprint(*result) if isinstance(result, list) else print(result)\n"
_FAULTS = {
    Verdict.WRONG_ANSWER: "'wrong'",
    Verdict.RUNTIME_ERROR: "{{}}['missing']",
}
_FAULTY = "\n\nright = f\n\n\ndef f(values):\n    return {fault} if values == {trigger!r} else right(values)"


def honest(style: TestStyle, seed: int) -> list[Sample]:
    """Return right programs with ten cases each, `VARIANTS` of every template."""
    rng = random.Random(f"{style}-{seed}")
    return [_sample(style, rng, index, Verdict.PASSED) for index in range(VARIANTS * len(TEMPLATES))]


def mixed(seed: int) -> list[Sample]:
    """Return programs of both styles, of which about half are wrong, crash at some case, or do not compile."""
    rng = random.Random(f"mixed-{seed}")
    verdicts = (Verdict.PASSED, Verdict.WRONG_ANSWER, Verdict.PASSED, Verdict.RUNTIME_ERROR, Verdict.PASSED)
    styles = (TestStyle.STDIN, TestStyle.ASSERT)
    samples = [_sample(styles[index % 2], rng, index, verdicts[index % 5]) for index in range(2 * len(TEMPLATES))]
    return samples + [_sample(style, rng, index, Verdict.COMPILE_ERROR) for index, style in enumerate(styles)]


def _sample(style: TestStyle, rng: random.Random, index: int, verdict: Verdict) -> Sample:
    template, make_argument = TEMPLATES[index % len(TEMPLATES)]
    source = template.format(k=rng.randrange(3, 9))
    arguments = [make_argument(rng) for _ in range(CASES)]
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    expected = [namespace["f"](argument) for argument in arguments]
    if verdict in _FAULTS:
        source += _FAULTY.format(fault=_FAULTS[verdict].format(), trigger=rng.choice(arguments))
    if verdict is Verdict.COMPILE_ERROR:
        source += "\n\n\ndef unfinished(:\n"
    cases: list[Any]
    if style is TestStyle.STDIN:
        reader = (_READ_NUMBERS if make_argument is _numbers else _READ_TEXT)[index % 3]
        program = f"{source}\n\n\n{reader}{_PRINT}"
        cases = [StdinCase(_line(argument), _line(value)) for argument, value in zip(arguments, expected, strict=True)]
    else:
        program = source + "\n"
        pairs = zip(arguments, expected, strict=True)
        cases = [AssertCase(f"assert f({argument!r}) == {value!r}") for argument, value in pairs]
    identity = f"{style.value}-{verdict.value}-{index}"
    entry_point = None if style is TestStyle.STDIN else "f"
    return Sample(Problem(identity, "", style, tuple(cases), entry_point=entry_point), program, verdict)


def _line(value: Any) -> str:
    """Spell a value as one line of input or output."""
    return " ".join(map(str, value)) + "\n" if isinstance(value, list) else f"{value}\n"


def plain(sample: Sample) -> dict[str, Any]:
    """Return what the baselines need, as JSON types."""
    cases = [
        {"input": case.input, "output": case.output} if isinstance(case, StdinCase) else {"source": case.source}
        for case in sample.problem.cases
    ]
    style, verdict = sample.problem.style.value, sample.verdict.value
    return {"id": sample.problem.id, "style": style, "program": sample.program, "cases": cases, "verdict": verdict}


if __name__ == "__main__":  # for people: print every program
    for made in (*honest(TestStyle.STDIN, 0), *honest(TestStyle.ASSERT, 0), *mixed(0)):
        print(json.dumps(plain(made)))
