"""What the audit looks at: what a client sees, and what is on the disk."""

import functools
import pathlib

import pytest
from fake_smtp import PASSWORD

import _mta_audit
import _mta_system


@pytest.fixture
def server(smtp_server):
    return smtp_server


@pytest.fixture
def audit(minion, pretend, listener, certificates, tmp_path):
    """mta_probe.audit over the server of this file, with a configuration that has nothing but it."""
    pretend("_mta_postfix_view.listeners", lambda: [listener])
    pretend("mta_settings.effective", lambda saltenv: {"certificate": {"ca": {"key": "/nonexistent"}}})
    pretend("_mta_postfix_view.in_force", lambda: {"queue_directory": str(tmp_path)})
    pretend("_mta_postfix_view.services", dict)
    pretend("_mta_dane.look", lambda main: False)
    pretend("_mta_tables.of_parameter", lambda parameter: [])
    pretend("_mta_saslauthd_view.settings", lambda: {"socket_directory": str(tmp_path / "sasl")})
    return functools.partial(_mta_audit.audit, minion)


def names(found):
    return [one["name"].rpartition(" ")[0] or one["name"] for one in found["findings"]]


def test_the_audit_sees_what_a_client_and_the_disk_show(audit, server, no_route, certificates, tmp_path, listener):
    server.replies["RCPT TO:<postmaster@example.net>"] = b"250 2.1.5 Ok\r\n"
    (tmp_path / "sasl").mkdir(mode=0o755)
    (tmp_path / "sasl" / "mux").touch()
    found = audit()
    assert {"auth-in-clear", "open-relay", "self-signed", "open-to-all"} <= {*names(found)}
    assert f"open-to-all {tmp_path}/sasl" in [one["name"] for one in found["findings"]]
    assert PASSWORD not in str(found)


@pytest.mark.parametrize(
    ("mode", "group", "found"),
    [(0o640, "ssl-cert", False), (0o640, "users", True), (0o660, "ssl-cert", True), (0o644, "ssl-cert", True)],
)
def test_debian_s_group_for_keys_may_read_one(audit, certificates, monkeypatch, mode, group, found):
    monkeypatch.setattr(_mta_system, "group_name", lambda _gid: group)
    key = pathlib.Path(certificates["good"])
    before = key.stat().st_mode
    key.chmod(mode)
    reasons = [one["reason"] for one in audit()["findings"] if one["name"] == f"open-to-all {key}"]
    key.chmod(before)
    assert bool(reasons) is found
    assert all(("every local user" in reason) is (mode == 0o644) for reason in reasons)
