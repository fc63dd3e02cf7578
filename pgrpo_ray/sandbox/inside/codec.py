"""Plain data as tagged JSON and back. The one language between program, checker and host.

JSON's own null, booleans, 64-bit integers, finite floats, strings and lists stand for themselves. Everything else is
an object with one tag: `t` tuple, `s` set, `z` frozenset, `d` dict as pairs, `i` integer as hex, `f` infinity or NaN,
`c` complex, `b` bytes, `B` bytearray, `r` range, `q` deque, `D` Decimal, `F` Fraction, `n` named tuple, `?` no
plain data, and what else `opaque` makes.
"""

import math

MAX_DEPTH = 200
"""Of a value. Ours: far deeper than test data, shallow enough for both JSON codecs."""


MAX_FRACTION_BITS = 1 << 16
"""Of a fraction's two numbers: reducing it takes time in their square. Ours: 20,000 digits."""
MAX_COLLISIONS = 100
"""Members of one set, or keys of one dict, with the same hash. Ours: honest data has a handful."""


class TooLarge(Exception):
    """An encoded value exceeds its budget."""


class Opaque:
    """A value that is not plain data. Equals nothing, itself included."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other):
        return False


class Encoder:
    """Encodes without calling one method of the program's objects.

    Subclasses are sent as their base, read through the base's own C functions. What is not plain becomes
    `opaque(value)` or, without that, its type's name under `?`. `budget` bounds nodes and characters, so that shared
    references cannot explode; `TooLarge` says that it is used up.
    """

    def __init__(self, budget, opaque=None):
        self.budget = budget
        self.opaque = opaque
        self.lossy = False  # something was too deep to be told

    def encode(self, value, depth=0):
        self.budget -= 1
        if self.budget < 0:
            raise TooLarge
        kind = type(value)
        if value is None or value is True or value is False:
            return value
        if depth > MAX_DEPTH:
            self.lossy = True
            return {"?": "too deep"}
        try:
            if issubclass(kind, (int, float, str, bytes, bytearray, complex)):
                return self.scalar(kind, value)
            return self.container(kind, value, depth + 1)
        except (TypeError, RuntimeError):  # a metaclass that lies about its bases; a set that changes while it is read
            return {"?": "unknown"}

    def scalar(self, kind, value):
        if issubclass(kind, int):
            number = int.__int__(value)
            return number if -(1 << 63) < number < 1 << 63 else {"i": hex(number)}
        if issubclass(kind, float):
            number = float.__float__(value)
            return number if math.isfinite(number) else {"f": repr(number)}
        if issubclass(kind, str):
            self.budget -= str.__len__(value)
            return str.__str__(value)
        if issubclass(kind, (bytes, bytearray)):
            base = bytes if issubclass(kind, bytes) else bytearray
            self.budget -= base.__len__(value)
            return {"b" if base is bytes else "B": base.hex(value)}
        return {"c": [repr(complex.real.__get__(value)), repr(complex.imag.__get__(value))]}

    def container(self, kind, value, depth):
        for base, tag in ((list, None), (tuple, "t"), (set, "s"), (frozenset, "z")):
            if issubclass(kind, base):
                items = [self.encode(item, depth) for item in base.__iter__(value)]
                if tag == "t" and self.opaque is not None and kind is not tuple:
                    return self.named(kind, items)
                return {tag: items} if tag else items
        if issubclass(kind, dict):
            return {"d": [[self.encode(k, depth), self.encode(v, depth)] for k, v in dict.items(value)]}
        if kind is range:
            return {"r": [self.scalar(int, part) for part in (value.start, value.stop, value.step)]}
        return self.special(kind, value, depth)

    def named(self, kind, items):
        """A named tuple, for who can read its fields; any other subclass is a plain tuple."""
        fields = type.__dict__["__dict__"].__get__(kind).get("_fields")
        if type(fields) is tuple and len(fields) == len(items) and all(type(field) is str for field in fields):
            return {"n": [list(fields), items]}
        return {"t": items}

    def special(self, kind, value, depth):
        """Types of the library that tests compare with plain data; recognised by the module that defines them."""
        home, name = (type.__dict__[key].__get__(kind) for key in ("__module__", "__name__"))
        if home == "collections" and name == "deque":
            return {"q": [self.encode(item, depth) for item in kind.__iter__(value)]}
        if home == "decimal" and name == "Decimal":
            return {"D": str.__str__(kind.__str__(value))}
        if home == "fractions" and name == "Fraction":
            return {"F": [self.scalar(int, int.__int__(part)) for part in (value.numerator, value.denominator)]}
        if self.opaque is not None:
            return self.opaque(value)
        return {"?": str.__str__(name)[:80]}


def decode(encoded, special=None):
    """Turn tagged JSON into plain Python objects; `special(tag, content)` makes those of tags that are not plain.

    Raises `ValueError`, `TypeError`, `KeyError`, `IndexError`, `RecursionError` or `ArithmeticError` when damaged.
    """
    if isinstance(encoded, list):
        return [decode(item, special) for item in encoded]
    if not isinstance(encoded, dict):
        return encoded
    ((tag, content),) = encoded.items()
    if tag in ("t", "s", "z", "q"):
        items = [decode(item, special) for item in content]
        if tag in ("s", "z"):
            refuse_flood(items)
        if tag == "q":
            from collections import deque

            return deque(items)
        return {"t": tuple, "s": set, "z": frozenset}[tag](items)
    if tag == "d":
        pairs = [(decode(key, special), decode(value, special)) for key, value in content]
        refuse_flood([key for key, _ in pairs])
        return dict(pairs)
    if tag in _SCALARS:
        return _SCALARS[tag](content)
    if special is None:
        raise ValueError(f"tag {tag!r} stands for no plain data")
    return special(tag, content)


def refuse_flood(members):
    """Refuse members of a set or keys that share one hash: each would be compared with all before it."""
    counts = {}
    for member in members if len(members) > MAX_COLLISIONS else ():
        code = hash(member)
        counts[code] = counts.get(code, 0) + 1
        if counts[code] > MAX_COLLISIONS:
            raise ValueError("too many members with one hash")


def _decimal(text):
    from decimal import Decimal

    return Decimal(text)


def _fraction(parts):
    from fractions import Fraction

    numerator, denominator = map(decode, parts)
    if max(int(numerator).bit_length(), int(denominator).bit_length()) > MAX_FRACTION_BITS:
        raise ValueError("a fraction of huge numbers")
    return Fraction(int(numerator), int(denominator))


def _range(parts):
    start, stop, step = map(decode, parts)
    return range(start, stop, step)


_SCALARS = {
    "i": lambda text: int(text, 16),
    "f": float,
    "c": lambda parts: complex(float(parts[0]), float(parts[1])),
    "b": bytes.fromhex,
    "B": bytearray.fromhex,
    "r": _range,
    "D": _decimal,
    "F": _fraction,
    "?": lambda _: Opaque(),
}
