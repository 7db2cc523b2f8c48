"""What is configured in main.cf and master.cf of this host, where Postfix listens, and what the package brings."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Callable

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_postfix_syntax
import _mta_system
import _mta_table_syntax
from _mta_postfix_syntax import Broken, Entry
from _mta_records import NamedTuple
from _mta_system import Finished

CONFIG_DIRECTORY = "/etc/postfix"
QUEUE = "/var/spool/postfix"
FILES = ("main.cf", "master.cf")
HOPCOUNT_LIMIT = 50  # the default, postconf(5)
PORTS = {"smtp": 25, "submission": 587, "smtps": 465, "submissions": 465, "urd": 465}
# master(8) "ignores a value change" of the first two (master_vars.c, postconf(5)): the values after expansion
# count.
LISTENING = {"inet_interfaces": "all", "inet_protocols": "all"}
LOOPBACK = r"loopback-only|localhost|127\.[\d.]+|\[?::1\]?"
# What the package configures: its templates, and what Debian's postinst and dpkg-reconfigure set.
PACKAGE_MAIN = (
    "/usr/share/postfix/main.cf.debian",
    "/usr/share/postfix/main.cf.tls",
    "/usr/share/postfix/main.cf.dist",
    "/etc/postfix/main.cf.proto",
)
PACKAGE_MASTER = ("/usr/share/postfix/master.cf.dist", "/etc/postfix/master.cf.proto")
PACKAGE_PARAMETERS = {
    "alias_database",
    "alias_maps",
    "compatibility_level",
    "cyrus_sasl_config_path",
    "default_transport",
    "inet_interfaces",
    "inet_protocols",
    "mailbox_command",
    "mailbox_size_limit",
    "mydestination",
    "myhostname",
    "mynetworks",
    "mynetworks_style",
    "myorigin",
    "recipient_delimiter",
    "relay_transport",
    "relayhost",
    "smtpd_relay_restrictions",
}


class Files(NamedTuple):
    """The texts of main.cf and master.cf; ``None``: there is none."""

    main: str | None
    master: str | None

    def parameters(self) -> dict[str, str]:
        """The parameters that main.cf sets."""
        return _mta_postfix_syntax.parameters(self.main or "")

    def services(self) -> dict[str, Entry]:
        """The entries of master.cf."""
        return _mta_postfix_syntax.services(self.master or "")


def read_both(config_directory: str) -> Files:
    """Read both files. Raises ``CommandExecutionError`` when one is there and cannot be read."""
    return Files(*(_mta_system.read(os.path.join(config_directory, name)) for name in FILES))


def run(*command: str) -> Finished:
    """Run a program of Postfix, whatever its exit code. Raises ``CommandExecutionError`` when it cannot be run."""
    return _mta_system.run(command, check=False)


def errors_of(done: Finished) -> str:
    """What a program wrote to standard error, as text for users."""
    return done.errors.decode("utf-8", "replace")


def installed() -> bool:
    """Whether Postfix's programs are there."""
    return _mta_system.find_program("postconf") is not None


def known_parameters(config_directory: str) -> set[str]:
    """The names of all parameters that this Postfix has, by one process."""
    output = run("postconf", "-c", config_directory, "-d").text
    return {line.partition(" ")[0] for line in output.splitlines()}


def queue_directory() -> str:
    """The default instance's queue, whatever else is wrong with main.cf; Postfix's default where none is named."""
    text = _mta_system.text_of(os.path.join(CONFIG_DIRECTORY, FILES[0]))
    named = _mta_postfix_syntax.parameters(text).get("queue_directory", "")
    return named if named.startswith("/") else QUEUE


# -- what the package configures ---------------------------------------------------------------


def package_parameters() -> set[str]:
    """The names of the parameters that the package sets."""
    names = set(PACKAGE_PARAMETERS)
    for path in PACKAGE_MAIN:
        names.update(_mta_postfix_syntax.parameters(_mta_system.read(path) or ""))
    return names


def package_services() -> set[str]:
    """The services of the package's master.cf."""
    texts = [_mta_system.read(path) or "" for path in PACKAGE_MASTER]
    return {service for text in texts for service in _mta_postfix_syntax.services(text)}


def package_master() -> str:
    """The text of the package's master.cf; empty when it is not there."""
    return next(filter(None, map(_mta_system.read, PACKAGE_MASTER)), "")


