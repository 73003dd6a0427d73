"""Entitlements: signed permissions to charge that a station can check with no network.

An entitlement is a CWT (RFC 8392) in a COSE_Sign1; as text it fits a QR code or an NFC tag.
"""

import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from chargekeep_tools import keys, objects, wire
from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.home import Home
from chargekeep_tools.options import (
    HomeOption,
    JsonOption,
    KeyOption,
    SiteOption,
    moment,
    new_app,
    seconds,
    show,
    site_of,
    table,
    utc,
)

_CLOCK_SKEW_S = 300
_WEEKDAYS = ("mo", "tu", "we", "th", "fr", "sa", "su")


def window_bits(text: str) -> int:
    """`mo-fr 8-18` or `sa,su 0-24` as FORMATS.md packs it: weekdays | from << 7 | to << 12."""
    try:
        days_text, hours = text.lower().split()
        days = 0
        for part in days_text.split(","):
            first, _, last = part.partition("-")
            i, j = _WEEKDAYS.index(first), _WEEKDAYS.index(last or first)
            for day in range(i, j + 1 if j >= i else j + 8):
                days |= 1 << day % 7
        start, end = map(int, hours.split("-"))
    except ValueError:
        raise ToolError(f"{text!r} is no window", Exit.USAGE, "write it as 'mo-fr 8-18'")
    if not (0 <= start <= 24 and 0 <= end <= 24):
        raise ToolError(f"{text!r}: hours go from 0 to 24", Exit.USAGE)
    return days | start << 7 | end << 12


def _bounded(text: str, what: str, limit: int) -> str:
    if not 1 <= len(text.encode()) <= limit:
        raise ToolError(f"{what} {text!r} must have 1 to {limit} bytes", Exit.USAGE, "shorten it")
    return text


def issue(
    home: Home,
    site: str,
    id_token: str,
    *,
    exp: int,
    nbf: int | None = None,
    max_wh: int = 0,
    max_s: int = 0,
    max_w: int = 0,
    evse: int = 0,
    tariff_id: int = 0,
    tariff_version: int = 0,
    uses: int = 1,
    window: int = 0,
    connector: int = 0,
    key: str | None = None,
    now: int | None = None,
) -> dict[str, Any]:
    """Sign an entitlement and record it. Units: Wh, seconds, W, unix seconds; 0 means no limit.

    The record has `text` (the `CK1:` form), `cti`, and what was asked for.
    """
    now = int(time.time()) if now is None else now
    nbf = now - _CLOCK_SKEW_S if nbf is None else nbf
    if nbf >= exp:
        raise ToolError(f"it would expire ({utc(exp)}) before it begins", Exit.USAGE, "see --for")
    signer = keys.choose(home, "issuer", wire.SCOPE[wire.ENTITLEMENT], key)
    limits = [max_wh, max_s, max_w, evse, tariff_id, tariff_version, uses, window, connector]
    while len(limits) > 7 and limits[-1] == 0:
        limits.pop()
    cti = os.urandom(8)
    claims = {
        1: _bounded(signer["name"][:32], "iss", 32),
        2: _bounded(id_token, "IdToken", 36),
        3: _bounded(site, "site", 32),
        4: exp,
        5: nbf,
        7: cti,
        wire.LIMITS: limits,
    }
    data = wire.seal_sign1(wire.ENTITLEMENT, keys.load(home, signer["name"]), claims)
    record = {
        "cti": cti.hex(),
        "id_token": id_token,
        "site": site,
        "nbf": nbf,
        "exp": exp,
        "limits": limits,
        "kid": signer["kid"],
        "issued": now,
        "bytes": len(data),
        "text": wire.to_text(data),
    }
    home.add_entitlement(site, record)
    return record


def revoke(
    home: Home,
    site: str,
    ctis: list[str],
    id_tokens: list[str],
    key: str | None = None,
    now: int | None = None,
) -> objects.SignedObject:
    """Add to what is revoked and sign the new revocation list, which replaces the one before."""
    site_key = home.site_key(site)
    with home.locked():
        revoked = home.revoked(site)
        revoked["cti"] = sorted({*revoked["cti"], *ctis})
        revoked["id_token"] = sorted({*revoked["id_token"], *id_tokens})
        home.save_revoked(site, revoked)
    body = {
        10: sorted(bytes.fromhex(cti) for cti in revoked["cti"]),
        11: sorted(wire.id_token_hash(site_key, token) for token in revoked["id_token"]),
    }
    return objects.sign(home, wire.REVOCATION, site, body, key=key, now=now)


def _cti_of(text: str) -> str:
    """The cti that is meant by 16 hexadecimal digits or by an entitlement's text."""
    try:
        if text.startswith(wire.TEXT_PREFIX):
            return wire.peek_sign1(wire.from_text(text))[2][7].hex()
        if len(bytes.fromhex(text)) == 8:
            return text.lower()
    except (ValueError, KeyError, TypeError):
        pass
    raise ToolError(
        f"{text!r} is neither a cti of 16 hexadecimal digits nor an entitlement", Exit.USAGE
    )


