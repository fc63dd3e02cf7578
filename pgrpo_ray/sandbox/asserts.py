"""Asserts of a plain form as calls, so that what is expected stays outside the sandbox. Pure functions, no I/O.

A test of style `assert` runs inside, apart from the program but with what it expects, and handles stand for the
program's objects. `assert f(1) == 2` says no more than "call `f` with 1, compare with 2", which the host can do.
A test is converted only as a whole, and only where every statement is understood; nothing of it is ever executed.

The calls of one test belong in one process, in order, each value encoded before the next call, as the test would have
met it. What then differs from running the test, for honest programs:

- A value that is no plain data equals nothing here, but some equal plain data in Python: `{}.keys()` and a set,
  `UserDict` and its like, most of numpy's scalars (`float64` is a float), objects with an `__eq__` of their own.
- A subclass of plain data is compared as its base (`Counter`, `OrderedDict`, named tuples, `IntEnum`: no difference;
  an `__eq__` or `__bool__` of its own is not asked).
- Arguments are equal to the literals, not the same objects: `is` between equal strings or large integers may turn out
  differently, and so may the order of a set.
- The test defines no names: a helper of the program called `check`, `METADATA`, `candidate` is no longer overwritten.
  `set`, `frozenset` and `float` in a test are Python's, also where the program defines its own.
- A failing assert's message is not evaluated: the verdict is a wrong answer, also where the message would raise.

Floats compare exactly, as the test's `==` does: no tolerance may be added.
"""

import ast
import builtins
import contextlib
import operator
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pgrpo_ray.sandbox.inside.codec import Opaque
from pgrpo_ray.types import Problem

_MAX_DEPTH = 100
"""Of nested literals. Ours: far deeper than tests are, well below `codec.MAX_DEPTH` for values."""
_MAX_SIZE = 10_000
"""Elements, or bits, that an operation between literals may make. Ours: `2**31 - 1`, but no `9**9**9`."""
_OPERATIONS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_SCALARS = (type(None), bool, int, float, complex, str, bytes)
_SEQUENCES = (str, bytes, list, tuple)
_SETS = {"set": set, "frozenset": frozenset}
_BUILTINS = frozenset(dir(builtins))
_MESSAGE = (
    *(ast.Constant, ast.Name, ast.Attribute, ast.Subscript, ast.expr_context, ast.BinOp, ast.operator),
    *(ast.UnaryOp, ast.unaryop, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.Call, ast.keyword),
    *(ast.JoinedStr, ast.FormattedValue),
)
"""Of what an assert's message may be made. It is evaluated only when the case has failed already, so calls are fine; a
`:=` or `yield` is not, because its mere presence changes the function around it."""


class Relation(StrEnum):
    """How the returned value must stand to `Call.expected`."""

    EQUAL = "equal"
    """`value == expected`, exactly as Python compares plain data."""
    SAME = "same"
    """`value is expected`, which is True or False: 1 equals True but is not the same."""
    TRUTH = "truth"
    """`bool(value) is expected`. What is no plain data has no truth that can be believed: it fails."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a function of the program, and what must come back."""

    name: str
    """Of a global of the program."""
    args: tuple[Any, ...]
    """By position: plain data, no longer JSON (tuples, sets, bytes, infinities)."""
    kwargs: dict[str, Any]
    """By keyword."""
    expected: Any
    """Plain data. Must not enter the sandbox."""
    relation: Relation = Relation.EQUAL


def holds(call: Call, value: Any) -> bool:
    """Tell whether a returned value, decoded into plain data, stands to what is expected as the test wants it."""
    try:
        match call.relation:
            case Relation.EQUAL:
                return bool(value == call.expected)
            case Relation.SAME:
                return value is call.expected
            case Relation.TRUTH:
                return type(value) is not Opaque and bool(value) is call.expected
    except (RecursionError, ArithmeticError):  # too deep, or a Decimal that compares with nothing
        return False


class _Unclear(Exception):
    """Says which construct is not understood."""


def as_calls(problem: Problem, source: str) -> list[Call] | None:
    """Return the calls that mean what `source`, a test of style `assert`, means; None unless all of it is understood.

    None also for a test that fails every program (it does not parse, or its literals raise), and for one that calls
    nothing. A `setup` may change the meaning of anything after it, so it rules out a conversion.
    """
    if problem.setup.strip():
        return None
    try:
        return _Reader(problem.entry_point).read(source)
    except (_Unclear, SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError):
        return None


