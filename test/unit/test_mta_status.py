"""A server's row: every part by itself, and none of them secret."""

import datetime
import functools

import pytest
from salt.exceptions import CommandExecutionError

import _mta_revision
import _mta_status

LISTENER = {
    "service": "smtp/inet",
    "host": "127.0.0.1",
    "port": 25,
    "auth": True,
    "hostname": "mail.example.com",
    "certificates": ["/etc/ssl/certs/smtpd.crt"],
}
PARTS = {
    "_mta_package.versions": lambda names: {name: "3.7.11-0+deb12u1" for name in names},
    "_mta_postfix_view.listeners": lambda: [LISTENER],
    "_mta_services.status": lambda names: {name: {"active": True} for name in names},
    "_mta_queue.size": lambda: {"deferred": 3, "total": 3},
    "_mta_last_apply.last": lambda: {"result": True, "time": 1000, "files": {"/etc/postfix/main.cf": "digest"}},
    "_mta_last_apply.differing": lambda: [],
    "_mta_beacon.conditions": lambda: {"queue": {"since": "2026-01-01T00:00:00Z", "details": {}}},
}


class Talk:
    """Stands in for the conversation; remembers what was expected of it."""

    def __init__(self):
        self.expected = None
        self.reply = "535 5.7.8 Error: authentication failed"
        self.problems = []

    def check(self, **expected):
        self.expected = expected
        tried = expected["auth"] == "challenge"
        auth = {"reply": self.reply} if tried and self.reply else {}
        talks = [{"connected": True, "auth": auth}]
        return {"answers": not self.problems, "problems": self.problems, "conversations": talks}


@pytest.fixture
def talk(pretend):
    fake = Talk()
    pretend("_mta_judge.check", fake.check)
    return fake


@pytest.fixture
def settings():
    """The effective settings."""
    return {
        "hostname": "mail.example.com",
        "profile": "guide",
        "verify": {"enabled": True},
        "conversation": {"ca_file": "/etc/ssl/certs/cacert.pem"},
        "certificate": {"fleet": {"minions": {}}},
    }


@pytest.fixture
def report(minion, talk, pretend, pillar, settings):
    """The report of a healthy server, whose parts a test replaces."""
    pretend("mta_settings.effective", lambda saltenv: settings)
    pretend("pillar.get", pillar.get)
    for name, function in PARTS.items():
        pretend(name, function)
    end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=100, hours=1)
    file = type("File", (), {"data": b"pem"})
    pretend("_mta_pem.read", lambda path: file)
    pretend("_mta_x509.describe", lambda pem: [{"not_after": end}])
    return functools.partial(_mta_status.report, minion)


def fail(*_, **__):
    raise CommandExecutionError("it is broken")


def test_a_healthy_server(report):
    row = report()
    assert row["errors"] == {}
    assert (row["fqdn"], row["postfix"], row["profile"]) == ("mail.example.com", "3.7.11", "guide")
    assert row["revision"] == _mta_revision.REVISION
    assert (row["running"], row["answers"], row["auth"], row["problems"]) == (True, True, True, [])
    assert row["certificate_days"] == 100
    assert row["queue"] == {"deferred": 3, "total": 3}
    assert row["drift"] == []
    assert row["last_apply"] == {"result": True, "time": 1000}
    assert row["commit"] is None
    assert row["conditions"] == ["queue"]


@pytest.mark.parametrize(
    "part, function",
    [
        ("postfix", "_mta_package.versions"),
        ("listeners", "_mta_postfix_view.listeners"),
        ("running", "_mta_services.status"),
        ("conversation", "_mta_judge.check"),
        ("certificate_expires", "_mta_x509.describe"),
        ("queue", "_mta_queue.size"),
        ("settings", "mta_settings.effective"),
        ("drift", "_mta_last_apply.differing"),
        ("last_apply", "_mta_last_apply.last"),
        ("commit", "_mta_snapshots.last_commit"),
        ("conditions", "_mta_beacon.conditions"),
    ],
)
def test_a_part_that_cannot_be_told_keeps_no_other_from_it(report, monkeypatch, functions, part, function):
    if function.startswith("_"):
        monkeypatch.setattr(function, fail)
    else:
        functions[function] = fail
    row = report()
    assert row["errors"] == {part: "it is broken"}
    assert row["fqdn"] == "mail.example.com"


