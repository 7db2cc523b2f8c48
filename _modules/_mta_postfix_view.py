"""TODO subject (postconf)."""

import os
import re
import shutil
import signal
import socket
import subprocess

from salt.exceptions import CommandExecutionError

import _mta_postfix_syntax

CONFIG_DIRECTORY = "/etc/postfix"
QUEUE = "/var/spool/postfix"
FILES = ("main.cf", "master.cf")
RUN_SECONDS = 60
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


def read(path):
    """The text of a file, with bytes that are not UTF-8 kept apart; ``None`` when it is not there."""
    try:
        with open(path, "rb") as handle:
            return handle.read().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return None
    except OSError as err:
        raise CommandExecutionError(f"Cannot read {path}: {err.strerror}") from err


def read_both(config_directory):
    return {name: read(os.path.join(config_directory, name)) for name in FILES}


def run(*command):
    """Run a program of Postfix without a shell: ``(exit code, stdout, stderr)``."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAIL_")}
    environment.update(LC_ALL="C", PATH=f"{environment.get('PATH', '')}:/usr/sbin:/usr/bin:/sbin:/bin")
    try:
        process = subprocess.Popen(
            [word.encode("utf-8", "surrogateescape") for word in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
    except OSError as err:
        raise CommandExecutionError(f"Cannot run {command[0]}: {err.strerror}") from err
    with process:
        try:
            output, errors = process.communicate(timeout=RUN_SECONDS)
        except subprocess.TimeoutExpired:
            # `postfix check` is a tree of shell scripts, and each of them holds the pipes.
            os.killpg(process.pid, signal.SIGKILL)
            raise CommandExecutionError(f"{command[0]} did not end within {RUN_SECONDS} s") from None
    return process.returncode, output.decode(errors="replace"), errors.decode(errors="replace")


def installed():
    return bool(shutil.which("postconf") or shutil.which("postconf", path="/usr/sbin"))


def package_parameters():
    names = set(PACKAGE_PARAMETERS)
    for path in PACKAGE_MAIN:
        names.update(_mta_postfix_syntax.parameters(read(path) or ""))
    return names


def package_services():
    return {service for path in PACKAGE_MASTER for service in _mta_postfix_syntax.services(read(path) or "")}


def package_settings():
    """What the package's own main.cf and master.cf have, before its scripts put in what they know of the host."""
    main = _mta_postfix_syntax.parameters("\n".join(read(path) or "" for path in PACKAGE_MAIN[:2]))
    if not main:
        main = _mta_postfix_syntax.parameters(read(PACKAGE_MAIN[-1]) or "")
    master = next(filter(None, map(read, PACKAGE_MASTER)), "")
    return main, _mta_postfix_syntax.services(master)


def doors(name, texts):
    """``{(host, port): label}`` of what master(8) would bind, before names are resolved."""
    main = {**defaults(name), **_mta_postfix_syntax.parameters(texts["main.cf"] or "")}
    protocols = set(_mta_postfix_syntax.items_of(_mta_postfix_syntax.expand(main["inet_protocols"], main)))
    everywhere = ["0.0.0.0"] * bool({"all", "ipv4"} & protocols) + ["::"] * bool({"all", "ipv6"} & protocols)
    found = {}
    for service in _mta_postfix_syntax.services(texts["master.cf"] or ""):
        address, _, kind = service.rpartition("/")
        if kind != "inet":
            continue
        host, _, port = address.rpartition(":")
        label = service if host else f"inet_interfaces, {service}"
        hosts = (
            [host.strip("[]")]
            if host
            else _mta_postfix_syntax.items_of(_mta_postfix_syntax.expand(main["inet_interfaces"], main))
        )
        for one in hosts:
            for place in everywhere if one == "all" else [one.strip("[]")]:
                if place != "loopback-only" and "$" not in place:
                    found[place, port] = label
    return found


def show(config_directory=CONFIG_DIRECTORY):
    """
    Return the parameters that main.cf sets, ``{name: value}``, read in process by the rules of postconf(5).

    config_directory
        Path, ``/etc/postfix``.

    Continuation lines are joined, the last of several settings of a name counts, ``$name`` is not expanded.
    Raises ``CommandExecutionError`` when there is no main.cf, and for a line that cannot be parsed, by its
    number.
    """
    path = os.path.join(config_directory, "main.cf")
    entries, broken = _mta_postfix_syntax.parse_main(_present(path))
    _refuse_broken(path, broken)
    return {name: value for name, value, _ in entries}


