"""What is wrong after a change, against what was wrong before it."""

import pytest

import _mta_verdict

HERE = "127.0.0.1:25"
LOOKUP = f"{HERE} RCPT TO:<postmaster@mail.example.com>: 451 4.3.0 Temporary lookup failure"
BANNER = f"{HERE} banner: 220 ESMTP (expected the host name mail.example.com)"
SILENT = f"{HERE} banner: no answer in time"
LOGIN = f"{HERE} AUTH PLAIN of an unknown user: 454 4.7.0 Temporary authentication failure"


def compared(before, now, changed=()):
    return _mta_verdict.compared(before, now, lambda text: any(word in text for word in changed))


def test_what_was_so_before_is_no_problem():
    assert compared([LOOKUP], [LOOKUP]) == ([], [LOOKUP], [])


def test_what_is_new_is_one():
    assert compared([], [LOOKUP]).problems == [LOOKUP]
    assert compared([LOGIN], [LOOKUP]).problems == [LOOKUP]


def test_without_a_server_before_everything_counts():
    assert compared(None, [LOOKUP, BANNER]).problems == [LOOKUP, BANNER]


def test_a_random_recipient_is_the_same_one():
    texts = [f"{HERE} RCPT TO:<probe-{word}@mail.example.com>: 451 4.3.0 no" for word in ("0a1b", "2c3d")]
    assert compared(texts[:1], texts[1:]).earlier == texts[1:]


def test_what_nobody_could_see_before_is_told_and_is_no_reason():
    assert compared([SILENT], [LOOKUP]) == ([], [], [LOOKUP])


def test_what_nobody_could_see_before_is_a_reason_where_it_names_what_has_changed():
    text = f"{LOOKUP} virtual_alias_maps"
    assert compared([SILENT], [text], ["virtual_alias_maps"]).problems == [text]


def test_a_conversation_that_ended_for_a_client_hides_what_an_untrusted_one_sees_but_no_open_relay():
    stranger = f"{HERE} as an untrusted client RCPT TO:<x@example.net>: 250 2.1.5 Ok"
    assert compared([SILENT], [stranger]).unseen == [stranger]
    relay = f"{stranger} (an open relay)"
    assert compared([SILENT], [relay]).problems == [relay]


@pytest.mark.parametrize("odd", [BANNER, f"{HERE} EHLO: AUTH offers SCRAM-SHA-1, which mech_list does not have"])
def test_an_odd_banner_or_offer_hides_nothing(odd):
    assert compared([odd], [odd, LOOKUP]) == ([LOOKUP], [odd], [])


def test_silence_is_another_fault_than_an_odd_banner():
    assert compared([BANNER], [SILENT]).problems == [SILENT]


def test_an_untrusted_client_is_another_conversation():
    stranger = LOOKUP.replace(" RCPT", " as an untrusted client RCPT")
    assert compared([LOOKUP], [stranger]).problems == [stranger]


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("451 4.3.0 Temporary lookup failure", "550 5.1.1 User unknown"),
        ("4.4.1 connect to mx: Connection refused", "5.4.4 Host or domain name not found"),
    ],
)
def test_a_step_that_failed_for_now_and_fails_for_good_is_a_problem(before, now):
    where = f"{HERE} RCPT TO:<alice@mail.example.com>: "
    assert compared([where + before], [where + now]).problems == [where + now]
    assert compared([where + now], [where + before]) == ([], [], [where + before])


def test_a_step_that_fails_for_a_reason_that_this_apply_has_brought_is_a_problem():
    before, now = (
        f"delivery to alice@mail.example.com: 4.4.1 connect to mail.example.com[private/{name}]: No such file"
        for name in ("lmtp", "dovecot")
    )
    assert compared([before], [now]).unseen == [now]
    assert compared([before], [now], ["private/dovecot"]).problems == [now]


def test_the_same_reason_may_have_another_queue_id_and_other_seconds():
    before, now = (
        f"delivery to elsewhere: 4.4.2 mx said after {seconds} s: lost <probe-{id_}@probe.invalid>, {id_}"
        for seconds, id_ in ((3, "1CFD15ACD63"), (4.5, "31FBF5ACD61"))
    )
    assert compared([before], [now], ["elsewhere"]).earlier == [now]


@pytest.mark.parametrize(
    ("problems", "expected"),
    [
        ([], True),
        ([BANNER, LOOKUP, LOGIN], True),
        ([SILENT], False),
        ([f"{HERE} STARTTLS: 454 4.7.0 TLS not available"], False),
        (["master.cf has no SMTP listener"], False),
    ],
)
def test_a_server_that_greets(problems, expected):
    assert _mta_verdict.greets(problems) is expected
