"""`chargekeep log`: verify, show and export what a station has recorded."""

import csv
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.home import Home
from chargekeep_tools.log import source
from chargekeep_tools.log.image import Report
from chargekeep_tools.log.records import Record, spoken
from chargekeep_tools.log.slots import Keys
from chargekeep_tools.options import HomeOption, JsonOption, new_app, show, utc

SourceArgument = Annotated[
    str,
    typer.Argument(
        help="Flash (the ledger's or all of it), uploaded batches, or the station's serial port."
    ),
]
StationOption = Annotated[
    str | None, typer.Option("--station", help="Station whose keys, log and signature must fit.")
]
KeyOption = Annotated[
    str | None, typer.Option("--seal-key", help="Seal key of epoch 0, 64 hex digits.")
]
AnchorOption = Annotated[
    str | None,
    typer.Option("--anchor", help="SEQ:LINK (16 hex digits) of the last slot the host has."),
]
OffsetOption = Annotated[
    int | None,
    typer.Option(
        metavar="BYTES",
        parser=lambda text: int(text, 0),
        help="Where in a dump of a whole flash the ledger begins [RP2040: found].",
    ),
]
FORMATS = ("csv", "parquet", "ocmf")
COLUMNS: list[str] = [
    "seq",
    "type",
    "time",
    "quality",
    "boot_id",
    "uptime_s",
    "moved_from",
    "body",
    "link",
]

app = new_app("Verify and export a station's log.")


def _proof(
    home: Path | None, station: str | None, seal_key: str | None, anchor: str | None
) -> source.Proof:
    known: dict[str, Any] = Home(home).station(station) if station else {}
    try:
        seal = seal_key or known.get("seal_key")
        keys = Keys(bytes.fromhex(seal)) if seal else None
        point = None
        if anchor is not None:
            seq, link = anchor.split(":")
            point = int(seq), bytes.fromhex(link)
    except ValueError as e:
        raise ToolError(f"key or anchor: {e}", Exit.USAGE, "hex digits; --anchor 120:0011...")
    log_id, public_key = (
        bytes.fromhex(known[name]) if known.get(name) else None
        for name in ("log_id", "public_key")
    )
    return source.Proof(keys, point, log_id, public_key)


def _plain(item: Any) -> Any:
    return item.hex() if isinstance(item, bytes) else item


def _as_dict(record: Record) -> dict[str, Any]:
    return {
        "seq": record.seq,
        "type": record.name,
        "time": record.time,
        "quality": "UIRS"[record.quality] if record.quality < 4 else str(record.quality),
        "boot_id": record.boot_id,
        "uptime_s": record.uptime_s,
        "moved_from": record.moved_from,
        "body": [_plain(item) for item in record.body],
        "link": record.link.hex(),
    }


def _summary(report: Report, proof: source.Proof) -> dict[str, Any]:
    return {
        "ok": report.ok,
        "log_id": report.log_id.hex() if report.log_id else None,
        "records": len(report.records),
        "head": [report.head_seq, report.head_link.hex()],
        "sealed": report.sealed,
        "signed_seq": report.signed_seq,
        "anchored": proof.anchor is not None,
        "corrected": report.corrected,
        "errors": len(report.problems),
        "problems": [
            {"reason": p.reason, "sector": p.sector, "seq": p.seq, "detail": p.detail}
            for p in report.problems
        ],
        "notes": report.notes,
    }


