"""Plain data over the wire: what survives it, what is flattened, what is refused, also where the data is hostile."""

import json
import math
from collections import Counter, OrderedDict, UserDict, defaultdict, deque, namedtuple
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgrpo_ray.sandbox.inside.codec import MAX_DEPTH, Encoder, Opaque, TooLarge, decode

DAMAGE = (ValueError, TypeError, KeyError, IndexError, RecursionError, ArithmeticError)
"""All that the host expects of a damaged value."""


def encoded(value, budget=100_000, opaque=None):
    return json.loads(json.dumps(Encoder(budget, opaque).encode(value)))


def round_trip(value):
    return decode(encoded(value))


def exact(value):
    """Value with the type of every part: `1`, `True`, `1.0` are three, NaN is itself, `-0.0` is not `0.0`."""
    if isinstance(value, dict):
        return dict, tuple((exact(key), exact(item)) for key, item in value.items())
    if isinstance(value, (list, tuple, deque)):
        return type(value), tuple(map(exact, value))
    if isinstance(value, (set, frozenset)):
        return type(value), frozenset(map(exact, value))
    return type(value), repr(value)


def nested(depth, wrap=lambda value: [value]):
    value = 7
    for _ in range(depth):
        value = wrap(value)
    return value


def inner(value):
    return next(iter(value.values() if isinstance(value, dict) else value))


@pytest.mark.parametrize(
    ("value", "wire"),
    [
        (None, None),
        (True, True),
        (0, 0),
        ((1 << 63) - 1, 9223372036854775807),
        (1 << 63, {"i": "0x8000000000000000"}),
        (1 - (1 << 63), -9223372036854775807),
        (-(1 << 63), {"i": "-0x8000000000000000"}),
        (-255 << 64, {"i": "-0xff0000000000000000"}),
        (1.5, 1.5),
        (-0.0, -0.0),
        (math.inf, {"f": "inf"}),
        (-math.inf, {"f": "-inf"}),
        (math.nan, {"f": "nan"}),
        ("t \ud800 \x00", "t \ud800 \x00"),
        (b"\x00\xff", {"b": "00ff"}),
        (bytearray(b"\x01"), {"B": "01"}),
        (complex(1, -math.inf), {"c": ["1.0", "-inf"]}),
        ((1, (2,)), {"t": [1, {"t": [2]}]}),
        ([[], {}], [[], {"d": []}]),
        ({3}, {"s": [3]}),
        (frozenset({(3,)}), {"z": [{"t": [3]}]}),
        ({1: "a", (1, 2): None, "1": []}, {"d": [[1, "a"], [{"t": [1, 2]}, None], ["1", []]]}),
        (range(5, 1, -2), {"r": [5, 1, -2]}),
        (deque([1, (2,)]), {"q": [1, {"t": [2]}]}),
        (Decimal("1.50"), {"D": "1.50"}),
        (Decimal("-Infinity"), {"D": "-Infinity"}),
        (Fraction(2, -6), {"F": [-1, 3]}),
    ],
)
def test_plain_data_has_one_spelling_and_survives(value, wire):
    assert exact(encoded(value)) == exact(wire)
    assert exact(round_trip(value)) == exact(value)


HASHABLE = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.integers(-(1 << 300), 1 << 300), st.floats(allow_nan=False),
        st.text(st.characters()), st.binary(), st.complex_numbers(allow_nan=False), st.fractions(),
        st.decimals(allow_nan=False),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4).map(tuple), st.frozensets(inner, max_size=4)),
    max_leaves=8,
)  # fmt: skip
PLAIN = st.recursive(
    st.one_of(HASHABLE, st.binary().map(bytearray), st.builds(range, *[st.integers(-(1 << 70), 1 << 70)] * 2)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.lists(inner, max_size=4).map(deque),
        st.sets(HASHABLE, max_size=4),
        st.dictionaries(HASHABLE, inner, max_size=4),
    ),
    max_leaves=16,
)


@settings(max_examples=300, deadline=None)
@given(PLAIN)
def test_all_plain_data_survives(value):
    assert exact(round_trip(value)) == exact(value)
    assert round_trip(value) == value


class Called(Exception):
    """A method of the program's object ran."""


def armed(base):
    """Return a subclass of `base` whose every method raises, but for those that make the object."""

    def alarm(*_):
        raise Called

    keep = {"__new__", "__init__", "__class__", "__init_subclass__", "__subclasshook__", "__class_getitem__"}
    methods = {name for name in dir(base) if callable(getattr(base, name))} - keep
    more = ("index", "int", "float", "complex", "bool", "len", "iter", "bytes", "fspath", "length_hint", "reduce_ex")
    return type("Armed", (base,), dict.fromkeys([*methods, *(f"__{name}__" for name in more)], alarm))


