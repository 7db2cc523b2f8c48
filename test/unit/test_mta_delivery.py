"""What Postfix's log says of the messages that nobody gets."""

import os
import pwd
import re

import pytest
from salt.exceptions import CommandExecutionError

import _mta_delivery
import _mta_mail_log
import _mta_milter
import _mta_system
import _mta_verdict

HOST = "mail.example.com"
POSTMASTER = f"postmaster@{HOST}"
NOT_FOUND = "Host or domain name not found. Name service error for name=probe.invalid type=AAAA: Host not found"


class World:
    """
    A host whose log the test writes; ``{token}`` is the first message's recipient, ``{real}`` the second's.

    nobody: the recipient that a filter is tried with. code: of sendmail(1). tables: what postmap(1) finds.
    queue: what is in it, by path, with the same words. earlier: what was in the log before.
    """

    def __init__(self):
        self.log, self.commands, self.code, self.tables, self.queue = [], [], 0, b"", {}
        self.earlier = []

    def line(self, to="{token}", relay="none", code="5.4.4", status="undeliverable", reason=NOT_FOUND, asked=None):
        was = f" orig_to=<{asked}>," if asked else ""
        self.log.append(f"AB12: to=<{to}>,{was} relay={relay}, delay=0, dsn={code}, status={status} ({reason})")

    def run(self, argv, **_):
        self.commands.append(argv[0].rpartition("/")[2])
        if self.commands[-1] == "postmap":
            return _mta_system.Finished(0, self.tables, b"")
        return _mta_system.Finished(self.code, b"", b"it said so")


@pytest.fixture
def world(monkeypatch):
    world = World()
    monkeypatch.setattr(_mta_system, "run", world.run)
    monkeypatch.setattr(_mta_delivery, "SECONDS", 0.2)
    return world


@pytest.fixture
def trial(world, monkeypatch, tmp_path):
    """``trial(main)``: begun, sent and finished; what was found, and whether the real message was sent."""

    def look(main=(), aliases=(), recipients=(POSTMASTER,), reply="250 2.0.0 Ok: queued as CD34"):
        one = _mta_delivery.Trial(HOST, {"queue_directory": str(tmp_path), **dict(main)}, recipients)

        for name, text in world.queue.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text.format(token=one.elsewhere))

        def lines(*_):
            log = world.earlier if not world.commands else [*world.earlier, *world.log]
            return [line.format(token=one.elsewhere, real=one.real, nobody=one.nobody) for line in log]

        monkeypatch.setattr(_mta_mail_log, "lines", lines)
        sent = one.begin()
        one.reply = reply if sent else one.reply
        return one.finish(aliases), sent

    return look


@pytest.fixture
def healthy(world):
    """All is well so far."""
    world.line()
    world.line("alice@" + HOST, "local", "2.0.0", "deliverable", "delivers to maildir", POSTMASTER)
    world.log.append("AB12: removed")
    world.log.append(f"CD34: to=<{{real}}>, relay=none, delay=0, dsn=5.4.4, status=bounced ({NOT_FOUND})")
    world.log.append("CD34: removed")
    return world


def test_a_server_that_delivers(healthy, trial):
    found, sent = trial()
    assert sent
    assert (found.problems, found.doubts, found.notes) == ([], [], [])
    # One for each recipient: the postmaster, and nobody.
    assert healthy.commands == ["sendmail"] * 2


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (("local", "4.2.0", "undeliverable", "cannot create mailbox"), "cannot create mailbox"),
        (("none", "4.4.1", "undeliverable", f"connect to {HOST}[private/x]: No such file"), "private/x"),
        (("none", "4.3.2", "undeliverable", "deferred transport"), "deferred transport"),
        (("none", "2.0.0", "deliverable", HOST), "verify: {intended: [discarded]}"),
        (("local", "2.0.0", "deliverable", "delivers to command: /nope/x -d"), "no program /nope/x"),
    ],
)
def test_a_recipient_that_gets_nothing_is_a_problem(world, trial, outcome, words):
    world.line()
    world.line(POSTMASTER, *outcome)
    assert words in "\n".join(trial()[0].problems)


