"""The revision of all files that Salt syncs to minions, 12 hexadecimal digits; bin/update-revision writes it."""

from __future__ import annotations

REVISION = "8cf4dc93cdea"
