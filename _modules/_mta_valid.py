"""Whether the minion's own pillar is valid: a judgement that is kept while what it rests on is the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import _mta_last_apply
import _mta_pillar
import _mta_pillar_types
import _mta_plan_cache
import _mta_settings
import _mta_system
from _mta_minion import Minion


def problems(minion: Minion, key: str, hostname: Any, family: Any, saltenv: str | None) -> list[str]:
    """
    Return what is wrong with the pillar, one line for each problem.

    Parameters, result and errors: ``mta_settings.problems``.
    """
    pillar, settings = minion.pillar.get(key), _mta_settings.current(minion, saltenv or minion.saltenv)
    renamed = _renamed(minion, key, pillar)
    subject = f"mta_settings.valid {key}"
    arguments = {"pillar": pillar, "hostname": hostname, "family": family, "settings": settings}
    if not renamed and _mta_plan_cache.unchanged(minion, subject, arguments) is not None:
        return []
    with _mta_system.watched() as looks:
        found = _mta_pillar.judged(
            _mta_plan_cache.noticed(minion), key, pillar, settings, hostname, family, renamed
        )
    if not found:
        _mta_plan_cache.note(minion, subject, arguments, looks, [])
    return found


def _renamed(minion: Minion, key: str, pillar: Any) -> list[str]:
    """
    How the host's own name differs from the one that the server got from it at the last apply: no or one line.

    A new lease, another resolver or cloud-init changes it: nobody has asked for a server of another name.
    """
    former, now = _mta_last_apply.last(minion).get("fqdn"), minion.grains.get("fqdn")
    if not former or now == former or (isinstance(pillar, Mapping) and pillar.get("hostname") is not None):
        return []
    name = _mta_pillar_types.shown(now)
    told = f"this host calls itself {name} now (the grain fqdn), and at the last apply it was {former}"
    ways = f"to keep that name, set hostname: {former}, to rename the server, hostname: {name}"
    return [f"{key}:hostname: {told}; {ways}"]