@pytest.mark.parametrize(
    "value",
    [7, 1 << 80, 0.5, math.inf, "text", b"ab", 2j, [1, [2]], (1, 2), {1: "a"}, {"k": [0]}, set(), frozenset()],
)
def test_subclasses_are_flattened_without_calling_a_method(value):
    base = type(value)
    made = armed(base)(value)
    with pytest.raises(Called):
        made.__hash__()
    assert exact(round_trip(made)) == exact(value)
    assert exact(round_trip([made, {1: made}])) == exact([value, {1: value}])


def test_sets_and_bytearrays_are_read_through_their_base():
    for base, content in ((set, {1, 2}), (frozenset, {1, 2}), (bytearray, b"ab")):
        kind = type("Kind", (base,), {"__iter__": None, "__len__": None, "__eq__": None, "hex": None})
        assert exact(round_trip(kind(content))) == exact(base(content))


class Level(IntEnum):
    LOW = 1


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Level.LOW, 1),
        (Counter("aab"), {"a": 2, "b": 1}),
        (OrderedDict([(2, 1), (1, 2)]), {2: 1, 1: 2}),
        (defaultdict(list, a=[1]), {"a": [1]}),
        (namedtuple("P", "x y")(1, 2), (1, 2)),
    ],
)
def test_the_librarys_subclasses_are_their_base(value, plain):
    assert exact(round_trip(value)) == exact(plain)


def test_an_int_that_lies_about_itself_is_what_it_holds():
    class Liar(int):
        def __eq__(self, other):
            return True

        __hash__ = int.__hash__
        __int__ = __index__ = __repr__ = __str__ = lambda self: 42

    assert exact(round_trip([Liar(7)])) == exact([7])


class LyingMeta(type):
    def __subclasscheck__(cls, kind):
        return True

    __instancecheck__ = __subclasscheck__

    def __eq__(cls, other):
        return True

    __hash__ = type.__hash__

    def __getattribute__(cls, name):
        return {"__module__": "fractions", "__name__": "Fraction"}.get(name) or type.__getattribute__(cls, name)


class Chameleon(metaclass=LyingMeta):
    __class__ = int
    numerator, denominator = 1, 1

    def __eq__(self, other):
        return True

    __hash__ = object.__hash__


def test_a_metaclass_and_a_class_attribute_convince_nobody():
    assert isinstance(Chameleon(), int)  # it lies well
    assert encoded(Chameleon()) == {"?": "Chameleon"}
    assert type(round_trip([Chameleon()])[0]) is Opaque


class Hidden(type):
    def mro(cls):
        return (cls, object)


def test_a_metaclass_that_hides_the_base_ends_as_no_plain_data():
    assert type(round_trip(Hidden("Hid", (int,), {})(7))) is Opaque


class Forged:
    """Says that it is a library's type, with methods that are no library's."""


@pytest.mark.parametrize(
    ("module", "name", "fields"),
    [
        ("collections", "deque", {"__iter__": lambda self: iter("abc")}),
        ("decimal", "Decimal", {"__str__": lambda self: "1"}),
        ("fractions", "Fraction", {"numerator": 1, "denominator": 1}),
    ],
)
def test_a_forged_library_type_states_no_more_than_it_could_return(module, name, fields):
    """Its methods do run, in its own process. What arrives is plain data that it might as well have returned."""
    forged = type(name, (Forged,), {"__module__": module, "__eq__": lambda *_: True, "__hash__": None, **fields})()
    assert type(round_trip(forged)) in (deque, Decimal, Fraction, Opaque)


def test_a_value_that_changes_while_it_is_read_does_not_break_the_encoder():
    class Odd:
        pass

    growing = {Odd(), Odd()}

    def grow(value):
        growing.add(object())
        return {"?": "grown"}

    assert type(decode(encoded(growing, opaque=grow))) is Opaque


@pytest.mark.parametrize(
    "value", [object(), print, Opaque(), UserDict(a=1), {}.keys(), iter([]), memoryview(b""), ..., int, math]
)
def test_what_is_no_plain_data_equals_nothing(value):
    got = round_trip(value)
    assert type(got) is Opaque
    for other in (got, None, 0, "", [], value, Opaque()):
        assert (got == other) is False
    assert got not in (1, None, Opaque())
    assert {got: 1}  # and it may be a member and a key, as the program's own object was


