# NOR flash in a file, with the rules of real parts: an erase sets a 4,096-byte block to ones, a
# program only clears bits and never over what is programmed. Everything is in the file when the
# call returns, so SIGKILL loses nothing. A hook sees each program and erase before it happens.

import os

from micropython import const

_BLOCK = const(4096)
_BLANK = b"\xff" * _BLOCK
_EIO = const(5)
_EINVAL = const(22)


class NorFile:
    """`blocks` x 4,096 bytes in the file `path`, made blank where it does not exist.

    hook: `hook(block, offset, data)` before each program, `data` None for an erase; what it raises
    reaches the caller and nothing is written (a power cut in tests).
    """

    program_size = 16  # bytes; what is programmed together is aligned to this

    def __init__(self, path, blocks, hook=None):
        self.blocks = blocks
        self.hook = hook
        try:
            size = os.stat(path)[6]
        except OSError:
            size = 0
        if size < blocks * _BLOCK:
            with open(path, "ab") as f:
                for _ in range(size, blocks * _BLOCK, _BLOCK):
                    f.write(_BLANK[: min(_BLOCK, blocks * _BLOCK - size)])
        self._file = open(path, "r+b")
        self._old = bytearray(256)

    def close(self):
        self._file.close()

    def ioctl(self, request, argument):
        if request == 4:
            return self.blocks
        if request == 5:
            return _BLOCK
        if request == 6:
            self._write(argument, 0, _BLANK, True)
        return 0

    def readblocks(self, block, buffer, offset=0):
        self._seek(block, offset, len(buffer))
        self._file.readinto(buffer)

    def writeblocks(self, block, buffer, offset=None):
        if offset is None:
            self.ioctl(6, block)
            offset = 0
        at = 0
        while at < len(buffer):
            size = min(len(self._old), len(buffer) - at)
            old = memoryview(self._old)[:size]
            self.readblocks(block, old, offset + at)
            for i in range(size):
                if buffer[at + i] & ~old[i]:
                    raise OSError(_EIO)  # would set a bit
            at += size
        self._write(block, offset, buffer, False)

    def _seek(self, block, offset, length):
        start = block * _BLOCK + offset
        if block < 0 or offset < 0 or start + length > self.blocks * _BLOCK:
            raise OSError(_EINVAL)
        self._file.seek(start)

    def _write(self, block, offset, data, erase):
        self._seek(block, offset, len(data))
        if self.hook:
            self.hook(block, offset, None if erase else data)
            self._seek(block, offset, len(data))
        self._file.write(data)
        self._file.flush()
