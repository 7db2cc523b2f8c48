"""
The effective settings on a minion that has not synced this formula's modules, or others, and with salt-ssh.

Salt's renderer ``py`` reads this on behalf of ``map.jinja``: it takes the library from the file server.
"""

import os
import sys

# Not `import salt.fileclient`: the renderer puts the execution modules into the name `salt`.
from salt.exceptions import CommandExecutionError as _CommandExecutionError
from salt.fileclient import FSClient as _FSClient
from salt.fileclient import get_file_client as _get_file_client

# What _mta_settings.py imports.
LIBRARY = r"E@/_mta_(guard|minion|pillar_(schema|types)|records|revision|settings|system)[.]py$"


def run():
    """Return the effective settings."""
    saltenv = globals().get("saltenv", "base")
    # Only salt-ssh, which renders on the master, hands the master's configuration on.
    over_ssh = "__master_opts__" in __opts__
    with _FSClient(__opts__["__master_opts__"]) if over_ssh else _get_file_client(__opts__) as client:
        files = client.cache_dir("salt://_modules", saltenv, include_pat=LIBRARY)
        if not files:
            raise _CommandExecutionError(f"salt://_modules has no _mta_settings.py in the file roots of {saltenv}")
        directory = os.path.dirname(files[0])
        sys.path.append(directory)
        try:
            import _mta_guard
        finally:
            sys.path.remove(directory)
        with _mta_guard.library(files[0]):
            import _mta_settings
        pillar = __pillar__.get("postfix_mta")
        return _mta_settings.fetched(client.cache_files, saltenv, pillar, __grains__, over_ssh)