def test_a_host_without_postfix_pillar_and_apply_is_no_mail_server(report, pretend):
    pretend("_mta_last_apply.last", dict)
    pretend("_mta_package.versions", lambda names: dict.fromkeys(names))
    assert report() is None


def test_a_mail_server_without_postfix_is_one_still(report, pretend):
    pretend("_mta_package.versions", lambda names: dict.fromkeys(names))
    pretend("_mta_postfix_view.listeners", lambda: [])
    row = report()
    assert (row["postfix"], row["auth"], row["certificate_days"], row["fqdn"]) == (
        None,
        None,
        None,
        "mail.example.com",
    )


@pytest.mark.parametrize(
    "reply, works", [("535 5.7.8 no", True), ("235 ok", True), ("454 4.7.0 broken", False), (None, None)]
)
def test_auth_works_when_the_right_answer_comes_from_the_end_of_the_chain(report, talk, reply, works):
    talk.reply = reply
    assert report()["auth"] is works


def test_auth_that_is_not_offered_is_not_broken(report, pretend):
    pretend("_mta_postfix_view.listeners", lambda: [{**LISTENER, "auth": False}])
    assert report()["auth"] is None


def test_a_login_is_tried_only_where_it_may(report, talk):
    assert report(login=False)["auth"] is None
    assert talk.expected["auth"] == "offered"


def test_the_thorough_conversation_is_the_one_after_a_change(report, talk):
    report(thorough=True)
    assert talk.expected["envelope"] is talk.expected["untrusted_client"] is True
    assert talk.expected["auth"] == "challenge"
    assert talk.expected["hostname"] == "mail.example.com"
    assert talk.expected["ca_file"] == "/etc/ssl/certs/cacert.pem"


def test_where_the_pillar_does_without_the_conversation_it_is_not_thorough(report, talk, settings):
    settings["verify"]["enabled"] = False
    report(thorough=True)
    assert "envelope" not in talk.expected


def test_the_certificate_that_ends_first_counts(report, pretend):
    pretend("_mta_postfix_view.listeners", lambda: [LISTENER, {**LISTENER, "certificates": ["/other"]}])
    pretend("_mta_pem.read", lambda path: type("File", (), {"data": path}))
    now = datetime.datetime.now(datetime.timezone.utc)
    ends = {"/other": now - datetime.timedelta(days=2), "/etc/ssl/certs/smtpd.crt": now}
    pretend("_mta_x509.describe", lambda path: [{"not_after": ends[path]}])
    assert report()["certificate_days"] in (-2, -3)


def test_a_minion_that_only_signs_for_a_fleet_is_no_mail_server(report, pretend, pillar, settings):
    pretend("_mta_package.versions", lambda names: dict.fromkeys(names))
    pretend("_mta_last_apply.last", lambda: {})
    settings["certificate"] = {"fleet": {"minions": {"mail1": []}}, "ca": {"certificate": "/c", "key": "/k"}}
    pillar["postfix_mta"] = {"certificate": {}}
    assert report() is None
    pretend("_mta_fleet_ca.only_signs", lambda: None)
    assert report()["profile"] == "guide"


def test_the_beacons_conditions_are_remembered_or_looked_at(report, pretend):
    pretend("_mta_beacon.found", lambda: {"saslauthd": {"socket": "/mux"}})
    assert report()["conditions"] == ["queue"]
    assert report(look=True)["conditions"] == ["saslauthd"]


def test_what_the_last_look_at_the_dns_found_is_told_where_applies_look(minion, report, settings):
    finding = {"name": "x.example", "type": "MX", "kind": "missing", "reason": "it should be m"}
    minion.state.write("dns.json", {"time": 1000, "findings": [finding]})
    assert report()["dns"] is None
    settings["dns"] = {"check": "report"}
    assert report()["dns"] == ["x.example MX, missing: it should be m"]
