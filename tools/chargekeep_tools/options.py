"""What the commands share: options, times and amounts as people write them, and output."""

import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any

import typer

from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.home import Home, checked_name

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", envvar="CHARGEKEEP_HOME", help="Home directory [~/.chargekeep]."),
]
SiteOption = Annotated[
    str | None,
    typer.Option("--site", envvar="CHARGEKEEP_SITE", help="Site; not needed if there is one."),
]
StationOption = Annotated[
    str | None, typer.Option("--station", help="Only this station instead of the whole site.")
]
KeyOption = Annotated[
    str | None, typer.Option("--key", help="Key to sign with; not needed if only one may.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]

_DURATION = re.compile(r"\+?(\d+)([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def new_app(text: str) -> typer.Typer:
    """A group of commands that shows its help when called alone."""
    return typer.Typer(help=text, no_args_is_help=True, pretty_exceptions_enable=False)


def site_of(home: Home, site: str | None, station: str | None = None, new: bool = False) -> str:
    """The site that is meant: named (with `new` it need not exist), the station's, or the only."""
    if station is not None and home.has_station(station):
        own = home.station(station)["site"]
        if site not in (None, own):
            raise ToolError(f"station {station} belongs to site {own}", Exit.USAGE, "drop --site")
        return own
    sites = home.sites()
    if site is not None:
        if not new and site not in sites:
            raise ToolError(
                f"no site {site!r} (there are: {', '.join(sites) or 'none yet'})",
                Exit.HOME,
                "trust build --site NAME begins a new one",
            )
        return checked_name(site, "site")
    if len(sites) == 1:
        return sites[0]
    raise ToolError(
        f"which site? there are {', '.join(sites) or 'none yet'}",
        Exit.USAGE,
        "name it with --site",
    )


def seconds(text: str) -> int:
    """`90s`, `30m`, `8h`, `2d`, `1w` in seconds."""
    found = _DURATION.fullmatch(text)
    if not found:
        raise ToolError(f"{text!r} is no duration", Exit.USAGE, "write 30m, 8h, 2d or 1w")
    return int(found[1]) * _SECONDS[found[2]]


def moment(text: str, now: int | None = None) -> int:
    """Unix seconds of `2026-12-01`, `2026-12-01T18:30Z`, `+8h` from now, `now`, or a number."""
    now = int(time.time()) if now is None else now
    if text == "now":
        return now
    if text.isdigit():
        return int(text)
    if text.startswith("+"):
        return now + seconds(text)
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise ToolError(
            f"{text!r} is no time", Exit.USAGE, "write 2026-12-01T18:30Z, +8h or unix seconds"
        )
    return int((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp())


LATEST = int(datetime(9999, 12, 31, tzinfo=UTC).timestamp())
"""Unix seconds: what comes after is a number, but no date."""


def utc(unix: int | None) -> str:
    """Unix seconds as people read them; a station may have signed any."""
    if not unix:
        return "-"
    if not 0 < unix <= LATEST:
        return f"@{unix}"
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def ten_thousandths(text: str) -> int:
    """An amount of money as the tariff carries it: `0.35` is 3500."""
    try:
        value = Decimal(text) * 10000
    except InvalidOperation:
        raise ToolError(f"{text!r} is no amount", Exit.USAGE, "write it as 0.35")
    if value != int(value) or not 0 <= value < 2**31:
        raise ToolError(f"{text} has more than 4 decimals or is out of range", Exit.USAGE)
    return int(value)


def show(obj: Any, as_json: bool, human: Callable[[], None]) -> None:
    """Print `obj` as JSON, or what `human` prints."""
    if as_json:
        json.dump(obj, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        human()


def table(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Print a table; what a station or a driver wrote is text and no instruction to a terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        texts = ("" if cell is None else str(cell) for cell in row)
        grid.add_row(*(Text("".join(c if c.isprintable() else "?" for c in t)) for t in texts))
    Console().print(grid)


def _flat(obj: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in obj.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def outline(obj: dict[str, Any]) -> None:
    """Print a map as a table, one in another as `outer.inner`."""
    table(("", ""), sorted(_flat(obj)))


@contextmanager
def progress_lines(show_them: bool) -> Iterator[Any]:
    """A function of a station's name that makes a line of progress for it."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[file]}"))
    with Bars(
        *columns, TimeElapsedColumn(), console=Console(stderr=True), disable=not show_them
    ) as lines:

        def line(station: str, total: int) -> Callable[[str, int], None]:
            task = lines.add_task(station, total=total, file="")
            done: dict[str, int] = {}

            def advance(name: str, size: int) -> None:
                done[name] = size
                lines.update(task, completed=sum(done.values()), file=name)

            return advance

        yield line
