"""`chargekeep reconcile`: take in what stations send, bill it, and work off what is odd."""

import asyncio
import logging
import os
import signal
import time
from typing import Annotated, Any

import sqlalchemy as sa
import typer

from chargekeep_tools import keys, wire
from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.home import Home
from chargekeep_tools.options import (
    HomeOption,
    JsonOption,
    KeyOption,
    StationOption,
    new_app,
    show,
    table,
    utc,
)
from chargekeep_tools.publish import BrokerOption
from chargekeep_tools.reconcile import attest, bill, exceptions, parking, policy, store
from chargekeep_tools.reconcile.books import HomeBooks
from chargekeep_tools.reconcile.database import passes
from chargekeep_tools.reconcile.exceptions import DatabaseOption, engine_for
from chargekeep_tools.reconcile.project import Projector, open_exceptions
from chargekeep_tools.reconcile.schema import (
    adjustments,
    batches,
    bills,
    logs,
    records,
    transactions,
)
from chargekeep_tools.reconcile.source import source_for
from chargekeep_tools.reconcile.verifiers import Verifiers
from chargekeep_tools.reconcile.verify import Stations
from chargekeep_tools.reconcile.worker import Reconciler

app = new_app("Take in what stations send; bill it.")
app.add_typer(exceptions.app, name="exceptions")


def reconciler_for(
    home: Home, engine: sa.Engine, key: str | None, publish: Any, jobs: int = 1
) -> Reconciler:
    """A reconciler that signs acknowledgements with `key`, or with the only key that may.

    jobs: processes that verify; with one it is this.
    """
    record = keys.choose(home, "issuer", wire.SCOPE[wire.ACKNOWLEDGEMENT], key)
    stations = Stations(home)
    projector = Projector(engine, stations, HomeBooks(home))
    private_key = keys.load(home, record["name"])
    verifiers = Verifiers(home.root, jobs) if jobs > 1 else None
    return Reconciler(engine, stations, private_key, publish, projector, verifiers=verifiers)


@app.command("run")
def run_command(
    broker: BrokerOption = None,
    database: DatabaseOption = None,
    partition: Annotated[
        list[str] | None,
        typer.Option(help="Only this part of the stations: p07, or 0/4; repeat for more [all]."),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Stop after so many seconds [never].")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="[ADDRESS:]PORT for Prometheus, on loopback [none].")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes that verify [one for each core].")
    ] = None,
    key: KeyOption = None,
    home: HomeOption = None,
) -> None:
    """Receive, verify, store, acknowledge and bill, until interrupted.

    --broker may be a RabbitMQ cluster: amqp://user:password@host,host.
    """
    if broker is None:
        raise ToolError("no broker", Exit.USAGE, "name it with --broker or $CHARGEKEEP_BROKER")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    ending: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ending.append(1))
    source = source_for(broker, partition or ())
    while True:
        try:
            engine = engine_for(home, database)
            break
        except ToolError as error:
            if not passes(error.__cause__):
                raise
            logging.error("database: %s", error)  # it may come up after us
            if ending:
                return
            time.sleep(1)
    jobs = jobs or len(os.sched_getaffinity(0))
    reconciler = reconciler_for(Home(home), engine, key, source.publish, jobs)
    if metrics is not None:
        from chargekeep_tools.reconcile import metrics as prometheus

        address, _, port = metrics.rpartition(":")
        if not port.isdigit():
            raise ToolError(f"{metrics!r} is no port", Exit.USAGE, "write 9400 or 0.0.0.0:9400")
        prometheus.serve(reconciler, int(port), address or "127.0.0.1")
    give_up = None if seconds is None else time.monotonic() + seconds
    source.run(
        reconciler, lambda: bool(ending) or (give_up is not None and time.monotonic() > give_up)
    )


