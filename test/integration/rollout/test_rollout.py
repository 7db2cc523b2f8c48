"""Changes that are rolled out to six mail servers while mail is sent to all of them; and the view of them."""

import html.parser
import json
import pathlib
import re
import time

import pytest

from rig import results

CLIENT = pathlib.Path(__file__).with_name("client.py")
SENT = "/var/lib/sent"
MAIL = [f"mail{number}.example.com" for number in range(1, 7)]
SHARE = 2
# A server that is busy is not slow yet: a message takes 0.1 s, on a machine with other work ten times that.
SLOW = 5
OWN = {"root_recipient": "alice", "certificate": {"key_type": "ec"}}
# AUTH looks right in EHLO, and the rehearsal knows nothing of it: smtpd is in a chroot, where this socket is not.
MISTAKE = {**OWN, "sasl": {"socket_directory": "/run/saslauthd"}}
# A restart, so that each server is gone for a moment.
GOOD = {**OWN, "parameters": {"inet_protocols": "ipv4", "smtpd_banner": "$myhostname ESMTP second"}}
ROLLOUT = {"tgt": "mail*", "share": SHARE, "settle": 3, "patience": 120}
DIGEST = "cat /etc/postfix/main.cf /etc/postfix/master.cf /etc/default/saslauthd | sha256sum"


@pytest.fixture(scope="module")
def fleet(new_fleet):
    """Six minions that have never seen the formula, and a master that has synced its runners."""
    started = new_fleet({name: {"postfix_mta": OWN} for name in MAIL})
    for container in started.minions.values():
        container.exec("useradd --create-home alice")
    started.run("saltutil.sync_runners")
    return started


def rollout(fleet, **arguments):
    """The rollout's outcome, of the runner itself."""
    return fleet.run("postfix_mta.rollout", **arguments)


def orchestrate(fleet, test=False, **arguments):
    """The result of the one state of the orchestration."""
    pillar = {"rollout": arguments}
    returned = fleet.run("state.orchestrate", "postfix_mta.orch.rollout", pillar=pillar, test=test)
    (state,) = next(iter(returned["data"].values())).values()
    return state


def states(outcome):
    return {minion: one["state"] for minion, one in outcome["minions"].items()}


def set_pillar(fleet, settings):
    for name in MAIL:
        fleet.set_pillar(name, {"postfix_mta": settings})


def digests(fleet):
    return {name: container.exec(DIGEST).stdout for name, container in fleet.minions.items()}


def banners(fleet):
    """What the servers greet with."""
    ask = "import smtplib, sys\nfor name in sys.argv[1:]: print(smtplib.SMTP().connect(name, 25)[1].decode())"
    addresses = [fleet.minions[name].ip for name in MAIL]
    return fleet.master.exec(["python3", "-c", ask, *addresses]).stdout.splitlines()


@pytest.fixture(scope="module")
def new(fleet):
    """The servers, set up by a rollout to all of them at once."""
    return rollout(fleet, tgt="mail*", share="100%", canaries=0, settle=0)


def test_servers_are_set_up_by_a_rollout(fleet, new):
    assert states(new) == dict.fromkeys(MAIL, "done"), new["report"]
    assert all("ESMTP" in banner for banner in banners(fleet))
    for name, answer in fleet.salt(MAIL, "mta_apply.last").items():
        assert answer["result"] is True, name


@pytest.fixture(scope="module")
def mistake(fleet, new):
    """Digests before and after a rollout that has to stop; its plan; the state of its orchestration."""
    set_pillar(fleet, MISTAKE)
    before = digests(fleet)
    plan = orchestrate(fleet, test=True, **ROLLOUT)
    planned = digests(fleet)
    return before, planned, plan, orchestrate(fleet, **ROLLOUT)


def test_the_plan_is_shown_and_nothing_is_done(mistake):
    before, planned, plan, _ = mistake
    assert plan["result"] is None
    assert re.findall(r"(?m)^  (\d)", plan["comment"]) == ["1", "2", "3", "4"]
    assert "1 (canaries): mail1.example.com" in plan["comment"]
    assert planned == before


def test_the_canary_undoes_the_mistake_and_nobody_else_is_touched(fleet, mistake):
    before, _, _, state = mistake
    assert state["result"] is False
    outcome = state["changes"]["return"]
    assert states(outcome) == {MAIL[0]: "failed", **dict.fromkeys(MAIL[1:], "pending")}
    assert digests(fleet) == before
    rows = fleet.salt(MAIL, "mta_status.report")
    assert all(row["answers"] and row["auth"] for row in rows.values()), rows


