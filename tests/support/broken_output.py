"""A text stream that fails at every write."""

import io
import os


class Broken(io.RawIOBase):
    """A file that takes nothing."""

    def __init__(self, number):
        self.number = number

    def writable(self):
        return True

    def write(self, data):
        raise OSError(self.number, os.strerror(self.number))


def broken_text(number):
    return io.TextIOWrapper(io.BufferedWriter(Broken(number), 16), encoding="utf-8", line_buffering=True)
