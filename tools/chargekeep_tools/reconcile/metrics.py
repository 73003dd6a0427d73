"""What the reconciler is doing, for Prometheus: `chargekeep reconcile run --metrics PORT`."""

from collections.abc import Iterable

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from chargekeep_tools.reconcile.project import open_exceptions
from chargekeep_tools.reconcile.schema import (
    WAITING,
    batches,
    bills,
    exceptions,
    logs,
    parked,
)
from chargekeep_tools.reconcile.worker import Reconciler


class Collector:
    """Counters since the process began, and gauges read from the database at each scrape."""

    def __init__(self, reconciler: Reconciler) -> None:
        self.reconciler = reconciler

    def collect(self) -> Iterable[Metric]:
        figures = self.reconciler.figures
        family = CounterMetricFamily(
            "chargekeep_batches", "Ledger batches by what became of them.", labels=["outcome"]
        )
        for outcome in ("accepted", "duplicate", "waiting", "fork", "parked"):
            family.add_metric([outcome], figures.batches[outcome])
        yield family
        family = CounterMetricFamily(
            "chargekeep_batches_refused", "Ledger batches refused, by code.", labels=["code"]
        )
        for code, count in sorted(figures.refused.items()):
            family.add_metric([str(code)], count)
        yield family
        for name, text, value in (
            ("slots", "Ledger slots stored.", figures.slots),
            ("records", "Records projected.", figures.records),
            ("commits", "Database commits of batches.", figures.commits),
            ("acknowledgements", "Signed acknowledgements sent.", figures.acknowledgements),
        ):
            yield CounterMetricFamily(f"chargekeep_{name}", text, value=value)
        with self.reconciler.engine.connect() as connection:
            all_parked = sa.select(sa.func.count()).select_from(parked)
            held_up = sa.select(sa.func.count()).where(
                exceptions.c.kind == "unprojected", exceptions.c.resolved.is_(None)
            )
            waiting = sa.select(sa.func.count()).where(batches.c.state == WAITING)
            behind = sa.func.coalesce(sa.func.sum(logs.c.head_seq - logs.c.projected_seq), 0)
            for name, text, query in (
                ("logs", "Station logs known.", sa.select(sa.func.count()).select_from(logs)),
                ("bills", "Bills made.", sa.select(sa.func.count()).select_from(bills)),
                ("waiting_batches", "Batches beyond a gap.", waiting),
                ("parked_batches", "Batches that the database did not take.", all_parked),
                ("unprojected_logs", "Logs whose records could not be billed.", held_up),
                ("projection_backlog_slots", "Stored and not yet billed.", sa.select(behind)),
            ):
                value = float(connection.scalar(query) or 0)
                yield GaugeMetricFamily(f"chargekeep_{name}", text, value=value)
            yield GaugeMetricFamily(
                "chargekeep_open_exceptions",
                "Exceptions that wait for an operator.",
                value=open_exceptions(connection),
            )


def serve(reconciler: Reconciler, port: int, address: str = "127.0.0.1") -> int:
    """Answer scrapes at http://address:port/metrics from a thread; returns the port."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector(reconciler))
    server, _ = start_http_server(port, address, registry)
    return server.server_port
