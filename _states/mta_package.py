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

from salt.loader.dunder import __opts__


def installed(name, packages, answers=None, mailname=None, mailname_file=None, idle=None):
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

    idle (dict, default None)
        Package to the list of its units that are stopped and disabled after this state has installed it, or
        another one that recommends it: it is there for its programs only.

    ``changes`` has each package that was missing, and the file if its name was another. Refused, with no
    package changed, when apt would remove something that is not a competing mail transport agent.

    .. code-block:: yaml

        mail server packages:
          mta_package.installed:
            - packages: [postfix]
            - mailname: mail.example.com
            - mailname_file: /etc/mailname
    """
    test = __opts__["test"]
    result = __salt__["mta_package.converge"](packages, answers, mailname, mailname_file, test, idle)
    return {"name": name, **result}
