# Signs what a transaction took: its begin and end as the meter showed them, in one object that
# anyone can verify with the station's public key alone. Made after the end, in the background;
# where a power cut comes between, it is made after the next boot. Loaded for this only; costs 5
# slots of the ledger.

from micropython import const

from chargekeep import cbor
from chargekeep.credential import cose

_RECORD_EVIDENCE = const(15)  # FORMATS.md section 4
_EVIDENCE = const(65013)  # content type, section 2


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


async def attest(machine, ledger, site, station, meter, kid, sign):
    """Seal and record the last ended transaction of `machine`, if there is one to seal.

    `sign(message)` is a coroutine that returns the station's signature, `kid` its key's id,
    `meter` names the meter's type. Raises what the ledger does; then it is to be tried again.
    """
    tx = machine.ended
    if tx is None:
        return
    to_sign = []

    def unsigned(message):
        to_sign.append(message)
        return bytes(64)

    body = payload(site, station, machine.evse_id, meter, tx)
    data = cose.seal_sign1(_EVIDENCE, kid, body, unsigned)
    data = data[:-64] + await sign(to_sign[0])  # the signature comes last
    ledger.append(_RECORD_EVIDENCE, [tx.id, data])
    if machine.ended is tx:
        machine.ended = None
