"""The execution pool over runners that are played: who is asked, who waits, who is answered. No processes."""

import itertools
import re
import sys
import threading
import time
from dataclasses import replace

import pytest

from pgrpo_ray.errors import DataError, ExhaustedError, NotBegunError, SandboxError
from pgrpo_ray.sandbox.pool import _LANES, ExecutionPool
from pgrpo_ray.types import Limits, Problem, StdinCase, TestStyle, Verdict

LIMITS = Limits(cpu_s=2.0, wall_s=5.0)
YES = Problem("yes", "say yes", TestStyle.STDIN, (StdinCase("in", "yes"),), limits=LIMITS)
TWO = replace(YES, id="two", cases=(StdinCase("1", "yes"), StdinCase("2", "yes")))
SOON_S = 3.0
"""How long anything that needs no waiting may take on a busy machine."""
STATUSES = ("error", "exit", "compile_error", "time_limit", "memory_limit", "output_limit")
OUTPUTS = {"right": "yes", "wrong": "no"}


def result(status="ok", **fields):
    return {"status": status, "fresh": True, "wall_ms": 1.0, "cpu_ms": 1.0, "peak_kib": 1024, "detail": "", **fields}


class Lab:
    """Makes runners and notes all that is asked of them.

    A program's first word says what becomes of it: a status, `right` and `wrong`, `tampered`, `dirty` (right, and not
    clean behind it), `break` (the machinery fails), `defect` (it raises what no runner should), `hold` (right, once
    `release` is set), `exhaust` (the kernel kills the whole place), `doubt` (a time limit that load may explain; right,
    with 2.5 s of CPU time, when asked again).

    Its runners begin with all that they are asked; `serial` ones with one program at a time, as real ones do.
    """

    def __init__(self):
        self.made, self.runs, self.requests = [], [], []
        self.breaks = {}
        """How often a program still breaks its runner; without an entry it always does."""
        self.release = threading.Event()
        self.holding = threading.Semaphore(0)
        self.work_ms = 10.0
        self.refuse_to_start = 0
        self.serial = False

    def __call__(self):
        if self.refuse_to_start:
            self.refuse_to_start -= 1
            raise SandboxError("no runner to be had")
        self.made.append(Played(self))
        return self.made[-1]

    @property
    def living(self):
        return [runner for runner in self.made if not runner.closed.is_set()]

    def wait_for_holders(self, count=1):
        for _ in range(count):
            assert self.holding.acquire(timeout=SOON_S)


class Played:
    kind = "played"

    def __init__(self, lab):
        self.lab, self.closed, self.turn = lab, threading.Event(), threading.Lock()

    def close(self):
        self.closed.set()

    def run(self, request, timeout_s):
        if self.closed.is_set():
            raise SandboxError("asked after it was closed")
        if request["id"].startswith("canary"):
            return self.canary(request)
        if not self.lab.serial:
            return self.play(request)
        with self.turn:
            if self.closed.is_set():
                raise NotBegunError("it failed under another program")
            try:
                return self.play(request)
            except SandboxError:
                self.closed.set()
                raise

    def play(self, request):
        program = request["program"]
        self.lab.runs.append(program)
        self.lab.requests.append(request)
        word = program.split()[0]
        one = result()
        if word == "break" and self.lab.breaks.get(program, 1):
            if program in self.lab.breaks:
                self.lab.breaks[program] -= 1
            raise SandboxError(f"pulled the plug of {program}")
        if word == "exhaust":
            raise ExhaustedError("the kernel killed everything")
        if word == "defect":
            raise KeyError("a defect")
        if word == "hold":
            self.lab.holding.release()
            while not self.lab.release.wait(0.01):
                if self.closed.is_set():
                    raise SandboxError("closed while it held")
        if word == "doubt":
            again = self.lab.runs.count(program) > 1
            one = result(cpu_ms=2500.0) if again else result("time_limit", in_doubt=True)
        elif word in STATUSES or word == "tampered":
            one = result(word)
        one["output"] = OUTPUTS.get(word, "yes")
        cases = [dict(one) for _ in request["cases"]]
        return {"id": request["id"], "cases": cases, "dirty": word == "dirty"}

    def canary(self, request):
        program = request["program"]
        if "print" in program:
            one = result("output_limit")
        elif "total" in program:
            one = result(value="[42]", cpu_ms=self.lab.work_ms)
        else:
            one = result(value="[42]" if "2 * x" in program else "[21]")
        return {"id": request["id"], "cases": [one], "dirty": False}


