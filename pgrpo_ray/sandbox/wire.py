"""Frames over a connected socket: what both runners speak with the warden.

Owns framing, deadlines and the demultiplexing of Docker's attach stream. Several threads may ask: the warden takes
their requests in the order of sending, so each thread waits for the one before it, then reads its own answer. Who waits
while the wire breaks gets `NotBegunError`. `close` from another thread wakes all with a `SandboxError`.
"""

import contextlib
import json
import select
import socket
import struct
import threading
import time
from typing import Any

from pgrpo_ray.errors import NotBegunError, SandboxError

LENGTH = struct.Struct(">I")
"""Frame header: payload length, bytes."""
_ATTACH = struct.Struct(">BxxxI")
"""Docker's header on each piece of an attach stream (no tty): stream number, length. Engine API, ContainerAttach."""
_MAX_ANSWER = 256 << 20
"""Bytes. Ours: far above any honest answer, below what would hurt the host."""
_AHEAD = 32 << 10
"""Bytes of a request that is sent before its turn. Ours: both of a runner's fit into any socket's buffer."""
_STDERR_TAIL = 2000
"""Bytes of the warden's stderr kept for error messages."""
_RESULT: dict[str, type[Any]] = {
    **dict.fromkeys(("status", "detail", "output", "value"), str),
    **dict.fromkeys(("fresh", "stray", "in_doubt"), bool),
    **dict.fromkeys(("wall_ms", "cpu_ms", "peak_kib"), float),
    "signal": int,
}
"""Fields of a case's result; an int is a float as well."""
_TOO_LARGE = 1e15
"""For milliseconds and KiB: 30,000 years, an exbibyte."""
_ALWAYS = {"status", "detail", "fresh", "wall_ms", "cpu_ms", "peak_kib"}


class Wire:
    """One conversation with a warden."""

    def __init__(self, sock: socket.socket, *, multiplexed: bool):
        sock.settimeout(None)  # `_wait` has the deadlines
        self._sock = sock
        self._multiplexed = multiplexed
        self._received = bytearray()
        self._stderr = b""
        self._sending = threading.Lock()
        self._last = threading.Event()
        """Set when the request that was sent last has its answer."""
        self._last.set()
        self._broken = False

    def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send `request`, return the warden's answer, `timeout_s` after its turn came at the latest.

        Raises `SandboxError` on a closed connection, a missed deadline or a damaged answer, and `NotBegunError` when
        that happened to the request before; the wire is then useless.
        """
        payload = json.dumps(request).encode()
        answered = threading.Event()
        with self._sending:
            before, self._last = self._last, answered
            if len(payload) > _AHEAD:
                before.wait()  # its own deadline ends this
            try:
                with contextlib.suppress(OSError, ValueError):  # the reason shows where the answer is read
                    self._send(LENGTH.pack(len(payload)) + payload, time.monotonic() + timeout_s)
            except BaseException:
                self._broken = True
                answered.set()
                raise
        before.wait()
        try:
            if self._broken:
                raise NotBegunError("the connection to the warden broke under another program")
            answer = self._answer_to(request, timeout_s)
            self._broken = answer["dirty"]  # the warden has ended, and begins with no other
            return answer
        except BaseException:
            self._broken = True
            raise
        finally:
            answered.set()

    def _send(self, data: bytes, deadline: float) -> None:
        view = memoryview(data)
        while view:
            self._wait(select.POLLOUT, deadline)
            view = view[self._sock.send(view, socket.MSG_DONTWAIT) :]

    def _answer_to(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        try:
            (length,) = LENGTH.unpack(self._exactly(LENGTH.size, deadline))
            if length > _MAX_ANSWER:
                raise SandboxError(f"the warden announced an answer of {length} bytes{self._said()}")
            answer = json.loads(self._exactly(length, deadline))
        except TimeoutError as error:
            raise SandboxError(f"no answer within {timeout_s:.1f} s{self._said()}") from error
        except (OSError, ValueError, RecursionError) as error:
            raise SandboxError(f"connection to the warden broke: {error}{self._said()}") from error
        if not isinstance(answer, dict):
            raise SandboxError(f"the warden's answer is damaged: it is no object{self._said()}")
        if answer.get("id") != request["id"]:
            raise SandboxError(f"asked for {request['id']!r}, the answer is for {answer.get('id')!r}")
        if "fault" in answer:
            raise SandboxError(f"the warden failed: {answer['fault']}")
        if defect := _defect(answer):
            raise SandboxError(f"the warden's answer is damaged: {defect}{self._said()}")
        return answer

    def close(self) -> None:
        """Close the connection, waking a thread that waits in `ask`. The warden sees end of file and ends."""
        with contextlib.suppress(OSError):  # the other side may have closed first
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def _exactly(self, count: int, deadline: float) -> bytes:
        while len(self._received) < count:
            self._receive(deadline)
        piece = bytes(self._received[:count])
        del self._received[:count]
        return piece

    def _receive(self, deadline: float) -> None:
        """Add at least one byte to what was received, or to the stderr tail."""
        if not self._multiplexed:
            self._received += self._recv(1 << 16, deadline)
            return
        header = b""
        while len(header) < _ATTACH.size:
            header += self._recv(_ATTACH.size - len(header), deadline)
        stream, left = _ATTACH.unpack(header)
        if left > _MAX_ANSWER + LENGTH.size:
            raise SandboxError(f"the engine announced a piece of {left} bytes{self._said()}")
        while left:
            piece = self._recv(min(left, 1 << 16), deadline)
            left -= len(piece)
            if stream == 2:
                self._stderr = (self._stderr + piece)[-_STDERR_TAIL:]
            else:
                self._received += piece

    def _recv(self, count: int, deadline: float) -> bytes:
        self._wait(select.POLLIN, deadline)
        piece = self._sock.recv(count)
        if not piece:
            raise ConnectionError("the warden is gone")
        return piece

    def _wait(self, event: int, deadline: float) -> None:
        """Wait until the socket is ready. (Its own timeout would be one for both directions.)"""
        remaining = deadline - time.monotonic()
        poll = select.poll()
        poll.register(self._sock, event)
        if remaining <= 0 or not poll.poll(remaining * 1000):
            raise TimeoutError

    def _said(self) -> str:
        text = self._stderr.decode("utf-8", "replace").strip()
        return f"; its stderr ends: {text}" if text else ""


def _defect(answer: dict[str, Any]) -> str:
    """Say where an answer has not the form that `inside.warden` gives it, which its readers rely on; "" nowhere."""
    results = answer.get("cases")
    if type(answer.get("dirty")) is not bool or type(results) is not list:
        return "it has no 'cases' or no 'dirty'"
    for index, result in enumerate(results):
        if type(result) is not dict or not result.keys() >= _ALWAYS:
            return f"case {index} is no result"
        for key, kind in _RESULT.items():
            value = result.get(key, kind())
            if type(value) is not kind and not (kind is float and type(value) is int):
                return f"case {index} has a {key!r} of type {type(value).__name__}"
            if kind is float and not 0 <= value < _TOO_LARGE:  # NaN, too, which would be below every limit
                return f"case {index} has {value} as {key!r}"
    return ""
