"""Private keys of the operator: Ed25519, one PKCS#8 file each, mode 0600.

Encrypted with a passphrase (PBES2, scrypt where the library offers it) unless told otherwise.
A root key signs trust lists only; an issuer key signs what its scope in the trust list allows.
"""

import os
import time
from typing import Annotated, Any

import typer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chargekeep_tools import wire
from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.home import Home
from chargekeep_tools.options import HomeOption, JsonOption, new_app, show, table, utc

SCOPE_NAMES = {
    "entitlement": 1,
    "list": 2,
    "tariff": 4,
    "config": 8,
    "command": 16,
    "time": 32,
    "ack": 64,
    "firmware": 128,
}
"""Name of a permission to its bit in the trust list (FORMATS.md section 2)."""

ALL_SCOPES = sum(SCOPE_NAMES.values())
_DAY_S = 86400


def scope_bits(names: str) -> int:
    """`entitlement,tariff` or `all` to bits."""
    if names == "all":
        return ALL_SCOPES
    bits = 0
    for name in names.split(","):
        if name not in SCOPE_NAMES:
            raise ToolError(
                f"unknown scope {name!r}", Exit.USAGE, f"one or more of: {', '.join(SCOPE_NAMES)}"
            )
        bits |= SCOPE_NAMES[name]
    return bits


def scope_text(bits: int) -> str:
    return ",".join(name for name, bit in SCOPE_NAMES.items() if bits & bit)


def passphrase(prompt: str, confirm: bool = False) -> bytes:
    """From $CHARGEKEEP_PASSPHRASE, or asked for on the terminal."""
    if (given := os.environ.get("CHARGEKEEP_PASSPHRASE")) is not None:
        return given.encode()
    try:
        return typer.prompt(
            prompt, hide_input=True, confirmation_prompt=confirm, err=True
        ).encode()
    except typer.Abort:
        raise ToolError(
            "no passphrase", Exit.KEY, "type one, or set CHARGEKEEP_PASSPHRASE in a script"
        )


def create(
    home: Home,
    name: str,
    role: str,
    scope: int = ALL_SCOPES,
    days: int = 730,
    encrypted: bool = True,
    now: int | None = None,
) -> dict[str, Any]:
    """Make a key and return its record. A name is never used twice."""
    path = home.key_path(name)
    if path.exists():
        raise ToolError(f"there is a key {name!r} already", Exit.KEY, "take another name")
    if encrypted:
        secret = passphrase(f"Passphrase for the new key {name}", confirm=True)
        if not secret:
            raise ToolError("the passphrase is empty", Exit.KEY, "type one, or --no-passphrase")
        protection = serialization.BestAvailableEncryption(secret)
    else:
        protection = serialization.NoEncryption()
    private_key = Ed25519PrivateKey.generate()
    pem = private_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection
    )
    public = wire.public_bytes(private_key)
    created = int(time.time()) if now is None else now
    record = {
        "name": name,
        "role": role,
        "kid": wire.kid(public).hex(),
        "public_key": public.hex(),
        "created": created,
        "encrypted": encrypted,
    }
    if role == "issuer":
        record |= {"scope": scope, "nbf": created - _DAY_S, "exp": created + days * _DAY_S}
    if any(other["kid"] == record["kid"] for other in home.keys()):
        raise ToolError("the new key's kid is taken (one in 4 billion)", Exit.KEY, "try again")
    home.save_key(record, pem)
    return record


def load(home: Home, name: str) -> Ed25519PrivateKey:
    """The private key `name`, asking for its passphrase if it has one."""
    record = home.key(name)
    path = home.key_path(name)
    try:
        pem = path.read_bytes()
    except FileNotFoundError:
        raise ToolError(
            f"{path} is missing: this home knows the key but cannot sign with it",
            Exit.KEY,
            "copy the file here, or choose another key with --key",
        )
    if path.stat().st_mode & 0o077:
        raise ToolError(f"others may read {path}", Exit.KEY, f"chmod 600 {path}")
    secret = passphrase(f"Passphrase of key {name}") if record["encrypted"] else None
    try:
        private_key = serialization.load_pem_private_key(pem, secret)
    except (ValueError, TypeError):
        raise ToolError(
            f"wrong passphrase for {name}, or {path} is damaged", Exit.KEY, "try again"
        )
    if not isinstance(private_key, Ed25519PrivateKey):
        raise ToolError(f"{path} is not an Ed25519 key", Exit.KEY, "keys create makes one")
    if wire.public_bytes(private_key).hex() != record["public_key"]:
        raise ToolError(f"{path} is not the key of {name}.json", Exit.KEY, "restore the pair")
    return private_key


