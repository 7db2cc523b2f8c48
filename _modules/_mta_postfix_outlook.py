"""Which files main.cf and master.cf will name, after what this run of states has announced."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from typing import Any

from salt.exceptions import CommandExecutionError

import _mta_postfix_view
import _mta_system
from _mta_minion import Minion
from _mta_run import Run


def naming(
    minion: Minion, paths: Sequence[str], config_directory: str = _mta_postfix_view.CONFIG_DIRECTORY
) -> dict[str, str]:
    """
    Tell which files main.cf and master.cf name, as they will be after what this run of states has announced.

    paths
        List of absolute paths.

    config_directory
        Path, ``/etc/postfix``.

    Returns ``{path: where}`` with those that are named, by themselves or through symbolic links. What cannot be
    parsed names nothing.
    """
    values: dict[str, Any] = {}
    with contextlib.suppress(CommandExecutionError):
        values.update(_mta_postfix_view.show(config_directory))
    with contextlib.suppress(CommandExecutionError):
        for service, entry in _mta_postfix_view.services(config_directory).items():
            values.update({f"master.cf {service} -o {key}": value for key, value in entry["overrides"].items()})
    for item, change in Run.of(minion).changes.get("postconf", {}).items():
        if not isinstance(change, dict):
            continue
        new = change.get("new")
        if item.startswith("master.cf "):
            gone = {key for key in values if new is None and key.startswith(f"{item} -o ")}
            values = {key: value for key, value in values.items() if key not in gone}
            values.update({f"{item} {key}": value for key, value in (new or {}).items() if key.startswith("-o ")})
        else:
            values[item] = new
    named: dict[str, list[str]] = {}
    for label, value in values.items():
        for word in re.findall(r"(?<![\w./-])/[^\s,{}()]+", value if isinstance(value, str) else ""):
            named.setdefault(_mta_system.real_path(word), []).append(label)
    real = {path: _mta_system.real_path(path) for path in paths}
    return {path: ", ".join(dict.fromkeys(named[real[path]])) for path in paths if real[path] in named}
