"""The commands that make boards stations: one, or many at once from a list."""

import csv
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer

from chargekeep_tools import boards, bundle, credentials, label, live
from chargekeep_tools.broker import PORTS
from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.credentials import Auth, Authority
from chargekeep_tools.home import Home
from chargekeep_tools.options import (
    HomeOption,
    JsonOption,
    SiteOption,
    new_app,
    progress_lines,
    show,
    site_of,
    table,
    utc,
)
from chargekeep_tools.provision import network_map, provision
from chargekeep_tools.upload import Progress

_SECRET = ("mqtt", "seal_key", "former")

BoardOption = Annotated[
    str | None,
    typer.Option("--board", help="Upload the firmware for this board, built from the sources."),
]
BundleOption = Annotated[
    Path | None, typer.Option("--bundle", help="Upload the firmware in this bundle.")
]
WiringOption = Annotated[
    Path | None, typer.Option("--wiring", help="config.json for the board [that of the bundle].")
]
WifiOption = Annotated[
    str | None,
    typer.Option(help="Wi-Fi name; asks for its password ($CHARGEKEEP_WIFI_PASSWORD)."),
]
MqttOption = Annotated[str | None, typer.Option("--broker", help="MQTT broker as host:port.")]
TlsOption = Annotated[bool, typer.Option("--tls", help="Connect to the broker with TLS.")]
CaOption = Annotated[
    Path | None,
    typer.Option("--ca", help="Certificate that vouches for the broker [our own authority's]."),
]
ForwardOption = Annotated[
    bool,
    typer.Option(
        "--forward-secrecy",
        help="Ephemeral TLS keys on an RP2040 too: a driver may wait 0.4 s for one.",
    ),
]
AuthOption = Annotated[
    Auth, typer.Option("--auth", help="What the station shows to the broker; the last two: TLS.")
]
RootOption = Annotated[str | None, typer.Option("--root", help="Root key the station believes.")]
ReplaceOption = Annotated[
    bool, typer.Option("--replace", help="Forget the station the board was, its key and its log.")
]
TestOption = Annotated[
    bool, typer.Option("--test/--no-test", help="Try meter, reader, clock and network.")
]
RelayOption = Annotated[
    bool, typer.Option("--test-relay", help="Try the relay as well: no car may be plugged in.")
]

app = new_app("Make boards stations, over USB.")


class Job:
    """What all boards of one call have in common: the firmware, the network, the site."""

    def __init__(
        self,
        home: Path | None,
        site: str | None,
        board: str | None,
        path: Path | None,
        wiring: Path | None,
        wifi: str | None,
        broker: str | None,
        tls: bool,
        ca: Path | None,
        auth: Auth,
        **how: Any,
    ) -> None:
        self.home = Home(home)
        self.site = site_of(self.home, site)
        self.how = how
        if path is not None:
            how["bundle"] = bundle.load(path)
        elif board is not None:
            how["bundle"] = bundle.build(self.home, self.site, board)
        if wiring is not None:
            how["wiring"] = _read_wiring(wiring)
        how["auth"] = auth
        tls = tls or ca is not None or auth != Auth.PASSWORD
        authority = None
        if tls and auth != Auth.PSK:
            authority = credentials.authority_in(ca) if ca else Authority(self.home).der
        port = PORTS[list(Auth).index(auth) + 1] if tls else PORTS[0]
        how["network"] = network_map(
            wifi=(wifi, _wifi_password(wifi)) if wifi else None,
            broker=_host_and_port(broker, port) if broker else None,
            tls=tls,
            ca=authority,
        )

    def do(self, port: str, station: str, evse: int, progress: Progress) -> dict[str, Any]:
        """Provision one board and write its label; the record without what is secret."""
        port = boards.resolve(port)
        live.make_quiet(port)
        record = provision(
            self.home,
            port,
            self.site,
            station,
            evse_id=evse,
            restart=True,
            progress=progress,
            **self.how,
        )
        page = self.home.root / "stations" / f"{station}.html"
        page.write_text(label.page(record))
        return public(record) | {"label": str(page)}


