"""The pillar's validation: each mistake is one clear line, and no secret is in it."""

import copy
import datetime
import pathlib
import re
import time

import pytest
import salt.utils.yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import _mta_pillar_schema
import _mta_settings
import _mta_valid

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SECRET = "geheim-7431"
NAMES = ("defaults", "os_family", "profiles", "services", "revision")
FILES = {name: salt.utils.yaml.safe_load((REPOSITORY / f"postfix_mta/{name}.yaml").read_text()) for name in NAMES}


class Postfix:
    """What a Postfix would say to names of main.cf and master.cf, and what it was asked."""

    def __init__(self):
        self.asked, self.refuses = [], []

    def refused(self, parameters, services):
        self.asked.append((parameters, services))
        return self.refuses


@pytest.fixture
def postfix():
    return Postfix()


@pytest.fixture
def problems(minion, monkeypatch, pretend, postfix):
    """Validate a pillar, given as YAML text or as data, on a host whose name is mail.example.com."""
    monkeypatch.setattr(_mta_settings, "read", lambda *_: FILES)
    pretend("_mta_postfix_stage.refused", postfix.refused)
    pretend("_mta_tables.missing_types", lambda types: [])
    pretend("_mta_tables.default_type", lambda: "hash")
    minion.functions["cp.cache_files"] = None

    def validate(pillar, hostname="mail.example.com", yaml=True, family=None):
        data = salt.utils.yaml.safe_load(pillar) if yaml and isinstance(pillar, str) else pillar
        host = minion._replace(pillar={"postfix_mta": data}, context={})
        return _mta_valid.problems(host, "postfix_mta", hostname, family, None)

    return validate


@pytest.mark.parametrize(
    ("former", "pillar", "refused"),
    [
        (None, "{}", False),
        ("mail.example.com", "{}", False),
        ("other.example.com", "{}", True),
        ("other.example.com", "{hostname: mail.example.com}", False),
        ("other.example.com", "{hostname: other.example.com}", False),
    ],
)
def test_another_name_of_the_host_does_not_rename_the_server(minion, problems, former, pillar, refused):
    minion.grains["fqdn"] = "mail.example.com"
    minion.state.write("applied.json", {"fqdn": former})
    found = problems(pillar)
    assert [line.startswith("postfix_mta:hostname: this host calls itself") for line in found] == [True] * refused
    if refused:
        assert "to keep that name, set hostname: other.example.com" in found[0]


