"""Signing payloads as the Standard Webhooks specification says (v1, symmetric).

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import hashlib
import hmac
from functools import cache

from pydantic import SecretStr

SECRET_PREFIX = "whsec_"  # noqa: S105 - it only marks one

SHORTEST_KEY, LONGEST_KEY = 24, 64
"""In bytes, as the specification says."""
ADVICE = "make one with: echo whsec_$(openssl rand -base64 32)"
"""How to get a good secret."""


def key_of(secret: SecretStr) -> bytes:
    """Decode a secret `whsec_<base64>`; the prefix may be missing. Raises `ValueError`."""
    text = secret.get_secret_value().removeprefix(SECRET_PREFIX)
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError:  # also for characters that are not ASCII
        key = b""
    if not key:
        raise ValueError(f"is not whsec_ followed by base64; {ADVICE}")
    if not SHORTEST_KEY <= len(key) <= LONGEST_KEY:
        raise ValueError(f"stands for {len(key)} bytes; it must be {SHORTEST_KEY} to {LONGEST_KEY}; {ADVICE}")
    return key


def is_well_known(key: bytes) -> bool:
    """Return whether the key is the one that stands in this project's own example of a Secret."""
    return key == b"replace this by your own secret"


def sign(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of `webhook-signature` for a body sent at `timestamp` (seconds since 1970)."""
    signed = b"%s.%d.%s" % (message_id.encode(), timestamp, body)
    code = _keyed(key).copy()
    code.update(signed)
    return "v1," + base64.b64encode(code.digest()).decode()


@cache
def _keyed(key: bytes) -> hmac.HMAC:
    return hmac.new(key, digestmod=hashlib.sha256)
