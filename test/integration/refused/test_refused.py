"""A broken pillar is refused as a whole: one clear comment, and nothing on the host has changed."""

import pytest

from rig.results import failures, state_of

BROKEN = {
    "a section that is a text": ({"certificate": "smtpd.crt"}, "postfix_mta:certificate"),
    "the whole pillar is a list": (["hostname"], "postfix_mta"),
    "a misspelt key": ({"hostnam": "mail.example.com"}, "hostname"),
    "a misspelt key below a section": ({"certificate": {"key_sise": 3072}}, "key_size"),
    "a host name without a domain": ({"hostname": "mail"}, "postfix_mta:hostname"),
    "a host name with a space": ({"hostname": "mail example.com"}, "postfix_mta:hostname"),
    "an address for a host name": ({"hostname": "192.0.2.1"}, "postfix_mta:hostname"),
    "a line break in a host name": ({"hostname": "mail.example.com\nrelayhost=evil"}, "postfix_mta:hostname"),
    "a parameter that Postfix does not know": ({"parameters": {"smtpd_banne": "x"}}, "smtpd_banner"),
    "a line break in a parameter": (
        {"parameters": {"smtpd_banner": "x\nrelayhost = evil.example.com"}},
        "postfix_mta:parameters:smtpd_banner",
    ),
    "a line break in a parameter's name": ({"parameters": {"a\nrelayhost": "x"}}, "postfix_mta:parameters"),
    "a mapping for a parameter": (
        {"parameters": {"relayhost": {"host": "x"}}},
        "postfix_mta:parameters:relayhost",
    ),
    "a key that clients refuse": ({"certificate": {"key_size": 1024}}, "postfix_mta:certificate:key_size"),
    "a key of an unknown kind": ({"certificate": {"key_type": "dsa"}}, "postfix_mta:certificate:key_type"),
    "a relative path": ({"certificate": {"key": "smtpd.key"}}, "postfix_mta:certificate:key"),
    "a port out of range": ({"firewall": {"ports": [25, 70000]}}, "postfix_mta:firewall:ports"),
    "a port that is a text": ({"firewall": {"ports": ["smtp"]}}, "postfix_mta:firewall:ports"),
    "a firewall that does not exist": ({"firewall": {"backend": "ipchains"}}, "postfix_mta:firewall:backend"),
    "a yes that is a text": ({"sasl": {"enabled": "perhaps"}}, "postfix_mta:sasl:enabled"),
    "a mechanism that does not exist": ({"sasl": {"mechanisms": ["pan"]}}, "pam"),
    "a shell in a socket directory": (
        {"sasl": {"socket_directory": "/var/spool/postfix/$(reboot)"}},
        "postfix_mta:sasl:socket_directory",
    ),
    "a mode that YAML reads as a number": ({"sasl": {"directory_mode": 0o755}}, "postfix_mta:sasl:directory_mode"),
    "a profile that does not exist": ({"profile": "hardend"}, "postfix_mta:profile"),
    "a service without a type": ({"services": {"submission": {"command": "smtpd"}}}, "postfix_mta:services"),
    "an alias with a line break": ({"aliases": {"bob": "alice\nroot: mallory"}}, "postfix_mta:aliases:bob"),
    "a passphrase that is a number": (
        {"certificate": {"ca": {"passphrase": 12345678}}},
        "postfix_mta:certificate:ca:passphrase",
    ),
    "a secret that others could read": (
        {"maps": {"logins": {"type": "hash", "entries": {"a": {"secret": "alice:geheim"}}, "mode": "0644"}}},
        "postfix_mta:maps:logins:mode",
    ),
    "a password that others could read": (
        {"maps": {"users": {"type": "texthash", "entries": {"a": "b"}, "secret": True, "mode": "0604"}}},
        "postfix_mta:maps:users:mode",
    ),
    "a secret line without a separator": (
        {"maps": {"logins": {"type": "hash", "entries": ["[smtp.example.net]:587=alice:geheim"], "secret": True}}},
        "postfix_mta:maps:logins:entries:entry 1 (not shown, as it may hold a secret)",
    ),
    "a secret one level too high": (
        {"maps": {"logins": {"type": "hash", "secret": "alice:geheim"}}},
        "postfix_mta:maps:logins:secret",
    ),
    "a password in a user name": (
        {"relay": {"host": "smtp.example.net", "username": "alice:geheim", "password": "x"}},
        "postfix_mta:relay:username",
    ),
    "a password in a host": (
        {"relay": {"host": "smtp://alice:geheim@smtp.example.net"}},
        "postfix_mta:relay:host",
    ),
}

SNAPSHOT = """
{ find /etc /var/lib/dpkg /var/lib/postfix /var/spool/postfix -type f ! -path '*/saslauthd/cache*' \
      -exec sha256sum {} +
  find /etc /var/spool/postfix -printf '%p %m %u %g\\n'
  for name in master saslauthd; do ps -o pid=,lstart=,comm= -C "$name"; done
} | sort
"""


@pytest.fixture(scope="module")
def snapshot(host):
    """What is on the host: files with their sums, modes and owners, the queue, the daemons."""
    return lambda: host.check_output(SNAPSHOT)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_pillar_changes_nothing(container, snapshot, name):
    pillar, expected = BROKEN[name]
    before = snapshot()
    result = container.apply(pillar={"postfix_mta": pillar})
    failed = {
        key: state
        for key, state in result.items()
        if state["result"] is False and state.get("__run_num__") is not None
    }
    refused = [state for state in failed.values() if state["__id__"] == "postfix_mta_settings"]
    assert len(refused) == 1
    assert expected in refused[0]["comment"]
    assert "12345678" not in str(result) and "geheim" not in str(result)
    assert not any(state["changes"] for state in result.values())
    assert snapshot() == before


def test_all_problems_are_told_at_once(container):
    pillar = {"hostname": "mail", "certificate": {"key_size": 1024}, "firewal": {}}
    result = container.apply(pillar={"postfix_mta": pillar}, test=True)
    comment = state_of(result, "postfix_mta_settings")["comment"]
    for expected in ("postfix_mta:hostname", "postfix_mta:certificate:key_size", "firewall"):
        assert expected in comment


# As people write it: YAML makes numbers and booleans of these keys (a date stays a text, as Salt reads it), and
# Windows ends lines with two characters.
ODD = """
postfix_mta:
  2024-05-01: x
  parameters: {on: x, 0755: x}
  aliases: {007: alice, no: bob}
  services: {12:30: {command: smtpd}}
  certificate: {ca: {passphrase: "geheim-crlf\\r\\n"}}
"""


def test_keys_that_yaml_takes_for_something_else_are_told_all_at_once(container):
    container.set_pillar({})
    container.put({f"{container.root}srv/pillar/postfix_mta.sls": ODD})
    result = container.apply(test=True)
    comment = state_of(result, "postfix_mta_settings")["comment"]
    for expected in (
        "postfix_mta:2024-05-01: unknown key",
        "postfix_mta:parameters:true: a boolean is not a name",
        "postfix_mta:parameters:755: a number is not a name",
        "postfix_mta:aliases:7: a number is not a name",
        "postfix_mta:aliases:false: a boolean is not a name",
        "postfix_mta:services:750: a number is not a name",
        "postfix_mta:certificate:ca:passphrase: the value (hidden) ends with a line break",
    ):
        assert expected in comment
    assert "geheim-crlf" not in str(result)
    assert len(failures(result)) == 1
