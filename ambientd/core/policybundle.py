"""Signed items as text: how files and the API carry them."""

import re

from ambientd.core.ed25519 import PREFIX
from ambientd.core.signeditem import BODY_MAX_BYTES, SignedItem
from ambientd.wire.policy_messages import PolicyItem

_KEY = re.compile(PREFIX + r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")


def parse_issuer(text: str) -> bytes | None:
    """The 32 bytes of a key's text form, without a look at whether they are a sound key."""
    return bytes.fromhex(text[len(PREFIX) :]) if _KEY.fullmatch(text) else None


def item_of(text: PolicyItem) -> SignedItem | str:
    """The signed item, or what is wrong with its text."""
    issuer = parse_issuer(text.issuer)
    if issuer is None:
        return "issuer must be ed25519: and 64 hexadecimal digits"
    if _SIGNATURE.fullmatch(text.signature) is None:
        return "signature must be 128 hexadecimal digits"
    body = text.body.encode("utf-8", "surrogatepass")
    if len(body) > BODY_MAX_BYTES:
        return f"body is longer than {BODY_MAX_BYTES} bytes"
    return SignedItem(body, issuer, bytes.fromhex(text.signature))


def text_of(item: SignedItem) -> PolicyItem:
    """The text form of an item whose body was read before."""
    return PolicyItem(
        body=item.body.decode(), issuer=PREFIX + item.issuer.hex(), signature=item.signature.hex()
    )