def package_settings() -> tuple[dict[str, str], dict[str, Entry]]:
    """What the package's own main.cf and master.cf have, before its scripts put in what they know of the host."""
    texts = [_mta_system.read(path) or "" for path in PACKAGE_MAIN]
    main = _mta_postfix_syntax.parameters("\n".join(texts[:2])) or _mta_postfix_syntax.parameters(texts[-1])
    return main, _mta_postfix_syntax.services(package_master())


# -- what main.cf and master.cf say ------------------------------------------------------------


def show(config_directory: str = CONFIG_DIRECTORY) -> dict[str, str]:
    """
    Return the parameters that main.cf sets, ``{name: value}``, read in process by the rules of postconf(5).

    Parameters, result and errors: ``postconf.show``.
    """
    path = os.path.join(config_directory, "main.cf")
    settings, broken = _mta_postfix_syntax.parse_main(_present(path))
    _refuse_broken(path, broken)
    return {setting.name: setting.value for setting in settings}


def with_places(main: Mapping[str, str], config_directory: str = CONFIG_DIRECTORY) -> dict[str, str]:
    """Return parameters with those that say where files are and that others refer to, as they are by default."""
    places = {
        "config_directory": config_directory,
        "data_directory": "/var/lib/postfix",
        "queue_directory": QUEUE,
    }
    return {**places, **main}


def _present(path: str) -> str:
    if not os.path.isabs(path):
        directory = os.path.dirname(path)
        raise SaltInvocationError(
            f"config_directory must be an absolute path, not {directory!r}; for one parameter: postconf.get NAME"
        )
    text = _mta_system.read(path)
    if text is None:
        raise CommandExecutionError(f"There is no {path}")
    return text


def _refuse_broken(path: str, broken: Iterable[Broken]) -> None:
    for one in broken:
        text = one.text.strip(_mta_system.BLANKS)
        raise CommandExecutionError(f"{path}, line {one.lines[0] + 1}: {one.reason}: {text!r}")


def get(parameter: str, config_directory: str = CONFIG_DIRECTORY) -> str | None:
    """
    Return the value of a parameter: the one in main.cf, else Postfix's default; ``None`` when it has neither.

    Parameters, result and errors: ``postconf.get``.
    """
    present = show(config_directory)
    if parameter in present:
        return present[parameter]
    done = run("postconf", "-c", config_directory, "-d", "-h", parameter)
    if "unknown parameter" in errors_of(done):
        return None
    if done.code:
        raise CommandExecutionError(f"postconf cannot show {parameter}: {done.message}")
    return done.text.rstrip("\n")


def in_force(config_directory: str = CONFIG_DIRECTORY) -> dict[str, str]:
    """
    Return all parameters, ``{name: value}``: those of main.cf and Postfix's defaults, with ``$name`` expanded.

    config_directory
        Path, ``/etc/postfix``.

    One process, postconf(1). Raises ``CommandExecutionError`` when Postfix is not installed or cannot read it.
    """
    if not installed():
        raise CommandExecutionError("Postfix is not installed: there is no postconf")
    done = run("postconf", "-c", config_directory, "-x")
    if done.code:
        raise CommandExecutionError(f"postconf cannot read {config_directory}: {done.message}")
    return {name: value.strip() for name, _, value in (line.partition(" =") for line in done.text.splitlines())}


def services(config_directory: str = CONFIG_DIRECTORY) -> dict[str, Entry]:
    """
    Return the entries of master.cf, read in process by the rules of master(5).

    Parameters, result and errors: ``postconf.services``.
    """
    path = os.path.join(config_directory, "master.cf")
    found, broken = _mta_postfix_syntax.parse_master(_present(path))
    _refuse_broken(path, broken)
    return {service.name: service.entry for service in found}


# -- where Postfix listens ---------------------------------------------------------------------


def listeners(config_directory: str = CONFIG_DIRECTORY) -> list[dict[str, Any]]:
    """
    Return what smtpd(8) and postscreen(8) listen on, and what a client may expect there; read in process.

    Parameters, result and errors: ``postconf.listeners``.
    """
    return listeners_of(config_directory, read_both(config_directory))