BROKEN = [
    # The whole pillar
    ("just a text", "postfix_mta", "a text is not a section"),
    ("[a, list]", "postfix_mta", "a list is not a section"),
    # Unknown keys, at every level
    ("hostnam: mail.example.com", "hostnam", "did you mean hostname?"),
    ("certificate: {key_sise: 3072}", "certificate:key_sise", "did you mean key_size?"),
    ("certificate: {ca: {pasphrase: geheim-7431}}", "certificate:ca:pasphrase", "did you mean passphrase?"),
    (
        "certificate: {passphrase: x}",
        "certificate:passphrase",
        "did you mean postfix_mta:certificate:ca:passphrase?",
    ),
    ("Sasl: {enabled: true}", "Sasl", "did you mean sasl?"),
    ("services: {smtp/inet: {comand: smtpd}}", "services:smtp/inet:comand", "did you mean command?"),
    ("services: {submission: 'yes'}", "services:submission", '"yes" is not a boolean'),
    ("services: {submision: true}", "services:submision", "presets: submission, submissions, postscreen"),
    ("services: [submission]", "services", "is not a mapping"),
    ("mailname: example com", "mailname", "allowed: a domain"),
    ("25: x", "25", "unknown key"),
    (
        "profile: hardend",
        "profile",
        "allowed: guide, hardened, satellite, local_only, none; did you mean hardened?",
    ),
    (
        "dkim: {domains: [example.com], key_type: rsa+ed25519, private_key: /root/dkim.pem}",
        "dkim:key_type",
        "makes a key on each server",
    ),
    ("dkim: {domains: [example.com.]}", "dkim:domains:0", "ends with a dot; without it: example.com"),
    ("dkim: {domains: [Example.com]}", "dkim:domains:0", "in lower case: example.com"),
    ("dkim: {domains: [bücher.example]}", "dkim:domains:0", "international names in their xn-- form"),
    ("dkim: {domains: [example]}", "dkim:domains:0", "has no dot"),
    ("dkim: {domains: [example.com, example.com]}", "dkim:domains:1", "is there twice"),
    ("dkim: {domains: example.com}", "dkim:domains", "is not a list"),
    ("dkim: {selector: key_1}", "dkim:selector", "allowed: a selector, such as mta1"),
    ("dkim: {selector: key1._domainkey}", "dkim:selector", "allowed: a selector, such as mta1"),
    ("dkim: {selector: key1-ed25519}", "dkim:selector", "ends with -ed25519, as the names of Ed25519 keys do"),
    (f"dkim: {{selector: {'x' * 56}}}", "dkim:selector", "is longer than 55 characters"),
    ("dkim: {key_type: ed25519}", "dkim:key_type", "allowed: rsa, rsa+ed25519"),
    ("dkim: {key_size: 1024}", "dkim:key_size", "allowed: 2048 to 4096 bits"),
    ("dkim: {private_key: geheim-7431}", "dkim:private_key", "(hidden) is neither"),
    ("dkim: {networks: [fe]}", "dkim:networks:0", "allowed: a network, such as 192.0.2.0/24"),
    ("dkim: {networks: [192.0.2.0/99]}", "dkim:networks:0", "allowed: a network, such as 192.0.2.0/24"),
    ("dkim: {networks: [192.0.2.7/24]}", "dkim:networks:0", "without the bits of a host: 192.0.2.0/24"),
    ("dkim: {milter: 127.0.0.1}", "dkim:milter", "such as inet:127.0.0.1:11332"),
    ("dns: {addresses: [999.0.2.1]}", "dns:addresses:0", "allowed: an IP address"),
    ("dns: {resolver: fe}", "dns:resolver", "allowed: an IP address"),
    ("dns: {check: true}", "dns:check", "allowed: none, report, required"),
    ("dns: {spf: 'spf1 mx -all'}", "dns:spf", "allowed: an SPF record"),
    ("dns: {tls_reports: tls@example.com}", "dns:tls_reports", "allowed: a mailto: or https: URI"),
    (
        "{profile: hardened, certificate: {key_type: ec}}",
        "certificate:second:key_type",
        "allowed: another, or none",
    ),
    ("certificate: {source: flies}", "certificate:source", "did you mean files?"),
    # Smarthosts
    ("relay: smtp.example.net", "relay", "is not a section"),
    ("relay: {host: '[smtp.example.net]'}", "relay:host", "other than letters"),
    ("relay: {host: 'smtp.example.net:587'}", "relay:host", "other than letters"),
    ("relay: {host: x, port: smtp}", "relay:port", "not a whole number"),
    ("relay: {host: x, port: 0}", "relay:port", "allowed: 1 to 65535"),
    ("relay: {host: x, tls: ssl}", "relay:tls", "allowed: starttls, implicit, none"),
    ("relay: {host: x, username: a}", "relay:password", "a login needs both"),
    ("relay: {host: x, password: geheim-7431}", "relay:username", "a login needs both"),
    ("relay: {host: x, username: 'a:b', password: c}", "relay:username", "without a colon"),
    ("relay: {host: x, username: a, password: ' c'}", "relay:password", "(hidden) begins or ends with a blank"),
    ("profile: satellite", "relay:host", "all mail goes there"),
    (
        "{profile: satellite, relay: {host: smtp.example.net}, root_recipient: alice}",
        "root_recipient",
        "such as alice@example.com",
    ),
    ("{profile: local_only, relay: {host: smtp.example.net}}", "relay:host", "no mail leaves this host"),
    ("relay: {username: a, password: b}", "relay:host", "relay:username is of no use without it"),
    ("relay: {port: 25}", "relay:host", "relay:port is of no use without it"),
    ("relay: {host: x, tls: none, ca_file: /etc/ca.pem}", "relay:ca_file", "of no use while"),
    ("relay: {host: x, senders: [a]}", "relay:senders", "a list is not a mapping"),
    ("relay: {host: x, senders: {alice: {port: 25}}}", "relay:senders:alice", "not a valid name"),
    ("relay: {host: x, senders: {a@b.example: y}}", "relay:senders:a@b.example", "is not a section"),
    ("relay: {host: x, senders: {a@b.example: {tls: none}}}", "relay:senders:a@b.example:tls", "unknown key"),
    ("relay: {senders: {a@b.example: {port: 25}}}", "relay:senders:a@b.example:host", "there is no postfix_mta:r"),
    (
        "relay: {host: x, senders: {a@b.example: {username: a}}}",
        "relay:senders:a@b.example:password",
        "a login needs both",
    ),
    ("relay: {tls: implicit, senders: {a@b.example: {host: x}}}", "relay:tls", "it needs postfix_mta:relay:host"),
    ("relay: {host: x}\nparameters: {relayhost: y}", "parameters:relayhost", "give one of them"),
    ("relay: {host: x, senders: {a=b@c.example: {port: 25}}}", "relay:senders:a=b@c.example", "not a valid name"),
    (
        "relay: {host: x, username: a, password: b}\nmaps: {relay_passwords: null}",
        "maps:relay_passwords",
        "choose another name",
    ),
    (
        "relay: {host: x, username: a, password: b}\nmaps: {x: {path: /etc/postfix/relay_passwords}}",
        "maps:x:path",
        "is postfix_mta:maps:relay_passwords too",
    ),
    # Lookup tables
    ("maps: {virtual: {type: hahs}}", "maps:virtual:type", "did you mean hash?"),
    ("maps: {virtual: {entires: {}}}", "maps:virtual:entires", "did you mean entries?"),
    ("maps: {virtual: {entries: text}}", "maps:virtual:entries", "allowed: a mapping of key to value"),
    ("maps: {../virtual: {}}", "maps:../virtual", "not a valid name"),
    ("maps: {virtual: {path: etc/x}}", "maps:virtual:path", "an absolute path"),
    ("maps: {virtual: {entries: {a: b}, source: 'salt://x'}}", "maps:virtual:source", "allowed: one of them"),
    ("maps: {s: {secret: true, mode: '0644'}}", "maps:s:mode", "lets everybody read"),
    ("maps: {s: {mode: '0666'}}", "maps:s:mode", "is not valid"),
    ("maps: {t: {type: tcp}}", "maps:t:path", "what follows after tcp:"),
    ("maps: {t: {type: inline, entries: {a: '}'}}}", "maps:t:entries:a", "without braces"),
    ("maps: {t: {type: inline, entries: {a: b}, secret: true}}", "maps:t:secret", "for all to read"),
    ("maps: {a: {path: /x}, b: {path: /x}}", "maps:b:path", "/x is postfix_mta:maps:a too"),
    ("maps: {v: {type: hash, entries: {'#a': b}}}", "maps:v:entries:#a", "cannot be written"),
    ("maps: {v: {type: hash, entries: {a: b, A: c}}}", "maps:v:entries:A", "there twice"),
    ("maps: {v: {type: hash, entries: {a: true}}}", "maps:v:entries:a", "not a text"),
    ('maps: {v: {type: mysql, entries: {password: "geheim-7431\\nx"}}}', "maps:v:entries:password", "line break"),
    (
        "{maps: {virtual: {}}, parameters: {virtual_alias_maps: '{maps.virtul}'}}",
        "parameters:virtual_alias_maps",
        "did you mean virtual?",
    ),
    # SASL
    ("sasl: {mechanisms: [ldap]}", "sasl:ldap:servers", "the mechanism ldap needs it"),
    ("sasl: {mechanisms: [rimap]}", "sasl:rimap:host", "the mechanism rimap needs it"),
    ("sasl: {mechanisms: [rimap], options: a, rimap: {host: b}}", "sasl:options", "give one of them"),
    ("sasl: {ldap: {servers: ['ldap://a']}}", "sasl:ldap:search_base", "not given"),
    ("sasl: {ldap: {servers: [a]}}", "sasl:ldap:servers:0", "a URI"),
    ("sasl: {ldap: {bind_dn: cn=a}}", "sasl:ldap:bind_password", "a bind needs both"),
    ('sasl: {ldap: {filter: "a\\nldap_debug: 1"}}', "sasl:ldap:filter", "a line break"),
    ("sasl: {ldap: {filter: ' (uid=%u)'}}", "sasl:ldap:filter", "ends with a blank"),
    ("sasl: {ldap: {bind_dn: cn=a, bind_password: 'geheim-7431 '}}", "sasl:ldap:bind_password", "with a blank"),
    ("sasl: {rimap: {host: 'a;b'}}", "sasl:rimap:host", "a host name"),
    ("sasl: {kerberos5: {keytab: krb5.keytab}}", "sasl:kerberos5:keytab", "an absolute path"),
    ("sasl: {type: courier}", "sasl:type", "allowed: cyrus, dovecot"),
    ("sasl: {dovecot_socket: 'a b'}", "sasl:dovecot_socket", "inet:host:port"),
    ("sasl: {mechanisms: [getpwent]}", "sasl:mechanisms:0", "is not known"),
    # Types
    (
        "manage_hosts_file: 'yes'",
        "manage_hosts_file",
        '"yes" is not a boolean; allowed: true, false without quotes',
    ),
    ("certificate: none", "certificate", "is not a section"),
    ("firewall: [25]", "firewall", "a list is not a section"),
    ("sasl: {cache: 1}", "sasl:cache", "1 is not a boolean"),
    ("sasl: {threads: true}", "sasl:threads", "true is not a whole number"),
    ("sasl: {threads: '5'}", "sasl:threads", "without quotes"),
    ("sasl: {mechanisms: pam}", "sasl:mechanisms", "is not a list"),
    ("verify: {timeout: 0}", "verify:timeout", "allowed: 1 to 600 seconds"),
    ("beacon: {enabled: 'yes'}", "beacon:enabled", "is not a boolean"),
    ("beacon: {interval: 0}", "beacon:interval", "allowed: 1 to 86400 seconds"),
    ("schedule: {minutes: 0}", "schedule:minutes", "allowed: 1 to 44640 minutes"),
    ("schedule: {splay: -1}", "schedule:splay", "out of range"),
    ("schedule: {splay: {start: 1}}", "schedule:splay", "is not a whole number"),
    ("schedule: {return_job: nocache}", "schedule:return_job", "is not a boolean"),
    ("schedule: {minute: 5}", "schedule:minute", "minutes"),
    ("beacon: {queue_limit: -1}", "beacon:queue_limit", "out of range"),
    ("beacon: {certificates: [/etc/x]}", "beacon:certificates", "unknown key"),
    ("reprovision: {attempts: 0}", "reprovision:attempts", "allowed: 1 to 10"),
    ("reprovision: {pause: 1.5}", "reprovision:pause", "not a whole number"),
    ("firewall: {backend: off}", "firewall:backend", "YAML reads yes, no, on and off as booleans"),
    ("unmanaged: removed", "unmanaged", "did you mean remove?"),
    ("parameters: [a, b]", "parameters", "is not a mapping"),
    # Host names
    ("hostname: mail", "hostname", "not fully qualified: it has no domain"),
    ("hostname: mail.example.com.", "hostname", "ends with a dot"),
    ("hostname: 192.0.2.1", "hostname", "is an IP address"),
    ("hostname: '2001:db8::1'", "hostname", "is an IP address"),
    ("hostname: my_mail.example.com", "hostname", "underscore"),
    ("hostname: mail..example.com", "hostname", "two dots in a row"),
    ("hostname: -mail.example.com", "hostname", "begins or ends with a hyphen"),
    ("hostname: münchen.example.com", "hostname", "xn--"),
    ("hostname: mail example.com", "hostname", "other than letters"),
    ("hostname: localhost.localdomain", "hostname", "placeholder"),
    ("hostname: 1.25", "hostname", "in quotes"),
    ("hostname: ''", "hostname", "is empty"),
    (f"hostname: {'a' * 64}.example.com", "hostname", "more than 63 characters"),
    (f"hostname: {'a.' * 127}com", "hostname", "longer than 253"),
    ('hostname: "mail.example.com\\n"', "hostname", "a line break"),
    ("hostname: mail", "hostname", "hostnamectl set-hostname"),
    # Control characters
    ('parameters: {smtpd_banner: "a\\nb"}', "parameters:smtpd_banner", "contains a line break"),
    ('parameters: {smtpd_banner: "a\\0b"}', "parameters:smtpd_banner", "U+0000"),
    ('parameters: {smtpd_banner: "a\\u200bb"}', "parameters:smtpd_banner", "U+200B"),
    ('parameters: {mynetworks: [127.0.0.0/8, "a\\rb"]}', "parameters:mynetworks:1", "a line break"),
    ('parameters: {"a\\nb": x}', 'parameters:"a\\nb"', "not a valid name"),
    ('aliases: {"a\\nroot": x}', 'aliases:"a\\nroot"', "not a valid name"),
    ('aliases: {sales: "alice\\nroot: bob"}', "aliases:sales", "contains a line break"),
    ('services: {smtp/inet: {command: "smtpd\\nx"}}', "services:smtp/inet:command", "a line break"),
    ('services: {smtp/inet: {overrides: {a: "b\\n"}}}', "services:smtp/inet:overrides:a", "a line break"),
    # main.cf and master.cf
    (
        "parameters: {inet_interfaces: {a: b}}",
        "parameters:inet_interfaces",
        "a mapping is not a value of main.cf",
    ),
    ("parameters: {delay_warning_time: 0.5}", "parameters:delay_warning_time", "0.5 is not a whole number"),
    ("parameters: {mynetworks: [[a]]}", "parameters:mynetworks:0", "a list is not allowed"),
    ("parameters: {'my networks': a}", "parameters:my networks", "not a valid name"),
    ("parameters: {1: a}", "parameters:1", "in quotes"),
    (
        "parameters: {myhostname: other.example.com}",
        "parameters:myhostname",
        "set postfix_mta:hostname instead",
    ),
    ("services: {smtp: {command: smtpd}}", "services:smtp", "name/type, such as smtp/inet"),
    ("services: {smtp/inet: smtpd}", "services:smtp/inet", "is not a section"),
    ("services: {smtp/inet: {chroot: 'yes'}}", "services:smtp/inet:chroot", "is not a boolean"),
    ("services: {smtp/inet: {wakeup: soon}}", "services:smtp/inet:wakeup", "seconds"),
    (
        "services: {smtp/inet: {process_limit: -1}}",
        "services:smtp/inet:process_limit",
        "0 (no limit) or more",
    ),
    # Mail
    ("root_recipient: root", "root_recipient", "a loop"),
    ("root_recipient: '|/bin/sh'", "root_recipient", "such as alice"),
    ("root_recipient: alice@exa_mple.com", "root_recipient", "underscore"),
    ("aliases: {'a@b': c}", "aliases:a@b", "not a valid name"),
    ("aliases: {sales: []}", "aliases:sales", "the list is empty"),
    ("aliases: {sales: 5}", "aliases:sales", "in quotes"),
    ("aliases: {sales: ''}", "aliases:sales", "it is empty"),
    ("aliases: {root: bob}\nroot_recipient: alice", "aliases:root", "give one of them"),
    ("rfc2142_aliases: abuse", "rfc2142_aliases", "allowed: true, false, or a list of postmaster, abuse"),
    ("rfc2142_aliases: [abus]", "rfc2142_aliases:0", "did you mean abuse?"),
    ("rfc2142_aliases: [abuse, abuse]", "rfc2142_aliases:1", "there twice (pillar_merge_lists joins"),
    # Certificates
    ("certificate: {key_size: 1024}", "certificate:key_size", "1024 is too weak"),
    ("certificate: {key_size: 3000}", "certificate:key_size", "allowed: 2048, 3072, 4096, 8192"),
    ("certificate: {key_size: '3072'}", "certificate:key_size", "without quotes"),
    ("certificate: {key_type: ec, key_size: 3072}", "certificate:key_size", "allowed: 256, 384"),
    ("certificate: {key_type: dsa}", "certificate:key_type", "allowed: rsa, ec, ed25519; did you mean rsa?"),
    ("certificate: {key_type: ed25519, key_size: 256}", "certificate:key_size", "leave it out"),
    ("certificate: {second: {key_type: rsa}}", "certificate:second:key_type", "is that of the first"),
    ("certificate: {second: {key_size: 256}}", "certificate:second:key_size", "given without"),
    ("certificate: {second: {key_type: ec, key_size: 3072}}", "certificate:second:key_size", "allowed: 256, 384"),
    (
        "certificate: {second: {key_type: ec, key: /etc/ssl/certs/smtpd.crt}}",
        "certificate:second:key",
        "each needs its own file",
    ),
    ("certificate: {chain_file: /etc/ssl/private/smtpd.key}", "certificate:chain_file", "each needs its own file"),
    ("certificate: {source: files, files: {key: /k}}", "certificate:files:certificate", "not given"),
    ("certificate: {source: files, files: {certificate: /c}}", "certificate:files:key", "not given"),
    ("certificate: {files: {key: /k}}", "certificate:files:key", "source is local_ca"),
    ("certificate: {source: files, files: {certificate: /c, key: x}}", "certificate:files:key", "(hidden)"),
    ("certificate: {source: files, files: {certificate: /c, key: 5}}", "certificate:files:key", "a number"),
    ("certificate: {rotate_key: often}", "certificate:rotate_key", "is not a boolean"),
    ("certificate: {renew_days: 0}", "certificate:renew_days", "out of range"),
    ("certificate: {ca: {previous_passphrase: old}}", "certificate:ca:previous_passphrase", "given without"),
    ("certificate: {days: 20, renew_days: 20}", "certificate:renew_days", "renewed at every run"),
    ("certificate: {days: 0}", "certificate:days", "out of range"),
    ("certificate: {days: 4000}", "certificate:days", "longer than its authority is valid"),
    ("certificate: {days: 31, renew_days: 30, ca: {days: 30}}", "certificate:ca:days", "renewed at every run"),
    ("certificate: {key: /etc/ssl/certs/smtpd.crt}", "certificate:certificate", "each needs its own file"),
    ("certificate: {key: smtpd.key}", "certificate:key", "an absolute path"),
    ("certificate: {key: /etc/ssl/../x}", "certificate:key", "without .."),
    ("certificate: {key: '/etc/ssl/a b'}", "certificate:key", "an absolute path"),
    ("certificate: {names: [bad_name]}", "certificate:names:0", "underscore"),
    ("certificate: {names: smtp.example.com}", "certificate:names", "is not a list"),
    ("certificate: {subject: {country: Germany}}", "certificate:subject:country", "two letters"),
    ("certificate: {source: fleet_ca}", "certificate:fleet:ca_minion", "needs the signing minion's id"),
    ("certificate: {fleet: {ca_minion: '*'}}", "certificate:fleet:ca_minion", "a minion's id"),
    ("certificate: {fleet: {trust_store: 'yes'}}", "certificate:fleet:trust_store", "is not a boolean"),
    ("certificate: {fleet: {minions: {'mail*': []}}}", "certificate:fleet:minions:mail*", "not a valid name"),
    ("certificate: {fleet: {minions: {m1: [a_b.c]}}}", "certificate:fleet:minions:m1:0", "underscore"),
    ("certificate: {fleet: {minions: {m1: a.b}}}", "certificate:fleet:minions:m1", "is not a list"),
    ("certificate: {ca: {passphrase: 12345}}", "certificate:ca:passphrase", "in quotes"),
    ("certificate: {ca: {passphrase: abc}}", "certificate:ca:passphrase", "too short"),
    # SASL
    ("sasl: {mechanisms: []}", "sasl:mechanisms", "the list is empty"),
    ("sasl: {directory_mode: 0710}", "sasl:directory_mode", 'a mode in quotes, such as "0710"'),
    ("sasl: {directory_mode: '0777'}", "sasl:directory_mode", "no write bit"),
    ("sasl: {directory_mode: '0700'}", "sasl:directory_mode", "keeps Postfix"),
    ("sasl: {directory_mode: rwx}", "sasl:directory_mode", "a mode such as"),
    (f"sasl: {{socket_directory: /{'a' * 100}}}", "sasl:socket_directory", "longer than 100 characters"),
    ("sasl: {options: '$(reboot)'}", "sasl:options", "one word"),
    # Firewall
    ("firewall: {ports: [0]}", "firewall:ports:0", "allowed: 1 to 65535"),
    ("firewall: {ports: [65536]}", "firewall:ports:0", "allowed: 1 to 65535"),
    ("firewall: {ports: ['25']}", "firewall:ports:0", "without quotes"),
    (
        "firewall: {ports: [smtp]}",
        "firewall:ports:0",
        "not a whole number; allowed: 1 to 65535, or the word listen",
    ),
    ("firewall: {backend: nftable}", "firewall:backend", "did you mean nftables?"),
    ("firewall: {backend: ufw}", "firewall:backend", "ufw is not installed here"),
    ("firewall: {backend: nftables, nftables_file: /none}", "firewall:nftables_file", "/none is not there"),
    ("firewall: {zones: ['a b']}", "firewall:zones:0", "a zone of firewalld"),
    ("firewall: {rules_file: /r, rules_file_v6: /r}", "firewall:rules_file_v6", "each needs its own file"),
    ("firewall: {ports: [25, 110, 25]}", "firewall:ports:2", "there twice"),
    ("firewall: {ports: 25}", "firewall:ports", "is not a list"),
    # Verification
    ("verify: {login: {username: alice}}", "verify:login:password", "a login needs both"),
    ("verify: {login: {password: geheim-7431}}", "verify:login:username", "a login needs both"),
    ("verify: {login: {username: a, password: 4711}}", "verify:login:password", "in quotes"),
    (
        "verify: {login: {username: a, password: b}}\nsasl: {enabled: false}",
        "verify:login",
        "sasl:enabled is false",
    ),
    ('verify: {capabilities: ["DSN\\nX"]}', "verify:capabilities:0", "a line break"),
]


