"""
No value of the pillar becomes more than a value: in main.cf, master.cf, the shell file and the unit of saslauthd,
the alias file, firewall rules, SLS files and log lines. Whatever gets through the validation is driven to where it
is written, and read back by the rules of who reads it. Nothing of the pillar gets into a PAM file.
"""

import configparser
import pathlib
import re
import subprocess
import xml.dom.minidom

import pytest
import salt.utils.yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from salt.exceptions import SaltInvocationError
from test_sls import PREAMBLE, Renderer

import _mta_aliases
import _mta_firewall_firewalld
import _mta_firewall_iptables
import _mta_firewall_nftables
import _mta_pillar
import _mta_postfix_syntax
import _mta_saslauthd
import _mta_saslauthd_files
import _mta_saslauthd_request
import _mta_saslauthd_view
import _mta_settings

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
FILES = REPOSITORY / "postfix_mta"
SOURCES = {
    name: salt.utils.yaml.safe_load((FILES / f"{name}.yaml").read_text())
    for name in ("defaults", "os_family", "profiles", "services")
}
CANARY = "canary"
# What ends a value, a line, a word or a quotation somewhere.
FRAGMENTS = (
    *("\n", "\r", "\r\n", "\0", "\t", "\x0b", "\x1b[2J", "\x85", "\u2028", " ", "  "),
    *("'", '"', "\\", "\\\n", ";", "&", "|", ">", "<", "#", " # ", "=", ",", ":", "%n", "%i", "~", "*", "?", "!"),
    *("{", "}", "{{ 7 * 7 }}", "{% set x = 1 %}", "{maps.t}", "{hostname}", "$(", ")", "`", "${x}", "$x", "$$"),
    *(
        f"$(touch {CANARY})",
        f"`touch {CANARY}`",
        f"; touch {CANARY} #",
        f'"; touch {CANARY}; "',
        f"' touch {CANARY} '",
    ),
    *("\nroot: mallory", "\nrelayhost = mallory", " -o mynetworks=0.0.0.0/0", "\n  -o mynetworks=0.0.0.0/0"),
    *("\nExecStartPre=/bin/false", "\n[Service]", "\n- flush ruleset", "-j ACCEPT", "</service>", "../", "/.."),
    *(
        "auth sufficient pam_permit.so",
        "\nauth sufficient pam_permit.so",
        "-",
        "--",
        "ü",
        "mail.example.com",
        "/x",
    ),
)
TEXTS = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=6), min_size=1, max_size=2).map("".join)
# Where a text may stand; PLACE is replaced by a good beginning with the text behind it.
PLACES = (
    ("", {"hostname": "PLACE"}),
    ("alice", {"root_recipient": "PLACE"}),
    ("alice", {"aliases": {"sales": "PLACE"}}),
    ("|/bin/true ", {"aliases": {"sales": ["bob", "PLACE"]}}),
    ("sales", {"aliases": {"PLACE": "alice"}}),
    ("x", {"parameters": {"smtpd_banner": "PLACE"}}),
    ("127.0.0.0/8", {"parameters": {"mynetworks": ["PLACE", "10.0.0.0/8"]}}),
    ("smtpd_x", {"parameters": {"PLACE": "x"}}),
    ("x", {"services": {"smtp/inet": {"overrides": {"smtpd_banner": "PLACE"}}}}),
    ("smtpd_x", {"services": {"smtp/inet": {"overrides": {"PLACE": "x"}}}}),
    ("smtpd", {"services": {"smtp/inet": {"command": "PLACE"}}}),
    ("x", {"services": {"x/unix": {"command": "pipe", "arguments": "PLACE"}}}),
    ("x", {"services": {"x/unix": {"command": "pipe", "arguments": ["flags=F", "PLACE"]}}}),
    ("10", {"services": {"x/unix": {"command": "pipe", "wakeup": "PLACE"}}}),
    ("x", {"services": {"PLACE/unix": {"command": "smtp"}}}),
    ("/etc/x", {"certificate": {"key": "PLACE"}}),
    ("/etc/x", {"certificate": {"chain_file": "PLACE"}}),
    ("Example", {"certificate": {"subject": {"organization": "PLACE"}}}),
    ("a.example.com", {"certificate": {"names": ["PLACE"]}}),
    ("x", {"sasl": {"options": "PLACE"}}),
    ("/run/x", {"sasl": {"socket_directory": "PLACE"}}),
    ("0710", {"sasl": {"directory_mode": "PLACE"}}),
    ("pam", {"sasl": {"mechanisms": ["PLACE"]}}),
    ("public", {"firewall": {"zones": ["PLACE"]}}),
    ("25", {"firewall": {"ports": ["PLACE"]}}),
    ("/etc/x", {"firewall": {"rules_file": "PLACE"}}),
    ("8BITMIME", {"verify": {"capabilities": ["PLACE"]}}),
    ("keep", {"unmanaged": "PLACE"}),
    ("guide", {"profile": "PLACE"}),
)
MASTER = "smtp      inet  n       -       y       -       -       smtpd\n"


