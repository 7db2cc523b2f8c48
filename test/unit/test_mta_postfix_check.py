"""Whether Postfix will work with new settings: what it says, and what breaks mail without a word."""

import socket

import pytest
from conftest import MAIN, MASTER
from salt.exceptions import CommandExecutionError

import _mta_postfix_check
import _mta_postfix_view
from _mta_run import Run


def test_a_complaint_that_the_change_brings_is_an_error_and_an_old_one_a_note(configuration, commands, written):
    configuration.write(f"{MAIN}old = COMPLAIN bad old\n")
    plan = configuration.plan(parameters={"new": "COMPLAIN bad new"})
    assert plan.errors == ["new = COMPLAIN bad new"]
    assert plan.notes == ["Not because of this change: old = COMPLAIN bad old"]
    with pytest.raises(CommandExecutionError, match="bad new"):
        configuration.apply(parameters={"new": "COMPLAIN bad new"})


@pytest.mark.parametrize(
    ("change", "asked"),
    [
        ({"parameters": {"message_size_limit": "1"}}, False),
        ({"parameters": {"mail_owner": "nobody"}}, True),
        ({"parameters": {"maillog_file": "/var/log/postfix"}}, True),
        ({"parameters": {"multi_instance_enable": "yes"}}, True),
        ({"parameters": {"mail_owner": "nobody", "queue_directory": "/"}}, False),
        ({"services": {"postlog/unix-dgram": None}}, True),
    ],
)
def test_postfix_check_is_asked_where_it_could_have_something_new_to_say(
    configuration, commands, pretend, change, asked
):
    found = []
    pretend("_mta_postfix_stage.complaints", lambda *_, thorough: found.append(thorough) or [])
    configuration.plan(**change)
    assert found[0] is asked


# -- what master(8) would die of, or mail would wait for for ever ------------------------------


def refusals(configuration, parameters=None, services=None):
    """What the plan refuses."""
    return "\n".join(configuration.plan(parameters=parameters, services=services).errors)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"default_process_limit": "many"}, "default_process_limit"),
        ({"content_filter": "amavis:[127.0.0.1]:10024"}, "content_filter: master.cf has no service amavis/unix"),
        ({"default_transport": "relay"}, ""),
        ({"local_transport": ""}, ""),
        ({"queue_directory": "/nowhere"}, "there is no directory /nowhere"),
        ({"inet_interfaces": "198.51.100.7"}, "198.51.100.7 port smtp: Cannot assign requested address"),
        ({"smtpd_tls_cert_file": "/nowhere.pem"}, "/nowhere.pem is not there"),
        ({"smtpd_tls_cert_file": "$config_directory/no.pem"}, "/no.pem is not there"),
    ],
)
def test_what_breaks_mail_without_a_word_is_refused_before_the_switch(configuration, commands, parameters, words):
    found = refusals(configuration, parameters)
    assert words in found
    assert bool(found) == bool(words)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"virtual_alias_maps": "btree:$data_directory/no"}, "/no.db is not there"),
        ({"address_verify_map": "btree:$data_directory/no"}, ""),
        ({"postscreen_cache_map": "proxy:btree:/nowhere/cache"}, ""),
        ({"smtpd_tls_session_cache_database": "btree:${data_directory}/no"}, ""),
    ],
)
def test_a_table_is_there_unless_postfix_makes_it_itself(configuration, commands, monkeypatch, parameters, words):
    run = _mta_postfix_view.run

    def with_types(*argv):
        return run(*argv)._replace(output=b"btree\nhash\n") if argv == ("postconf", "-m") else run(*argv)

    monkeypatch.setattr("_mta_postfix_view.run", with_types)
    found = refusals(configuration, parameters)
    assert words in found
    assert bool(found) == bool(words)


def test_a_port_that_is_taken_cannot_be_bound_and_one_that_is_free_can():
    why_not_bound = _mta_postfix_check.why_not_bound
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert why_not_bound("127.0.0.1", port, may_be_in_use=False) == "Address already in use"
        assert why_not_bound("127.0.0.1", port, may_be_in_use=True) is None
    assert why_not_bound("127.0.0.1", port, may_be_in_use=False) is None
    assert why_not_bound("127.0.0.1", "nosuchport", may_be_in_use=False)


def test_a_port_is_free_for_the_postfix_that_has_it_by_another_name(configuration, commands, monkeypatch):
    tried = {}
    monkeypatch.setattr("_mta_postfix_check.why_not_bound", lambda host, port, ours: tried.update({port: ours}))
    configuration.write(master=f"{MASTER}465 inet n - y - - smtpd\n")
    assert refusals(configuration, services={"submissions/inet": {"command": "smtpd"}}) == ""
    assert tried["submissions"] is True
    assert refusals(configuration, services={"submission/inet": {"command": "smtpd"}}) == ""
    assert tried["submission"] is False


