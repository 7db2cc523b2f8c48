"""The revision of all files that Salt syncs to minions, 12 hexadecimal digits; bin/update-revision writes it."""

from __future__ import annotations

REVISION = "85dc6327db2c"