@pytest.fixture
def lab():
    made = Lab()
    yield made
    made.release.set()


@pytest.fixture
def start(lab):
    """Return a function that starts a pool on the lab's runners; closed in the end."""
    pools = []

    def make(slots=1, retries=0, **options):
        pools.append(ExecutionPool(lab, slots, retries, **options))
        return pools[-1]

    yield make
    lab.release.set()
    for pool in pools:
        pool.close()


class Asker:
    """`judge_many` in a thread of its own."""

    def __init__(self, pool, *programs, problem=YES, deadline_s=None):
        self.answers, self.failure = None, None

        def ask():
            try:
                self.answers = pool.judge_many([(problem, program) for program in programs], deadline_s)
            except BaseException as error:
                self.failure = error

        self.thread = threading.Thread(target=ask, daemon=True)
        self.thread.start()

    def wait(self, timeout_s=SOON_S):
        self.thread.join(timeout_s)
        assert not self.thread.is_alive(), "nobody answered"
        if self.failure:
            raise self.failure
        return self.answers

    @property
    def waits(self):
        return self.thread.is_alive()


def occupy(pool, lab, slots=1):
    """Hold every thread of the slots; return who waits."""
    holders = [Asker(pool, f"hold {number}") for number in range(1, slots * _LANES + 1)]
    lab.wait_for_holders(slots * _LANES)
    return holders


def until(condition):
    deadline = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)


def verdicts(answers):
    return [answer.verdict for answer in answers]


# Judging


def test_answers_keep_the_order_and_say_where_they_come_from(start):
    answers = start(slots=3).judge_many([(YES, word) for word in ("right", "wrong", "error", "right")])
    assert verdicts(answers) == [Verdict.PASSED, Verdict.WRONG_ANSWER, Verdict.RUNTIME_ERROR, Verdict.PASSED]
    assert {answer.sandbox for answer in answers} == {"played"}


def test_nothing_is_judged_for_nobody(start, lab):
    assert start().judge_many([]) == []
    assert lab.runs == []


def test_an_unknown_checker_is_raised_before_anything_is_judged(start, lab):
    pool = start()
    with pytest.raises(DataError):
        pool.judge_many([(YES, "right"), (replace(YES, checker="token"), "right")])
    assert pool.judge(YES, "wrong").verdict is Verdict.WRONG_ANSWER
    assert lab.runs == ["wrong"]


@pytest.mark.parametrize("fail_fast", [True, False])
def test_haste_is_told_to_the_sandbox(start, lab, fail_fast):
    start(fail_fast=fail_fast).judge(TWO, "wrong")
    assert lab.requests[0]["stop_early"] is fail_fast
    assert len(lab.requests[0]["cases"]) == 2


def test_every_request_has_an_id_of_its_own(start, lab):
    start(slots=2).judge_many([(YES, f"right {number}") for number in range(20)])
    assert len({request["id"] for request in lab.requests}) == 20


# Machinery that fails


def test_retries_take_a_fresh_runner_each(start, lab):
    pool = start(retries=2)
    lab.breaks["break twice"] = 2
    assert pool.judge(YES, "break twice").passed
    assert lab.runs == ["break twice"] * 3
    assert len(lab.made) == 3
    assert lab.living == [lab.made[2]]
    assert pool.stats().restarts == 2


def test_after_the_retries_there_is_an_error_and_no_verdict(start, lab):
    pool = start(retries=2)
    answer = pool.judge(TWO, "break")
    assert (answer.verdict, answer.tests_passed, answer.tests_total) == (None, 0, 2)
    assert "pulled the plug of break" in answer.error
    assert "2 retries" in answer.error
    assert lab.runs == ["break"] * 3
    assert pool.judge(YES, "right").passed
    assert pool.stats().verdicts == {"error": 1, "passed": 1}


def test_a_runner_that_cannot_be_started_again_is_a_failure_like_others(start, lab):
    pool = start(retries=1)
    lab.breaks["break once"] = 1
    lab.refuse_to_start = 5
    answer = pool.judge(YES, "break once")
    assert answer.verdict is None
    assert "pulled the plug" in answer.error  # the first failure explains the later ones
    lab.refuse_to_start = 0
    assert pool.judge(YES, "right").passed


