"""
One authority for a fleet: a master (the host under test), a CA minion and three mail minions.

The attacks are those of somebody who has root on the first mail minion: whatever Salt's peer interface transports.
"""

import json
import time

import pytest
import yaml

from rig import results
from rig.fleet import STATES

CA = "ca.example.com"
MAIL = ["mail1.example.com", "mail2.example.com", "mail3.example.com"]
NAMES = {MAIL[0]: [MAIL[0], "smtp.example.com"], MAIL[1]: [MAIL[1]], MAIL[2]: [MAIL[2]]}
PASSPHRASE = "geheim-7431"
AUTHORITY = "/etc/ssl/certs/cacert.pem"

# As the docstring of mta_fleet_ca has it.
PEER = {r"mail\d+\.example\.com$": [{CA: [r"mta_fleet_ca\.(issue|certificate)$"]}]}

# As docs/fleet.md has it.
SLS = [f"{STATES}/postfix_mta/reactor/react.sls"]
REACTOR = {"reactor": [{"postfix_mta/pillar_changed": SLS}, {"salt/minion/*/start": SLS}]}

# What an administrator may have beside the formula's own policies.
OFFICE = {
    "minions": "mail3*",
    "signing_cert": AUTHORITY,
    "signing_private_key": "/etc/ssl/private/cakey.pem",
    "signing_private_key_passphrase": PASSPHRASE,
    "CN": "office.example.com",
    "subjectAltName": "DNS:office.example.com",
}

PILLARS = {
    CA: {
        "postfix_mta": {
            "certificate": {
                "key_type": "ec",
                "ca": {"passphrase": PASSPHRASE},
                # mail2 and mail3 have no list: their ids are their names.
                "fleet": {"minions": {MAIL[0]: NAMES[MAIL[0]], MAIL[1]: [], MAIL[2]: []}},
            }
        },
        "x509_signing_policies": {"office": OFFICE},
    },
    **{
        name: {
            "postfix_mta": {
                "certificate": {
                    "source": "fleet_ca",
                    "key_type": "ec",
                    "fleet": {"ca_minion": CA, "trust_store": name == MAIL[0]},
                }
            }
        }
        for name in MAIL
    },
}

# Publishes what standard input has: name to [target, function, arguments, ids]. Without ids as Salt does, and
# prints the minions' answers. With them as a bare message that has these ids, inside and on its envelope, where
# Salt's client would write its own; prints what the master says.
ATTACKER = """
import json, sys, salt.client, salt.channel.client
caller = salt.client.Caller("/etc/salt/minion")
answers = {}

class Message(dict):
    def __setitem__(self, key, value):
        if key != "id":
            super().__setitem__(key, value)

for name, (target, function, arguments, ids) in json.load(sys.stdin).items():
    try:
        if ids is None:
            options = {"tgt_type": "list", "timeout": 20}
            answers[name] = caller.cmd("publish.publish", target, function, arguments, **options)
            continue
        load = {"cmd": "minion_pub", "fun": function, "arg": arguments, "tgt": target, "tgt_type": "list"}
        load.update(ret="", tmo=10, form="clean", id=ids[0])
        with salt.channel.client.ReqChannel.factory(dict(caller.opts)) as channel:
            channel.send({"cmd": "_file_hash", "path": "x", "saltenv": "base"}, timeout=5)  # authenticates
            channel.obj.opts["id"] = ids[1]
            answers[name] = channel.send(Message(load), timeout=5, tries=1)
    except Exception as error:
        answers[name] = f"{type(error).__name__}: {error}"
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def fleet(new_fleet, instance):
    minion = {"features": {"x509_v2": True}} if instance.platform.endswith("3006") else {}
    started = new_fleet(PILLARS, master={"peer": PEER}, minion=minion)
    started.apply(CA, "postfix_mta.fleet_ca")
    started.salt(MAIL, "saltutil.sync_all")
    return started


@pytest.fixture(scope="module")
def requests(fleet):
    """Requests of the first mail minion, by kind of key; each asks for the second one's name, and to be a CA."""
    wishes = (
        "-subj /CN=mail2.example.com -addext subjectAltName=DNS:mail2.example.com -addext basicConstraints=CA:TRUE"
    )
    kinds = {
        "ec": "ec -pkeyopt ec_paramgen_curve:P-256",
        "rsa": "rsa:2048",
        "weak": "rsa:1024",
        "curve": "ec -pkeyopt ec_paramgen_curve:secp224r1",
    }
    host = fleet.minions[MAIL[0]]
    made = {}
    for name, kind in kinds.items():
        command = f"openssl req -new -nodes -newkey {kind} -keyout /root/{name}.key {wishes}"
        made[name] = host.exec(f"cd /root && {command} 2>/dev/null").stdout
    return made


