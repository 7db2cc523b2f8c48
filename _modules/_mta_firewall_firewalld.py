"""
The backend firewalld: a service of our own, named in the zones' files, and the same ports in the running firewall.

A running firewalld is not reloaded, which would drop what others have told it and not written: its ports are
opened one by one.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Sequence
from typing import Optional
from xml.etree import ElementTree

from salt.exceptions import CommandExecutionError

import _mta_firewall_files
import _mta_system
from _mta_plan import Plan

PROGRAM = _mta_firewall_files.FIREWALLD
PROC = "/proc"
OWN = "/etc/firewalld"
PACKAGE = ("/usr/lib/firewalld", "/usr/share/firewalld")
SERVICE = "postfix_mta"
LINE = f'  <service name="{SERVICE}"/>\n'
SERVICE_TEXT = """\
<?xml version="1.0" encoding="utf-8"?>
<service>
  <short>Mail server</short>
  <description>The ports of the mail server. The Salt formula postfix_mta keeps this file.</description>
{ports}</service>
"""


# Path to the old and the new text; None: no file.
Files = dict[str, tuple[Optional[str], Optional[str]]]


def in_force(zones: Sequence[str] = ()) -> bool:
    """Tell whether firewalld is running on this host; containers may have one of their own."""
    if not os.path.exists(PROGRAM):
        return False
    own = _link(f"{PROC}/self/ns/pid")
    return any(
        _mta_system.read(name) == "firewalld\n" and _link(f"{os.path.dirname(name)}/ns/pid") == own
        for name in glob.glob(f"{PROC}/[0-9]*/comm")
    )


def plan(ports: Sequence[int], zones: Sequence[str]) -> Plan:
    """
    Return what has to change for the ports to be open.

    ports
        TCP ports. With an empty list our service goes.

    zones
        Those in which they are open; empty: the default zone. Our line goes out of every other zone.

    Where firewalld does not run only the files are changed. Raises ``CommandExecutionError`` when firewalld is not
    installed, there is no such zone, or a zone's file cannot be understood.
    """
    planned = Plan()
    for path, (old, new) in _files(ports, zones).items():
        if old != new:
            planned.changes[path] = {"old": _shown(old), "new": _shown(new)}
    if planned.changes and in_force():
        planned.changes["running rules"] = {"old": "before the change", "new": "as in the files"}
    elif planned.changes:
        planned.notes.append("firewalld does not run: only its files are changed")
    return planned


def apply(ports: Sequence[int], zones: Sequence[str]) -> None:
    """
    Write the files and change the running firewall, as far as :func:`plan` finds it necessary.

    Raises what :func:`plan` raises, with nothing changed; and ``CommandExecutionError``, with the files and the
    running rules as they were, when firewalld refuses the files or the ports.
    """
    files = [(path, old, new) for path, (old, new) in _files(ports, zones).items() if old != new]
    if not files:
        return
    if not ports:
        # A running firewalld watches the files: at no time a zone names a service that is gone.
        files.reverse()
    former = _ports_of(_mta_system.read(_service_path()))
    opened, closed = _zones_before_and_after(ports, zones)
    undo: list[list[str]] = []
    try:
        for path, _old, new in files:
            _mta_firewall_files.replace(path, new)
        _mta_firewall_files.run(["firewall-offline-cmd", "--check-config"])
        if in_force():
            for zone in opened:
                _change_running(zone, ports, former, undo)
            for zone in closed:
                _change_running(zone, [], former, undo)
    except CommandExecutionError:
        for path, old, _new in reversed(files):
            _mta_firewall_files.replace(path, old)
        for arguments in reversed(undo):
            _firewall_cmd(*arguments)
        raise


def _change_running(zone: str, ports: Sequence[int], former: Sequence[int], undo: list[list[str]]) -> None:
    """
    Open the ports in a zone of the running firewall, and close the former ones; ``undo`` gets the way back.

    A service that the running firewall knows has the ports that it had when it was loaded, so ports are opened
    one by one, and the service is taken out of the zone.
    """
    zone = f"--zone={zone}"
    present = _firewall_cmd(zone, "--list-ports").split()
    wanted = [f"{port}/tcp" for port in ports]
    missing = [port for port in wanted if port not in present]
    obsolete = [f"{port}/tcp" for port in former if f"{port}/tcp" in present and f"{port}/tcp" not in wanted]
    if missing:
        _firewall_cmd(zone, *(f"--add-port={port}" for port in missing))
        undo.append([zone, *(f"--remove-port={port}" for port in missing)])
    if SERVICE in _firewall_cmd(zone, "--list-services").split():
        _firewall_cmd(zone, f"--remove-service={SERVICE}")
        undo.append([zone, f"--add-service={SERVICE}"])
    if obsolete:
        _firewall_cmd(zone, *(f"--remove-port={port}" for port in obsolete))
        undo.append([zone, *(f"--add-port={port}" for port in obsolete)])


def _files(ports: Sequence[int], zones: Sequence[str]) -> Files:
    """Return the files that are, or have to be, ours."""
    if not os.path.exists(PROGRAM):
        if ports:
            raise CommandExecutionError(
                "firewalld is not installed: install it, or set the backend to auto or none"
            )
        return {}
    old = _mta_system.read(_service_path())
    files: Files = {_service_path(): (old, _service_text(ports) if ports else None)}
    opened, closed = _zones_before_and_after(ports, zones)
    for zone in opened + closed:
        path, old, package = _zone_texts(zone)
        text = package if old is None else old
        if text is None:
            raise CommandExecutionError(f"firewalld has no zone {zone}")
        new: str | None = _zone_text(text, zone, zone in opened)
        if zone in closed and new == package:
            new = None
        files[path] = (old, new)
    return files


def _zones_before_and_after(ports: Sequence[int], zones: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the zones that have to name our service, and the others that do."""
    opened = (list(zones) or [_default_zone()]) if ports else []
    naming = [
        os.path.basename(path)[: -len(".xml")]
        for path in sorted(glob.glob(f"{OWN}/zones/*.xml"))
        if f'"{SERVICE}"' in (_mta_system.read(path) or "")
    ]
    return opened, [zone for zone in naming if zone not in opened]