def filled(tree, text):
    """The tree with PLACE replaced, in keys and values."""
    if isinstance(tree, dict):
        return {key.replace("PLACE", text): filled(value, text) for key, value in tree.items()}
    if isinstance(tree, list):
        return [filled(value, text) for value in tree]
    return tree.replace("PLACE", text)


PILLARS = st.builds(lambda place, text: filled(place[1], place[0] + text), st.sampled_from(PLACES), TEXTS)


def accepted(pillar):
    """The effective settings of a pillar; ``None`` when it is refused, with lines that are lines."""
    mta = _mta_settings.merge(SOURCES, pillar, {"os_family": "Debian", "fqdn": "mail.example.com"})
    found = _mta_pillar.of_data(pillar, "postfix_mta", "mail.example.com", mta)
    assert all(line.isprintable() for line in found)
    return None if found else mta


@pytest.fixture
def saslauthd(tmp_path, monkeypatch):
    """``saslauthd(mta)``: what its settings' files and its unit's drop-in would be."""
    monkeypatch.setattr(_mta_saslauthd_view, "DEFAULTS_FILE", str(tmp_path / "default"))
    monkeypatch.setattr(_mta_saslauthd_view, "OWN_FILE", str(tmp_path / "own"))
    unit = tmp_path / "unit"
    unit.touch()
    monkeypatch.setattr(_mta_saslauthd._mta_services, "SYSTEMD_RUNS", str(tmp_path))
    monkeypatch.setattr(_mta_saslauthd, "INIT_SCRIPT", str(tmp_path / "init"))

    def files(mta):
        requested = _mta_saslauthd_request.request(mta["saslauthd"])
        written = []
        for units in ((), (str(unit),)):
            monkeypatch.setattr(_mta_saslauthd, "NATIVE_UNITS", units)
            written += _mta_saslauthd._settings(requested).files.values()
        return written, _mta_saslauthd_files.drop_in(requested, own=True)

    return files


def check_main_cf(mta):
    for name, value in mta["main_cf"].items():
        text = _mta_postfix_syntax.wanted_text(name, value)
        if text is not None:
            written = _mta_postfix_syntax.appended("first = 1\n", {name: text}) + "last = 1\n"
            assert _mta_postfix_syntax.parameters(written) == {"first": "1", name: text, "last": "1"}


def check_master_cf(mta):
    present = _mta_postfix_syntax.services(MASTER)
    for service, entry in _mta_postfix_syntax.wanted_services(mta["services"], present).items():
        if entry is not None:
            written = f"{MASTER}{_mta_postfix_syntax.entry_text(service, entry)}\n"
            assert _mta_postfix_syntax.services(written) == {**present, service: entry}


def check_aliases(mta):
    wanted = _mta_aliases.wanted({**mta["root_aliases"], **mta["aliases"]})
    entries, broken = _mta_aliases.entries(_mta_aliases.edited("first: x\n", wanted))
    assert not broken
    assert {entry[0]: entry[1] for entry in entries} == {"first": ["x"], **wanted}


