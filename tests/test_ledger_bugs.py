"""Bugs put into the ledger on purpose, each with the test that must notice it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# file of the ledger, right code, wrong code, test file, test
BUGS = {
    "flash that a cut may have touched is used as if it was blank": (
        "ring.py",
        "not self._proven and not self._prove(at)",
        "False",
        "mp_ledger_damage.py",
        "test_a_page_that_only_looks_blank_is_not_used",
    ),
    "what a cut left weak is not repeated": (
        "ring.py",
        "        if self._pin:\n",
        "        if False:\n",
        "mp_ledger_cuts.py",
        "test_every_cut",
    ),
    "a repeated slot supersedes what follows it": (
        "reader.py",
        "slot[2] & record.REPEATED and place < count",
        "False",
        "mp_ledger_cuts.py",
        "test_every_cut",
    ),
    "the end of a closed sector is taken up with a slot missing": (
        "mount.py",
        "if not there or here.first - min(there) != len(there):",
        "if not there:",
        "mp_ledger_cuts.py",
        "test_the_middle_of_the_last_operation_in_a_closed_sector",
    ),
    "what a cut tore comes back": (
        "reader.py",
        "while count > limit and",
        "while False and",
        "mp_ledger_cuts.py",
        "test_what_a_cut_tore_does_not_come_back",
    ),
    "a copy that fades hides the record": (
        "reader.py",
        "_READS if seq else 1",
        "1",
        "mp_ledger_cuts.py",
        "test_a_copy_that_fades_hides_no_record",
    ),
    "slots after a torn one count": (
        "reader.py",
        "self._torn = whole if torn < 0 else min(whole, torn)",
        "self._torn = whole",
        "mp_ledger_damage.py",
        "test_nothing_counts_after_a_torn_slot",
    ),
    "half a record counts": (
        "reader.py",
        "self._torn = whole if torn < 0 else min(whole, torn)",
        "self._torn = count if torn < 0 else torn",
        "mp_ledger_cuts.py",
        "test_every_cut",
    ),
    "a sector is opened without an erase in this power cycle": (
        "ring.py",
        "if self._ready != block and not self._erase(block):",
        "if self._ready != block and self._seq[block] and not self._erase(block):",
        "mp_ledger_cuts.py",
        "test_every_cut",
    ),
    "a header that may fade is gone on with": (
        "mount.py",
        "ledger._used or not doubtful or",
        "True or",
        "mp_ledger_damage.py",
        "test_a_header_that_the_key_file_does_not_confirm_is_made_again",
    ),
    "programs are not read back": (
        "ring.py",
        "good = check == data",
        "good = True",
        "mp_ledger_damage.py",
        "test_stuck_bits",
    ),
    "erases are not checked": (
        "ring.py",
        "if self._blank(block):",
        "if True:",
        "mp_ledger_damage.py",
        "test_worn_sectors",
    ),
    "what the host has not got is erased": (
        "ring.py",
        "self._end(block) - 1 <= self._durable",
        "True",
        "mp_ledger_full.py",
        "test_full_of_what_must_stay",
    ),
    "counters are not carried into the next sector": (
        "ring.py",
        "new.counters = here.counters",
        "new.counters = [0] * 16",
        "mp_ledger.py",
        "test_counters",
    ),
    "counters go back": (
        "ring.py",
        "if value < now:",
        "if value < 0:",
        "mp_ledger.py",
        "test_counters",
    ),
    "the last record before a cut is sent before it is settled": (
        "mount.py",
        "min(pins) - 1 if pins else ledger._next - 1",
        "ledger._next - 1",
        "mp_ledger.py",
        "test_the_tail_is_withheld_until_it_is_settled",
    ),
    "acknowledgements are believed without the link": (
        "ring.py",
        "slot and found == seq and slot[record.LINK_AT : record.CRC_AT] == link",
        "slot and found == seq",
        "mp_ledger.py",
        "test_batches_and_acknowledgement",
    ),
    "checksums do not know the place of a slot": (
        "ring.py",
        "self._seed ^ self._index)",
        "self._seed)",
        "mp_ledger.py",
        "test_append_and_mount",
    ),
    "a flipped bit is put right in the wrong place": (
        "record.py",
        "data[at] ^= bit",
        "data[at] ^= bit >> 1",
        "mp_ledger_damage.py",
        "test_flipped_bits",
    ),
    "a sector without its header is free": (
        "mount.py",
        "                unknown.append(block)",
        "                pass",
        "mp_ledger_damage.py",
        "test_lost_headers",
    ),
    "thinning drops the end of a transaction": (
        "thin.py",
        "_DROPPED = (record.COUNTER, record.HEAD)",
        "_DROPPED = (record.COUNTER, record.HEAD, record.TX_ENDED)",
        "mp_ledger_full.py",
        "test_thinning_keeps_every_start_and_end",
    ),
    "there is no end of the numbers": (
        "ring.py",
        "if self._next + due > _LIMIT:",
        "if False:",
        "mp_ledger_damage.py",
        "test_sequence_numbers_end",
    ),
    "a boot is counted after its sector has ended": (
        "ring.py",
        "counters[_BOOTS] += 1 ",
        "counters[_BOOTS] += 0 ",
        "mp_ledger_full.py",
        "test_a_boot_is_counted_across_the_end_of_a_sector",
    ),
    "a boot is recorded after what it did": (
        "ring.py",
        "        self.record_boot(reserve)\n        need +=",
        "        need +=",
        "mp_ledger_full.py",
        "test_boots_that_do_nothing_cost_nothing",
    ),
    "boots take what the end of a transaction needs": (
        "ring.py",
        "(record.BOOT, boot)], reserve)",
        "(record.BOOT, boot)], 0)",
        "mp_ledger_full.py",
        "test_a_full_ring_starts_and_recovers",
    ),
    "firmware on trial takes the ring over": (
        "ring.py",
        "new.version = self._version",
        "new.version = header.VERSION",
        "mp_ledger_cuts.py",
        "test_every_cut_of_a_migration",
    ),
    "newer firmware writes into an older sector": (
        "ring.py",
        "            self._index = SLOTS\n\n",
        "\n",
        "mp_ledger_cuts.py",
        "test_every_cut_of_a_migration",
    ),
    "older firmware writes into a newer ring": (
        "mount.py",
        "not read_only and here.version <= header.VERSION",
        "not read_only",
        "mp_ledger_cuts.py",
        "test_every_cut_of_a_migration",
    ),
    "two ledgers on one device are mounted": (
        "mount.py",
        "if ledger.log_id not in (None, found[3]):",
        "if False:",
        "mp_ledger_damage.py",
        "test_never_mounted_and_never_erased",
    ),
    "any key will do": (
        "header.py",
        "!= bytes(view[_MAC_AT:_CRC_AT])",
        "== b''",
        "mp_ledger_damage.py",
        "test_another_key_is_noticed",
    ),
}


def _each():
    for bug, (_, _, _, file, _) in BUGS.items():
        slow = file == "mp_ledger_cuts.py"
        yield pytest.param(bug, marks=pytest.mark.nightly if slow else ())


@pytest.mark.parametrize("bug", list(_each()))
def test_is_noticed(bug, tmp_path):
    name, right, wrong, file, test = BUGS[bug]
    shutil.copytree(ROOT / "firmware", tmp_path / "firmware")
    source = tmp_path / "firmware/chargekeep/ledger" / name
    text = source.read_text()
    assert text.count(right) == 1, "the list is out of date"
    source.write_text(text.replace(right, wrong))
    tests = ROOT / "tests"
    path = [tmp_path / "firmware", ROOT / "boards/UNIX", ROOT / "boards", tests, tests / "shim"]
    done = subprocess.run(
        [sys.executable, tests / "run_mp.py", tests / file, test],
        env=dict(os.environ, PYTHONPATH=":".join(map(str, path))),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 1, done.stdout
    assert "SyntaxError" not in done.stderr and "NameError" not in done.stderr, done.stderr
