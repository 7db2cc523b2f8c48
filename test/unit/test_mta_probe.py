"""The states of mta_probe, and what its functions hand over."""

import types

import pytest
import salt.loader
from fake_smtp import HOST
from salt.exceptions import CommandExecutionError

from _mta_run import Run


@pytest.fixture
def server(smtp_server):
    return smtp_server


@pytest.fixture
def answers(opts, modules, context, pretend, listener):
    """Run the state; ``announced`` says whether earlier states would change something."""
    pretend("_mta_postfix_view.listeners", lambda: [listener])
    outlook = {"changes": False, "activate": {}, "undone": None}
    pretend("_mta_transaction.outlook", lambda _services: outlook)

    def run(test=False, announced=False, undone=None, **arguments):
        outlook.update(changes=announced, undone=undone)
        states = salt.loader.states({**opts, "test": test}, modules, {}, None, context=context)
        return states["mta_probe.answers"](HOST, timeout=5, **arguments)

    return run


def test_the_state_shows_the_conversation_and_changes_nothing(answers, certificates):
    for test in (False, True):
        ret = answers(test=test, ca_file=certificates["good"], capabilities=["PIPELINING"])
        assert (ret["result"], ret["changes"]) == (True, {})
        assert f"S: 220 {HOST} ESMTP Postfix" in ret["comment"]


def test_the_state_fails_when_the_server_is_broken(answers, server):
    server.replies["STARTTLS"] = b"454 4.7.0 TLS not available\r\n"
    assert answers()["result"] is False
    assert "STARTTLS: 454 4.7.0" in answers()["comment"]
    assert answers(test=True)["result"] is False
    assert answers(test=True, announced=True)["result"] is None


def test_a_server_that_was_put_back_is_not_asked_for_what_is_not_in_force(answers, server):
    server.replies["STARTTLS"] = b"454 4.7.0 TLS not available\r\n"
    ret = answers(undone="This apply was undone: a reason")
    assert (ret["result"], server.seen) == (True, [])
    assert "this apply was undone" in ret["comment"]


def test_the_state_does_not_say_that_a_server_with_an_old_fault_answers_as_described(answers, server, context):
    server.banner = b"220 ESMTP\r\n"
    Run.of(types.SimpleNamespace(context=context)).known = [answers()["comment"].splitlines()[1]]
    ret = answers()
    assert ret["result"] is True
    assert ret["comment"].startswith("The server answers as it did before this apply, which is not as described:")


def test_in_test_mode_a_server_that_is_not_there_yet_is_no_failure(answers, server):
    server.stop()
    assert answers(test=True)["result"] is None
    assert answers()["result"] is False


def test_a_configuration_that_cannot_be_read_is_reported(answers, pretend):
    def unreadable():
        raise CommandExecutionError("There is no main.cf")

    pretend("_mta_postfix_view.listeners", unreadable)
    ret = answers()
    assert (ret["result"], "There is no main.cf" in ret["comment"]) == (False, True)
    assert answers(test=True)["result"] is None


def test_the_state_fails_with_every_finding_and_accepts_what_it_is_told_to(opts, modules, context, pretend):
    finding = {
        "name": "disable_vrfy_command",
        "severity": "low",
        "reason": "VRFY tells",
        "pillar": "parameters: {}",
    }
    pretend("_mta_audit.audit", lambda timeout: {"findings": [finding], "notes": ["a note"]})
    state = salt.loader.states(opts, modules, {}, None, context=context)["mta_probe.audited"]
    passed = state("audit")
    assert passed["result"] is True
    assert "disable_vrfy_command: VRFY tells. parameters: {}" in passed["comment"]
    failed = state("audit", severity="low")
    assert (failed["result"], failed["changes"]) == (False, {})
    assert "a note" in failed["comment"]
    assert state("audit", severity="low", accepted=["disable_vrfy_command"])["result"] is True
    assert "severity is one of" in state("audit", severity="worst")["comment"]
