"""
DKIM: the record of a public key, and whether a signature is one by that key (RFC 6376, RFC 8301, RFC 8463).

Signatures are verified as the signer of this formula makes them: ``rsa-sha256`` or ``ed25519-sha256`` over
``relaxed/relaxed``.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence

import _mta_x509

Headers = Sequence[tuple[str, str]]
SIGNATURE = "dkim-signature"
# What stands before the 32 bytes of a public Ed25519 key as DER (RFC 8410). rspamd reads a private one as the seed
# and the public key, in Base64.
ED25519, ED25519_SIZE = bytes.fromhex("302a300506032b6570032100"), 32


def record(public: bytes) -> str:
    """
    Return the text of the TXT record for a public key, RSA or Ed25519.

    public
        The key as DER (SubjectPublicKeyInfo).
    """
    if public.startswith(ED25519):
        return f"v=DKIM1; k=ed25519; p={base64.b64encode(public[len(ED25519) :]).decode()}"
    return f"v=DKIM1; k=rsa; p={base64.b64encode(public).decode()}"


def tags(text: str) -> dict[str, str]:
    """Return the tags of a record or a signature; blanks in values are left out, as nothing depends on them."""
    pairs = (part.partition("=") for part in text.split(";"))
    return {name.strip(): re.sub(r"\s+", "", value) for name, _, value in pairs if name.strip()}


def same_key(text: str, wanted: str) -> bool:
    """Return whether a TXT record holds the key of another one, however its tags are written."""
    found, asked = tags(text), tags(wanted)
    return found.get("p") == asked["p"] and found.get("k", "rsa") == asked.get("k", "rsa")


def problem(signature: str, headers: Headers, body: bytes, public: bytes) -> str | None:
    """
    Tell what is wrong with a signature; ``None``: it is good.

    signature
        The value of the field ``DKIM-Signature``.

    headers
        The message's fields, name and value, from top to bottom.

    body
        The body, with lines that end in CRLF.

    public
        The public key as DER.
    """
    found = tags(signature)
    kind = "ed25519-sha256" if public.startswith(ED25519) else "rsa-sha256"
    if found.get("a") != kind or found.get("c") != "relaxed/relaxed":
        return f"it is made by {found.get('a')} over {found.get('c')}, and not by {kind} over relaxed/relaxed"
    digest = base64.b64encode(hashlib.sha256(_relaxed_body(body)).digest()).decode()
    if found.get("bh") != digest:
        return "the message's body is not the one that was signed"
    library = _mta_x509.library()
    try:
        key = library.serialization.load_der_public_key(public)
        made, text = base64.b64decode(found.get("b", "")), _signed(signature, found.get("h", ""), headers)
        if public.startswith(ED25519):
            key.verify(made, hashlib.sha256(text).digest())
        else:
            key.verify(made, text, library.padding.PKCS1v15(), library.hashes.SHA256())
    except library.errors:
        return "it is not by the key whose record the DNS should have"
    return None


def _relaxed(name: str, value: str) -> str:
    """A header field in its canonical form (3.4.2)."""
    text = re.sub(r"[ \t]+", " ", re.sub(r"\r?\n", "", value)).strip()
    return f"{name.lower().strip()}:{text}"


def _relaxed_body(body: bytes) -> bytes:
    """A body in its canonical form (3.4.4)."""
    lines = [re.sub(rb"[ \t]+", b" ", line).rstrip(b" ") for line in body.split(b"\r\n")]
    text = b"\r\n".join(lines).rstrip(b"\r\n")
    return text + b"\r\n" if text else b""


def _signed(signature: str, names: str, headers: Headers) -> bytes:
    """What a signature is made over: of fields with the same name the lowest first (3.7, 5.4.2)."""
    left = list(headers)
    chosen = []
    for name in names.lower().split(":"):
        for number in range(len(left) - 1, -1, -1):
            if left[number][0].lower() == name:
                chosen.append(_relaxed(*left.pop(number)))
                break
    bare = re.sub(r"(^|;)(\s*b\s*=)[^;]*", r"\1\2", signature)
    return "\r\n".join([*chosen, _relaxed(SIGNATURE, bare)]).encode("utf-8", "surrogateescape")
