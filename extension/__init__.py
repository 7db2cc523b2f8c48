"""
The formula as a Salt extension: its modules, states, beacon and runners, from the files that Salt also syncs.

Salt asks the entry point ``salt.loader`` for directories. What a minion has synced comes before them in Salt's own
order, so an apply always has the modules that fit its SLS files; it syncs none where the installed ones are of
their revision.
"""

import pathlib

HERE = pathlib.Path(__file__).resolve().parent
KINDS = ("modules", "states", "beacons", "runners")


def loader_dirs():
    """Return directories for each of Salt's loaders: in a wheel those beside this file, else the repository's."""
    found = {}
    for kind in KINDS:
        installed = HERE / kind
        found[kind] = [str(installed if installed.is_dir() else HERE.parent / f"_{kind}")]
    return found
