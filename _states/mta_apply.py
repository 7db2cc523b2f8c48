"""
Record how an apply ended, and tell the master when it changed something or failed.

.. code-block:: yaml

    postfix_mta_ended:
      mta_apply.ended:
        - name: /etc/postfix
        - order: last
"""

from salt.loader.dunder import __opts__

# Salt puts the environment of the SLS file in its place.
__env__ = None


def ended(name="/etc/postfix", revision=None):
    """
    Be the last state of an apply; it has no changes of its own and does not fail.

    name
        Absolute path of the directory of main.cf and master.cf. Default ``/etc/postfix``.

    revision
        Of the formula. Default: not known.

    With ``order: last`` and no requisites it sees the results of all other states. What is sent is in
    docs/events.md.
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": "A dry run is not recorded."}
    if not __opts__["test"]:
        results = {key: dict(result) for key, result in __running__.items()}
        __salt__["mta_apply.ended"](results, config_directory=name, revision=revision, saltenv=__env__)
        ret["comment"] = "The end of the apply is recorded."
    return ret
