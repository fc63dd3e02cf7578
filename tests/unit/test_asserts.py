"""Which asserts become calls, and that the calls say what the asserts said. Golden values are worked out by hand."""

import ast
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgrpo_ray.data.loaders import load_problems
from pgrpo_ray.sandbox.asserts import Call, Relation, as_calls
from pgrpo_ray.types import AssertCase, Problem, TestStyle

INF = float("inf")


def problem(entry_point=None, setup=""):
    return Problem("p", "", TestStyle.ASSERT, (AssertCase("assert f()"),), entry_point=entry_point, setup=setup)


def convert(source, entry_point=None):
    return as_calls(problem(entry_point), source)


def in_check(body, ending="check(f)"):
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    return f"def check(candidate):\n{lines}\n\n\n{ending}\n"


def exact(value):
    """Value with the type of every part, hashable: `1`, `True` and `1.0` are three, and so are `0.0` and `-0.0`."""
    if isinstance(value, dict):
        return dict, tuple((exact(key), exact(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return type(value), tuple(map(exact, value))
    if isinstance(value, (set, frozenset)):
        return type(value), frozenset(map(exact, value))
    return type(value), repr(value)


@pytest.mark.parametrize(
    ("source", "call"),
    [
        ("assert f(1) == 2", Call("f", (1,), {}, 2)),
        ("assert f() == None", Call("f", (), {}, None)),
        ("assert (1, [2]) == f('a', b=[b'c'])", Call("f", ("a",), {"b": [b"c"]}, (1, [2]))),
        ("assert f({1: {2: (3,)}}) == {'a': None}", Call("f", ({1: {2: (3,)}},), {}, {"a": None})),
        ("assert f(-1, +2, -0.5) == -3j", Call("f", (-1, 2, -0.5), {}, -3j)),
        ("assert f(1 - 2j) == 1 + 2j", Call("f", (1 - 2j,), {}, 1 + 2j)),
        ("assert f(set()) == {1, 2}", Call("f", (set(),), {}, {1, 2})),
        ("assert set() == f(frozenset([1]))", Call("f", (frozenset({1}),), {}, set())),
        ("assert f(1e999) == float('-inf')", Call("f", (INF,), {}, -INF)),
        ("assert f(2**31 - 1) == 11 * 13 / 2", Call("f", (2147483647,), {}, 71.5)),
        ("assert f('a' * 3 + 'b') == [0] * 2 + [()]", Call("f", ("aaab",), {}, [0, 0, ()])),
        ("assert f({1: 'a', 1: 'b'}) == 0", Call("f", ({1: "b"},), {}, 0)),
        ("assert f(1) == 2, 'why'", Call("f", (1,), {}, 2)),
        ("assert f(1) == 2, 'got ' + str(f(1))", Call("f", (1,), {}, 2)),
        ("assert f(1) == 2, f'got {f(1)!r}'", Call("f", (1,), {}, 2)),
        ("assert f(1) is None", Call("f", (1,), {}, None)),
        ("assert f(1) is True", Call("f", (1,), {}, True, Relation.SAME)),
        ("assert f(1) is False", Call("f", (1,), {}, False, Relation.SAME)),
        ("assert f(1) == True", Call("f", (1,), {}, True, Relation.EQUAL)),
        ("assert f(1)", Call("f", (1,), {}, True, Relation.TRUTH)),
        ("assert not f(1)", Call("f", (1,), {}, False, Relation.TRUTH)),
        ("assert check('1') == 'Yes'", Call("check", ("1",), {}, "Yes")),  # MBPP has a function of this name
        ("assert f('\\d') == '\\d'", Call("f", ("\\d",), {}, "\\d")),
    ],
)
def test_an_assert_becomes_a_call(source, call):
    (got,) = convert(source)
    assert (got.name, got.relation) == (call.name, call.relation)
    assert exact([got.args, got.kwargs, got.expected]) == exact([call.args, call.kwargs, call.expected])


def test_all_asserts_of_a_test_become_calls_in_order():
    assert convert("'why'\nassert f(1) == 2\npass\nassert True\nassert g(3) == 4\n") == [
        Call("f", (1,), {}, 2),
        Call("g", (3,), {}, 4),
    ]


def test_humaneval_check_is_read_where_it_is_called():
    body = "'''Doc.'''\nassert candidate(1) == 2, 'why'\nprint\nassert True, 'this prints'\nassert g(3) == 4"
    source = "METADATA = {'author': 'jt'}\n\n\n" + in_check(body)
    assert convert(source) == [Call("f", (1,), {}, 2), Call("g", (3,), {}, 4)]


def test_check_may_name_its_parameter_freely_and_run_twice():
    source = "def check(h):\n    assert h(1) == 2\n\ncheck(f)\ncheck(g)\nassert h(3) == 4"
    assert convert(source) == [Call("f", (1,), {}, 2), Call("g", (1,), {}, 2), Call("h", (3,), {}, 4)]


def test_candidate_is_the_entry_point_as_the_harness_binds_it():
    assert convert("assert candidate(1) == 2", "f") == [Call("f", (1,), {}, 2)]
    assert convert(in_check("assert candidate(1) == 2", "check(candidate)"), "f") == [Call("f", (1,), {}, 2)]
    assert convert("assert candidate(1) == 2") == [Call("candidate", (1,), {}, 2)]
    assert convert("assert candidate(1) == 2", "Class.method") is None


def test_a_builtin_is_called_only_where_it_is_the_entry_point():
    assert convert("assert sum(4, 6) == 3", "sum") == [Call("sum", (4, 6), {}, 3)]
    assert convert("assert sum(4, 6) == 3") is None


REFUSED = {
    "nothing is called": "assert True",
    "empty": "",
    "false constant": "assert f(1) == 2\nassert False",
    "two literals": "assert 1 == 1",
    "two calls": "assert f(1) == g(1)",
    "method": "assert a.f(1) == 2",
    "call of a call": "assert f(1)(2) == 3",
    "call inside an argument": "assert f(g(1)) == 2",
    "call around the call": "assert tuple(f(1)) == (1,)",
    "name as argument": "assert f(x) == 1",
    "name expected": "assert f(1) == x",
    "starred argument": "assert f(*[1]) == 1",
    "double star": "assert f(**{'a': 1}) == 1",
    "starred item": "assert f([*[1]]) == 1",
    "unpacked dict": "assert f(1) == {**{}}",
    "keyword twice": "assert f(a=1, a=2) == 1",
    "tolerance": "assert abs(f(1) - 2) < 1e-6",
    "isclose": "import math\nassert math.isclose(f(1), 2)",
    "unequal": "assert f(1) != 2",
    "less": "assert f(1) < 2",
    "member": "assert f(1) in [2]",
    "is not": "assert f(1) is not None",
    "is a number": "assert f(1) is 1",
    "chained": "assert 1 == f(1) == 1",
    "and": "assert f(1) == 1 and f(2) == 2",
    "not equal spelled with not": "assert not f(1) == 2",
    "tuple that is always true": "assert (f(1) == 2, 'why')",
    "lambda": "assert f(lambda: 1) == 2",
    "comprehension": "assert f([i for i in [1]]) == 2",
    "conditional": "assert f(1 if 1 else 2) == 2",
    "walrus": "assert (x := f(1)) == 2",
    "f-string": "assert f(1) == f'{1}'",
    "ellipsis": "assert f(...) == 1",
    "minus true": "assert f(-True) == -1",
    "not as literal": "assert f(not 1) == 1",
    "sum with true": "assert f(1 + True) == 2",
    "difference of sets": "assert f({1} - {1}) == 1",
    "invert": "assert f(~1) == -2",
    "nan": "assert f(float('nan')) == 1",
    "nan computed": "assert f(1e999 - 1e999) == 1",
    "nan expected": "assert f(1) == float('nan')",
    "no float": "assert f(float('one')) == 1",
    "float of a number": "assert f(float(1)) == 1",
    "set of two": "assert f(set([1], [2])) == 1",
    "set of a number": "assert f(set(1)) == 1",
    "unhashable item": "assert f({[]}) == 1",
    "unhashable key": "assert f({[]: 1}) == 1",
    "zero division": "assert f(1 / 0) == 1",
    "text plus number": "assert f('a' + 1) == 1",
    "power of floats": "assert f(2.0 ** 0.5) == 1",
    "negative power": "assert f(2 ** -1) == 0.5",
    "repeated list of lists is one list": "assert f([[]] * 2) == 1",
    "message binds a name": "assert f(1) == 2, (f := 3)",
    "message yields": in_check("assert candidate(1) == 2, (yield)"),
    "message with lambda": "assert f(1) == 2, (lambda: 1)()",
    "loop": "for i in [1]:\n    assert f(i) == 1",
    "if": "if 1:\n    assert f(1) == 1",
    "try": "try:\n    assert f(1) == 1\nexcept ValueError:\n    pass",
    "with": "with a:\n    assert f(1) == 1",
    "import": "import random\nassert f(1) == 1",
    "assignment": "x = 1\nassert f(1) == 1",
    "deletion": "del f\nassert f(1) == 1",
    "helper": "def g():\n    pass\nassert f(1) == 1",
    "class": "class A:\n    pass\nassert f(1) == 1",
    "bare call": "f(1)\nassert f(1) == 1",
    "bare name of the program": "g\nassert f(1) == 1",
    "metadata that is no literal": "METADATA = g()\nassert f(1) == 1",
    "metadata is called": "METADATA = {}\nassert METADATA(1) == 1",
    "check is not called": in_check("assert candidate(1) == 1", ""),
    "check calls nothing": in_check("assert True") + "assert f(1) == 1",
    "check calls itself": in_check("assert check(1) == 1"),
    "check called before it is": "check(f)\n" + in_check("assert candidate(1) == 1", ""),
    "check of two": in_check("assert candidate(1) == 1", "check(f, g)"),
    "check of a literal": in_check("assert candidate(1) == 1", "check(1)"),
    "check of a builtin": in_check("assert candidate(1) == 1", "check(len)"),
    "check with a loop": in_check("for i in [1]:\n    assert candidate(i) == 1"),
    "check with a return": in_check("assert candidate(1) == 1\nreturn\nassert candidate(2) == 1"),
    "check with a default": in_check("assert candidate(1) == 1").replace("(candidate)", "(candidate=1)"),
    "check with two parameters": in_check("assert candidate(1) == 1").replace("(candidate)", "(candidate, g=1)"),
    "check with annotation": in_check("assert candidate(1) == 1").replace("(candidate)", "(candidate: g)"),
    "check with returned type": in_check("assert candidate(1) == 1").replace("(candidate)", "(candidate) -> g"),
    "check decorated": "@g\n" + in_check("assert candidate(1) == 1"),
    "check asynchronous": "async " + in_check("assert candidate(1) == 1"),
    "check hides a builtin": "def check(set):\n    assert f(set()) == 1\n\ncheck(f)",
}


@pytest.mark.parametrize("source", REFUSED.values(), ids=REFUSED)
def test_refuses(source):
    assert convert(source) is None


def test_one_unclear_statement_refuses_the_whole_test():
    assert convert("assert f(1) == 1\nassert f(2) == g(2)") is None


@pytest.mark.parametrize("setup", ["import math", "# nothing"])
def test_setup_refuses(setup):
    assert as_calls(problem(setup=setup), "assert f(1) == 1") is None
    assert as_calls(problem(setup=" \n"), "assert f(1) == 1") is not None


@pytest.mark.parametrize("name", ["set", "frozenset", "float"])
def test_an_entry_point_that_literals_are_spelled_with_refuses(name):
    assert convert(f"assert f({name}('1')) == 1") is not None
    assert convert(f"assert f({name}('1')) == 1", name) is None


HOSTILE = {
    "syntax error": "assert f(",
    "return outside a function": "return\nassert f(1) == 1",
    "nul": "assert f('\0') == 1",
    "lone surrogate": "assert f('\ud800') == 1",
    "deep list": f"assert f({'[' * 150}{']' * 150}) == 1",
    "absurdly deep list": f"assert f({'[' * 100_000}{']' * 100_000}) == 1",
    "deep sign": f"assert f({'-' * 50_000}1) == 1",
    "deep sum": f"assert f({'1+' * 50_000}1) == 1",
    "deep attribute": f"assert f(1) == 1, a{'.a' * 100_000}",
    "tower of powers": "assert f(9**9**9) == 1",
    "huge power": "assert f(10**1_000_000) == 1",
    "huge negative base": "assert f((-2)**1_000_000) == 1",
    "power of one": f"assert f(1**{10**30}) == 1",
    "long product": "assert f(" + "*".join(["2**4000"] * 9) + ") == 1",
    "huge text": "assert f('a' * 10**9) == 1",
    "huge text in steps": "assert f('a' * 9999 * 9999) == 1",
    "huge list": "assert f([0] * 10**9) == 1",
    "long sum of texts": "assert f(" + "+".join(["'a' * 9999"] * 9) + ") == 1",
    "integer no float can hold": "assert f(10**400 + 1.0) == 1",
    "more digits than the host reads": f"assert f({'9' * 5000}) == 1",
    "assigns to __debug__": "assert f(__debug__=1) == 1",
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE)
def test_hostile_source_is_refused_at_once(source):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert convert(source) is None


def test_what_is_merely_large_converts():
    number = 1 << 100_000
    (call,) = convert(f"assert f({number:#x}, {[0] * 5000}) == 2**4000")
    assert call.args == (number, [0] * 5000)
    assert call.expected == 1 << 4000


def test_invalid_escapes_warn_nobody():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert convert(r"assert f('\d') == '\w'") is not None
    assert caught == []


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.complex_numbers(allow_nan=False, allow_infinity=False),
    st.text(),
    st.binary(),
)
FROZEN = st.recursive(SCALARS, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=6)
VALUES = st.recursive(
    SCALARS | FROZEN | st.sets(FROZEN, max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(FROZEN, inner, max_size=3) | st.tuples(inner),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.lists(VALUES, max_size=3), VALUES, VALUES, st.booleans())
def test_calls_say_what_python_does(args, keyword, expected, call_first):
    """The reference is Python: the same source (ours, of literals) runs against a spy that equals everything."""
    seen = []

    class Spy:
        def __eq__(self, other):
            seen.append(other)
            return True

        __hash__ = None

    def spy(*args, **kwargs):
        seen.extend([args, kwargs])
        return Spy()

    call = f"f({''.join(f'{arg!r}, ' for arg in args)}k={keyword!r})"
    source = f"assert {call} == {expected!r}" if call_first else f"assert {expected!r} == {call}"
    exec(source, {"f": spy})
    (got,) = convert(source)
    assert exact([got.args, got.kwargs, got.expected]) == exact(seen)


@pytest.mark.parametrize(
    ("name", "format", "least_share"), [("mbpp_1_510.jsonl", "mbpp", 0.95), ("HumanEval.jsonl.gz", "humaneval", 0.85)]
)
def test_most_of_the_real_benchmarks_convert(shared_data, name, format, least_share):
    problems = load_problems(shared_data / "datasets" / name, format)
    whole = sum(all(as_calls(problem, case.source) for case in problem.cases) for problem in problems)
    assert whole >= least_share * len(problems)


def test_real_asserts_keep_their_values(shared_data):
    """`ast.literal_eval` of both sides, as the reference, on MBPP and inside HumanEval's checks."""
    compared = 0
    for name, format in (("mbpp_1_510.jsonl", "mbpp"), ("HumanEval.jsonl.gz", "humaneval")):
        for problem in load_problems(shared_data / "datasets" / name, format):
            for case in problem.cases:
                calls = as_calls(problem, case.source)
                if calls is None:
                    continue
                asserts = [node.test for node in ast.walk(ast.parse(case.source)) if isinstance(node, ast.Assert)]
                tests = [test for test in asserts if not isinstance(test, ast.Constant)]
                for test, call in zip(tests, calls, strict=True):
                    if isinstance(test, ast.Compare) and call.relation is Relation.EQUAL:
                        compared += compare(test, call)
    assert compared > 2000


def compare(test, call):
    """Assert that `call` is `test`; return False where `ast.literal_eval` cannot read the test (`11 * 13`)."""
    try:
        args = tuple(map(ast.literal_eval, test.left.args))
        expected = ast.literal_eval(test.comparators[0])
    except ValueError:
        return False
    assert exact([call.args, call.expected]) == exact([args, expected])
    return True