@pytest.mark.parametrize(
    ("pillar", "path", "hint"), BROKEN, ids=[f"{p}-{n}" for n, (_, p, _) in enumerate(BROKEN)]
)
def test_a_broken_pillar_is_refused_with_its_path_and_a_hint(problems, pillar, path, hint):
    found = problems(pillar)
    where = path if path == "postfix_mta" else f"postfix_mta:{path}"
    assert len(found) == 1, found
    assert found[0].startswith(f"{where}: ")
    assert hint in found[0]
    assert "\n" not in found[0]


@pytest.mark.parametrize(
    "pillar",
    [
        None,
        {},
        "hostname: mx1.example.org",
        "hostname: null\ncertificate:\nsasl: {}\nfirewall: {ports: []}",
        "root_recipient: alice\naliases: {sales: [alice, bob@example.org], old: null, postmaster: alice}",
        "relay: null\nmaps: {}",
        "rfc2142_aliases: true",
        "rfc2142_aliases: [abuse, noc]\naliases: {abuse: alice}",
        "relay: {host: smtp.example.net, port: 2525, tls: implicit, ca_file: /etc/ca.pem}",
        "relay: {host: 2001:db8::1, tls: none, username: a@b, password: 'x: #y'}\nparameters: {relayhost: null}",
        "relay: {senders: {'@b.example': {host: smtp.b.example}}, ca_file: /etc/ca.pem}",
        "relay: {host: x, senders: {a+b@c.example: {username: a, password: b}, '@b.example': {}}}",
        "parameters: {message_size_limit: 52428800, disable_vrfy_command: true, relayhost: null}",
        "parameters: {mynetworks: [127.0.0.0/8, '[::1]/128'], smtpd_banner: $myhostname ESMTP}",
        "parameters: {myhostname: mail.example.com, mailbox_command: ''}",
        "services: {submission/inet: {private: false, chroot: y, wakeup: 60?, process_limit: 100}}",
        "services: {submission/inet: {command: smtpd, overrides: {smtpd_tls_security_level: encrypt}}}",
        "services: {'[::1]:2525/inet': {command: smtpd}, old/unix: null}",
        "certificate: {source: self_signed, key_type: ec, key_size: 384, days: 90}",
        "certificate: {source: fleet_ca, fleet: {ca_minion: ca.example.com, policy: mail, trust_store: true}}",
        "certificate: {fleet: {minions: {mail1.example.com: [smtp.example.com, 192.0.2.1], mail2: []}}}",
        "certificate: {names: ['*.example.com', 192.0.2.1]}",
        "certificate: {subject: {country: DE, organization: Müller & Söhne, email: a@example.com}}",
        "certificate: {key_type: ec, ca: {passphrase: four}}",
        "certificate: {key_type: ed25519, rotate_key: true, second: {key_type: rsa}}",
        "certificate: {ca: {passphrase: four, previous_passphrase: x}}",
        "certificate: {source: files, files: {certificate: /etc/a.pem, key: /etc/a.pem}}",
        "certificate: {source: files, files: {certificate: /etc/a.pem, key: 'sdb://vault/key'}}",
        "sasl: {directory_mode: '755', options: /etc/saslauthd.conf}",
        "verify: {capabilities: [DSN, AUTH PLAIN LOGIN], login: {username: alice, password: 'pa$$ wörd'}}",
    ],
)
def test_a_good_pillar_has_no_problems(problems, pillar):
    assert problems(pillar) == []


