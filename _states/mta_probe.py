"""
Verify that the live mail server answers as described, by holding an SMTP conversation with it.

.. code-block:: yaml

    answers:
      mta_probe.answers:
        - name: mail.example.com
        - ca_file: /etc/ssl/certs/cacert.pem
        - capabilities: [PIPELINING, STARTTLS, AUTH PLAIN LOGIN]
        - login_pillar: postfix_mta:verify:login
"""

from salt.exceptions import CommandExecutionError, SaltInvocationError
from salt.loader.dunder import __opts__

SEVERITIES = ("high", "medium", "low")


def answers(name, ca_file=None, capabilities=None, login_pillar=None, timeout=30, skip=None):
    """
    Fail unless every listener of the server answers: banner, EHLO, STARTTLS with the certificate on disk.

    It never changes anything. In test mode a server that does not answer yet is no failure when nothing
    listens, or when other states of the run would change what it depends on.

    name
        FQDN in the banner, in the answer to EHLO and in the certificate.

    ca_file
        CA certificates (PEM) that the chain served has to verify against. Default: not verified.

    capabilities
        List of what EHLO has to show, before or under TLS. Default: what the configuration promises.

    login_pillar
        Pillar path of a ``username`` and a ``password`` that have to get in. Default: no login.

    timeout
        Seconds for one listener's whole conversation. Default 30.

    skip
        List of services as master.cf names them, such as ``smtps/inet``, whose listeners are not judged. Default:
        none.
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": ""}
    outlook = __salt__["mta_apply.outlook"]()
    if outlook["undone"]:
        ret["comment"] = "Not asked again: this apply was undone, and what is promised here is not in force."
        return ret
    listening, transcript, older = False, [], []
    try:
        found = __salt__["mta_probe.check"](
            hostname=name,
            ca_file=ca_file,
            capabilities=capabilities or [],
            login_pillar=login_pillar,
            timeout=timeout,
            skip=skip or [],
        )
        listening, transcript = found["listening"], [*found["notes"], *found["transcript"]]
        problems, older = found["problems"], found["older"]
    except SaltInvocationError as err:
        ret.update(result=False, comment=str(err))
        return ret
    except CommandExecutionError as err:
        problems = [str(err)]
    if not problems:
        how = "as it did before this apply, which is not as described:" if older else "as described:"
        ret["comment"] = "\n".join([f"The server answers {how}", *transcript])
    elif __opts__["test"] and (not listening or outlook["changes"]):
        ret.update(result=None, comment="The server would be verified by a live SMTP conversation.")
    else:
        ret.update(
            result=False,
            comment="\n".join(["The server does not answer as described:", *problems, *transcript]),
        )
    return ret


def audited(name, severity="medium", accepted=None, timeout=120):
    """
    Fail when the server is weak: the comment lists all findings, with reasons and the pillar lines that mend them.

    It never changes anything. In test mode, findings are no failure when nothing is installed yet, or when other
    states of the run would change what they depend on.

    name
        Any text.

    severity
        The least that fails: ``high``, ``medium`` (default) or ``low``.

    accepted
        List of names of findings that are as they should be. They are listed, and do not fail. Default: none.

    timeout
        Seconds for all conversations. Default 120.

    .. code-block:: yaml

        audit:
          mta_probe.audited:
            - severity: low
            - accepted: [disable_vrfy_command]
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": ""}
    if severity not in SEVERITIES:
        ret.update(result=False, comment=f"severity is one of {', '.join(SEVERITIES)}, not {severity!r}")
        return ret
    later = __opts__["test"] and __salt__["mta_apply.outlook"]()["changes"]
    try:
        seen = __salt__["mta_probe.audit"](timeout=timeout)
    except CommandExecutionError as err:
        result = None if __opts__["test"] else False
        ret.update(result=result, comment=f"The server cannot be audited: {err}")
        return ret
    failing = SEVERITIES[: SEVERITIES.index(severity) + 1]
    found = seen["findings"]
    bad = [one for one in found if one["severity"] in failing and one["name"] not in (accepted or [])]
    lines = [f"{one['severity']}: {one['name']}: {one['reason']}. {one['pillar']}" for one in found]
    if bad:
        ret["result"] = None if later else False
    title = f"{len(bad)} weaknesses" if bad else "No weakness"
    ret["comment"] = "\n".join([f"{title} of severity {severity} or worse.", *lines, *seen["notes"]])
    return ret
