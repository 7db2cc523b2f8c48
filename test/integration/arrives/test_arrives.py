"""
Mail that arrives: signed by the server, its records in a zone that a name server serves, a validating resolver on
the host, and a second mail server whose programs judge what comes, and which has MTA-STS.
POSTFIX_MTA_ROTATIONS: how often keys change.
"""

import contextlib
import json
import os
import pathlib
import re
import smtplib
import threading
import time

import pytest

from rig import results

VERIFY = pathlib.Path(__file__).with_name("verify.py")
POLICIES = pathlib.Path(__file__).with_name("policies.py")
ROTATIONS = int(os.environ.get("POSTFIX_MTA_ROTATIONS", "2"))
QUIET = "export DEBIAN_FRONTEND=noninteractive; apt-get -qq update >/dev/null && apt-get -qq -y install"
INSTALL = f"{QUIET} --no-install-recommends"
PILLAR = {
    "profile": "hardened",
    "root_recipient": "alice",
    "parameters": {
        "mydestination": ["$myhostname", "example.com", "localhost"],
        # Here nobody answers for the root zone.
        "dnssec_probe": "ns:example.com",
    },
    "certificate": {"key_size": 2048},
    "dkim": {"domains": ["example.com"], "selector": "key0"},
    "dns": {"check": "report", "mta_sts": "testing", "tls_reports": "mailto:tls@{domain}"},
}
REST = {key: value for key, value in PILLAR.items() if key not in ("dkim", "dns")}
# Files with owner and mode, users, groups, packages, units, processes, sockets, and what Postfix is told; neither
# caches nor what the suite adds itself.
INVENTORY = r"""
find /etc /usr/local /opt /srv /run/systemd/system /var/cache /var/lib/postfix /var/spool/postfix -xdev \
    -not -path "/var/cache/apt/*" -not -path "/var/cache/salt/*" -not -path "/var/spool/postfix/pid/*" \
    -not -path "/var/spool/postfix/etc/*" -not -path "*/ca-certificates/*" -not -path "/etc/ssl/certs/*" \
    -not -path "/var/spool/postfix/*/[0-9A-F]*" -printf "path %p %u %g %m\n"
sed "s/^/user /" /etc/passwd
sed "s/^/group /" /etc/group
dpkg-query -Wf "package \${Package}\n"
systemctl list-unit-files --plain --no-legend --type=service | awk '{print "unit", $1, $2}'
ps -eo user:20=,comm= --ppid 2 -N | sed "s/^/process /" | sort -u
ss -Hltnx | awk '{print "listens", $4, $5}'
postconf -n | sed "s/^/set /"
postconf -M | sed "s/^/entry /"
"""
# What is wrong in place of what there should be: by type, of TXT by how the text begins.
BROKEN = {
    "A": "192.0.2.7",
    "MX": "10 elsewhere.example.com.",
    "TLSA": f"3 1 1 {'00' * 32}",
    "SRV": "0 10 25 elsewhere.example.com.",
    "v=spf1": '"v=spf1 ip4:192.0.2.7 -all"',
    "v=DKIM1": '"v=DKIM1; k=rsa; p=AAAA"',
    "v=DMARC1": '"v=DMARC1; p=no"',
    "v=STSv1": '"v=STSv1; id=0"',
    "v=TLSRPTv1": '"v=TLSRPTv1; rua=mailto:else@example.com"',
}
# Mail from the host that it runs on, by SMTP, so that it has a client's address; arguments: that, and the sender.
STRANGER = (
    "import smtplib, sys; client = smtplib.SMTP(sys.argv[1]); "
    "client.sendmail(sys.argv[2], ['bob@peer.test'], sys.stdin.buffer.read())"
)


class Zones:
    """The zones of the name server on the peer, signed there."""

    def __init__(self, peer, resolver):
        self.peer, self.resolver = peer, resolver

    def serve(self, lines, reverse):
        """Load the zone example.com with these lines, and that of the addresses."""
        begin = (
            "$TTL 60\n@ IN SOA ns.example.com. hostmaster.example.com. {serial} 3600 600 86400 60\n@ IN NS {ns}\n"
        )
        serial = int(time.time() * 10) % (1 << 31)
        self.peer.put(
            {
                "/srv/zones/example.com": begin.format(serial=serial, ns="ns.example.com.")
                + f"ns.example.com. IN A {self.peer.ip}\n"
                + lines,
                "/srv/zones/peer.test": begin.format(serial=serial, ns="ns.peer.test.")
                + f"ns.peer.test. IN A {self.peer.ip}\nmx.peer.test. IN A {self.peer.ip}\n"
                + "peer.test. IN MX 10 mx.peer.test.\n",
                "/srv/zones/reverse": begin.format(serial=serial, ns="ns.peer.test.") + reverse,
            }
        )
        checked = self.peer.exec("nsd-checkzone example.com /srv/zones/example.com")
        assert checked.stdout + checked.stderr == "zone example.com is ok\n"
        self.peer.exec(
            "cd /srv/zones && ldns-signzone -n -o example.com -f example.com.signed example.com"
            " $(ls Kexample.com*.private | sed s/.private//)"
            " && systemctl reset-failed nsd && systemctl restart nsd"
        )
        self.resolver.exec("unbound-control flush_zone . >/dev/null || systemctl restart unbound")