def test_who_exhausts_its_place_twice_is_over_its_memory(start, lab):
    pool = start(retries=3, cache_entries=2)
    answer = pool.judge(TWO, "exhaust")
    assert (answer.verdict, answer.tests_passed, answer.tests_total) == (Verdict.MEMORY_LIMIT, 0, 2)
    assert lab.runs == ["exhaust"] * 2
    assert pool.judge(YES, "right").passed
    assert start(retries=0).judge(YES, "exhaust").verdict is None  # once may be another's doing


def test_who_had_not_begun_pays_nothing_for_its_neighbours_failure(start, lab):
    lab.serial = True
    pool = start(retries=0)
    holder = Asker(pool, "hold and fail")
    lab.wait_for_holders()
    neighbour = Asker(pool, "right")
    until(lambda: pool.stats().running == 2)
    time.sleep(0.05)
    lab.living[0].closed.set()  # as when the engine kills the container
    assert holder.wait()[0].verdict is None
    assert neighbour.wait()[0].passed
    assert lab.runs == ["hold and fail", "right"]


def test_a_defect_is_an_answer_and_the_slot_lives_on(start):
    pool = start()
    answer = pool.judge(YES, "defect")
    assert answer.verdict is None
    assert "KeyError" in answer.error
    assert pool.judge(YES, "right").passed


def test_a_dirty_runner_is_replaced_before_it_is_asked_again(start, lab):
    pool = start()
    assert pool.judge(YES, "dirty").passed
    assert lab.made[0].closed.is_set()
    assert pool.judge(YES, "right").passed
    assert (len(lab.made), pool.stats().restarts) == (2, 1)


def test_a_pool_whose_runners_misjudge_does_not_start_and_leaves_nothing():
    lab = Lab()
    asked = itertools.count()

    def make():
        runner = lab()
        if next(asked) == 1:
            runner.canary = lambda request: {"id": "", "cases": [result(value="[42]")], "dirty": False}
        return runner

    with pytest.raises(SandboxError, match="misjudges"):
        ExecutionPool(make, slots=3, retries=0)
    assert len(lab.made) == 3
    assert lab.living == []


@pytest.fixture
def house_checker(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "pool_checks.py").write_text("def judge(problem, case, output):\n    return {}[output]\n")
    yield "pool_checks:judge"
    sys.modules.pop("pool_checks", None)


def test_a_checker_that_raises_gives_no_verdict_and_no_retries(start, lab, house_checker):
    pool = start(retries=3, cache_entries=8)
    problem = replace(YES, checker=house_checker)
    for _ in range(2):  # and it is not remembered
        answer = pool.judge(problem, "right")
        assert answer.verdict is None
        assert "KeyError" in answer.error
        assert "pool_checks:judge" in answer.error
    assert lab.runs == ["right"] * 2
    assert pool.stats().restarts == 0


# Judged alone


def test_a_time_limit_in_doubt_is_judged_again_alone(start, lab):
    pool = start(slots=2)
    holder = Asker(pool, "hold")
    lab.wait_for_holders()
    doubtful = Asker(pool, "doubt")
    until(lambda: "doubt" in lab.runs)
    time.sleep(0.1)
    assert lab.runs == ["hold", "doubt"]  # the second look waits for the holder,
    late = Asker(pool, "right")
    lab.release.set()
    for asker in (holder, doubtful, late):
        asker.wait()
    assert lab.runs[2:] == ["doubt", "right"]  # and comes before who arrived later
    assert lab.runs.count("doubt") == 2
    assert pool.stats().confirmations == 1


@pytest.mark.parametrize(("now_ms", "cpu_s", "passed"), [(10.0, 2.0, False), (13.0, 2.6, True), (90.0, 4.0, True)])
def test_a_slower_machine_stretches_the_limit_of_the_second_look(start, lab, now_ms, cpu_s, passed):
    """`doubt` takes 2.5 s of CPU when asked again; its limit is 2 s on the machine as it was in the beginning."""
    pool = start()
    lab.work_ms = now_ms
    assert pool.judge(YES, "doubt").passed is passed
    assert [request["limits"]["cpu_s"] for request in lab.requests] == pytest.approx([2.0, cpu_s])


def test_the_machine_is_measured_against_its_best(start, lab):
    lab.work_ms = 20.0
    pool = start()
    lab.work_ms = 10.0
    pool.judge(YES, "doubt 1")
    lab.work_ms = 15.0
    pool.judge(YES, "doubt 2")
    assert [request["limits"]["cpu_s"] for request in lab.requests] == pytest.approx([2.0, 2.0, 2.0, 3.0])


