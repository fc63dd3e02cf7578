"""The words of the system as frozen records. Standard library only; every other module may import this one.

What flows in bulk between processes is not here but in `data.arrow`: Arrow tables whose columns these words name.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class TestStyle(StrEnum):
    """How a problem's tests meet a program."""

    __test__ = False  # pytest would otherwise try to collect a class of this name

    STDIN = "stdin"
    """The program is run as a script once per case; standard input goes in, standard output is compared."""
    CALL = "call"
    """`entry_point` is called once per case with JSON arguments; the returned value is compared."""
    ASSERT = "assert"
    """Each case is a piece of source, run after the program in its namespace; an exception fails it."""
    ANSWER = "answer"
    """What stands in `<answer>` is no program but an answer; it is compared with the case's, and nothing is run."""


CHECKERS = {
    TestStyle.STDIN: ("tokens", "lines", "exact", "unordered_lines"),
    TestStyle.CALL: ("values", "identical"),
    TestStyle.ASSERT: (),
    TestStyle.ANSWER: ("maths", "text"),
}
"""Built-in checkers that fit a style. Here for those who read problems; `sandbox.checkers` has the functions, and
`evaluation.maths` those of style `answer`."""
LANGUAGES = ("python", "cpp")
"""Of programs. `sandbox.languages` has what runs them."""