@pytest.fixture(scope="module")
def peer(container, new_container):
    """The second mail server, with the name server and what verifies mail."""
    other = new_container(platform="debian-12", provision=False, hostname="mx.peer.test")
    other.exec(
        f"{INSTALL} postfix nsd ldnsutils python3-authheaders python3-dkim python3-nacl python3-spf python3-dns"
        " libmail-dkim-perl >/dev/null 2>&1"
    )
    network = ".".join(reversed(other.ip.split(".")[:2]))
    zones = {"example.com": "example.com.signed", "peer.test": "peer.test", f"{network}.in-addr.arpa": "reverse"}
    conf = f"server:\n  ip-address: {other.ip}\n  hide-version: yes\nremote-control:\n  control-enable: no\n"
    conf += "".join(f"zone:\n  name: {name}\n  zonefile: /srv/zones/{file}\n" for name, file in zones.items())
    other.put({"/etc/nsd/nsd.conf": conf, "/root/verify.py": VERIFY})
    other.exec(
        "mkdir -p /srv/zones && cd /srv/zones && ldns-keygen -k -a ECDSAP256SHA256 example.com >/dev/null"
        " && useradd --create-home bob"
        " && postconf -e 'mydestination = peer.test, mx.peer.test' home_mailbox=Maildir/ mynetworks=127.0.0.0/8"
        " && systemctl restart postfix"
    )
    return other


def inventory(container):
    """What there is on the host, in lines: see ``INVENTORY``."""
    return set(container.exec(INVENTORY).stdout.splitlines())


@pytest.fixture(scope="module")
def server(container, peer):
    """The host, with its validating resolver; the formula has been applied, first without dkim and dns."""
    container.exec(f"{INSTALL} unbound dns-root-data >/dev/null 2>&1")
    key = peer.exec("cat /srv/zones/Kexample.com*.key").stdout
    network = ".".join(reversed(peer.ip.split(".")[:2]))
    conf = "server:\n  interface: 0.0.0.0\n  access-control: 0.0.0.0/0 allow\n"
    conf += "  trust-anchor-file: /etc/unbound/anchor\n  cache-max-ttl: 0\n  cache-max-negative-ttl: 0\n"
    conf += f'  local-zone: "{network}.in-addr.arpa." nodefault\n  local-zone: "test." nodefault\n'
    for zone in ("example.com", "peer.test", f"{network}.in-addr.arpa"):
        conf += f'  domain-insecure: "{zone}"\n' * (zone != "example.com")
    for zone in ("example.com", "peer.test", f"{network}.in-addr.arpa"):
        conf += f"stub-zone:\n  name: {zone}\n  stub-addr: {peer.ip}\n"
    conf += "remote-control:\n  control-enable: yes\n  control-interface: /run/unbound.ctl\n"
    container.put({"/etc/unbound/unbound.conf": conf, "/etc/unbound/anchor": key})
    container.exec("useradd --create-home alice; systemctl reset-failed unbound; systemctl restart unbound")
    assert results.failures(container.apply(pillar={"postfix_mta": REST})) == []
    container.inventory = inventory(container)
    done = container.apply(pillar={"postfix_mta": PILLAR})
    assert results.failures(done) == []
    # From here on names come from the resolver here.
    for one in (container, peer):
        one.exec(f"echo nameserver {container.ip} > /etc/resolv.conf; cp /etc/resolv.conf /var/spool/postfix/etc/")
    container.exec("postfix reload")
    peer.exec("systemctl restart postfix")
    return container


@pytest.fixture(scope="module")
def zones(server, peer):
    return Zones(peer, server)


@pytest.fixture(scope="module")
def dane(server, served):
    """Outgoing DANE, as the resolver validates: what an apply announces, and what it does."""
    return server.apply(test=True, sls="postfix_mta.config"), server.apply(sls="postfix_mta.config")


def lines_of(server, **settings):
    """The records that the server asks for: those of its zone, and of the reverse one."""
    found = server.call("mta_dns.records", format="data", **settings)
    reverse = "".join(f"{one['name']}. IN PTR {one['data']}\n" for one in found if one["type"] == "PTR")
    return server.call("mta_dns.records", zone="example.com"), reverse


@pytest.fixture(scope="module")
def served(server, zones):
    """The zones are as ``mta_dns.records`` says."""
    zones.serve(*lines_of(server))
    return zones


def judged(peer, subject, count=1):
    """What the receiver's programs make of the messages with this in their subject, when they are there."""
    deadline = time.monotonic() + 60
    while True:
        found = peer.exec(f"grep -rl '^Subject: {subject}' /home/bob/Maildir/new", check=False).stdout.split()
        if len(found) >= count or time.monotonic() > deadline:
            break
        time.sleep(0.3)
    assert len(found) >= count, f"{len(found)} of {count} messages came"
    lines = peer.exec(["python3", "/root/verify.py", *found], timeout=900).stdout.splitlines()
    return [json.loads(line) for line in lines]