# Verdicts that are remembered


@pytest.mark.parametrize(
    ("word", "remembered"),
    [
        ("right", True),
        ("wrong", True),
        ("error", True),
        ("compile_error", True),
        ("time_limit", False),
        ("memory_limit", False),
        ("output_limit", False),
        ("tampered", False),
        ("break", False),
        ("defect", False),
    ],
)
def test_only_what_depends_on_no_machine_is_remembered(start, lab, word, remembered):
    pool = start(cache_entries=4)
    first, second = pool.judge(YES, word), pool.judge(YES, word)
    assert (first.verdict, first.error) == (second.verdict, second.error)
    assert len(lab.runs) == (1 if remembered else 2)
    stats = pool.stats()
    assert (stats.cache_lookups, stats.cache_hits) == (2, int(remembered))
    assert sum(stats.verdicts.values()) == 2


def test_without_entries_nothing_is_remembered(start, lab):
    pool = start(cache_entries=0)
    pool.judge_many([(YES, "right")] * 3)
    assert len(lab.runs) == 3
    assert (pool.stats().cache_lookups, pool.stats().cache_hits) == (0, 0)


def test_what_was_not_used_for_longest_is_forgotten(start, lab):
    pool = start(cache_entries=2)
    for program in ("right a", "right b", "right a", "right c", "right a", "right b"):
        pool.judge(YES, program)
    assert lab.runs == ["right a", "right b", "right c", "right b"]
    assert pool.stats().cache_hits == 2


@pytest.mark.parametrize(
    ("problem", "hit"),
    [
        (replace(YES), True),
        (replace(YES, id="other", prompt="other words"), True),
        (replace(YES, cases=(StdinCase("in", "no"),)), False),
        (replace(YES, cases=(StdinCase("in", "yes", ("no",)),)), False),
        (replace(YES, cases=(StdinCase("other", "yes"),)), False),
        (replace(YES, limits=replace(LIMITS, cpu_s=3.0)), False),
        (replace(YES, limits=replace(LIMITS, wall_s=6.0)), False),
        (replace(YES, checker="exact"), False),
        (replace(YES, language="cpp"), False),
        (replace(YES, metadata={"float_tolerance": 1e-3}), False),
    ],
)
def test_a_verdict_is_remembered_for_the_same_tests_only(start, lab, problem, hit):
    pool = start(cache_entries=8)
    pool.judge(YES, "wrong")
    answer = pool.judge(problem, "wrong")
    assert len(lab.runs) == (1 if hit else 2)
    assert answer.verdict is (
        Verdict.PASSED if "no" in (problem.cases[0].output, *problem.cases[0].also) else Verdict.WRONG_ANSWER
    )


def test_a_verdict_is_remembered_for_the_same_program_only(start, lab):
    pool = start(cache_entries=8)
    for program in ("right", "right ", "right\ud800", "right"):
        assert pool.judge(YES, program).passed
    assert lab.runs == ["right", "right ", "right\ud800"]


def test_twins_that_wait_at_the_same_time_are_judged_once(start, lab):
    pool = start(cache_entries=8)
    holders = occupy(pool, lab)
    twins = [Asker(pool, "hold 1"), Asker(pool, "wrong", "wrong"), Asker(pool, "wrong")]
    until(lambda: pool.stats().cache_lookups == 6)
    lab.release.set()
    assert verdicts(holders[0].wait() + holders[1].wait() + twins[0].wait()) == [Verdict.PASSED] * 3
    assert verdicts(twins[1].wait() + twins[2].wait()) == [Verdict.WRONG_ANSWER] * 3
    assert sorted(lab.runs) == ["hold 1", "hold 2", "wrong"]
    stats = pool.stats()
    assert (stats.cache_hits, stats.verdicts) == (3, {"passed": 3, "wrong_answer": 3})


@pytest.mark.parametrize("word", ["time_limit", "tampered", "break", "defect"])
def test_twins_of_a_verdict_that_is_not_remembered_are_judged_each(start, lab, word):
    pool = start(cache_entries=8)
    holders = occupy(pool, lab)
    asker = Asker(pool, *[word] * 4)
    until(lambda: pool.stats().cache_lookups == 6)
    lab.release.set()
    assert len(set(verdicts(asker.wait()))) == 1
    assert lab.runs.count(word) == 4
    assert pool.stats().cache_hits == 0
    for holder in holders:
        assert holder.wait()[0].passed


