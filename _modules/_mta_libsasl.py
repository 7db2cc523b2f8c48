"""The text of a settings file of libsasl, as smtpd.conf and saslauthd.conf are: ``key: value`` in lines."""

from __future__ import annotations

import re


def value(text: str, key: str) -> str | None:
    """The value of ``key`` in a file of libsasl, which takes the first of several; ``None`` if absent."""
    found = re.search(rf"^[ \t]*{key}:[ \t]*(.*?)[ \t]*$", text, re.MULTILINE | re.IGNORECASE)
    return found[1] if found else None


def changed(text: str, key: str, value: str | None) -> str:
    """
    The file of libsasl with the first ``key`` changed and later ones taken out, or one added; ``None``: with none.
    """
    lines, done = [], value is None
    for line in text.splitlines():
        if re.match(rf"[ \t]*{key}:", line, re.IGNORECASE):
            if done:
                continue
            line, done = f"{key}: {value}", True
        lines.append(line)
    if not done:
        lines.append(f"{key}: {value}")
    return "\n".join(lines) + "\n"
