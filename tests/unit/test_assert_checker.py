"""Asserts that are no plain calls: what honest programs may count on, and what cheating ones must not reach.

The tests run in the checker's process with handles of the program's objects; real processes of this machine.
"""

import itertools
import os
import textwrap

import pytest

from pgrpo_ray.errors import SandboxError
from pgrpo_ray.sandbox.plan import plan_of
from pgrpo_ray.sandbox.pool import ExecutionPool
from pgrpo_ray.sandbox.process_runner import ProcessRunner
from pgrpo_ray.types import AssertCase, Limits, Problem, TestStyle, Verdict

LIMITS = Limits(cpu_s=1.0, wall_s=1.5, memory_mib=128, output_kib=64)


@pytest.fixture(scope="module")
def pool():
    try:
        made = ExecutionPool(ProcessRunner, slots=1, retries=0)
    except SandboxError as error:
        pytest.skip(f"no process sandbox on this machine: {error}")
    yield made
    made.close()


def judge(pool, program, *tests, entry_point="f"):
    cases = tuple(AssertCase("beside = 0\n" + textwrap.dedent(test)) for test in tests)
    problem = Problem("p", "", TestStyle.ASSERT, cases, entry_point=entry_point, limits=LIMITS)
    assert plan_of(problem).style is TestStyle.ASSERT, "the variable keeps it from becoming calls"
    return pool.judge(problem, textwrap.dedent(program))


def shown(program, judgement):
    return f"{judgement.verdict} {judgement.detail} {judgement.error}\n{program}"


STACK = """
class Stack:
    made = 0
    def __init__(self, items=()):
        self.items, self.limit = list(items), 3
        Stack.made += 1
    def push(self, item):
        if len(self.items) >= self.limit: raise OverflowError("full")
        self.items.append(item)
        return self
    def pop(self): return self.items.pop()
    @property
    def top(self): return self.items[-1]
    @top.setter
    def top(self, item): self.items[-1] = item
    @classmethod
    def of(cls, *items): return cls(items)
    @staticmethod
    def name(): return "stack"
    def __len__(self): return len(self.items)
    def __iter__(self): return iter(self.items)
    def __getitem__(self, at): return self.items[at]
    def __setitem__(self, at, item): self.items[at] = item
    def __delitem__(self, at): del self.items[at]
    def __bool__(self): return bool(self.items)
    def __eq__(self, other): return isinstance(other, Stack) and self.items == other.items
    def __hash__(self): return 5
    def __repr__(self): return f"Stack({self.items})"
    def __enter__(self): self.push("in"); return self
    def __exit__(self, *_): self.push("out")
class Tall(Stack): pass
"""
VECTOR = """
class V:
    def __init__(self, x): self.x = x
    def __add__(self, o): return V(self.x + (o.x if isinstance(o, V) else o))
    __radd__ = __add__
    def __sub__(self, o): return V(self.x - o.x)
    def __mul__(self, k): return V(self.x * k)
    def __rmul__(self, k): return V(k * self.x)
    def __matmul__(self, o): return self.x * o.x
    def __neg__(self): return V(-self.x)
    def __abs__(self): return abs(self.x)
    def __lt__(self, o): return self.x < o.x
    def __eq__(self, o): return isinstance(o, V) and self.x == o.x
    def __float__(self): return float(self.x)
    def __call__(self, k): return self.x + k
"""
GENERATORS = """
def f(n):
    while True:
        yield n
        n += 1
def short():
    yield from (1, (2,), [3])
def squares(n): return (i * i for i in range(n))
def broken():
    yield 1
    raise ValueError("spent")
"""
RAISES = """
class Mine(LookupError): pass
class Far(Mine): pass
def f(what):
    raise {"key": KeyError(3), "value": ValueError("bad value"), "mine": Mine("own"), "far": Far("x")}[what]
def zero(): return 1 / 0
def text(): return b"\\xff".decode()
"""


