# Writes a file of 64 sectors that are full of records and prints the file of its seal key as hex:
# what a station finds that was long without its host, in a transaction that is as long. firmware/,
# boards/UNIX and tests/ are on the path.

import sys

from nor import NorFile
from nor_sim import LOG, Clock, MemoryStore

from chargekeep.ledger import record
from chargekeep.ledger.ring import Ledger

device = NorFile(sys.argv[1], 64)
store = MemoryStore()
Ledger.format(device, LOG, bytes(32), store)
log = Ledger(device, None, Clock(), store)
log.mount()
log.append(record.TX_STARTED, [1, 1, 1, b"h" * 16, b"token--1", b"kid1", 0, 1, 1, 0, 0, 0, 1])
n = 0
while log.free_slots > 60:  # the rest is kept for ends
    n += 1
    log.append(record.TX_UPDATED, [1, n, 8, 100 * n, 1])
while log.free_slots:
    log.append(record.TX_ENDED, [0, 1, 10, 6, 0])
device.close()
print(store.files["ledger.key"].hex())