def choose(home: Home, role: str, bit: int = 0, name: str | None = None) -> dict[str, Any]:
    """The record of the key to sign with: `name`, or the only one that may."""
    if name is not None:
        record = home.key(name)
        if record["role"] != role:
            raise ToolError(
                f"{name} is a {record['role']} key; this needs a {role} key",
                Exit.KEY,
                "keys list shows them",
            )
        if bit and not record["scope"] & bit:
            raise ToolError(
                f"{name} may sign {scope_text(record['scope'])}, not {scope_text(bit)}",
                Exit.KEY,
                "keys list shows who may",
            )
        return record
    fit = [
        record
        for record in home.keys()
        if record["role"] == role
        and not record.get("revoked")
        and (not bit or record["scope"] & bit)
    ]
    if len(fit) != 1:
        names = ", ".join(record["name"] for record in fit)
        raise ToolError(
            f"several keys can sign this: {names}" if fit else f"no {role} key can sign this",
            Exit.KEY,
            "name one with --key" if fit else f"keys create NAME --role {role}",
        )
    return fit[0]


def key_for(home: Home) -> wire.KeyFor:
    """The verifier's view of this home: roots for trust lists, issuers within their scope."""
    records = home.keys()

    def find(kid: bytes, content_type: int) -> bytes | None:
        for record in records:
            if record["kid"] != kid.hex() or record.get("revoked"):
                continue
            if content_type == wire.TRUST_LIST:
                allowed = record["role"] == "root"
            else:
                allowed = record.get("scope", 0) & wire.SCOPE.get(content_type, 0)
            if allowed:
                return bytes.fromhex(record["public_key"])
        return None

    return find


app = new_app("Create and list the operator's keys.")


@app.command("create")
def create_command(
    name: Annotated[str, typer.Argument(help="Name of the new key.")],
    role: Annotated[
        str, typer.Option(help="root: signs trust lists; issuer: signs the rest.")
    ] = "issuer",
    scope: Annotated[
        str, typer.Option(help=f"What an issuer may sign: all, or of {','.join(SCOPE_NAMES)}.")
    ] = "all",
    days: Annotated[int, typer.Option(min=1, help="Days that an issuer key is valid.")] = 730,
    no_passphrase: Annotated[
        bool, typer.Option("--no-passphrase", help="Leave the file unencrypted.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key pair; the private key never leaves its file."""
    if role not in ("root", "issuer"):
        raise ToolError(f"unknown role {role!r}", Exit.USAGE, "root or issuer")
    record = create(Home(home), name, role, scope_bits(scope), days, not no_passphrase)
    show(record, as_json, lambda: print(f"{role} key {name}, kid {record['kid']}"))


@app.command("list")
def list_command(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the keys of this home."""
    records = Home(home).keys()
    rows = (
        (
            record["name"],
            record["role"],
            record["kid"],
            "revoked" if record.get("revoked") else scope_text(record.get("scope", 0)) or "trust",
            utc(record.get("exp")),
            "yes" if record["encrypted"] else "no",
        )
        for record in records
    )
    columns = ("name", "role", "kid", "may sign", "expires", "encrypted")
    show(records, as_json, lambda: table(columns, rows))


@app.command("show")
def show_command(name: str, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show what may be known of a key."""
    record = Home(home).key(name)
    show(record, as_json, lambda: table(("", ""), record.items()))


@app.command("revoke")
def revoke_command(name: str, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Mark an issuer key as revoked; `trust build` then tells the stations."""
    the_home = Home(home)
    record = the_home.key(name)
    if record["role"] != "issuer":
        raise ToolError("a root key cannot be revoked", Exit.KEY, "provision with another root")
    record["revoked"] = True
    the_home.save_key(record)
    show(record, as_json, lambda: print(f"{name} is revoked; now run: chargekeep trust build"))
