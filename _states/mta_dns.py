"""
See that the DNS says what this server's mail needs.

.. code-block:: yaml

    mail arrives:
      mta_dns.published:
        - required: true
"""

from salt.exceptions import CommandExecutionError
from salt.loader.dunder import __opts__


def published(name, required=True):
    """
    Fail unless the DNS says what ``mta_dns.records`` returns.

    name
        Any name; it is not used.

    required
        Whether what is not so is a failure; else the comment tells it. Default: true. A zone is never changed, and
        nothing is undone.
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": "The DNS is in the correct state."}
    try:
        found = __salt__["mta_dns.check"](remember=not __opts__["test"])
    except CommandExecutionError as err:
        ret.update(result=not required, comment=f"The DNS cannot be asked: {err}")
        return ret
    if found:
        lines = [f"{one['name']} {one['type']}, {one['kind']}: {one['reason']}" for one in found]
        ret.update(
            result=not required, comment="\n".join(["The DNS is not as this server's mail needs it:", *lines])
        )
    return ret
