"""The assert checker: runs a test in a process that the program cannot reach, with handles in place of its objects.

A test's `==` therefore meets plain data or a handle, never a method of the program; its source, and the values that it
expects, are in no process of the program. Protects against objects that equal everything, patched builtins, frames,
memory and exits. A handle may still lie about itself (its `len`, its items, its truth, what its methods return), which
states a value as a return does.

What a test cannot do here: catch what the program prints; take a program's object for an instance of a class that the
test imports; calculate with, or compare, a program's object and plain data; see what happens later to a list that was
once handed over, since plain data travels as a copy (arguments that a call changed in place are brought up to date).
"""

import builtins
import collections
import functools
import json
import os
import sys
import types

from pgrpo_ray.sandbox.inside.codec import Encoder, TooLarge, decode
from pgrpo_ray.sandbox.inside.frames import receive, send
from pgrpo_ray.sandbox.inside.link import SOURCE, WIRE, Link, blame, describe, take
from pgrpo_ray.sandbox.inside.objects import BINARY, HANDLED


class ProgramEnded(BaseException):
    """The program's process hung up. No test may catch it as an ordinary exception."""


class ProgramFailed(BaseException):
    """A call ended in a way that is a verdict, not an exception: `blame` says which."""

    def __init__(self, blame, text):
        super().__init__(text)
        self.blame = blame


class Remote:
    """The checker's side of the wire to the program."""

    def __init__(self, limit):
        self.limit = limit
        self.handles = {}
        self.functions = []  # of the test, that the program was given
        self.exceptions = {}  # proxies of the program's exception classes, by number

    def ask(self, operation, *operands, mutable=False):
        """Have the program do `operation`; return its value, raise its exception as the nearest class known here."""
        encoded = [self.encode(operand) for operand in operands]
        answer = self.exchange({"do": operation, "operands": encoded, "mutable": mutable})
        while "back" in answer:
            answer = self.exchange(self.call_back(answer))
        if "raise" in answer:
            if answer["blame"] in ("exit", "memory_limit", "output_limit"):
                raise ProgramFailed(answer["blame"], answer["detail"])
            raise self.exception_of(answer)
        if "after" in answer:
            args, kwargs = self.decode(answer["after"])
            for operand, after in zip(operands[1], args, strict=False):
                restore(operand, after)
            for name, after in kwargs.items():
                restore(operands[2].get(name), after)
        return self.decode(answer["value"])

    def exception_of(self, answer):
        """Return what to raise here. What no `except Exception` would catch there, no test shall catch here."""
        if "Exception" not in answer["raise"]:
            return ProgramFailed("error", answer["detail"])
        kind = next(filter(None, map(self.exception, answer["raise"])), Exception)
        try:
            return kind(answer["text"])
        except TypeError:  # such as UnicodeDecodeError, which takes five arguments
            error = kind.__new__(kind)
            error.args = (answer["text"],)
            return error

    def exchange(self, message):
        try:
            send(WIRE, message)
            answer = receive(WIRE, self.limit)
        except TooLarge as error:
            raise ProgramFailed("output_limit", "the answer is too large") from error
        except ConnectionError:
            answer = None
        if answer is None:
            raise ProgramEnded
        return answer

    def call_back(self, message):
        """Call a function of the test for the program."""
        try:
            args, kwargs = map(self.decode, message["operands"])
            return {"back": [self.encode(self.functions[message["back"]](*args, **kwargs))]}
        except Exception as error:
            return {"back": None, "text": describe(error)}

    def encode(self, value):
        return Encoder(self.limit, self.opaque).encode(value)

    def opaque(self, value):
        """Encode a handle, an exception class of the program's, or a function of the test; refuse all other things."""
        if is_handle(value):
            return {"h": [object.__getattribute__(value, "_number")]}
        number = next((number for number, kind in self.exceptions.items() if kind is value), None)
        if number is not None:
            return {"h": [number]}
        if type(value) is slice:
            return {"l": self.encode([value.start, value.stop, value.step])}
        if not callable(value):
            raise ValueError(f"a test cannot pass a {type(value).__name__} to the program")
        self.functions.append(value)
        return {"k": len(self.functions) - 1}

    def decode(self, encoded):
        return decode(encoded, self.special)

    def special(self, tag, content):
        if tag == "n":
            fields, items = content
            return collections.namedtuple("Result", fields)(*map(self.decode, items))
        if tag == "x":
            number, (_, *bases) = content
            base = next(filter(None, map(self.exception, bases)), Exception)
            return self.exceptions.setdefault(number, type("ProgramError", (base,), {}))
        number, names = content
        if number not in self.handles:  # one for each object, so that `is` tells what is so
            self.handles[number] = handle_class(frozenset(names))(number)
        return self.handles[number]

    def exception(self, kind):
        """A class to raise or to derive from: builtin by name, the program's by number if the test has met it."""
        if isinstance(kind, int):
            return self.exceptions.get(kind)
        known = getattr(builtins, kind, None)
        return known if isinstance(known, type) and issubclass(known, Exception) else None


