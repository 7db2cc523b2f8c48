"""The execution and state modules postconf, as Salt loads them."""

import pytest
from conftest import MAIN
from salt.exceptions import CommandExecutionError

import _mta_apply


def test_the_state_reports_what_would_change_and_changes_nothing(configuration, opts, request):
    opts["test"] = True
    states = request.getfixturevalue("states")
    result = states["postconf.managed"](configuration.path, parameters={"biff": True}, transaction="mail")
    assert result["result"] is None, result["comment"]
    assert result["changes"] == {"biff": {"old": "no", "new": "yes"}, "activation": "reload"}
    assert configuration.main() == MAIN


def test_the_state_is_content_with_what_is_right(configuration, states):
    result = states["postconf.managed"](configuration.path, parameters={"biff": False}, transaction="mail")
    assert (result["result"], result["changes"]) == (True, {})


def test_set_and_reset_raise_when_the_server_does_not_work_with_it(minion, pretend):
    outcomes = [
        {"result": True, "changes": {"biff": {"old": "no", "new": "yes"}}, "comment": ""},
        {"result": False, "changes": {}, "comment": "refused"},
    ]
    seen = []

    def member(name, module, args, **_):
        seen.append(args["parameters"])
        return outcomes[len(seen) - 1]

    pretend("_mta_apply.participate", member)
    assert _mta_apply.set_(minion, {"biff": True}, None, "/etc/postfix") == outcomes[0]["changes"]
    with pytest.raises(CommandExecutionError, match="refused"):
        _mta_apply.reset(minion, ["biff", "relayhost"], "/etc/postfix")
    assert seen == [{"biff": True}, {"biff": None, "relayhost": None}]
