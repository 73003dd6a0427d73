# Keeps the tables of all keys that a station works with on flash: to change between the issuer of
# a driver's token and its own key takes 8 ms then, in place of 0.2 s. Loaded at each start and
# when the trust list is another, and given back. A table takes 4 KiB of the file system.

import os

from micropython import const

from chargekeep.credential import ed25519

_MOST = const(8)


async def keep(store, public_keys):
    """Have `store` hold the tables of the first 8 of `public_keys`, and of no other keys.

    Where it has no room left, tables are made each time they are needed.
    """
    wanted = {ed25519.table_name(key): key for key in public_keys[:_MOST]}
    base = ed25519.table_name(ed25519.MINUS_B)
    for name in os.listdir(store.root):
        if not name.startswith(ed25519.TABLE) or name == base:
            continue
        if name not in wanted:
            store.remove(name)
        else:
            del wanted[name]  # it is there
    try:
        for key in wanted.values():
            await ed25519.store_table(key)
    except (MemoryError, OSError):
        pass
