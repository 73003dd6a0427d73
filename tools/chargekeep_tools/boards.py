"""Finds boards on serial ports: by port, by USB serial number, or the only one there is."""

from dataclasses import dataclass
from typing import Any

from serial.tools import list_ports

from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.options import JsonOption, new_app, show, table

# USB vendors whose serial ports are MicroPython boards or the adapters on them.
_VENDORS = {
    0x2E8A: "Raspberry Pi",
    0x303A: "Espressif",
    0x10C4: "Silicon Labs CP210x",
    0x1A86: "WCH CH34x",
    0x0403: "FTDI",
    0xF055: "MicroPython",
}


@dataclass(frozen=True)
class Port:
    """A serial port that may be a board: `name` is what to open, `serial` the USB number."""

    name: str
    serial: str
    vendor: str
    description: str


def ports() -> list[Port]:
    """Every port that may be a board, by name."""
    return [
        Port(port.device, port.serial_number or "", _VENDORS[port.vid], port.description or "")
        for port in sorted(list_ports.comports())
        if port.vid in _VENDORS
    ]


def resolve(name: str) -> str:
    """The port that `name` means: a path, `auto` for the only board, or a USB serial number.

    `auto` never chooses: with none or several boards it is a NO_DEVICE error that lists them.
    """
    if "/" in name or name.upper().startswith("COM"):
        return name
    found = ports()
    if name == "auto":
        fit = found
    else:
        fit = [port for port in found if port.serial.lower() == name.lower()]
    if len(fit) == 1:
        return fit[0].name
    listed = ", ".join(f"{port.name} ({port.serial})" for port in found) or "none"
    what = f"{len(fit)} boards" if fit else "no board"
    raise ToolError(
        f"{what} for {name!r}; connected: {listed}",
        Exit.NO_DEVICE,
        "name the port or the USB serial number; chargekeep boards lists them",
    )


app = new_app("List connected boards.")


@app.command("boards")
def boards_command(as_json: JsonOption = False) -> None:
    """List the serial ports that may be boards."""
    found = [port.__dict__ for port in ports()]
    rows: Any = (port.values() for port in found)
    show(found, as_json, lambda: table(("port", "USB serial", "vendor", "description"), rows))


@app.command("resolve", hidden=True)
def resolve_command(name: str) -> None:
    print(resolve(name))
