"""The operator's home directory: keys, stations, sites, and every signed object ever made.

    home/
      keys/<name>.pem            private key, PKCS#8, mode 0600
      keys/<name>.json           what may be known of it: role, public key, kid, scope, validity
      stations/<station>.json    site, public key, kid, log id, MQTT credentials (mode 0600)
      broker.json                passwords of the host's own MQTT users (mode 0600)
      ca/                        authority of the link to the broker (credentials.py)
      sites/<site>/site.json     site key (mode 0600)
      sites/<site>/versions.json the last version given out, by object
      sites/<site>/entitlements.jsonl   what was issued, one a line
      sites/<site>/revoked.json  what was revoked
      sites/<site>/<object>/<version>.cose   each signed object

A file is replaced atomically and is on the disk before a command says so. A version is taken
under a lock and written down before anything is signed with it, so none is ever used twice.
"""

import contextlib
import fcntl
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chargekeep_tools import wire
from chargekeep_tools.codes import Exit, ToolError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")


def checked_name(name: str, what: str) -> str:
    """`name` if it can be part of a file name and an MQTT topic; else a usage error."""
    if not _NAME.fullmatch(name):
        raise ToolError(
            f"{name!r} cannot be the name of a {what}",
            Exit.USAGE,
            "use letters, digits, '.', '_' and '-', at most 32, the first a letter or a digit",
        )
    if what == "station" and name == "all":
        raise ToolError(
            "'all' stands for every station of a site", Exit.USAGE, "take another name"
        )
    return name


def default_home() -> Path:
    """$CHARGEKEEP_HOME, or ~/.chargekeep."""
    return Path(os.environ.get("CHARGEKEEP_HOME") or Path.home() / ".chargekeep")


class Home:
    """The directory at `root`, made on first use with access for its owner only."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or default_home()

    # Files

    def write(self, path: Path, data: bytes, private: bool = False) -> None:
        """Replace the file `path`, on the disk when this returns."""
        self._folder(path.parent)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")  # mode 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fchmod(file.fileno(), 0o600 if private else 0o644)
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _folder(self, path: Path) -> Path:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return path

    def read_json(self, path: Path, default: Any = None) -> Any:
        try:
            return json.loads(path.read_bytes())
        except FileNotFoundError:
            return default
        except ValueError as error:
            raise ToolError(f"{path} is damaged: {error}", Exit.HOME, "restore it from a backup")

    def write_json(self, path: Path, obj: Any, private: bool = False) -> None:
        self.write(path, (json.dumps(obj, indent=2) + "\n").encode(), private)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Alone in this home: for a read and a write that belong together."""
        with (self._folder(self.root) / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    # Keys (keys.py makes and opens them)

    def key_path(self, name: str) -> Path:
        return self.root / "keys" / f"{checked_name(name, 'key')}.pem"

    def keys(self) -> list[dict[str, Any]]:
        """What may be known of each key, by name."""
        found = sorted((self.root / "keys").glob("*.json"))
        return [self.read_json(path) for path in found]

    def key(self, name: str) -> dict[str, Any]:
        record = self.read_json(self.key_path(name).with_suffix(".json"))
        if record is None:
            known = ", ".join(record["name"] for record in self.keys()) or "none yet"
            raise ToolError(
                f"no key {name!r} (there are: {known})", Exit.KEY, "keys create makes one"
            )
        return record

    def save_key(self, record: dict[str, Any], pem: bytes | None = None) -> None:
        path = self.key_path(record["name"])
        if pem is not None:
            self.write(path, pem, private=True)
        self.write_json(path.with_suffix(".json"), record)

    # Stations

    @property
    def stations_folder(self) -> Path:
        """It changes whenever a record does, for each is replaced as a whole."""
        return self.root / "stations"

    def stations(self, site: str | None = None) -> list[dict[str, Any]]:
        """The records of all stations, or of those of `site`, by name."""
        found = sorted(self.stations_folder.glob("*.json"))
        records = [self.read_json(path) for path in found]
        return [record for record in records if site is None or record["site"] == site]

    def station(self, station: str) -> dict[str, Any]:
        record = self.read_json(self._station_path(station))
        if record is None:
            raise ToolError(
                f"no station {station!r} in {self.root}", Exit.HOME, "provision makes one"
            )
        return record

    def has_station(self, station: str) -> bool:
        return self._station_path(station).exists()

    def save_station(self, record: dict[str, Any]) -> None:
        self.write_json(self._station_path(record["station"]), record, private=True)

    def _station_path(self, station: str) -> Path:
        return self.stations_folder / f"{checked_name(station, 'station')}.json"

    # Sites

    def sites(self) -> list[str]:
        return sorted(path.name for path in (self.root / "sites").glob("*/"))

    def site_folder(self, site: str) -> Path:
        return self.root / "sites" / checked_name(site, "site")

    def site_key(self, site: str) -> bytes:
        """The site's 32-byte key for IdToken hashes; made the first time it is asked for."""
        path = self.site_folder(site) / "site.json"
        with self.locked():
            record = self.read_json(path)
            if record is None:
                record = {"site": site, "site_key": os.urandom(32).hex()}
                self.write_json(path, record, private=True)
        return bytes.fromhex(record["site_key"])

    # Signed objects

    def next_version(self, site: str, name: str) -> int:
        """A version for the next object `name` of the site: above every one given out before."""
        path = self.site_folder(site) / "versions.json"
        with self.locked():
            versions = self.read_json(path, {})
            versions[name] = max([versions.get(name, 0), *self.object_versions(site, name)]) + 1
            self.write_json(path, versions)
            return versions[name]

    def object_path(self, site: str, name: str, version: int, suffix: str = "cose") -> Path:
        return self.site_folder(site) / name / f"{version:08d}.{suffix}"

    def object_versions(self, site: str, name: str) -> list[int]:
        folder = self.site_folder(site) / name
        return sorted(int(path.stem) for path in folder.glob("*.cose"))

    def save_object(
        self, site: str, name: str, version: int, data: bytes, suffix: str = "cose"
    ) -> Path:
        path = self.object_path(site, name, version, suffix)
        self.write(path, data)
        return path

    def objects(self, site: str, name: str) -> Iterator[tuple[int, str | None, bytes]]:
        """`(version, station or None, signed bytes)` of every object `name`, newest first."""
        for version in reversed(self.object_versions(site, name)):
            data = self.object_path(site, name, version).read_bytes()
            yield version, wire.peek_sign1(data)[2].get(3), data

    def current(self, site: str, name: str) -> dict[str | None, tuple[int, bytes]]:
        """The object in force: for the whole site under None, and for each station that has a
        newer one of its own."""
        found: dict[str | None, tuple[int, bytes]] = {}
        for version, station, data in self.objects(site, name):
            found.setdefault(station, (version, data))
            if station is None:
                break
        return found

    # Entitlements and revocations

    def add_entitlement(self, site: str, record: dict[str, Any]) -> None:
        path = self._folder(self.site_folder(site)) / "entitlements.jsonl"
        with self.locked(), path.open("a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def entitlements(self, site: str) -> list[dict[str, Any]]:
        path = self.site_folder(site) / "entitlements.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().splitlines() if line]

    def revoked(self, site: str) -> dict[str, list[str]]:
        """What is revoked: `cti` (hex) and `id_token` (the IdToken itself), each sorted."""
        empty = {"cti": [], "id_token": []}
        return self.read_json(self.site_folder(site) / "revoked.json", empty)

    def save_revoked(self, site: str, revoked: dict[str, list[str]]) -> None:
        self.write_json(self.site_folder(site) / "revoked.json", revoked, private=True)
