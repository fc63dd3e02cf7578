"""The first signal unwinds; a second one must not break the cleaning up."""

import os
import signal

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