@app.command()
def verify(
    log: SourceArgument,
    station: StationOption = None,
    seal_key: KeyOption = None,
    anchor: AnchorOption = None,
    offset: OffsetOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check that a log is whole and untouched; exit status 7 where something speaks against it.

    Without the seal key nobody's hand can be told from the station's; without the anchor a tail
    that was cut off unseen cannot be missed.
    """
    proof = _proof(home, station, seal_key, anchor)
    report = source.verify(source.read(log, offset), proof)
    summary = _summary(report, proof)

    def human() -> None:
        print(f"{summary['records']} records, head {report.head_seq} {report.head_link.hex()}")
        for note in report.notes:
            print(f"note: {note}")
        for problem in report.problems:
            print(f"PROBLEM {problem}")
        if report.ok:
            checks = ["checksums", "order"]
            checks += ["seals"] if report.sealed else []
            checks += ["signatures"] if proof.public_key else []
            checks += ["anchor"] if proof.anchor else []
            print(f"good: {', '.join(checks)}")

    show(summary, as_json, human)
    if not report.ok:
        raise typer.Exit(Exit.FAILED)


@app.command()
def dump(
    log: SourceArgument,
    from_seq: Annotated[int, typer.Option("--from", help="First seq to show.")] = 1,
    offset: OffsetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show every readable record, whatever else may be wrong with the log."""
    report = source.verify(source.read(log, offset), source.Proof())
    records = [r for r in report.records if r.identity >= from_seq]
    for record in records:
        row = _as_dict(record)
        fields = {name: _plain(item) for name, item in record.fields.items()}
        if as_json:
            print(json.dumps(row | {"fields": fields}))
            continue
        head = f"{record.identity:>8}  {utc(record.time)} {row['quality']}  {record.name}"
        print(f"{head}: {spoken(fields)}")
    for problem in report.problems:
        print(f"PROBLEM {problem}", file=sys.stderr)


@app.command()
def export(
    log: SourceArgument,
    output: Annotated[Path, typer.Argument(help="File to write: .csv, .parquet or .ocmf.")],
    station: StationOption = None,
    seal_key: KeyOption = None,
    anchor: AnchorOption = None,
    ocmf_key: Annotated[
        Path | None,
        typer.Option(help="P-256 key (PEM) that signs .ocmf [keys/ocmf.pem, made if missing]."),
    ] = None,
    offset: OffsetOption = None,
    home: HomeOption = None,
) -> None:
    """Write a verified log as CSV or Parquet; refuses one that does not verify.

    As .ocmf: one OCMF document a line for each transaction that the station attested, signed by
    this host. No claim of conformity with calibration law is made.
    """
    kind = output.suffix.lstrip(".")
    if kind not in FORMATS:
        raise ToolError(f"{output}: not .csv, .parquet or .ocmf", Exit.USAGE, "name the file so")
    report = source.verify(source.read(log, offset), _proof(home, station, seal_key, anchor))
    if not report.ok:
        raise ToolError(
            f"{log}: {report.problems[0]}", Exit.FAILED, "see chargekeep log verify; dump shows it"
        )
    if kind == "ocmf":
        _write_ocmf(report, station, Home(home), ocmf_key, output)
        return
    rows = [_as_dict(record) for record in report.records]
    for row in rows:
        row["body"] = json.dumps(row["body"])
    if kind == "csv":
        with output.open("w", newline="") as f:
            writer = csv.DictWriter(f, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    else:
        _write_parquet(rows, output)
    print(f"{len(rows)} records in {output}")


def _write_parquet(rows: list[dict[str, Any]], output: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"type": pa.string(), "quality": pa.string(), "body": pa.string(), "link": pa.string()}
    schema = pa.schema([(name, kinds.get(name, pa.int64())) for name in COLUMNS])
    pq.write_table(pa.Table.from_pylist(rows, schema), output)


def _write_ocmf(
    report: Report, station: str | None, home: Home, key_file: Path | None, output: Path
) -> None:
    from chargekeep_tools import evidence, ocmf

    if station is None:
        raise ToolError("whose evidence?", Exit.USAGE, "name the station with --station")
    key = ocmf.key_file(key_file or home.key_path("ocmf"))
    public_key = bytes.fromhex(home.station(station)["public_key"])
    documents, left_out = [], 0
    for record in report.records:
        if record.type == evidence.RECORD_TYPE:
            try:
                attested = evidence.verify(record.body[1], public_key)
                documents.append(ocmf.document(attested.to_ocmf(), key) + "\n")
            except evidence.EvidenceError as e:
                left_out += 1
                print(f"record {record.identity} left out: {e}", file=sys.stderr)
    output.write_text("".join(documents))
    output.with_suffix(".pem").write_bytes(ocmf.public_pem(key))
    print(f"{len(documents)} documents in {output}, {left_out} left out")