class _Reader:
    """Walks one test in the order in which Python would run it, and collects its calls."""

    def __init__(self, entry_point: str | None):
        self.entry_point = entry_point
        self.calls: list[Call] = []
        self.aliases = {"candidate": entry_point} if entry_point else {}  # the checker binds it before the test
        self.defined: set[str] = set()
        """Names that the test itself has bound so far; they are no functions of the program."""

    def read(self, source: str) -> list[Call]:
        if self.entry_point in ("float", *_SETS):
            raise _Unclear("literals and the program share a name")
        # The filters are the whole process's, so they are touched only where a warning (an invalid escape) may come.
        with warnings.catch_warnings() if "\\" in source else contextlib.nullcontext():
            if "\\" in source:
                warnings.simplefilter("ignore")
            tree = ast.parse(source)
        check: ast.FunctionDef | None = None
        for statement in tree.body:
            match statement:
                case ast.Assign(targets=[ast.Name(id="METADATA")], value=value):
                    _literal(value)
                    self.defined.add("METADATA")
                case ast.FunctionDef(name="check"):
                    _parameter(statement)
                    check = statement
                    self.defined.add("check")
                case ast.Expr(ast.Call(ast.Name("check"), [ast.Name(given)], [])) if check is not None:
                    self.run_check(check, self.resolve(given))
                case _:
                    self.statement(statement)
        if not self.calls:
            raise _Unclear("no calls")
        compile(tree, "<test>", "exec", dont_inherit=True)  # finds what the parser lets through, as `f(a=1, a=2)`
        return self.calls

    def run_check(self, check: ast.FunctionDef, name: str) -> None:
        """Read the body of HumanEval's `check(candidate)` for a call of it with the program's function `name`."""
        outer, before = self.aliases, len(self.calls)
        self.aliases = {**outer, _parameter(check): name}
        for statement in check.body:
            self.statement(statement)
        self.aliases = outer
        if len(self.calls) == before:
            raise _Unclear("a check that calls nothing")  # it would still look `name` up

    def resolve(self, name: str) -> str:
        """Return the program's own name for what the test calls `name`."""
        if name not in self.aliases and name in self.defined:
            raise _Unclear(f"{name}, which the test defines")
        name = self.aliases.get(name, name)
        if not name.isidentifier() or (name in _BUILTINS and name != self.entry_point):
            raise _Unclear(f"call of {name}")
        return name

    def statement(self, statement: ast.stmt) -> None:
        """Read a statement that may stand in the module and in `check`."""
        match statement:
            case ast.Pass() | ast.Expr(value=ast.Constant()):
                return
            case ast.Expr(value=ast.Name(id=name)) if name in _BUILTINS:
                return  # HumanEval/129 has a `print` of Python 2
            case ast.Assert(test=test, msg=message):
                if message is not None and not all(isinstance(node, _MESSAGE) for node in ast.walk(message)):
                    raise _Unclear("message")
                self.condition(test)
            case _:
                raise _Unclear(f"statement {type(statement).__name__}")

    def condition(self, test: ast.expr) -> None:
        """Read what an assert asserts."""
        match test:
            case ast.Constant(value=True):
                return
            case ast.Compare(left=left, ops=[ast.Eq()], comparators=[right]):
                call, expected = (left, right) if self.calls_program(left) else (right, left)
                self.add(call, _literal(expected))
            case ast.Compare(left=call, ops=[ast.Is()], comparators=[ast.Constant(value=None)]):
                self.add(call, None)  # nothing but None equals None
            case ast.Compare(left=call, ops=[ast.Is()], comparators=[ast.Constant(value=bool() as expected)]):
                self.add(call, expected, Relation.SAME)
            case ast.UnaryOp(op=ast.Not(), operand=call):
                self.add(call, False, Relation.TRUTH)
            case _:
                self.add(test, True, Relation.TRUTH)

    def calls_program(self, node: ast.expr) -> bool:
        """Tell a call from a literal that is spelled as one, such as `set()`."""
        match node:
            case ast.Call(func=ast.Name(id=name)):
                return name not in ("float", *_SETS)
        return False

    def add(self, node: ast.expr, expected: Any, relation: Relation = Relation.EQUAL) -> None:
        match node:
            case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
                kwargs = {}
                for keyword in keywords:
                    if keyword.arg is None:
                        raise _Unclear("**")
                    kwargs[keyword.arg] = _literal(keyword.value)
                values = tuple(_literal(argument) for argument in args)
                self.calls.append(Call(self.resolve(name), values, kwargs, expected, relation))
            case _:
                raise _Unclear(f"assert {type(node).__name__}")


