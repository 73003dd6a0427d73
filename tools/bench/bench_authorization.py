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
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chargekeep_tools import allowlist, wire

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
    chosen = random.Random(1).sample(entries, 200)
    (folder / "hashes").write_bytes(b"".join(entry[0] for entry in chosen))
    limits = [60000, 14400, 22000, 1, 12, 345, 1]  # every limit in use
    for i in range(20):
        claims = {1: "op", 2: "DE-ABC-C12345-X", 3: SITE, 4: NOW + 86400, 5: NOW - 300}
        claims |= {7: i.to_bytes(8, "big"), wire.LIMITS: limits}
        (folder / f"token{i}").write_bytes(wire.seal_sign1(wire.ENTITLEMENT, ISSUER, claims))


def run() -> dict[str, float]:
    """Units: us, bytes, pages; ratios are how many times faster."""
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
    metrics["allowlist_bytes_per_entry"] = size / ENTRIES
    return metrics
