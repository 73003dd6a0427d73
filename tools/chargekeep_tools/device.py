"""A board on a serial port, spoken to with mpremote's transport; every failure is a `ToolError`.

The raw REPL runs our code on the device; results come back as one line of JSON.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mpremote import transport_serial
from mpremote.transport import TransportError
from mpremote.transport_serial import SerialTransport
from serial import SerialException

from chargekeep_tools.codes import Exit, ToolError

# mpremote prints what it did not expect, into the middle of our JSON; several boards at once rule
# out redirecting standard output, which is one for all threads.
transport_serial.__dict__["print"] = lambda *words: None

_READ_TIMEOUT_S = 5
_ATTEMPTS = 6
_ENTER_S = 2
# Collect often, or what importing leaves behind scatters the heap of a small board. And where
# Ctrl-C came so early that it ended boot.py, take the slot that the pointer names.
_PREPARE = """
import gc, sys
gc.threshold(8192)
try:
    with open('slot') as f: _slot = f.read()[:1]
    if _slot and _slot not in sys.path: sys.path.insert(0, _slot)
except OSError: pass
"""
_RESTART_S = 5
_PROMPTS = (b"raw REPL; CTRL-B to exit\r\n>", b">>> ")


class Device:
    """An open board in the raw REPL. `port` is its name; use `opened` to make one."""

    def __init__(self, transport: SerialTransport, port: str) -> None:
        self.transport = transport
        self.port = port

    def run(self, code: str, timeout: int = 10) -> str:
        """What `code` prints. `timeout` is the longest silence in seconds."""
        try:
            out, error = self.transport.exec_raw(code, timeout=timeout)
        except (TransportError, SerialException, OSError, TypeError) as failure:
            raise ToolError(
                f"{self.port}: {failure}", Exit.TRANSFER, "check the cable, run it again"
            )
        if error:
            last = error.decode(errors="replace").strip().splitlines()[-1]
            raise ToolError(
                f"{self.port}: the device failed: {last}",
                _exit_of(last),
                "run it again; it goes on where it was",
            )
        return out.decode(errors="replace")

    def call(self, code: str, timeout: int = 10) -> dict[str, Any]:
        """The JSON object that `code` prints last; a ToolError if it names an error."""
        lines = self.run(code, timeout).strip().splitlines()
        try:
            result = json.loads(lines[-1])
        except (IndexError, ValueError):
            raise ToolError(
                f"{self.port}: no answer but {lines[-1:]!r}", Exit.TRANSFER, "run it again"
            )
        if "error" in result:
            raise DeviceError(self.port, result["error"], result.get("detail", ""))
        return result

    def fresh(self) -> None:
        """Restart into a REPL with empty memory: the charger stays out this once."""
        # Leaving the program is a soft reset. boot.py runs, main.py sees the file and ends.
        self.leave("with open('service', 'w'): pass\nraise SystemExit")
        self._await_prompt()
        interrupt(self.transport, self.port)
        # Where the REPL stayed in raw mode, main.py did not run
        self.run("import os\ntry: os.remove('service')\nexcept OSError: pass")
        self.run(_PREPARE)

    def _await_prompt(self) -> None:
        # Ctrl-C before it would end boot.py instead of what runs after it.
        serial: Any = self.transport.serial
        seen = b""
        deadline = time.monotonic() + _RESTART_S
        while not seen.endswith(_PROMPTS) and time.monotonic() < deadline:
            try:
                serial.timeout = 0.1
                seen += self.transport.read_until(1, b">", timeout=1)
                if seen.endswith(b">>>"):
                    seen += self.transport.read_until(1, b" ", timeout=1)
            except (TransportError, SerialException, OSError, TypeError):
                return  # gone; who speaks to it next says so

    def leave(self, code: str) -> None:
        """Start `code` and do not wait: it restarts the board, and the connection ends."""
        try:
            self.transport.exec_raw_no_follow(code)
        except (TransportError, SerialException, OSError, TypeError) as error:
            raise ToolError(f"{self.port}: {error}", Exit.TRANSFER, "check the cable, try again")


class DeviceError(ToolError):
    """The firmware refused; `code` is its number in firmware/chargekeep/errors.py."""

    def __init__(self, port: str, code: int, detail: str) -> None:
        exit_code = Exit.NO_SPACE if code == NO_SPACE else Exit.DEVICE
        super().__init__(f"{port}: E{code} {detail}", exit_code, _ADVICE.get(code, ""))
        self.code = code


NO_SPACE = 803
_ADVICE = {
    700: "the board's config.json is missing or wrong; see the wiring table",
    701: "the station's identity is damaged; --replace makes a new one",
    702: "the board lacks a part of the firmware or of its flash layout",
    NO_SPACE: "remove files from the board, or erase it",
    704: "the board is another station; --replace forgets that one, its key and its log",
}


def _exit_of(traceback_line: str) -> Exit:
    if "ENOSPC" in traceback_line or "OSError: 28" in traceback_line:
        return Exit.NO_SPACE
    if "incompatible .mpy" in traceback_line:
        return Exit.WRONG_ABI
    return Exit.DEVICE


def interrupt(transport: SerialTransport, port: str) -> None:
    serial: Any = transport.serial
    # A board that is just starting loses what it is sent, so this takes more than one attempt.
    for attempt in range(_ATTEMPTS, 0, -1):
        try:
            # mpremote looks at its deadline only while nothing comes
            serial.timeout = 0.1
            transport.enter_raw_repl(soft_reset=False, timeout_overall=_ENTER_S)
            serial.timeout = _READ_TIMEOUT_S
            return
        except (TransportError, SerialException, OSError) as error:
            if attempt == 1 or not isinstance(error, TransportError):
                raise ToolError(
                    f"{port} does not answer: {error}",
                    Exit.BUSY,
                    "close other programs on this port; unplug the board and plug it in again",
                )


@contextmanager
def opened(port: str) -> Iterator[Device]:
    """The board at `port`, interrupted and in the raw REPL; left in the friendly one."""
    try:
        transport = SerialTransport(port, timeout=_READ_TIMEOUT_S)
    except (TransportError, SerialException, OSError) as error:
        raise ToolError(f"no board at {port}: {error}", Exit.NO_DEVICE, "see: chargekeep boards")
    try:
        interrupt(transport, port)
        device = Device(transport, port)
        device.run(_PREPARE)
        yield device
    finally:
        try:
            transport.exit_raw_repl()
            transport.close()
        except (TransportError, SerialException, OSError):
            pass  # it is gone already
