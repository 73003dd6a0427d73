"""What SQLite and PostgreSQL do each in a way of their own: durability, rows in bulk, and which
errors pass by themselves.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError, TimeoutError

REVISION = "0004"  # the newest in migrations/versions

# SQLSTATE classes of PostgreSQL that say nothing about the data: connection, a server that only
# reads (a failover), rollback (deadlock, serialization), access and missing tables (an operator
# is at work), resources, locks, an operator's intervention, the system beneath.
_PASSING = ("08", "25", "40", "42", "53", "55", "57", "58")
_MIGRATION_LOCK = 0x636B6565  # any number that nothing else locks
_COPY_FROM = 200  # rows; below, a statement is cheaper than COPY
_COPY_TYPES = {
    sa.BigInteger: "int8",
    sa.Integer: "int4",
    sa.SmallInteger: "int2",
    sa.LargeBinary: "bytea",
    sa.String: "text",
}


class Stale(SQLAlchemyError):
    """Another process changed what we were about to change."""


class Broken(SQLAlchemyError):
    """Nothing at all can be written, for a reason that does not look as if it would pass."""


def connect(url: str) -> sa.Engine:
    """An engine for `url` with the schema up to date. SQLite commits reach the disk (FULL)."""
    engine = sa.create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def durable(connection: Any, _: Any) -> None:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA busy_timeout = 10000")
            connection.execute("PRAGMA foreign_keys = ON")

    migrate(engine)
    return engine


def migrate(engine: sa.Engine, revision: str = REVISION) -> None:
    """Bring the schema to `revision`. Costs a query where it is there already."""
    if sa.inspect(engine).has_table("alembic_version"):
        with engine.connect() as connection:
            if connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == revision:
                return
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":  # of several that start at once, one does it
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def passes(error: BaseException | None) -> bool:
    """Whether the same may work later: a lost connection, a lock, a conflict, a full disk.

    False for what the data itself provokes: a constraint, a value out of range, a bug.
    """
    if not isinstance(error, DBAPIError):
        return isinstance(error, Stale | TimeoutError)  # no connection of the pool was free
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return state[:2] in _PASSING
    return error.connection_invalidated or isinstance(error, OperationalError)


def insert(
    connection: sa.Connection, table: sa.Table, names: Sequence[str], rows: Sequence[tuple]
) -> None:
    """Insert `rows` of the columns `names`: by COPY into PostgreSQL, if they are many."""
    if not rows:
        return
    columns = f"{table.name} ({', '.join(names)})"
    if connection.dialect.name != "postgresql":
        values = ", ".join("?" * len(names))
        connection.exec_driver_sql(f"INSERT INTO {columns} VALUES ({values})", list(rows))
    elif len(rows) < _COPY_FROM:
        values = ", ".join(["%s"] * len(names))
        connection.exec_driver_sql(f"INSERT INTO {columns} VALUES ({values})", list(rows))
    else:
        _copy(connection, f"COPY {columns} FROM STDIN (FORMAT BINARY)", table, names, rows)


def _copy(
    connection: sa.Connection,
    statement: str,
    table: sa.Table,
    names: Sequence[str],
    rows: Sequence[tuple],
) -> None:
    driver: Any = connection.connection.driver_connection
    dialect: Any = connection.dialect
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            copy.set_types([_COPY_TYPES[type(table.c[name].type)] for name in names])
            for row in rows:
                copy.write_row(row)
    except dialect.loaded_dbapi.Error as error:
        lost = dialect.is_disconnect(error, driver, None)
        raise DBAPIError(statement, None, error, connection_invalidated=lost) from error
