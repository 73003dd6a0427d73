"""The trust list: which issuer keys a site's stations believe, and for what."""

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
    new_app,
    show,
    site_of,
)


def build(
    home: Home,
    site: str,
    issuers: list[str] | None = None,
    key: str | None = None,
    now: int | None = None,
) -> objects.SignedObject:
    """Sign a trust list of `issuers` (names), or of every issuer key of this home.

    Revoked keys are named as revoked, whichever were asked for.
    """
    known = [record for record in home.keys() if record["role"] == "issuer"]
    chosen = [record for record in known if issuers is None or record["name"] in issuers]
    missing = set(issuers or ()) - {record["name"] for record in chosen}
    if missing:
        raise ToolError(
            f"no issuer key {', '.join(sorted(missing))}", Exit.KEY, "keys list shows them"
        )
    valid = [record for record in chosen if not record.get("revoked")]
    if not valid:
        raise ToolError("no issuer key to trust", Exit.KEY, "keys create NAME --role issuer")
    body: dict[int, Any] = {
        10: [
            [
                bytes.fromhex(record["kid"]),
                bytes.fromhex(record["public_key"]),
                record["scope"],
                record["nbf"],
                record["exp"],
            ]
            for record in sorted(valid, key=lambda record: record["kid"])
        ],
        11: sorted(bytes.fromhex(record["kid"]) for record in known if record.get("revoked")),
    }
    return objects.sign(home, wire.TRUST_LIST, site, body, key=key, now=now)


app = new_app("Decide which keys the stations of a site believe.")


@app.command("build")
def build_command(
    issuer: Annotated[
        list[str] | None, typer.Option(help="Trust only this issuer; repeat for more [all].")
    ] = None,
    site: SiteOption = None,
    key: KeyOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sign a new trust list with the root key."""
    the_home = Home(home)
    signed = build(the_home, site_of(the_home, site, new=True), issuer, key)
    show(signed.summary(), as_json, lambda: print(signed.sentence()))


@app.command("show")
def show_command(site: SiteOption = None, home: HomeOption = None) -> None:
    """Print the trust list in force, as JSON."""
    the_home = Home(home)
    name = site_of(the_home, site)
    current = the_home.current(name, "trust")
    if not current:
        raise ToolError(f"site {name} has no trust list", Exit.HOME, "trust build makes one")
    payload = wire.open_sign1(current[None][1], wire.TRUST_LIST, keys.key_for(the_home))
    obj = {
        "version": payload[1],
        "site": payload[2],
        "issued": payload[4],
        "issuers": [
            {
                "kid": kid.hex(),
                "public_key": public_key.hex(),
                "scope": keys.scope_text(scope),
                "nbf": nbf,
                "exp": exp,
            }
            for kid, public_key, scope, nbf, exp in payload[10]
        ],
        "revoked": [kid.hex() for kid in payload[11]],
    }
    show(obj, True, lambda: None)
