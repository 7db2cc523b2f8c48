"""MTA-STS of other domains: the daemon's files as a participant, and the program by which DANE goes first."""

import asyncio
import importlib.util
import os
import sys
import types

import pytest
from library import REPOSITORY

import _mta_postfix_view
import _mta_services
import _mta_sts

PROGRAM = REPOSITORY / "postfix_mta/files/mta-sts.py"
SECURE = b"41:OK secure match=mx.example.com:mx.example.net,"


@pytest.fixture
def host(tmp_path, monkeypatch, minion):
    """A host with systemd, whose files are in a temporary directory."""
    for name in ("PROGRAM", "CONF", "UNIT"):
        monkeypatch.setattr(_mta_sts, name, str(tmp_path / name))
    monkeypatch.setattr(_mta_services, "manager", lambda: "systemd")
    monkeypatch.setattr(_mta_postfix_view, "queue_directory", lambda: str(tmp_path))
    (tmp_path / _mta_sts.SOCKET).parent.mkdir()
    (tmp_path / _mta_sts.SOCKET).touch()
    minion.functions["cp.cache_file"] = lambda url, saltenv: str(PROGRAM)
    return tmp_path


def test_its_files_are_written_once_and_restart_it(host, minion):
    planned = _mta_sts.plan(minion)
    assert {*planned.changes} == {_mta_sts.PROGRAM, _mta_sts.CONF, _mta_sts.UNIT}
    assert planned.activate == {"postfix-mta-sts": "restart"}
    for path, text in _mta_sts._wanted(minion).items():
        with open(path, "w") as handle:
            handle.write(text)
    assert f"path: {host}/postfix_mta_sts/socket\n" in (host / "CONF").read_text()
    again = _mta_sts.plan(minion)
    assert (again.changes, again.activate, again.errors) == ({}, {}, [])
    (host / _mta_sts.SOCKET).unlink()
    stopped = _mta_sts.plan(minion)
    assert ([*stopped.changes], stopped.activate) == (["socket"], {"postfix-mta-sts": "restart"})


def test_it_is_refused_without_systemd_and_where_it_is_masked(host, minion, monkeypatch):
    (host / "UNIT").symlink_to("/dev/null")
    assert _mta_sts.plan(minion).errors == ["postfix-mta-sts is masked: systemctl unmask postfix-mta-sts"]
    monkeypatch.setattr(_mta_services, "manager", lambda: "sysv")
    assert "needs systemd" in _mta_sts.plan(minion).errors[0]


# -- the program -------------------------------------------------------------------------------


class Failed(Exception):
    """What dnspython raises."""


class Nothing(Failed):
    """It raises this for a name without such records."""


class Answer:
    """Records, and whether the resolver has validated them."""

    def __init__(self, records, validated):
        self.rrset, self.response = records, types.SimpleNamespace(flags=0x20 if validated else 0)


@pytest.fixture
def program(monkeypatch):
    """The program, with little in the place of the libraries; ``program.zone``: what the DNS says."""

    class Resolver:
        async def resolve(self, name, kind):
            program.asked.append((name, kind))
            found = program.zone.get((name, kind), Nothing())
            if isinstance(found, Exception):
                raise found
            return found

    class Responder:
        async def process_request(self, raw_req):
            return program.answer

    def module(name, **content):
        made = types.ModuleType(name)
        made.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    asynchronous = module("dns.asyncresolver", Resolver=Resolver)
    exceptions = module("dns.exception", DNSException=Failed)
    flags = module("dns.flags", RD=0x100, AD=0x20)
    resolvers = module("dns.resolver", NXDOMAIN=Nothing, NoAnswer=Nothing)
    module("dns", asyncresolver=asynchronous, exception=exceptions, flags=flags, resolver=resolvers)
    netstring = types.SimpleNamespace(encode=lambda text: b"%d:%s," % (len(text), text))
    responder = types.SimpleNamespace(STSSocketmapResponder=Responder)
    module("postfix_mta_sts_resolver", daemon=types.SimpleNamespace(), netstring=netstring, responder=responder)
    spec = importlib.util.spec_from_file_location("mta_sts_program", PROGRAM)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    program.zone, program.asked, program.answer = {}, [], SECURE
    return program


@pytest.fixture
def ask(program, monkeypatch, tmp_path):
    """``ask(level)``: the answer for example.com, where main.cf has this TLS level."""

    def of(level="dane"):
        (tmp_path / "postconf").write_text(f"#!/bin/sh\nprintf '{level}\\ndnssec\\n'\n")
        (tmp_path / "postconf").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        return asyncio.run(program.Responder().process_request(b"postfix example.com"))

    return of


def mail_host(name):
    return types.SimpleNamespace(exchange=types.SimpleNamespace(to_text=lambda: name))


def published(validated, tlsa=None):
    zone = {("example.com", "MX"): Answer([mail_host("mx.example.com.")], validated)}
    return {**zone, ("_25._tcp.mx.example.com.", "TLSA"): tlsa} if tlsa else zone


def test_dane_goes_first_where_postfix_does_it_and_the_zone_is_signed(program, ask):
    program.zone = published(True, Answer(["3 1 1 00"], True))
    assert ask() == b"12:OK dane-only,"
    program.zone = published(True, Answer(["3 1 1 00"], False))
    assert ask() == SECURE
    program.zone = published(False, Answer(["3 1 1 00"], True))
    assert ask() == SECURE
    program.zone = published(True)
    assert ask() == SECURE


def test_the_dns_is_not_asked_where_there_is_no_policy_or_no_dane(program, ask):
    assert ask("may") == SECURE
    program.answer = b"9:NOTFOUND ,"
    assert ask() == program.answer
    assert program.asked == []


def test_mail_waits_where_the_dns_does_not_say(program, ask):
    program.zone = {("example.com", "MX"): Failed("no answer")}
    assert b"TEMP " in ask()
    program.zone = published(True, Failed("no answer"))
    assert b"TEMP " in ask()
