"""Makes boards stations over USB: the device makes its key, the host keeps only the public half.

A run that was cut is repeated and goes on where it was, with the same key and the same log.
"""

import os
import time
from binascii import b2a_base64
from typing import Any

from chargekeep_tools import allowlist, credentials, keys, upload, wire
from chargekeep_tools.bundle import ROOT_FILES, Bundle, file_list
from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.credentials import Auth
from chargekeep_tools.device import Device, opened
from chargekeep_tools.home import Home, checked_name
from chargekeep_tools.publish import RETAINED
from chargekeep_tools.update import adopt

MICROPYTHON = (1, 28, 0)
"""The oldest MicroPython the firmware runs on."""

PLATFORMS = {"RP2": "rp2", "ESP32": "esp32", "UNIX": "linux"}
"""A manifest's board to sys.platform."""

_CA, _PROMPT = 8, 12  # of the network map
_SLOW = "RP2040"  # takes 0.4 s for an ephemeral key: longer than a driver is to wait
_PROOF = b"chargekeep commission\0"
# Erasing and checking 64 sectors takes up to 26 s at the flash's worst case.
_COMMISSION_TIMEOUT_S = 90


def network_map(
    *,
    wifi: tuple[str, str] | None = None,
    broker: tuple[str, int] | None = None,
    tls: bool = False,
    ca: bytes | None = None,
) -> dict[int, Any]:
    """The station's file `network` (FORMATS.md section 8) but for its own credentials.

    Wi-Fi `(ssid, password)`, broker `(host, port)`, its authority's certificate (DER).
    """
    found: dict[int, Any] = {}
    if wifi is not None:
        found |= {1: wifi[0], 2: wifi[1]}
    if broker is not None:
        found |= {3: broker[0], 4: broker[1], 7: tls}
    if ca is not None:
        found[_CA] = ca
    return found


def commission(
    home: Home,
    device: Device,
    site: str,
    station: str,
    *,
    evse_id: int = 1,
    network: dict[int, Any] | None = None,
    auth: Auth = Auth.PASSWORD,
    root: str | None = None,
    replace: bool = False,
    forward_secrecy: bool = False,
) -> dict[str, Any]:
    """Have the device become `station`, and keep its record. Returns the record.

    `network` lacks what the station shows to the broker: it is made here, once for each station,
    and again with `replace`, for the board before may be in other hands. `forward_secrecy`: on
    an RP2040 as well, which makes drivers wait.
    Raises `ToolError` when the proof of possession of the new key does not verify.
    """
    checked_name(station, "station")
    before = home.station(station) if home.has_station(station) else None
    if before is not None and before["site"] != site:
        raise ToolError(
            f"station {station} belongs to site {before['site']}", Exit.USAGE, "take another name"
        )
    if before is not None and before.get("revoked") and not replace:
        raise ToolError(
            f"station {station} was revoked", Exit.REFUSED, "--replace makes a new station of it"
        )
    mqtt = credentials.make(
        home, station, auth, before["mqtt"] if before and not replace else None
    )
    settings = (network or {}) | credentials.network(mqtt)
    if _CA in settings and not forward_secrecy:
        if _SLOW in device.run("import sys\nprint(sys.implementation._machine)"):
            settings[_PROMPT] = True
    challenge = os.urandom(32)
    request = {
        1: site,
        2: station,
        3: evse_id,
        4: bytes.fromhex(keys.choose(home, "root", name=root)["public_key"]),
        5: os.urandom(32),
        6: home.site_key(site),
        7: settings,
        8: challenge,
        9: replace,
    }
    device.run("from chargekeep import commission")
    result = device.call(
        f"commission.run('commission', {wire.dumps(request)!r})", _COMMISSION_TIMEOUT_S
    )
    public_key, log_id = bytes.fromhex(result["public_key"]), bytes.fromhex(result["log_id"])
    proof = _PROOF + challenge + log_id
    if not wire.verify(public_key, proof, bytes.fromhex(result["proof"])):
        raise ToolError(
            f"{device.port}: the station's key does not sign as it should",
            Exit.VERIFY,
            "do not use this board",
        )
    if before is not None and before["public_key"] != public_key.hex() and not replace:
        raise ToolError(
            f"{station} has another key than the record in {home.root}",
            Exit.WRONG_BOARD,
            "is it the right board? --replace records the new key",
        )
    record = {
        "site": site,
        "station": station,
        "evse_id": result["evse_id"],
        "public_key": public_key.hex(),
        "kid": wire.kid(public_key).hex(),
        "log_id": log_id.hex(),
        "seal_key": result["seal_key"],
        "mqtt": mqtt,
        "board": result["board"],
        "unique_id": result["unique_id"],
        "firmware": result["firmware"],
        "micropython": result["micropython"],
        "ledger_blocks": result["ledger_blocks"],
        "commissioned": int(time.time()),
    }
    if before is not None and replace:
        credentials.end(home, before["mqtt"])
    _keep(home, record, before)
    device.call("commission.run('confirm')")
    return record


