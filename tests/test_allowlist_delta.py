"""A small change of a big list changes few pages, so that stations need to fetch few chunks."""

import hashlib
import random

from chargekeep_tools import allowlist


def chunks_to_fetch(old, new):
    """Chunks of `new` with a page that a station cannot take from `old`: an index, a new leaf."""
    known = {hashlib.sha256(page).digest() for page in old if page[0] == 0}
    return {
        i // allowlist.CHUNK_PAGES
        for i, page in enumerate(new)
        if page[0] or hashlib.sha256(page).digest() not in known
    }


def test_one_card_exchanged():
    source = random.Random(5)
    entries = [(source.randbytes(16), 0, 0) for _ in range(3000)]
    old = allowlist.build_pages(entries)
    for _ in range(5):
        source.shuffle(entries)
        new = allowlist.build_pages(entries[1:] + [(source.randbytes(16), 0, 0)])
        assert len(chunks_to_fetch(old, new)) <= 10
    assert len(old) > 140
