"""
Have the mail server's packages installed.

.. code-block:: yaml

    The mail server's packages are installed:
      mta_package.installed:
        - packages: [postfix, sasl2-bin]
        - answers:
            postfix:
              postfix/main_mailer_type: [select, Internet Site]
              postfix/mailname: [string, mail.example.com]
"""

from salt.exceptions import CommandExecutionError, SaltInvocationError


def installed(name, packages, answers=None):
    """
    Install the packages that are missing.

    name (str)
        Any name; it is not used.

    packages (list of str)
        Names of the packages. An installed package is left at its version.

    answers (dict, default None)
        debconf answers by package, ``{package: {question: [type, value]}}``, given before a package is
        installed for the first time, and only then.

    ``changes`` has each package that was missing. Refused, with nothing changed, when apt would
    remove something that is not a competing mail transport agent.

    .. code-block:: yaml

        mail server packages:
          mta_package.installed:
            - packages: [postfix]
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        before = __salt__["mta_package.versions"](packages)
        missing = [package for package in packages if before[package] is None]
        if not missing:
            ret["comment"] = f"The packages {', '.join(packages)} are in the correct state"
            return ret
        listed = ", ".join(missing)
        if __opts__["test"]:
            problems = __salt__["mta_package.problems"](missing)
            ret["result"] = False if problems else None
            ret["comment"] = "\n".join(problems) or f"The packages {listed} would have been installed"
            ret["changes"] = {} if problems else {package: {"old": "", "new": "installed"} for package in missing}
            return ret
        try:
            __salt__["mta_package.install"](missing, answers)
            ret["comment"] = f"The packages {listed} have been installed"
        finally:
            after = __salt__["mta_package.versions"](missing)
            ret["changes"] = {package: {"old": "", "new": after[package]} for package in missing if after[package]}
    except (CommandExecutionError, SaltInvocationError) as error:
        ret["result"] = False
        ret["comment"] = f"The packages {', '.join(packages)} have not all been installed: {error}"
    return ret
