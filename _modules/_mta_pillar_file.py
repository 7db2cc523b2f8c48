"""A pillar file made of settings: what is secret, or cannot be in pillar, is left out and named in comments."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Callable

import salt.utils.yaml

from _mta_secret_kinds import is_secret

KEY = "postfix_mta"
LONGEST_NAME = 60

Settings = dict[str, Any]
# What is not in the file, and why.
Notes = dict[str, str]


def shown(name: object) -> str:
    """Return a name for a comment: in one line."""
    return name if isinstance(name, str) and name.isprintable() else ascii(name)


def is_left_out(where: str, name: str, value: object, include: Collection[str]) -> bool:
    """Whether a value holds a secret, and neither its name nor what the notes call it is to be included."""
    return is_secret(name, value) and not {where, where.rpartition(":")[2]} & {*include}


def without_secrets(
    section: str, values: Mapping[str, Any], notes: Notes, include: Collection[str] = ()
) -> dict[str, Any]:
    """Return the values of a section that hold no secret, or are to be included; the others are noted."""
    kept = {}
    for name, value in values.items():
        where = f"{section}:{shown(name)}"
        if is_left_out(where, name, value, include):
            notes[where] = "a secret"
        else:
            kept[name] = value
    return kept


def services_without_secrets(
    services: Mapping[str, Any], notes: Notes, include: Collection[str] = ()
) -> dict[str, Any]:
    """Return services without the arguments and overrides that hold a secret; those are noted."""
    kept: dict[str, Any] = {}
    for service, given in services.items():
        kept[service] = fields = dict(given) if given else given
        if not fields:
            continue
        where = f"services:{shown(service)}:arguments"
        if is_left_out(where, "", fields.get("arguments"), include) and service not in include:
            notes[where] = "a secret"
            del fields["arguments"]
        if "overrides" in fields:
            where = f"services:{shown(service)}:overrides"
            fields["overrides"] = without_secrets(where, fields["overrides"], notes, include)
    return kept


def leave_out_refused(settings: Settings, notes: Notes, problems: Callable[..., list[str]]) -> None:
    """
    Take out of settings what the validation of the pillar refuses, and note why.

    problems
        The execution function ``mta_settings.problems``.
    """

    def refused() -> list[str]:
        found = problems(KEY, settings.get("hostname"), pillar=settings)
        return [line[len(KEY) + 1 :] for line in found]

    for section in ("parameters", "services", "aliases", "maps"):
        lines = refused() if settings.get(section) else []
        for name in list(settings.get(section) or ()):
            where = f"{section}:{name}"
            why = [line for line in lines if line.startswith(f"{where}:")]
            odd = not name.isprintable() or len(name) > LONGEST_NAME
            if odd or why:
                del settings[section][name]
                notes[shown(where)] = "it is no text that pillar can hold" if odd else why[0][len(where) + 1 :]
    for line in refused():
        notes[f"refused: {shown(line)}"] = "mend this before this pillar is applied"


def text_of(settings: Settings, notes: Notes) -> str:
    """Return settings and notes as the text of a pillar file, but for its first lines."""
    lines = []
    if notes:
        lines += ["#", "# Not in here, and left on the host as it is:"]
        if "a secret" in notes.values():
            lines[-1] = f"{lines[-1][:-1]} (bin/export --include NAME brings in a secret):"
        lines += [f"#   {shown(name)}: {shown(' '.join(str(why).split()))}" for name, why in notes.items()]
    body = salt.utils.yaml.safe_dump(
        {KEY: {key: value for key, value in settings.items() if value not in ({}, None)}},
        default_flow_style=False,
        sort_keys=False,
        allow_unicode=True,
        width=1000,
    )
    return "\n".join([*lines, "", body]) if lines else f"\n{body}"