def restore(mine, after):
    """Let an argument that the program changed in place show it here as well."""
    if type(mine) is type(after) is list:
        mine[:] = after
    elif type(mine) is type(after) and type(mine) in (dict, set):
        mine.clear()
        mine.update(after)


class Handle:
    """An object that stays with the program. Operations on it are done there.

    Each is of a class with the special methods that its object has (`handle_class`), so that `callable` and abstract
    classes tell what is so.
    """

    __slots__ = ("_number",)
    remote = None

    def __init__(self, number):
        object.__setattr__(self, "_number", number)

    def __getattr__(self, name):
        return Handle.remote.ask("attr", self, name)

    def __setattr__(self, name, value):
        Handle.remote.ask("set", self, name, value)

    def __instancecheck__(self, value):
        return is_handle(value) and Handle.remote.ask("instance", value, self) is True

    def __str__(self):
        return Handle.remote.ask("str", self)

    def __repr__(self):
        return Handle.remote.ask("repr", self)

    def __hash__(self):
        return Handle.remote.ask("hash", self)


def is_handle(value):
    return issubclass(type(value), Handle)


def call(self, *args, **kwargs):
    return Handle.remote.ask("call", self, list(args), kwargs, mutable=True)


def iterate(self):
    iterator, count = Handle.remote.ask("iter", self), 1
    while is_handle(iterator) and (items := Handle.remote.ask("take", iterator, count)):
        yield from items
        if iterator is not self:  # what is left of a generator is its own business, and somebody may ask for it
            count = min(2 * count, 256)


def leave(self, *_):
    Handle.remote.ask("exit", self)  # what it returns would swallow the failure of an assert


def unary(operation):
    return lambda self, *operands: Handle.remote.ask(operation, self, *operands)


def binary(operation):
    """An operation between two of the program's objects. It has none with plain data.

    Else an object whose comparison or difference with everything is favourable would pass as any value, and would be
    told the value besides.
    """
    return lambda self, other: Handle.remote.ask(operation, self, other) if is_handle(other) else NotImplemented


METHODS = {"call": call, "iter": iterate, "exit": leave}
METHODS |= {name: unary(name) for name in HANDLED if name not in METHODS and name not in BINARY}
METHODS |= {name: binary(name) for name in BINARY}


@functools.lru_cache(maxsize=256)
def handle_class(names):
    return type("Handle", (Handle,), {f"__{name}__": METHODS[name] for name in names if name in METHODS})


def run(job):
    """Run the tests one after the other and state how each ended. Never returns."""
    link = Link(job.nonce)
    link.say(b"confined", str(os.getpid()))
    tests = json.loads(take(SOURCE))
    os.close(SOURCE)
    sys.argv[:] = ["test"]
    Handle.remote = Remote(job.limits["output_kib"] << 10)
    for source in tests["cases"]:
        status, text = run_test(source, tests["setup"], tests["entry_point"])
        link.say(status, text)
    link.say(b"done")
    os._exit(0)


def run_test(source, setup, entry_point):
    """Return how the test ended: `held`, `failed`, or what the program or the test did wrong."""
    try:
        pieces = [
            compile(text, f"<{name}>", "exec", dont_inherit=True) for name, text in (("setup", setup), ("test", source))
        ]
        main = types.ModuleType("__main__")
        sys.modules["__main__"] = main
        bind(main.__dict__, pieces, entry_point)
        for piece in pieces:
            exec(piece, main.__dict__)
    except AssertionError:
        return b"failed", ""  # its message may quote the expected value
    except ProgramEnded:
        return b"gone", ""
    except ProgramFailed as error:
        return error.blame.encode(), str(error)
    except BaseException as error:
        return blame(error), describe(error)
    return b"held", ""


def bind(namespace, pieces, entry_point):
    """Give a test the program's globals that it names. A builtin stays what it is, but for the entry point."""
    wanted = sorted({name for piece in pieces for name in names(piece)} | {entry_point or ""})
    there = Handle.remote.ask("names", wanted)
    for name in there if isinstance(there, list) else ():
        if name in wanted and (name == entry_point or not hasattr(builtins, name)) and name[:2] != "__":
            namespace[name] = Handle.remote.ask("global", name)
    if entry_point in namespace:
        namespace["candidate"] = namespace[entry_point]


def names(code):
    """All names that a piece of code and the functions in it use."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from names(constant)