@pytest.mark.parametrize(
    "outcome",
    [
        ("none", "5.1.1", "undeliverable", "User unknown in virtual alias table"),
        ("smarthost[192.0.2.1]:25", "5.7.1", "undeliverable", "host smarthost[192.0.2.1] said: 550 no"),
        ("none", "4.4.1", "undeliverable", "connect to mx.example.net[192.0.2.1]:25: Connection refused"),
    ],
)
def test_what_may_be_meant_or_somebody_elses_matter_is_a_doubt(world, trial, outcome):
    world.line()
    world.line(POSTMASTER, *outcome)
    found = trial()[0]
    assert found.problems == []
    assert outcome[-1] in found.doubts[0]


def test_an_alias_of_this_apply_that_nobody_knows_is_a_problem(healthy, trial):
    healthy.line(f"press@{HOST}", "local", "5.1.1", "undeliverable", 'unknown user: "press"', "press")
    healthy.line("sales", "local", "5.1.1", "undeliverable", 'unknown user: "sales"')
    found = trial(recipients=[POSTMASTER, "sales"])[0]
    assert (found.problems, found.doubts, len(found.notes)) == ([], [], 1)
    found = trial(aliases=["press"], recipients=[POSTMASTER, "press"])[0]
    assert "see alias_maps" in found.problems[0]


@pytest.mark.parametrize(("action", "word"), [("hold", "held"), ("discard", "discarded"), ("reject", "refused")])
def test_a_rule_that_every_message_meets_is_a_problem_with_the_line_that_allows_it(world, trial, action, word):
    world.log.append(f"AB12: {action}: header Subject: probe from local; from=<> to=<{{token}}>")
    found, sent = trial()
    assert not sent
    assert re.match(rf"delivery to any message: {action}: header Subject.*intended: \[{word}\]", found.problems[0])


def test_what_is_still_in_the_queue_is_taken_out(world, trial):
    world.log += [
        f"AA11: uid={os.getuid()} from=<>",
        f"AA11: hold: header Subject: probe from local; from=<> to=<{POSTMASTER}>",
        "AB12: hold: header Subject: probe from local; from=<> to=<{token}>",
        f"BB22: uid={os.getuid()} from=<>",
    ]
    world.queue = {"hold/AA11": "{token}", "hold/A/AB12": "{token}", "hold/BB22": "somebody else's"}
    trial()
    assert world.commands == ["sendmail", "sendmail", "postsuper", "postsuper"]


@pytest.mark.parametrize("again", [False, True])
def test_what_an_earlier_look_was_told_is_no_answer(healthy, trial, again):
    """The agents are asked for the same recipients; its queue ids are others."""
    told = [
        f"{{id}}: uid={os.getuid()} from=<>",
        f"{{id}}: to=<{POSTMASTER}>, relay=local, delay=0, dsn=2.0.0, status=deliverable (delivers to maildir)",
        "{id}: removed",
    ]
    healthy.log.pop(1)
    healthy.earlier = [line.format(id="AA11") for line in told]
    healthy.log += [line.format(id="CC33") for line in told] if again else []
    unseen = [] if again else [f"delivery to {POSTMASTER}: the queue has not done anything within 0.2 s"]
    assert trial()[0].doubts == unseen


def test_what_pickup_has_not_taken_is_taken_out(world, trial, tmp_path):
    # cleanup(8) has not taken it from pickup(8), who will come again.
    world.log.append(f"AB12: uid={os.getuid()} from=<>")
    world.queue = {"maildrop/1": "{token}", "maildrop/2": "somebody else's"}
    trial()
    assert [path.name for path in tmp_path.glob("maildrop/*")] == ["2"]


def test_a_message_that_is_held_is_not_waited_for_the_others_are(world, trial):
    """Each is a message of its own: what is held later than the first would stay in the queue."""
    world.log.append(f"AA11: uid={os.getuid()} from=<>")
    world.log.append(f"AA11: hold: header Subject: probe from local; from=<> to=<{POSTMASTER}>")
    one = _mta_delivery.Trial(HOST, {}, [POSTMASTER])
    assert not one._complete(world.log)
    assert one._complete([*world.log, f"AB12: hold: header Subject: probe; from=<> to=<{one.elsewhere}>"])


