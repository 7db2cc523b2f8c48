"""
What the check after a change makes of changes that were put in force by hand: many on one host, each in seconds.

Every one of POLICY and HARMLESS leaves a server to which the mail comes that it is there for; HARMFUL are silent
deaths, of which `postfix check` and a reload say nothing. `bin/test judge` tries hundreds with real mail.
"""

import json
import pathlib
import subprocess

import pytest

HERE = pathlib.Path(__file__).parent
PERMITS = "permit_sasl_authenticated, permit_mynetworks"
LISTENER = "{name} inet n - y - - smtpd -o syslog_name=postfix/test"


def rules(rule, name="header_checks"):
    return {"parameters": {name: f"regexp:{{{{{rule}}}}}"}}


def parameters(**values):
    return {"parameters": values}


def certificate(name):
    """A script that makes a certificate of its own, and a table that gives it to who asks for a name."""
    return f"""
    cd /etc/postfix
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN={name} \\
        -addext subjectAltName=DNS:{name} -keyout key.pem -out own.pem
    cat key.pem own.pem >chain.pem
    echo '{name} /etc/postfix/chain.pem' >sni
    postmap -F hash:/etc/postfix/sni
    """


BY_NAME = {"tls_server_sni_maps": "hash:/etc/postfix/sni"}
POLICY = {
    "a full name in HELO": parameters(
        smtpd_helo_required="yes",
        smtpd_helo_restrictions="reject_invalid_helo_hostname, reject_non_fqdn_helo_hostname",
    ),
    "nobody has the server's own name": parameters(
        smtpd_helo_restrictions="check_helo_access inline:{ {mail.example.com = REJECT that is my name} }"
    ),
    "everybody is put off": parameters(
        smtpd_recipient_restrictions=f"check_client_access static:{{450 4.7.1 greylisted}}, {PERMITS}, "
        "reject_unauth_destination"
    ),
    # As amavis has it for mail of others.
    "all is filtered by a table of senders": {
        **parameters(smtpd_sender_restrictions="check_sender_access static:{FILTER smtp:[127.0.0.1]:10025}"),
        "services": {
            "127.0.0.1:10025/inet": f"{LISTENER.format(name='127.0.0.1:10025')} -o smtpd_sender_restrictions="
        },
    },
    "one error": parameters(smtpd_hard_error_limit="1"),
    "few connections in a minute": parameters(
        smtpd_client_connection_rate_limit="2", smtpd_client_event_limit_exceptions=""
    ),
    "soft bounces": parameters(soft_bounce="yes"),
    "hidden keywords": parameters(smtpd_discard_ehlo_keywords="silent-discard, dsn, etrn, chunking, vrfy"),
    "AUTH hidden from own networks": parameters(smtpd_sasl_exceptions_networks="$mynetworks"),
    "STARTTLS hidden from own networks": parameters(
        smtpd_discard_ehlo_keyword_address_maps="inline:{ {127.0.0.1 = starttls} }"
    ),
    "TLS for everybody": parameters(smtpd_tls_security_level="encrypt"),
    "client certificates": {
        "services": {
            "10588/inet": f"{LISTENER.format(name='10588')} -o smtpd_tls_security_level=encrypt "
            "-o smtpd_tls_req_ccert=yes -o smtpd_tls_CAfile=/etc/ssl/certs/cacert.pem"
        }
    },
    "a listener behind a proxy": {
        "services": {
            "127.0.0.1:10026/inet": f"{LISTENER.format(name='127.0.0.1:10026')} "
            "-o smtpd_upstream_proxy_protocol=haproxy"
        }
    },
}
HARMLESS = {
    "a certificate by its name": {**parameters(**BY_NAME), "host": certificate("mail.example.com")},
    "a certificate by another name": {**parameters(**BY_NAME), "host": certificate("www.example.com")},
    # Sockets, too, are the same by another name.
    "the queue elsewhere": {
        **parameters(queue_directory="/srv/queue"),
        "host": "systemctl stop postfix; cp -al /var/spool/postfix /srv/queue; rm -f /srv/queue/pid/*",
    },
    "one subject is held": rules("/^Subject: .*confidential/ HOLD"),
    "copies of everything": parameters(always_bcc="alice@mail.example.com"),
    "a mailbox command": parameters(mailbox_command="/usr/bin/tee -a $HOME/mail"),
}
HARMFUL = {
    "a key of another certificate by its name": {
        **parameters(**BY_NAME),
        "host": certificate("mail.example.com") + "openssl genpkey -algorithm ed25519 | cat - own.pem >chain.pem\n"
        "postmap -F hash:/etc/postfix/sni",
    },
    "a domain of virtual users that is local": parameters(virtual_mailbox_domains="mail.example.com"),
    "everybody is rewritten": parameters(recipient_canonical_maps="static:alice@mail.example.com"),
    "a hundred bytes": parameters(message_size_limit="100"),
    "held by its headers": rules("/^Subject:/ HOLD"),
    "discarded by its headers": rules("/^Received:/ DISCARD"),
    "refused by its headers": rules("/^Message-ID:/ REJECT"),
    "held for every recipient": parameters(
        smtpd_recipient_restrictions=f"check_recipient_access static:HOLD, {PERMITS}, reject_unauth_destination"
    ),
    "held for every stranger": parameters(
        smtpd_recipient_restrictions=f"{PERMITS}, check_client_access static:HOLD, reject_unauth_destination"
    ),
    "TLS as no other host has it": parameters(smtp_tls_security_level="dane-only"),
    "no hosts of domains": parameters(smtp_dns_support_level="disabled"),
    "discarded for every client": parameters(smtpd_client_restrictions="check_client_access static:DISCARD"),
    "local mail is deferred": parameters(defer_transports="local"),
    "mailbox and message limits": parameters(message_size_limit="204800000", mailbox_size_limit="51200000"),
    "a mailbox command that keeps nothing": parameters(mailbox_command="/bin/cat >/dev/null"),
    "a mailbox command that is missing": parameters(mailbox_command="/usr/bin/nope -d $USER"),
    "a mailbox transport that does not answer": parameters(mailbox_transport="lmtp:unix:private/nothing"),
    "a content filter that does not answer": parameters(content_filter="smtp:[127.0.0.1]:9"),
    "a route of the own domain to nowhere": parameters(
        transport_maps="inline:{ {mail.example.com = smtp:[127.0.0.1]:9} }"
    ),
    "all mail is discarded": parameters(transport_maps="inline:{ {* = discard:} }"),
    "no local": {"services": {"local/unix": None}},
    "every client is refused": parameters(smtpd_client_restrictions="reject"),
    "every stranger is refused": parameters(smtpd_client_restrictions="permit_mynetworks, reject"),
    "a wrong smarthost": parameters(relayhost="[127.0.0.1]:9"),
    "an open relay": parameters(mynetworks="0.0.0.0/0"),
}


