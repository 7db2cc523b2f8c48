"""
Every way in which a host can get the formula, in one order on few hosts: a master's file roots, gitfs with a bare
repository and an upgrade in it, an SPM package, an event through salt-api's webhook, salt-ssh, an environment of
the minion's own, masterless, by sudo.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
import time

import pytest
import yaml

from rig import REPOSITORY, results
from rig.fleet import PILLARS

MINION, BARE = "mail1.example.com", "mail2.example.com"
SECRET = "geheim-2908"
PILLAR = {
    "postfix_mta": {
        "root_recipient": "alice",
        "certificate": {"key_type": "ec", "ca": {"passphrase": SECRET}},
        "reprovision": {"pause": 1, "splay": 1},
    }
}
# What a checkout of the formula has of use to a master, and what SPM takes into a package.
PARTS = (
    "_beacons",
    "_modules",
    "_runners",
    "_states",
    "postfix_mta",
    "FORMULA",
    "LICENSE",
    "README.md",
    "pillar.example",
)
REMOTE = "/srv/formula.git"
GITFS = {"fileserver_backend": ["gitfs"], "gitfs_remotes": [f"file://{REMOTE}"], "gitfs_base": "main"}
MOUNTED = {**GITFS, "gitfs_mountpoint": "salt://formulas"}
HOOK = "postfix_mta/pillar_changed"
REACTOR = [{f"salt/netapi/hook/{HOOK}": ["salt://postfix_mta/reactor/react.sls"]}]
API = {"rest_cherrypy": {"port": 8000, "host": "127.0.0.1", "disable_ssl": True, "webhook_disable_auth": True}}
PACKAGE = {"file_roots": {"base": ["/srv/spm/salt"]}, "reactor": REACTOR, **API}
# The same package, and the pillar, in another environment alone.
PROD = {
    "file_roots": {"base": ["/srv/empty"], "prod": ["/srv/spm/salt"]},
    "pillar_roots": {"base": ["/srv/empty"], "prod": [PILLARS]},
    "reactor": [{"postfix_mta/reprovision": ["/srv/spm/salt/postfix_mta/reactor/react.sls"]}],
}
UNIT = """
[Service]
Type=exec
ExecStart=/usr/local/bin/salt-api
"""
# What a newer revision adds to a module, with a private file that it has in common with others.
NEWER = """

import _mta_guard

with _mta_guard.library(__file__):
    import _mta_system


def newer():
    return _mta_system.NEWER
"""
# Encrypt what comes for the gpg renderer.
ENCRYPT = """
apt-get install -y -qq --no-install-recommends gpg gpg-agent >/dev/null 2>&1
mkdir -p -m 700 /srv/alone/gpgkeys; gpg='gpg --homedir /srv/alone/gpgkeys --batch --quiet'
$gpg --passphrase '' --quick-gen-key pillar default default never && $gpg --trust-model always -ea -r pillar
"""
# A state of a user's own that fails while the formula's transaction is open.
FAILING = """
include: [postfix_mta]
extend:
  postfix_mta_config:
    postconf:
      - parameters: {smtpd_banner: $myhostname ESMTP failing}
      - revert: []
failing:
  test.fail_without_changes:
    - require: [{postconf: postfix_mta_config}]
    - require_in: [{mta_transaction: postfix_mta_committed}]