def test_a_daemon_that_dies_is_named(world, trial):
    world.line()
    world.log.append("fatal: configuration error: mailbox_size_limit is smaller than message_size_limit")
    assert "mailbox_size_limit is smaller" in trial()[0].problems[0]


def test_whoever_waits_for_a_daemon_that_dies_the_fault_is_the_same(world, trial):
    world.log.append("fatal: configuration error: virtual_mailbox_limit is smaller than message_size_limit")
    before = trial(recipients=(POSTMASTER, "info@example.info"))[0].problems
    world.line()
    now = trial(recipients=("info@example.info",))[0].problems
    assert before != now and len(before) == len(now) == 1
    assert _mta_verdict.compared(before, now, lambda _: False).earlier == now


def test_a_message_that_a_filter_has_not_brought_back_is_a_doubt(healthy, trial):
    healthy.log[3] = (
        "CD34: to=<{real}>, relay=127.0.0.1[127.0.0.1]:10024, delay=0, dsn=2.0.0, status=sent (250 ok)"
    )
    assert "not seen again: 250 ok" in trial()[0].doubts[0]


@pytest.mark.parametrize(
    ("main", "sent"),
    [({}, True), ({"always_bcc": "archive@example.com"}, False), ({"notify_classes": "2bounce, resource"}, False)],
)
def test_no_message_is_sent_that_would_leave_something(healthy, trial, main, sent):
    assert trial(main)[1] is sent


def test_with_soft_bounces_the_message_is_taken_out_without_a_wait(healthy, trial):
    healthy.log[3:] = [f"CD34: to=<{{real}}>, relay=none, delay=0, dsn=4.4.4, status=SOFTBOUNCE ({NOT_FOUND})"]
    healthy.queue = {"deferred/C/CD34": "{token}"}
    found, sent = trial()
    assert (sent, found.problems, found.doubts) == (True, [], [])
    assert healthy.commands == ["sendmail", "sendmail", "postsuper"]


def test_a_server_that_looks_up_names_without_the_dns_delivers(healthy, trial):
    healthy.log = [
        line.replace(NOT_FOUND, "unable to look up host probe.invalid: not known") for line in healthy.log
    ]
    found, sent = trial()
    assert (sent, found.problems, found.doubts) == (True, [], [])


OLD_TLS = "!TLSv1, !TLSv1.1, !TLSv1.2, !TLSv1.3"


@pytest.mark.parametrize(
    ("main", "doubts"),
    [
        ({"smtp_dns_support_level": "disabled"}, 1),
        ({"disable_dns_lookups": "yes"}, 1),
        ({"disable_dns_lookups": "yes", "relayhost": "[192.0.2.1]"}, 0),
        ({"disable_dns_lookups": "yes", "default_transport": "error:no"}, 1),
        ({"disable_dns_lookups": "yes", "default_transport": "uucp"}, 0),
        ({"smtp_bind_address": "192.0.2.1", "smtp_bind_address_enforce": "yes"}, 1),
        ({"smtp_bind_address": "192.0.2.1"}, 0),
        ({"smtp_bind_address": "127.0.0.1"}, 1),
        ({"smtp_bind_address": "127.0.0.1", "relayhost": "[127.0.0.1]:10025"}, 0),
        ({"smtp_tls_security_level": "dane-only"}, 1),
        ({"smtp_tls_security_level": "verify", "smtp_tls_mandatory_protocols": OLD_TLS}, 2),
        ({"smtp_tls_security_level": "may", "smtp_tls_mandatory_protocols": OLD_TLS}, 0),
        ({"smtp_tls_security_level": "encrypt", "smtp_tls_mandatory_protocols": OLD_TLS}, 1),
        ({"smtp_tls_security_level": "encrypt", "smtp_tls_mandatory_protocols": "SSLv3 TLSv1"}, 1),
        ({"smtp_tls_security_level": "encrypt", "smtp_tls_mandatory_protocols": "<=TLSv1"}, 1),
        ({"smtp_tls_security_level": "encrypt", "smtp_tls_mandatory_protocols": ">=TLSv1"}, 0),
        ({"smtp_tls_security_level": "encrypt", "smtp_tls_mandatory_protocols": ">=TLSv1.3"}, 0),
        ({"smtp_tls_security_level": "encrypt", "smtp_tls_mandatory_protocols": "!SSLv2, !SSLv3"}, 0),
        ({"smtp_tls_security_level": "encrypt"}, 0),
        ({"local_destination_rate_delay": "1h", "relayhost": "mx"}, 1),
        ({"default_destination_rate_delay": "20m", "smtp_destination_rate_delay": "1d"}, 2),
        ({"default_destination_rate_delay": "10m", "slow_destination_rate_delay": "1h"}, 0),
    ],
)
def test_settings_with_which_little_mail_arrives_are_doubts(healthy, trial, main, doubts):
    assert sum("[limited]" in text for text in trial(main)[0].doubts) == doubts


