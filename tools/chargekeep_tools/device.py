"""A board on a serial port, spoken to with mpremote's transport; every failure is a `ToolError`.

The raw REPL runs our code on the device; results come back as one line of JSON.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mpremote.transport import TransportError, TransportExecError
from mpremote.transport_serial import SerialTransport
from serial import SerialException

from chargekeep_tools.codes import Exit, ToolError

_READ_TIMEOUT_S = 5
_ENTER_S = 10


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


class DeviceError(ToolError):
    """The firmware refused; `code` is its number in firmware/chargekeep/errors.py."""

    def __init__(self, port: str, code: int, detail: str) -> None:
        super().__init__(f"{port}: E{code} {detail}", Exit.DEVICE, _ADVICE.get(code, ""))
        self.code = code


_ADVICE = {
    700: "the board's config.json is missing or wrong; see the wiring table",
    701: "the station's identity is damaged; --replace makes a new one",
    702: "the board lacks a part of the firmware or of its flash layout",
    704: "the board is another station; --replace forgets that one, its key and its log",
}


def _exit_of(traceback_line: str) -> Exit:
    if "ENOSPC" in traceback_line or "OSError: 28" in traceback_line:
        return Exit.NO_SPACE
    if "incompatible .mpy" in traceback_line:
        return Exit.WRONG_ABI
    return Exit.DEVICE


@contextmanager
def opened(port: str) -> Iterator[Device]:
    """The board at `port`, interrupted and in the raw REPL; left in the friendly one."""
    try:
        transport = SerialTransport(port, timeout=_READ_TIMEOUT_S)
    except (TransportError, SerialException, OSError) as error:
        raise ToolError(f"no board at {port}: {error}", Exit.NO_DEVICE, "see: chargekeep boards")
    try:
        try:
            transport.enter_raw_repl(soft_reset=False, timeout_overall=_ENTER_S)
        except (TransportError, TransportExecError, SerialException, OSError) as error:
            raise ToolError(
                f"{port} does not answer: {error}",
                Exit.BUSY,
                "close other programs on this port; unplug the board and plug it in again",
            )
        yield Device(transport, port)
    finally:
        try:
            transport.exit_raw_repl()
            transport.close()
        except (TransportError, SerialException, OSError):
            pass  # it is gone already
