"""Smarthosts that demand a login: mail arrives there, and the password is seen nowhere."""

import time

import pytest

from rig.results import failed, state_of

PASSWORD = "not-in any#log"
TABLE = "/etc/postfix/relay_passwords"
SAVED = "/var/tmp/smarthost"
SAMPLE = """
import glob, pathlib, time
seen = set()
while not pathlib.Path("/tmp/sampled").exists():
    for path in glob.glob("/proc/[0-9]*/cmdline") + glob.glob("/proc/[0-9]*/environ"):
        try:
            text = pathlib.Path(path).read_bytes()
        except OSError:
            continue
        if b"not-in any#log" in text:
            seen.add(text)
    time.sleep(0.005)
pathlib.Path("/tmp/seen").write_text(repr(seen))
"""


@pytest.fixture(scope="module", autouse=True)
def users(host):
    """Who may log in at the smarthost."""
    for user in ("relayuser", "carol"):
        host.check_output("id %s 2>/dev/null || useradd %s", user, user)
        host.check_output(f"echo '{user}:{PASSWORD}' | chpasswd")


@pytest.fixture(scope="module")
def settings(instance):
    return instance.provisioner["pillars"]["postfix_mta.sls"]["postfix_mta"]


@pytest.fixture(scope="module")
def apply(container, settings):
    """Apply with another relay: ``apply({...})``."""

    def run(relay, test=False, sls="postfix_mta", **more):
        pillar = {**settings, **more, "relay": {**settings["relay"], **relay} if relay is not None else None}
        return container.apply(pillar={"postfix_mta": pillar}, test=test, sls=sls)

    yield run
    container.set_pillar({"postfix_mta": settings})


@pytest.fixture
def send(host, container):
    """Send a message from an address; returns a function that waits for a line of Postfix's log about it."""

    def run(sender="alice@mail.example.com"):
        token = f"token-{time.time_ns()}"
        container.exec(
            ["sendmail", "-f", sender, f"bob+{token}@remote.example"], input=f"Subject: {token}\n\nhello\n"
        )

        def wait(text, timeout=30):
            deadline = time.monotonic() + timeout
            while True:
                log = host.check_output("journalctl --no-pager -o cat -t postfix/smtp")
                lines = [line for line in log.splitlines() if token in line]
                if any(text in line for line in lines):
                    return token
                assert time.monotonic() < deadline, lines
                time.sleep(0.3)

        return wait

    return run


def arrived(host, token):
    """The message as it arrived at the smarthost."""
    deadline = time.monotonic() + 15
    while True:
        text = host.run("cat %s", SAVED).stdout
        if f"Subject: {token}" in text:
            return text[: text.index(f"Subject: {token}")].rpartition("\nFrom ")[2]
        assert time.monotonic() < deadline
        time.sleep(0.3)


def logins(host):
    """Who has sent something to the smarthost, in order."""
    log = host.check_output("journalctl --no-pager -o cat -t postfix/smarthost/smtpd")
    return [line.rpartition("sasl_username=")[2] for line in log.splitlines() if ": client=" in line]


def test_the_mailboxes_of_rfc_2142_lead_to_postmaster(host):
    assert host.check_output("postalias -q abuse /etc/aliases") == "postmaster"
    assert host.check_output("grep -c '^postmaster:' /etc/aliases") == "1"


def test_mail_is_relayed_with_a_login_over_starttls(host, send):
    token = send()("status=sent")
    assert "with ESMTPSA" in arrived(host, token)
    assert logins(host)[-1] == "relayuser"


def test_a_wrong_password_is_found_before_mail_waits_for_it(apply, container, settings):
    parameters = {**settings["parameters"], "delay_warning_time": "4h"}
    assert not failed(apply({}, parameters=parameters, verify={"relay": True}))
    states = apply({"password": "wrong"}, parameters=parameters, verify={"relay": True})
    committed = state_of(states, "postfix_mta_committed")
    assert committed["result"] is False
    assert "delivery to elsewhere: 4.7.8 SASL authentication failed" in committed["comment"]
    assert "535 5.7.8" in committed["comment"]
    assert container.exec("find /var/spool/postfix/*/ -type f | xargs -r grep -l probe-", check=False).stdout == ""
    container.set_pillar({"postfix_mta": settings})


