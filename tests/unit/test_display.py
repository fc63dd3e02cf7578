"""What is shown where lines cannot be drawn over: plain lines, and a sign of life while nothing else is printed."""

import io
import re
import time

from rich.console import Console

from pgrpo_ray.obs import display as module
from pgrpo_ray.obs.display import Display, Heartbeat, working


def log_file():
    return Console(file=io.StringIO(), width=200)


def wait_for(console, words, seconds=10):
    deadline = time.monotonic() + seconds
    while words not in (text := console.file.getvalue()):
        assert time.monotonic() < deadline, text
        time.sleep(0.01)
    return text


def test_a_long_stage_is_told_of_in_plain_lines(monkeypatch):
    monkeypatch.setattr(module.Heartbeat.__init__, "__defaults__", (0.05,))
    console = log_file()
    with Display(console) as display:
        display.phase("train", 60)
        display.advance(12)
        display.stage("learning [all ranks]")
        text = wait_for(console, "\ntrain 12/60: learning [all ranks], for ")
    assert re.fullmatch(r"(train 12/60: learning \[all ranks\], for \d+ s\n)+", text)
    assert "\x1b" not in text and "\r" not in text
    time.sleep(0.2)
    assert console.file.getvalue().count("\n") - text.count("\n") <= 1  # it ends with the display


def test_nothing_is_told_where_lines_come_anyway_or_nothing_goes_on():
    console = log_file()
    with Heartbeat(console, every_s=0.3) as heartbeat:
        time.sleep(0.5)
        heartbeat.update("learning")
        for _ in range(20):
            heartbeat.printed()
            time.sleep(0.02)
    assert console.file.getvalue() == ""


def test_a_terminal_gets_no_lines_and_a_dumb_one_no_control_codes(monkeypatch):
    monkeypatch.setattr(module.Heartbeat.__init__, "__defaults__", (0.05,))
    terminal = Console(file=io.StringIO(), force_terminal=True, width=200, _environ={"TERM": "xterm"})
    with working(terminal, "starting") as tell:
        tell("judging")
        time.sleep(0.2)
    assert ", for " not in terminal.file.getvalue()
    dumb = Console(file=io.StringIO(), force_terminal=True, width=200, _environ={"TERM": "dumb"})
    with working(dumb, "making [it]: 0 %") as tell:
        tell("making [it]: 50 %")
        text = wait_for(dumb, "making [it]: 50 %, for ")
    assert "\x1b" not in text