def send(server, subject, sender="alice@example.com", recipient="bob@peer.test"):
    server.exec(["sendmail", "-f", sender, recipient], input=f"From: {sender}\nSubject: {subject}\n\nhello\n")


class TestRecords:
    def test_the_check_has_nothing_to_say_about_the_zone_that_is_asked_for(self, server, served):
        assert server.call("mta_dns.check") == []

    def test_each_record_that_is_missing_is_named(self, server, served):
        zone, reverse = lines_of(server)
        lines = [line for line in zone.splitlines() if line and not line.startswith(";")]
        assert len(lines) >= 8
        # Half of them at a time; those of the server itself come first.
        for left_out in (lines[::2], lines[1::2]):
            served.serve("".join(f"{line}\n" for line in lines if line not in left_out), "")
            named = {(one["name"], one["type"]) for one in server.call("mta_dns.check")}
            missing = {(line.split("\t")[0].rstrip("."), line.split("\t")[3]) for line in left_out}
            assert missing <= named, named
            assert "PTR" in {kind for _, kind in named}
            assert "_smtp._tls.example.com" in {name for name, _ in missing} or "_smtp" not in str(named)
        served.serve(zone, reverse)

    def test_each_record_that_is_wrong_is_named_and_no_other(self, server, served):
        zone, reverse = lines_of(server)
        lines = [line for line in zone.splitlines() if line and not line.startswith(";")]
        kinds = set()
        for number, line in enumerate(lines):
            name, _, _, kind, _ = line.split("\t")
            begin = BROKEN if kind != "TXT" else {key: text for key, text in BROKEN.items() if f'"{key}' in line}
            (wrong,) = [text for key, text in begin.items() if kind in ("TXT", key)]
            kinds.add(next(iter(begin)) if kind == "TXT" else kind)
            changed = [*lines[:number], "\t".join([*line.split("\t")[:4], wrong]), *lines[number + 1 :]]
            served.serve("".join(f"{one}\n" for one in changed), reverse)
            named = {(one["name"], one["type"]) for one in server.call("mta_dns.check")}
            assert named == {(name.rstrip("."), kind)}, line
        assert kinds == {*BROKEN}
        served.serve(zone, reverse.replace("mail.example.com", "elsewhere.example.com"))
        assert {one["type"] for one in server.call("mta_dns.check")} == {"PTR"}
        served.serve(zone.replace("v=spf1 mx", "v=spf1 " + "a:mail.example.com " * 11 + "mx"), reverse)
        (one,) = server.call("mta_dns.check")
        assert "look-ups" in one["reason"]
        served.serve(zone, reverse)

    def test_what_is_about_to_break_something_is_told(self, server, served):
        zone, reverse = lines_of(server)
        served.serve(f"{zone}other.example.com. IN MX 10 mail.example.com.\n", reverse)
        # A domain that is not in mydestination, and certificates that get other keys.
        dns = {**PILLAR["dns"], "domains": ["example.com", "other.example.com"]}
        certificate = {**PILLAR["certificate"], "rotate_key": True}
        server.set_pillar({"postfix_mta": {**PILLAR, "dns": dns, "certificate": certificate}})
        found = {(one["name"], one["type"]) for one in server.call("mta_dns.check") if one["kind"] == "risk"}
        assert found == {("other.example.com", "MX"), ("_25._tcp.mail.example.com", "TLSA")}
        server.set_pillar({"postfix_mta": PILLAR})
        served.serve(zone, reverse)

    def test_an_apply_tells_and_undoes_nothing(self, server, served):
        zone, reverse = lines_of(server)
        served.serve(re.sub("(?m)^_dmarc.*$", "", zone), reverse)
        report = server.apply(sls="postfix_mta.verify")
        (state,) = [state for key, state in report.items() if key.startswith("mta_dns_|")]
        assert state["result"] is True and "_dmarc.example.com TXT, missing" in state["comment"]
        # Between applies the beacon and the status go by that, and ask nobody.
        assert [one.split(":")[0] for one in server.call("mta_status.report", login=False)["dns"]] == [
            "_dmarc.example.com TXT, missing"
        ]
        (finding,) = server.call("mta_beacon.found", settings={"dns": True})["dns"]["findings"]
        assert (finding["name"], finding["kind"]) == ("_dmarc.example.com", "missing")
        pillar = {**PILLAR, "dns": {**PILLAR["dns"], "check": "required"}}
        required = server.apply(sls="postfix_mta.verify", pillar={"postfix_mta": pillar})
        (state,) = [state for key, state in required.items() if key.startswith("mta_dns_|")]
        assert state["result"] is False
        server.set_pillar({"postfix_mta": PILLAR})
        served.serve(zone, reverse)