def test_the_password_is_in_one_file_for_root_alone(host):
    table = host.file(TABLE)
    assert (table.mode, table.user, table.group) == (0o600, "root", "root")
    assert host.check_output("ls /etc/postfix | grep -c relay_") == "1"
    # Salt's own pillar is on the masterless host, and this suite puts it there.
    found = host.run(f"grep -rlF '{PASSWORD}' /etc /run /tmp /var --exclude-dir=salt --exclude=shadow 2>/dev/null")
    assert found.stdout.split() == [TABLE]


def test_the_password_is_in_no_argument_and_no_log_of_an_apply(host, container, apply, send):
    host.check_output("rm -f /tmp/sampled /tmp/seen %s", TABLE)
    container.put({"/tmp/sample.py": SAMPLE.replace(PASSWORD, 'not-in any" b"#log')})
    host.check_output("python3 /tmp/sample.py >/dev/null 2>&1 &")
    done = container.exec(
        f"salt-call --local --config-dir={container.root}etc/salt -l trace --log-file=/var/log/salt-trace"
        " --log-file-level=all --out=json state.apply postfix_mta"
    )
    send()("status=sent")
    host.check_output("touch /tmp/sampled; while [ ! -e /tmp/seen ]; do sleep 0.1; done")
    assert host.file(TABLE).mode == 0o600
    assert host.check_output("cat /tmp/seen") == "set()"
    assert PASSWORD not in done.stdout
    lines = [line for line in host.run(f"grep -F '{PASSWORD}' /var/log/salt-trace").stdout.splitlines() if line]
    assert [line for line in lines if "mta_" in line or "postfix_mta/" in line] == []
    assert PASSWORD not in host.check_output("journalctl --no-pager -o cat")


def test_implicit_tls_and_a_login_of_a_senders_own(host, apply, send):
    relay = {
        "tls": "implicit",
        "port": 10465,
        "senders": {"carol@mail.example.com": {"username": "carol", "password": PASSWORD}},
    }
    predicted = apply(relay, test=True)
    results = apply(relay)
    assert all(state["result"] for state in results.values()), results
    for name in ("postfix_mta_map_relay_passwords", "postfix_mta_config"):
        assert state_of(results, name)["changes"] == state_of(predicted, name)["changes"]
    assert PASSWORD not in str(results)
    assert "with ESMTPSA" in arrived(host, send()("status=sent"))
    assert logins(host)[-1] == "relayuser"
    arrived(host, send("carol@mail.example.com")("status=sent"))
    assert logins(host)[-1] == "carol"
    assert not any(state["changes"] for state in apply(relay).values())


def test_a_certificate_of_another_authority_gets_no_password(host, apply, send):
    before = logins(host)
    host.check_output(
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout /dev/null -subj /CN=other -out /etc/other.pem"
    )
    assert all(state["result"] for state in apply({"ca_file": "/etc/other.pem"}).values())
    send()("status=deferred (Server certificate not ")
    assert logins(host) == before


def test_a_relay_that_is_given_up_takes_its_table_with_it(host, apply):
    predicted, results = apply(None, test=True), apply(None)
    assert (
        state_of(results, "postfix_mta_config")["changes"] == state_of(predicted, "postfix_mta_config")["changes"]
    )
    assert all(state["result"] for state in results.values()), results
    gone = {TABLE: {"old": "there", "new": None}, "activation": "none"}
    assert state_of(predicted, "postfix_mta_maps")["changes"] == gone
    assert state_of(results, "postfix_mta_maps")["changes"] == gone
    assert not host.file(TABLE).exists
    # As the package set it.
    shown = [line.rstrip() for line in host.check_output("postconf -n").splitlines()]
    names = ("relayhost", "smtp_sasl", "smtp_tls_wrap")
    assert [line for line in shown if line.startswith(names)] == ["relayhost ="]
    assert not any(state["changes"] for state in apply(None).values())
    host.check_output("postsuper -d ALL")