@app.command("bill")
def bill_command(
    station: StationOption = None,
    tx: Annotated[int | None, typer.Option(help="Only this transaction.")] = None,
    database: DatabaseOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the bills."""
    found = list_bills(engine_for(home, database), station, tx)
    rows = (
        (
            b["station"],
            b["tx"],
            utc(b["started"]),
            f"{b['register_from']} - {b['register_to']}",
            b["energy_wh"],
            b["seconds"],
            f"{b['total']} {b['currency']}",
            b["adjusted"].strip("0.") and b["adjusted"],
            b["flags"],
        )
        for b in found
    )
    columns = ("station", "tx", "started", "register Wh", "Wh", "s", "total", "adjusted", "flags")
    show(found, as_json, lambda: table(columns, rows))


def list_bills(
    engine: sa.Engine, station: str | None = None, tx: int | None = None
) -> list[dict[str, Any]]:
    """Bills in the order of station and transaction; money as decimal text.

    `started` is an estimate (flag time_unknown) where the station did not know the time: a later
    record of the same boot did, and both have the uptime.
    """
    own = (adjustments.c.log == bills.c.log, adjustments.c.tx == bills.c.tx)
    adjusted = sa.select(sa.func.coalesce(sa.func.sum(adjustments.c.total), 0)).where(*own)
    anchor = (
        sa.select(records.c.time - records.c.uptime + transactions.c.started_uptime)
        .where(
            records.c.log == transactions.c.log,
            records.c.boot == transactions.c.started_boot,
            records.c.time.is_not(None),
        )
        .order_by(records.c.seq)
        .limit(1)
    )
    started = sa.func.coalesce(transactions.c.started_time, anchor.scalar_subquery())
    query = (
        sa.select(
            logs.c.site,
            logs.c.station,
            started.label("started"),
            adjusted.scalar_subquery().label("adjusted"),
            bills,
        )
        .select_from(bills)
        .join(logs, logs.c.id == bills.c.log)
        .join(
            transactions,
            sa.and_(transactions.c.log == bills.c.log, transactions.c.tx == bills.c.tx),
        )
        .order_by(logs.c.site, logs.c.station, bills.c.log, bills.c.tx)
    )
    if station is not None:
        query = query.where(logs.c.station == station)
    if tx is not None:
        query = query.where(bills.c.tx == tx)
    plain = ("site", "station", "tx", "evse", "started", "register_from", "register_to")
    plain += ("energy_wh", "seconds", "currency", "flags")
    money = {"energy": "energy_amount", "time": "time_amount", "start": "start_amount"}
    money |= {"total": "total", "adjusted": "adjusted"}
    with engine.connect() as connection:
        return [
            {name: row[name] for name in plain}
            | {name: bill.money(int(row[column])) for name, column in money.items()}
            for row in connection.execute(query).mappings()
        ]


@app.command("evidence")
def evidence_command(
    station: Annotated[str, typer.Argument(help="The station that signed it.")],
    tx: Annotated[int, typer.Argument(help="The transaction, as in its bill.")],
    database: DatabaseOption = None,
    home: HomeOption = None,
) -> None:
    """Write what a station signed about a transaction, for `evidence verify`."""
    with engine_for(home, database).connect() as connection:
        found = attest.of(connection, station, tx)
    if found is None:
        hint = "a station signs when a transaction has ended; `reconcile bill` lists them"
        raise ToolError(f"{station}: no evidence of transaction {tx}", Exit.FAILED, hint)
    print(found.hex())


@app.command("status")
def status_command(
    database: DatabaseOption = None, home: HomeOption = None, as_json: JsonOption = False
) -> None:
    """Show the cursor of every log, its gaps, and what waits for a human."""
    found = status(engine_for(home, database))

    def human() -> None:
        columns = ("site", "station", "log", "head", "batches", "waiting", "quarantined", "bills")
        table(columns, ([log[name] for name in columns] for log in found["logs"]))
        for gap in found["gaps"]:
            print(f"{gap['station']}: slots {gap['first']} to {gap['last']} are missing")
        print(f"{found['exceptions']} exceptions wait: chargekeep exceptions list")

    show(found, as_json, human)


def count_of(engine: sa.Engine, what: sa.Table) -> int:
    with engine.connect() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(what)).scalar_one()


def status(engine: sa.Engine) -> dict[str, Any]:
    def number_of(state: int) -> Any:
        return sa.func.coalesce(sa.func.sum(sa.case((batches.c.state == state, 1), else_=0)), 0)

    billed = sa.select(sa.func.count()).where(bills.c.log == logs.c.id).scalar_subquery()
    query = (
        sa.select(
            logs,
            number_of(store.ACCEPTED).label("batches"),
            number_of(store.WAITING).label("waiting"),
            number_of(store.QUARANTINED).label("quarantined"),
            billed.label("bills"),
        )
        .outerjoin(batches, batches.c.log == logs.c.id)
        .group_by(logs.c.id)
        .order_by(logs.c.site, logs.c.station, logs.c.id)
    )
    with engine.connect() as connection:
        return {
            "logs": [
                {
                    "site": row["site"],
                    "station": row["station"],
                    "log": row["log_id"].hex(),
                    "head": row["head_seq"],
                    "projected": row["projected_seq"],
                    "batches": row["batches"],
                    "waiting": row["waiting"],
                    "quarantined": row["quarantined"],
                    "bills": row["bills"],
                }
                for row in connection.execute(query).mappings()
            ],
            "gaps": list(store.gaps(connection)),
            "exceptions": open_exceptions(connection),
        }


@app.command("rebuild")
def rebuild_command(
    database: DatabaseOption = None, home: HomeOption = None, as_json: JsonOption = False
) -> None:
    """Make transactions and bills anew from the stored batches."""
    the_home = Home(home)
    projector = Projector(engine_for(home, database), Stations(the_home), HomeBooks(the_home))
    count = projector.rebuild()
    show({"records": count}, as_json, lambda: print(f"{count} records projected"))


@app.command("policy")
def policy_command(as_json: JsonOption = False) -> None:
    """Show what is done where offline reality and the books disagree."""
    found = [vars(rule) for rule in policy.RULES]
    rows = ((rule.flag, rule.conflict, rule.policy) for rule in policy.RULES)
    show(found, as_json, lambda: table(("flag", "conflict", "policy"), rows))


@app.command("retry")
def retry_command(
    database: DatabaseOption = None, home: HomeOption = None, as_json: JsonOption = False
) -> None:
    """Take up what an error held up, and bill what was blocked and is not any more."""
    the_home, note, now = Home(home), "retried", int(time.time())
    stations, engine = Stations(the_home), engine_for(home, database)
    projector = Projector(engine, stations, HomeBooks(the_home))
    found = {"batches": len(parking.take_up(store.Store(engine), stations, now, note))}
    projector.take_up(note)
    before = count_of(engine, bills)
    found["records"] = projector.run()
    projector.retry()
    found["bills"] = count_of(engine, bills) - before
    text = "{batches} batches, {records} records, {bills} bills"
    show(found, as_json, lambda: print(text.format(**found)))


@app.command("deliver")
def deliver_command(
    csms: Annotated[
        str, typer.Option(envvar="CHARGEKEEP_CSMS", help="ws:// or wss:// URL without station.")
    ],
    database: DatabaseOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Hand billed transactions to an OCPP 2.0.1 CSMS; run it again to go on."""
    from websockets.exceptions import WebSocketException

    from chargekeep_tools.reconcile import ocpp

    try:
        done = asyncio.run(ocpp.deliver(engine_for(home, database), csms, int(time.time())))
    except (OSError, WebSocketException, TimeoutError) as error:
        raise ToolError(f"{csms}: {error}", Exit.BROKER, "what it answered is kept; run it again")
    found = {"delivered": done.count, "refused": [one._asdict() for one in done.refused]}

    def human() -> None:
        print(f"{done.count} delivered")
        if done.refused:
            table(("station", "tx", "refused"), done.refused)

    show(found, as_json, human)
    if done.refused:
        hint = "it goes on with them the next time; all else is delivered"
        raise ToolError(f"{csms} refused {len(done.refused)}", Exit.REFUSED, hint)