def test_twins_of_one_whose_caller_has_gone_are_judged_all_the_same(start, lab):
    pool = start(cache_entries=8)
    holders = occupy(pool, lab)
    hasty = Asker(pool, "right", deadline_s=0.2)
    until(lambda: pool.stats().cache_lookups == 3)
    patient = Asker(pool, "right")
    until(lambda: pool.stats().cache_lookups == 4)
    assert hasty.wait()[0].verdict is None
    lab.release.set()
    assert all(holder.wait()[0].passed for holder in holders)
    assert patient.wait()[0].passed


# The queue and deadlines


def test_a_full_queue_blocks_who_submits_and_frees_them_again(start, lab):
    pool = start(queue_programs=2)
    askers = occupy(pool, lab)
    askers += [Asker(pool, "right 3"), Asker(pool, "right 4", "right 5"), Asker(pool, "right 6")]
    until(lambda: pool.stats().queued == 2)
    time.sleep(0.2)
    assert (pool.stats().queued, pool.stats().running) == (2, 2)
    assert all(asker.waits for asker in askers)
    lab.release.set()
    for asker in askers:
        assert all(answer.passed for answer in asker.wait())
    assert sorted(lab.runs) == ["hold 1", "hold 2", "right 3", "right 4", "right 5", "right 6"]


def test_a_batch_may_be_longer_than_the_queue(start, lab):
    answers = start(slots=2, queue_programs=1).judge_many([(YES, f"right {number}") for number in range(30)])
    assert all(answer.passed for answer in answers)
    assert len(lab.runs) == 30


def test_room_is_given_back_however_a_program_ends(start, lab):
    pool = start(queue_programs=2, cache_entries=2)
    for _ in range(3):
        for word in ("right", "wrong", "break", "defect", "time_limit", "dirty"):
            pool.judge(YES, word)
        Asker(pool, "hold", deadline_s=0.05).wait()
        lab.release.set()
        until(lambda: pool.stats().running == 0)
        lab.release.clear()
    assert Asker(pool, "right 1", "right 2", "right 3").wait()


def test_what_has_no_verdict_in_time_is_an_error(start, lab):
    pool = start()
    began = time.monotonic()
    answers = Asker(pool, "right", "hold 1", "hold 2", "right 2", deadline_s=0.3).wait()
    assert 0.25 < time.monotonic() - began < 10
    assert verdicts(answers) == [Verdict.PASSED, None, None, None]
    assert "deadline" in answers[1].error
    lab.release.set()
    assert pool.judge(YES, "right 3").passed
    assert "right 2" not in lab.runs  # nobody waited for it any more


def test_a_deadline_holds_where_the_queue_is_full(start, lab):
    pool = start(queue_programs=1)
    holders = occupy(pool, lab)
    began = time.monotonic()
    answers = Asker(pool, *[f"right {number}" for number in range(20)], deadline_s=0.2).wait(10)
    assert verdicts(answers) == [None] * 20
    assert all(answer.error for answer in answers)
    assert time.monotonic() - began < 3  # not a wait for each of them
    lab.release.set()
    assert all(holder.wait()[0].passed for holder in holders)


@pytest.mark.parametrize("deadline_s", [0.0, -1.0])
def test_a_deadline_that_has_passed_is_an_answer_too(start, deadline_s):
    (answer,) = start().judge_many([(YES, "hold")], deadline_s)
    assert answer.verdict is None
    assert answer.error


# What a pool says of itself


def test_every_judgement_is_observed_once(start, lab):
    seen = []
    pool = start(slots=2, retries=1, cache_entries=8, observe=lambda *one: seen.append(one))
    answers = pool.judge_many([(YES, word) for word in ("right", "right", "wrong", "break", "time_limit", "defect")])
    answers += pool.judge_many([(YES, "right")])
    answers += Asker(pool, "hold", deadline_s=0.1).wait()
    lab.release.set()
    until(lambda: pool.stats().running == 0)
    pool.close()
    answers.append(pool.judge(YES, "right 2"))
    until(lambda: len(seen) >= len(answers))
    time.sleep(0.05)
    assert sorted(str(answer) for answer in answers) == sorted(str(judgement) for judgement, _ in seen)
    assert all(0 <= seconds < SOON_S for _, seconds in seen)


def test_an_observer_that_raises_stops_no_slot(start, lab):
    def observe(judgement, seconds):
        raise RuntimeError("the observer's own trouble")

    pool = start(cache_entries=4, observe=observe)
    assert [Asker(pool, program).wait()[0].passed for program in ("right 1", "right 2", "right 1")] == [True] * 3
    assert pool.stats().queued == 0


