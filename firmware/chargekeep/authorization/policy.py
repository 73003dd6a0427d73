# The decision: may what was presented start a transaction here and now, within what limits, and on
# what evidence. Works with no network at all. Each refusal has its own code. Signatures come
# first: nothing a token claims counts before its signature holds.

import hashlib

from micropython import const

from chargekeep import errors
from chargekeep.authorization.entitlement import Entitlement
from chargekeep.authorization.idtoken import id_hash
from chargekeep.credential import cose, token
from chargekeep.errors import ChargekeepError

UID = "UID:"  # prefix of what a reader knows to be nothing but the serial number of a card

_MAX_TEXT = const(600)
_MAX_ID_TOKEN = const(36)  # OCPP 2.0.1 part 2, IdTokenType
_CACHE = const(8)

# AuthorizationStatusEnumType of OCPP 2.0.1 part 2 for our codes; any other is Invalid
_STATUS = {
    0: "Accepted",
    errors.TOKEN_EXPIRED: "Expired",
    errors.TOKEN_NOT_YET_VALID: "NotAtThisTime",
    errors.TOKEN_WINDOW: "NotAtThisTime",
    errors.TIME_UNKNOWN: "NotAtThisTime",
    errors.TOKEN_AUDIENCE: "NotAtThisLocation",
    errors.TOKEN_EVSE: "NotAtThisLocation",
    errors.TOKEN_REPLAYED: "Blocked",
    errors.TOKEN_REVOKED: "Blocked",
    errors.UID_DISABLED: "Blocked",
    errors.LIST_STALE: "Blocked",
    errors.TOKEN_BUDGET: "NoCredit",
    errors.TOKEN_IN_USE: "ConcurrentTx",
    errors.EVSE_OCCUPIED: "ConcurrentTx",
    errors.ID_UNKNOWN: "Unknown",
}


class Decision:
    """`accepted`, or refused for `code` (errors.py) and `status` (OCPP AuthorizationStatus).

    `stop`: accepted, to end the transaction that the same IdToken runs on this EVSE. Limits
    `max_wh`, `max_s`, `max_w`: 0 is none. Evidence: `id_hash`, `cti`, `kid` (None where there is
    none; of a refused token as it claims), `hearsay`: on a UID that anyone could have copied,
    `exp` of the token, `versions` of trust list, allowlist, revocations and configuration,
    `quality` of the clock.
    """

    accepted = stop = hearsay = False
    id_hash = cti = kid = None
    code = exp = use_count = quality = 0
    max_wh = max_s = max_w = 0
    tariff_id = tariff_version = 0
    versions = (0, 0, 0, 0)

    @property
    def status(self):
        return _STATUS.get(self.code, "Invalid")

    @property
    def evidence(self):
        """What a Started record says of it, after the limits and the trigger."""
        found = (self.exp, self.quality) + self.versions
        return found + (True,) if self.hearsay else found

    def limit(self, max_wh, max_s=0, max_w=0):
        """Tighten the limits by these."""
        self.max_wh = _tighter(self.max_wh, max_wh)
        self.max_s = _tighter(self.max_s, max_s)
        self.max_w = _tighter(self.max_w, max_w)