app = new_app("Issue, list and revoke entitlements.")


@app.command("issue")
def issue_command(
    id_token: Annotated[str, typer.Argument(help="The driver's IdToken.")],
    valid: Annotated[str, typer.Option("--for", help="Valid for: 30m, 8h, 2d, 1w.")] = "8h",
    until: Annotated[str | None, typer.Option(help="Valid until, instead of --for.")] = None,
    start: Annotated[str | None, typer.Option("--from", help="Valid from [now].")] = None,
    kwh: Annotated[float, typer.Option(min=0, help="Energy in kWh; 0: no limit.")] = 0,
    minutes: Annotated[int, typer.Option(min=0, help="Charging time; 0: no limit.")] = 0,
    watts: Annotated[int, typer.Option(min=0, help="Power; 0: no limit.")] = 0,
    evse: Annotated[int, typer.Option(min=0, help="Only this EVSE; 0: any.")] = 0,
    connector: Annotated[int, typer.Option(min=0, help="Only this connector; 0: any.")] = 0,
    uses: Annotated[int, typer.Option(min=1, help="How many transactions.")] = 1,
    window: Annotated[str | None, typer.Option(help="Only then, as 'mo-fr 8-18'.")] = None,
    tariff: Annotated[
        str, typer.Option(help="ID or ID:VERSION of the tariff; 0: the one in force.")
    ] = "0",
    qr: Annotated[
        Path | None, typer.Option(help="Write a QR code (.png, .svg or .pdf); - for the terminal.")
    ] = None,
    site: SiteOption = None,
    key: KeyOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a signed permission to charge, as text for a QR code or an NFC tag."""
    the_home = Home(home)
    now = int(time.time())
    nbf = None if start is None else moment(start, now)
    exp = moment(until, now) if until else (now if nbf is None else nbf) + seconds(valid)
    tariff_id, _, tariff_version = tariff.partition(":")
    if not tariff_id.isdigit() or not (tariff_version or "0").isdigit():
        raise ToolError(f"{tariff!r} is no tariff", Exit.USAGE, "write 3, or 3:12 for version 12")
    record = issue(
        the_home,
        site_of(the_home, site),
        id_token,
        exp=exp,
        nbf=nbf,
        max_wh=round(kwh * 1000),
        max_s=minutes * 60,
        max_w=watts,
        evse=evse,
        tariff_id=int(tariff_id),
        tariff_version=int(tariff_version or 0),
        uses=uses,
        window=window_bits(window) if window else 0,
        connector=connector,
        key=key,
        now=now,
    )
    if qr is not None:
        write_qr(record["text"], qr)
    show(record, as_json, lambda: print(record["text"]))


def write_qr(text: str, path: Path) -> None:
    """`text` as a QR code in a file, by its suffix, or on the terminal for `-`."""
    import sys

    import segno

    code = segno.make(text, error="m", micro=False)
    if str(path) == "-":
        code.terminal(out=sys.stderr, compact=True)
        return
    try:
        code.save(str(path), scale=8)
    except ValueError as error:
        raise ToolError(str(error), Exit.USAGE, "end the name in .png, .svg or .pdf")


@app.command("list")
def list_command(
    site: SiteOption = None, home: HomeOption = None, as_json: JsonOption = False
) -> None:
    """List the entitlements issued for a site."""
    the_home = Home(home)
    name = site_of(the_home, site)
    revoked = the_home.revoked(name)
    records = [
        {
            **record,
            "revoked": record["cti"] in revoked["cti"]
            or record["id_token"] in revoked["id_token"],
        }
        for record in the_home.entitlements(name)
    ]
    rows = (
        (r["cti"], r["id_token"], utc(r["exp"]), r["limits"][0] or "-", "yes" * r["revoked"])
        for r in records
    )
    columns = ("cti", "IdToken", "expires", "max Wh", "revoked")
    show(records, as_json, lambda: table(columns, rows))


@app.command("revoke")
def revoke_command(
    entitlement: Annotated[
        list[str] | None, typer.Argument(help="cti (hex) or CK1: text of each entitlement.")
    ] = None,
    id_token: Annotated[
        list[str] | None, typer.Option(help="Revoke this IdToken and all it has; repeat for more.")
    ] = None,
    site: SiteOption = None,
    key: KeyOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke entitlements or IdTokens, and sign the site's new revocation list."""
    if not entitlement and not id_token:
        raise ToolError("nothing to revoke", Exit.USAGE, "name an entitlement or an --id-token")
    the_home = Home(home)
    ctis = [_cti_of(text) for text in entitlement or ()]
    signed = revoke(the_home, site_of(the_home, site), ctis, id_token or [], key)
    show(signed.summary(), as_json, lambda: print(signed.sentence()))