@pytest.mark.parametrize(
    ("program", "test"),
    [
        (STACK, "s = Stack()\nassert s != [] and not s == 0 and s not in ([], None, 0) and [] != s"),
        (STACK, "s = Stack()\nassert not s\ns.push(1).push((2,))\nassert len(s) == 2 and s and s.pop() == (2,)"),
        (STACK, "s = Stack.of(1, 2)\nassert s.top == 2\ns.top = 7\nassert s.top == 7 and s.items == [1, 7]"),
        (
            STACK,
            "s = Stack.of(1, 2)\n"
            "assert s[0] == 1\n"
            "s[0] = 5\n"
            "del s[1]\n"
            "assert list(s) == [5] and Stack.name() == 'stack'",
        ),
        (
            STACK,
            "s = Stack()\n"
            "assert Stack.made == 1\n"
            "s.limit = 0\n"
            "try:\n"
            "    s.push(1)\n"
            "    assert False\n"
            "except OverflowError as e:\n"
            "    assert str(e) == 'full'",
        ),
        (STACK, "with Stack() as s:\n    assert s.items == ['in']\nassert s.items == ['in', 'out']"),
        (
            STACK,
            "a, b = Stack([1]), Stack([1])\n"
            "assert a == b and a != Stack() and a is not b and {a: 1}[b] == 1 and hash(a) == 5",
        ),
        (STACK, "assert isinstance(Tall(), Stack) and not isinstance(Stack(), Tall) and not isinstance(5, Stack)"),
        (STACK, "assert repr(Stack([1])) == str(Stack([1])) == f'{Stack([1])}' == 'Stack([1])'"),
        (STACK, "s = Stack([1, 2])\nassert [x for x in s] == [1, 2] and sum(s) == 3 and max(s) == 2 and 2 in list(s)"),
        (STACK, "assert hasattr(Stack(), 'push') and not hasattr(Stack(), 'shove') and getattr(Stack(), 'x', 4) == 4"),
        (VECTOR, "a, b = V(1), V(2)\nassert a + b == V(3) and (b + a).x == 3"),
        (
            VECTOR,
            "assert V(2) @ V(3) == 6 and abs(-V(4)) == 4 and float(V(2)) == 2.0",
        ),
        (
            VECTOR,
            "assert [v.x for v in sorted([V(3), V(1), V(2)])] == [1, 2, 3] and V(1) < V(2) and max(V(1), V(2)).x == 2",
        ),
        (VECTOR, "add = V(3)\nassert add(4) == 7 and list(map(add, [1, 2])) == [4, 5] and callable(add)"),
        (GENERATORS, "import itertools\nassert list(itertools.islice(f(3), 4)) == [3, 4, 5, 6]"),
        (
            GENERATORS,
            "g = f(0)\nassert [next(g), next(g)] == [0, 1]\nfor x in g:\n    if x == 700: break\nassert x == 700",
        ),
        (
            GENERATORS,
            "assert list(short()) == [1, (2,), [3]] and next(iter(short())) == 1\n"
            "g = short()\n"
            "a, b, c = g\n"
            "assert next(g, 'end') == 'end'",
        ),
        (GENERATORS, "assert sum(squares(4)) == 14 and list(zip(squares(3), f(7))) == [(0, 7), (1, 8), (4, 9)]"),
        (
            GENERATORS,
            "got = []\n"
            "try:\n"
            "    for x in broken(): got.append(x)\n"
            "except ValueError as e: got.append(str(e))\n"
            "assert got == [1, 'spent']",
        ),
        (
            RAISES,
            "try:\n"
            "    f('value')\n"
            "except (KeyError, ValueError) as error:\n"
            "    assert 'bad value' in str(error)\n"
            "else:\n"
            "    assert False",
        ),
        (
            RAISES,
            "for what, kind in (('key', KeyError), ('value', ValueError), ('mine', LookupError), ('far', Exception)):\n"
            "    try:\n"
            "        f(what)\n"
            "    except kind: continue\n"
            "    raise AssertionError",
        ),
        (
            RAISES,
            "try:\n"
            "    zero()\n"
            "    assert False\n"
            "except ArithmeticError as error:\n"
            "    assert type(error) is ZeroDivisionError",
        ),
        (RAISES, "try:\n    f('mine')\n    assert False\nexcept Mine as error:\n    assert str(error) == 'own'"),
        (RAISES, "try:\n    text()\n    assert False\nexcept UnicodeDecodeError:\n    pass"),
        (
            "def f(a): a.sort(); a.append([9])",
            "data = [3, 1, 2]\nsame = data\nassert f(data) is None and same == [1, 2, 3, [9]]",
        ),
        ("def f(a, b): a['k'] = b; b.clear()", "d, s = {}, {1, 2}\nf(d, s)\nassert d == {'k': set()} and s == set()"),
        ("def f(a): a[0][0] = 5", "grid = [[0, 1], [2]]\nf(grid)\nassert grid == [[5, 1], [2]]"),
        ("def f(a): a.append(1)", "data = []\nf(a=data)\nassert data == [1]"),
        (
            "def f(n): return lambda k: n + k",
            "add = f(3)\nassert add(4) == 7 and [add(i) for i in range(3)] == [3, 4, 5]",
        ),
        (
            "def f(g):\n    return lambda *a, **k: g(*a, **k) * 2",
            "def plain(a, b=1): return a + b\nassert f(plain)(1) == 4 and f(plain)(1, b=5) == 12",
        ),
        (
            "import functools\n@functools.lru_cache\ndef f(n): return n if n < 2 else f(n - 1) + f(n - 2)",
            "assert f(50) == 12586269025\nassert f.cache_info().hits > 0",
        ),
        (
            "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(): return P(1, 2)",
            "p = f()\nassert p.x == 1 and p[1] == 2 and p == (1, 2)",
        ),
    ],
    ids=itertools.count(),
)
def test_what_tests_may_do_with_a_programs_objects(pool, program, test):
    judgement = judge(pool, program, test)
    assert judgement.passed, shown(f"{program}\n{test}", judgement)


