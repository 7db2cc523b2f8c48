"""The examples in the documents: each command is run, and prints what the document shows."""

import json
import subprocess

import console
import pytest

from rig import REPOSITORY

HERE = "/root/formula"
COPIED = ("_beacons", "_modules", "_runners", "_states", "bin", "postfix_mta")
MASTER = {
    "file_roots": {"base": [HERE]},
    "pillar_roots": {"base": ["/srv/pillar"]},
    "auto_accept": True,
    "log_level": "error",
}
MINION = {"id": "mail.example.com", "master": "127.0.0.1", "acceptance_wait_time": 1}
DEFERRED = """
postconf -e defer_transports=smtp && postfix reload
for i in 1 2 3; do echo "Subject: $i" | sendmail -f root@mail.example.com bob@example.net; done
echo "Subject: news" | sendmail -f news@mail.example.com carol@example.org
for i in $(seq 60); do [ $(find /var/spool/postfix/deferred -type f | wc -l) = 4 ] && exit; sleep 0.5; done; exit 1
"""


@pytest.fixture(scope="module")
def host(container):
    """The host, with a clone of the repository and a user."""
    container.put({f"{HERE}/{name}": REPOSITORY / name for name in COPIED})
    container.exec("useradd --create-home alice")
    return container


def run_examples(host, page):
    """Run a page's examples; a file that ``cat`` shows is written before."""
    for example in console.examples((REPOSITORY / page).read_text(encoding="utf-8")):
        if example.command.startswith("cat "):
            host.put({f"{HERE}/{example.command[4:]}": "\n".join(example.output) + "\n"})
            continue
        command = example.command.replace("sudo ", "", 1)
        printed = host.exec(f"cd {HERE}; {command} 2>/dev/null", check=False).stdout
        lost = console.missing(example.output, printed.splitlines())
        assert lost is None, f"{page}: $ {example.command}\ndoes not show: {lost}\n{printed}"


def test_one_server(host):
    run_examples(host, "docs/one-server.md")


def test_an_apply_that_is_undone(host):
    host.exec([f"{HERE}/bin/apply", "mail.example.com"])
    run_examples(host, "README.md")


def test_an_audit(host):
    run_examples(host, "docs/internet.md")


def test_the_queue(host):
    host.exec(DEFERRED)
    run_examples(host, "docs/queue.md")
    host.exec("postsuper -d ALL; postconf -X defer_transports; postfix reload")


def test_a_fleet(host):
    host.put(
        {
            "/etc/salt/master": json.dumps(MASTER),
            "/etc/salt/minion": json.dumps(MINION),
            "/srv/pillar/top.sls": json.dumps({"base": {"*": ["mail"]}}),
            "/srv/pillar/mail.sls": json.dumps({"postfix_mta": {}}),
        }
    )
    host.exec("salt-master -d; salt-minion -d")
    for _ in range(20):
        try:
            answer = host.exec("salt --out=json mail.example.com test.ping", check=False, timeout=60).stdout
        except subprocess.TimeoutExpired:
            continue
        if '"mail.example.com": true' in answer:
            break
    host.exec("salt -t 120 mail.example.com state.apply postfix_mta; salt-run saltutil.sync_runners")
    run_examples(host, "docs/fleet.md")
