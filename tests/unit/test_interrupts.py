"""The first signal unwinds; a second one must not break the cleaning up."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from pgrpo_ray.interrupts import interruptible


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_waits_until_everything_is_unwound(number):
    before = signal.getsignal(number)
    cleaned = []
    with pytest.raises(KeyboardInterrupt), interruptible():
        try:
            with interruptible():
                try:
                    os.kill(os.getpid(), number)
                finally:
                    os.kill(os.getpid(), number)
                    cleaned.append("inner")
        finally:
            os.kill(os.getpid(), number)
            cleaned.append("outer")
    assert cleaned == ["inner", "outer"]
    assert signal.getsignal(number) is before


def test_without_a_signal_the_handlers_come_back():
    before = signal.getsignal(signal.SIGINT)
    with interruptible(), interruptible():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_in_another_thread_signals_are_left_alone():
    before = signal.getsignal(signal.SIGINT)

    def enter():
        with interruptible():
            return signal.getsignal(signal.SIGINT)

    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(enter).result() is before