def listeners_of(config_directory: str, files: Files) -> list[dict[str, Any]]:
    """Return what :func:`listeners` returns, of these two files."""
    return listeners_in(config_directory, files.parameters(), files.services())


def listeners_in(
    config_directory: str, parameters: Mapping[str, str], services: Mapping[str, Entry]
) -> list[dict[str, Any]]:
    """Return what :func:`listeners` returns, of these parameters and services."""
    main, entries = inet(config_directory, parameters, services)
    hops = _hopcount_limit(main, services)
    found = []
    for name, service, entry in entries:
        own = {**main, **entry["overrides"]}
        facts = _promises(own, "postscreen" if entry["command"] == "postscreen" else "smtpd")
        addresses, _, port = name.rpartition(":")
        hosts = [addresses.strip("[]")] if addresses else _addresses(main)
        where = {"service": service, "hopcount_limit": hops}
        found += [{**where, "host": host, "port": _port(port), **facts} for host in hosts]
    return found


def ask_saslauthd(listeners: Iterable[Mapping[str, Any]]) -> bool:
    """Whether one of what :func:`listeners` returns lets clients log in by saslauthd."""
    return any(one.get("auth") and one.get("sasl_type") == "cyrus" for one in listeners)


def ports_of(config_directory: str, parameters: Mapping[str, str], services: Mapping[str, Entry]) -> list[int]:
    """Return the TCP ports on which smtpd(8) and postscreen(8) serve other hosts than this one."""
    main, entries = inet(config_directory, parameters, services)
    found = set()
    for name, _, _ in entries:
        address, _, port = name.rpartition(":")
        hosts = [address] if address else _list(main, "inet_interfaces")
        if not all(re.fullmatch(LOOPBACK, host) for host in hosts):
            found.add(_port(port))
    return sorted(port for port in found if port is not None)


def inet(
    config_directory: str, parameters: Mapping[str, str], services: Mapping[str, Entry]
) -> tuple[dict[str, str], list[tuple[str, str, Entry]]]:
    """Return all parameters, and the entries of master.cf that listen: ``(name, service, entry)``."""
    main = {**defaults(config_directory), **parameters}
    domain = _mta_postfix_syntax.expand(main["myhostname"], main).partition(".")[2]
    main.setdefault("mydomain", domain or "localdomain")
    disabled = _list(main, "master_service_disable")
    found = []
    for service, entry in services.items():
        name, _, kind = service.rpartition("/")
        listens = kind == "inet" and entry["command"] in _mta_postfix_syntax.SERVERS
        if listens and not {"inet", service, f"{name}.inet"} & set(disabled):
            found.append((name, service, entry))
    return main, found


def chroots(config_directory: str = CONFIG_DIRECTORY) -> dict[str, bool]:
    """
    Tell of each smtpd(8) with logins of Cyrus SASL whether it is chrooted: for it alone, or for all of main.cf.

    Whether main.cf has them switched on at all is not asked. Empty where there is no master.cf.
    """
    files = read_both(config_directory)
    level = files.parameters().get("compatibility_level", "0")
    found = {}
    for service, entry in files.services().items():
        own = entry["overrides"]
        logins = own.get("smtpd_sasl_auth_enable") != "no" and own.get("smtpd_sasl_type", "cyrus") == "cyrus"
        if entry["command"] == "smtpd" and logins:
            # master(5): what a dash means has changed with compatibility level 1.
            found[service] = entry["chroot"] == "y" or (entry["chroot"] == "-" and level == "0")
    return found


def sockets(config_directory: str, files: Files) -> dict[tuple[str, str], str]:
    """The listening sockets that master(8) would bind, names not resolved: ``{(host, port): who asks for it}``."""
    main = {**defaults(config_directory), **files.parameters()}
    protocols = set(_list(main, "inet_protocols"))
    everywhere = ["0.0.0.0"] * bool({"all", "ipv4"} & protocols) + ["::"] * bool({"all", "ipv6"} & protocols)
    found = {}
    for service in files.services():
        name, _, kind = service.rpartition("/")
        if kind != "inet":
            continue
        host, _, port = name.rpartition(":")
        label = service if host else f"inet_interfaces, {service}"
        for one in [host] if host else _list(main, "inet_interfaces"):
            for address in everywhere if one == "all" else [one.strip("[]")]:
                if address != "loopback-only" and "$" not in address:
                    found[address, port] = label
    return found