def check_saslauthd(files, mta, directory):
    written, unit = files(mta)
    sasl = mta["sasl"]
    options = f"-c -m {sasl['socket_directory']}"
    assert len(written) == 2
    for text in written:
        (directory / "defaults").write_text(text)
        show = '. ./defaults; printf "%s\\n" "$MECHANISMS" "$MECH_OPTIONS" "$OPTIONS" "$THREADS"'
        shown = subprocess.run(["sh", "-c", show], cwd=directory, capture_output=True, text=True, check=True)
        assert shown.stdout.split("\n")[:4] == ["pam", sasl["options"] or "", options, str(sasl["threads"])]
    assert not (directory / CANARY).exists()
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read_string(unit)
    assert parser.sections() == ["Unit", "Service"]
    expected = {"PIDFile", "RuntimeDirectoryMode", "ExecStartPre", "ExecStart", "EnvironmentFile"}
    assert {*parser["Service"]} <= expected
    assert parser["Service"]["EnvironmentFile"] == _mta_saslauthd_view.OWN_FILE
    assert parser["Service"]["ExecStartPre"].split()[-1] == sasl["socket_directory"]
    assert "%" not in unit


def check_firewalls(mta):
    ports = [port for port in mta["firewall"]["ports"] if port != "listeners"]
    assert all(isinstance(port, int) and 0 < port < 65536 for port in ports)
    assert all(re.fullmatch("[A-Za-z0-9_-]+", zone) for zone in mta["firewall"]["zones"])
    rules = "".join(_mta_firewall_iptables._rules(ports)).splitlines()
    assert [line for line in rules if line and not line.startswith(("#", "-A INPUT -p tcp --dport "))] == []
    assert _mta_firewall_nftables._rule(ports).isprintable()
    service = _mta_firewall_firewalld._service_text(ports)
    assert xml.dom.minidom.parseString(service).documentElement.tagName == "service"


@pytest.mark.parametrize("place", PLACES, ids=lambda place: re.sub("[^a-z_]+", "-", str(place[1])).strip("-"))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS)
def test_what_is_written_is_what_was_asked_for_and_nothing_more(place, text, saslauthd, tmp_path):
    pillar = filled(place[1], place[0] + text)
    mta = accepted(pillar)
    if mta is None:
        return
    try:
        check_main_cf(mta)
        check_master_cf(mta)
        check_aliases(mta)
    except SaltInvocationError as err:
        # The participant refuses what the validation of the pillar leaves to it, in one line.
        assert str(err).isprintable()
    if "sasl" in pillar:
        check_saslauthd(saslauthd, mta, tmp_path)
    check_firewalls(mta)


@pytest.mark.parametrize(
    "pillar",
    [{}, {"sasl": {"options": "ldap.conf"}}, {"aliases": {"sales": "alice"}}, {"firewall": {"ports": [26]}}],
)
def test_a_good_pillar_gets_to_where_it_is_checked(pillar, saslauthd, tmp_path):
    mta = accepted(pillar)
    check_main_cf(mta)
    check_aliases(mta)
    check_saslauthd(saslauthd, mta, tmp_path)
    check_firewalls(mta)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pillar=PILLARS)
def test_a_state_gets_the_values_and_no_value_becomes_a_state(pillar, opts):
    mta = accepted(pillar)
    if mta is None:
        return
    render = Renderer(opts)
    config = render((FILES / "config.sls").read_text(), pillar)
    certificates = {"postfix_mta_certificates"} if mta["pairs"] else set()
    assert {*config} == {"include", "postfix_mta_config", "postfix_mta_maps", "extend"} | certificates
    (arguments,) = config["postfix_mta_config"].values()
    given_on = {key: value for argument in arguments for key, value in argument.items()}
    assert given_on["parameters"] == mta["main_cf"]
    assert given_on["services"] == mta["services"]
    assert render(f"{PREAMBLE}{{{{ mta.aliases | json }}}}", pillar) == mta["aliases"]
    aliases = render((FILES / "aliases.sls").read_text(), pillar)
    assert {*aliases} == {"include", "postfix_mta_aliases"}