def test_the_report_says_why(mistake):
    report = mistake[3]["changes"]["return"]["report"]
    assert "stopped (1 failed, 5 pending)" in report
    assert re.search(r"AUTH PLAIN of an unknown user: 454", report)
    assert "action=resume" in report


def test_a_rollout_that_stops_ends_with_1_on_the_command_line(fleet, mistake):
    again = fleet.master.exec(["salt-run", "postfix_mta.rollout", "action=resume"], check=False)
    assert again.returncode == 1, again
    assert "stopped (1 failed, 5 pending)" in again.stdout
    assert fleet.master.exec(["salt-run", "postfix_mta.rollout", "action=show"], check=False).returncode == 0


@pytest.fixture(scope="module")
def mail(fleet, mistake):
    """
    A good change under constant mail: resumed, interrupted with the master's process, resumed, and rolled back.

    Returns the outcomes and banners by name, and what the client saw.
    """
    client, seen = fleet.master, {}
    set_pillar(fleet, GOOD)
    client.copy(CLIENT, "/srv/client.py")
    servers = [f"{name}={container.ip}" for name, container in fleet.minions.items()]
    client.exec(["systemd-run", "--unit=flow", "--quiet", "python3", "/srv/client.py", SENT, *servers])
    command = "salt-run postfix_mta.rollout action=resume"
    client.exec(["systemd-run", "--unit=rollout", "--quiet", "sh", "-c", f"exec /usr/local/bin/{command}"])
    deadline = time.monotonic() + 120
    while rollout(fleet, action="show")["minions"][MAIL[1]]["state"] != "applying":
        assert time.monotonic() < deadline
    client.exec(["systemctl", "kill", "--signal=KILL", "rollout"])
    seen["interrupted"] = rollout(fleet, action="show")
    seen["resumed"] = rollout(fleet, action="resume")
    seen["new banners"] = banners(fleet)
    seen["rolled back"] = rollout(fleet, action="roll_back")
    seen["old banners"] = banners(fleet)
    client.exec(["systemctl", "stop", "flow"])
    lines = (line.split("\t", 4) for line in client.exec(["cat", SENT]).stdout.splitlines())
    seen["sent"] = [
        {
            "began": float(began),
            "ended": float(began) + float(took),
            "server": server,
            "number": number,
            "said": said,
        }
        for began, took, server, number, said in lines
    ]
    return seen


def test_a_rollout_that_was_killed_is_resumed(mail):
    assert states(mail["interrupted"])[MAIL[0]] == "done"
    assert mail["interrupted"]["status"] == "under way"
    assert states(mail["resumed"]) == dict.fromkeys(MAIL, "done"), mail["resumed"]["report"]
    assert all(banner.endswith("second") for banner in mail["new banners"])


def test_what_it_did_is_rolled_back(mail):
    assert states(mail["rolled back"]) == dict.fromkeys(MAIL, "rolled back"), mail["rolled back"]["report"]
    assert not any(banner.endswith("second") for banner in mail["old banners"])


def test_no_message_is_lost(fleet, mail):
    for name, container in fleet.minions.items():
        accepted = {item["number"] for item in mail["sent"] if item["server"] == name and item["said"] == "ok"}
        assert len(accepted) > 100
        deadline = time.monotonic() + 60
        while True:
            container.exec(["postqueue", "-f"])
            found = container.exec("grep -rh ^X-Number: /home/alice/Maildir/new").stdout.split()[1::2]
            if accepted <= set(found) or time.monotonic() > deadline:
                break
            time.sleep(1)
        assert sorted(accepted.difference(found)) == [], name
        assert len(found) == len(set(found)), name


def troubled_at_once(sent):
    """The largest number of servers that were slow, or did not take a message, at one moment."""
    moments = []
    for item in sent:
        if item["said"] != "ok" or item["ended"] - item["began"] > SLOW:
            moments += [(item["began"], 1, item["server"]), (item["ended"], -1, item["server"])]
    most, now = 0, {}
    for _, step, server in sorted(moments):
        now[server] = now.get(server, 0) + step
        most = max(most, sum(number > 0 for number in now.values()))
    return most


