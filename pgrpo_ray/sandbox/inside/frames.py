"""Frames of JSON over a descriptor: between host and warden, and between checker and program."""

import json
import os
import struct

from pgrpo_ray.sandbox.inside.codec import TooLarge

dumps = json.JSONEncoder(separators=(",", ":")).encode


def send(fd, message):
    """Write one frame: 4 bytes big-endian length, then JSON."""
    payload = dumps(message).encode("utf-8", "surrogatepass")
    rest = memoryview(struct.pack(">I", len(payload)) + payload)
    while rest:
        rest = rest[os.write(fd, rest) :]


def receive(fd, limit):
    """Read one frame; None at end of file. Raises `TooLarge` for one that announces more than `limit` allows."""
    header = exactly(fd, 4)
    if header is None:
        return None
    (length,) = struct.unpack(">I", header)
    if length > 6 * limit + (1 << 16):  # JSON writes up to six bytes for a character
        raise TooLarge
    payload = exactly(fd, length)
    return None if payload is None else json.loads(payload)


def exactly(fd, count):
    pieces = []
    while count:
        try:
            piece = os.read(fd, min(count, 1 << 20))
        except ConnectionError:
            return None
        if not piece:
            return None
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)