class Policy:
    """Decides from `objects` (objects.py), `spent` (spent.py) and the `timebase`.

    `site_key` is the 32 bytes that IdTokens are hashed with.
    """

    def __init__(self, objects, spent, timebase, site_key):
        self.spent = spent
        self._objects = objects
        self._timebase = timebase
        self._site_key = site_key
        self._running = {}  # EVSE id to the IdToken hash of its transaction
        self._verified = []  # (hash of the token, kid): newest last
        self._generation = -1

    async def decide(self, presented, evse_id, connector_id=1):
        """Decision on `presented`: `CK1:` text or bytes of a token, `UID:` text, or an IdToken."""
        decision = Decision()
        objects = self._objects
        decision.versions = (
            objects.trust.version,
            objects.allowlist.header.version if objects.allowlist.header else 0,
            objects.revocations.version,
            objects.config.version,
        )
        decision.quality = self._timebase.quality
        try:
            if type(presented) is not str:
                await self._on_token(decision, presented, evse_id, connector_id)
            elif presented.startswith(token.PREFIX):
                data = token.from_text(presented)
                await self._on_token(decision, data, evse_id, connector_id)
            else:
                self._on_id(decision, presented, evse_id)
            decision.accepted = True
        except ChargekeepError as e:
            decision.code = e.code
        return decision

    def begin(self, decision, evse_id):
        """May the transaction start that was decided on? Writes nothing.

        Raises TOKEN_REPLAYED, TOKEN_IN_USE or SPENT_FULL.
        """
        for other, running in self._running.items():
            if running == decision.id_hash and other != evse_id:
                raise ChargekeepError(errors.TOKEN_IN_USE)
        if decision.cti:
            self.spent.check(decision.cti, decision.use_count)

    def started(self, transaction, evse_id):
        """Its Started record is in flash: counts the token's use, durable on return, once.

        To be called before power flows and, as a power cut may come between, after a boot for a
        transaction that goes on. Raises SPENT_FULL; then no power may flow.
        """
        self._running[evse_id] = transaction.id_hash
        if transaction.cti:
            self.spent.begin(transaction.cti, transaction.exp, transaction.id)

    def use(self, cti, tx_id, wh, s):
        """Transaction `tx_id` of token `cti` (or None) has taken so much; durable on return."""
        if cti:
            self.spent.use(cti, tx_id, wh, s)

    def end(self, evse_id):
        """The transaction on `evse_id` is over, and its use was told by `use`."""
        self._running.pop(evse_id, None)

    def revoked(self, cti, id_hash):
        """Has the token or IdToken of a running transaction been revoked?"""
        return self._objects.revocations.revoked(cti, id_hash)

    async def _on_token(self, decision, data, evse_id, connector_id):
        if len(data) > _MAX_TEXT:
            raise ChargekeepError(errors.TOKEN_FORM, "length")
        decision.kid = cose.parse(data)[1]
        entitlement = Entitlement(await self._open(data))
        decision.cti = entitlement.cti
        decision.id_hash = id_hash(self._site_key, entitlement.id_token)
        objects = self._objects
        entitlement.check_place(objects.site, objects.station, evse_id, connector_id)
        if self._runs_here(decision, evse_id):
            return
        self._check_revoked(decision)
        entitlement.check_time(self._timebase, objects.config)
        if entitlement.nbf <= self.spent.lost_until:
            raise ChargekeepError(errors.SPENT_LOST)
        decision.exp = entitlement.exp
        decision.use_count = entitlement.use_count
        uses, wh, s = self.spent.totals(entitlement.cti)
        if uses >= entitlement.use_count:
            raise ChargekeepError(errors.TOKEN_REPLAYED)
        decision.limit(
            _left(entitlement.max_wh, wh), _left(entitlement.max_s, s), entitlement.max_w
        )
        decision.tariff_id = entitlement.tariff_id
        decision.tariff_version = entitlement.tariff_version
        self._finish(decision, evse_id)

    async def _open(self, data):
        objects = self._objects
        if self._generation != objects.generation:
            self._generation = objects.generation
            self._verified.clear()
        digest = hashlib.sha256(data).digest()
        if digest in self._verified:
            content_type, kid, _, payload, _ = cose.parse(data)
            if content_type != cose.ENTITLEMENT:
                raise ChargekeepError(errors.COSE_CONTENT_TYPE)
            objects.trust.key_for(kid, content_type)  # may have expired since
            return payload
        generation = objects.generation
        payload = await cose.open_sign1_async(data, cose.ENTITLEMENT, objects.trust.key_for)
        if generation == objects.generation:
            self._verified.append(digest)
            if len(self._verified) > _CACHE:
                self._verified.pop(0)
        return payload

    def _on_id(self, decision, presented, evse_id):
        config = self._objects.config
        id_token = presented
        if presented.startswith(UID):
            decision.hearsay = True
            id_token = presented[len(UID) :].upper()
        if not 0 < len(id_token.encode()) <= _MAX_ID_TOKEN:
            raise ChargekeepError(errors.TOKEN_FORM, "IdToken")
        decision.id_hash = id_hash(self._site_key, id_token)
        if decision.hearsay:
            if not config.bare_uid:
                raise ChargekeepError(errors.UID_DISABLED)
            decision.limit(config.bare_uid_max_wh)
        if self._runs_here(decision, evse_id):
            return
        self._check_revoked(decision)
        entry = self._look_up(decision, config)
        if entry:
            policy, exp = entry
            now = self._timebase.now()
            if exp and (self._timebase.floor() if now is None else now) >= exp:
                raise ChargekeepError(errors.TOKEN_EXPIRED)
            if policy >= len(config.policies):
                raise ChargekeepError(errors.CONFIG, "policy %d" % policy)
            max_wh, max_s, max_w, decision.tariff_id = config.policies[policy]
            decision.limit(max_wh, max_s, max_w)
        elif config.offline_tx_for_unknown_id:
            decision.hearsay = True
            decision.limit(config.unknown_id_max_wh)
        else:
            raise ChargekeepError(errors.ID_UNKNOWN)
        self._finish(decision, evse_id)

    def _look_up(self, decision, config):
        """The entry of the allowlist, or None; LIST_STALE where the list is too old to count."""
        allowlist = self._objects.allowlist
        header = allowlist.header
        if not header:
            return None
        now = self._timebase.now()
        now = self._timebase.floor() if now is None else now
        entry = allowlist.look_up(decision.id_hash)
        if not entry:
            return None
        if now >= header.exp:
            raise ChargekeepError(errors.LIST_STALE, "expired")
        if now - header.issued_at > config.offline_grace_s:
            if not config.stale_list_accepted:
                raise ChargekeepError(errors.LIST_STALE)
            decision.limit(config.stale_list_max_wh)
        return entry

    def _runs_here(self, decision, evse_id):
        # Whoever started may stop, whatever has expired since
        for other, running in self._running.items():
            if running == decision.id_hash:
                if other != evse_id:
                    raise ChargekeepError(errors.TOKEN_IN_USE)
                decision.stop = True
        return decision.stop

    def _check_revoked(self, decision):
        if "revocation" in self._objects.missing():
            raise ChargekeepError(errors.LIST_STALE, "revocations")
        if self._objects.revocations.revoked(decision.cti, decision.id_hash):
            raise ChargekeepError(errors.TOKEN_REVOKED)

    def _finish(self, decision, evse_id):
        if evse_id in self._running:
            raise ChargekeepError(errors.EVSE_OCCUPIED)
        config = self._objects.config
        decision.limit(config.max_wh, config.max_s, config.max_w)
        tariff = self._objects.tariff
        if decision.tariff_id in (0, tariff.id) and not decision.tariff_version:
            decision.tariff_id = tariff.id
            decision.tariff_version = tariff.version


def _tighter(a, b):
    return min(a, b) if a and b else a or b


def _left(most, used):
    """What is left of a budget; 0 stays 0: no limit. Raises TOKEN_BUDGET."""
    if most and used >= most:
        raise ChargekeepError(errors.TOKEN_BUDGET)
    return most - used if most else 0