def test_a_rewritten_recipient_gets_no_real_message(world, trial):
    world.line("bob@" + HOST, "local", "2.0.0", "deliverable", "delivers to maildir", "{token}")
    assert trial()[1] is False


def test_a_wrong_login_at_the_smarthost_is_a_problem_an_outage_a_doubt(world, trial):
    world.line(relay="s[192.0.2.1]:587", code="4.7.8", reason="SASL authentication failed; server s said: 535 no")
    world.line(POSTMASTER, "local", "2.0.0", "deliverable", "delivers to maildir")
    assert "535" in trial({"relayhost": "s"})[0].problems[0]
    world.log[0] = world.log[0].replace(
        "SASL authentication failed; server s said: 535 no", "connect to s: timed out"
    )
    found = trial({"relayhost": "s"})[0]
    assert (found.problems, len(found.doubts)) == ([], 1)


@pytest.mark.parametrize(
    ("domains", "asked"),
    [
        ("example.biz, Example.NET .sub.example", ["example.biz", "example.net"]),
        ("$mydestination, hash:/etc/postfix/relayed, virtual.example", []),
        ("a.example b.example c.example d.example", ["a.example", "b.example", "c.example"]),
    ],
)
def test_postmasters_of_some_relayed_domains_are_asked(domains, asked):
    main = {
        "relay_domains": domains,
        "virtual_alias_domains": "virtual.example",
        "mydestination": f"{HOST} localhost",
    }
    assert _mta_delivery.postmasters(HOST, main) == [f"postmaster@{domain}" for domain in asked]


@pytest.mark.parametrize(
    ("relay", "code", "status", "reason", "lost"),
    [
        (
            "mx.example.net[192.0.2.1]:25",
            "2.1.5",
            "deliverable",
            "delivery via mx.example.net: 250 2.1.5 Ok",
            False,
        ),
        ("mx.example.net[192.0.2.1]:25", "5.1.1", "undeliverable", "host mx.example.net said: 550 unknown", False),
        ("none", "4.4.1", "undeliverable", "connect to mx.example.net[192.0.2.1]:26: Connection refused", True),
        ("none", "5.4.6", "undeliverable", "mail for example.biz loops back to myself", True),
        ("none", "4.0.0", "undeliverable", "later", False),
    ],
)
def test_the_host_of_a_relayed_domain_is_reached_or_not(healthy, trial, relay, code, status, reason, lost):
    healthy.line("postmaster@example.biz", relay, code, status, reason)
    found, _ = trial({"relay_domains": "example.biz"})
    assert found.relayed == {"postmaster@example.biz": f"{code} {reason}" if lost else ""}
    assert (found.problems, found.doubts) == ([], [])


def test_a_relayed_domain_whose_host_says_nothing_in_time_is_not_judged(healthy, trial):
    found, _ = trial({"relay_domains": "example.biz"})
    assert (found.relayed, found.problems, found.doubts) == ({}, [], [])