class TestMail:
    def test_it_passes_all_that_a_receiver_asks(self, server, served, peer):
        send(server, "honest")
        (one,) = judged(peer, "honest")
        assert one == {
            **{"subject": "honest", "signatures": 1, "selector": "key0", "dkimpy": True, "mail-dkim": "pass"},
            **{"spf": "pass", "dkim": "pass", "dmarc": "pass"},
        }

    def test_what_a_stranger_forges_does_not(self, server, served, peer):
        # Without a signature, and with one that was made for another text.
        honest = peer.exec("cat $(grep -rl '^Subject: honest' /home/bob/Maildir/new)").stdout
        taken = honest[honest.index("DKIM-Signature:") :].replace("hello", "pay here")
        for text in ("From: alice@example.com\nSubject: forged\n\npay here\n", taken.replace("honest", "forged")):
            peer.exec(["python3", "-c", STRANGER, peer.ip, "alice@example.com"], input=text)
        for one in judged(peer, "forged", 2):
            assert (one["spf"], one["dkimpy"], one["dmarc"]) == ("fail", False, "fail"), one
            assert "pass" not in (one["mail-dkim"], one.get("dkim")), one

    def test_what_others_send_is_not_signed(self, server, served):
        with smtplib.SMTP(server.ip, 25) as client:
            client.sendmail("x@example.org", ["alice@example.com"], "From: alice@example.com\n\nsubject-less\n")
        deadline = time.monotonic() + 20
        mail = "cat $(grep -rl subject-less /home/alice/Maildir/new 2>/dev/null) /dev/null"
        while "subject-less" not in (stranger := server.exec(mail).stdout):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert "DKIM-Signature" not in stranger

    def test_a_signer_that_is_down_is_a_temporary_error(self, server, served, peer):
        server.exec("systemctl stop postfix-mta-signer")
        with smtplib.SMTP(server.ip, 25) as client, contextlib.suppress(smtplib.SMTPException):
            assert client.ehlo()[0] == 250
            assert client.mail("x@example.org")[0] == 451
        # One that cannot start says so, and is not waited for.
        server.exec("cd /etc/postfix-mta-signer && cp -p rspamd.conf kept && echo 'options {' >rspamd.conf")
        assert server.exec("timeout 60 systemctl restart postfix-mta-signer", check=False).returncode == 1
        server.exec("systemctl stop postfix-mta-signer; cd /etc/postfix-mta-signer && mv kept rspamd.conf")
        # What is sent on the host waits before it is queued, and is signed then.
        send(server, "delayed-one")
        server.exec("systemctl start postfix-mta-signer")
        send(server, "delayed-two")
        assert [one["dkimpy"] for one in judged(peer, "delayed-", 2)] == [True, True]

    def test_mail_whose_key_cannot_be_used_waits_and_an_apply_mends_that(self, server, served, peer):
        folder, socket = "/etc/postfix-mta-signer", "/var/spool/postfix/postfix_mta_signer"
        wants = ["python3", "-c", STRANGER, "127.0.0.1", "alice@example.com"]
        text = "From: alice@example.com\nSubject: keyless\n\nhello\n"
        server.exec(f"mv {folder}/key0.key /srv/")
        assert "451, b'4.7.1 the key key0 cannot be used'" in server.exec(wants, input=text, check=False).stderr
        server.exec(f"mv /srv/key0.key {folder}/; chown root {folder}/key0.key; rm -r {socket}")
        announced = server.apply(test=True, sls="postfix_mta.dkim")
        done = server.apply(sls="postfix_mta.dkim")
        assert results.failures(done) == []
        assert results.difference(announced, done) == []
        server.exec(wants, input=text)
        assert [one["dkimpy"] for one in judged(peer, "keyless")] == [True]

    def test_a_signer_that_cannot_take_its_settings_goes_on_as_before(self, server, served, peer):
        plugin = "/usr/share/rspamd/plugins/dkim_signing.lua"
        pillar = {**PILLAR, "dkim": {**PILLAR["dkim"], "networks": ["192.0.2.0/24"]}}
        server.exec(f"mv {plugin} /srv/")
        try:
            failed = results.failures(server.apply(pillar={"postfix_mta": pillar}, sls="postfix_mta.dkim"))
            send(server, "as-before")
            assert [one["dkimpy"] for one in judged(peer, "as-before")] == [True]
        finally:
            server.exec(f"mv /srv/dkim_signing.lua {plugin}")
        # What configtest says is another text with each version of rspamd.
        assert len(failed) == 1
        assert "dkim_signing.lua" in failed[0]
        assert "Undone: /etc/postfix-mta-signer/rspamd.conf." in failed[0]
        assert "The server answers as it did before." in failed[0]
        server.set_pillar({"postfix_mta": PILLAR})
        assert results.announced(server.apply(test=True, sls="postfix_mta.dkim")) == set()

    def test_an_apply_asks_no_name_server_unless_that_is_asked_for(self, server, served):
        asked = "unbound-control stats_noreset | grep ^total.num.queries="
        server.set_pillar({"postfix_mta": {**PILLAR, "dns": {**PILLAR["dns"], "check": "none"}}})
        server.apply()
        before = server.exec(asked).stdout
        assert results.announced(server.apply()) == set()
        assert server.exec(asked).stdout == before
        server.set_pillar({"postfix_mta": PILLAR})

    def test_only_postfix_reaches_the_socket_and_the_key(self, server):
        shown = server.exec(
            "stat -c '%U %G %a' /var/spool/postfix/postfix_mta_signer /etc/postfix-mta-signer/key0.key"
        ).stdout
        assert shown == "_rspamd postfix 750\n_rspamd _rspamd 600\n"