@pytest.mark.parametrize(
    ("program", "test"),
    [
        (STACK, "s = Stack([1])\nassert s[0] == 2"),
        (STACK, "assert Stack([1]) == Stack([2])"),
        (STACK, "assert isinstance(Stack(), Tall)"),
        (STACK, "assert Stack() == [] or Stack() == 0"),
        (VECTOR, "assert V(1) + V(1) == V(3)"),
        (GENERATORS, "import itertools\nassert list(itertools.islice(f(3), 2)) == [3, 5]"),
        (RAISES, "try:\n    f('key')\nexcept ValueError: pass"),
        ("def f(a): sorted(a)", "data = [2, 1]\nf(data)\nassert data == [1, 2]"),
        ("def f(n): return lambda k: n", "assert f(3)(4) == 7"),
    ],
    ids=itertools.count(),
)
def test_and_where_they_do_not_hold(pool, program, test):
    judgement = judge(pool, program, test)
    assert judgement.verdict in (Verdict.WRONG_ANSWER, Verdict.RUNTIME_ERROR), shown(f"{program}\n{test}", judgement)


LOOP = "for n, want in ((1, 'one'), (2, 'two')):\n    assert f(n) == want"
CLOSE = "for n, want in ((1, 0.5), (2, 1.25)):\n    assert abs(f(n) - want) < 1e-6"
ALWAYS_EQUAL = """
class E:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __bool__ = __instancecheck__ = lambda *_: True
    __hash__ = lambda self: 0
    __sub__ = __rsub__ = __xor__ = __rxor__ = __and__ = __rand__ = lambda *_: 0
    __abs__ = __int__ = __index__ = __len__ = __round__ = lambda *_: 0
    __float__ = lambda *_: 0.0
    __iter__ = lambda self: iter(())
"""
NULL = ALWAYS_EQUAL + "E.__sub__ = E.__rsub__ = E.__xor__ = E.__rxor__ = lambda self, _: self\n"
"""Its difference with anything is itself, and that is nothing."""
NONCE = """
import gc, os
def forge():
    for link in gc.get_objects():
        if type(link).__name__ == "Link":
            for _ in range(3):
                for word in (b"held", b"ok", b"value", b"done", b"end"):
                    link.say(word, "0")
"""