def defaults(config_directory: str) -> dict[str, str]:
    """Defaults of those parameters that :func:`listeners` looks at, or that are often referred to."""
    host = socket.gethostname()
    return {
        **with_places({}, config_directory),
        "mail_name": "Postfix",
        "myhostname": host if "." in host else f"{host}.localdomain",
        "smtpd_sasl_type": "cyrus",
        "smtpd_tls_key_file": "$smtpd_tls_cert_file",
        "smtpd_tls_eckey_file": "$smtpd_tls_eccert_file",
        "postscreen_tls_security_level": "$smtpd_tls_security_level",
        "postscreen_use_tls": "$smtpd_use_tls",
        "postscreen_enforce_tls": "$smtpd_enforce_tls",
        "smtpd_tls_cert_file": "",
        "smtpd_tls_eccert_file": "",
        "smtpd_tls_security_level": "",
        "smtpd_use_tls": "no",
        "smtpd_enforce_tls": "no",
        **LISTENING,
    }


# What refuses whom nothing before it has permitted; the last two only mail for others.
BARRING = ("reject", "defer", "reject_unauth_destination", "defer_unauth_destination")
# What refuses who has logged in and does not own the sender's address.
OWNERS = ("reject_sender_login_mismatch", "reject_authenticated_sender_login_mismatch")
RESTRICTIONS = [f"smtpd_{what}_restrictions" for what in ("client", "helo", "sender", "relay", "recipient")]
RELAYING = ("smtpd_relay_restrictions", "smtpd_recipient_restrictions")


def _promises(parameters: Mapping[str, str], daemon: str) -> dict[str, Any]:
    """What a listener offers by its parameters, postconf(5)."""

    def value(name: str) -> str:
        return _mta_postfix_syntax.expand(parameters.get(name, ""), parameters)

    def enabled(name: str) -> bool:
        return value(name).lower() == "yes"

    level = value(f"{daemon}_tls_security_level")
    wrapped = daemon == "smtpd" and enabled("smtpd_tls_wrappermode")
    enforced = level == "encrypt" or (not level and enabled(f"{daemon}_enforce_tls"))
    offered = enforced or level == "may" or (not level and enabled(f"{daemon}_use_tls"))
    hidden = {item.upper() for item in _list(parameters, "smtpd_discard_ehlo_keywords")} & {"AUTH", "STARTTLS"}
    # postscreen(8) has no AUTH of its own; it hands known clients on.
    auth = daemon == "smtpd" and enabled("smtpd_sasl_auth_enable") and "AUTH" not in hidden
    # With chain files Postfix ignores the others; who asks for the server by name gets what a table has for it.
    chains = _by_name(parameters, value("myhostname")) or _list(parameters, "smtpd_tls_chain_files")
    pairs = [(path, path) for path in chains] or [
        (value(f"smtpd_tls_{kind}cert_file"), value(f"smtpd_tls_{kind}key_file")) for kind in ("", "ec")
    ]
    pairs = [pair for pair in pairs if pair[0] not in ("", "none")]
    certificate, key = pairs[0] if pairs else (None, None)
    return {
        "wrappermode": wrapped,
        "starttls": offered and not wrapped and "STARTTLS" not in hidden,
        "auth": auth,
        "bars_users": _bars_users(parameters) if auth else "",
        "login_maps": value("smtpd_sender_login_maps") if auth and _asks_for_owner(parameters) else "",
        "may_hide": _may_hide(parameters, daemon),
        "proxy": value(f"{daemon}_upstream_proxy_protocol"),
        "auth_before_tls": auth and not wrapped and not enforced and not enabled("smtpd_tls_auth_only"),
        "certificate": certificate,
        "key": key,
        "certificates": [path for path, _ in pairs],
        "keys": [path for _, path in pairs],
        "sasl_type": value("smtpd_sasl_type"),
        "sasl_files": _sasl_files(value) if auth and value("smtpd_sasl_type") == "cyrus" else [],
        "hostname": value("myhostname"),
    }