@pytest.fixture(scope="module")
def attack(fleet):
    """Publish ``{name: (target, function, arguments, ids or None)}`` from the first mail minion; the answers."""
    host = fleet.minions[MAIL[0]]
    host.put({"/root/attacker.py": ATTACKER})

    def publish(calls):
        done = host.exec(["/opt/salt/bin/python", "/root/attacker.py"], input=json.dumps(calls))
        return json.loads(done.stdout.strip().splitlines()[-1])

    return publish


def shown(host, pem):
    """A certificate in OpenSSL's words."""
    return host.exec("openssl x509 -noout -text -nameopt RFC2253", input=pem).stdout


def names(host, pem):
    done = host.exec("openssl x509 -noout -ext subjectAltName", input=pem)
    return done.stdout.splitlines()[1].replace("DNS:", "").replace(" ", "").split(",")


# What a mail minion gets


def test_each_minion_gets_a_certificate_for_its_own_names_from_the_one_authority(fleet, requests):
    answers = fleet.salt(MAIL, "mta_fleet_ca.sign_request", requests["ec"], CA)
    authority = fleet.salt(MAIL, "mta_fleet_ca.authority", CA)
    assert len(set(authority.values())) == 1
    client = fleet.minions[CA]
    client.put({"/root/authority.pem": authority[MAIL[0]]})
    for minion, pem in answers.items():
        assert names(client, pem) == NAMES[minion]
        for name in NAMES[minion]:
            options = "-x509_strict -purpose sslserver -CAfile /root/authority.pem -no-CApath"
            client.exec(f"openssl verify {options} -verify_hostname {name} /dev/stdin", input=pem)


def test_nothing_that_the_request_asks_for_is_in_the_certificate(fleet, requests):
    pem = fleet.salt(MAIL[0], "mta_fleet_ca.sign_request", requests["rsa"], CA)[MAIL[0]]
    text = shown(fleet.minions[CA], pem)
    assert "mail2" not in text
    assert "CA:TRUE" not in text
    assert "CA:FALSE" in text
    assert "Digital Signature, Key Encipherment" in text


def test_a_policy_of_the_administrators_own_is_for_the_minions_that_it_names(fleet, requests):
    answers = fleet.salt(MAIL, "mta_fleet_ca.sign_request", requests["ec"], CA, policy="office")
    assert names(fleet.minions[CA], answers[MAIL[2]]) == ["office.example.com"]
    assert "the policy office is not for mail1.example.com" in answers[MAIL[0]]
    assert "the policy office is not for mail2.example.com" in answers[MAIL[1]]


# What somebody with root on a mail minion does not get


