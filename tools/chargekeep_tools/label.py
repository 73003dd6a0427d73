"""The commissioning record as one page to print: what the board is, what its self-test said, and
a QR code of the station's identity to stick on the box."""

import html
import io
from typing import Any

from chargekeep_tools.options import utc

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{station}</title>
<style>
body {{ font: 14px/1.4 sans-serif; max-width: 40em; margin: 2em auto }}
h1 {{ margin: 0 }} td {{ padding: 1px 1em 1px 0 }} svg {{ float: right; width: 9em; height: 9em }}
.bad {{ color: #b00; font-weight: bold }}
</style>
{qr}
<h1>{station}</h1><p>{site}, EVSE {evse_id}</p>
<table>{facts}</table>
<h2>Self-test</h2><table>{tests}</table>
</html>
"""
_FACTS = ("board", "unique_id", "micropython", "firmware", "kid", "log_id", "public_key")


def identity_text(record: dict[str, Any]) -> str:
    """What the QR code says: enough to look the station up and to check its signatures."""
    return "CKS1:" + ":".join(record[name] for name in ("site", "station", "kid", "public_key"))


def page(record: dict[str, Any]) -> str:
    """The page of a station's record, as HTML with nothing outside itself."""
    import segno

    picture = io.BytesIO()
    segno.make(identity_text(record), error="m").save(
        picture, kind="svg", xmldecl=False, svgns=True, omitsize=True
    )
    facts = [(name.replace("_", " "), str(record[name])) for name in _FACTS if name in record]
    facts.append(("commissioned", utc(record["commissioned"])))
    tests = [
        (part, "ok" if result["ok"] else f"E{result['error']} {result['detail']}")
        for part, result in record.get("self_test", {}).items()
    ]
    return _PAGE.format(
        station=html.escape(record["station"]),
        site=html.escape(record["site"]),
        evse_id=record["evse_id"],
        qr=picture.getvalue().decode(),
        facts="".join(map(_row, facts)),
        tests="".join(map(_row, tests)) or "<tr><td>not made</td></tr>",
    )


def _row(pair: tuple[str, str]) -> str:
    name, value = map(html.escape, pair)
    bad = ' class="bad"' if value.startswith("E") and value[1:2].isdigit() else ""
    return f"<tr><td>{name}</td><td{bad}>{value}</td></tr>"