def test_stats_tell_who_waits_from_who_runs(start, lab):
    pool = start()
    askers = [*occupy(pool, lab), Asker(pool, "right 1", "right 2", "right 3")]
    until(lambda: pool.stats().queued >= 3)
    time.sleep(0.05)
    assert (pool.stats().queued, pool.stats().running) == (3, _LANES)
    lab.release.set()
    for asker in askers:
        asker.wait()
    until(lambda: (pool.stats().queued, pool.stats().running) == (0, 0))


def test_every_program_is_counted_once(start, lab):
    seen = []
    pool = start(slots=3, retries=1, cache_entries=3, queue_programs=5, observe=lambda *one: seen.append(one))
    words = ("right", "wrong", "error", "time_limit", "tampered", "break", "dirty", "doubt", "right 2")
    lab.release.set()
    askers = [Asker(pool, *words[start % 5 :], *words, *["right 3"] * 3) for start in range(12)]
    total = sum(len(asker.wait(20)) for asker in askers)
    until(lambda: pool.stats().running == 0)
    stats = pool.stats()
    assert sum(stats.verdicts.values()) == stats.cache_lookups == total == len(seen)
    assert (stats.queued, stats.running) == (0, 0)
    judged = total - stats.cache_hits
    retried = lab.runs.count("break") // 2
    assert len(lab.runs) == judged + retried + stats.confirmations
    assert 1 <= stats.confirmations == lab.runs.count("doubt") // 2
    assert len(lab.living) <= 3


# The end


def test_close_answers_everybody_at_once(start, lab):
    pool = start(retries=2, queue_programs=2)
    askers = [*occupy(pool, lab), Asker(pool, "right 1"), Asker(pool, "right 2")]
    until(lambda: pool.stats().queued == 2)
    askers += [Asker(pool, f"right {number}") for number in range(3, 7)]  # the queue has no room for them
    time.sleep(0.05)
    began = time.monotonic()
    pool.close()
    assert time.monotonic() - began < 10
    answers = [asker.wait()[0] for asker in askers]
    assert verdicts(answers) == [None] * 8
    assert all(answer.error for answer in answers)
    assert lab.living == []
    stats = pool.stats()
    assert (stats.verdicts, stats.queued, stats.running) == ({"error": 8}, 0, 0)


@pytest.mark.parametrize("running", ["hold 1", "right"])
def test_close_answers_twins(start, lab, running):
    pool = start(cache_entries=8)
    askers = [*occupy(pool, lab), Asker(pool, running), Asker(pool, running), Asker(pool, running)]
    until(lambda: pool.stats().cache_lookups == 5)
    pool.close()
    assert [asker.wait()[0].verdict for asker in askers] == [None] * 5


@pytest.mark.parametrize("entries", [0, 8])
def test_a_closed_pool_answers_with_an_error(start, lab, entries):
    pool = start(cache_entries=entries)
    pool.close()
    pool.close()
    for _ in range(3):
        (answer,) = Asker(pool, "right").wait()
        assert answer.verdict is None
        assert re.search("closed|room", answer.error)
    assert lab.runs == []


def test_close_wakes_who_waits_to_be_judged_alone(start, lab):
    pool = start(slots=2)
    holder = Asker(pool, "hold")
    lab.wait_for_holders()
    doubtful = Asker(pool, "doubt")
    until(lambda: "doubt" in lab.runs)
    began = time.monotonic()
    pool.close()
    assert time.monotonic() - began < 10
    assert verdicts(holder.wait() + doubtful.wait()) == [None, None]


def test_no_runner_is_started_for_a_pool_that_has_been_closed(start, lab):
    pool = start(retries=5)
    holder = Asker(pool, "hold")
    lab.wait_for_holders()
    pool.close()
    assert holder.wait()[0].verdict is None
    assert lab.living == []
    assert lab.runs == ["hold"]


def test_two_may_close_at_the_same_time(start, lab):
    pool = start(slots=2)
    holder = Asker(pool, "hold")
    lab.wait_for_holders()
    closers = [threading.Thread(target=pool.close) for _ in range(4)]
    for closer in closers:
        closer.start()
    for closer in closers:
        closer.join(SOON_S)
        assert not closer.is_alive()
    assert holder.wait()[0].verdict is None
    assert lab.living == []
