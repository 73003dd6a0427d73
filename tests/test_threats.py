"""Every row of the threat table names tests that exist."""

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent
TABLE = TESTS.parent / "firmware" / "THREATS.md"


def test_each_row_names_a_test():
    first = TABLE.read_text().split("\n## ")[0]
    rows = [line for line in first.splitlines() if line.startswith("| ")][2:]
    assert len(rows) >= 10
    for row in rows:
        named = re.findall(r"(\w+\.py): (test_\w+)", row)
        assert named, row
        for file, test in named:
            assert re.search(rf"def {test}\(", (TESTS / file).read_text()), (file, test)


def test_each_threat_test_is_in_the_table():
    table = TABLE.read_text()
    for test in re.findall(r"def (test_\w+)\(", (TESTS / "mp_threats.py").read_text()):
        assert test in table or test == "test_replayed_token", test
