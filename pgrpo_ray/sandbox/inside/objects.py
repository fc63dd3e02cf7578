"""A program as objects that a checker asks about (style `assert`): they stay here, the checker has their numbers."""

import builtins
import itertools
import operator
import os

from pgrpo_ray.sandbox.inside.codec import Encoder, TooLarge, decode
from pgrpo_ray.sandbox.inside.frames import receive, send
from pgrpo_ray.sandbox.inside.link import WIRE, blame, describe

BINARY = (
    *("eq", "ne", "lt", "le", "gt", "ge", "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"),
    *("and", "or", "xor"),
)
"""Special methods between two objects."""
HANDLED = (
    *("call", "iter", "enter", "exit", "len", "bool", "hash", "int", "float", "round", "neg", "pos", "abs", "invert"),
    *("next", "getitem", "setitem", "delitem", *BINARY),
)
"""Special methods that a handle may have. `in` is not among them: it goes through the items."""
PLAIN_OPERATIONS = {
    **{
        name: getattr(operator, f"__{name}__")
        for name in (*BINARY, "neg", "pos", "abs", "invert", "getitem", "setitem", "delitem")
    },
    **{"len": len, "bool": bool, "str": str, "repr": repr, "iter": iter, "hash": hash, "next": next},
    **{"int": int, "float": float, "round": round, "attr": getattr, "set": setattr, "instance": isinstance},
    "call": lambda function, args, kwargs: function(*args, **kwargs),
    "take": lambda iterator, count: list(itertools.islice(iterator, count)),
    "enter": lambda value: type(value).__enter__(value),
    "exit": lambda value: type(value).__exit__(value, None, None, None),
}
"""What the checker may ask for, by name."""
dir_of = type.__dict__["__dict__"].__get__


class Server:
    """Does what the checker asks with the program's objects, until it hangs up.

    A request names an operation and its operands; the answer is a value or an exception. Plain data travels by value,
    everything else stays here and travels as the number of a handle. A function of the test is called back.
    """

    def __init__(self, namespace, limit):
        self.limit = limit
        self.objects = []
        self.numbers = {}
        self.operations = PLAIN_OPERATIONS | {
            "names": lambda wanted: [name for name in wanted if name in namespace],
            "global": namespace.__getitem__,
        }

    def serve(self):
        while (message := receive(WIRE, self.limit)) is not None:
            send(WIRE, self.answer(message))

    def answer(self, message):
        try:
            operands = decode(message["operands"], self.special)
            answer = {"value": self.encode(self.operations[message["do"]](*operands))}
            if (
                message["mutable"]
                and (after := [self.encode(part) for part in operands[1:]]) != message["operands"][1:]
            ):
                answer["after"] = after
            return answer
        except BaseException as error:
            kinds = [self.kind(kind) for kind in type.mro(type(error)) if kind is not object]
            text, how = describe(error), "output_limit" if isinstance(error, TooLarge) else blame(error).decode()
            return {"raise": kinds, "text": text.partition(": ")[2], "detail": text, "blame": how}

    def encode(self, value):
        return Encoder(self.limit, self.keep).encode(value)

    def keep(self, value):
        """Return a handle with the operations its object has; an exception class says so, as a test may catch it."""
        number = self.number(value)
        if isinstance(value, type) and issubclass(value, BaseException):
            return {"x": [number, [self.kind(kind) for kind in type.mro(value) if kind is not object]]}
        there = set().union(*map(dir_of, type.mro(type(value))))  # not `hasattr`: classes are callable
        return {"h": [number, [name for name in HANDLED if f"__{name}__" in there]]}

    def number(self, value):
        if id(value) not in self.numbers:
            self.numbers[id(value)] = len(self.objects)
            self.objects.append(value)  # so that the id stays its own
        return self.numbers[id(value)]

    def kind(self, kind):
        """A class of exceptions: the name of a builtin one, or its number."""
        return kind.__name__ if getattr(builtins, kind.__name__, None) is kind else self.number(kind)

    def special(self, tag, content):
        if tag == "l":
            return slice(*decode(content, self.special))
        if tag == "k":
            return lambda *args, **kwargs: self.call_back(content, args, kwargs)
        return self.objects[content[0] if tag == "h" else content]

    def call_back(self, number, args, kwargs):
        """Have the checker call a function of the test, serving its requests meanwhile."""
        send(WIRE, {"back": number, "operands": [self.encode(list(args)), self.encode(kwargs)]})
        while (message := receive(WIRE, self.limit)) is not None:
            if "back" not in message:
                send(WIRE, self.answer(message))
            elif message["back"] is None:
                raise RuntimeError("a function of the test failed: " + message["text"])
            else:
                return decode(message["back"][0], self.special)
        os._exit(1)