@pytest.mark.parametrize(
    ("program", "test"),
    [
        # Objects that are everybody's favourite
        (ALWAYS_EQUAL + "def f(n): return E()", LOOP),
        (ALWAYS_EQUAL + "def f(n): return E()", "for n in (1, 2):\n    assert not f(n) != n"),
        (ALWAYS_EQUAL + "def f(n): return [E(), (E(),)]", "assert f(1) == [1, (2,)]"),
        (ALWAYS_EQUAL + "def f(n): return E()", "assert 'one' == f(1)"),
        (ALWAYS_EQUAL + "def f(n): return E()", "assert f(1) in ['one', 'uno']"),
        (ALWAYS_EQUAL + "def f(n): return {'a': E()}", "got = f(1)\nassert got['a'] == 5"),
        (ALWAYS_EQUAL + "def f(n): return E()", CLOSE),
        (ALWAYS_EQUAL + "def f(n): return E()", "for n in (1, 2):\n    assert n <= f(n) < 3"),
        (ALWAYS_EQUAL + "def f(n): return E()", "want = {1, 2}\nassert len(want ^ f(1)) == 0"),
        (ALWAYS_EQUAL + "def f(n): return E()", "want = 5\nassert f(1) - want == 0"),
        (ALWAYS_EQUAL + "def f(n): return E()", "import math\nassert math.isclose(f(1), 0.5)"),
        (ALWAYS_EQUAL + "def f(n): return E()", "for n in (1, 2):\n    assert isinstance(f(n), str)"),
        (
            ALWAYS_EQUAL + "class E(E): __class__ = str\ndef f(n): return E()",
            "for n in (1, 2):\n    assert isinstance(f(n), str)",
        ),
        (ALWAYS_EQUAL + "def f(n): return E()", "want = ['one', 'two']\nassert all(word in f(1) for word in want)"),
        (NULL + "def f(n): return E()", CLOSE),
        (NULL + "def f(n): return E()", "import math\nwant = 0.5\nassert math.fabs(f(1) - want) < 1e-6"),
        (NULL + "E.__bool__ = lambda s: False\ndef f(n): return E()", "want = 5\nassert not (f(1) - want)"),
        (NULL + "E.__neg__ = lambda s: s\ndef f(n): return E()", "want = 0.5\nassert abs(-(f(1) - want)) < 1e-6"),
        (
            NULL + "E.__radd__ = E.__add__ = E.__sub__\ndef f(n): return E()",
            "want = 0.5\nassert abs(sum([f(1), -want])) < 1e-6",
        ),
        (NULL + "def f(n): return [E(), E()]", "assert all(abs(a - b) < 1e-6 for a, b in zip(f(1), [0.5, 1.5]))"),
        (NULL + "def f(n): return E()", "want = 0.5\nassert round(f(1) - want, 6) == 0"),
        (NULL + "def f(n): return E()", "want = 0.5\nassert float(want - f(1)) == 0"),
        (NULL + "def f(n): return E()", "want = {1, 2}\nassert len(f(1) ^ want) == 0"),
        (NULL + "def f(n): return E()", "want = {1, 2}\nassert not list(want - f(1))"),
        ("class E:\n    __sub__ = lambda s, o: 0\ndef f(n): return E()", CLOSE),
        (
            "class E:\n    __lt__ = __le__ = __gt__ = __ge__ = lambda s, o: True\ndef f(n): return E()",
            "for n in (1, 2):\n    assert f(n) < n",
        ),
        (
            "class E:\n"
            "    __getattr__ = lambda s, name: s\n"
            "    __call__ = lambda s, *a: s\n"
            "    __eq__ = lambda s, o: True\n"
            "def f(n): return E()",
            "assert f(1).total() == 5",
        ),
        (
            "class I(int):\n"
            "    __eq__ = lambda s, o: True\n"
            "    __ne__ = lambda s, o: False\n"
            "    __hash__ = int.__hash__\n"
            "    __sub__ = lambda s, o: 0\n"
            "def f(n): return I(9)",
            "for n in (1, 2):\n    assert f(n) == n",
        ),
        ("class I(float):\n    __sub__ = lambda s, o: 0\n    __abs__ = lambda s: 0\ndef f(n): return I(9)", CLOSE),
        ("class S(str):\n    __eq__ = lambda s, o: True\n    __hash__ = str.__hash__\ndef f(n): return S('x')", LOOP),
        ("class L(list):\n    __eq__ = lambda s, o: True\ndef f(n): return L()", "want = [1]\nassert f(1) == want"),
        (
            "class M(type):\n"
            "    __instancecheck__ = __subclasscheck__ = __eq__ = lambda *_: True\n"
            "    __hash__ = type.__hash__\n"
            "class C(metaclass=M): pass\n"
            "def f(n): return C",
            "assert f(1) == 5 or isinstance(f(1), int)",
        ),
        # The test's tools are its own
        (
            "abs = len = sum = lambda *_: 0\n"
            "isinstance = lambda *_: True\n"
            "all = any = bool = lambda *_: True\n"
            "def f(n): return 99",
            CLOSE,
        ),
        ("len = lambda _: 2\ndef f(n): return 'abc'", "for n in (1, 2):\n    assert len(f(n)) == 2"),
        ("isinstance = lambda *_: True\ndef f(n): return 5", "for n in (1, 2):\n    assert isinstance(f(n), str)"),
        (
            "import builtins\n"
            "builtins.abs = lambda _: 0\n"
            "builtins.len = lambda _: 0\n"
            "AssertionError = builtins.AssertionError = ValueError\n"
            "def f(n): return 99",
            CLOSE,
        ),
        (
            "import math\nmath.isclose = lambda *_, **__: True\ndef f(n): return 9",
            "import math\nassert math.isclose(f(1), 1)",
        ),
        ("want = 'x'\nbeside = 'x'\ndef f(n): return want", LOOP),
        ("__debug__ = False\n__builtins__ = {}\ndef f(n): return 0", LOOP),
        # Ends
        ("def f(n): raise SystemExit(0)", LOOP),
        ("def f(n): raise KeyboardInterrupt", LOOP),
        ("class B(BaseException): pass\ndef f(n): raise B", LOOP),
        ("def f(n): raise SystemExit(0)", "try:\n    f(1)\nexcept Exception:\n    pass"),
        ("def f(n): raise KeyboardInterrupt", "try:\n    f(1)\nexcept Exception:\n    pass"),
        ("class B(BaseException): pass\ndef f(n): raise B", "try:\n    f(1)\nexcept Exception:\n    pass"),
        ("def f(n): raise GeneratorExit", "try:\n    f(1)\nexcept Exception:\n    pass"),
        ("import os\ndef f(n): os._exit(0)", "try:\n    f(1)\nexcept Exception:\n    pass"),
        ("import os\ndef f(n): os._exit(0)", LOOP),
        ("import os\nos._exit(0)", LOOP),
        ("raise SystemExit(0)", LOOP),
        ("import os\ndef f(n): os.killpg(0, 9)", LOOP),
        ("import os\ndef f(n): os.kill(os.getpid(), 15)", LOOP),
        ("import os\nos.killpg(0, 9)", LOOP),
        ("import os\ndef f(n):\n    if os.fork(): os._exit(0)\n    return 'one'", LOOP),
        ("def f(n): return f(n)", LOOP),
        ("def f(n):\n    while True: pass", LOOP),
        ("import time\ndef f(n): time.sleep(9)", LOOP),
        ("def f(n): return bytearray(1 << 30)", LOOP),
        ("def f(n): return 'x' * (1 << 20)", LOOP),
        ("def f(n):\n    x = []\n    for _ in range(99): x = [x, x]\n    return x", LOOP),
        ("def f(n):\n    x = []\n    for _ in range(9999): x = [x]\n    return x", LOOP),
        ("def f(n): raise ValueError('x' * (1 << 24))", LOOP),
        ("class E(Exception):\n    def __str__(self): raise SystemExit(0)\ndef f(n): raise E", LOOP),
        # Other people's descriptors
        (
            "import os\n"
            "for fd in range(3, 64):\n"
            "    try: os.write(fd, b'held')\n"
            "    except OSError: pass\n"
            "def f(n): return 0",
            LOOP,
        ),
        (
            "import os\n"
            "def f(n):\n"
            "    for fd in range(3, 64):\n"
            "        try: os.write(fd, b'\\0\\0\\0\\x02{}')\n"
            "        except OSError: pass",
            LOOP,
        ),
        (
            "import os\n"
            "def f(n):\n"
            "    for fd in range(3, 64):\n"
            "        try: os.write(fd, b'\\xff' * 99)\n"
            "        except OSError: pass",
            LOOP,
        ),
        (
            "import os\n"
            "def f(n):\n"
            "    for fd in range(3, 64):\n"
            "        try: os.write(fd, b'\\0\\0\\0\\x0d{\"value\":true}')\n"
            "        except OSError: pass",
            LOOP,
        ),
        (
            "import os\n"
            "def f(n):\n"
            "    for fd in range(3, 64):\n"
            "        try: os.write(fd, b'\\0\\0\\0\\x0a{\"back\":0}')\n"
            "        except OSError: pass",
            LOOP,
        ),
        ("import os\nos.closerange(3, 64)\ndef f(n): return 0", LOOP),
        (
            "import os\nfor fd in range(3, 64):\n    try: os.dup2(1, fd)\n    except OSError: pass\ndef f(n): return 0",
            LOOP,
        ),
        # Forged statements
        ("print('held\\nok\\ndone', flush=True)\ndef f(n): print('held'); return 0", LOOP),
        ("import os\ndef f(n):\n    os.write(3, b'\\nheld 0\\n' * 9)\n    return 0", LOOP),
        (NONCE + "forge()\ndef f(n): return 0", LOOP),
        (NONCE + "def f(n):\n    forge()\n    return 0", LOOP),
        (NONCE + "def f(n):\n    forge()\n    os._exit(0)", LOOP),
        (NONCE + "forge()\nos._exit(0)", LOOP),
    ],
    ids=itertools.count(),
)
def test_cheating_programs_never_pass(pool, program, test):
    judgement = judge(pool, program, test)
    assert judgement.error is None, shown(f"{program}\n{test}", judgement)
    assert judgement.verdict is not Verdict.PASSED, shown(f"{program}\n{test}", judgement)


