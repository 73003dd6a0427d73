"""What a decision and a list of 10,000 may cost, on lists and tokens that the host tools make."""

import importlib.util
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent / "tools" / "bench" / "bench_authorization.py"


def test_ceilings():
    spec = importlib.util.spec_from_file_location("bench_authorization", BENCH)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    measured = bench._on_vm()
    assert measured["allowlist_lookup_pages"] <= 4
    assert measured["allowlist_bytes_per_entry"] <= 32
    assert measured["allowlist_load_heap_peak"] <= 6 * 1024
    assert measured["allowlist_delta_heap_peak"] <= 6 * 1024
    assert measured["allowlist_one_change_bytes"] <= 512
    assert measured["allowlist_lookup_vs_linear_ratio"] > 5
    assert measured["entitlement_bytes"] <= 160