class TestDane:
    """Servers whose keys are in a signed zone, and what is sent to them."""

    def test_it_is_on_where_the_resolver_validates_and_no_later_apply_asks(self, server, dane):
        announced, done = dane
        assert results.failures(done) == []
        assert results.difference(announced, done) == []
        level = server.exec("postconf -h smtp_tls_security_level smtp_dns_support_level").stdout
        assert level == "dane\ndnssec\n"
        asked = "unbound-control stats_noreset | grep ^total.num.queries="
        before = server.exec(asked).stdout
        assert results.announced(server.apply(sls="postfix_mta.config")) == set()
        assert server.exec(asked).stdout == before
        assert server.call("mta_probe.audit")["findings"] == []

    def test_a_right_key_is_sent_to_and_a_wrong_one_is_not(self, server, served, dane, peer):
        zone, reverse = lines_of(server)
        key = peer.exec(
            "openssl x509 -in $(postconf -xh smtpd_tls_cert_file) -pubkey -noout"
            " | openssl pkey -pubin -outform DER | sha256sum"
        ).stdout.split()[0]
        extra = ""
        for name, digest in (("right", key), ("wrong", "00" * 32)):
            host = f"mx.{name}.example.com."
            extra += f"{name}.example.com. IN MX 10 {host}\n{host} IN A {peer.ip}\n"
            extra += f"_25._tcp.{host} IN TLSA 3 1 1 {digest}\n"
        served.serve(zone + extra, reverse)
        peer.exec("postconf -e 'mydestination = peer.test right.example.com wrong.example.com' && postfix reload")
        for name in ("right", "wrong"):
            send(server, f"dane-{name}", recipient=f"bob@{name}.example.com")
        assert len(judged(peer, "dane-right")) == 1
        deadline = time.monotonic() + 30
        while "wrong.example.com" not in (waits := server.exec("mailq").stdout) or "ertificate not " not in waits:
            assert time.monotonic() < deadline, waits
            time.sleep(0.3)
        assert (
            "Verified TLS connection established to mx.right"
            in server.exec("journalctl -o cat -t postfix/smtp").stdout
        )
        assert peer.exec("grep -rl '^Subject: dane-wrong' /home/bob/Maildir/new", check=False).stdout == ""
        server.exec("postsuper -d ALL")
        served.serve(zone, reverse)


# With the MTA-STS policies ``enforce``: a right certificate; another one; another one by DANE, which goes first.
STS = ("sts-right", "sts-wrong", "sts-dane")


