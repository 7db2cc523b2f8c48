"""
Refuse a pillar that is not valid, as a whole, before anything on the host changes.

Every other state of the formula requires this one.

.. code-block:: yaml

    postfix_mta_settings:
      mta_settings.valid:
        - name: postfix_mta
        - hostname: mail.example.com
"""

from salt.exceptions import CommandExecutionError, SaltInvocationError
from salt.loader.dunder import __opts__  # noqa: F401

# Salt puts the environment of the SLS file in its place.
__env__ = None


def valid(name="postfix_mta", hostname=None, family=None, formula=None):
    """
    Fail, with every problem in the comment, unless the settings in the pillar are valid.

    name (str, default ``postfix_mta``)
        The pillar key that holds the settings. The module looks the values up: no secret is an argument.

    hostname (str, default: the grain ``fqdn``)
        The host name in force when the pillar has none.

    family (str, default: the grain ``os_family``)
        The operating system family.

    formula (str, default None)
        Where the formula's files are on the file server. It is only there to be named: salt-ssh brings to its
        target the files that are named in states, and this one needs the formula's.

    It never changes anything, and does the same in test mode.

    .. code-block:: yaml

        the settings are valid:
          mta_settings.valid:
            - name: postfix_mta
    """
    try:
        found = __salt__["mta_settings.problems"](name, hostname, family, saltenv=__env__)
    except (CommandExecutionError, SaltInvocationError) as err:
        comment = f"The settings in the pillar {name} could not be validated: {err}"
        return {"name": name, "result": False, "changes": {}, "comment": comment}
    if not found:
        return {
            "name": name,
            "result": True,
            "changes": {},
            "comment": f"The settings in the pillar {name} are valid",
        }
    count = "1 problem" if len(found) == 1 else f"{len(found)} problems"
    comment = "\n".join([f"The pillar {name} is refused ({count}); nothing has been changed:", *found])
    return {"name": name, "result": False, "changes": {}, "comment": comment}
