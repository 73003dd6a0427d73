"""Signed objects a site's stations obey: each is versioned, signed, kept, and then published."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chargekeep_tools import keys, wire
from chargekeep_tools.home import Home


@dataclass(frozen=True)
class SignedObject:
    """A signed object as it is kept: `data` is the COSE_Sign1, `path` where it lies."""

    content_type: int
    version: int
    site: str
    station: str | None
    data: bytes
    path: Path

    def summary(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "object": wire.NAMES[self.content_type],
            "version": self.version,
            "site": self.site,
            "station": self.station,
            "bytes": len(self.data),
            "path": str(self.path),
        }

    def sentence(self) -> str:
        to = self.station or f"every station of {self.site}"
        return f"{wire.NAMES[self.content_type]} version {self.version} for {to}: {self.path}"


def sign(
    home: Home,
    content_type: int,
    site: str,
    body: dict[int, Any],
    station: str | None = None,
    key: str | None = None,
    now: int | None = None,
) -> SignedObject:
    """Give `body` (keys from 10 on) the next version, sign it and keep it.

    Raises `ToolError` if no key, or no key alone, may sign it.
    """
    if content_type == wire.TRUST_LIST:
        record = keys.choose(home, "root", name=key)
    else:
        record = keys.choose(home, "issuer", wire.SCOPE[content_type], key)
    private_key = keys.load(home, record["name"])
    name = wire.NAMES[content_type]
    version = home.next_version(site, name)
    issued = int(time.time()) if now is None else now
    payload = {1: version, 2: site, 4: issued, **body}
    if station is not None:
        payload[3] = station
    data = wire.seal_sign1(content_type, private_key, payload)
    path = home.save_object(site, name, version, data)
    return SignedObject(content_type, version, site, station, data, path)