class TestMtaSts:
    """Servers whose domains have an MTA-STS policy, and what is sent to them."""

    @pytest.fixture(scope="class")
    def trusted(self, peer, server):
        """A CA that the host trusts, and a certificate of it for the policies' server and all MX hosts but one."""
        names = [f"mta-sts.{name}.example.com" for name in STS]
        names += [f"mx.{name}.example.com" for name in STS if name != "sts-wrong"]
        new = "openssl req -newkey rsa:2048 -nodes -subj"
        # All that RFC 5280 demands, as Python 3.13 does.
        said = f"subjectAltName={','.join(f'DNS:{name}' for name in names)}\n"
        said += "authorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n"
        peer.put({"/srv/policies.py": POLICIES, "/srv/peer.ext": said})
        peer.exec(
            f"cd /srv && {new} /CN=authority -x509 -days 2 -addext keyUsage=critical,keyCertSign"
            " -keyout ca.key -out ca.pem 2>/dev/null"
            f" && {new} /CN=peer -keyout peer.key -out peer.csr 2>/dev/null"
            " && openssl x509 -req -in peer.csr -days 2 -CA ca.pem -CAkey ca.key -extfile peer.ext -out peer.pem"
            " 2>/dev/null"
            " && postconf -e smtpd_tls_cert_file=/srv/peer.pem smtpd_tls_key_file=/srv/peer.key"
            f" 'mydestination = peer.test {' '.join(f'{name}.example.com' for name in STS)}'"
            " && systemctl restart postfix && systemd-run -q python3 /srv/policies.py"
        )
        server.put({"/usr/local/share/ca-certificates/peer.crt": peer.exec("cat /srv/ca.pem").stdout})
        # Postfix has a copy of the authorities in its chroot; the daemon has read them, and resolv.conf, before.
        server.exec("update-ca-certificates >/dev/null; systemctl restart postfix-mta-sts postfix")

    def test_a_right_certificate_is_sent_to_a_wrong_one_is_not_and_dane_goes_first(
        self, server, served, dane, peer, trusted
    ):
        zone, reverse = lines_of(server)
        extra = f"_25._tcp.mx.sts-dane.example.com. IN TLSA 3 1 1 {'00' * 32}\n"
        for domain in (f"{name}.example.com." for name in STS):
            extra += (
                f"{domain} IN MX 10 mx.{domain}\nmx.{domain} IN A {peer.ip}\nmta-sts.{domain} IN A {peer.ip}\n"
            )
            extra += f'_mta-sts.{domain} IN TXT "v=STSv1; id=1"\n'
        served.serve(zone + extra, reverse)
        for name in STS:
            send(server, name, recipient=f"bob@{name}.example.com")
        assert len(judged(peer, "sts-right")) == 1
        log = "journalctl -o cat -t postfix/smtp"
        deadline = time.monotonic() + 60
        while True:
            lines = server.exec(log).stdout.splitlines()
            waits = [one for one in lines if "status=deferred" in one and "ertificate not" in one]
            if all(any(f"{name}.example.com" in one for one in waits) for name in STS[1:]):
                break
            assert time.monotonic() < deadline, lines
            time.sleep(0.5)
        assert any("Verified TLS connection established to mx.sts-right" in one for one in lines)
        found = peer.exec("grep -rlE '^Subject: sts-(wrong|dane)' /home/bob/Maildir/new", check=False).stdout
        assert found == ""
        ask = (
            "postmap -q {}.example.com $(postconf -h smtp_tls_policy_maps | sed s,unix:,unix:/var/spool/postfix/,)"
        )
        said = [server.exec(ask.format(name)).stdout for name in STS]
        assert [one.split()[0] for one in said] == ["secure", "secure", "dane-only"]
        server.exec("postsuper -d ALL")
        served.serve(zone, reverse)

    def test_mail_waits_while_the_daemon_is_down(self, server, served, peer):
        server.exec("systemctl stop postfix-mta-sts")
        send(server, "patient")
        deadline = time.monotonic() + 30
        while "policy" not in (waits := server.exec("mailq").stdout) and "TLS" not in waits:
            assert time.monotonic() < deadline, waits
            time.sleep(0.3)
        server.exec("systemctl start postfix-mta-sts; postqueue -f")
        assert len(judged(peer, "patient")) == 1


class TestResults:
    """What others send is judged by default; refused is only what the domain in From wants refused, on request."""

    FORGED = "From: alice@example.com\nAuthentication-Results: mail.example.com; spf=pass\nSubject: judged\n\nhi\n"
    FORGE = STRANGER.replace("bob@peer.test", "alice@example.com")

    def test_what_others_send_is_judged_in_its_header_and_not_refused(self, server, served, peer):
        peer.exec(["python3", "-c", self.FORGE, server.ip, "x@peer.test"], input=self.FORGED)
        deadline = time.monotonic() + 20
        mail = ""
        while "judged" not in mail and time.monotonic() < deadline:
            time.sleep(0.3)
            mail = server.exec("cat $(ls -t /home/alice/Maildir/new/* | head -1)").stdout
        (found,) = re.findall(r"(?m)^Authentication-Results: (.*(?:\n\s.*)*)", mail)
        assert "dmarc=fail" in found and "spf=pass" not in found and "dkim=none" in found, found

    def test_what_fails_dmarc_is_refused_on_request_and_one_line_says_why(self, server, served, peer):
        zone, reverse = lines_of(server)
        served.serve(zone.replace("p=none", "p=reject"), reverse)
        pillar = {**PILLAR, "dkim": {**PILLAR["dkim"], "dmarc_reject": True}}
        # The messages of the check after it say that they are from this domain, too.
        assert results.failures(server.apply(pillar={"postfix_mta": pillar}, sls="postfix_mta.dkim")) == []
        deadline = time.monotonic() + 60
        while True:
            # Until the new worker is there, the old one refuses nothing.
            done = peer.exec(
                ["python3", "-c", self.FORGE, server.ip, "x@peer.test"], input=self.FORGED, check=False
            )
            if done.returncode or time.monotonic() > deadline:
                break
        assert "554" in done.stderr and "fails DMARC" in done.stderr, done
        (line,) = [
            one
            for one in server.exec("journalctl -o cat -t postfix/cleanup").stdout.splitlines()
            if "milter-reject" in one and "from=<x@peer.test>" in one
        ]
        assert "5.7.1" in line and "fails DMARC" in line
        server.set_pillar({"postfix_mta": PILLAR})
        served.serve(zone, reverse)