class Verdicts:
    """The program on the host."""

    def __init__(self, container):
        container.copy(HERE / "verdict.py", "/srv/verdict.py")
        python = container.exec("head -1 $(command -v salt-call) | cut -c 3-").stdout.strip()
        argv = ["docker", "exec", "--interactive", container.name, python, "/srv/verdict.py"]
        argv.append(f"{container.root}srv/salt/_modules")
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
        self.healthy = json.loads(self.process.stdout.readline())

    def of(self, change):
        """What is said of a change."""
        self.process.stdin.write(json.dumps(change) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="module")
def verdicts(container):
    """The host with its user; every change begins with the same server."""
    container.exec("id alice 2>/dev/null || useradd --create-home alice")
    asked = Verdicts(container)
    yield asked
    asked.process.terminate()
    asked.process.wait(30)


def test_the_server_delivers_and_nothing_is_left(verdicts):
    assert verdicts.healthy == {"problems": [], "notes": [], "left": []}


@pytest.mark.parametrize("name", POLICY)
def test_policy_is_no_fault(verdicts, name):
    found = verdicts.of(POLICY[name])
    assert (found["problems"], found["left"]) == ([], [])


@pytest.mark.parametrize("name", HARMLESS)
def test_what_does_no_harm_is_kept(verdicts, name):
    found = verdicts.of(HARMLESS[name])
    assert (found["problems"], found["left"]) == ([], [])


@pytest.mark.parametrize("name", HARMFUL)
def test_mail_that_would_die_is_noticed(verdicts, name):
    found = verdicts.of(HARMFUL[name])
    assert found["problems"]
    assert found["left"] == []
