# Writes a file of 64 sectors that are full of records and prints the file of its seal key as hex:
# what a station finds that was long without its host. firmware/, boards/UNIX and tests/ are on the
# path.

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
while log.free_slots:
    log.append(record.TX_ENDED, [1, 2, 10, 6, log.free_slots])
device.close()
print(store.files["ledger.key"].hex())
