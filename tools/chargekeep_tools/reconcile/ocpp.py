"""Hands billed transactions to an OCPP 2.0.1 CSMS, as TransactionEvents with `offline` set.

An operator so keeps his back end. Each station connects under its own name; a transaction is
marked as delivered when all its events were answered, and comes again whole after a crash: the
same transactionId and seqNo tell the CSMS that it has it (OCPP 2.0.1 part 2, E04). What the CSMS
refuses comes again the next time, and holds up nothing else.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, NamedTuple

import sqlalchemy as sa
from ocpp.exceptions import OCPPError
from ocpp.v201 import ChargePoint, call, datatypes, enums
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from chargekeep_tools.options import LATEST
from chargekeep_tools.reconcile.payload import TX_ENDED, TX_STARTED, TX_UPDATED, readable
from chargekeep_tools.reconcile.schema import (
    batches,
    bills,
    delivered,
    logs,
    records,
    transactions,
)

_KINDS = {TX_STARTED: "Started", TX_UPDATED: "Updated", TX_ENDED: "Ended"}
_PROTOCOL = Subprotocol("ocpp2.0.1")
# FORMATS.md section 4 encodes these enumerations of OCPP 2.0.1 part 2, section 3
TRIGGERS = (
    "Authorized CablePluggedIn ChargingStateChanged Deauthorized EnergyLimitReached "
    "EVCommunicationLost MeterValueClock MeterValuePeriodic TimeLimitReached StopAuthorized "
    "UnlockCommand RemoteStop AbnormalCondition ResetCommand EVDeparted Trigger"
).split()
STATES = "Charging EVConnected SuspendedEV SuspendedEVSE Idle".split()
REASONS = (
    "DeAuthorized EmergencyStop EnergyLimitReached EVDisconnected GroundFault Local MasterPass "
    "Other PowerLoss PowerQuality Reboot Remote SOCLimitReached StoppedByEV TimeLimitReached "
    "Timeout"
).split()


class Refusal(NamedTuple):
    """What a CSMS would not take: a transaction, or (None) anything of the station."""

    station: str
    tx: int | None
    reason: str


@dataclass
class Delivery:
    """How many transactions were answered, and which were refused."""

    count: int = 0
    refused: list[Refusal] = field(default_factory=list)


def undelivered(connection: sa.Connection) -> list[Any]:
    """Billed transactions that no CSMS has yet, and the slots they are in; by station."""
    key = sa.and_(delivered.c.log == bills.c.log, delivered.c.tx == bills.c.tx)
    same = sa.and_(transactions.c.log == bills.c.log, transactions.c.tx == bills.c.tx)
    span = transactions.c.started_seq, transactions.c.ended_seq
    query = (
        sa.select(logs.c.id, logs.c.station, logs.c.log_id, bills.c.tx, *span)
        .select_from(bills)
        .join(logs, logs.c.id == bills.c.log)
        .join(transactions, same)
        .outerjoin(delivered, key)
        .where(delivered.c.tx.is_(None))
        .order_by(logs.c.station, logs.c.id, bills.c.tx)
    )
    return list(connection.execute(query).all())


def events(connection: sa.Connection, row: Any) -> Iterable[call.TransactionEvent]:
    """The TransactionEvents of one transaction, in the order of its records."""
    low, high = sorted((row.started_seq, row.ended_seq))
    query = (
        sa.select(records)
        .where(records.c.log == row.id, records.c.type.in_(_KINDS))
        .where(records.c.seq.between(low, high))
        .order_by(records.c.seq)
    )
    for record in connection.execute(query).mappings().all():
        found = readable(record["type"], record["payload"])
        if found is not None and found[1][0] == row.tx:
            when = record["time"]
            if when is None or not 0 <= when <= LATEST:
                when = _first_heard(connection, row.id)
            stamp = datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            yield _event(row, record["type"], found[1], stamp)


def _first_heard(connection: sa.Connection, log: int) -> int:
    """Stands for the time of a station that did not know it."""
    first = sa.select(sa.func.min(batches.c.received)).where(batches.c.log == log)
    return connection.scalar(first) or 0


def _event(row: Any, kind: int, body: list[Any], stamp: str) -> call.TransactionEvent:
    transaction = datatypes.TransactionType(transaction_id=f"{row.log_id.hex()[:24]}-{row.tx}")
    extra: dict[str, Any] = {}
    if kind == TX_STARTED:
        _, evse, connector, id_token, _, _, register, *_ = body
        seq_no, trigger, context = 0, body[12], "Transaction.Begin"
        extra["evse"] = datatypes.EVSEType(id=evse, connector_id=connector)
        if id_token is not None:  # the hash: stations know no readable IdToken
            extra["id_token"] = datatypes.IdTokenType(
                id_token=id_token.hex(), type=enums.IdTokenEnumType.local
            )
    elif kind == TX_UPDATED:
        _, seq_no, trigger, register, state = body[:5]
        transaction.charging_state = _name(STATES, state)
        context = "Sample.Periodic"
    else:
        _, seq_no, trigger, reason, register = body[:5]
        transaction.stopped_reason = _name(REASONS, reason)
        context = "Transaction.End"
    if register is not None:
        sample = datatypes.SampledValueType(
            value=register,
            context=enums.ReadingContextEnumType(context),
            measurand=enums.MeasurandEnumType("Energy.Active.Import.Register"),
            unit_of_measure=datatypes.UnitOfMeasureType(unit="Wh"),
        )
        extra["meter_value"] = [datatypes.MeterValueType(timestamp=stamp, sampled_value=[sample])]
    return call.TransactionEvent(
        event_type=enums.TransactionEventEnumType(_KINDS[kind]),
        timestamp=stamp,
        trigger_reason=enums.TriggerReasonEnumType(_name(TRIGGERS, trigger) or "Trigger"),
        seq_no=seq_no,
        transaction_info=transaction,
        offline=True,
        **extra,
    )


def _name(names: Sequence[str], number: int) -> Any:
    return names[number - 1] if 0 < number <= len(names) else None


async def deliver(engine: sa.Engine, url: str, now: int) -> Delivery:
    """Hand over what was not yet. `url`: without the station.

    Raises OSError or what websockets raises where the CSMS is away; what it answered is marked.
    """
    with engine.connect() as connection:
        rows = undelivered(connection)
    done = Delivery()
    for station, own in groupby(rows, lambda row: row.station):
        where = f"{url.rstrip('/')}/{station}"
        try:
            async with connect(where, subprotocols=[_PROTOCOL]) as socket:
                await _speak_as(ChargePoint(station, socket), engine, list(own), now, done)
        except InvalidStatus as error:  # the CSMS is there, and does not know the station
            done.refused.append(Refusal(station, None, str(error)))
    return done


async def _speak_as(
    point: ChargePoint, engine: sa.Engine, rows: list[Any], now: int, done: Delivery
) -> None:
    listening = asyncio.create_task(point.start())
    working = asyncio.create_task(_deliver(engine, point, rows, now, done))
    try:
        await asyncio.wait({working, listening}, return_when="FIRST_COMPLETED")
        if not working.done():
            raise ConnectionError("closed by the CSMS")
        working.result()
    finally:
        for task in (working, listening):
            task.cancel()
        await asyncio.gather(working, listening, return_exceptions=True)


async def _deliver(
    engine: sa.Engine, point: ChargePoint, rows: list[Any], now: int, done: Delivery
) -> None:
    for row in rows:
        with engine.connect() as connection:
            sent = list(events(connection, row))
        try:
            for event in sent:
                await point.call(event, suppress=False)
        except OCPPError as error:  # of the CSMS, or of the library for what has no place in OCPP
            done.refused.append(Refusal(row.station, row.tx, repr(error)))
            continue
        with engine.begin() as connection:
            connection.execute(delivered.insert().values(log=row.id, tx=row.tx, at=now))
        done.count += 1
