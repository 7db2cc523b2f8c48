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


def installed(name, packages, answers=None, mailname=None, mailname_file=None):
    """
    Install the packages that are missing, and keep the system mail name.

    name (str)
        Any name; it is not used.

    packages (list of str)
        Names of the packages. An installed package is left at its version.

    answers (dict, default None)
        debconf answers by package, ``{package: {question: [type, value]}}``, given before a package is
        installed for the first time, and only then.

    mailname, mailname_file (str, default None)
        The system mail name and the file that holds it, mailname(5). It is written before packages are
        installed, because they read it. Default: left as it is.

    ``changes`` has each package that was missing, and the file if its name was another. Refused, with no
    package changed, when apt would remove something that is not a competing mail transport agent.

    .. code-block:: yaml

        mail server packages:
          mta_package.installed:
            - packages: [postfix]
            - mailname: mail.example.com
            - mailname_file: /etc/mailname
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    subject = f"The packages {', '.join(packages)}"
    try:
        before = __salt__["mta_package.versions"](packages)
        missing = [package for package in packages if before[package] is None]
        old = __salt__["mta_package.mail_name"](mailname_file) if mailname_file else mailname
        renamed = {mailname_file: {"old": old or "", "new": mailname}} if old != mailname else {}
        if not missing and not renamed:
            ret["comment"] = f"{subject} are in the correct state"
            return ret
        changes = {**renamed, **{package: {"old": "", "new": "installed"} for package in missing}}
        if __opts__["test"]:
            problems = __salt__["mta_package.problems"](missing)
            ret["result"] = False if problems else None
            ret["comment"] = "\n".join(problems) or f"Would have been changed: {', '.join(changes)}"
            ret["changes"] = {} if problems else changes
            return ret
        if renamed:
            __salt__["mta_package.set_mail_name"](mailname_file, mailname)
            ret["changes"] = renamed
        if missing:
            try:
                __salt__["mta_package.install"](missing, answers)
            finally:
                after = __salt__["mta_package.versions"](missing)
                installed_now = {
                    package: {"old": "", "new": after[package]} for package in missing if after[package]
                }
                ret["changes"] = {**renamed, **installed_now}
        ret["comment"] = f"Changed: {', '.join(changes)}"
    except (CommandExecutionError, SaltInvocationError) as error:
        ret["result"] = False
        ret["comment"] = f"{subject} have not all been installed: {error}"
    return ret
