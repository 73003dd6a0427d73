"""The allowlist's tree of pages: shape, proofs, and what no list may be."""

import hashlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chargekeep_tools import allowlist, wire
from chargekeep_tools.codes import ToolError


def entries(n, seed=b""):
    hashes = (hashlib.sha256(seed + i.to_bytes(4, "big")).digest()[:16] for i in range(n))
    return [(h, i % 7, i) for i, h in enumerate(hashes)]


def root(pages):
    return hashlib.sha256(pages[0]).digest()


def walk(pages):
    """Every entry, from the root down, each page proven; asserts the shape of FORMATS.md."""
    seen, queue = [0], [(0, root(pages), None)]
    found = []
    for number, expected, level_above in queue:
        page = pages[number]
        assert len(page) == 512
        assert hashlib.sha256(page).digest()[: len(expected)] == expected
        level, count, first, zero = struct.unpack_from(">BBHI", page)
        assert zero == 0 and count <= 24 and level <= 3
        assert level_above is None or (count and level == level_above - 1)
        assert not any(page[8 + 21 * count :])
        for i in range(count):
            item = page[8 + 21 * i : 29 + 21 * i]
            if level:
                seen.append(first + i)
                queue.append((first + i, item[5:], level))
            else:
                found.append(struct.unpack(">16sBI", item))
    assert seen == list(range(len(pages)))  # breadth first, each page named once
    return found


@pytest.mark.parametrize("n", [0, 1, 23, 24, 25, 48, 576, 577, 600, 13824, 13825, 15000])
def test_every_entry_is_found_and_nothing_else(n):
    listed = entries(n)
    pages = allowlist.build_pages(listed)
    assert walk(pages) == sorted(listed)
    for entry in listed[:: max(1, n // 50)]:
        assert allowlist.find(pages, root(pages), entry[0]) == entry
    for stranger, *_ in entries(50, b"x"):
        assert allowlist.find(pages, root(pages), stranger) is None


@given(st.sets(st.tuples(st.integers(0, 3), st.integers(0, 255)), max_size=80))
@settings(max_examples=100, deadline=None)
def test_equal_separators_lie_in_one_leaf(pairs):
    by_head = {}
    for head, tail in pairs:  # at most 24 of each separator
        by_head.setdefault(head, []).append(bytes([head]) * 5 + bytes([tail]) * 11)
    listed = [(h, 0, 0) for group in by_head.values() for h in group[:24]]
    pages = allowlist.build_pages(listed)
    assert walk(pages) == sorted(listed)
    for entry in listed:
        assert allowlist.find(pages, root(pages), entry[0]) == entry


def test_more_equal_separators_than_a_leaf_holds_are_refused():
    with pytest.raises(ToolError):
        allowlist.build_pages([(bytes(15) + bytes([i]), 0, 0) for i in range(25)])


def test_a_duplicate_is_refused():
    with pytest.raises(ToolError):
        allowlist.build_pages([(bytes(16), 0, 0), (bytes(16), 1, 0)])


def test_an_empty_list_is_one_page_of_zeros():
    assert allowlist.build_pages([]) == [bytes(512)]


def test_a_page_of_another_list_is_not_believed():
    pages = allowlist.build_pages(entries(100))
    wanted = entries(100)[3][0]
    for number in range(len(pages)):
        other = list(pages)
        other[number] = other[number][:300] + b"\xff" + other[number][301:]
        try:
            assert allowlist.find(other, root(pages), wanted) == entries(100)[3]
        except wire.WireError:
            pass
    assert sum(1 for page in pages if page[8:24] <= wanted) >= 1


def test_rows_of_a_file(tmp_path):
    path = tmp_path / "ids.csv"
    path.write_text("id_token,policy,expiry\nA,,\nB,3,2030-01-01\n\nC\n")
    assert list(allowlist.read_csv(path)) == [("A", 0, 0), ("B", 3, 1893456000), ("C", 0, 0)]
    path.write_text("A,x\n")
    with pytest.raises(ToolError):
        list(allowlist.read_csv(path))
