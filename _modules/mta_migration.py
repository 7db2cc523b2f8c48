"""
Describe as pillar what was set up otherwise: by hand, or by the community formula ``postfix``.

Both functions return the text of a pillar SLS file. What they cannot or must not put there is named in its
comments: secrets, what is not text, what has another place. Applying it leaves such things on the host as they
are.
"""

import _mta_guard

with _mta_guard.library(__file__):
    import _mta_migration
    import _mta_minion


def convert(pillar=None):
    """
    Return the pillar ``postfix`` of the community formula as pillar of this one, as text.

    pillar
        Dictionary: what the key ``postfix`` holds. Default: the minion's.

    A service that this pillar names comes out as that formula writes it, with that formula's defaults for what the
    pillar does not say. A service, or parameter, that the pillar does not name is not in the result:
    ``postconf.export`` on a host that it has set up tells more. Raises ``SaltInvocationError`` without a pillar to
    convert.

    CLI Example:

    .. code-block:: bash

        salt-call mta_migration.convert
    """
    return _mta_migration.convert(_mta_minion.Minion.of(globals()), pillar)
