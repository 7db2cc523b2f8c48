"""
Certificates are renewed while clients connect all the time, in time, and never for the worse.

The environment variable POSTFIX_MTA_RENEWALS says how many renewals there are (default 8).
"""

import json
import os
import pathlib
import statistics
import time

import pytest

from rig.results import state_of

RENEWALS = int(os.environ.get("POSTFIX_MTA_RENEWALS", "8"))
HERE = pathlib.Path(__file__).parent
CA, CA_KEY = "/etc/ssl/certs/cacert.pem", "/etc/ssl/private/cakey.pem"
CERTIFICATE, KEY, CHAIN = "/etc/ssl/certs/smtpd.crt", "/etc/ssl/private/smtpd.key", "/etc/ssl/private/smtpd.pem"
PAIR = {
    "name": CERTIFICATE,
    "key": KEY,
    "hostname": "mail.example.com",
    "ca_certificate": CA,
    "ca_key": CA_KEY,
    "key_size": 2048,
}
SECOND = {
    **PAIR,
    "name": "/etc/ssl/certs/smtpd-2.crt",
    "key": "/etc/ssl/private/smtpd-2.key",
    "key_type": "ec",
    "key_size": 256,
}
# What Postfix says when it has no key that belongs to its certificate.
TLS_TROUBLE = "mismatch|disabling TLS|cannot (get|load)|no suitable"


def state(results, name="postfix_mta_certificate"):
    """The result of the state with an id."""
    return state_of(results, name)


def good(results):
    """The results, all of which must be good."""
    wrong = {key: one["comment"] for key, one in results.items() if one["result"] is not True}
    assert not wrong, wrong
    return results


class Host:
    """The host under test."""

    def __init__(self, container, pillar):
        self.container, self.pillar = container, pillar
        self.exec = container.exec
        # Salt's interpreter: what salt-call's first line says.
        program = self.exec("head -1 $(readlink -f $(command -v salt-call))").stdout
        self.python = program.strip().lstrip("#!").split()[0]
        for name in ("client", "renew", "certificates"):
            container.copy(HERE / f"{name}.py", f"/srv/{name}.py")

    def settings(self, **certificate):
        """A pillar with these settings of the certificate."""
        pillar = self.pillar["postfix_mta"]
        return {"postfix_mta": {**pillar, "certificate": {**pillar["certificate"], **certificate}}}

    def apply(self, **certificate):
        """Apply a pillar with these settings of the certificate; it must succeed."""
        return good(self.container.apply(pillar=self.settings(**certificate)))

    def converges(self, **certificate):
        """Apply until nothing changes: once, and once more."""
        results = self.apply(**certificate)
        again = self.apply(**certificate)
        assert not any(one["changes"] for one in again.values())
        return results

    def read(self, path):
        return self.exec(["cat", path]).stdout

    def config(self):
        return f"{self.container.root}etc/salt"

    def renew(self, times, *pairs):
        """Renew pairs in turn; what came of each time."""
        argv = [self.python, "/srv/renew.py", self.config(), str(times), *map(json.dumps, pairs)]
        return json.loads(self.exec(argv, timeout=3600).stdout.splitlines()[-1])

    def make(self, ago, days, key=KEY, certificate=CERTIFICATE):
        """A certificate, signed by the authority, that was made so many days ago."""
        self.exec([self.python, "/srv/certificates.py", self.config(), CA, CA_KEY, key, certificate, ago, days])

    def log_since(self, moment):
        """What Postfix has said of its keys and certificates."""
        lines = self.exec(["journalctl", "-q", "-o", "cat", f"--since=@{int(moment)}", "SYSLOG_FACILITY=2"]).stdout
        return self.exec(f"grep -Ei '{TLS_TROUBLE}' || true", input=lines).stdout.splitlines()

    def served(self, kind="any"):
        """What a client that connects now sees."""
        script = "import sys; sys.argv = ['x', '/tmp', '/tmp']; exec(open('/srv/client.py').read()[:-7])"
        return self.exec(["python3", "-c", f"{script}\nprint(connect('{CA}', '{kind}'))"]).stdout.strip()


@pytest.fixture(scope="module")
def server(container, instance):
    return Host(container, instance.provisioner["pillars"]["postfix_mta.sls"])