def _keep(home: Home, record: dict[str, Any], before: dict[str, Any] | None) -> None:
    if before is not None and before["public_key"] != record["public_key"]:
        # Its old log is still to be verified: keys are retired, not forgotten.
        names = ("public_key", "kid", "log_id", "seal_key", "commissioned", "revoked")
        old = {name: before[name] for name in names if name in before}
        record["former"] = [*before.get("former", ()), old]
    elif before is not None:
        record["seal_key"] = record["seal_key"] or before["seal_key"]
        record["commissioned"] = before["commissioned"]
        if "former" in before:
            record["former"] = before["former"]
    home.save_station(record)


def install(home: Home, device: Device, station: str) -> dict[str, int]:
    """Give the station the objects in force, allowlist included, as the broker would.

    Returns object names to versions. What the station has already is not sent again.
    """
    site = home.station(station)["site"]
    installed: dict[str, int] = {}
    device.run("from chargekeep import commission")
    for name in RETAINED:
        current = home.current(site, name)
        newest = max((current[to] for to in (None, station) if to in current), default=None)
        if newest is None:
            continue
        version, data = newest
        answer = device.call(f"commission.run('take', {name!r}, {b2a_base64(data)!r})", 30)
        if name == "allowlist":
            parts = dict(allowlist.parts(home, site, version))
            while answer["wanted"]:
                wanted, n = answer["wanted"]
                chunk = b2a_base64(parts[n])
                answer = device.call(f"commission.run('take_chunk', {wanted}, {n}, {chunk!r})", 30)
        installed[name] = version
    return installed


def bring_firmware(
    device: Device,
    bundle: Bundle,
    wiring: bytes = b"",
    progress: upload.Progress = lambda name, size: None,
) -> int:
    """Bring the firmware onto a board that has none; returns the bytes sent.

    A board that has a slot pointer is left alone: its firmware changes by an update only. The
    pointer is written last, so a run that was cut is found unfinished and goes on.
    """
    facts = upload.hello(device)
    check_board(device.port, facts, bundle)
    sent = 0
    if not facts["slot"]:
        files = {f"a/{path}": data for path, data in sorted(bundle.files.items())}
        files["a/files"] = file_list(bundle.files)
        files |= {name: bundle.files[f"root/{name}"] for name in ROOT_FILES}
        files["config.json"] = wiring or bundle.files["root/config.json"]
        sent = upload.upload(device, {**files, "slot": b"a"}, progress)
    device.fresh()
    return sent


def check_board(port: str, facts: dict[str, Any], bundle: Bundle) -> None:
    """Raise WRONG_BOARD or WRONG_ABI where the bundle cannot run on the board of `facts`."""
    version = ".".join(map(str, facts["version"]))
    if tuple(facts["version"]) < MICROPYTHON:
        raise ToolError(
            f"{port} runs MicroPython {version}",
            Exit.WRONG_ABI,
            f"flash {'.'.join(map(str, MICROPYTHON))} or newer",
        )
    platform = PLATFORMS[bundle.listed[11]]
    if facts["platform"] != platform:
        raise ToolError(
            f"{port} is a board of {facts['platform']} ({facts['machine']}), not {platform}",
            Exit.WRONG_BOARD,
            "build the bundle for this board",
        )
    abi = bundle.listed[12]
    if abi != (facts["mpy"] if abi > 255 else facts["mpy"] & 255):
        raise ToolError(
            f"{port}: MicroPython {version} has bytecode {facts['mpy']}, the bundle {abi}",
            Exit.WRONG_ABI,
            "build the bundle with the mpy-cross of this MicroPython",
        )


def self_test(device: Device, relay: bool = False) -> dict[str, Any]:
    """Part to result, as firmware/chargekeep/selftest.py reports; `relay` moves the relay."""
    device.run("from chargekeep import commission")
    return device.call(f"commission.run('selftest', {relay})", 60)


def provision(home: Home, port: str, site: str, station: str, **how: Any) -> dict[str, Any]:
    """`provision_on` for the board at `port`."""
    with opened(port) as device:
        return provision_on(home, device, site, station, **how)


def provision_on(
    home: Home,
    device: Device,
    site: str,
    station: str,
    *,
    bundle: Bundle | None = None,
    wiring: bytes = b"",
    test: bool = False,
    relay: bool = False,
    restart: bool = False,
    progress: upload.Progress = lambda name, size: None,
    **how: Any,
) -> dict[str, Any]:
    """Make a board a station, from whatever state it is in. Returns its record.

    bundle: the firmware for a board that has none; wiring: content of its config.json, if not
    the bundle's own.
    test: try every part of the board; relay: its relay as well. restart: start the charger.
    how: see `commission`.
    """
    if bundle is not None:
        bring_firmware(device, bundle, wiring, progress)
    record = commission(home, device, site, station, **how)
    record["installed"] = install(home, device, station)
    if bundle is not None:
        device.fresh()
        record["version"] = adopt(device, bundle)["version"]
    if test:
        record["self_test"] = self_test(device, relay)
        home.save_station({k: v for k, v in record.items() if k != "installed"})
    if restart:
        device.leave("from chargekeep import board\nboard.open_board().reset()")
    return record
