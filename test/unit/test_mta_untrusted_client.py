"""An address for an untrusted client: shared by those who need it at once, and gone after the last one."""

import ipaddress
import socket

import pytest
from salt.exceptions import CommandExecutionError

import _mta_system
import _mta_untrusted_client

V4, V6 = socket.AF_INET, socket.AF_INET6


@pytest.fixture
def routes(monkeypatch):
    """The addresses that have a local route; ``ip`` does not run."""
    present = set()

    def run(command, **_):
        _ip, _family, _route, action, _kind, address, *_ = command
        if action == "replace":
            present.add(address)
        else:
            present.remove(address)

    monkeypatch.setattr(_mta_system, "find_program", lambda name: f"/sbin/{name}")
    monkeypatch.setattr(_mta_system, "run", run)
    return present


@pytest.fixture
def borrow(tmp_path):
    return lambda family=V4: _mta_untrusted_client.foreign_address(family, str(tmp_path / "state"))


def test_an_address_is_there_while_it_is_used(routes, borrow):
    with borrow() as four, borrow(V6) as six:
        assert routes == {four, six} == {"192.0.2.25", "2001:db8::25"}
    assert routes == set()


def test_of_two_checks_at_once_the_first_that_ends_leaves_the_other_its_address(routes, borrow):
    first, second = borrow(), borrow()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert routes == {"192.0.2.25"}
    second.__exit__(None, None, None)
    assert routes == set()


def test_what_a_check_that_was_killed_has_left_goes_with_the_next_one(routes, borrow):
    routes.add("192.0.2.25")
    with borrow():
        pass
    assert routes == set()


def test_an_error_in_between_leaves_no_address(routes, borrow):
    with pytest.raises(ZeroDivisionError), borrow():
        raise ZeroDivisionError
    assert routes == set()


def test_without_the_program_it_cannot_be_had(borrow, monkeypatch):
    monkeypatch.setattr(_mta_system, "find_program", lambda name: None)
    with pytest.raises(CommandExecutionError, match=r"no program ip \(package iproute2\)"), borrow():
        pass


def test_without_the_right_it_cannot_be_had(routes, borrow, monkeypatch):
    def refuse(*_, **__):
        raise CommandExecutionError("Operation not permitted")

    monkeypatch.setattr(_mta_system, "run", refuse)
    with pytest.raises(CommandExecutionError, match="not permitted"), borrow():
        pass


def test_the_addresses_are_nobody_s():
    for address in _mta_untrusted_client.ADDRESSES.values():
        assert not ipaddress.ip_address(address).is_global