def _present(path):
    text = read(path)
    if text is None:
        raise CommandExecutionError(f"There is no {path}")
    return text


def _refuse_broken(path, broken):
    if broken:
        reason, text, indexes = broken[0]
        raise CommandExecutionError(
            f"{path}, line {indexes[0] + 1}: {reason}: {text.strip(_mta_postfix_syntax.BLANKS)!r}"
        )


def get(parameter, config_directory=CONFIG_DIRECTORY):
    """
    Return the value of a parameter: the one in main.cf, else Postfix's default; ``None`` when it has neither.

    parameter
        Name.

    config_directory
        Path, ``/etc/postfix``.

    ``$name`` in it is not expanded. Raises ``CommandExecutionError`` as :func:`show` does, and when the
    default is needed and Postfix is not installed.
    """
    present = show(config_directory)
    if parameter in present:
        return present[parameter]
    code, output, errors = run("postconf", "-c", config_directory, "-d", "-h", parameter)
    if "unknown parameter" in errors:
        return None
    if code:
        raise CommandExecutionError(f"postconf cannot tell {parameter}: {errors.strip()}")
    return output.rstrip("\n")


def in_force(config_directory=CONFIG_DIRECTORY):
    """
    Return all parameters, ``{name: value}``: those of main.cf and Postfix's defaults, with ``$name`` expanded.

    config_directory
        Path, ``/etc/postfix``.

    One process, postconf(1). Raises ``CommandExecutionError`` when Postfix is not installed or cannot read it.
    """
    if not installed():
        raise CommandExecutionError("Postfix is not installed: there is no postconf")
    code, output, errors = run("postconf", "-c", config_directory, "-x")
    if code:
        raise CommandExecutionError(f"postconf cannot read {config_directory}: {errors.strip()}")
    return {name: value.strip() for name, _, value in (line.partition(" =") for line in output.splitlines())}


def services(config_directory=CONFIG_DIRECTORY):
    """
    Return the entries of master.cf, read in process by the rules of master(5).

    config_directory
        Path, ``/etc/postfix``.

    Returns ``{"smtp/inet": {"private": "n", "unprivileged": "-", "chroot": "y", "wakeup": "-",
    "process_limit": "-", "command": "smtpd", "overrides": {parameter: value}, "arguments": [word]}}``. Raises
    ``CommandExecutionError`` when there is no master.cf, and for an entry that master(8) would refuse, by its
    line number.
    """
    path = os.path.join(config_directory, "master.cf")
    entries, broken = _mta_postfix_syntax.parse_master(_present(path))
    _refuse_broken(path, broken)
    return {service: entry for service, entry, _ in entries}


def listeners(config_directory=CONFIG_DIRECTORY):
    """
    Return what smtpd(8) and postscreen(8) listen on, and what a client may expect there; read in process.

    config_directory
        Path, ``/etc/postfix``.

    Each is a dictionary: ``service`` (``smtp/inet``), ``host``, ``port``, ``wrappermode``, ``starttls``,
    ``auth``, ``auth_before_tls`` (booleans), ``certificate``, ``key`` (paths or ``None``), ``certificates``,
    ``keys`` (lists of paths: there may be one pair per type of key, or several chain files), ``sasl_type``,
    ``hostname``. Empty without configuration.
    """
    return listeners_of(config_directory, read_both(config_directory))


def ports_of(config_directory, parameters, services):
    main, entries = inet(config_directory, parameters, services)
    found = set()
    for name, _service, _entry in entries:
        addresses, _, port = name.rpartition(":")
        hosts = (
            [addresses]
            if addresses
            else _mta_postfix_syntax.items_of(_mta_postfix_syntax.expand(main["inet_interfaces"], main))
        )
        if not all(re.fullmatch(LOOPBACK, host) for host in hosts):
            found.add(_port(port))
    return sorted(found - {None})


