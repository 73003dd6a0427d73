# Whom a station believes: the operator's root key, and the issuer keys of the root-signed trust
# list, each with the uses it may sign for and its validity. Only the trust list answers to the
# root key, and nothing but what its scope names answers to an issuer's.

import hashlib

from micropython import const

from chargekeep import errors
from chargekeep.authorization import form
from chargekeep.credential import cose
from chargekeep.errors import ChargekeepError

_ISSUERS = const(10)  # keys of the trust list
_REVOKED = const(11)
_MAX_ISSUERS = const(16)
_MAX_REVOKED = const(64)
_SCOPE_ALL = const(255)

# Scope bits of the content types from 65002 (entitlement) to 65010 (firmware manifest)
_SCOPE = b"\x01\x02\x02\x04\x08\x10\x20\x40\x80"


def kid_of(public_key):
    """Key id: first 4 bytes of SHA-256(public key)."""
    return hashlib.sha256(public_key).digest()[:4]


class TrustList(form.Object):
    """`issuers`: by kid `[kid, key, scope, nbf, exp]`; `revoked` kids."""

    def __init__(self, payload):
        super().__init__(payload, (_ISSUERS, _REVOKED))
        self.issuers = {}
        for issuer in form.array(self.body[_ISSUERS], _MAX_ISSUERS):
            kid, key, scope, nbf, exp = form.array(issuer, 5, 5)
            if kid != kid_of(form.octets(key, 32)) or kid in self.issuers:
                form.fail("kid")
            form.uint(scope, _SCOPE_ALL)
            form.uint(exp, low=form.uint(nbf) + 1)
            self.issuers[kid] = issuer
        self.revoked = form.array(self.body[_REVOKED], _MAX_REVOKED)
        for kid in self.revoked:
            form.octets(kid, 4)


class Trust:
    """`root_key`: 32 bytes. Believes in no issuer until `use` is given a trust list."""

    def __init__(self, root_key, timebase):
        self._root = (kid_of(root_key), root_key)
        self._timebase = timebase
        self.version = 0
        self._issuers = {}
        self._revoked = ()

    def use(self, listed):
        """Replace all issuers by those of `listed`, a `TrustList`."""
        self.version = listed.version
        self._issuers = listed.issuers
        self._revoked = listed.revoked

    def keys(self):
        """The issuers' public keys."""
        return [issuer[1] for issuer in self._issuers.values()]

    def key_for(self, kid, content_type, stored=False):
        """Public key of `kid` for a message of `content_type`.

        `stored`: the message was accepted before, so the key may have expired since. Raises
        COSE_UNKNOWN_KID, COSE_ISSUER_REVOKED, COSE_ISSUER_SCOPE or COSE_ISSUER_EXPIRED.
        """
        if content_type == cose.TRUST_LIST:
            if kid != self._root[0]:
                raise ChargekeepError(errors.COSE_UNKNOWN_KID, "root")
            return self._root[1]
        # A revocation list outlives its issuer, or revoking that one would free who it revoked
        outlives = stored and content_type == cose.REVOCATION_LIST
        if kid in self._revoked and not outlives:
            raise ChargekeepError(errors.COSE_ISSUER_REVOKED)
        if kid not in self._issuers:
            raise ChargekeepError(errors.COSE_UNKNOWN_KID)
        _, key, scope, nbf, exp = self._issuers[kid]
        at = content_type - cose.ENTITLEMENT
        if not 0 <= at < len(_SCOPE) or not scope & _SCOPE[at]:
            raise ChargekeepError(errors.COSE_ISSUER_SCOPE)
        if not stored:
            self._check_validity(content_type, nbf, exp)
        return key

    def _check_validity(self, content_type, nbf, exp):
        # A clock that was set by an unsigned hint must not lock out the signed time that would
        # correct it; the floor is never ahead.
        now = self._timebase.now()
        if now is None or content_type == cose.TIME_STATEMENT:
            now = self._timebase.floor()
        if now >= exp:
            raise ChargekeepError(errors.COSE_ISSUER_EXPIRED)
        if now < nbf and self._timebase.certain and content_type != cose.TIME_STATEMENT:
            raise ChargekeepError(errors.COSE_ISSUER_EXPIRED, "not yet valid")
