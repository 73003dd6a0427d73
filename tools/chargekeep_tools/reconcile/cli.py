"""`chargekeep reconcile`: take in what stations send, bill it, and work off what is odd."""

import asyncio
import logging
import signal
import time
from pathlib import Path
from typing import Annotated, Any

import sqlalchemy as sa
import typer
from sqlalchemy.exc import OperationalError

from chargekeep_tools import keys, wire
from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.home import Home, default_home
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
from chargekeep_tools.reconcile import bill, policy, store
from chargekeep_tools.reconcile.project import Projector, open_exceptions
from chargekeep_tools.reconcile.schema import (
    adjustments,
    batches,
    bills,
    exceptions,
    logs,
    records,
    transactions,
)
from chargekeep_tools.reconcile.source import source_for
from chargekeep_tools.reconcile.verify import Stations
from chargekeep_tools.reconcile.worker import Reconciler

DatabaseOption = Annotated[
    str | None,
    typer.Option(
        "--database",
        envvar="CHARGEKEEP_DATABASE",
        help="SQLAlchemy URL [reconcile.db in the home directory].",
    ),
]

_PRICES = (11, 12, 13, 14, 4)  # currency, kWh, hour, start, and when it was issued

app = new_app("Take in what stations send; bill it.")
exceptions_app = new_app("What could not be reconciled without a human.")
app.add_typer(exceptions_app, name="exceptions")


def engine_for(home: Path | None, url: str | None) -> sa.Engine:
    root = home or default_home()
    return store.connect(url or f"sqlite:///{root / 'reconcile.db'}")


class HomeBooks:
    """What this home has signed and issued; read again when its files change."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._tariffs: dict[str, tuple[int, list[bill.Tariff]]] = {}
        self._issued: dict[str, set[str]] = {}

    def tariffs(self, site: str) -> list[bill.Tariff]:
        count = len(self.home.object_versions(site, "tariff"))
        known = self._tariffs.get(site)
        if known is None or known[0] != count:
            found = []
            for version, _, data in self.home.objects(site, "tariff"):
                body = wire.open_sign1(data, wire.TARIFF, keys.key_for(self.home))
                found.append(bill.Tariff(site, body[10], version, *(body[i] for i in _PRICES)))
            known = self._tariffs[site] = (count, found)
        return known[1]

    def issued(self, site: str, cti: bytes) -> bool:
        if cti.hex() not in self._issued.get(site, ()):
            self._issued[site] = {record["cti"] for record in self.home.entitlements(site)}
        return cti.hex() in self._issued[site]


def reconciler_for(home: Home, engine: sa.Engine, key: str | None, publish: Any) -> Reconciler:
    """A reconciler that signs acknowledgements with `key`, or with the only key that may."""
    record = keys.choose(home, "issuer", wire.SCOPE[wire.ACKNOWLEDGEMENT], key)
    stations = Stations(home)
    projector = Projector(engine, stations, HomeBooks(home))
    private_key = keys.load(home, record["name"])
    return Reconciler(engine, stations, private_key, publish, projector)


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
        int | None, typer.Option(help="Port on loopback for Prometheus [none].")
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
        except OperationalError as error:  # it may come up after us
            logging.error("database: %s", error)
            if ending:
                return
            time.sleep(1)
    reconciler = reconciler_for(Home(home), engine, key, source.publish)
    if metrics is not None:
        from chargekeep_tools.reconcile import metrics as prometheus

        prometheus.serve(reconciler, metrics)
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
            b["flags"],
        )
        for b in found
    )
    columns = ("station", "tx", "started", "register Wh", "Wh", "s", "total", "flags")
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
        print(f"{found['exceptions']} exceptions wait: chargekeep reconcile exceptions list")

    show(found, as_json, human)


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
    """Bill what was blocked and is not any more (tariff known, exception resolved)."""
    the_home = Home(home)
    projector = Projector(engine_for(home, database), Stations(the_home), HomeBooks(the_home))
    count = projector.retry()
    show({"bills": count}, as_json, lambda: print(f"{count} billed"))


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
        count = asyncio.run(ocpp.deliver(engine_for(home, database), csms, int(time.time())))
    except (OSError, WebSocketException, TimeoutError) as error:
        raise ToolError(f"{csms}: {error}", Exit.BROKER, "what it answered is kept; run it again")
    show({"delivered": count}, as_json, lambda: print(f"{count} delivered"))


WhereOption = Annotated[
    list[str] | None,
    typer.Option("--where", help="kind=fork, station=cp-1 or tx=7; all that are given hold."),
]


@exceptions_app.command("list")
def list_command(
    where: WhereOption = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="The resolved as well.")] = False,
    database: DatabaseOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what could not be reconciled without a human."""
    query = sa.select(exceptions).where(*_conditions(where)).order_by(exceptions.c.id)
    if not resolved:
        query = query.where(exceptions.c.resolved.is_(None))
    with engine_for(home, database).connect() as connection:
        found = [dict(row) for row in connection.execute(query).mappings()]
    columns = ("id", "station", "kind", "seq", "tx", "detail", "note")
    show(found, as_json, lambda: table(columns, ([row[c] for c in columns] for row in found)))


@exceptions_app.command("resolve")
def resolve_command(
    note: Annotated[str, typer.Argument(help="What was decided; kept for ever.")],
    where: WhereOption = None,
    database: DatabaseOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Mark all exceptions that match as dealt with. Nothing that was recorded changes."""
    if not where:
        raise ToolError("which?", Exit.USAGE, "give at least one --where, as kind=fork")
    change = (
        exceptions.update()
        .where(exceptions.c.resolved.is_(None), *_conditions(where))
        .values(resolved=int(time.time()), note=note)
    )
    with engine_for(home, database).begin() as connection:
        count = connection.execute(change).rowcount
    show({"resolved": count}, as_json, lambda: print(f"{count} resolved"))


def _conditions(where: list[str] | None) -> list[Any]:
    found = []
    for condition in where or ():
        name, equals, value = condition.partition("=")
        if not equals or name not in ("id", "kind", "station", "tx", "seq"):
            raise ToolError(
                f"{condition!r} is no condition", Exit.USAGE, "one of id, kind, station, tx, seq"
            )
        number = name in ("id", "tx", "seq")
        if number and not value.isdigit():
            raise ToolError(f"{condition!r}: {value!r} is no number", Exit.USAGE)
        found.append(exceptions.c[name] == (int(value) if number else value))
    return found