def inet(config_directory, parameters, services):
    """Return all parameters, and the entries of master.cf that listen: ``(name, service, entry)``."""
    main = {**defaults(config_directory), **parameters}
    main.setdefault(
        "mydomain", _mta_postfix_syntax.expand(main["myhostname"], main).partition(".")[2] or "localdomain"
    )
    disabled = _mta_postfix_syntax.items_of(
        _mta_postfix_syntax.expand(main.get("master_service_disable", ""), main)
    )
    found = []
    for service, entry in services.items():
        name, _, kind = service.rpartition("/")
        listens = kind == "inet" and entry["command"] in _mta_postfix_syntax.SERVERS
        if listens and not {"inet", service, f"{name}.inet"} & set(disabled):
            found.append((name, service, entry))
    return main, found


def listeners_of(config_directory, texts):
    parameters, services = (
        _mta_postfix_syntax.parameters(texts["main.cf"] or ""),
        _mta_postfix_syntax.services(texts["master.cf"] or ""),
    )
    main, entries = inet(config_directory, parameters, services)
    found = []
    for name, service, entry in entries:
        own = {**main, **entry["overrides"]}
        facts = _promises(own, "postscreen" if entry["command"] == "postscreen" else "smtpd")
        addresses, _, port = name.rpartition(":")
        hosts = [addresses.strip("[]")] if addresses else _addresses(main)
        found += [{"service": service, "host": host, "port": _port(port), **facts} for host in hosts]
    return found


def defaults(config_directory):
    """Defaults of those parameters that :func:`listeners` looks at, or that are often referred to."""
    host = socket.gethostname()
    return {
        "config_directory": config_directory,
        "data_directory": "/var/lib/postfix",
        "mail_name": "Postfix",
        "myhostname": host if "." in host else f"{host}.localdomain",
        "queue_directory": QUEUE,
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


def _promises(parameters, daemon):
    """What a listener offers by its parameters, postconf(5)."""

    def value(name):
        return _mta_postfix_syntax.expand(parameters.get(name, ""), parameters)

    def enabled(name):
        return value(name).lower() == "yes"

    level = value(f"{daemon}_tls_security_level")
    wrapped = daemon == "smtpd" and enabled("smtpd_tls_wrappermode")
    enforced = level == "encrypt" or (not level and enabled(f"{daemon}_enforce_tls"))
    offered = enforced or level == "may" or (not level and enabled(f"{daemon}_use_tls"))
    # postscreen(8) has no AUTH of its own; it hands known clients on.
    auth = daemon == "smtpd" and enabled("smtpd_sasl_auth_enable")
    # With chain files Postfix ignores the others.
    pairs = [(path, path) for path in _mta_postfix_syntax.items_of(value("smtpd_tls_chain_files"))] or [
        (value(f"smtpd_tls_{kind}cert_file"), value(f"smtpd_tls_{kind}key_file")) for kind in ("", "ec")
    ]
    pairs = [pair for pair in pairs if pair[0] not in ("", "none")]
    certificate, key = pairs[0] if pairs else (None, None)
    return {
        "wrappermode": wrapped,
        "starttls": offered and not wrapped,
        "auth": auth,
        "auth_before_tls": auth and not wrapped and not enforced and not enabled("smtpd_tls_auth_only"),
        "certificate": certificate,
        "key": key,
        "certificates": [path for path, _ in pairs],
        "keys": [path for _, path in pairs],
        "sasl_type": value("smtpd_sasl_type"),
        "hostname": value("myhostname"),
    }


def _addresses(parameters):
    """Where a service without an address of its own can be reached."""
    wanted = _mta_postfix_syntax.items_of(_mta_postfix_syntax.expand(parameters["inet_interfaces"], parameters))
    protocols = _mta_postfix_syntax.items_of(_mta_postfix_syntax.expand(parameters["inet_protocols"], parameters))
    loopback = "127.0.0.1" if {"all", "ipv4"} & set(protocols) else "::1"
    hosts = [loopback if host in ("all", "loopback-only") else host.strip("[]") for host in wanted]
    return list(dict.fromkeys(hosts))


def _port(name):
    if name.isdigit():
        return int(name)
    try:
        return socket.getservbyname(name, "tcp")
    except OSError:
        return PORTS.get(name)


def nearest(name, config_directory):
    import difflib

    output = run("postconf", "-c", config_directory, "-d")[1]
    names = [line.partition(" ")[0] for line in output.splitlines()]
    return next(iter(difflib.get_close_matches(name, names, 1, 0.75)), None)
