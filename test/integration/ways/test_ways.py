"""
Every way in which a master can have the formula, on one minion: gitfs with a bare repository, an SPM package; and
an event through salt-api's webhook. A master's file roots are in the suites fleet-ca, reactor and rollout.
"""

import pathlib
import re
import shutil
import subprocess
import sys
import time

import pytest
import yaml

from rig import REPOSITORY, results

MINION = "mail1.example.com"
PILLAR = {"postfix_mta": {"certificate": {"key_type": "ec"}, "reprovision": {"pause": 1, "splay": 1}}}
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
HOOK = "postfix_mta/pillar_changed"
REACTOR = [{f"salt/netapi/hook/{HOOK}": ["salt://postfix_mta/reactor/react.sls"]}]
API = {"rest_cherrypy": {"port": 8000, "host": "127.0.0.1", "disable_ssl": True, "webhook_disable_auth": True}}
UNIT = """
[Service]
Type=exec
ExecStart=/usr/local/bin/salt-api
"""
POST = (
    "import urllib.request as r; print(r.urlopen(r.Request('http://127.0.0.1:8000/hook/{}', data=b'x=1')).read())"
)


@pytest.fixture(scope="module")
def fleet(new_fleet):
    started = new_fleet({MINION: PILLAR})
    started.master.exec("rm -r /srv/fleet/salt && apt-get update -qq && apt-get install -y -qq git")
    return started


def configure(fleet, settings):
    """Give the master further settings, and the minion back the state of one that never synced."""
    fleet.master.put({"/etc/salt/master.d/way.conf": yaml.safe_dump(settings)})
    fleet.restart()
    fleet.salt(MINION, "saltutil.clear_cache")
    fleet.minions[MINION].exec("rm -rf /var/cache/salt/minion/extmods")
    fleet.restart(MINION)
    assert "is not available" in fleet.salt(MINION, "mta_settings.revision")[MINION]


def revision(tree=REPOSITORY):
    return yaml.safe_load((tree / "postfix_mta/revision.yaml").read_text())["revision"]


def assert_answers(fleet):
    row = fleet.salt(MINION, "mta_status.report")[MINION]
    assert (row["answers"], row["auth"], row["problems"], row["errors"]) == (True, True, [], {})


def assert_settled(applied):
    """Whether an apply succeeded and found nothing to change."""
    assert not results.failures(applied[MINION])
    assert not results.changed(applied[MINION])


def push(fleet, tree):
    """Commit a tree as it is to the bare repository."""
    fleet.master.exec("rm -rf /srv/formula && mkdir -p /srv/formula")
    fleet.master.put({f"/srv/formula/{name}": tree / name for name in PARTS})
    git = f"git --git-dir={REMOTE}"
    fleet.master.exec(
        f"set -e; [ -d {REMOTE} ] || git init -q --bare -b main {REMOTE}; cd /srv/formula;"
        f" {git} --work-tree=. add -A;"
        f" {git} --work-tree=. -c user.name=a -c user.email=a@example.com commit -q -m formula"
    )


@pytest.fixture(scope="module")
def from_gitfs(fleet):
    """The first apply, from a bare repository."""
    push(fleet, REPOSITORY)
    configure(fleet, GITFS)
    return fleet.apply(MINION, test=True), fleet.apply(MINION)


def test_gitfs(fleet, from_gitfs):
    prediction, reality = from_gitfs
    assert not results.failures(reality[MINION])
    assert not results.difference(prediction[MINION], reality[MINION])
    assert_answers(fleet)
    assert_settled(fleet.apply(MINION))


@pytest.fixture(scope="module")
def newer(tmp_path_factory):
    """A newer revision of the formula: one of its modules and one of its settings are others."""
    tree = tmp_path_factory.mktemp("newer")
    for name in (*PARTS, "bin"):
        source = REPOSITORY / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tree / name)
    with open(tree / "_modules/mta_queue.py", "a", encoding="utf-8") as module:
        module.write("\n\ndef newer():\n    return True\n")
    profile = pathlib.Path(tree / "postfix_mta/profiles.yaml")
    profile.write_text(re.sub(r"(?m)^(guide:\n)", r"\1  smtpd_timeout: 123s\n", profile.read_text()))
    subprocess.run([sys.executable, tree / "bin/update-revision"], check=True, capture_output=True)
    return tree


def test_a_newer_formula_reaches_a_running_minion_with_the_next_apply(fleet, from_gitfs, newer):
    assert revision(newer) != revision()
    pid = fleet.minions[MINION].exec("systemctl show --property=MainPID --value salt-minion").stdout
    push(fleet, newer)
    fleet.run("fileserver.update")
    applied = fleet.apply(MINION)[MINION]
    assert not results.failures(applied)
    assert "smtpd_timeout" in str(results.changed(applied))
    assert fleet.salt(MINION, "mta_settings.revision")[MINION] == revision(newer)
    assert fleet.salt(MINION, "mta_queue.newer")[MINION] is True
    assert fleet.minions[MINION].exec("systemctl show --property=MainPID --value salt-minion").stdout == pid
    assert_settled(fleet.apply(MINION))


def test_spm(fleet, from_gitfs):
    """A package, in which the former revision is: what that had comes back."""
    fleet.master.exec("rm -rf /srv/formula && mkdir -p /srv/formula")
    fleet.master.put({f"/srv/formula/{name}": REPOSITORY / name for name in PARTS})
    fleet.master.exec("cd /srv/formula && spm build . && spm local install -y /srv/spm_build/postfix_mta-*.spm")
    configure(fleet, {"file_roots": {"base": ["/srv/spm/salt"]}, "reactor": REACTOR, **API})
    applied = fleet.apply(MINION)[MINION]
    assert not results.failures(applied)
    assert fleet.salt(MINION, "mta_settings.revision")[MINION] == revision()
    assert_answers(fleet)
    assert_settled(fleet.apply(MINION))
    fleet.run("saltutil.sync_runners")
    assert MINION in fleet.master.exec(["salt-run", "postfix_mta.status"]).stdout


def test_the_webhook_tells_of_a_changed_pillar(fleet):
    """With the master as the package has left it."""
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