@pytest.fixture
def clients(server):
    """A function that starts clients of kinds; their end returns their records: (kind, time, outcome)."""
    running = []

    def start(*kinds):
        folder = f"/var/lib/clients-{time.time_ns()}"
        running.append(f"clients-{len(running)}-{time.time_ns()}")
        server.exec(["systemd-run", f"--unit={running[-1]}", "--quiet", "python3", "/srv/client.py",
                     folder, CA, *kinds])  # fmt: skip
        server.exec(["timeout", "30", "sh", "-c", f"until test -s {folder}/{kinds[-1]}; do sleep 0.1; done"])

        def end():
            server.exec(["systemctl", "stop", running[-1]])
            found = []
            for kind in kinds:
                for line in server.read(f"{folder}/{kind}").splitlines():
                    moment, _, outcome = line.partition(" ")
                    found.append((kind, float(moment), outcome))
            return found

        return end

    yield start
    for unit in running:
        server.exec(["systemctl", "stop", unit], check=False)


def tell(capsys, title, done, seen):
    with capsys.disabled():
        took = [one["took"] for one in done]
        print(
            f"\n{title}: {len(done)} renewals, {statistics.median(took):.2f} s each (median),"
            f" {len(seen)} handshakes by {len({kind for kind, *_ in seen})} processes,"
            f" {sum(len(outcome) != 64 for *_, outcome in seen)} failed,"
            f" {len({outcome for *_, outcome in seen if len(outcome) == 64})} certificates seen"
        )


def all_well(done, seen, least):
    """Every renewal went well, every handshake too, and the clients saw the certificate change."""
    assert [one["comment"] for one in done if one["result"] is not True] == []
    assert [(kind, outcome) for kind, _, outcome in seen if len(outcome) != 64] == []
    made = [one["certificate"] for one in done]
    assert len(set(made)) == len(done)
    shown = {outcome for *_, outcome in seen}
    assert len(shown & set(made)) >= least, "the clients did not see the certificate change each time"


