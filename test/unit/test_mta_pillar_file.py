"""What is secret, or refused, is left out of a pillar file and named in its comments, and all else is in it."""

import pytest
import yaml

import _mta_pillar_file


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("ldap_bind_pw", "x", True),
        ("ldap_bind_pw", "", False),
        ("relay_password", None, False),
        ("smtp_sasl_password_maps", "hash:/etc/postfix/x", False),
        ("smtp_sasl_password_maps", "static:user:x", True),
        ("relayhost", "mail.example.com", False),
        ("any", "https://user:x@example.com/", True),
        ("any", ["a", "--password=x"], True),
        ("any", "--password=$1", False),
        ("any", "api_key: x", True),
        # Redmine's documented alias, and its kind.
        ("any", '"|/srv/redmine/extra/mail_handler/rdm-mailhandler.rb --url https://x.example --key bMGz8"', True),
        ("any", "argv=/x --url https://x.example --api-key=abc", True),
        ("any", "|/usr/bin/x --password geheim", True),
        ("any", "|/usr/bin/x -passphrase 'geheim'", True),
        ("any", "|/usr/bin/x --key /etc/ssl/private/x.pem", False),
        ("any", "|/usr/bin/x --key ${recipient} --token-file /x", False),
        ("any", "|curl -s -u user:pw https://x.example/mail", True),
        ("any", "|curl --user user:pw --data-binary @- https://x.example/mail", True),
        ("any", "|curl -u $1 --data-binary @- https://x.example/mail", False),
        ("any", "flags=R user=vmail:vmail argv=/x -u alice -f ${sender}", False),
        ("any", "|curl -H 'Authorization: Bearer x1y2z3' https://x.example", True),
        ("any", "|curl -d @- https://hooks.slack.com/services/T00000000/B00000000/XXXX", True),
        ("any", "|/x https://discord.com/api/webhooks/1234/abcd", True),
        ("any", "|/x https://chat.example.com/hooks/xyz", True),
        ("any", "|/x https://api.telegram.org/bot1234:abc/sendMessage", True),
        ("any", "|/x https://x.example/in?sig=abc", True),
        ("any", "|/x https://x.example/3f9c2a7be01d44c8a5d9/in", True),
        ("any", "|/x https://www.example.com/mail/incoming-messages-of-all-users", False),
        ("any", ["permit_mynetworks", "reject_rbl_client 3x4mpl3k3yabcdefghijk2.zen.dq.spamhaus.net"], True),
        (
            "postscreen_dnsbl_sites",
            "zen.spamhaus.org*3, 0123456789abcdef0123.combined.mail.abusix.zone",
            True,
        ),
        ("any", "reject_rbl_client zen.spamhaus.org", False),
        ("any", "reject_rbl_client b.barracudacentral.org, mail7.backup2.example1.com", False),
        ("relayhost", "[email-smtp.eu-west-1.amazonaws.com]:587", False),
        ("mynetworks", "127.0.0.0/8 2001:db8:1234:5678:9abc:def0:1234:5678 10.1.2.3", False),
        ("smtpd_banner", "$myhostname ESMTP $mail_name (Debian/GNU)", False),
        ("any", "/etc/letsencrypt/live/mail01.example.com/fullchain.pem", False),
    ],
)
def test_a_secret_is_recognised_by_its_name_or_by_itself(name, value, secret):
    assert _mta_pillar_file.is_secret(name, value) is secret


def test_of_a_service_only_what_is_secret_is_left_out():
    notes = {}
    services = {
        "a/unix": {"command": "pipe", "arguments": "argv=/x --password=y"},
        "b/unix": {"overrides": {"x_pw": "y", "z": "1"}},
        "c/unix": None,
    }
    kept = _mta_pillar_file.services_without_secrets(services, notes)
    assert kept == {"a/unix": {"command": "pipe"}, "b/unix": {"overrides": {"z": "1"}}, "c/unix": None}
    assert list(notes) == ["services:a/unix:arguments", "services:b/unix:overrides:x_pw"]
    assert "arguments" in services["a/unix"]


def test_what_is_asked_for_comes_in_and_the_comments_say_how():
    notes = {}
    parameters = {"a": "--password=x", "b": "--password=y", "c": "1"}
    assert _mta_pillar_file.without_secrets("parameters", parameters, notes, ["parameters:a"]) == {
        "a": "--password=x",
        "c": "1",
    }
    assert _mta_pillar_file.without_secrets("parameters", parameters, {}, ["a", "b"]) == parameters
    services = {"a/unix": {"arguments": "--password=x", "overrides": {"z_pw": "y"}}}
    for names in (["a/unix", "z_pw"], ["services:a/unix:arguments", "services:a/unix:overrides:z_pw"]):
        assert _mta_pillar_file.services_without_secrets(services, {}, names) == services
    assert "bin/export --include NAME" in _mta_pillar_file.text_of({}, notes)


def test_what_the_validation_refuses_is_left_out_with_its_whole_reason():
    def problems(key, hostname, pillar):
        found = [f"{key}:services:a/unix:arguments: is wrong"] if "a/unix" in pillar["services"] else []
        found += [f"{key}:parameters:b: not known"] if "b" in pillar["parameters"] else []
        return [*found, f"{key}:verify: odd"]

    settings = {
        "parameters": {"b": 1, "c": 2, "d" * 61: 3, "e\x01": 4},
        "services": {"a/unix": {}, "b/unix": {}},
        "aliases": {},
    }
    notes = {}
    _mta_pillar_file.leave_out_refused(settings, notes, problems)
    assert settings == {"parameters": {"c": 2}, "services": {"b/unix": {}}, "aliases": {}}
    text = _mta_pillar_file.text_of(settings, notes)
    assert [line[4:] for line in text.splitlines() if line.startswith("#   ")] == [
        "parameters:b: not known",
        f"parameters:{'d' * 61}: it is no text that pillar can hold",
        "'parameters:e\\x01': it is no text that pillar can hold",
        "services:a/unix: arguments: is wrong",
        "refused: verify: odd: mend this before this pillar is applied",
    ]
    assert yaml.safe_load(text) == {"postfix_mta": {"parameters": {"c": 2}, "services": {"b/unix": {}}}}


def test_no_note_gets_out_of_its_comment():
    text = _mta_pillar_file.text_of({}, {"a\nevil: true": "b\nworse: true"})
    assert yaml.safe_load(text) == {"postfix_mta": {}}
