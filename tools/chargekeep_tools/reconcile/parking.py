"""Batches that verify but that the database will not take, whatever the reason: a constraint, a
value, a bug. Each is kept as it came, with an exception for an operator; only its station waits.

Once the exception is resolved, the batch is tried again; `chargekeep reconcile retry` does so now.
"""

import sqlalchemy as sa

from chargekeep_tools.reconcile.database import passes
from chargekeep_tools.reconcile.schema import exceptions, parked
from chargekeep_tools.reconcile.store import Outcome, Store, reason, span, stored
from chargekeep_tools.reconcile.verify import Batch, Stations

KIND = "parked"


def park(engine: sa.Engine, batch: Batch, error: Exception, now: int) -> None:
    """Keep `batch`, which cannot be stored because of `error`; once."""
    same = (parked.c.station == batch.station, parked.c.data == batch.data)
    with engine.begin() as connection:
        if connection.execute(sa.select(parked.c.id).where(*same)).first() is not None:
            return
        values = {"station": batch.station, "kind": KIND, "seq": batch.first, "raised": now}
        detail = f"{span(batch)}: {reason(error)}"
        raised = exceptions.insert().values(values | {"detail": detail})
        key = connection.execute(raised.returning(exceptions.c.id)).scalar_one()
        names = {"site": batch.site, "station": batch.station, "exception": key}
        connection.execute(parked.insert().values(names | {"received": now, "data": batch.data}))


def take_up(
    store: Store, stations: Stations, now: int, note: str | None = None
) -> list[tuple[Batch, Outcome]]:
    """Store what was parked and whose exception is resolved; with a `note`, resolve them all.

    What fails again stays, its exception open. Raises what may pass by itself.
    """
    query = sa.select(parked).join(exceptions, exceptions.c.id == parked.c.exception)
    if note is None:
        query = query.where(exceptions.c.resolved.is_not(None))
    with store.engine.connect() as connection:
        rows = connection.execute(query.order_by(parked.c.id)).all()
    done = []
    for row in rows:
        station = stations.get(row.site, row.station)
        if station is None:
            continue
        this = exceptions.c.id == row.exception
        try:
            batch = stored(row.data, station)
            (outcome,) = store.ingest([(batch, station)], now)
        except Exception as error:
            if passes(error):
                raise
            with store.engine.begin() as connection:
                connection.execute(exceptions.update().where(this).values(resolved=None))
            continue
        with store.engine.begin() as connection:
            connection.execute(parked.delete().where(parked.c.id == row.id))
            if note is not None:
                values = {"resolved": now, "note": note}
                waits = exceptions.c.resolved.is_(None)
                connection.execute(exceptions.update().where(this, waits).values(values))
        done.append((batch, outcome))
    return done