def _sasl_files(value: Callable[[str], str]) -> list[str]:
    """
    Where libsasl's settings for smtpd(8) may be (cyrus_sasl_config_path, smtpd_sasl_path in postconf(5)).

    Which of them it reads where main.cf does not say is a matter of the distribution.
    """
    named = [path for path in value("cyrus_sasl_config_path").split(":") if path]
    directories = named or [f"{value('config_directory')}/sasl", "/etc/sasl2", "/usr/lib/sasl2"]
    # What has another name and is not there leaves smtpd.conf unread.
    names = dict.fromkeys([value("smtpd_sasl_path") or "smtpd", "smtpd"])
    return [os.path.join(directory, f"{name}.conf") for name in names for directory in directories]


def _by_name(parameters: Mapping[str, str], hostname: str) -> list[str]:
    """The PEM files that ``tls_server_sni_maps`` has for a name, or for the domains above it."""
    labels = hostname.lower().split(".")
    names = [".".join(labels), *(f".{'.'.join(labels[first:])}" for first in range(1, len(labels)))]
    value = _mta_postfix_syntax.expand(parameters.get("tls_server_sni_maps", ""), parameters)
    for kind, path in _mta_postfix_syntax.tables("tls_server_sni_maps", value):
        lines = _mta_table_syntax.parse(kind, _mta_table_syntax.source(kind, path))
        entries = {key.lower(): value for key, value, _ in lines}
        for name in names:
            if name in entries:
                return _mta_postfix_syntax.items_of(entries[name])
    return []


def _may_hide(parameters: Mapping[str, str], daemon: str) -> list[str]:
    """Of AUTH (in clear: ``AUTH in clear``) and STARTTLS, what some clients are shown and others are not."""
    # To whom: a table knows.
    found = ["AUTH", "STARTTLS"] if _list(parameters, "smtpd_discard_ehlo_keyword_address_maps") else []
    if daemon == "postscreen" or _list(parameters, "smtpd_sasl_exceptions_networks"):
        found.append("AUTH")
    if "noplaintext" in _list(parameters, "smtpd_sasl_security_options"):
        found.append("AUTH in clear")
    return sorted(set(found))


def _met(parameters: Mapping[str, str], name: str) -> Iterator[str]:
    """The restrictions of a list that who has logged in comes to from elsewhere, up to one that may permit him."""
    items = _list(parameters, name)
    for previous, item in zip(["", *items], items):
        if item in ("permit", "permit_sasl_authenticated") or item.startswith("check_"):
            return
        if previous != "warn_if_reject":
            yield item


def _bars_users(parameters: Mapping[str, str]) -> str:
    """The restrictions by which nobody may send who comes from elsewhere and has logged in; empty: not told."""
    for name in RESTRICTIONS:
        barring = BARRING if name in RELAYING else BARRING[:2]
        if not {*barring}.isdisjoint(_met(parameters, name)):
            return name
    return ""


def _asks_for_owner(parameters: Mapping[str, str]) -> bool:
    """Whether who has logged in and comes from elsewhere may only send from an address that he owns."""
    return any(not {*OWNERS}.isdisjoint(_met(parameters, name)) for name in RESTRICTIONS)


def _hopcount_limit(main: Mapping[str, str], services: Mapping[str, Entry]) -> int:
    """How many Received headers a message may have before each cleanup(8) refuses it."""
    overrides = [entry["overrides"] for entry in services.values() if entry["command"] == "cleanup"]
    values = [each.get("hopcount_limit", main.get("hopcount_limit", "")) for each in [*overrides, {}]]
    return max(int(value) if value.isdigit() else HOPCOUNT_LIMIT for value in values)


def _list(parameters: Mapping[str, str], name: str) -> list[str]:
    """The items of a parameter, expanded."""
    return _mta_postfix_syntax.items_of(_mta_postfix_syntax.expand(parameters.get(name, ""), parameters))


def _addresses(parameters: Mapping[str, str]) -> list[str]:
    """Where a service without an address of its own can be reached."""
    ipv4 = {"all", "ipv4"} & set(_list(parameters, "inet_protocols"))
    loopback = "127.0.0.1" if ipv4 else "::1"
    wanted = _list(parameters, "inet_interfaces")
    hosts = [loopback if host in ("all", "loopback-only") else host.strip("[]") for host in wanted]
    return list(dict.fromkeys(hosts))


def _port(name: str) -> int | None:
    """The number of a port; ``None`` for a name that nobody knows."""
    number = _mta_system.port(name)
    return PORTS.get(name) if number is None else number
