"""Cost of a decision and of a list of 10,000, on the unix VM with 320k of heap.

The objects are made by the host tools, so this is also a run of one implementation against the
other at full size.
"""

import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chargekeep_tools import allowlist, issue, keys, trust, wire
from chargekeep_tools.bench import Unavailable, open_board
from chargekeep_tools.bench.firmware import files
from chargekeep_tools.home import Home

ROOT = Path(__file__).resolve().parent.parent.parent
SITE, SITE_KEY, NOW = "site-1", bytes(range(32)), 1_800_000_000  # of tests/authority.py
ENTRIES = 10_000
ISSUER = Ed25519PrivateKey.from_private_bytes(bytes([2]) * 32)


def _make(folder: Path) -> None:
    entries = [
        (wire.id_token_hash(SITE_KEY, f"DE-CKP-{i:08d}"), 0, NOW + 10**6) for i in range(ENTRIES)
    ]
    pages = allowlist.build_pages(entries)
    (folder / "pages").write_bytes(b"".join(pages))
    root = hashlib.sha256(pages[0]).digest()
    body = {1: 1, 2: SITE, 4: NOW, 10: ENTRIES, 11: root, 12: len(pages), 13: NOW + 10**7}
    (folder / "header").write_bytes(wire.seal_sign1(wire.ALLOWLIST, ISSUER, body))
    changed = [*entries[1:], (wire.id_token_hash(SITE_KEY, "DE-CKP-NEW"), 0, NOW + 10**6)]
    delta = allowlist.delta(pages, new := allowlist.build_pages(changed))
    (folder / "delta").write_bytes(delta)
    body |= {1: 2, 11: hashlib.sha256(new[0]).digest(), 12: len(new), 14: [1]}
    (folder / "header2").write_bytes(wire.seal_sign1(wire.ALLOWLIST, ISSUER, body))
    chosen = random.Random(1).sample(entries[1:], 200)
    (folder / "hashes").write_bytes(b"".join(entry[0] for entry in chosen))
    limits = [60000, 14400, 22000, 1, 12, 345, 1]  # every limit in use
    for i in range(20):
        claims = {1: "op", 2: "DE-ABC-C12345-X", 3: SITE, 4: NOW + 86400, 5: NOW - 300}
        claims |= {7: i.to_bytes(8, "big"), wire.LIMITS: limits}
        (folder / f"token{i}").write_bytes(wire.seal_sign1(wire.ENTITLEMENT, ISSUER, claims))


def _chunks_for_one_change() -> float:
    """Of a list of 10,000 where one card is exchanged, what a station fetches on average."""
    source = random.Random(2)
    entries = [(source.randbytes(16), 0, 0) for _ in range(ENTRIES)]
    old = allowlist.build_pages(entries)
    known = {page for page in old if page[0] == 0}  # leaves: level 0
    fetched = []
    for i in range(5):
        changed = [*entries[:i], *entries[i + 1 :], (source.randbytes(16), 0, 0)]
        new = allowlist.build_pages(changed)
        other = {n // allowlist.CHUNK_PAGES for n, page in enumerate(new) if page not in known}
        fetched.append(len(other))
    return sum(fetched) / len(fetched)


# In service on a board: decisions of the station that it is, in microseconds of its clock
ON_BOARD = """
import asyncio, gc, time
from chargekeep import board
from chargekeep.authorization.policy import Policy
from chargekeep.authorization.spent import Spent
from chargekeep.core import Core
core = Core(board.open_board())
asyncio.run(core.objects.load())
me = core.identity
policy = Policy(core.objects, Spent(core.store, core.timebase), core.timebase, me.site_key)
def measure(text):
    gc.collect()
    started = time.ticks_us()
    decision = asyncio.run(policy.decide(text, 1))
    passed = time.ticks_diff(time.ticks_us(), started)
    if not decision.accepted:
        raise SystemExit(decision.code)
    print(passed)
for text in %r:
    measure(text)
"""


def _on_rp2040() -> dict[str, float]:
    """First use of an issuer's key, then a token never seen, then the same again."""
    with tempfile.TemporaryDirectory() as name:
        try:
            board = open_board("RPI_PICO", Path(name))
        except Unavailable:
            return {}
        with board:
            home = Home(Path(name) / "home")
            keys.create(home, "root", "root", encrypted=False)
            keys.create(home, "issuer", "issuer", encrypted=False)
            trust.build(home, "site")
            board.install(files(board.name))
            board.commission(home, "site", "pole-1", evse_id=1)
            now = int(time.time())
            texts = [issue.issue(home, "site", "DE-1", exp=now + 9999)["text"] for _ in range(2)]
            board.power_on(app=False)
            said = board.exec(ON_BOARD % ([texts[0], texts[1], texts[1]],))
        first, cold, cached = map(float, said.split()[-3:])
        return {
            "authorize_first_rp2040_us": first,
            "authorize_cold_rp2040_us": cold,
            "authorize_cached_rp2040_us": cached,
        }


def run() -> dict[str, float]:
    """Units: us, bytes, pages; ratios are how many times faster. With CHARGEKEEP_RP2_IMAGE also
    microseconds at 125 MHz on the emulated RP2040."""
    return _on_vm() | _on_rp2040()


def _on_vm() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _make(folder)
        path = ":".join([".frozen", *(str(ROOT / part) for part in ("firmware", "tests"))])
        done = subprocess.run(
            [
                Path(sys.executable).parent / "micropython",
                *("-X", "heapsize=320k"),
                ROOT / "tools" / "bench" / "vm_authorization.py",
                folder,
            ],
            env=dict(os.environ, MICROPYPATH=path),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)
        metrics = {key: float(value) for key, value in map(str.split, done.stdout.splitlines())}
        size = (folder / "pages").stat().st_size
        change = sum((folder / name).stat().st_size for name in ("header2", "delta"))
    metrics["allowlist_bytes_per_entry"] = size / ENTRIES
    metrics["allowlist_chunks"] = -(-size // (allowlist.PAGE * allowlist.CHUNK_PAGES))
    metrics["allowlist_one_change_bytes"] = change
    metrics["allowlist_one_change_without_delta_bytes"] = (
        _chunks_for_one_change() * allowlist.CHUNK_PAGES * allowlist.PAGE
    )
    return metrics
