"""The settings that are requested of saslauthd: their defaults, and what is wrong with them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Callable

from salt.exceptions import SaltInvocationError
from salt.utils.args import clean_kwargs

from _mta_records import dataclass

MECHANISMS = ("getpwent", "kerberos5", "ldap", "pam", "rimap", "sasldb", "shadow")
# Key of the setting to key of saslauthd.conf.
LDAP = {
    "servers": "ldap_servers",
    "search_base": "ldap_search_base",
    "scope": "ldap_scope",
    "filter": "ldap_filter",
    "bind_dn": "ldap_bind_dn",
    "start_tls": "ldap_start_tls",
    "ca_file": "ldap_tls_cacert_file",
    "timeout": "ldap_timeout",
}
KERBEROS5 = {"keytab": "krb5_keytab", "principal": "krb5_verify_principal"}
LONGEST_DIRECTORY = 103  # with /mux it has to fit into a socket's address (unix(7))


@dataclass(frozen=True)
class Request:
    """What is requested: the arguments of the state ``saslauthd.managed``, which explains them."""

    mechanisms: list[str] = dataclasses.field(default_factory=lambda: ["pam"])
    mech_options: str | None = None
    ldap: Mapping[str, Any] | None = None
    kerberos5: Mapping[str, Any] | None = None
    proxy: str | None = None
    threads: int = 5
    cache: bool = True
    combine_realm: bool = False
    socket_directory: str = "/var/spool/postfix/var/run/saslauthd"
    queue_directory: str = "/var/spool/postfix"
    directory_mode: str = "0710"
    smtpd_conf: str = "/etc/postfix/sasl/smtpd.conf"
    mech_list: list[str] = dataclasses.field(default_factory=lambda: ["plain", "login"])
    member: str | None = "postfix"
    chroot: bool = True
    chroots: Mapping[str, bool | None] = dataclasses.field(default_factory=dict)

    @property
    def mechanism(self) -> str:
        """The one mechanism that saslauthd uses."""
        return self.mechanisms[0]


def request(arguments: Mapping[str, Any]) -> Request:
    """
    Return what is requested, from arguments of the state; those that are not given have their defaults.

    Raises ``SaltInvocationError`` with a line for each argument that there is not, or that has a bad value. The
    values go into a shell file, a unit and a file of libsasl.
    """
    given: dict[str, Any] = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in clean_kwargs(**arguments).items()
    }
    unknown = sorted(set(given) - set(_ALLOWED))
    if unknown:
        raise SaltInvocationError(f"there is no argument {', '.join(unknown)}")
    problems = [
        f"{name} must be {_ALLOWED[name][1]}, not {_shown(value)}"
        for name, value in given.items()
        if not _ALLOWED[name][0](value)
    ]
    if problems:
        raise SaltInvocationError("\n".join(problems))
    requested = Request(**given)
    return dataclasses.replace(requested, directory_mode=f"{int(requested.directory_mode, 8):04o}")


def is_one_line(value: Any) -> bool:
    """Whether no text in a value, a list or a mapping would begin a second line in a file of saslauthd."""
    if isinstance(value, dict):
        return is_one_line(list(value.values()))
    if isinstance(value, list):
        return all(map(is_one_line, value))
    return not isinstance(value, str) or (value.isprintable() and value == value.strip())


def _shown(value: Any) -> str:
    """A bad value for a message; of a mapping only the keys, for somebody may have put a password into it."""
    return f"one with {', '.join(map(str, value))}" if isinstance(value, dict) else repr(value)


def _matches(pattern: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _or_nothing(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


def _is_mechanism(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 1 and value[0] in MECHANISMS


def _has_keys_of(keys: Mapping[str, str], *others: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and set(value) <= {*keys, *others} and is_one_line(value)


def _is_ldap(value: Any) -> bool:
    known = _has_keys_of(LDAP, "password_pillar")(value)
    return bool(known and value.get("servers") and value.get("search_base"))


def _are_chroots(value: Any) -> bool:
    return isinstance(value, dict) and all(chroot in (True, False, None) for chroot in value.values())


def _is_number_of_threads(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 1000


def _is_boolean(value: Any) -> bool:
    return isinstance(value, bool)


def _are_names(value: Any) -> bool:
    return (
        isinstance(value, list) and value != [] and all(re.fullmatch("[A-Za-z0-9_-]+", str(one)) for one in value)
    )


_is_path = _matches(r"(?:/[A-Za-z0-9_+@:.-]*[A-Za-z0-9_])+")
_PATH = "an absolute path without blanks or shell characters"

# Argument to whether a value will do, and to what will.
_ALLOWED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "mechanisms": (_is_mechanism, f"a list of one of {', '.join(MECHANISMS)} (saslauthd uses one)"),
    "mech_options": (
        _or_nothing(_matches(r"[A-Za-z0-9_/.:@=,+%\[\]-]*")),
        "one word without blanks, quotes or shell characters",
    ),
    "ldap": (
        _or_nothing(_is_ldap),
        f"a mapping with servers and search_base, each in one line, and what else is needed of {', '.join(LDAP)},"
        " password_pillar",
    ),
    "kerberos5": (
        _or_nothing(_has_keys_of(KERBEROS5)),
        f"a mapping with {', '.join(KERBEROS5)}, each in one line",
    ),
    "proxy": (_or_nothing(_matches(r"salt://\S+")), "a file on the file server, salt://..., or null"),
    "threads": (_is_number_of_threads, "a number from 0 to 1000"),
    "cache": (_is_boolean, "true or false"),
    "combine_realm": (_is_boolean, "true or false"),
    "socket_directory": (
        lambda value: _is_path(value) and len(value) <= LONGEST_DIRECTORY,
        f"{_PATH}, at most {LONGEST_DIRECTORY} characters long (unix(7))",
    ),
    "queue_directory": (_is_path, _PATH),
    "directory_mode": (_matches("0?[0-7]{3}"), "an octal string like '0710'"),
    "smtpd_conf": (_is_path, _PATH),
    "mech_list": (_are_names, "a list of names of SASL mechanisms"),
    "member": (_or_nothing(_matches("[A-Za-z_][A-Za-z0-9_.-]*")), "a user name or null"),
    "chroot": (_is_boolean, "true or false"),
    "chroots": (_are_chroots, "a mapping of services to true, false or null"),
}
