"""`chargekeep exceptions`: list and work off what could not be reconciled without a human."""

import time
from pathlib import Path
from typing import Annotated, Any

import sqlalchemy as sa
import typer
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.home import default_home
from chargekeep_tools.options import HomeOption, JsonOption, new_app, show, table, utc
from chargekeep_tools.reconcile import policy
from chargekeep_tools.reconcile.database import connect
from chargekeep_tools.reconcile.schema import exceptions

DatabaseOption = Annotated[
    str | None,
    typer.Option(
        "--database",
        envvar="CHARGEKEEP_DATABASE",
        help="SQLAlchemy URL [reconcile.db in the home directory].",
    ),
]

app = new_app("List and work off what could not be reconciled without a human.")


def engine_for(home: Path | None, url: str | None) -> sa.Engine:
    """The database at `url`, or that of the home. Raises `ToolError` where there is none."""
    url = url or f"sqlite:///{(home or default_home()) / 'reconcile.db'}"
    try:
        return connect(url)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        hint = "write postgresql+psycopg://user:password@host/name or sqlite:///path"
        raise ToolError(f"no database: {error}", Exit.USAGE, hint)
    except DBAPIError as error:
        shown = sa.make_url(url).render_as_string()  # without its password
        hint = "does its server run, or for SQLite its folder exist?"
        raise ToolError(f"{shown}: {error.orig}", Exit.DATABASE, hint) from error


WhereOption = Annotated[
    list[str] | None,
    typer.Option("--where", help="kind=fork, station=cp-1 or tx=7; all that are given hold."),
]


@app.command("list")
def list_command(
    where: WhereOption = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="The resolved as well.")] = False,
    database: DatabaseOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what could not be reconciled without a human."""
    query = sa.select(exceptions).where(*conditions(where)).order_by(exceptions.c.id)
    if not resolved:
        query = query.where(exceptions.c.resolved.is_(None))
    with engine_for(home, database).connect() as connection:
        found = [dict(row) for row in connection.execute(query).mappings()]

    def human() -> None:
        columns = ["id", "raised", "station", "kind", "tx", "seq", "detail"]
        columns += ["resolved", "note"] if resolved else []
        times = {"raised", "resolved"}
        rows = ([utc(r[c]) if c in times else r[c] for c in columns] for r in found)
        table(columns, rows)
        print("what each means, and what is done: chargekeep reconcile policy")

    show(found, as_json, human if found else lambda: print("none"))


@app.command("resolve")
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
        .where(exceptions.c.resolved.is_(None), *conditions(where))
        .values(resolved=int(time.time()), note=note)
    )
    with engine_for(home, database).begin() as connection:
        count = connection.execute(change).rowcount
    text = f"{count} resolved"
    if count:
        text += "; what waited for it is taken up by `reconcile run`, or by `reconcile retry` now"
    show({"resolved": count}, as_json, lambda: print(text))


def conditions(where: list[str] | None) -> list[Any]:
    """What `--where` says, for a query of the table."""
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
        if name == "kind" and value not in policy.BY_FLAG:
            hint = "chargekeep reconcile policy lists them"
            raise ToolError(f"no exception is of kind {value!r}", Exit.USAGE, hint)
        found.append(exceptions.c[name] == (int(value) if number else value))
    return found
