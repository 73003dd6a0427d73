"""TLS of the host's own connections to a broker: what its URL asks for, what a refusal means."""

import re
import ssl
from urllib.parse import parse_qs, urlsplit

from chargekeep_tools.codes import Exit, ToolError

# As Python words OpenSSL's errors; paho and pika hand on the text, not always the exception.
# An alert of an internal error may pass: the broker's files are being written.
_REFUSED = re.compile(
    r"\[SSL: (CERTIFICATE_VERIFY_FAILED|WRONG_VERSION_NUMBER|\w+_ALERT_(?!INTERNAL)\w+)\] ([^(]+)"
)
_HINTS = {
    "CERTIFICATE_VERIFY_FAILED": "?ca=FILE names the authority that issued the broker's "
    "certificate, for this host and until a date to come",
    "WRONG_VERSION_NUMBER": "no TLS at this port",
}
_ALERT = (
    "the broker takes our certificate only if its own authority issued it: &cert=FILE&key=FILE"
)


def context(url: str) -> ssl.SSLContext | None:
    """Of an mqtts:// or amqps:// URL, else None.

    ?ca=FILE says whom to believe [the authorities of this machine], &cert=FILE&key=FILE what to
    show. Raises `ToolError` for a file that is missing or of no use.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("mqtts", "amqps"):
        return None
    files = {name: values[0] for name, values in parse_qs(parts.query).items()}
    try:
        found = ssl.create_default_context(cafile=files.get("ca"))
        if "cert" in files:
            found.load_cert_chain(files["cert"], files.get("key"), password="")  # ask nobody
    except OSError as error:  # of which ssl.SSLError is one
        raise ToolError(
            f"{parts.query}: {error}", Exit.USAGE, "PEM files; a key without a passphrase"
        )
    return found


def refusal(where: str, error: object) -> ToolError | None:
    """What to say of `error` if TLS failed at `where` for a reason that stays, else None."""
    found = _REFUSED.search(str(error))
    if found is None:
        return None
    reason, text = found.groups()
    hint = _HINTS.get(reason, _ALERT)
    return ToolError(f"{where}: TLS refused: {text.strip()}", Exit.BROKER, hint)