def test_whatever_a_hostile_minion_sends_it_gets_no_other_certificate(fleet, requests, attack):
    issue, request, own = "mta_fleet_ca.issue", requests["ec"], MAIL[0]

    def keywords(**more):
        return [{"__kwarg__": True, "request": request, "policy": own, **more}]

    refused = {
        "another's policy": ([request, MAIL[1]], "not for mail1"),
        "another's policy by a glob": ([request, "mail*"], "there is no policy"),
        "a policy of others": ([request, "office"], "not for mail1"),
        "itself as another, in the arguments": (keywords(policy=MAIL[1], __pub_id=MAIL[1]), "not for mail1"),
        "the same as text": ([request, MAIL[1], f"__pub_id={MAIL[1]}"], "not for mail1"),
        "other names": (keywords(CN=MAIL[1], subjectAltName=f"DNS:{MAIL[1]}"), "not known: CN, subjectAltName"),
        "a CA": (keywords(basicConstraints="CA:TRUE"), "not known: basicConstraints"),
        "a file written": (keywords(copypath="/root", path="/root/written"), "not known: copypath, path"),
        "another key to sign with": (keywords(signing_private_key="/root/x"), "not known: signing_private_key"),
        "another key to sign": (keywords(public_key="/etc/ssl/private/cakey.pem"), "not known: public_key"),
        "a file read": (["/etc/ssl/private/cakey.pem", own], "not the text of one PEM"),
        "a certificate for ever": ([request, own, "for ever"], "days must be"),
        "a weak key": ([requests["weak"], own], "RSA 1024"),
        "a curve that clients refuse": ([requests["curve"], own], "secp224r1"),
        "no request": ([None, own], "not the text of one PEM"),
        "no policy": ([request, None], "no text"),
    }
    calls = {name: (CA, issue, arguments, None) for name, (arguments, _) in refused.items()}
    answers = attack(calls)
    for name, (_, reason) in refused.items():
        assert reason in answers[name][CA]["refused"], name


def test_the_master_lets_it_call_nothing_else_and_nobody_else(fleet, requests, attack):
    own = [requests["ec"], MAIL[0]]
    answers = attack(
        {
            "a shell": (CA, "cmd.run", ["touch /root/owned"], None),
            "salt's own signing": (CA, "x509.sign_remote_certificate", ["office", {}], None),
            "the CA minion as applicant": (CA, "mta_fleet_ca.sign_request", [requests["ec"], CA], None),
            "another minion": (MAIL[1], "mta_fleet_ca.issue", own, None),
            "another minion too": (f"{CA},{MAIL[1]}", "mta_fleet_ca.issue", own, None),
        }
    )
    assert not any(answers.values()), answers


def test_the_master_takes_no_message_that_is_forged(fleet, requests, attack):
    certificate = "mta_fleet_ca.certificate"
    another = (CA, "mta_fleet_ca.issue", [requests["ec"], MAIL[1]])
    answers = attack(
        {
            "as another minion, inside": (*another, [MAIL[1], MAIL[0]]),
            "as another minion, on the envelope": (*another, [MAIL[0], MAIL[1]]),
            "as another minion": (*another, [MAIL[1], MAIL[1]]),
            "a shell behind what is permitted": (
                CA,
                f"{certificate},cmd.run",
                ["", "touch /root/owned"],
                [MAIL[0]] * 2,
            ),
            "a shell before it": (CA, f"cmd.run,{certificate}", ["touch /root/owned", ""], [MAIL[0]] * 2),
            "honest": (CA, certificate, [], [MAIL[0]] * 2),
        }
    )
    # A message that the master takes is answered with the job's id; so the way that was tried is one that works.
    assert "jid" in answers.pop("honest")
    assert not any("jid" in answer for answer in answers.values()), answers
    assert not fleet.minions[CA].exec("ls /root/owned", check=False).stdout


def test_no_key_and_no_passphrase_has_gone_anywhere(fleet):
    for host, places in (
        (fleet.master, "/var/cache/salt/master/jobs /var/log/salt"),
        (fleet.minions[CA], "/var/log/salt"),
        (fleet.minions[MAIL[0]], "/var/log/salt"),
    ):
        assert host.exec(f"grep -rlaE 'PRIVATE KEY-----|{PASSPHRASE}' {places}", check=False).stdout == ""
    listed = (
        fleet.minions[CA].exec("stat -c %a /etc/ssl/private/cakey.pem; head -1 /etc/ssl/private/cakey.pem").stdout
    )
    assert listed.split("\n")[:2] == ["600", "-----BEGIN ENCRYPTED PRIVATE KEY-----"]


# All of it together


