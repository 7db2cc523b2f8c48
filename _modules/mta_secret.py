"""
Secrets, looked up where they are kept.

States hand on the pillar path of a secret, never the secret: Salt logs the arguments of states and every SLS file
that it renders. The module that needs the value asks here, at the moment at which it needs it.
"""

from salt.exceptions import CommandExecutionError, SaltInvocationError
from salt.utils.data import traverse_dict_and_list

LONGEST = 1023  # bytes; what OpenSSL takes for a passphrase


def get(path, longest=LONGEST, **job):
    """
    Return the secret that pillar has at ``path``, or that the ``sdb://`` URI there leads to.

    For states and other modules: as a job it is refused.

    For other modules: called from a command line, the answer is in the job cache.

    path (str)
        Pillar path, such as ``postfix_mta:verify:login:password``. Empty or ``None``: there is no secret.

    longest (int, default 1023)
        How many bytes it may have.

    Returns text, or ``None`` when pillar has nothing there.

    Raises ``CommandExecutionError`` when an sdb URI leads to nothing, and ``SaltInvocationError`` when what is
    there is no text of 1 to ``longest`` bytes. Neither shows the value.
    """
    __salt__["mta_state.refuse_job"]("mta_secret.get", job)
    # pillar.get of Salt 3008 gives execution modules '**********' instead of the values.
    value = traverse_dict_and_list(__pillar__, path, None) if path else None
    return None if value is None else resolve(value, path, longest)


def _is_utf_8(text):
    """Whether a text can be encoded: an error that says where it cannot would have it in its arguments."""
    return not any(0xD800 <= ord(character) <= 0xDFFF for character in text)


def resolve(value, path, longest=LONGEST, **job):
    """
    Return the secret that a value is, or that its ``sdb://`` URI leads to.

    For states and other modules: as a job it is refused.

    For other modules, whose pillar has keys that a pillar path cannot hold, with a colon in them.

    value (str)
        What pillar has.

    path (str)
        Where, for messages.

    longest (int, default 1023)
        How many bytes it may have.

    Raises as :func:`get` does.
    """
    __salt__["mta_state.refuse_job"]("mta_secret.resolve", job)
    if isinstance(value, str) and value.startswith("sdb://"):
        uri, value = value, __salt__["sdb.get"](value)
        if not value or value == uri:  # without such a profile Salt returns the URI itself
            raise CommandExecutionError(f"The sdb URI in pillar {path} leads to nothing")
    if not isinstance(value, str) or not _is_utf_8(value) or not 1 <= len(value.encode()) <= longest:
        raise SaltInvocationError(f"Pillar {path} must be a text of 1 to {longest} bytes: quote it")
    return value
