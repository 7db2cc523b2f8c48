"""
Show the entries of /etc/aliases as postalias(1) reads them. The state ``mta_aliases.managed`` changes them.
"""

from __future__ import annotations

from salt.loader.dunder import __opts__  # noqa: F401

import _mta_guard

with _mta_guard.library(__file__):
    import _mta_aliases


def show(name: str = _mta_aliases.ALIASES) -> dict[str, list[str]] | None:
    """
    Return the entries of an aliases file, ``{name: [value, …]}``; ``None`` when there is no such file.

    name
        Path. Default ``/etc/aliases``.

    Of an entry that is there more than once the first counts, as for postalias(1). Raises
    ``CommandExecutionError`` when the file cannot be read.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_aliases.show
    """
    return _mta_aliases.show(name)
