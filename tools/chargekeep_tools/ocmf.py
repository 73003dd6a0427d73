"""Transactions as OCMF 1.x documents (Open Charge Metering Format of S.A.F.E. e.V.).

A document is `OCMF|{payload}|{signature}`. The signature is the host's, ECDSA-secp256r1-SHA256
over the payload as written: it says what the station's log says, and nothing about the meter.
The station is no measuring device under calibration law and the document says so in `GI`; what
vouches for its registers is the station's own Ed25519 signature (evidence.py).
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from chargekeep_tools import __version__

GATEWAY = "chargekeep host export, no claim of conformity"
OBIS_IMPORT = "01-00:01.08.00*FF"
_QUALITY = "UIRS"  # FORMATS.md section 3 in OCMF's letters
_ALGORITHM = "ECDSA-secp256r1-SHA256"


class OcmfError(ValueError):
    """A document that is not well formed or not signed by the key."""


@dataclass(frozen=True)
class Reading:
    """A register in Wh at a time (unix seconds, None: not known) of a quality 0 to 3."""

    wh: int
    time: int | None
    quality: int


@dataclass(frozen=True)
class Transaction:
    """What a document states. `id_hash` is the IdToken's hash, `exception` why the end is odd."""

    station: str
    number: int
    evse_id: int
    id_hash: bytes | None
    begin: Reading
    end: Reading
    meter: str = ""
    exception: bool = False


def _time(reading: Reading) -> str:
    # Comma and milliseconds as the specification has it; no time is never invented: 1970 and U.
    moment = datetime.fromtimestamp(reading.time or 0, UTC)
    letter = "U" if reading.time is None else _QUALITY[reading.quality]
    return moment.strftime("%Y-%m-%dT%H:%M:%S,000+0000 ") + letter


def _reading(reading: Reading, kind: str) -> dict[str, Any]:
    return {
        "TM": _time(reading),
        "TX": kind,
        "RV": f"{reading.wh / 1000:.3f}",
        "RI": OBIS_IMPORT,
        "RU": "kWh",
        "RT": "AC",
        "EF": "" if reading.time is not None and reading.quality == 3 else "t",
        "ST": "G",
    }


def payload(transaction: Transaction) -> dict[str, Any]:
    """The payload section; registers in kWh with three decimals, exact to the Wh."""
    known = transaction.id_hash is not None
    return {
        "FV": "1.0",
        "GI": GATEWAY,
        "GS": transaction.station,
        "GV": __version__,
        "PG": f"T{transaction.number}",
        "MV": "",
        "MM": transaction.meter,
        "MS": "",
        "IS": known,
        "IF": [],
        "IT": "KEY_CODE" if known else "NONE",
        "ID": transaction.id_hash.hex() if transaction.id_hash is not None else "",
        "CT": "EVSEID",
        "CI": f"{transaction.station}*{transaction.evse_id}",
        "RD": [
            _reading(transaction.begin, "B"),
            _reading(transaction.end, "P" if transaction.exception else "E"),
        ],
    }


def document(transaction: Transaction, key: ec.EllipticCurvePrivateKey) -> str:
    """The signed document. `key` is on curve secp256r1."""
    if not isinstance(key.curve, ec.SECP256R1):
        raise OcmfError("the key is not on curve secp256r1")
    text = json.dumps(payload(transaction), separators=(",", ":"), ensure_ascii=False)
    signature = key.sign(text.encode(), ec.ECDSA(hashes.SHA256()))
    section = {"SA": _ALGORITHM, "SE": "hex", "SM": "application/x-der", "SD": signature.hex()}
    return f"OCMF|{text}|{json.dumps(section, separators=(',', ':'))}"


def verify(text: str, key: ec.EllipticCurvePublicKey) -> dict[str, Any]:
    """The payload of a document signed by `key`. Raises OcmfError."""
    head, _, rest = text.partition("|")
    body, bar, signature_text = rest.rpartition("|")
    try:
        if head != "OCMF" or not bar:
            raise OcmfError("no OCMF document")
        signature = json.loads(signature_text)
        if signature["SA"] != _ALGORITHM or signature.get("SE", "hex") != "hex":
            raise OcmfError(f"algorithm {signature['SA']}")
        key.verify(bytes.fromhex(signature["SD"]), body.encode(), ec.ECDSA(hashes.SHA256()))
        return json.loads(body)
    except InvalidSignature as e:
        raise OcmfError("the signature is wrong") from e
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise e if isinstance(e, OcmfError) else OcmfError(f"damaged: {e}") from e


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def key_file(path: Path) -> ec.EllipticCurvePrivateKey:
    """The key in the PEM file `path`, which is made with mode 0600 if it is not there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_bytes(
            new_key().private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise OcmfError(f"{path} is no key on curve secp256r1")
    return key


def public_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public key as PEM, to be handed to whoever verifies the documents."""
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