@pytest.mark.parametrize(
    ("classes", "to", "doubts"),
    [
        ("envelope_sender, envelope_recipient", "postmaster@example.com", 1),
        ("envelope_sender", "postmaster@example.com", 0),
        ("envelope_sender, envelope_recipient", "alice@gmail.example", 0),
    ],
)
def test_own_recipients_whose_host_is_cut_off_are_a_doubt(world, trial, classes, to, doubts):
    world.line()
    world.line(to, "smarthost[192.0.2.1]:25", "2.1.5", "deliverable", "250 2.1.5 ok", POSTMASTER)
    main = {"masquerade_domains": "example.com", "masquerade_classes": classes, "relayhost": "[192.0.2.1]"}
    found = [text for text in trial(main)[0].doubts if "masquerade_classes" in text]
    assert len(found) == doubts


def test_without_a_log_nothing_is_proven(world, trial):
    assert "cannot be read" in trial()[0].notes[0]


@pytest.mark.parametrize(
    ("value", "expected"),
    [("inline:{ {info@example.org = alice} }", ["info@example.org"]), ("regexp:/x", []), ("", [])],
)
def test_addresses_of_tables(value, expected):
    assert _mta_delivery.samples({"virtual_alias_maps": value}) == expected


def test_what_smtpd_refuses_by_a_rule_is_for_the_conversation_to_judge(healthy, trial):
    rule = "NOQUEUE: reject: RCPT from localhost[127.0.0.1]: 554 5.7.1 <x>: Helo command rejected; to=<{real}>"
    healthy.log.append(rule)
    found = trial()[0]
    assert (found.problems, found.doubts) == ([], [])


@pytest.mark.parametrize(("action", "doubts"), [("hold", 1), ("discard", 1), ("redirect", 1), ("filter", 0)])
def test_what_smtpd_does_with_mail_of_untrusted_clients_is_a_doubt(healthy, trial, action, doubts):
    what = f"{action}: RCPT from x[192.0.2.1]: <x[192.0.2.1]>: Client host triggers {action.upper()} action"
    healthy.log += [f"NOQUEUE: {what}; from=<> to=<postmaster@{HOST}> proto=ESMTP helo=<x>"] * 2
    healthy.log.append(f"NOQUEUE: {what}; from=<a@b> to=<other@{HOST}> proto=ESMTP helo=<x>")
    found = trial()[0]
    assert (found.problems, len(found.doubts)) == ([], doubts)


@pytest.mark.parametrize(
    ("client", "action", "discarded"),
    [
        ("192.0.2.25", "discard", {("", "postmaster@example.net")}),
        ("2001:db8::25", "discard", {("", "postmaster@example.net")}),
        ("192.0.2.25", "hold", set()),
        ("127.0.0.1", "discard", set()),
    ],
)
def test_mail_of_nobody_that_is_thrown_away_is_not_relayed(healthy, trial, client, action, discarded):
    what = f"{action}: RCPT from x[{client}]: <x[{client}]>: Client host triggers {action.upper()} action"
    healthy.log.append(f"NOQUEUE: {what}; from=<> to=<postmaster@example.net> proto=ESMTP helo=<x>")
    assert trial()[0].discarded == discarded


def test_a_rule_that_sends_every_message_through_a_filter_is_no_fault_where_it_comes_back(healthy, trial):
    filtered = "CD34: filter: RCPT from x[127.0.0.1]: <>: Sender address triggers FILTER smtp:[127.0.0.1]:10024"
    healthy.log.insert(3, filtered + "; from=<> to=<{real}> proto=ESMTP helo=<x>")
    assert trial()[0].problems == []
    del healthy.log[4:]
    assert "[filtered]" in trial()[0].problems[0]


def test_what_smtpd_holds_is_held(healthy, trial):
    healthy.log.append(
        "NOQUEUE: hold: RCPT from localhost[127.0.0.1]: <{real}>: triggers HOLD action; to=<{real}>"
    )
    assert "intended: [held]" in trial()[0].problems[0]


