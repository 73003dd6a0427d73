"""A transaction's evidence: one object, signed by the station, that is verified on its own.

FORMATS.md section 2, content type 65013; stations keep it in their log as records of type 15.
"""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from chargekeep_tools import ocmf, wire
from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.home import Home
from chargekeep_tools.options import LATEST, HomeOption, JsonOption, new_app, show

RECORD_TYPE = 15
QUALITIES = ("unknown", "informative", "relative", "synchronized")
POWER_LOSS = 9


class EvidenceError(ValueError):
    """Not an evidence, or not signed by the station."""


@dataclass(frozen=True)
class Point:
    """A register in Wh and when: unix seconds or None, quality 0 to 3, boot id, uptime in s."""

    register_wh: int
    time: int | None
    quality: int
    boot_id: int
    uptime_s: int


@dataclass(frozen=True)
class Evidence:
    """What the station signed. `energy_wh` is `end` minus `begin` but for meter segments."""

    site: str
    station: str
    tx_id: int
    evse_id: int
    id_hash: bytes | None
    begin: Point
    end: Point
    stopped_reason: int
    energy_wh: int
    meter: str

    @property
    def segmented(self) -> bool:
        """Was the meter reset or exchanged, or did it roll over, in between?"""
        return self.energy_wh != self.end.register_wh - self.begin.register_wh

    def to_ocmf(self) -> ocmf.Transaction:
        """As an OCMF transaction; one with a segment has no honest pair of registers."""
        if self.segmented:
            raise EvidenceError("the meter changed during the transaction")
        begin, end = (
            ocmf.Reading(p.register_wh, p.time, p.quality) for p in (self.begin, self.end)
        )
        return ocmf.Transaction(
            self.station,
            self.tx_id,
            self.evse_id,
            self.id_hash,
            begin,
            end,
            self.meter,
            exception=self.stopped_reason == POWER_LOSS,
        )


def _point(value: Any) -> Point:
    register, time, *rest = value
    if any(type(v) is not int or v < 0 for v in (register, *rest)):
        raise EvidenceError("a point is out of range")
    if time is not None and (type(time) is not int or not 0 <= time <= LATEST):
        raise EvidenceError("a time is none")
    return Point(register, time, *rest)


def verify(data: bytes, public_key: bytes) -> Evidence:
    """What `data` states, if the station with this Ed25519 key signed it. Raises EvidenceError."""
    kid = wire.kid(public_key)
    return read(data, lambda found, _: public_key if found == kid else None)


def read(data: bytes, key_for: wire.KeyFor) -> Evidence:
    """What `data` states, if it is signed with the key that `key_for` has for it.

    Raises EvidenceError.
    """
    try:
        body = wire.open_sign1(data, wire.EVIDENCE, key_for)
    except wire.WireError as e:
        raise EvidenceError(str(e)) from e
    try:
        evidence = Evidence(
            body[2],
            body[3],
            body[10],
            body[11],
            body[12],
            _point(body[13]),
            _point(body[14]),
            body[15],
            body[16],
            body[17],
        )
        if evidence.energy_wh < 0:
            raise EvidenceError("negative energy")
    except (LookupError, TypeError, ValueError) as e:
        raise EvidenceError(f"form: {e}") from e
    return evidence


app = new_app("Verify what a station signed about a transaction.")


@app.callback()
def _group() -> None:
    pass  # keeps `verify` a command of its own


@app.command("verify")
def verify_command(
    file: Annotated[Path, typer.Argument(help="Evidence as bytes, or as hexadecimal text.")],
    station: Annotated[str, typer.Option("--station", help="The station that signed it.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify an evidence and show it."""
    data = file.read_bytes()
    try:
        data = bytes.fromhex(data.decode())
    except ValueError:
        pass  # it was binary
    from chargekeep_tools.reconcile.verify import Station

    try:  # the keys that it had before as well
        evidence = read(data, Station.of(Home(home).station(station)).key_for)
    except EvidenceError as e:
        raise ToolError(f"refused: {e}", Exit.FAILED) from e

    def human() -> None:
        for name, point in (("begin", evidence.begin), ("end", evidence.end)):
            when = "at an unknown time"
            if point.time is not None:
                when = datetime.fromtimestamp(point.time, UTC).isoformat()
            quality = QUALITIES[point.quality & 3]
            typer.echo(f"{name:6} {point.register_wh} Wh {when} ({quality})")
        owner = f"transaction {evidence.tx_id} of {evidence.station}"
        typer.echo(f"energy {evidence.energy_wh} Wh, {owner}")

    found = asdict(evidence) | {"id_hash": evidence.id_hash and evidence.id_hash.hex()}
    show(found, as_json, human)