def test_no_expected_value_is_in_the_programs_process(pool):
    program = """
    import os, re
    SECRET = re.compile(b"SECRET_[0-9a-f]{12}")  # does not match itself
    def f(n):
        found = set()
        for line in open("/proc/self/maps"):
            low, high = (int(part, 16) for part in line.split()[0].split("-"))
            try:
                with open("/proc/self/mem", "rb") as memory:
                    memory.seek(low)
                    found.update(SECRET.findall(memory.read(high - low)))
            except (OSError, ValueError, OverflowError): continue  # such as [vvar]
        for fd in range(64):
            try: found.update(SECRET.findall(os.pread(fd, 1 << 20, 0)))
            except OSError: continue
        return len(found)
    """
    secret = f"SECRET_{os.urandom(6).hex()}"
    judgement = judge(pool, program, f"secret = '{secret}'\nassert f(1) == 0")
    assert judgement.passed, shown(program, judgement)
    assert judge(pool, program, f"assert f('{secret}') == 1").passed  # the search does find what it is given


def test_a_failed_test_is_not_quoted(pool):
    judgement = judge(pool, "def f(n): return 0", "for n in (1,):\n    assert f(n) == 'SECRET', 'SECRET'")
    assert judgement.verdict is Verdict.WRONG_ANSWER
    assert "SECRET" not in judgement.detail