def _zone_texts(zone: str) -> tuple[str, str | None, str | None]:
    """Return the path of a zone's file, its text, and the text of the package's own."""
    read = _mta_system.read
    path = f"{OWN}/zones/{zone}.xml"
    package = [read(f"{folder}/zones/{zone}.xml") for folder in PACKAGE]
    return path, read(path), next((text for text in package if text is not None), None)


def _zone_text(text: str, zone: str, opened: bool) -> str:
    """Return a zone's text with or without our line, and every other byte as it is."""
    tree = _parsed(text, f"the zone {zone}")
    named = any(service.get("name") == SERVICE for service in tree.findall("service"))
    if opened and not named:
        head, end, rest = text.rpartition("</zone>")
        if not end:
            raise CommandExecutionError(f"The zone {zone} of firewalld has no end tag </zone>")
        return f"{head}{LINE}{end}{rest}"
    if named and not opened:
        return re.sub(rf'[ \t]*<service name="{SERVICE}" ?/>\n?', "", text)
    return text


def _service_text(ports: Iterable[int]) -> str:
    lines = "".join(f'  <port protocol="tcp" port="{port}"/>\n' for port in sorted(ports))
    return SERVICE_TEXT.format(ports=lines)


def _ports_of(text: str | None) -> list[int]:
    """Return the ports of our service's text."""
    if text is None:
        return []
    return [int(port.get("port", "")) for port in _parsed(text, f"the service {SERVICE}").findall("port")]


def _parsed(text: str, what: str) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(text.encode("utf-8", "surrogateescape"))
    except ElementTree.ParseError as error:
        raise CommandExecutionError(f"firewalld's file of {what} is no XML: {error}") from error


def _shown(text: str | None) -> str:
    """Return what of a file is ours, for the changes."""
    if text is None or SERVICE not in text:
        return ""
    if "<service>" in text:
        return ", ".join(map(str, _ports_of(text)))
    return f"service {SERVICE}" if f'"{SERVICE}"' in text else ""


def _default_zone() -> str:
    for line in (_mta_system.read(f"{OWN}/firewalld.conf") or "").splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "DefaultZone" and value.strip():
            return value.strip()
    return "public"


def _service_path() -> str:
    return f"{OWN}/services/{SERVICE}.xml"


def _link(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None


def _firewall_cmd(*arguments: str) -> str:
    return _mta_firewall_files.run(["firewall-cmd", *arguments])
