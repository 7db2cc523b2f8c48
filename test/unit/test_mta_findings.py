"""What counts as weak: each rule on what was seen of a good server with one thing changed."""

import copy

import pytest

import _mta_findings

GOOD = {
    "parameters": {
        "smtpd_forbid_bare_newline": "yes",
        "smtpd_forbid_unauth_pipelining": "yes",
        "smtpd_client_connection_count_limit": "20",
        "smtpd_client_connection_rate_limit": "60",
        "smtpd_client_message_rate_limit": "100",
        "smtpd_client_auth_rate_limit": "20",
        "smtpd_sasl_security_options": "noanonymous",
        "smtpd_sasl_auth_enable": "no",
        "smtpd_sender_login_maps": "regexp:/etc/postfix/sender_logins",
        "smtpd_sender_restrictions": "reject_sender_login_mismatch",
        "smtp_tls_loglevel": "1",
        "smtp_tls_security_level": "may",
        "message_size_limit": "52428800",
        "disable_vrfy_command": "yes",
        "smtpd_helo_required": "yes",
        "smtpd_etrn_restrictions": "reject",
        "tls_ssl_options": "NO_COMPRESSION, NO_RENEGOTIATION",
        "mynetworks": "127.0.0.0/8, [::1]/128 10.0.0.0/8, hash:/etc/postfix/networks",
    },
    "services": {
        "smtpd/pass": {"command": "smtpd", "overrides": {}},
        "submission/inet": {"command": "smtpd", "overrides": {"smtpd_sasl_auth_enable": "yes"}},
        "pickup/unix": {"command": "pickup", "overrides": {}},
    },
    "listeners": [
        {
            "label": "127.0.0.1:25",
            "port": 25,
            "reached": True,
            "starttls": True,
            "wrappermode": False,
            "banner": "220 mail.example.com ESMTP",
            "auth": [[], []],
            "reports": False,
            "relays": None,
            "taken": [],
        }
    ],
    "files": [["/etc/ssl/private/smtpd.key", 0o600, "the private key", 0o077, "no setting: chmod o= x"]],
    "certificates": {
        "/etc/ssl/certs/smtpd.crt": [
            {
                "subject": "CN=mail.example.com",
                "key": "RSA 3072",
                "signature": "sha256",
                "self_signed": False,
                "ca": False,
                "days_left": 300,
            }
        ],
        "/etc/ssl/certs/cacert.pem": [
            {
                "subject": "CN=CA",
                "key": "RSA 3072",
                "signature": "sha1",
                "self_signed": True,
                "ca": True,
                "days_left": 300,
            }
        ],
    },
    "authorities": ["/etc/ssl/certs/cacert.pem"],
    "validates": False,
    "judges": True,
}
SMTPD = "/etc/ssl/certs/smtpd.crt"


@pytest.fixture
def findings():
    def judge(*path, value=None):
        facts = copy.deepcopy(GOOD)
        if path:
            *above, last = path
            place = facts
            for key in above:
                place = place[key]
            place[last] = value
        return _mta_findings.findings(facts)

    return judge


def test_there_is_nothing_to_say_about_a_good_server(findings):
    assert findings() == []