HONEST = [
    ("def f(n): return n + 1", "assert [f(i) for i in range(20)] == list(range(1, 21))"),
    ("def f(n): return n / 3", "for i in range(5):\n    assert abs(f(i) - i / 3) < 1e-9"),
    (
        "def f(a): return sorted(a)",
        "import random\nrandom.seed(1)\ndata = [random.random() for _ in range(50)]\nassert f(data) == sorted(data)",
    ),
    (
        "def f(n): print('noise', n); return n",
        "def helper(x):\n    return f(x) * 2\nassert helper(4) == 8 and candidate(4) == 4",
    ),
    (
        "import sys\ndef f(n): sys.stdout.write('x'); sys.exit = None; return n",
        "assert f(1) == 1\nassert f(1) == 1 == f(1)",
    ),
    (
        "def f(n): return [None, True, 1.5, (1, 'a'), {2: {3}}, b'b', 10**40]",
        "got = f(0)\n"
        "assert got == [None, True, 1.5, (1, 'a'), {2: {3}}, b'b', 10**40]\n"
        "assert [type(x) for x in got][:2] == [type(None), bool]",
    ),
    (
        "seen = []\ndef f(n):\n    seen.append(n)\n    return len(seen)",
        "assert f(5) == 1\nassert f(5) == 2\nassert seen == [5, 5]",
    ),
    (
        "class Solution:\n    def f(self, n): return n\ndef f(n): return Solution().f(n)",
        "s = Solution()\nassert s.f(3) == Solution().f(3) == f(3)",
    ),
    (
        "from fractions import Fraction\nfrom decimal import Decimal\ndef f(n): return Fraction(1, n), Decimal('0.10')",
        "from fractions import Fraction\nfrom decimal import Decimal\nassert f(3) == (Fraction(1, 3), Decimal('0.1'))",
    ),
    (
        "def abs_(n): return n if n > 0 else -n\nf = abs_",
        "assert f(-3) == 3 == abs(-3)\nassert all(f(i) == abs(i) for i in range(-9, 9))",
    ),
    (
        "class Stack(list):\n"
        "    def push(self, item): self.append(item)\n"
        "    def peek(self): return self[-1]\n"
        "f = Stack",
        "s = Stack()\ns.push(1)\ns.push(2)\nassert s.peek() == 2 and len(s) == 2",
    ),
    (
        "import enum\nclass Color(enum.IntEnum):\n    RED = 1\nf = Color",
        "assert Color.RED == 1 and Color.RED.name == 'RED' and Color(1) is Color.RED",
    ),
    (
        "class Base: pass\nclass Sub(Base): pass\nf = Sub",
        "assert issubclass(Sub, Base) and Sub.__name__ == 'Sub' and type(Sub()).__name__ == 'Sub'",
    ),
    (
        "class Row:\n"
        "    def __init__(self): self.cells = list(range(9))\n"
        "    def __getitem__(self, at): return self.cells[at]\n"
        "f = Row",
        "assert f()[2:4] == [2, 3] and f()[-1] == 8",
    ),
    (
        "class Quiet:\n"
        "    def __enter__(self): return self\n"
        "    def __exit__(self, kind, error, trace): return kind is ValueError\n"
        "f = Quiet",
        "with f():\n    raise ValueError\nbeside = 1",
    ),
    (
        "class Node:\n    def __init__(self, value): self.value, self.children = value, []\nf = Node",
        "root = Node(1)\nroot.children.append(Node(2))\nassert len(root.children) == 1 and root.children[0].value == 2",
    ),
    (
        "class Bag:\n"
        "    def __init__(self, items): self.items = items\n"
        "    def __contains__(self, item): return item in self.items\n"
        "f = Bag",
        "bag = Bag([1, 2])\nassert 1 in bag and 3 not in bag",
    ),
]


