# A UART over a pseudo-terminal for the unix VM, with the methods of machine.UART that the firmware
# uses. Nothing blocks: bytes wait in a small buffer as in a UART's FIFO, and what overflows it is
# lost and counted, as on a board. Works on MicroPython and CPython.

import select

try:
    from termios import setraw
except ImportError:  # CPython
    from tty import setraw


class PtyUart:
    """`any`, `read`, `readinto`, `write` on the terminal at `path`; `baudrate` is only kept."""

    def __init__(self, path, baudrate=9600, rxbuf=512):
        self.path = path
        self.baudrate = baudrate
        self.overruns = 0
        self._file = open(path, "r+b", buffering=0)
        setraw(self._file.fileno())
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLIN)
        self._byte = bytearray(1)
        self._buffer = bytearray(rxbuf)
        self._length = 0

    def init(self, baudrate):
        self.baudrate = baudrate

    def _readable(self):
        for event in self._poll.poll(0):
            return bool(event[1] & select.POLLIN)
        return False

    def any(self):
        """Bytes that `read` would return now."""
        try:
            # One byte a call: a longer read of the VM's FileIO waits until it is complete.
            while self._readable() and self._file.readinto(self._byte):
                if self._length < len(self._buffer):
                    self._buffer[self._length] = self._byte[0]
                    self._length += 1
                else:
                    self.overruns += 1
        except OSError:
            pass  # the other end hung up: silence, as with an unplugged bus
        return self._length

    def readinto(self, buf, n=None):
        """Fill `buf` with what is there; the count, or None for none."""
        n = min(self.any(), len(buf) if n is None else n)
        if not n:
            return None
        buf[:n] = self._buffer[:n]
        self._buffer[: self._length - n] = self._buffer[n : self._length]
        self._length -= n
        return n

    def read(self, n=None):
        data = bytearray(self.any() if n is None else min(n, self.any()))
        return bytes(data) if self.readinto(data) else None

    def write(self, buf):
        try:
            return self._file.write(buf)
        except OSError:
            return None

    def deinit(self):
        self._poll.unregister(self._file)
        self._file.close()