def test_the_last_listener_is_not_taken_away(configuration, commands):
    assert "smtp/inet: no SMTP listener would be left" in refusals(configuration, services={"smtp/inet": None})
    assert refusals(configuration, services={"relay/unix": None}) == ""


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        (
            {"postscreen_dnsbl_sites": "bl.example"},
            "postscreen_dnsbl_sites: master.cf has no service dnsblog/unix",
        ),
        (
            {"postscreen_pipelining_enable": "yes", "smtpd_tls_security_level": "may"},
            "postscreen_pipelining_enable: master.cf has no service tlsproxy/unix",
        ),
        ({"postscreen_pipelining_enable": "yes", "smtpd_tls_security_level": "none"}, ""),
    ],
)
def test_what_postscreen_asks_has_to_be_there(configuration, commands, parameters, words):
    found = refusals(configuration, parameters, {"smtp/inet": {"command": "postscreen"}})
    assert [line for line in found.splitlines() if "no service" in line] == (
        [f"{words}, which smtp/inet asks"] if words else []
    )


def test_what_is_missing_is_a_note_while_earlier_states_still_announce_changes(
    configuration, commands, written, minion
):
    Run.of(minion).changes["mta_cert"] = {"certificate": {"old": None, "new": "a new one"}}
    plan = configuration.plan(parameters={"smtpd_tls_cert_file": "/nowhere.pem"})
    assert plan.errors == []
    assert "smtpd_tls_cert_file: /nowhere.pem is not there" in plan.notes
    with pytest.raises(CommandExecutionError, match=r"/nowhere\.pem is not there"):
        configuration.apply(parameters={"smtpd_tls_cert_file": "/nowhere.pem"})


@pytest.mark.parametrize(
    ("main", "master", "idle"),
    [
        ("", "", True),
        ("virtual_transport = virtual\nvirtual_alias_maps = hash:/etc/postfix/virtual\n", "", True),
        ("virtual_mailbox_domains = example.org\n", "", False),
        ("virtual_mailbox_maps = hash:/etc/postfix/mailboxes\n", "", False),
        ("mailbox_transport = virtual\n", "", False),
        ("fallback_transport = virtual:\n", "", False),
        ("transport_maps = inline:{example.org=virtual:}\n", "", False),
        ("transport_maps = static:virtual:\n", "", False),
        ("transport_maps = hash:/nowhere/virtual\n", "", True),
        ("transport_maps = hash:$config_directory/transport\n", "", False),
        ("transport_maps = regexp:$config_directory/rules\n", "", False),
        ("", "smtp inet n - y - - smtpd -o content_filter=virtual:x\n", False),
    ],
)
def test_virtual_has_nothing_to_do_where_no_mail_goes_to_it(tmp_path, main, master, idle):
    (tmp_path / "transport").write_text("example.org virtual:\n")
    (tmp_path / "rules").write_text("/^list-/ virtual:\n")
    files = _mta_postfix_view.Files(main, f"virtual unix - n n - - virtual\nlocal unix - n n - - local\n{master}")
    assert _mta_postfix_check._is_idle("virtual/unix", files, str(tmp_path)) is idle
    assert not _mta_postfix_check._is_idle("local/unix", files, str(tmp_path))


FILTER = {"smtpd_proxy_filter": "127.0.0.1:10024"}
SMTPD = {"command": "smtpd", "overrides": {}}


@pytest.mark.parametrize(
    ("parameters", "services", "alone"),
    [
        (FILTER, {}, True),
        ({}, {"smtp/inet": {**SMTPD, "overrides": FILTER}}, True),
        ({}, {"smtp/inet": {**SMTPD, "overrides": FILTER}, "127.0.0.1:10025/inet": SMTPD}, False),
        (FILTER, {"127.0.0.1:10025/inet": SMTPD}, False),
        ({}, {"127.0.0.1:10025/inet": {**SMTPD, "overrides": {"smtpd_proxy_filter": ""}}}, True),
        ({}, {"amavis/unix": {"command": "lmtp", "overrides": {}}}, False),
    ],
)
def test_a_filter_that_hands_mail_back_to_a_new_listener_is_for_the_live_conversation(parameters, services, alone):
    files = _mta_postfix_view.Files(MAIN, MASTER)
    proposal = _mta_postfix_check.Proposal("/etc/postfix", files, files, False, parameters, services, {})
    assert _mta_postfix_check._understood_by_others(proposal) is alone