def _parameter(check: ast.FunctionDef) -> str:
    """Return the name of the one parameter of a function that is nothing else than `def check(candidate):`."""
    arguments = check.args
    extras = (
        *(arguments.posonlyargs, arguments.vararg, arguments.kwonlyargs, arguments.kwarg, arguments.defaults),
        *(check.decorator_list, check.returns, getattr(check, "type_params", None)),  # Python 3.12 and later
    )
    if any(extras) or len(arguments.args) != 1 or arguments.args[0].annotation is not None:
        raise _Unclear("signature of check")
    if (name := arguments.args[0].arg) in _BUILTINS:
        raise _Unclear(f"parameter {name}")
    return name


def _literal(node: ast.expr, depth: int = 0) -> Any:
    """Build the value of a literal of plain data. Raises `_Unclear`, or what Python would raise for the literal."""
    if depth > _MAX_DEPTH:
        raise _Unclear("depth")
    depth += 1
    match node:
        case ast.Constant(value=value) if value is not ...:
            return value
        case ast.List(elts=items):
            return [_literal(item, depth) for item in items]
        case ast.Tuple(elts=items):
            return tuple([_literal(item, depth) for item in items])
        case ast.Set(elts=items):
            return {_literal(item, depth) for item in items}
        case ast.Dict(keys=keys, values=values) if None not in keys:  # None is `**`
            pairs = zip(keys, values, strict=True)
            return {_literal(key, depth): _literal(value, depth) for key, value in pairs if key is not None}
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            value = _literal(operand, depth)
            if type(value) in (int, float, complex):
                return -value if isinstance(sign, ast.USub) else value
        case ast.BinOp(left=left, op=operation, right=right):
            return _operate(type(operation), _literal(left, depth), _literal(right, depth))
        case ast.Call(func=ast.Name(id="set" | "frozenset" as kind), args=[] | [_] as items, keywords=[]):
            return _SETS[kind](*(_literal(item, depth) for item in items))
        case ast.Call(func=ast.Name(id="float"), args=[ast.Constant(value=str() as text)], keywords=[]):
            return _not_nan(float(text))
    raise _Unclear(f"literal {type(node).__name__}")


def _operate(operation: type[ast.operator], left: Any, right: Any) -> Any:
    """Do an operation between literals whose result is small, and the same on every machine."""
    if operation in _OPERATIONS and _may_operate(operation, left, right):
        return _not_nan(_OPERATIONS[operation](left, right))
    raise _Unclear(f"operation {operation.__name__}")


def _may_operate(operation: type[ast.operator], left: Any, right: Any) -> bool:
    kinds = {type(left), type(right)}
    if operation is ast.Pow:  # of integers alone: a float's comes from the C library
        return kinds == {int} and right >= 0 and left.bit_length() * right <= _MAX_SIZE
    if operation is ast.Mult and kinds == {int}:
        return left.bit_length() + right.bit_length() <= _MAX_SIZE
    if operation is ast.Mult and int in kinds and type(left) in _SEQUENCES:
        # A repeated list would be one object in many places, which an encoding need not keep.
        scalars = isinstance(left, str | bytes) or all(isinstance(item, _SCALARS) for item in left)
        return type(right) is int and scalars and len(left) * right <= _MAX_SIZE
    if operation is ast.Add and len(kinds) == 1 and type(left) in _SEQUENCES:
        return len(left) + len(right) <= _MAX_SIZE
    if complex in kinds:  # how one is spelled: 1 + 2j
        return operation in (ast.Add, ast.Sub) and type(left) in (int, float)
    return kinds <= {int, float}


def _not_nan(value: Any) -> Any:
    """Refuse NaN: it equals nothing, but inside a container the same object is found equal."""
    if value != value:
        raise _Unclear("NaN")
    return value
