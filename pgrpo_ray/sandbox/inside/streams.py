"""Where what a program prints and states arrives, and files in memory that it is given."""

import fcntl
import os

NULL = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)


def memory_file(content):
    """Return a descriptor of a new file in memory that holds `content`, its offset at the beginning."""
    fd = os.memfd_create("input", os.MFD_CLOEXEC)
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


class Stream:
    """What comes from a program's process through one descriptor."""

    def __init__(self, fd, cap):
        os.set_blocking(fd, False)
        self.fd, self.cap = fd, cap
        self.data = bytearray()

    def read(self):
        """Take what is there. Return False at end of file."""
        try:
            piece = os.read(self.fd, 1 << 16)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        self.data += piece
        return bool(piece)

    def drain(self):
        size = -1
        while size != len(self.data) and not self.full:
            size = len(self.data)
            self.read()

    @property
    def full(self):
        return len(self.data) > self.cap


class OutputFile:
    """What a script has printed in its present case of several: its process empties the file after each."""

    def __init__(self, cap):
        self.fd, self.cap = memory_file(b""), cap
        fcntl.fcntl(self.fd, fcntl.F_SETFL, os.O_APPEND)

    @property
    def data(self):
        return os.pread(self.fd, self.cap, 0)

    @property
    def full(self):
        return os.fstat(self.fd).st_size > self.cap