class Verdict(StrEnum):
    """What became of a program. All but `PASSED` are the program's fault; machinery failures are errors instead."""

    PASSED = "passed"
    WRONG_ANSWER = "wrong_answer"
    RUNTIME_ERROR = "runtime_error"
    COMPILE_ERROR = "compile_error"
    TIME_LIMIT = "time_limit"
    MEMORY_LIMIT = "memory_limit"
    OUTPUT_LIMIT = "output_limit"
    TAMPERED = "tampered"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one test case may use."""

    cpu_s: float = 4.0
    """CPU seconds per case. Judged first, because wall time flips with load."""
    wall_s: float = 10.0
    """Wall seconds per case: the looser net under a program that sleeps or waits."""
    memory_mib: int = 256
    """Private writable memory of the program, beyond what an empty interpreter takes, MiB."""
    output_kib: int = 1024
    """Standard output (and, for calls, encoded results) per case, KiB."""


@dataclass(frozen=True, slots=True)
class StdinCase:
    """One case of style `stdin`."""

    input: str
    """Standard input."""
    output: str
    """Expected standard output. Never enters the sandbox."""
    also: tuple[str, ...] = ()
    """Other outputs that are as right."""


@dataclass(frozen=True, slots=True)
class CallCase:
    """One case of style `call`."""

    args: list[Any] | dict[str, Any]
    """JSON arguments: a list is passed by position, an object by keyword."""
    expected: Any
    """Expected value as JSON. Never enters the sandbox. Tuples compare equal to lists, as JSON has no tuples."""
    also: tuple[Any, ...] = ()
    """Other values that are as right."""


@dataclass(frozen=True, slots=True)
class AssertCase:
    """One case of style `assert`."""

    source: str
    """Python source that raises where the program is wrong. Of a plain form, its calls alone enter the sandbox; else it
    runs there, in a process that the program cannot reach."""


@dataclass(frozen=True, slots=True)
class AnswerCase:
    """The one case of style `answer`."""

    answer: str
    """The reference: LaTeX, a number or words. Never shown to the policy."""
    also: tuple[str, ...] = ()
    """Other answers that are as right, and not equal to the first to the checker."""


Case = StdinCase | CallCase | AssertCase | AnswerCase


@dataclass(frozen=True, slots=True)
class Problem:
    """A statement, its hidden tests and its limits."""

    id: str
    """Unique within a problem set."""
    prompt: str
    """The statement as the policy sees it, before any chat template."""
    style: TestStyle
    cases: tuple[Case, ...]
    """At least one; all of the type that belongs to `style`. Style `answer` has exactly one."""
    entry_point: str | None = None
    """Function to call (style `call`), `Class.method` for a method of an object made without arguments. Style `assert`:
    the function under test, where it has the name of a builtin; tests may call it `candidate`."""
    setup: str = ""
    """Source run after the program and before the first assert (MBPP's `test_setup_code`)."""
    completion_prefix: str = ""
    """Source that a program which starts indented continues (HumanEval's prompt). Others stand alone."""
    language: str = "python"
    """Of the programs: a name that `sandbox.languages` knows. All but `python` read standard input (style `stdin`)."""
    checker: str = ""
    """Who compares outputs: a name that `sandbox.checkers` knows, or `module:function`. Empty: the style's default."""
    limits: Limits = field(default_factory=Limits)
    metadata: dict[str, Any] = field(default_factory=dict)
    """Free; `float_tolerance` (absolute and relative) is read by the comparison of style `stdin`."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge says about one program or answer. Filled by `sandbox.grade` and `evaluation.maths`."""

    verdict: Verdict | None
    """None: the machinery failed and `error` says how. Such a rollout gets no gradient."""
    tests_passed: int
    tests_total: int
    duration_ms: float
    """Wall time inside the sandbox, all cases together, milliseconds."""
    sandbox: str
    """Which isolation judged it: `docker`, `process`, or `maths` for an answer, which is not run; empty when none could
    be had."""
    first_failed: int | None = None
    """Index of the first case that did not pass; None when passed or unknown."""
    detail: str = ""
    """Short excerpt for people: the exception or what differed. Escaped and cut; never fed to a model."""
    cpu_ms: float = 0.0
    """CPU time of the program, user and system, all cases together, milliseconds."""
    peak_mib: float = 0.0
    """Largest resident memory of a process that ran it, the interpreter's own part included, MiB."""
    error: str | None = None
    """The machinery's failure after all retries; None when there is a verdict."""

    @property
    def passed(self) -> bool:
        """True when every test passed."""
        return self.verdict is Verdict.PASSED


@dataclass(frozen=True, slots=True)
class ParsedResponse:
    """The text view of a rollout's response, split by its template. Made by `data.response.parse`."""

    format_ok: bool
    """R^f: the tag structure is right."""
    thinking: str | None
    """Inside `<think>`; None when the format is wrong."""
    program: str | None
    """Inside `<answer>`, code fence stripped: a program, or the answer itself (style `answer`). None when the format is
    wrong."""


@dataclass(frozen=True, slots=True)
class PromptRequest:
    """One group to sample. Made by the driver, consumed by a rollout worker."""

    problem_id: str
    prompt_ids: tuple[int, ...]
    """Prompt token ids, chat template applied, generation prompt included."""
    seed: int
    """Seed of the group's samples; distinct for every (run, step, problem)."""
    number: int = -1
    """In the run's ledger; -1 for what is sampled without one, such as held-out problems."""


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two reasonings about one problem, the first better. What a Bradley-Terry reward model is trained on."""

    prompt: str
    better: str
    worse: str
    kind: str = ""
    """What makes the second worse, such as `planted_error`; accuracy is reported per kind."""
    problem_id: str = ""
    """Of the problem set that the prompt is from; empty where the pair does not say."""
    difficulty: str = ""
    """Of the problem, in the words of its source; empty where unknown."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One question to a language model. Made by pair making and judges, answered by a `protocols.ChatModel`."""

    id: str
    """Unique among the requests of one call; the answer carries it."""
    prompt: str
    """What the user says."""
    system: str = ""
    """What the system says before it; empty: nothing."""
    seed: int = 0
    temperature: float = 1.0
    max_tokens: int = 4096
    """Of the answer."""


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """What became of one `ChatRequest`."""

    id: str
    text: str | None
    """None: no answer, and `error` says why."""
    finish_reason: str = ""
    """`stop` (ended by itself), `length` (cut), or the endpoint's own word."""
    error: str = ""
    """The machinery's failure after all retries, for people."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class SampledGroup:
    """The G responses to one request, as they left the engine. Index i in every tuple is one rollout.

    Token ids are the only truth from here to the loss; the engine's end-of-sequence token is among them.
    """

    request: PromptRequest
    response_ids: tuple[list[int], ...]
    """[G][T] sampled tokens."""
    rollout_logprobs: tuple[list[float], ...]
    """[G][T] engine's logprob of each sampled token at the sampling temperature, nats."""
    finish_reasons: tuple[str, ...]
    """`stop` (ended by itself) or `length` (cut)."""
    versions: tuple[tuple[tuple[int, int], ...], ...]
    """[G] (policy version, index of the first token that it sampled), in the order of the tokens; one pair unless new
    weights came while the response was sampled."""
