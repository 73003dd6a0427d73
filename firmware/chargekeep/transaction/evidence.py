# Signs what a transaction took: its begin and end as the meter showed them, in one object that
# anyone can verify with the station's public key alone. Made after the end, in the background;
# where a power cut comes between, it is made after the next boot. Costs 5 slots of the ledger.

from micropython import const

from chargekeep import cbor
from chargekeep.credential import cose
from chargekeep.errors import ChargekeepError

_RECORD_EVIDENCE = const(15)  # FORMATS.md section 4
_EVIDENCE = const(65013)  # content type, section 2
_PERIOD_MS = const(1000)


def payload(site, station, evse_id, meter, tx):
    """Body of the evidence (FORMATS.md section 2) for the ended transaction `tx`."""
    return cbor.dumps(
        {
            2: site,
            3: station,
            10: tx.id,
            11: evse_id,
            12: tx.id_hash,
            13: [tx.start_wh] + list(tx.begin),
            14: [tx.end_wh] + list(tx.end),
            15: tx.reason,
            16: tx.energy_wh(tx.end_wh),
            17: meter,
        }
    )


class Notary:
    """`sign(message)` is a coroutine that returns the station's signature, `kid` its key's id,
    `meter` names the meter's type."""

    def __init__(self, ledger, health, site, station, meter, kid, sign):
        self._ledger = ledger
        self._health = health
        self._site = site
        self._station = station
        self._meter = meter
        self._kid = kid
        self._sign = sign

    async def seal(self, evse_id, tx):
        """The signed object, bytes."""
        to_sign = []

        def unsigned(message):
            to_sign.append(message)
            return bytes(64)

        body = payload(self._site, self._station, evse_id, self._meter, tx)
        data = cose.seal_sign1(_EVIDENCE, self._kid, body, unsigned)
        return data[:-64] + await self._sign(to_sign[0])  # the signature comes last

    async def attest(self, machine):
        """Seal and record the last ended transaction of `machine`, if there is one to seal."""
        tx = machine.ended
        if tx is None:
            return
        data = await self.seal(machine.evse_id, tx)
        self._ledger.append(_RECORD_EVIDENCE, [tx.id, data])
        if machine.ended is tx:
            machine.ended = None

    async def run(self, machine):
        """Attest for ever; what fails is counted and tried again."""
        from asyncio import sleep_ms

        while True:
            await sleep_ms(_PERIOD_MS)
            try:
                await self.attest(machine)
            except ChargekeepError as e:
                self._health.count(e.code, e.detail)