def test_the_example_has_no_problems(problems):
    example = salt.utils.yaml.safe_load((REPOSITORY / "pillar.example").read_text())
    assert problems(example["postfix_mta"]) == []


@pytest.mark.parametrize(("hostname", "hint"), [("mail", "has no domain"), ("", "is empty"), (None, "is empty")])
def test_a_host_without_a_full_name_is_told_how_to_get_one(problems, minion, hostname, hint):
    if hostname is None:
        del minion.grains["fqdn"]
    found = problems({}, hostname)
    assert len(found) == 1
    for part in (hint, "postfix_mta:hostname: ", "/etc/hosts", "hostnamectl"):
        assert part in found[0]


# What YAML makes of keys and values that were meant as text, and what a pillar of other origin may have.
DATE = datetime.date(2024, 5, 1)
ODD = {
    "a boolean": True,
    "a number": 7311373,
    "a fraction": 0.5,
    "not a number": float("nan"),
    "a date": DATE,
    "a moment": datetime.datetime(2024, 5, 1, 12, 30, tzinfo=datetime.timezone.utc),
    "nothing": None,
    "bytes": b"x",
    "a tuple": ("a", "b"),
}


def sections(schema, *above):
    """The path of each place where the pillar may have keys."""
    yield above
    for key, rule in schema.items():
        if not isinstance(rule, _mta_pillar_schema.Value):
            yield from sections(rule, *above, key)
        elif "pattern" in rule.options and "of" in rule.options:
            below = rule.options["of"]
            yield (*above, key)
            if "schema" in below.options:
                name = {"maps": "x", "senders": "a@b.example", "services": "smtp/inet"}[key]
                yield from sections(below.options["schema"], *above, key, name)