"""
POST = (
    "import urllib.request as r; print(r.urlopen(r.Request('http://127.0.0.1:8000/hook/{}', data=b'x=1')).read())"
)
KEY = "/root/.ssh/id_ed25519"
SUDO = """
apt-get install -y -qq --no-install-recommends sudo >/dev/null 2>&1; useradd --create-home deploy
echo 'deploy ALL=(ALL) NOPASSWD: SETENV: ALL' >/etc/sudoers.d/deploy
"""
WATCH = "while sleep 0.05; do cat /proc/[0-9]*/cmdline; done >/root/arguments 2>/dev/null"


@pytest.fixture(scope="module")
def fleet(new_fleet):
    started = new_fleet({MINION: PILLAR})
    started.master.exec("apt-get update -qq && apt-get install -y -qq git openssh-client")
    return started


def configure(fleet, settings):
    """Give the master further settings."""
    fleet.master.put({"/etc/salt/master.d/way.conf": yaml.safe_dump(settings)})
    fleet.restart()


def revision(tree=REPOSITORY):
    return yaml.safe_load((tree / "postfix_mta/revision.yaml").read_text())["revision"]


def assert_settled(applied):
    """Whether an apply succeeded and found nothing to change."""
    assert not results.failures(applied)
    assert not results.changed(applied)


def checkout(fleet, tree, files="/srv/formula"):
    """Put a tree of the formula on the master, outside of its file roots."""
    fleet.master.exec(f"rm -rf {files} && mkdir -p {files}")
    fleet.master.put({f"{files}/{name}": tree / name for name in PARTS})


def push(fleet, tree):
    """Commit a tree as it is to the bare repository."""
    checkout(fleet, tree)
    git = f"git --git-dir={REMOTE}"
    fleet.master.exec(
        f"set -e; [ -d {REMOTE} ] || git init -q --bare -b main {REMOTE}; cd /srv/formula;"
        f" {git} --work-tree=. add -A;"
        f" {git} --work-tree=. -c user.name=a -c user.email=a@example.com commit -q -m formula"
    )


@pytest.fixture(scope="module")
def from_file_roots(fleet):
    """What a dry run on the bare minion announces, and what the first apply does."""
    return fleet.apply(MINION, test=True)[MINION], fleet.apply(MINION)[MINION]


def test_file_roots(fleet, from_file_roots):
    prediction, reality = from_file_roots
    assert not results.failures(reality)
    assert not results.difference(prediction, reality)
    row = fleet.salt(MINION, "mta_status.report")[MINION]
    assert (row["answers"], row["auth"], row["problems"], row["errors"]) == (True, True, [], {})


@pytest.fixture(scope="module")
def from_gitfs(fleet, from_file_roots):
    """Let the master have the formula from a bare repository and nowhere else."""
    fleet.master.exec("rm -r /srv/fleet/salt")
    push(fleet, REPOSITORY)
    configure(fleet, MOUNTED)
    # What the minion remembers of the same revision would do.
    fleet.minions[MINION].exec("rm -r /var/lib/postfix_mta/verdicts")
    mounted = fleet.salt(MINION, "state.apply", "formulas.postfix_mta", test=True, timeout=600)[MINION]
    configure(fleet, GITFS)
    # The master remembers for a while what files it has, and below which folder.
    fleet.run("fileserver.clear_file_list_cache")
    return mounted


def test_below_a_mountpoint_it_says_what_to_do(from_gitfs):
    assert "give the gitfs remote no mountpoint" in str(from_gitfs)


def test_gitfs(fleet, from_gitfs):
    assert_settled(fleet.apply(MINION)[MINION])


@pytest.fixture(scope="module")
def newer(tmp_path_factory):
    """A newer revision of the formula: a module, a private file and a setting are others."""
    tree = tmp_path_factory.mktemp("newer")
    for name in (*PARTS, "bin"):
        source = REPOSITORY / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tree / name)
    with open(tree / "_modules/mta_queue.py", "a", encoding="utf-8") as module:
        module.write(NEWER)
    with open(tree / "_modules/_mta_system.py", "a", encoding="utf-8") as private:
        private.write("\nNEWER = True\n")
    profile = tree / "postfix_mta/profiles.yaml"
    profile.write_text(
        re.sub(r"(?m)^(guide:\n(?s:.*?)  parameters:\n)", r"\1    smtpd_timeout: 123s\n", profile.read_text())
    )
    subprocess.run([sys.executable, tree / "bin/update-revision"], check=True, capture_output=True)
    return tree


def test_a_newer_formula_reaches_a_running_minion_with_the_next_apply(fleet, from_gitfs, newer):
    assert revision(newer) != revision()
    show = "systemctl show --property=MainPID --value salt-minion"
    pid = fleet.minions[MINION].exec(show).stdout
    push(fleet, newer)
    fleet.run("fileserver.update")
    applied = fleet.apply(MINION)[MINION]
    assert not results.failures(applied)
    assert "smtpd_timeout" in applied["postconf_|-postfix_mta_config_|-/etc/postfix_|-managed"]["changes"]
    assert fleet.salt(MINION, "mta_settings.revision")[MINION] == revision(newer)
    assert fleet.salt(MINION, "mta_queue.newer")[MINION] is True
    assert fleet.minions[MINION].exec(show).stdout == pid
    assert_settled(fleet.apply(MINION)[MINION])


@pytest.fixture(scope="module")
def from_package(fleet, from_file_roots):
    """Let the master have the formula from an SPM package and nowhere else."""
    checkout(fleet, REPOSITORY)
    fleet.master.exec("cd /srv/formula && spm build . && spm local install -y /srv/spm_build/postfix_mta-*.spm")
    configure(fleet, PACKAGE)


def test_spm(fleet, from_package):
    """After the newer revision: what this one had comes back."""
    assert not results.failures(fleet.apply(MINION)[MINION])
    assert fleet.salt(MINION, "mta_settings.revision")[MINION] == revision()
    fleet.run("saltutil.sync_runners")
    assert MINION in fleet.master.exec(["salt-run", "postfix_mta.status"]).stdout


def test_the_webhook_tells_of_a_changed_pillar(fleet, from_package):
    settings = {**PILLAR["postfix_mta"], "parameters": {"smtpd_banner": "$myhostname ESMTP hooked"}}
    fleet.set_pillar(MINION, {"postfix_mta": settings})
    fleet.master.put({"/etc/systemd/system/salt-api.service": UNIT})
    fleet.master.exec("systemctl daemon-reload && systemctl start salt-api")
    post = ["/opt/salt/bin/python", "-c", POST.format(HOOK)]
    deadline = time.monotonic() + 60
    while "true" not in (answer := fleet.master.exec(post, check=False)).stdout.lower():
        assert time.monotonic() < deadline, answer.stderr
        time.sleep(1)
    greet = f"import smtplib; print(smtplib.SMTP().connect('{fleet.minions[MINION].ip}', 25))"
    while "hooked" not in fleet.master.exec(["python3", "-c", greet], check=False).stdout:
        assert time.monotonic() < deadline + 60
        time.sleep(1)
    # The apply goes on after the greeting; the next one waits for it.
    assert_settled(fleet.salt(MINION, "state.apply", "postfix_mta", queue=True, timeout=600)[MINION])


@pytest.fixture(scope="module")
def over_ssh(fleet, from_package, new_container):
    """
    The host without Salt, and what ``salt-ssh`` does: ``over_ssh(minion id, function, *arguments)``.

    The other host is the minion. They have no common configuration but the pillar.
    """
    hosts = {MINION: fleet.minions[MINION], BARE: new_container("debian-12", provision=False, hostname=BARE)}
    fleet.master.exec(f"mkdir -p -m 700 /root/.ssh && ssh-keygen -q -t ed25519 -N '' -f {KEY}")
    public = fleet.master.exec(f"cat {KEY}.pub").stdout
    for host in hosts.values():
        host.exec("apt-get update -qq && apt-get install -y -qq openssh-server && mkdir -p -m 700 /root/.ssh")
        host.exec("umask 077 && cat >/root/.ssh/authorized_keys", input=public)
    top = {"base": {name: [f"minion-{name}".replace(".", "-")] for name in hosts}}
    fleet.set_pillar(BARE, PILLAR)
    roster = {name: {"host": host.ip, "user": "root", "priv": KEY} for name, host in hosts.items()}
    fleet.master.put({"/srv/fleet/pillar/top.sls": json.dumps(top), "/etc/salt/roster": yaml.safe_dump(roster)})

    def call(identifier, *words):
        argv = ["salt-ssh", "--ignore-host-keys", "--out=json", "--static", identifier, *words]
        done = fleet.master.exec(argv, check=False)
        try:
            return json.loads(done.stdout)[identifier]
        except (ValueError, KeyError) as error:
            raise AssertionError(f"{words}: {done.returncode}\n{done.stdout}{done.stderr}") from error

    return hosts[BARE], call


def test_salt_ssh_to_a_host_without_salt(fleet, over_ssh):
    bare, call = over_ssh
    for module in ("cryptography", "OpenSSL", "salt"):
        assert bare.exec(["python3", "-c", f"import {module}"], check=False).returncode == 1
    for host in (fleet.master, bare):
        host.exec(["systemd-run", "--unit=watch", "sh", "-c", WATCH])
    prediction, reality = (call(BARE, "state.apply", "postfix_mta", f"test={test}") for test in (True, False))
    assert not results.failures(reality)
    assert not results.difference(prediction, reality)
    assert_settled(call(BARE, "state.apply", "postfix_mta"))
    for host in (fleet.master, bare):
        host.exec(["systemctl", "stop", "watch"])
        arguments = host.exec(["cat", "/root/arguments"]).stdout
        assert "salt" in arguments
        assert SECRET not in arguments
    assert "ENCRYPTED" in bare.exec(["cat", "/etc/ssl/private/cakey.pem"]).stdout
    assert bare.exec(f"find / -xdev -type f -perm /o=r -exec grep -lF {SECRET} {{}} +", check=False).stdout == ""


def test_salt_ssh_brings_a_program_that_only_some_settings_need(fleet, over_ssh):
    _, call = over_ssh
    settings = {**PILLAR["postfix_mta"], "sasl": {"mechanisms": ["rimap"], "rimap": {"host": "localhost"}}}
    fleet.set_pillar(BARE, {"postfix_mta": settings})
    planned = call(BARE, "state.apply", "postfix_mta", "test=True")
    fleet.set_pillar(BARE, PILLAR)
    assert not results.failures(planned)
    sasl = results.state_of(planned, "postfix_mta_sasl")
    program = {"old": None, "new": "this formula's"}
    assert sasl["changes"]["/usr/local/lib/postfix-mta-saslauthd-proxy.py"] == program


def test_salt_ssh_to_a_host_with_salt(fleet, over_ssh):
    """What the minion has applied is right here too, but for the libraries of the host's own Python."""
    _, call = over_ssh
    applied = call(MINION, "state.apply", "postfix_mta")
    assert not results.failures(applied)
    assert [applied[key]["__id__"] for key in results.changed(applied)] == ["postfix_mta_package"]
    # In batches, of a subset of the minions.
    for option in ("--batch-size=1", "--subset=1"):
        batch = fleet.master.exec(["salt", option, "--out=json", "--static", "*", "state.apply", "postfix_mta"])
        assert_settled(json.loads(batch.stdout)[MINION])