def test_a_host_that_sends_nothing_has_to_be_intended(world, trial):
    """The profile local_only says so."""
    refused = ("error", "5.0.0", "undeliverable", "this host sends no mail to others")
    world.line("{token}", *refused)
    world.line("alice@" + HOST, "local", "2.0.0", "deliverable", "delivers to mailbox", POSTMASTER)
    world.log.append("AB12: removed")
    doubts = trial({"default_transport": "error:this host sends no mail to others"})[0].doubts
    assert [text for text in doubts if "intended: [limited]" not in text] == []
    assert len(doubts) == 1
    assert [text for text in trial()[0].doubts if "intended: [limited]" not in text]


@pytest.mark.parametrize(("main", "noted"), [((), True), ((("myorigin", "gone.example"),), False)])
def test_an_address_elsewhere_whose_domain_is_not_found_is_another_hosts_matter(healthy, trial, main, noted):
    """But not where this server has put its own domain to a name."""
    reason = "Host or domain name not found. Name service error for name=gone.example type=AAAA: Host not found"
    healthy.line("bob@gone.example", code="5.4.4", reason=reason, asked="info@example.org")
    found, _ = trial(main, recipients=(POSTMASTER, "info@example.org"))
    assert [bool(found.notes), bool(found.doubts), found.problems] == [noted, not noted, []]


def test_a_user_of_the_host_whose_mail_goes_to_nobody_is_a_doubt(healthy, trial, monkeypatch):
    healthy.line("gone@" + HOST, "local", "5.1.1", "undeliverable", 'unknown user: "gone"', "alice@" + HOST)
    assert trial(recipients=(POSTMASTER, "alice@" + HOST))[0].doubts == []
    monkeypatch.setattr(_mta_delivery, "user", lambda hostname: f"alice@{hostname}")
    assert "bounces" in trial(recipients=(POSTMASTER, "alice@" + HOST))[0].doubts[0]


def test_a_sendmail_that_takes_nothing_is_a_doubt(world, trial):
    world.code = 75
    found, sent = trial()
    assert not sent
    assert found.doubts == ["delivery to anybody by sendmail(1): it said so"]


def test_mail_for_others_that_comes_to_a_user_here_is_a_doubt(world, trial):
    world.line("bob@" + HOST, "local", "2.0.0", "deliverable", "delivers to maildir", "{token}")
    found, sent = trial()
    assert not sent
    assert "goes to bob@mail.example.com (if that is intended" in found.doubts[0]
    assert "[redirected]" in found.doubts[0]


@pytest.mark.parametrize(
    ("main", "expected"),
    [
        ({}, []),
        ({"virtual_mailbox_domains": "example.org, $mydestination"}, ["localhost", "localhost.example.com", HOST]),
        ({"mydestination": "Example.org", "virtual_mailbox_domains": "example.ORG"}, ["example.org"]),
        ({"mydestination": "example.org", "virtual_mailbox_domains": "hash:/x"}, ["example.org"]),
        ({"mydestination": "example.org", "virtual_mailbox_domains": "example.net"}, []),
    ],
)
def test_a_domain_that_is_local_and_has_virtual_users_is_a_doubt(healthy, trial, main, expected):
    healthy.tables = b"example.org\tx\n"
    found = trial(main)[0]
    assert [text.split()[2].rstrip(":") for text in found.doubts] == expected


def test_a_domain_that_is_local_and_has_virtual_aliases_keeps_its_mail(healthy, trial):
    found = trial({"virtual_alias_domains": HOST})[0]
    assert (found.problems, found.doubts) == ([], [])
    assert "virtual_alias_domains" in found.notes[0]


SMARTHOST = {"relayhost": "[smarthost.example.net]"}
FILTER = {**SMARTHOST, "content_filter": "smtp:[127.0.0.1]:10024"}


@pytest.fixture
def relaying(world):
    """A server that sends to a smarthost, and does not know the user whom nobody knows."""
    world.line(relay="smarthost.example.net[192.0.2.1]:25", code="2.0.0", status="deliverable", reason="250 Ok")
    world.line("alice@" + HOST, "local", "2.0.0", "deliverable", "delivers to maildir", POSTMASTER)
    world.line("{nobody}", "local", "5.1.1", reason='unknown user: "probe"')
    world.log.append("AB12: removed")
    return world