class TestTwoKeys:
    def test_an_ed25519_key_signs_as_well_once_its_record_is_there(self, server, served, peer):
        dkim = {**PILLAR["dkim"], "key_type": "rsa+ed25519", "networks": [f"{peer.ip}/32"]}
        pillar = {**PILLAR, "dkim": dkim}
        waits = server.apply(pillar={"postfix_mta": pillar}, sls="postfix_mta.dkim")
        assert results.failures(waits) == []
        assert "key0-ed25519 signs, too, after all name servers have its record" in str(waits)
        served.serve(*lines_of(server))
        announced = server.apply(test=True, sls="postfix_mta.dkim")
        done = server.apply(sls="postfix_mta.dkim")
        assert results.failures(done) == []
        assert results.difference(announced, done) == []
        send(server, "twice")
        (one,) = judged(peer, "twice")
        assert (one["signatures"], one["dkimpy"], one["mail-dkim"], one["dmarc"]) == (2, True, "pass", "pass")
        # And what comes from a network of dkim:networks.
        forge = ["python3", "-c", TestResults.FORGE, server.ip, "alice@example.com"]
        peer.exec(forge, input="From: alice@example.com\nSubject: networked\n\nhi\n")
        deadline = time.monotonic() + 20
        mail = "cat $(grep -rl '^Subject: networked' /home/alice/Maildir/new) </dev/null"
        while server.exec(f"{mail} | grep -c ^DKIM-Signature", check=False).stdout != "2\n":
            assert time.monotonic() < deadline
            time.sleep(0.3)


# The given key is under /srv, where nobody looks for it. Each program that starts, with arguments and environment.
SECRETS = {"driver": "yaml", "files": ["/srv/secrets.yaml"]}
TRACED = (
    "strace -f -qq -v -s 65536 -e trace=execve -o /srv/programs salt-call --local --config-dir={}etc/salt"
    " --out=json --log-file=/srv/log --log-file-level=all -l quiet state.apply postfix_mta.dkim"
)


class TestRotation:
    @pytest.fixture
    def given(self, server, peer):
        """A key where servers that share one have it: what the pillar says of it, and its text."""
        text = peer.exec("openssl genrsa 2048 2>/dev/null").stdout
        folder = f"{server.root}etc/salt/minion.d"
        secrets = {f"{folder}/sdb.conf": json.dumps({"secrets": SECRETS})}
        server.put({**secrets, "/srv/secrets.yaml": json.dumps({"dkim": text})})
        server.exec(f"{INSTALL} strace >/dev/null 2>&1")
        yield "sdb://secrets/dkim", text
        server.exec(f"cd {folder} && rm sdb.conf /srv/secrets.yaml /srv/programs /srv/log; rmdir {folder} || true")

    def test_no_message_is_unverifiable_or_lost(self, server, served, peer, given):
        uri, text = given
        sent, over, shown = [], threading.Event(), ""

        def keep_sending():
            while not over.is_set():
                send(server, f"constant-{len(sent)}-")
                sent.append(1)
                time.sleep(1.5)

        sender = threading.Thread(target=keep_sending)
        sender.start()
        try:
            for number in range(1, ROTATIONS + 1):
                selector = f"key{number}"
                # One of them is given, one is long; the others are made as by default.
                key = {1: {"private_key": uri}, 2: {"key_size": 4096}}.get(number, {})
                pillar = {**PILLAR, "dkim": {**PILLAR["dkim"], "selector": selector, **key}}
                server.set_pillar({"postfix_mta": pillar})
                if number == 1:
                    waits = json.loads(server.exec(TRACED.format(server.root)).stdout)["local"]
                    # Now it is in the pillar itself, which Salt logs.
                    server.set_pillar({"postfix_mta": {**pillar, "dkim": {**pillar["dkim"], "private_key": text}}})
                else:
                    waits = server.apply(sls="postfix_mta.dkim")
                assert results.failures(waits) == []
                assert f"key{number - 1} signs until all name servers have the record of {selector}" in str(waits)
                assert f"# signs: key{number - 1}" in server.exec("cat /etc/postfix-mta-signer/rspamd.conf").stdout
                served.serve(*lines_of(server))
                announced = server.apply(test=True, sls="postfix_mta.dkim")
                done = server.apply(sls="postfix_mta.dkim")
                assert results.failures(done) == []
                assert results.difference(announced, done) == []
                shown += json.dumps([waits, announced, done])
                assert f"# signs: {selector}" in server.exec("cat /etc/postfix-mta-signer/rspamd.conf").stdout
                assert (
                    f"# kept: key{number - 1} since"
                    in server.exec("cat /etc/postfix-mta-signer/rspamd.conf").stdout
                )
            time.sleep(3)
        finally:
            over.set()
            sender.join()
        places = "/etc /run /tmp /var/cache /var/lib /var/log /var/spool/postfix /root"
        line = text.splitlines()[9]
        found = server.exec(f"journalctl >/tmp/journal; grep -rlF {line} {places}").stdout
        assert found == "/etc/postfix-mta-signer/key1.key\n"
        assert line not in shown
        assert server.exec("grep -c execve /srv/programs; grep -c postfix_mta /srv/log").stdout.count("\n") == 2
        assert server.exec(f"grep -F {line} /srv/programs /srv/log", check=False).stdout == ""
        seen = judged(peer, "constant-", len(sent))
        print(f"{ROTATIONS} rotations, {len(sent)} messages sent, {len(seen)} came")
        assert len(seen) == len(sent)
        assert [
            one for one in seen if (one["dkimpy"], one["mail-dkim"], one["dmarc"]) != (True, "pass", "pass")
        ] == []
        assert {one["selector"] for one in seen} == {f"key{number}" for number in range(ROTATIONS + 1)}
        # After so many days the others go.
        pillar = {**PILLAR, "dkim": {**PILLAR["dkim"], "selector": f"key{ROTATIONS}", "keep_days": 0}}
        assert results.failures(server.apply(pillar={"postfix_mta": pillar}, sls="postfix_mta.dkim")) == []
        assert server.exec("cd /etc/postfix-mta-signer; ls *.key").stdout == f"key{ROTATIONS}.key\n"
        assert re.findall(r"(?m)^(\w+)\._domainkey", lines_of(server)[0]) == [f"key{ROTATIONS}"]


