"""The other end of a serial line: a pseudo-terminal, and a thread that plays a device on it."""

import functools
import operator
import os
import pty
import select
import threading
import tty
from pathlib import Path


def xor(data: bytes) -> int:
    """The block check of RAPI and of IEC 62056-21."""
    return functools.reduce(operator.xor, data, 0)


class Peer:
    """A device on a line; use it as a context manager.

    `path` is the pseudo-terminal for the firmware, and `link`, if given, a symbolic link to it. A
    subclass has `play()`, which runs in a thread of its own until `stopped` is set.
    """

    def __init__(self, link: Path | None = None):
        self.link = link
        self.stopped = threading.Event()
        self._fd, self._slave = pty.openpty()
        for fd in (self._fd, self._slave):
            tty.setraw(fd)
        os.set_blocking(self._fd, False)
        self.path = os.ttyname(self._slave)
        self._thread = threading.Thread(target=self.play, daemon=True, name="sim peer")

    def __enter__(self):
        if self.link:
            self.link.unlink(missing_ok=True)
            self.link.symlink_to(self.path)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self._thread.join(5)
        os.close(self._fd)
        os.close(self._slave)
        if self.link and self.link.is_symlink():
            self.link.unlink()

    def play(self) -> None:
        raise NotImplementedError

    def receive(self, timeout: float) -> bytes:
        """What has come; empty after `timeout` seconds of silence."""
        if not select.select([self._fd], [], [], timeout)[0]:
            return b""
        try:
            return os.read(self._fd, 512)
        except BlockingIOError:
            return b""

    def send(self, data: bytes, baudrate: int) -> None:
        """Send at the pace of the line: 10 bits a character."""
        piece = max(1, baudrate // 1000)  # of about 10 ms
        for at in range(0, len(data), piece):
            self.stopped.wait(10 * len(data[at : at + piece]) / baudrate)
            try:
                os.write(self._fd, data[at : at + piece])
            except BlockingIOError:
                return  # nobody listens