def test_a_filter_before_a_smarthost_gets_a_message_that_ends_at_an_unknown_user(relaying, trial):
    relaying.log += [
        "CD34: to=<{real}>, relay=127.0.0.1[127.0.0.1]:10024, delay=0, dsn=2.0.0, status=sent (250 Ok)",
        'EF56: to=<{real}>, relay=local, delay=0, dsn=5.1.1, status=bounced (unknown user: "probe")',
        "CD34: removed",
        "EF56: removed",
    ]
    found, sent = trial(FILTER)
    assert not sent
    assert relaying.commands == ["sendmail"] * 4
    assert (found.problems, found.doubts) == ([], [])


def test_a_filter_that_cannot_bring_back_what_nobody_gets_has_done_its_work(relaying, trial):
    unknown = "Recipient address rejected: User unknown in local recipient table"
    relaying.log += [
        f"NOQUEUE: reject: RCPT from localhost[127.0.0.1]: 550 5.1.1 <{{real}}>: {unknown}; to=<{{real}}>",
        "CD34: to=<{real}>, relay=127.0.0.1[127.0.0.1]:10024, delay=0, dsn=5.7.1, status=bounced (it said no)",
    ]
    found, _ = trial(FILTER)
    assert (found.problems, found.doubts) == ([], [])


def test_a_filter_before_a_smarthost_that_is_down_is_a_doubt(relaying, trial):
    reason = "connect to 127.0.0.1[127.0.0.1]:10024: Connection refused"
    relaying.log.append(f"CD34: to=<{{real}}>, relay=none, delay=0, dsn=4.4.1, status=deferred ({reason})")
    found, _ = trial(FILTER)
    assert "Connection refused" in found.doubts[0]


def test_without_a_filter_nothing_is_sent_where_mail_goes_to_a_smarthost(relaying, trial):
    assert not trial(SMARTHOST)[1]
    assert relaying.commands == ["sendmail"] * 2


@pytest.mark.parametrize(
    ("verdict", "problems", "doubts"),
    [("accepted", 0, 0), ("discarded", 1, 0), ("held", 1, 0), ("rejected", 0, 1), (None, 0, 0)],
)
def test_milters_are_asked_where_no_real_message_is_sent(relaying, trial, monkeypatch, verdict, problems, doubts):
    asked = []

    def send(name, *_):
        asked.append(name)
        if verdict is None:
            raise CommandExecutionError("it does not answer")
        return _mta_milter.Outcome(verdict)

    monkeypatch.setattr(_mta_milter, "send", send)
    milters = "inet:127.0.0.1:8891, { unix:/run/x, connect_timeout=3s }"
    found, _ = trial({**SMARTHOST, "smtpd_milters": milters})
    assert asked == ["inet:127.0.0.1:8891", "unix:/run/x"]
    assert (len(found.problems), len(found.doubts)) == (2 * problems, 2 * doubts)


@pytest.mark.parametrize(
    ("main", "doubts"),
    [
        ({"transport_maps": "static:smtp:[mx.example.net]"}, 1),
        ({"transport_maps": "hash:/x", "mailbox_transport": "lmtp:store.example.net"}, 0),
        ({"transport_maps": "hash:/x", "mydestination": ""}, 0),
        ({}, 0),
    ],
)
def test_mail_of_a_local_domain_that_leaves_by_a_table_is_a_doubt(world, trial, main, doubts):
    world.line()
    world.line(POSTMASTER, "mx.example.net[192.0.2.1]:25", "2.0.0", "deliverable", "250 Ok")
    world.log.append("AB12: removed")
    found = trial(main, reply="250 2.0.0 Ok")[0]
    assert sum("[redirected]" in text for text in found.doubts) == doubts


