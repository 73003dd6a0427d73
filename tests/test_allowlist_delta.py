"""A small change of a big list reaches a station in a message of the size of the change; where it
has another list than the delta leads from, it fetches few chunks."""

import asyncio
import hashlib
import random

import micropython  # noqa: F401  (tests/shim)
import pytest

from chargekeep.authorization import delta
from chargekeep.authorization.loader import Loader
from chargekeep.errors import ChargekeepError
from chargekeep_tools import allowlist, keys, publish, trust, wire
from chargekeep_tools.home import Home

NOW = 1_800_000_000


class Header:
    def __init__(self, pages, count):
        self.root = hashlib.sha256(pages[0]).digest()
        self.pages = len(pages)
        self.count = count


async def pause():
    pass


def built(folder, old, new, count, data, there=0):
    """What the station's loader makes of a delta, where it has `there` pages already."""
    (folder / "old").write_bytes(b"".join(old))
    (folder / "new").write_bytes(b"".join(new[:there]))
    loader = Loader(Header(new, count), str(folder / "new"), str(folder / "old"), pause)

    async def run():
        await loader.prove()
        assert loader.taken == there
        await delta.apply(loader, data)

    asyncio.run(run())
    assert loader.complete
    return (folder / "new").read_bytes()


def listed(source, count):
    return [(source.randbytes(16), source.randrange(3), 0) for _ in range(count)]


