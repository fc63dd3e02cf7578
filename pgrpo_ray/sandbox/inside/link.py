"""What a fork has from the warden: its descriptors, and the link over which it states what came of its work.

Each statement begins with a nonce, so that stray writes are recognised as such.
"""

import os

LINK, SOURCE, TASK, WIRE = 3, 4, 5, 6
"""Descriptors beside 0, 1, 2: to the warden; the program's text; its task; to the checker (style `assert`), or the file
from which a script with several cases reads its input."""
DETAIL_CHARS = 400


class Link:
    """The program's side of the stream to the warden.

    It keeps the functions that it needs: the program may replace those of `os`.
    """

    def __init__(self, nonce, fd=LINK):
        self.nonce = nonce.encode()
        self.fd = fd

    def say(self, status, payload=b"", *, write=os.write, view=memoryview):
        """State `status` with a payload: bytes, or text."""
        if type(payload) is str:
            payload = payload.encode("utf-8", "replace")
        rest = view(b"%s %s %d\n" % (self.nonce, status, len(payload)) + payload)
        while rest:
            rest = rest[write(self.fd, rest) :]


def take(fd):
    """Read all of a memory file from its beginning, whatever its offset."""
    return os.pread(fd, os.fstat(fd).st_size, 0)


def blame(error):
    if isinstance(error, MemoryError):
        return b"memory_limit"
    return b"exit" if isinstance(error, SystemExit) else b"error"


def describe(error):
    try:
        text = f"{type(error).__name__}: {error}"
    except BaseException:  # the program's own __str__
        text = "an exception that cannot be shown"
    return text[:DETAIL_CHARS]
