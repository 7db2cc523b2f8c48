"""
The formula's SLS files rendered together, and remembered for the runs in which nothing is new.

Salt would fetch and compile each of them anew in every run, which costs more than all states of a run without
changes.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from typing import Any

import _mta_plan_cache
import _mta_settings
import _mta_system
from _mta_minion import Minion
from _mta_revision import REVISION
from _mta_settings import KEY

# Whoever edits a file without giving the formula a new revision sees it in force after this time at the latest.
REMEMBERED = datetime.timedelta(hours=6)

# As Salt knows states before they run: ID to what it declares.
HighData = dict[str, Any]


def states(minion: Minion, parts: Sequence[str], revision: str, saltenv: str, now: datetime.datetime) -> HighData:
    """
    Return the states of SLS files and of those that they include, as Salt would have put them together.

    parts
        Names of SLS files of the formula, without that of the formula.

    revision
        Of the formula on the file server.

    saltenv
        The environment that holds it.

    now
        The clock.

    Each state says which file has it (``__sls__``). Empty where Salt has to render the files itself: the loaded
    modules are of another revision, or one of the files has no states.
    """
    if revision != REVISION:
        return {}
    subject = f"sls {saltenv} {' '.join(parts)}"
    evidence = _mta_settings.rest_on(minion)
    kept = _mta_plan_cache.recall(minion, subject, evidence, now.timestamp())
    if kept:
        _mta_settings.recall(minion, saltenv, kept["settings"])
        found: HighData = kept["states"]
        return found
    settings = _mta_settings.current(minion, saltenv)
    found = _render(minion, parts, saltenv) if settings["synced"] else {}
    if found and not minion.opts.get("test"):
        said = {"states": found, "settings": settings}
        until = now + REMEMBERED
        _mta_plan_cache.remember(minion, subject, evidence, said, now.timestamp(), until.timestamp())
    return found


def _render(minion: Minion, parts: Sequence[str], saltenv: str) -> HighData:
    """Return the states of some files, as ``states`` does."""
    # All at once: each call makes a file client of its own.
    paths = minion.functions["cp.cache_dir"](f"salt://{KEY}", saltenv, include_pat=rf"E@{KEY}/\w+[.]sls$")
    sources = {os.path.basename(path).partition(".")[0]: path for path in paths}
    rendered: dict[str, HighData] = {}
    extended: HighData = {}

    def add(part: str) -> HighData:
        """Return the states of a file and of those that it includes and that have not been rendered yet."""
        own = rendered[part] = _rendered(minion, part, sources.get(part), saltenv)
        includes = [name.lstrip(".") for name in own.pop("include", [])]
        for identifier, extension in own.pop("extend", {}).items():
            for module, arguments in extension.items():
                extended.setdefault(identifier, {}).setdefault(module, []).extend(arguments)
        for body in own.values():
            body.update(__sls__=f"{KEY}.{part}", __env__=saltenv)
        # Files that are included come first, as with Salt.
        return {**included(includes, f"{KEY}.{part}"), **own}

    def included(names: Sequence[str], sls: str) -> HighData:
        """Return the states of files that another one includes; they remember by which."""
        together: HighData = {}
        for name in names:
            for identifier, body in (add(name) if name not in rendered else {}).items():
                body.setdefault("__sls_included_from__", []).append(sls)
                together[identifier] = body
        return together

    found = included(parts, KEY)
    if not all(rendered.values()):
        return {}
    return {**found, "extend": extended} if extended else found


def _rendered(minion: Minion, part: str, path: str | None, saltenv: str) -> HighData:
    """Return what an SLS file is when it is rendered; nothing where there is none."""
    text = _mta_system.read(path) if path else None
    if not text:
        return {}
    renderer = minion.functions["slsutil.renderer"]
    found: HighData = renderer(string=text, default_renderer="jinja|yaml", saltenv=saltenv, sls=f"{KEY}.{part}")
    return found
