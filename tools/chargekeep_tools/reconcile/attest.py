"""What a station signed about a transaction at its end, against what its records say."""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from chargekeep_tools.evidence import EvidenceError, Point, read
from chargekeep_tools.reconcile import payload
from chargekeep_tools.reconcile.schema import logs, records, transactions
from chargekeep_tools.reconcile.store import Log
from chargekeep_tools.reconcile.verify import Station

# Evidence and record are stamped one after the other, with a write to flash in between.
_APART_S = 60
_DETAIL = 200  # characters


def differences(
    data: bytes, station: Station, log: Log, row: Mapping[str, Any], energy_wh: int | None
) -> str:
    """Why evidence `data` cannot stand for the transaction `row`, in a line; empty if it can.

    energy_wh: what the records give, None as long as they are not complete; then only the
    signature is checked.
    """
    try:
        found = read(data, station.key_for)
    except EvidenceError as error:
        return str(error)[:_DETAIL]
    if energy_wh is None:
        return ""
    both = {
        "site": (found.site, log.site),
        "station": (found.station, log.station),
        "transaction": (found.tx_id, row["tx"]),
        "EVSE": (found.evse_id, row["evse"]),
        "IdToken hash": (found.id_hash, row["id_token"]),
        "register at the start": (found.begin.register_wh, row["register_start"]),
        "register at the end": (found.end.register_wh, row["register_last"]),
        "Wh": (found.energy_wh, energy_wh),
        "stopped reason": (found.stopped_reason, row["stopped_reason"]),
        "start": _moments(found.begin, row["started_boot"], row["started_uptime"]),
        "end": _moments(found.end, row["ended_boot"], row["ended_uptime"]),
    }
    said = [f"{name} {_text(a)}, not {_text(b)}" for name, (a, b) in both.items() if a != b]
    return "; ".join(said).replace("\0", "")[:_DETAIL]


def sealed_in(connection: sa.Connection, log: int, seq: int) -> bytes:
    """What is signed in the evidence record `seq` of a log."""
    query = sa.select(records.c.payload).where(records.c.log == log, records.c.seq == seq)
    _, body = payload.read(payload.EVIDENCE, connection.execute(query).scalar_one())
    return body[1]


def of(connection: sa.Connection, station: str, tx: int) -> bytes | None:
    """What `station` signed about a transaction; of the same number in two logs, the newer."""
    query = (
        sa.select(transactions.c.log, transactions.c.evidence_seq)
        .join(logs, logs.c.id == transactions.c.log)
        .where(logs.c.station == station, transactions.c.tx == tx)
        .where(transactions.c.evidence_seq.is_not(None))
        .order_by(transactions.c.log.desc())
    )
    row = connection.execute(query).first()
    return sealed_in(connection, *row) if row else None


def _text(value: Any) -> str:
    return value.hex() if type(value) is bytes else str(value)


def _moments(signed: Point, boot: int, uptime: int) -> tuple[str, str]:
    if signed.boot_id == boot and abs(signed.uptime_s - uptime) <= _APART_S:
        return "", ""
    return f"boot {signed.boot_id} + {signed.uptime_s} s", f"boot {boot} + {uptime} s"