@pytest.mark.parametrize("seed", range(12))
def test_any_change_gives_the_pages_that_the_host_built(tmp_path, seed):
    source = random.Random(seed)
    entries = listed(source, source.choice([1, 3, 20, 24, 25, 60, 700, 800]))
    old = allowlist.build_pages(entries)
    for _ in range(10):
        source.shuffle(entries)
        gone = source.choice([0, 1, 1, 2, len(entries) // 2, len(entries)])
        changed = [(h, 1 - p % 2, e) for h, p, e in entries[gone : gone + source.randrange(3)]]
        kept = entries[gone + len(changed) :]
        entries = kept + changed + listed(source, source.choice([0, 1, 1, 2, 30]))
        if not entries:
            entries = listed(source, 2)
        new = allowlist.build_pages(entries)
        data = allowlist.delta(old, new)
        there = source.choice([0, 1, len(new) // 2, len(new) - 1])
        assert built(tmp_path, old, new, len(entries), data, there) == b"".join(new)
        old = new


def test_from_an_empty_list_and_across_a_level(tmp_path):
    source = random.Random(1)
    for before, after in ((0, 5), (0, 40), (400, 15), (15, 90), (450, 520), (12500, 12510)):
        entries = listed(source, max(before, after))
        old = allowlist.build_pages(entries[:before])
        new = allowlist.build_pages(entries[:after])
        data = allowlist.delta(old, new)
        assert built(tmp_path, old, new, after, data) == b"".join(new)


def test_no_other_list_comes_of_it(tmp_path):
    """Every change of a delta, and a delta for another base, gives an error or the list."""
    source = random.Random(2)
    entries = listed(source, 120)
    old = allowlist.build_pages(entries)
    new = allowlist.build_pages(entries[2:] + listed(source, 2))
    data = allowlist.delta(old, new)
    wrong = [data[:i] for i in range(len(data))]
    for i in range(len(data)):
        wrong += [data[:i] + bytes([data[i] ^ 1 << bit]) + data[i + 1 :] for bit in (i % 8, 5)]
    wrong += [b"", data + data, data + b"\0", bytes(2048), b"\xff" * 2048, b"\x40\x01" * 1024]
    for bad in wrong:
        try:
            made = built(tmp_path, old, new, 120, bad)
        except ChargekeepError:
            assert b"".join(new).startswith((tmp_path / "new").read_bytes())
        else:
            assert made == b"".join(new)
    with pytest.raises(ChargekeepError):
        built(tmp_path, allowlist.build_pages(entries[1:]), new, 120, data)
    with pytest.raises(ChargekeepError):  # good, and 2,050 bytes: 2 (skip) is 0x4000
        built(tmp_path, old, new, 120, data + b"\x40\0" * (1025 - len(data) // 2))


def test_a_full_disk_leaves_what_the_loader_can_go_on_from(tmp_path, monkeypatch):
    source = random.Random(3)
    entries = listed(source, 200)
    old = allowlist.build_pages(entries)
    new = allowlist.build_pages(entries[1:])

    class Full:
        def __init__(self, file):
            self.file, self.left = file, 4

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            self.left -= 1
            if self.left < 0:
                raise OSError(28)
            return self.file.write(data)

    def full(name, mode):
        file = open(name, mode)
        return file if mode == "rb" else Full(file)

    (tmp_path / "old").write_bytes(b"".join(old))
    loader = Loader(Header(new, 199), str(tmp_path / "new"), str(tmp_path / "old"), pause)
    monkeypatch.setattr(delta, "open", full, raising=False)
    with pytest.raises(ChargekeepError):
        asyncio.run(delta.apply(loader, allowlist.delta(old, new)))
    assert loader.taken == 4 == (tmp_path / "new").stat().st_size // allowlist.PAGE
    monkeypatch.undo()
    asyncio.run(delta.apply(loader, allowlist.delta(old, new)))
    assert loader.complete and (tmp_path / "new").read_bytes() == b"".join(new)


def test_one_card_of_ten_thousand_costs_a_small_message():
    source = random.Random(5)
    entries = listed(source, 10_000)
    old = allowlist.build_pages(entries)
    for cards, most in ((1, 256), (10, 1024)):
        source.shuffle(entries)
        new = allowlist.build_pages(entries[cards:] + listed(source, cards))
        assert len(allowlist.delta(old, new)) <= most


def test_it_is_published_beside_the_list(tmp_path):
    home = Home(tmp_path)
    keys.create(home, "root", "root", encrypted=False)
    keys.create(home, "issuer", "issuer", encrypted=False)
    trust.build(home, "hall")
    rows = [(f"DE-{i}", 0, 0) for i in range(300)]
    rest = iter(range(10**6))
    for exchanged in (0, 1, 1, 200, 1):  # too much for one message where 200
        rows = rows[exchanged:] + [(f"NEW-{next(rest)}", 0, 0) for _ in range(exchanged)]
        allowlist.build(home, "hall", rows, exp=NOW)
    bases = [
        wire.peek_sign1(data)[2].get(14, []) for _, _, data in home.objects("hall", "allowlist")
    ]
    assert bases == [[4], [], [1, 2], [1], []]
    sent = [topic for topic, _, _ in publish.retained(home, "hall")]
    base = "chargekeep/1/hall/all/down/allowlist"
    assert sent.index(f"{base}/5/-4") < sent.index(f"{base}/5/0") < sent.index(base)
    chunks = len(list(allowlist.chunks(home, "hall", 3)))  # the site's key decides where they end
    assert set(dict(allowlist.parts(home, "hall", 3))) == {-1, -2, *range(chunks)}


def chunks_to_fetch(old, new):
    """Chunks of `new` with a page that a station cannot take from `old`: an index, a new leaf."""
    known = {hashlib.sha256(page).digest() for page in old if page[0] == 0}
    return {
        i // allowlist.CHUNK_PAGES
        for i, page in enumerate(new)
        if page[0] or hashlib.sha256(page).digest() not in known
    }


def test_one_card_exchanged_without_a_delta():
    source = random.Random(5)
    entries = listed(source, 3000)
    old = allowlist.build_pages(entries)
    for _ in range(5):
        source.shuffle(entries)
        new = allowlist.build_pages(entries[1:] + listed(source, 1))
        assert len(chunks_to_fetch(old, new)) <= 10
    assert len(old) > 140