@pytest.fixture(scope="module")
def applied(fleet):
    """The first apply of the formula on all mail minions, and what a dry run had announced."""
    prediction = fleet.apply(MAIL, test=True)
    return prediction, fleet.apply(MAIL)


def test_the_formula_sets_up_the_mail_minions(applied):
    prediction, reality = applied
    for minion in MAIL:
        assert not results.failures(reality[minion]), minion
        assert not results.difference(prediction[minion], reality[minion]), minion


def test_a_client_that_knows_only_the_authority_verifies_every_server_by_name(fleet, applied):
    client = fleet.minions[CA]
    serials = set()
    for minion in MAIL:
        for name in NAMES[minion]:
            options = f"-CAfile {AUTHORITY} -no-CApath -verify_return_error -verify_hostname {name}"
            command = (
                f"openssl s_client -starttls smtp -connect {fleet.minions[minion].ip}:25 {options} </dev/null"
            )
            output = client.exec(command).stdout
            assert "Verify return code: 0 (ok)" in output
        serials.add(client.exec("openssl x509 -noout -serial", input=output).stdout)
    assert len(serials) == len(MAIL)


def test_the_key_is_on_the_minion_alone_and_protected(fleet, applied):
    for minion in MAIL:
        assert (
            fleet.minions[minion].exec("stat -c '%a %U' /etc/ssl/private/smtpd.key").stdout.strip() == "600 root"
        )
        assert not fleet.minions[minion].exec("ls /etc/ssl/private/cakey.pem", check=False).stdout


def test_a_second_apply_changes_nothing(fleet, applied):
    for minion, states in fleet.apply(MAIL).items():
        assert not results.failures(states), minion
        assert not results.changed(states), minion


def test_the_system_trusts_the_authority_where_the_pillar_asks_for_it(fleet, applied):
    command = "openssl verify -CApath /etc/ssl/certs -no-CAfile /etc/ssl/certs/smtpd.crt"
    for minion in MAIL:
        trusted = fleet.minions[minion].exec(command, check=False).returncode == 0
        assert trusted is (minion == MAIL[0]), minion


def test_a_changed_source_changes_the_issuer_at_the_next_apply_and_keeps_the_key(fleet, applied):
    minion = MAIL[2]
    host = fleet.minions[minion]
    key = host.exec("sha256sum /etc/ssl/private/smtpd.key").stdout
    local = {"postfix_mta": {"certificate": {"source": "local_ca", "key_type": "ec"}}}
    for pillar, issuer, trust in (
        (local, f"CA of {minion}", f"the authority CN=CA of {minion} ({AUTHORITY})"),
        (PILLARS[minion], f"CA of {CA}", f"the authority of the CA minion {CA} ({AUTHORITY})"),
        (local, f"CA of {minion}", f"the authority CN=CA of {minion} ({AUTHORITY})"),
        (PILLARS[minion], f"CA of {CA}", f"the authority of the CA minion {CA} ({AUTHORITY})"),
    ):
        fleet.set_pillar(minion, pillar)
        prediction, reality = (fleet.apply([minion], test=test)[minion] for test in (True, False))
        assert not results.failures(reality), reality
        assert not results.difference(prediction, reality)
        (comment,) = [one["comment"] for one in reality.values() if one["__id__"] == "postfix_mta_certificate"]
        assert f"Clients have to trust {trust} from now on" in comment
        options = f"-CAfile {AUTHORITY} -no-CApath -verify_return_error -verify_hostname {minion}"
        shown = host.exec(f"openssl s_client -starttls smtp -connect {host.ip}:25 {options} </dev/null").stdout
        assert "Verify return code: 0 (ok)" in shown
        assert issuer in host.exec("openssl x509 -noout -issuer", input=shown).stdout
        assert not results.changed(fleet.apply([minion])[minion])
    assert host.exec("sha256sum /etc/ssl/private/smtpd.key").stdout == key


# What the administrator is told