class TestGivenUp:
    def test_nothing_is_left(self, server):
        announced = server.apply(test=True, pillar={"postfix_mta": REST})
        done = server.apply()
        assert results.failures(done) == []
        assert results.difference(announced, done) == []
        left = server.exec(
            "ls -d /etc/postfix-mta-signer /var/spool/postfix/postfix_mta_signer /etc/systemd/system/*signer*"
            " /etc/systemd/system/*/*signer* /run/postfix-mta-signer /etc/postfix-mta-sts /run/postfix-mta-sts"
            " /var/spool/postfix/postfix_mta_sts /etc/systemd/system/*-mta-sts* /etc/systemd/system/*/*-mta-sts*"
            " /var/cache/postfix-mta-* 2>/dev/null; pgrep rspamd; pgrep -u _mta-sts; postconf -n | grep milter;"
            " postconf -n | grep policy_maps",
            check=False,
        ).stdout
        assert left == ""
        second = server.apply()
        assert {key: second[key]["changes"] for key in results.announced(second)} == {}

    def test_without_what_was_installed_the_host_is_as_before(self, server):
        there = {
            line.split(" ")[1] for line in inventory(server) - server.inventory if line.startswith("package ")
        }
        server.exec(["dpkg", "--purge", *there])
        now = inventory(server)
        # Packages leave their users; the resolver validates now, so DANE is on.
        kept = re.compile(
            "(user|group) (_rspamd|_mta-sts|redis|valkey):|set smtp_(tls_security|dns_support)_level"
        )
        differ = [
            sorted(line for line in one if not kept.match(line))
            for one in (now - server.inventory, server.inventory - now)
        ]
        assert differ == [[], []]


MILTER = "inet:127.0.0.1:8891"
OPENDKIM = """\
Domain example.com
Selector theirs
KeyFile /etc/dkimkeys/theirs.private
UserID opendkim
PidFile /run/opendkim/opendkim.pid
Canonicalization relaxed/relaxed
Mode s
Socket inet:8891@127.0.0.1
"""


class TestTheirs:
    """An OpenDKIM of the administrator's own is left alone, and used once the pillar names it."""

    @pytest.fixture
    def record(self, server):
        """The record of the key with which it signs."""
        server.exec(f"{INSTALL} opendkim opendkim-tools >/dev/null 2>&1")
        server.put({"/etc/opendkim.conf": OPENDKIM})
        server.exec(
            "opendkim-genkey -b 2048 -s theirs -d example.com -D /etc/dkimkeys; chown -R opendkim: /etc/dkimkeys"
        )
        server.exec(f"systemctl restart opendkim; postconf -e smtpd_milters={MILTER}; postfix reload")
        return server.exec("cat /etc/dkimkeys/theirs.txt").stdout.replace(
            "_domainkey\t", "_domainkey.example.com.\t"
        )

    def test_it_is_not_replaced_and_then_used(self, server, served, peer, record):
        before = server.exec("postconf -n; cat /etc/opendkim.conf").stdout
        refused = results.failures(server.apply(pillar={"postfix_mta": PILLAR}))
        assert any(f"main.cf has a milter already, smtpd_milters = {MILTER}" in text for text in refused), refused
        assert server.exec("postconf -n; cat /etc/opendkim.conf").stdout == before
        pillar = {**PILLAR, "dkim": {"domains": ["example.com"], "milter": MILTER}}
        assert results.failures(server.apply(pillar={"postfix_mta": pillar})) == []
        zone, reverse = lines_of(server)
        served.serve(zone + record, reverse)
        send(server, "by-theirs")
        (one,) = judged(peer, "by-theirs")
        assert (one["selector"], one["dkimpy"], one["mail-dkim"], one["dmarc"]) == ("theirs", True, "pass", "pass")
        assert (
            server.exec("systemctl is-active postfix-mta-signer opendkim", check=False).stdout
            == "inactive\nactive\n"
        )
        assert server.exec("cat /etc/opendkim.conf").stdout == OPENDKIM