@pytest.mark.parametrize(
    ("path", "value", "severity", "name", "pillar"),
    [
        (("listeners", 0, "auth"), [[], ["LOGIN"]], "low", "auth-at-port-25 127.0.0.1:25", "profile: hardened"),
        (("listeners", 0, "relays"), "RCPT: 250", "high", "open-relay 127.0.0.1:25", "reject_unauth_destination"),
        (("listeners", 0, "starttls"), False, "medium", "no-tls 127.0.0.1:25", "smtpd_tls_security_level: may"),
        (("listeners", 0, "taken"), ["TLS 1.0"], "medium", "tls-1.0 127.0.0.1:25", "smtpd_tls_protocols"),
        (("listeners", 0, "reports"), True, "low", "reports-for-strangers 127.0.0.1:25", "ehlo_keywords: [silent"),
        (("parameters", "smtp_tls_loglevel"), "0", "low", "smtp_tls_loglevel", ": 1}"),
        (("parameters", "smtp_tls_security_level"), "", "medium", "smtp_tls_security_level", ": may}"),
        (
            ("parameters", "smtp_tls_security_level"),
            "dane",
            "low",
            "smtp_tls_security_level",
            "validating resolver",
        ),
        (("validates",), True, "low", "smtp_tls_security_level", ": dane, smtp_dns_support_level: dnssec}"),
        (("parameters", "smtpd_milters"), "unix:signer", "low", "smtp_tls_policy_maps", "{follow_mta_sts: true}"),
        (("judges",), False, "low", "others-unjudged", "dkim: {results: true}"),
        (("parameters", "smtpd_sender_login_maps"), "", "medium", "any-sender submission/inet", "senders: own"),
        (("parameters", "smtpd_sender_restrictions"), "", "medium", "any-sender submission/inet", "senders: own"),
        (("listeners", 0, "taken"), ["weak ciphers"], "high", "weak-ciphers 127.0.0.1:25", "exclude_ciphers"),
        (
            ("listeners", 0, "banner"),
            "220 m.x ESMTP Postfix (Debian)",
            "low",
            "banner 127.0.0.1:25",
            "smtpd_banner",
        ),
        (("parameters", "smtpd_forbid_bare_newline"), "no", "high", "smtpd_forbid_bare_newline", ": true}"),
        (("parameters", "smtpd_client_auth_rate_limit"), "0", "medium", "smtpd_client_auth_rate_limit", ": 20}"),
        (("parameters", "message_size_limit"), "0", "medium", "message_size_limit", ": 52428800}"),
        (("parameters", "disable_vrfy_command"), "no", "low", "disable_vrfy_command", ": true}"),
        (("parameters", "mynetworks"), "127.0.0.0/8 0.0.0.0/0", "high", "mynetworks 0.0.0.0/0", "127.0.0.0/8"),
        (("parameters", "mynetworks"), "[2000::]/3", "high", "mynetworks [2000::]/3", "127.0.0.0/8"),
        (("files", 0, 1), 0o644, "high", "open-to-all /etc/ssl/private/smtpd.key", "chmod"),
        (("certificates", SMTPD, 0, "days_left"), -1, "high", f"expired {SMTPD}", "renews"),
        (("certificates", "/etc/ssl/certs/cacert.pem", 0, "days_left"), -9, "high", "expired /etc/ssl/certs/", ""),
        (("certificates", SMTPD, 0, "key"), "RSA 1024", "high", f"weak-key {SMTPD}", "key_size: 3072"),
        (("certificates", SMTPD, 0, "signature"), "sha1", "high", f"weak-signature {SMTPD}", "remove"),
        (("certificates", SMTPD, 0, "self_signed"), True, "low", f"self-signed {SMTPD}", "source: local_ca"),
    ],
)
def test_what_is_weak_is_told_with_what_mends_it(findings, path, value, severity, name, pillar):
    (found,) = findings(*path, value=value)
    assert found["severity"] == severity
    assert found["name"].startswith(name)
    assert pillar in found["pillar"]
    assert found["reason"]


def test_a_login_in_clear_is_worse_than_one_at_port_25(findings):
    clear, place = findings("listeners", 0, "auth", value=[["LOGIN", "PLAIN"], []])
    assert (clear["severity"], clear["name"]) == ("high", "auth-in-clear 127.0.0.1:25")
    assert clear["pillar"] == "parameters: {smtpd_tls_auth_only: true}"
    assert (place["severity"], place["name"]) == ("low", "auth-at-port-25 127.0.0.1:25")


def test_what_one_service_overrides_is_mended_there(findings):
    overrides = {"smtpd_sasl_auth_enable": "yes", "smtpd_helo_required": "no"}
    (found,) = findings("services", "submission/inet", "overrides", value=overrides)
    assert found["name"] == "smtpd_helo_required submission/inet"
    assert found["pillar"] == "services: {submission/inet: {overrides: {smtpd_helo_required: null}}}"


def test_a_list_of_the_service_s_own_may_ask_whose_a_sender_is(findings):
    overrides = {
        "smtpd_sasl_auth_enable": "yes",
        "smtpd_sender_restrictions": "",
        "smtpd_relay_restrictions": "reject_authenticated_sender_login_mismatch, reject",
    }
    assert findings("services", "submission/inet", "overrides", value=overrides) == []


def test_what_this_postfix_does_not_have_needs_another_package():
    facts = copy.deepcopy(GOOD)
    del facts["parameters"]["smtpd_forbid_bare_newline"]
    (found,) = _mta_findings.findings(facts)
    assert found["pillar"].startswith("no setting: this Postfix has no smtpd_forbid_bare_newline")


def test_limits_of_logins_matter_only_where_somebody_can_log_in():
    facts = copy.deepcopy(GOOD)
    facts["parameters"]["smtpd_client_auth_rate_limit"] = "0"
    del facts["services"]["submission/inet"]
    assert _mta_findings.findings(facts) == []


def test_the_worst_comes_first():
    facts = copy.deepcopy(GOOD)
    facts["parameters"].update(disable_vrfy_command="no", message_size_limit="0")
    facts["listeners"][0]["auth"] = [["PLAIN"], ["PLAIN"]]
    assert [one["severity"] for one in _mta_findings.findings(facts)] == ["high", "medium", "low", "low"]