def _read_wiring(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        json.loads(data)
    except (OSError, ValueError) as error:
        raise ToolError(f"{path}: {error}", Exit.USAGE, "see boards/*/config.json")
    return data


def public(record: dict[str, Any]) -> dict[str, Any]:
    """A station's record without passwords and keys."""
    return {name: value for name, value in record.items() if name not in _SECRET}


def failed_tests(record: dict[str, Any]) -> list[str]:
    return [name for name, result in record.get("self_test", {}).items() if not result["ok"]]


def _total(how: dict[str, Any]) -> int:
    return sum(map(len, how["bundle"].files.values())) if "bundle" in how else 1


@app.command("provision")
def provision_command(
    port: Annotated[str, typer.Argument(help="Port, USB serial number, or auto: the only one.")],
    station: Annotated[str, typer.Argument(help="Name of the station.")],
    evse: Annotated[int, typer.Option(min=1, help="EVSE id.")] = 1,
    board: BoardOption = None,
    path: BundleOption = None,
    wiring: WiringOption = None,
    wifi: WifiOption = None,
    broker: MqttOption = None,
    tls: TlsOption = False,
    ca: CaOption = None,
    forward_secrecy: ForwardOption = False,
    auth: AuthOption = Auth.PASSWORD,
    root: RootOption = None,
    replace: ReplaceOption = False,
    test: TestOption = True,
    test_relay: RelayOption = False,
    site: SiteOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the board at PORT the station STATION. Run it again after a cut: it goes on."""
    job = Job(
        home,
        site,
        board,
        path,
        wiring,
        wifi,
        broker,
        tls,
        ca,
        auth,
        root=root,
        forward_secrecy=forward_secrecy,
        replace=replace,
        test=test,
        relay=test_relay,
    )
    with progress_lines(not as_json) as line:
        record = job.do(port, station, evse, line(station, _total(job.how)))
    show(record, as_json, lambda: _tell(record))
    if failed_tests(record):
        raise typer.Exit(Exit.SELF_TEST)


def _tell(record: dict[str, Any]) -> None:
    print(f"{record['station']} is a station of {record['site']}, kid {record['kid']}")
    for name, result in record.get("self_test", {}).items():
        print(f"  {name}: {'ok' if result['ok'] else result['detail']}")
    print(f"  label to print: {record['label']}")


@app.command("provision-many")
def provision_many_command(
    plan: Annotated[Path, typer.Argument(help="CSV: port,station[,evse]", exists=True)],
    jobs: Annotated[int, typer.Option(min=1, help="Boards at once.")] = 4,
    board: BoardOption = None,
    path: BundleOption = None,
    wiring: WiringOption = None,
    wifi: WifiOption = None,
    broker: MqttOption = None,
    tls: TlsOption = False,
    ca: CaOption = None,
    forward_secrecy: ForwardOption = False,
    auth: AuthOption = Auth.PASSWORD,
    root: RootOption = None,
    test: TestOption = True,
    site: SiteOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Provision every board of PLAN. One line of JSON a board with --json; run it again after a
    failure: what is done is done quickly. The exit status is that of the first failure."""
    how = {"root": root, "forward_secrecy": forward_secrecy, "test": test}
    job = Job(home, site, board, path, wiring, wifi, broker, tls, ca, auth, **how)
    rows = list(_read_plan(plan))
    codes = []
    with progress_lines(not as_json) as line, ThreadPoolExecutor(jobs) as pool:

        def one(row: tuple[str, str, int]) -> dict[str, Any]:
            port, station, evse = row
            try:
                return job.do(port, station, evse, line(station, _total(job.how)))
            except ToolError as error:
                return {
                    "station": station,
                    "port": port,
                    "error": str(error),
                    "exit_code": int(error.exit_code),
                    "hint": error.hint,
                }

        for record in pool.map(one, rows):
            code = record.get("exit_code", Exit.SELF_TEST if failed_tests(record) else Exit.OK)
            codes.append(code)
            if as_json:
                print(json.dumps(record), flush=True)
            elif "error" in record:
                print(f"{record['station']}: {record['error']}\n  {record['hint']}")
            else:
                _tell(record)
    raise typer.Exit(next((code for code in codes if code), 0))


def _read_plan(path: Path) -> Iterator[tuple[str, str, int]]:
    with path.open(newline="") as file:
        for number, row in enumerate(csv.reader(file), 1):
            if not row or (number == 1 and row[0].strip().lower() == "port"):
                continue
            port, station, evse = (*map(str.strip, row), "", "")[:3]
            if not port or not station or not (evse or "1").isdigit():
                raise ToolError(f"{path}:{number}: {','.join(row)!r}", Exit.USAGE, "port,station")
            yield port, station, int(evse or 1)


def _wifi_password(ssid: str) -> str:
    # From the environment, or asked for; never on a command line, where others can read it.
    given = os.environ.get("CHARGEKEEP_WIFI_PASSWORD")
    if given is not None:
        return given
    return typer.prompt(f"Password of Wi-Fi {ssid}", hide_input=True, err=True)


def _host_and_port(text: str, default: int) -> tuple[str, int]:
    host, _, port = text.partition(":")
    if not host or not (port or "1").isdigit():
        raise ToolError(f"{text!r} is no broker", Exit.USAGE, "write host or host:port")
    return host, int(port or default)


stations = typer.Typer(help="List and revoke the stations of this home.")
app.add_typer(stations, name="stations")


@stations.callback(invoke_without_command=True)
def stations_command(
    context: typer.Context,
    site: SiteOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the stations of this home; or revoke one."""
    if context.invoked_subcommand:
        return
    records = [public(record) for record in Home(home).stations(site)]
    rows = (
        (
            r["station"],
            r["site"],
            r["kid"],
            r["board"],
            r["firmware"],
            "revoked" if r.get("revoked") else utc(r["commissioned"]),
        )
        for r in records
    )
    columns = ("station", "site", "kid", "board", "firmware", "commissioned")
    show(records, as_json, lambda: table(columns, rows))


@stations.command("revoke")
def revoke_command(
    station: Annotated[str, typer.Argument(help="Name of the station.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Believe a station no more: one that was stolen, say. `broker config` tells the broker."""
    record = public(credentials.revoke(Home(home), station))

    def human() -> None:
        print(f"{station} is revoked: nothing it sends is taken from now on")
        print("  now run: chargekeep broker config, and restart the broker")

    show(record, as_json, human)