class TestRenewals:
    """Forced renewals while several processes make TLS connections all the time."""

    def test_the_how_tos_two_files_with_the_key_kept(self, server, clients, capsys):
        began = time.time()
        end = clients("any", "aRSA")
        done = server.renew(RENEWALS // 2, PAIR)
        seen = end()
        tell(capsys, "two files, key kept", done, seen)
        all_well(done, seen, len(done) - 1)
        assert len({one["key"] for one in done}) == 1
        assert server.log_since(began) == []
        assert server.served() == done[-1]["certificate"]

    def test_two_pairs_in_chain_files_with_a_new_key_each_time(self, server, clients, capsys):
        server.converges(rotate_key=True, second={"key_type": "ec"})
        shown = server.exec("postconf -n").stdout
        assert "smtpd_tls_chain_files = /etc/ssl/private/smtpd.pem, /etc/ssl/private/smtpd-2.pem" in shown
        assert "smtpd_tls_key_file" not in shown
        began = time.time()
        end = clients("any", "aRSA", "aECDSA")
        pairs = [
            {**pair, "rotate_key": True, "chain_file": pair["key"].replace(".key", ".pem")}
            for pair in (PAIR, SECOND)
        ]
        done = server.renew(RENEWALS - RENEWALS // 2, *pairs)
        seen = end()
        tell(capsys, "two chain files, new keys", done, seen)
        all_well(done, seen, len(done) - 2)
        assert len({one["key"] for one in done}) == len(done)
        assert server.log_since(began) == []
        assert {server.served("aRSA"), server.served("aECDSA")} == {one["certificate"] for one in done[-2:]}

    def test_back_to_two_files_nothing_is_left_of_the_chain_files_in_main_cf(self, server):
        server.converges()
        shown = server.exec("postconf -n").stdout
        assert "smtpd_tls_chain_files" not in shown
        assert f"smtpd_tls_key_file = {KEY}" in shown
        assert len(server.served()) == 64

    def test_a_weak_key_in_two_files_is_replaced_with_no_half_of_a_pair_served(self, server, clients):
        subject = ["-subj", "/CN=mail.example.com", "-addext", "subjectAltName=DNS:mail.example.com"]
        server.exec(["openssl", "req", "-x509", "-newkey", "rsa:1024", "-nodes", "-days", "100", *subject,
                     "-keyout", KEY, "-out", CERTIFICATE])  # fmt: skip
        server.exec("postfix reload")
        began = time.time()
        end = clients("any", "aRSA")
        results = server.apply()
        time.sleep(1)
        seen = end()
        assert "the key is too weak" in state(results)["comment"]
        # Clients refuse the weak certificate, and nobody answers while Postfix is stopped; that is all.
        expected = ("CERTIFICATE_VERIFY_FAILED", "Disconnected", "closed", "reset", "EOF")
        trouble = {outcome for *_, outcome in seen if outcome.startswith("failed")}
        assert not [text for text in trouble if not any(word in text for word in expected)]
        assert server.log_since(began) == []
        assert len(server.served()) == 64


class TestTime:
    """Certificates made in the past: nothing before the window, a renewal in it, healed after the end."""

    @pytest.mark.parametrize(
        ("ago", "days", "words"),
        [
            (825 - 31, 825, None),
            (825 - 26.9, 825, "its renewal began at"),
            (60 - 21, 60, None),
            (60 - 17.9, 60, "its renewal began at"),
            (826, 825, "it expired at"),
        ],
    )
    def test_a_certificate_is_renewed_when_it_is_time(self, server, ago, days, words):
        server.make(ago, days)
        server.exec("postfix reload")
        key = server.read(KEY)
        results = server.converges()
        assert bool(state(results)["changes"]) is bool(words)
        assert (words or "") in state(results)["comment"]
        assert server.read(KEY) == key
        assert server.container.call("mta_cert.verify", CERTIFICATE, key=KEY, ca_certificate=CA,
                                     hostname="mail.example.com") == []  # fmt: skip


@pytest.fixture(scope="module")
def programs(server):
    server.exec("apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install gnutls-bin swaks")


@pytest.mark.usefixtures("programs")
class TestClients:
    """Programs that verify strictly take the chain."""

    def test_openssl(self, server):
        server.exec(["openssl", "verify", "-purpose", "sslserver", "-x509_strict", "-verify_hostname",
                     "mail.example.com", "-CAfile", CA, CERTIFICATE])  # fmt: skip

    def test_certtool(self, server):
        shown = server.exec(["certtool", "--verify", "--verify-hostname=mail.example.com",
                             f"--load-ca-certificate={CA}", f"--infile={CERTIFICATE}"]).stdout  # fmt: skip
        assert "Verified. The certificate is trusted." in shown

    def test_swaks(self, server):
        argv = ["swaks", "--server", "mail.example.com", "--tls", "--tls-verify", "--quit-after", "EHLO"]
        shown = server.exec([*argv, "--tls-ca-path", CA]).stdout
        assert "TLS started with cipher" in shown
        assert server.exec(
            [*argv, "--tls-ca-path", "/etc/ssl/certs/ssl-cert-snakeoil.pem"], check=False
        ).returncode


LIVE = "/etc/letsencrypt/live/mail.example.com"
ARCHIVE = LIVE.replace("live", "archive")
FILES = {"certificate": f"{LIVE}/fullchain.pem", "key": f"{LIVE}/privkey.pem"}


class TestFiles:
    """What certbot leaves is taken over, and what is not good is not."""

    def certbot(self, server, number):
        """A renewal as certbot makes it: new files in archive, links to them in live."""
        server.exec(f"mkdir -p {LIVE} {ARCHIVE}")
        key, certificate = f"{ARCHIVE}/privkey{number}.pem", f"{ARCHIVE}/fullchain{number}.pem"
        server.make(1, 90, key, certificate)
        server.exec(f"cat {CA} >>{certificate}")
        server.exec(f"ln -sf ../../archive/mail.example.com/privkey{number}.pem {LIVE}/privkey.pem")
        server.exec(f"ln -sf ../../archive/mail.example.com/fullchain{number}.pem {LIVE}/fullchain.pem")

    def test_a_pair_and_its_renewal_are_taken_over(self, server):
        served = []
        for number in (1, 2):
            self.certbot(server, number)
            server.converges(source="files", files=FILES)
            assert server.read(KEY) == server.read(f"{LIVE}/privkey.pem")
            assert server.read(CERTIFICATE) == server.read(f"{LIVE}/fullchain.pem")
            assert server.read(CHAIN) == server.read(KEY) + server.read(CERTIFICATE)
            assert server.exec(f"stat -c '%a %U' {KEY} {CERTIFICATE} {CHAIN}").stdout.split("\n")[:3] == [
                "600 root",
                "644 root",
                "600 root",
            ]
            served.append(server.served())
        assert len(set(served)) == 2

    def test_a_bad_renewal_is_an_error_and_the_server_keeps_its_pair(self, server):
        before = server.read(KEY), server.read(CERTIFICATE), server.served()
        for damage, words in (
            (f"ln -sf {ARCHIVE}/privkey1.pem {LIVE}/privkey.pem", "it does not belong to the key"),
            (f"rm {LIVE}/fullchain.pem; echo nonsense >{LIVE}/fullchain.pem", "holds no PEM certificate"),
            (f"rm {LIVE}/privkey.pem", "is not there"),
        ):
            self.certbot(server, 3)
            server.exec(damage)
            failed = state(server.container.apply(pillar=server.settings(source="files", files=FILES)))
            assert failed["result"] is False
            assert words in failed["comment"]
            assert (server.read(KEY), server.read(CERTIFICATE), server.served()) == before

    def test_back_to_an_authority_of_its_own(self, server):
        server.converges()


class TestKinds:
    """Every kind of key is made, for the authority and the server, served, and taken by a strict client."""

    @pytest.mark.parametrize(
        ("kind", "size", "words"),
        [
            ("ec", 384, "Public-Key: (384 bit)"),
            ("rsa", 4096, "Public-Key: (4096 bit)"),
            ("ed25519", None, "ED25519 Public-Key:"),
        ],
    )
    def test_a_new_authority_and_pair_of_a_kind(self, server, kind, size, words):
        server.exec(["rm", CA, CA_KEY, CERTIFICATE, KEY])
        server.converges(key_type=kind, key_size=size)
        connect = ["openssl", "s_client", "-starttls", "smtp", "-connect", "127.0.0.1:25", "-CAfile", CA,
                   "-verify_hostname", "mail.example.com", "-verify_return_error", "-x509_strict"]  # fmt: skip
        shown = server.exec(connect, input="QUIT\n").stdout
        assert "Verify return code: 0 (ok)" in shown
        for file in (CA, CERTIFICATE):
            assert words in server.exec(f"openssl x509 -in {file} -noout -text").stdout
        assert len(server.served()) == 64


class TestDisks:
    """A pair on a file system that cannot take another one stays as it is, and the error says why."""

    @pytest.fixture
    def pair(self, server):
        """A good pair in a small file system of its own."""
        folder = "/srv/disk"
        server.exec(f"mkdir -p {folder} && mount -t tmpfs -o size=128k tmpfs {folder}")
        pair = {
            **PAIR,
            "name": f"{folder}/smtpd.crt",
            "key": f"{folder}/smtpd.key",
            "key_type": "ec",
            "key_size": 256,
        }
        assert server.container.call("state.single", "mta_cert.managed", **pair)
        yield pair
        server.exec(f"umount {folder}")

    @pytest.mark.parametrize(
        ("ruin", "words"),
        [
            ("dd if=/dev/zero of=/srv/disk/filler bs=4k 2>/dev/null; true", "No space left on device"),
            (
                "mount -o remount,ro /srv/disk",
                "is on a file system that is read-only: mount -o remount,rw /srv/disk",
            ),
        ],
    )
    def test_nothing_is_replaced(self, server, pair, ruin, words):
        before = server.exec("sha256sum /srv/disk/smtpd.*").stdout
        server.exec(ruin)
        wanted = {**pair, "alternative_names": ["new.example.com"], "rotate_key": True}
        (failed,) = server.container.call("state.single", "mta_cert.managed", **wanted).values()
        assert failed["result"] is False
        assert words in failed["comment"]
        assert "/srv/disk" in failed["comment"]
        assert server.exec("sha256sum /srv/disk/smtpd.*").stdout == before
        assert len(server.served()) == 64
