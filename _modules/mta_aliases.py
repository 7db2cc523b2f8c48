"""
Edit /etc/aliases by the rules of aliases(5) and postalias(1), and keep its compiled form up to date.

Comments, the order of the file, line ends and entries that nobody asked to change stay byte for byte.
"""

import _mta_guard

with _mta_guard.library(__file__):
    import _mta_aliases


def show(name=_mta_aliases.ALIASES):
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