def test_the_comment_says_that_the_ca_minion_does_not_answer(fleet):
    fleet.minions[CA].exec(["systemctl", "kill", "--signal=STOP", "salt-minion"])
    try:
        answer = fleet.salt(MAIL[1], "mta_fleet_ca.authority", CA, timeout=90)[MAIL[1]]
    finally:
        fleet.minions[CA].exec(["systemctl", "kill", "--signal=CONT", "salt-minion"])
    assert "ca.example.com did not answer within 30 seconds" in answer


def test_the_comment_says_that_the_master_does_not_permit_it_or_knows_no_such_minion(fleet):
    assert "add that to 'peer'" in fleet.salt(MAIL[1], "mta_fleet_ca.authority", MAIL[2])[MAIL[1]]
    assert "knows no minion nobody" in fleet.salt(MAIL[1], "mta_fleet_ca.authority", "nobody")[MAIL[1]]


# A minion that only signs


def answered(fleet, function, words=""):
    """What the CA minion returned to the last job with that function, and those words in its arguments."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        for jid, job in sorted(fleet.run("jobs.list_jobs", search_function=function).items(), reverse=True):
            returns = fleet.run("jobs.lookup_jid", jid) if words in str(job["Arguments"]) else {}
            if CA in returns:
                return returns[CA]
        time.sleep(2)
    raise AssertionError(f"{function} {words}: no answer")


def authority_of(host):
    """The authority's files, as they are."""
    return host.exec(f"sha256sum {AUTHORITY} /etc/ssl/private/cakey.pem").stdout


def no_mail_server(host):
    """Whether nothing of a mail server is on a host."""
    traces = "/etc/postfix /etc/default/saslauthd /etc/ssl/private/smtpd.key /var/lib/postfix_mta/applied.json"
    return not host.exec(f"ls -d {traces}", check=False).stdout


def test_neither_its_start_nor_a_changed_pillar_makes_the_ca_minion_a_mail_server(fleet):
    host = fleet.minions[CA]
    before = authority_of(host)
    assert no_mail_server(host)
    fleet.master.put({"/etc/salt/master.d/reactor.conf": yaml.safe_dump(REACTOR)})
    fleet.restart()
    fleet.restart(CA)
    (started,) = answered(fleet, "state.apply", "postfix_mta.started").values()
    assert (started["__id__"], started["name"]) == ("postfix_mta_started", "nothing to do")
    assert no_mail_server(host)
    fleet.master.exec(["salt-run", "event.send", "postfix_mta/pillar_changed"])
    assert answered(fleet, "mta_reprovision.request")["accepted"] is False
    assert no_mail_server(host)
    assert authority_of(host) == before


def test_the_table_of_mail_servers_does_not_have_it(fleet):
    fleet.master.exec("salt-run saltutil.sync_runners")
    assert sorted(fleet.run("postfix_mta.status", format="json", login=False, timeout=60)["minions"]) == MAIL


def test_clean_changes_nothing_of_the_authority_and_says_so(fleet):
    host = fleet.minions[CA]
    before = authority_of(host)
    for test in (True, False):
        states = fleet.apply(CA, "postfix_mta.clean", test=test)[CA]
        assert not results.failures(states)
        assert not results.changed(states)
        (said,) = [state["comment"] for state in states.values() if state["__id__"] == "postfix_mta_clean"]
        assert "only signs" in said
        assert "/etc/ssl/private/cakey.pem" in said
    assert authority_of(host) == before
    assert "BEGIN CERTIFICATE" in fleet.salt(MAIL[1], "mta_fleet_ca.authority", CA)[MAIL[1]]


def test_by_an_apply_of_its_own_it_becomes_both(fleet, requests):
    host = fleet.minions[CA]
    before = authority_of(host)
    assert not results.failures(fleet.apply(CA)[CA])
    assert not no_mail_server(host)
    assert authority_of(host) == before
    pem = fleet.salt(MAIL[0], "mta_fleet_ca.sign_request", requests["ec"], CA)[MAIL[0]]
    assert "BEGIN CERTIFICATE" in pem
    assert fleet.salt(CA, "mta_reprovision.request", timeout=120)[CA]["result"] is True
    assert CA in fleet.run("postfix_mta.status", format="json", login=False, timeout=60)["minions"]