CANNOT = {
    6: "a plain global is a copy of what it was when the test began",
    10: "a subclass of plain data arrives as its base",
    11: "a subclass of plain data arrives as its base",
    12: "a class of the program's is a handle, no class",
    14: "else a context manager of the program's could swallow the failure of an assert",
    15: "plain data inside an object is a copy",
    16: "else an object that holds everything would pass as any container",
}
"""Honest tests that fail here, by their place above, and why. docs/sandbox.md says so."""


@pytest.mark.parametrize(
    ("program", "test"),
    [
        pytest.param(*row, marks=[pytest.mark.xfail(strict=True, reason=CANNOT[index])] if index in CANNOT else [])
        for index, row in enumerate(HONEST)
    ],
    ids=itertools.count(),
)
def test_odd_but_honest_tests_pass(pool, program, test):
    judgement = judge(pool, program, test)
    assert judgement.passed, shown(f"{program}\n{test}", judgement)


def test_each_test_of_a_program_begins_with_names_of_its_own(pool):
    program = "count = 0\ndef f(n):\n    return n"
    assert judge(
        pool, program, "extra = f(1)\nassert extra == 1", "assert 'extra' not in globals() and f(2) == 2"
    ).passed


def test_setup_runs_before_each_test_beside_the_program(pool):
    cases = (AssertCase("assert f(rows) == total"), AssertCase("assert f(rows + rows) == 2 * total"))
    problem = Problem(
        "p", "", TestStyle.ASSERT, cases, entry_point="f", setup="rows = [1, 2]\ntotal = sum(rows)", limits=LIMITS
    )
    assert pool.judge(problem, "def f(rows): return sum(rows)").passed
    assert pool.judge(problem, "def f(rows): return total").verdict is Verdict.RUNTIME_ERROR
    assert pool.judge(problem, "total = 9\ndef f(rows): return total").verdict is Verdict.WRONG_ANSWER