@pytest.mark.parametrize(
    ("command", "mailbox_command", "discarded", "fails"),
    [
        ("cat >/dev/null", "cat >/dev/null", 1, 0),
        ("/bin/true", "/bin/true", 1, 0),
        ("/bin/cat", "/bin/cat", 0, 0),
        ("cat >/dev/null", "procmail", 0, 0),
        ("exit 0", "exit 0", 1, 0),
        ("exit 75", "exit 75", 0, 1),
        ("/bin/false", "/bin/false", 0, 1),
        ("falsework", "falsework", 0, 0),
        ("/bin/false", "procmail", 0, 0),
    ],
)
def test_a_command_that_keeps_no_users_mail_is_a_problem(world, trial, command, mailbox_command, discarded, fails):
    world.line("alice@" + HOST, "local", "2.0.0", "deliverable", f"delivers to command: {command}", POSTMASTER)
    world.line()
    world.log.append("AB12: removed")
    found = trial({"mailbox_command": mailbox_command})[0]
    assert sum("[discarded]" in text for text in found.problems) == discarded
    assert sum("which fails" in text for text in found.problems) == fails


@pytest.fixture
def person(monkeypatch):
    """``person(name, home)``: the only user of the host."""

    def be(name, home):
        entry = pwd.struct_passwd((name, "x", 4000, 4000, "", str(home), "/bin/sh"))
        monkeypatch.setattr(pwd, "getpwnam", lambda asked: {name: entry}[asked])
        monkeypatch.setattr(os, "getgrouplist", lambda asked, group: [group])

    return be


@pytest.mark.parametrize(
    ("main", "problems", "doubts"),
    [
        ({"home_mailbox": "Maildir/"}, 0, 0),
        ({"home_mailbox": "", "mail_spool_directory": "/nowhere"}, 1, 0),
        ({"home_mailbox": "", "mail_spool_directory": "/nowhere/"}, 1, 0),
        ({"home_mailbox": "", "mail_spool_directory": "/proc"}, 0, 0),
        ({"home_mailbox": "", "mail_spool_directory": "/proc/"}, 0, 1),
    ],
)
def test_a_mailbox_that_cannot_be_written_is_no_delivery(healthy, trial, person, tmp_path, main, problems, doubts):
    os.chown(tmp_path, 4000, 4000)
    person("carol", tmp_path)
    healthy.log.clear()
    healthy.line()
    healthy.line(f"carol+x@{HOST}", "local", "2.0.0", "deliverable", "delivers to maildir", POSTMASTER)
    found = trial({**main, "recipient_delimiter": "+"}, reply=None)[0]
    texts = [
        [text for text in kind if "carol may" in text or "no directory" in text]
        for kind in (found.problems, found.doubts)
    ]
    assert [len(kind) for kind in texts] == [problems, doubts]


def test_mail_for_a_user_without_a_home_is_a_note(healthy, trial, person):
    person("nobody", "/nonexistent")
    healthy.line(f"nobody@{HOST}", "local", "2.0.0", "deliverable", "delivers to maildir", POSTMASTER)
    found = trial({"home_mailbox": "Maildir/"}, reply=None)[0]
    assert not [text for text in found.problems + found.doubts if "nobody may" in text]
    assert any("nobody may not write / (home_mailbox)" in text for text in found.notes)


@pytest.mark.parametrize(
    ("delays", "seconds"),
    [
        ({}, 0),
        ({"default_destination_rate_delay": "5s"}, 5),
        ({"smtp_destination_rate_delay": "1m", "local_destination_rate_delay": "2"}, 60),
        ({"default_transport_rate_delay": "5s"}, 15),
        ({"default_transport_rate_delay": "30s", "local_transport_rate_delay": "0s"}, 0),
        ({"default_destination_rate_delay": "1h"}, 0),
        ({"smtp_destination_rate_delay": "$default_destination_rate_delay"}, 0),
    ],
)
def test_a_queue_that_lets_messages_wait_is_waited_for(delays, seconds):
    assert _mta_delivery.rate_delay(delays, 3) == seconds


@pytest.mark.parametrize(("main", "doubts"), [({"smtp_destination_rate_delay": "2m"}, 0), ({}, 2)])
def test_who_waits_in_the_queue_for_a_pause_is_no_fault(world, trial, main, doubts):
    world.line()
    world.log.append("AB12: removed")
    found = trial(main)[0]
    assert (found.problems, len(found.doubts)) == ([], doubts)
    assert sum("smtp_destination_rate_delay lets mail wait" in text for text in found.notes) == 2 - doubts