def wait_for(condition, seconds=120):
    """Wait until a function returns something true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_what_follows_an_apply_is_in_its_environments(fleet, over_ssh):
    """
    Formula and pillar are in ``prod`` alone, which the minion's configuration names; later it names another one,
    where neither is. What events and the schedule lead to goes on in ``prod``.
    """
    minion = fleet.minions[MINION]
    settings = {**PILLAR["postfix_mta"], "schedule": {"enabled": True}}
    fleet.master.put({f"{PILLARS}/top.sls": json.dumps({"prod": {MINION: ["prod"]}})})
    fleet.master.put({f"{PILLARS}/prod.sls": json.dumps({"postfix_mta": settings})})
    minion.put({"/etc/salt/minion.d/env.conf": yaml.safe_dump({"saltenv": "prod", "pillarenv": "prod"})})
    configure(fleet, PROD)
    fleet.restart(MINION)
    applied = fleet.apply(MINION)[MINION]
    assert not results.failures(applied)
    last = fleet.salt(MINION, "mta_apply.last")[MINION]
    assert (last["saltenv"], last["pillarenv"]) == ("prod", "prod")

    minion.put({"/etc/salt/minion.d/env.conf": yaml.safe_dump({"saltenv": "base"})})
    fleet.restart(MINION)

    def healed():
        return minion.exec(["postconf", "-h", "smtpd_helo_required"]).stdout == "no\n"

    wrong = {**settings, "parameters": {"smtpd_helo_required": False}}
    fleet.master.put({f"{PILLARS}/prod.sls": json.dumps({"postfix_mta": wrong})})
    for what in ("event.send postfix_mta/reprovision", "schedule.run_job postfix_mta"):
        minion.exec(["postconf", "-e", "smtpd_helo_required = yes"])
        time.sleep(3)
        minion.exec(["salt-call", *what.split()])
        wait_for(healed)
        # The apply goes on after its change.
        fleet.salt(MINION, "state.single", "test.nop", "done", queue=True, timeout=600)
        last = fleet.salt(MINION, "mta_apply.last")[MINION]
        assert (last["result"], last["saltenv"], last["pillarenv"]) == (True, "prod", "prod")
    minion.exec(["rm", "/etc/salt/minion.d/env.conf"])
    fleet.restart(MINION)


def test_masterless(fleet, over_ssh):
    """The minion, when it takes the formula and the pillar from its own disk."""
    minion = fleet.minions[MINION]
    minion.put({f"/srv/formula/{name}": REPOSITORY / name for name in PARTS})
    top = {"base": {"*": ["mail"]}}
    pillar = {"postfix_mta": {**PILLAR["postfix_mta"], "parameters": {"smtpd_banner": "$myhostname ESMTP alone"}}}
    minion.put({"/srv/pillar/top.sls": json.dumps(top), "/srv/pillar/mail.sls": json.dumps(pillar)})
    roots = ["--file-root=/srv/formula", "--pillar-root=/srv/pillar"]
    call = ["salt-call", "--local", *roots, "--out=json", "state.apply", "postfix_mta"]
    applied = json.loads(minion.exec(call).stdout)["local"]
    assert not results.failures(applied)
    assert "smtpd_banner" in applied["postconf_|-postfix_mta_config_|-/etc/postfix_|-managed"]["changes"]
    # By sudo of a user whose files are for himself alone, and whose home and path go with him.
    minion.exec(SUDO)
    as_deploy = ["su", "-", "deploy", "-c", "umask 077; sudo -E " + shlex.join(call)]
    assert_settled(json.loads(minion.exec(as_deploy).stdout)["local"])


def test_a_host_that_calls_itself_otherwise_keeps_its_name(fleet, over_ssh):
    """The grain fqdn changes, as with another lease; the pillar names no host."""
    minion = fleet.minions[MINION]
    roots = ["--file-root=/srv/formula", "--pillar-root=/srv/pillar"]

    def apply(settings):
        pillar = json.loads(minion.exec(["cat", "/srv/pillar/mail.sls"]).stdout)["postfix_mta"]
        minion.put({"/srv/pillar/mail.sls": json.dumps({"postfix_mta": {**pillar, **settings}})})
        call = ["salt-call", "--local", *roots, "--out=json", "state.apply", "postfix_mta"]
        return json.loads(minion.exec(call, check=False).stdout)["local"]

    hosts = minion.exec(["cat", "/etc/hosts"]).stdout
    minion.exec(["tee", "/etc/hosts"], input=f"{minion.ip} lease-7.example.net {MINION}\n127.0.0.1 localhost\n")
    refused = apply({})
    comment = results.state_of(refused, "postfix_mta_settings")["comment"]
    assert 'calls itself "lease-7.example.net" now' in comment
    assert f"at the last apply it was {MINION}; to keep that name, set hostname: {MINION}" in comment
    assert not results.changed(refused)
    assert minion.exec(["postconf", "-h", "myhostname"]).stdout == f"{MINION}\n"
    assert_settled(apply({"hostname": MINION}))
    minion.exec(["tee", "/etc/hosts"], input=hosts)
    assert_settled(apply({"hostname": None}))


def test_masterless_in_an_environment_of_its_own(fleet, over_ssh, newer):
    """
    The formula is in ``prod`` alone, by the top file, and another revision in ``next``; ``base`` has a module of
    somebody else's. A run is a dry one unless it says otherwise, and ends at the first state that fails. The
    pillar is the same as before, put together of a file with an encrypted passphrase and a stack.
    """
    minion = fleet.minions[MINION]
    roots = {"base": ["/srv/base"], "prod": ["/srv/formula"], "next": ["/srv/next"]}
    config = {
        "local": True,
        "file_roots": roots,
        "pillar_roots": {"base": ["/srv/pillar"]},
        "id": "not_a_host_name",
    }
    top = {"base": {"*": ["other"]}, "prod": {"*": ["postfix_mta"]}}
    config.update(autoload_dynamic_modules=False, state_aggregate=True, failhard=True, test=True)
    config.update(gpg_keydir="/srv/alone/gpgkeys", ext_pillar=[{"stack": "/srv/stack/stack.cfg"}])
    config.update(pillar_merge_lists=True)
    encrypted = minion.exec(["sh", "-c", ENCRYPT], input=SECRET).stdout
    pillar = {**PILLAR["postfix_mta"], "certificate": {"key_type": "ec", "ca": {"passphrase": encrypted}}}
    minion.put({"/srv/pillar/mail.sls": "#!yaml|gpg\n" + json.dumps({"postfix_mta": pillar})})
    stack = {"postfix_mta": {"parameters": {"smtpd_banner": "$myhostname ESMTP alone"}}}
    minion.put({"/srv/stack/stack.cfg": "one.yml\n", "/srv/stack/one.yml": yaml.safe_dump(stack)})
    other = "{{ salt['others.word']() }}:\n  test.nop: []\n"
    minion.put({"/srv/alone/minion": yaml.safe_dump(config), "/srv/base/top.sls": json.dumps(top)})
    minion.put({"/srv/base/other.sls": other, "/srv/base/_modules/others.py": "def word():\n    return 'kept'\n"})

    def call(*words, check=True):
        argv = ["salt-call", "--config-dir=/srv/alone", "--out=json", *words]
        return json.loads(minion.exec(argv, check=check).stdout)["local"]

    call("saltutil.clear_cache")
    call("saltutil.sync_modules", "saltenv=base")
    for words in ([], ["test=False"], ["postfix_mta", "saltenv=prod", "test=False"]):
        applied = call("state.apply", *words)
        assert not results.failures(applied)
        assert not results.changed({key: one for key, one in applied.items() if "schedule" not in key})
    assert call("others.word") == "kept"
    assert call("mta_apply.last")["saltenv"] == "prod"
    # What nobody gives an environment finds the formula where the last apply found it.
    assert call("mta_settings.problems") == []
    assert call("mta_status.report")["errors"] == {}
    # The other environment's revision, and back.
    minion.put({f"/srv/next/{name}": newer / name for name in PARTS})
    config_state = "postconf_|-postfix_mta_config_|-/etc/postfix_|-managed"
    for environment, tree in (("next", newer), ("prod", REPOSITORY)):
        applied = call("state.apply", "postfix_mta", f"saltenv={environment}", "test=False")
        assert not results.failures(applied)
        assert {*applied[config_state]["changes"]} == {"smtpd_timeout", "activation"}
        assert call("mta_settings.revision") == revision(tree)
    # A state that fails before the commit ends the run there; what had been switched is undone.
    minion.put({"/srv/formula/failing.sls": FAILING})
    failed = call("state.apply", "failing", "saltenv=prod", "test=False", check=False)
    assert "smtpd_banner" in failed[config_state]["changes"]
    assert not any("committed" in key and one["result"] is not None for key, one in failed.items())
    # The process undoes it as it ends; the journal goes when the daemons are back as well.
    minion.exec(["timeout", "30", "sh", "-c", "while [ -e /var/lib/postfix_mta/journal ]; do sleep 0.2; done"])
    assert minion.exec(["postconf", "-h", "smtpd_banner"]).stdout == "$myhostname ESMTP alone\n"
    assert not results.changed({key: one for key, one in call("state.apply").items() if "schedule" not in key})