@pytest.mark.parametrize("key", ODD.values(), ids=ODD)
@pytest.mark.parametrize("place", dict.fromkeys(sections(_mta_pillar_schema.SCHEMA)), ids=":".join)
def test_a_key_that_is_no_text_is_one_clear_problem(problems, place, key):
    pillar = below = {}
    for name in place:
        below[name] = below = {}
    below[key] = "x"
    path = ":".join(("postfix_mta", *place))
    found = [line for line in problems(pillar, yaml=False) if "not given" not in line]
    assert len(found) == 1, found
    assert found[0].startswith(f"{path}:")
    assert re.search("unknown key; .*allowed: |is not a name; allowed: .*in quotes", found[0])
    assert found[0].isprintable()


@pytest.mark.parametrize(
    ("pillar", "hint"),
    [
        ("aliases: {no: alice}", "aliases:false: a boolean is not a name"),
        ("aliases: {no: alice}", "YAML reads yes, no, on and off as booleans"),
        ({"aliases": {DATE: "alice"}}, "aliases:2024-05-01: a date is not a name"),
        ({"aliases": {DATE: "alice"}}, "in quotes (it was read as a date)"),
        ({"aliases": {"alice": DATE}}, "aliases:alice: 2024-05-01 is not a text; allowed: a destination"),
        ({"aliases": {"alice": DATE}}, "in quotes (it was read as a date)"),
        ({"sasl": {DATE: "x"}}, "sasl:2024-05-01: unknown key; it was read as a date; allowed: enabled"),
        ("sasl: {on: true}", "sasl:true: unknown key; YAML reads yes, no, on and off as booleans; allowed: e"),
        ({"hostname": DATE}, "hostname: 2024-05-01 is not a text"),
        ({"relay": DATE}, "relay: a date is not a section"),
        ({"parameters": {"mail_version": DATE}}, "in quotes (it was read as a date)"),
        ({"certificate": {"days": DATE}}, "certificate:days: 2024-05-01 is not a whole number"),
        ({"maps": {"x": {"type": "hash", "entries": {DATE: "x"}}}}, "maps:x:entries:"),
        ("maps: {x: {mode: 0640}}", 'maps:x:mode: 640 is not a text; allowed: a mode in quotes, such as "0640"'),
    ],
)
def test_what_yaml_makes_of_a_text_without_quotes_is_told(problems, pillar, hint):
    (found,) = problems(pillar)
    assert hint in found