def test_what_is_no_plain_data_may_become_a_handle():
    made = []

    def keep(value):
        made.append(value)
        return {"h": len(made) - 1}

    thing = object()
    wire = encoded([1, thing, (thing,)], opaque=keep)
    assert wire == [1, {"h": 0}, {"t": [{"h": 1}]}]
    assert made == [thing, thing]
    with pytest.raises(DAMAGE):
        decode(wire)


@pytest.mark.parametrize(
    "wrap", [lambda value: [value], lambda value: (value,), lambda value: {1: value}, lambda value: deque([value])]
)
def test_depth_is_bounded_on_the_way_out(wrap):
    deepest = nested(MAX_DEPTH, wrap)
    assert exact(round_trip(deepest)) == exact(deepest)
    too_deep = round_trip(wrap(deepest))
    for _ in range(MAX_DEPTH + 1):
        too_deep = inner(too_deep)
    assert type(too_deep) is Opaque


def test_cycles_end():
    cycle = []
    cycle.append(cycle)
    table = {}
    table["self"] = table
    for value in (cycle, table):
        got = round_trip(value)
        for _ in range(MAX_DEPTH + 1):
            got = inner(got)
        assert type(got) is Opaque


@pytest.mark.parametrize(
    ("value", "cost"),
    [
        (None, 1),
        ([], 1),
        ([1, 2], 3),
        ("abc", 4),
        (b"abc", 4),
        (bytearray(b"abc"), 4),
        ({1: "ab"}, 5),
        (((1,),), 3),
        (deque([1]), 2),
    ],
)
def test_nodes_and_characters_are_paid_for(value, cost):
    # What is left after the last node may be negative: the next node notices.
    encoder = Encoder(cost)
    encoder.encode(value)
    assert encoder.budget == 0


def test_shared_references_cannot_explode():
    bomb = []
    for _ in range(100):
        bomb = [bomb, bomb]
    with pytest.raises(TooLarge):
        Encoder(100_000).encode(bomb)
    with pytest.raises(TooLarge):
        Encoder(100_000).encode(["x" * 1000] * 1000)
    with pytest.raises(TooLarge):
        Encoder(9).encode(list(range(9)))


def test_one_budget_is_for_all_that_an_encoder_encodes():
    encoder = Encoder(5)
    encoder.encode([1, 2])
    with pytest.raises(TooLarge):
        encoder.encode([1, 2])


@pytest.mark.parametrize(
    "wire",
    [
        {}, {"t": [], "s": []}, {"nonsense": 1}, {"t": 1}, {"t": None}, {"s": [[]]}, {"z": [{"d": []}]},
        {"d": [[1]]}, {"d": [[1, 2, 3]]}, {"d": [[[], 1]]}, {"d": 5}, {"i": 5}, {"i": "zz"}, {"f": "x"}, {"f": []},
        {"c": ["1"]}, {"c": [[], 1]}, {"b": "0"}, {"b": 5}, {"B": "zz"}, {"r": [1, 2]}, {"r": [0, 1, 0]},
        {"r": ["0", "1", "1"]}, {"r": [0.5, 1, 1]}, {"D": "x"}, {"D": []}, {"D": {}}, {"F": [1, 0]}, {"F": []},
        {"F": {}}, {"F": [math.inf, 1]}, {"F": [math.nan, 1]}, {"h": 0}, {"q": 5}, {"": 1},
    ],
)  # fmt: skip
def test_damage_is_noticed(wire):
    for value in (wire, [wire], {"t": [1, wire]}, {"d": [["k", wire]]}):
        with pytest.raises(DAMAGE):
            decode(value)


TAGS = st.sampled_from([*"tszdifcbBrqDFh?nkx", "", "tt"])
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.integers(), st.floats(), st.text("0x1af.-eNIn_ ", max_size=6)
)
WIRE = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.builds(lambda tag, content: {tag: content}, TAGS, inner),
        st.dictionaries(TAGS, inner, max_size=2),
        st.builds(lambda pairs: {"d": pairs}, st.lists(st.tuples(inner, inner).map(list), max_size=3)),
    ),
    max_leaves=12,
)


@settings(max_examples=800, deadline=None)
@given(WIRE)
def test_damage_raises_nothing_that_the_host_does_not_expect(wire):
    try:
        value = decode(wire)
    except DAMAGE:
        return
    assert exact(round_trip(value)) is not None  # what was understood is plain data again


def test_damage_by_depth_is_expected_too():
    wire = []
    for _ in range(100_000):
        wire = [wire]
    with pytest.raises(RecursionError):
        decode(wire)
