"""Frames over a connected socket: what both runners speak with the warden.

Owns framing, deadlines and the demultiplexing of Docker's attach stream. One request is in flight at a time; the
caller's thread sends, then waits. `close` from another thread wakes it with a `SandboxError`.
"""

import contextlib
import json
import socket
import struct
import time
from typing import Any

from pgrpo_ray.errors import SandboxError

LENGTH = struct.Struct(">I")
"""Frame header: payload length, bytes."""
_ATTACH = struct.Struct(">BxxxI")
"""Docker's header on each piece of an attach stream (no tty): stream number, length. Engine API, ContainerAttach."""
_MAX_ANSWER = 256 << 20
"""Bytes. Ours: far above any honest answer, below what would hurt the host."""
_STDERR_TAIL = 2000
"""Bytes of the warden's stderr kept for error messages."""


class Wire:
    """One conversation with a warden."""

    def __init__(self, sock: socket.socket, *, multiplexed: bool):
        self._sock = sock
        self._multiplexed = multiplexed
        self._received = bytearray()
        self._stderr = b""

    def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send `request`, return the warden's answer.

        Raises `SandboxError` on a closed connection, a missed deadline or a damaged answer; the wire is then useless.
        """
        deadline = time.monotonic() + timeout_s
        payload = json.dumps(request).encode()
        try:
            self._sock.settimeout(timeout_s)
            self._sock.sendall(LENGTH.pack(len(payload)) + payload)
            (length,) = LENGTH.unpack(self._exactly(LENGTH.size, deadline))
            if length > _MAX_ANSWER:
                raise SandboxError(f"the warden announced an answer of {length} bytes{self._said()}")
            answer = json.loads(self._exactly(length, deadline))
        except TimeoutError as error:
            raise SandboxError(f"no answer within {timeout_s:.1f} s{self._said()}") from error
        except (OSError, ValueError) as error:
            raise SandboxError(f"connection to the warden broke: {error}{self._said()}") from error
        if answer.get("id") != request["id"]:
            raise SandboxError(f"asked for {request['id']!r}, the answer is for {answer.get('id')!r}")
        if "fault" in answer:
            raise SandboxError(f"the warden failed: {answer['fault']}")
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
        while left:
            piece = self._recv(min(left, 1 << 16), deadline)
            left -= len(piece)
            if stream == 2:
                self._stderr = (self._stderr + piece)[-_STDERR_TAIL:]
            else:
                self._received += piece

    def _recv(self, count: int, deadline: float) -> bytes:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        self._sock.settimeout(remaining)
        piece = self._sock.recv(count)
        if not piece:
            raise ConnectionError("the warden is gone")
        return piece

    def _said(self) -> str:
        text = self._stderr.decode("utf-8", "replace").strip()
        return f"; its stderr ends: {text}" if text else ""
