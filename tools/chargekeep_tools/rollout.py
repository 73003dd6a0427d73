"""Updates stations over MQTT: publishes a bundle, and follows each station to its verdict.

List and files go in retained pieces of 2 KiB to the site's topics, once; the signed manifest goes
to each station that is meant and sends it after what it lacks. A station that is not there now
finds both when it is back.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Iterable
from typing import Any

from chargekeep_tools import wire
from chargekeep_tools.bundle import BOARDS, Bundle
from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.home import Home
from chargekeep_tools.publish import ALL, Message, connected, send, where

CHUNK = 2048

Progress = Callable[[str, dict[str, Any]], None]
"""Called with a station and what its status says of the update."""

_UPDATE = (("bundle", str), ("version", int), ("state", str), ("left", int), ("error", int))
VERDICTS = ("running", "rolled_back", "refused")


def bundle_id(bundle: Bundle) -> str:
    """How a station's status names a bundle."""
    return hashlib.sha256(bundle.manifest).digest()[:4].hex()


def _prefix(bundle: Bundle) -> str:
    return bundle.listed[13][1][:8].hex()


def _chunk_topics(site: str, prefix: str, count: int) -> list[str]:
    return [wire.topic(site, ALL, "down", "firmware", prefix, str(n)) for n in range(count)]


def meant(home: Home, bundle: Bundle, station: str) -> list[str]:
    """The stations to update: `station`, or with `all` those of the bundle's site and board.

    Raises WRONG_BOARD where the bundle is for another site, board or station.
    """
    site, board, only = bundle.listed[2], bundle.listed[11], bundle.listed.get(3)
    if station == ALL:
        records = [r for r in home.stations(site) if r["board"] == board and not r.get("revoked")]
        names = [r["station"] for r in records if only in (None, r["station"])]
    else:
        record = home.station(station)
        fits = (record["site"], record["board"]) == (site, board) and only in (None, station)
        names = [station] if fits else []
    if not names:
        raise ToolError(
            f"the bundle is for {only or 'stations'} of {site} with board {board}, "
            f"not for {station}",
            Exit.WRONG_BOARD,
            f"bundle build makes one for each board: {', '.join(BOARDS)}",
        )
    return names


def offer(home: Home, url: str, bundle: Bundle, stations: Iterable[str]) -> int:
    """Publish `bundle` for `stations`; clear chunks that no station is to take any more.

    Returns the number of messages sent.
    """
    site, prefix, stream = bundle.listed[2], _prefix(bundle), bundle.stream
    chunks = [stream[at : at + CHUNK] for at in range(0, len(stream), CHUNK)]
    topics = _chunk_topics(site, prefix, len(chunks))
    messages: list[Message] = [(t, data, True) for t, data in zip(topics, chunks, strict=True)]
    for name in stations:
        messages.append((wire.topic(site, name, "down", "firmware"), bundle.manifest, True))
    path, broker = home.site_folder(site) / "firmware.json", where(url)
    everywhere = home.read_json(path, {})
    here = everywhere.setdefault(broker, {"chunks": {}, "stations": {}})
    # Written down first: a topic that may be on the broker is never forgotten.
    here["chunks"][prefix] = len(chunks)
    home.write_json(path, everywhere)
    sent = send(url, messages)
    here["stations"] |= dict.fromkeys(stations, prefix)
    gone = set(here["chunks"]) - set(here["stations"].values())
    for old in sorted(gone):
        send(url, [(t, b"", True) for t in _chunk_topics(site, old, here["chunks"].pop(old))])
    home.write_json(path, everywhere)
    return sent


class Watch:
    """What the stations say of a bundle: `states` by station, as their status has it."""

    def __init__(self, bundle: Bundle, stations: Iterable[str], progress: Progress) -> None:
        self.id = bundle_id(bundle)
        self.site = bundle.listed[2]
        self.states: dict[str, dict[str, Any]] = {name: {} for name in stations}
        self._progress = progress
        self._done = threading.Event()

    def topics(self) -> dict[str, str]:
        return {wire.topic(self.site, name, "up", "status"): name for name in self.states}

    def heard(self, station: str, payload: bytes, retained: bool) -> None:
        update = _update_in(payload)
        if update.get("bundle") != self.id:
            return
        if retained and update.get("state") == "refused":
            return  # of an earlier attempt
        self.states[station] = update
        self._progress(station, update)
        if all(state.get("state") in VERDICTS for state in self.states.values()):
            self._done.set()

    def wait(self, seconds: float) -> None:
        self._done.wait(seconds)


def _update_in(payload: bytes) -> dict[str, Any]:
    """What a status says of an update, as far as it has the form; a station may send anything."""
    try:
        update = json.loads(payload)["update"]
        return {name: update[name] for name, kind in _UPDATE if type(update.get(name)) is kind}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def roll_out(
    home: Home,
    url: str,
    bundle: Bundle,
    stations: list[str],
    seconds: float,
    progress: Progress = lambda station, update: None,
) -> dict[str, dict[str, Any]]:
    """Publish `bundle` and wait up to `seconds` for every station's verdict.

    Returns station to its last word: `state` one of VERDICTS, or how far it has come.
    """
    watch = Watch(bundle, stations, progress)
    topics = watch.topics()
    with connected(url) as client:
        client.on_message = lambda _c, _u, m: watch.heard(
            topics[m.topic], bytes(m.payload), m.retain
        )
        for topic in topics:
            client.subscribe(topic, 1)
        offer(home, url, bundle, stations)
        watch.wait(seconds)
    return watch.states


def exit_code(state: dict[str, Any], refusals: dict[int, Exit]) -> Exit:
    """What a station's last word means; `refusals` maps the firmware's error codes."""
    match state.get("state"):
        case "running":
            return Exit.OK
        case "rolled_back":
            return Exit.ROLLED_BACK
        case "refused":
            return refusals.get(state.get("error", 0), Exit.DEVICE)
    return Exit.TRANSFER


def sentence(state: dict[str, Any]) -> str:
    """A station's last word as people read it."""
    match state.get("state"):
        case "running":
            return "runs it"
        case "rolled_back":
            return "went back to the version before: the new one did not pass its trial"
        case "refused":
            return f"refused it: E{state.get('error')}"
        case "loading":
            return f"is loading, {state.get('left', 0):,} bytes left"
        case "staged":
            return "has it and waits until nobody charges"
        case "trial":
            return "has it on trial"
    return "has not answered yet"