def test_never_more_than_the_share_was_slow_or_unreachable(mail, capsys):
    sent = mail["sent"]
    troubles = [item for item in sent if item["said"] != "ok"]
    # Each server was restarted twice.
    assert {item["server"] for item in troubles} == set(MAIL)
    most = troubled_at_once(sent)
    with capsys.disabled():
        accepted = len(sent) - len(troubles)
        longest = max(item["ended"] - item["began"] for item in sent)
        print(
            f"\n{accepted} of {len(sent)} messages accepted, {longest:.1f} s at most;"
            f" {most} servers in trouble at once"
        )
    assert most <= SHARE


# The view of all of them


class Page(html.parser.HTMLParser):
    """The cells of a page's tables."""

    def __init__(self, text):
        super().__init__()
        self.cells, self.inside = [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.inside = tag in ("td", "th")
        if self.inside:
            self.cells.append("")

    def handle_data(self, data):
        if self.inside:
            self.cells[-1] += data


@pytest.fixture(scope="module")
def view(fleet, mail):
    """The view in every form, with a main.cf that was edited on one minion and another that has been stopped."""
    fleet.minions[MAIL[4]].exec("echo '# by hand' >>/etc/postfix/main.cf")
    fleet.minions[MAIL[5]].exec(["systemctl", "kill", "--signal=STOP", "salt-minion"])
    shown = {"text": fleet.master.exec(["salt-run", "postfix_mta.status", "timeout=5"]).stdout}
    shown["json"] = fleet.master.exec(["salt-run", "postfix_mta.status", "format=json", "timeout=5"]).stdout
    for form in ("html", "prometheus"):
        path = f"/srv/status.{form}"
        fleet.run("postfix_mta.status", format=form, path=path, timeout=5)
        shown[form] = fleet.master.exec(["cat", path]).stdout
    page = ["format=html", "path=/srv/nowhere/status.html", "timeout=5"]
    shown["no folder"] = fleet.master.exec(["salt-run", "postfix_mta.status", *page], check=False)
    shown["plan"] = rollout(fleet, test=True, **ROLLOUT)
    fleet.minions[MAIL[5]].exec(["systemctl", "kill", "--signal=CONT", "salt-minion"])
    return shown


def test_the_table(view):
    lines = {line.split()[0]: re.split(r"  +", line) for line in view["text"].splitlines() if line.strip()}
    assert lines[MAIL[0]][1] == MAIL[0]
    assert lines[MAIL[0]][4:9] == ["guide", "824 d", "yes", "yes", "0"]
    assert lines[MAIL[0]][9] == "none"
    assert lines[MAIL[4]][9] == "main.cf"
    assert lines[MAIL[5]] == [MAIL[5], "UNREACHABLE"]


def test_the_data(view):
    data = json.loads(view["json"])
    assert data["unreachable"] == [MAIL[5]]
    assert sorted(data["minions"]) == MAIL[:5]
    row = data["minions"][MAIL[4]]
    assert (row["answers"], row["drift"], row["errors"]) == (True, ["/etc/postfix/main.cf"], {})
    assert row["last_apply"]["result"] is True


def test_the_page(view):
    cells = Page(view["html"]).cells
    # What needs somebody comes first.
    assert [cell for cell in cells if cell in MAIL[:5]] == [MAIL[4], *MAIL[:4]]
    assert cells[cells.index(MAIL[5]) + 1] == "UNREACHABLE"


def test_the_metrics(fleet, view):
    for name in MAIL:
        assert f'postfix_mta_up{{minion="{name}"}} {int(name != MAIL[5])}\n' in view["prometheus"]
    assert f'postfix_mta_drift_files{{minion="{MAIL[4]}"}} 1\n' in view["prometheus"]
    assert f'postfix_mta_answers{{minion="{MAIL[0]}"}} 1\n' in view["prometheus"]


def test_a_page_in_a_folder_that_is_not_there_is_refused_in_a_line(view):
    done = view["no folder"]
    assert done.returncode != 0
    # Salt 3008.4 itself writes "unclosed Runner …" to the standard error of every salt-run.
    said = [line for line in f"{done.stdout}{done.stderr}".splitlines() if not line.startswith("unclosed ")]
    assert said == ["Cannot write /srv/nowhere/status.html: the folder /srv/nowhere does not exist"]


def test_a_plan_leaves_out_a_server_that_is_down_and_names_it(view):
    plan = view["plan"]
    assert sorted(name for batch in plan["batches"] for name in batch) == MAIL[:5]
    assert plan["report"].startswith("5 of 6 minions would be applied to")
    assert plan["report"].endswith(f"Down or unreachable at the moment: {MAIL[5]}")


def test_a_rollout_that_is_forgotten_is_gone_and_leaves_the_servers_as_they_are(fleet, view):
    before = digests(fleet)
    told = fleet.master.exec(["salt-run", "postfix_mta.rollout", "action=forget"])
    assert "has been forgotten" in told.stdout and "resume" not in told.stdout, told
    assert digests(fleet) == before
    gone = fleet.master.exec(["salt-run", "postfix_mta.rollout", "action=resume"], check=False)
    assert gone.returncode != 0
    assert "There is no rollout" in gone.stdout + gone.stderr
    assert "Traceback" not in gone.stdout + gone.stderr


def test_after_all_that_an_apply_finds_nothing_but_the_change_that_was_taken_back(fleet, view):
    fleet.wait()
    set_pillar(fleet, OWN)
    for minion, applied in fleet.apply(MAIL[:4]).items():
        assert not results.failures(applied), minion
        assert not results.changed(applied), minion


# The zone for some of them

TOGETHER = MAIL[:2]
APT = "export DEBIAN_FRONTEND=noninteractive; apt-get -qq update && apt-get -qq -y"
INSTALL = f"{APT} --no-install-recommends install"
BEGIN = "$TTL 60\n@ IN SOA ns.example.com. root.example.com. 1 3600 600 86400 60\n@ IN NS ns.example.com.\n"


@pytest.fixture(scope="module")
def zone(fleet, new):
    """What the master prints for two servers that share a domain's mail, each with a key of its own."""
    for name in TOGETHER:
        host, selector = fleet.minions[name], name.partition(".")[0]
        host.exec(
            f"{INSTALL} bind9-dnsutils >/dev/null 2>&1; postconf -e 'mydestination = $myhostname, example.com'"
            " && postfix reload && mkdir /etc/postfix-mta-signer"
            f" && openssl genrsa -out /etc/postfix-mta-signer/{selector}.key 2048 2>/dev/null"
        )
        shared = {"resolver": fleet.master.ip, "mx": TOGETHER, "domains": ["example.com"]}
        fleet.set_pillar(name, {"postfix_mta": {**OWN, "dns": shared}})
    fleet.salt(TOGETHER, "saltutil.refresh_pillar", wait=True)
    return fleet.master.exec(["salt-run", "postfix_mta.zone", "mail[12]*", "zone=example.com"]).stdout


def test_the_zone_for_several_servers_is_what_each_of_them_needs(fleet, zone):
    lines = [line.split("\t") for line in zone.splitlines() if not line.startswith(";")]
    found = {(name, kind) for name, _, _, kind, _ in lines}
    assert {(f"mail{n}._domainkey.example.com.", "TXT") for n in (1, 2)} < found
    assert [data for name, _, _, kind, data in lines if kind == "MX"] == [f"10 {name}." for name in TOGETHER]
    assert "receivers take none" not in zone and "did not answer" not in zone
    reverse = "".join(line[2:] + "\n" for line in zone.splitlines() if "\tPTR\t" in line)
    master = fleet.master
    network = ".".join(reversed(master.ip.split(".")[:2])) + ".in-addr.arpa"
    files = {"example.com": f"{BEGIN}ns.example.com. IN A {master.ip}\n{zone}\n", network: BEGIN + reverse}
    conf = f"server:\n  ip-address: {master.ip}\nremote-control:\n  control-enable: no\n"
    conf += "".join(f"zone:\n  name: {name}\n  zonefile: /srv/zones/{name}.signed\n" for name in files)
    master.put({f"/srv/zones/{name}": text for name, text in files.items()})
    master.exec(f"{INSTALL} nsd ldnsutils >/dev/null 2>&1")
    master.put({"/etc/nsd/nsd.conf": conf})
    found = []
    # First as it is, then signed (DNSSEC).
    for command in ("cp {0} {0}.signed", "ldns-signzone -n -o {0} {0} $(ldns-keygen -k -a ECDSAP256SHA256 {0})"):
        for name in files:
            checked = master.exec(f"cd /srv/zones && {command.format(name)} && nsd-checkzone {name} {name}.signed")
            assert checked.stdout + checked.stderr == f"zone {name} is ok\n"
        master.exec("systemctl reset-failed nsd; systemctl restart nsd")
        said = fleet.salt(TOGETHER, "mta_dns.check")
        found.append({name: [(one["type"], one["kind"]) for one in said[name]] for name in TOGETHER})
    assert found == [{name: [("TLSA", "risk")] for name in TOGETHER}, {name: [] for name in TOGETHER}]