@pytest.mark.parametrize("pillar", [[], "", 0, False, (), b"", {1, 2}, DATE, 0.0])
def test_a_pillar_that_is_no_mapping_is_one_problem(problems, pillar):
    (found,) = problems(pillar, yaml=False)
    assert re.match(r"postfix_mta: (a|an|binary) .* is not a section; allowed: a mapping with hostname, ", found)


SECRETS = {
    "relay:password": {"relay": {"host": "x", "username": "a"}},
    "relay:senders:a@b.example:password": {"relay": {"host": "x", "senders": {"a@b.example": {"username": "a"}}}},
    "certificate:ca:passphrase": {},
    "certificate:ca:previous_passphrase": {"certificate": {"ca": {"passphrase": "long enough"}}},
    "sasl:ldap:bind_password": {"sasl": {"ldap": {"bind_dn": "cn=a"}}},
    "verify:login:password": {"verify": {"login": {"username": "a"}}},
}


@pytest.mark.parametrize(
    ("secret", "reason"),
    [
        (f"{SECRET}\n", "ends with a line break; allowed: one line (YAML keeps it after |, and not after |-)"),
        (f"{SECRET}\r\n", "ends with a line break; allowed: one line"),
        (f"{SECRET}\r", "ends with a line break; allowed: one line"),
        (
            f"-----BEGIN PGP MESSAGE-----\n\n{SECRET}\n",
            "is still encrypted; allowed: what the gpg renderer decrypts",
        ),
        (f"{SECRET}\r\nx", "contains a line break or a control character; allowed: one line"),
        (f"\n{SECRET}", "contains a line break or a control character; allowed: one line"),
        (f"{SECRET}\0\n", "contains a line break or a control character; allowed: one line"),
        (DATE, "is a date; allowed: a text, in quotes"),
        (True, "is a boolean; allowed: a text, in quotes"),
        (7311373, "is a number; allowed: a text, in quotes"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("place", SECRETS)
def test_a_secret_of_more_than_one_line_or_no_text_is_refused_unseen(problems, place, secret, reason):
    pillar = below = copy.deepcopy(SECRETS[place])
    *above, last = place.split(":")
    for name in above:
        below = below.setdefault(name, {})
    below[last] = secret
    (found,) = problems(pillar, yaml=False)
    assert found.startswith(f"postfix_mta:{place}: the value (hidden) {reason}")


def test_every_secret_of_the_schema_is_among_them():
    def secrets(schema, prefix=""):
        for key, rule in schema.items():
            if not isinstance(rule, _mta_pillar_schema.Value):
                yield from secrets(rule, f"{prefix}{key}:")
            elif rule.type == "secret":
                yield f"{prefix}{key}"
            elif key == "senders" and rule.type == "entries":
                yield from secrets(rule.options["of"].options["schema"], f"{prefix}{key}:a@b.example:")

    assert set(secrets(_mta_pillar_schema.SCHEMA)) == set(SECRETS)


def test_all_problems_are_reported_at_once(problems):
    found = problems(
        "hostname: mail\nrelay: {port: 25}\nfirewall: {ports: [0, 70000]}\nunmanaged: x\n"
        "certificate: {key_size: 1024, days: 9999, names: x}\nverify: {login: {username: alice}}"
    )
    assert len(found) == 9


@pytest.mark.parametrize(
    "pillar",
    [
        {"verify": SECRET},
        {"verify": {"login": SECRET}},
        {"verify": {"login": {"username": "alice", "password": SECRET + "\n"}}},
        {"verify": {"login": {"username": "alice", "pasword": SECRET}}},
        {"verify": {"login": {"username": "alice", "password": [SECRET]}}},
        {"verify": {"login": [SECRET]}},
        {"certificate": {"ca": {"passphrase": SECRET + "\0"}}},
        {"certificate": {"ca": SECRET}},
        {"certificate": {"ca": {"passphrase": {SECRET: 1}}}},
        {"certificate": {"ca": {"passphrase": "four", "previous_passphrase": [SECRET]}}},
        {"certificate": {"source": "files", "files": {"certificate": "/c", "key": SECRET}}},
        {"relay": {"password": SECRET}},
        {"relay": SECRET},
        {"relay": {"host": "x", "username": "a", "password": SECRET + "\n"}},
        {"relay": {"host": "x", "username": "a", "password": [SECRET]}},
        {"relay": {"host": "x", "senders": SECRET}},
        {"relay": {"host": "x", "senders": {"a@b.example": SECRET}}},
        {"relay": {"host": "x", "senders": {"a@b.example": {"username": "x", "password": SECRET + " "}}}},
        {"sasl": {"ldap": {"bind_dn": "cn=a", "bind_password": SECRET + "\n"}}},
        {"sasl": {"ldap": {"bind_dn": "cn=a", "bind_password": SECRET + " "}}},
        SECRET,
    ],
)
def test_a_secret_is_never_shown(problems, pillar):
    found = problems(pillar)
    assert found
    assert SECRET not in "\n".join(found)


@pytest.mark.parametrize(
    "table",
    [
        "{type: hash, entries: {a: {secret: b}}, mode: '0644'}",
        "{type: hash, entries: [{a: {secret: b}}], mode: '0604'}",
        "{type: hash, entries: {a: b}, secret: true, mode: '0644'}",
        "{type: mysql, entries: {user: x, password: y}, mode: '0644'}",
        "{type: ldap, entries: ['bind_pw = y'], mode: '0644'}",
        "{type: ldap, source: 'salt://users', mode: '0644'}",
    ],
)
def test_a_mode_that_lets_others_read_a_secret_is_refused_with_its_path(problems, tmp_path, functions, table):
    (tmp_path / "users").write_text("bind_pw = geheim\n")
    functions["cp.cache_file"] = lambda *_: str(tmp_path / "users")
    found = problems(f"maps: {{logins: {table}}}")
    assert [line.partition(": ")[0] for line in found] == ["postfix_mta:maps:logins:mode"]
    assert '"0600" or "0640"' in found[0] or '"0600", or "0640"' in found[0]
    assert problems(f"maps: {{logins: {table.replace('0644', '0640').replace('0604', '0640')}}}") == []


def test_an_unknown_operating_system_family_is_refused(problems):
    (found,) = problems({}, family="Arch")
    assert found == ('postfix_mta: the operating system family "Arch" is not known; known: Debian, RedHat, Suse')


def test_postfix_is_asked_about_names_only_when_nothing_else_is_wrong_with_them(problems, postfix):
    reason = {"reason": "not known to this Postfix", "nearest": "smtpd_banner"}
    postfix.refuses.append({"parameter": "smtpd_baner", **reason})
    assert problems("parameters: {smtpd_baner: x}") == [
        "postfix_mta:parameters:smtpd_baner: not known to this Postfix; did you mean smtpd_banner?"
    ]
    assert postfix.asked == [({"smtpd_baner": "x"}, {})]
    problems('parameters: {smtpd_baner: "x\\n"}')
    problems({})
    assert len(postfix.asked) == 1
    assert len(problems("parameters: {smtpd_baner: x}\nunmanaged: x")) == 2


def test_a_valid_pillar_is_checked_in_less_than_three_milliseconds(problems, minion):
    minion.pillar["postfix_mta"] = {
        "hostname": "mail.example.com",
        "parameters": {f"parameter_{number}": ["a", "b"] for number in range(40)},
        "certificate": {"names": ["smtp.example.com"], "ca": {"passphrase": "secret"}},
    }
    assert _mta_valid.problems(minion, "postfix_mta", None, None, None) == []
    times = []
    for _ in range(7):
        start = time.process_time()
        assert _mta_valid.problems(minion, "postfix_mta", None, None, None) == []
        times.append(time.process_time() - start)
    assert sorted(times)[3] < 0.003


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=5)
    | st.dates()
    | st.sampled_from(["rsa", "ec", "pam", "self_signed", "/etc/x", "mail.example.com", 25, 3072]),
    lambda below: (
        st.lists(below, max_size=4)
        | st.dictionaries(
            st.text(max_size=10) | st.integers() | st.none() | st.sampled_from(["key", "ca", "login", "enabled"]),
            below,
            max_size=4,
        )
    ),
    max_leaves=10,
)
KEYS = st.sampled_from([*ODD.values(), "", "a", "a b", "x\n", "\ud800"])
GOOD = {
    "boolean": st.booleans(),
    "integer": st.integers(0, 5000),
    "mode": st.sampled_from(["0600", "0644"]),
    "path": st.sampled_from(["/x", "/y"]),
    "table_entries": st.dictionaries(st.sampled_from(["a", "password", "#b"]) | KEYS, JUNK, max_size=3)
    | st.lists(st.sampled_from(["/x/ y", "a b", "if /x/", "endif", "a = b"]) | JUNK, max_size=3),
}
FREE = st.sampled_from(["a", "a@b.example", "smtp/inet", "submission", "relay_passwords"]) | KEYS


def shaped(rule):
    """Values of about the shape that a rule of the schema has, so that the validation gets far."""
    if not isinstance(rule, _mta_pillar_schema.Value):
        known = st.fixed_dictionaries({}, optional={key: shaped(below) for key, below in rule.items()})
        return known | st.builds(
            lambda one, other: {**one, **other}, known, st.dictionaries(KEYS, JUNK, max_size=2)
        )
    kind, options = rule
    if "schema" in options:
        return shaped(options["schema"]) | JUNK
    if kind == "list":
        return st.lists(shaped(options["of"]), max_size=3) | JUNK
    if "of" in options:
        return st.dictionaries(FREE, shaped(options["of"]), max_size=3) | JUNK
    texts = st.sampled_from(["a", "x.example", "/x", "{maps.a}", *options.get("allowed", ())])
    return GOOD.get(kind, texts) | JUNK


PILLARS = JUNK | st.one_of(
    *(st.fixed_dictionaries({key: shaped(rule)}) for key, rule in _mta_pillar_schema.SCHEMA.items()),
    shaped(_mta_pillar_schema.SCHEMA),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pillar=PILLARS)
def test_no_pillar_makes_the_validation_raise(problems, pillar):
    for problem in problems(pillar, yaml=False):
        assert problem.startswith("postfix_mta")
        assert problem.isprintable()
