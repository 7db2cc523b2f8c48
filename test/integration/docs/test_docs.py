"""The commands in the documents: each one is run, succeeds, and prints what the document shows."""

import json
import subprocess
import time

import console
import pytest
import yaml

from rig import REPOSITORY, fleet

HERE = "/root/formula"
COPIED = ("_beacons", "_modules", "_runners", "_states", "bin", "postfix_mta", "docs/monitoring")
# The pages whose commands are run here, in this order; those that need a master after the others.
PAGES = (
    "docs/one-server.md",
    "README.md",
    "docs/internet.md",
    "docs/queue.md",
    "docs/migration.md",
    "docs/guarantees.md",
    "docs/monitoring.md",
    "docs/fleet.md",
    "docs/self-mending.md",
    "docs/events.md",
    "docs/arriving.md",
    "docs/fail2ban.md",
    "docs/platforms.md",
    "docs/scale.md",
)
NOT_RUN = console.NotRun(yaml.safe_load((REPOSITORY / "test/integration/docs/not-run.yaml").read_text("utf-8")))
NEED_A_MASTER = ("salt ", "salt-run ", "salt-call ", "sudo salt-run ", "systemctl restart salt-master")
# Nobody is there yet: the clean-up comes when all else has been shown.
LAST = "sudo bin/apply call --pillar mail.sls state.apply postfix_mta.clean"
MASTER = {
    "file_roots": {"base": [HERE]},
    "pillar_roots": {"base": ["/srv/pillar"]},
    "auto_accept": True,
    "log_level": "error",
    # Other suites run at the same time.
    "timeout": 60,
    "gather_job_timeout": 60,
}
MINION = {"id": "mail.example.com", "master": "127.0.0.1", "acceptance_wait_time": 1}
DEFERRED = """
postconf -e defer_transports=smtp && postfix reload
for i in 1 2 3; do echo "Subject: $i" | sendmail -f root@mail.example.com bob@example.net; done
echo "Subject: news" | sendmail -f news@mail.example.com carol@example.org
for i in $(seq 60); do [ $(find /var/spool/postfix/deferred -type f | wc -l) = 4 ] && exit; sleep 0.5; done; exit 1
"""
OLD_PILLAR = {"postfix": {"manage_master_config": False, "config": {"message_size_limit": 41943040}}}


class Reader:
    """Somebody who types the commands of pages, each of them once."""

    def __init__(self, host):
        self.host = host
        self.typed = set()

    def read(self, page, program=("",), left_out=()):
        """Type a page's commands: those that begin with one of ``program``, but for those of ``left_out``."""
        for example in console.steps((REPOSITORY / page).read_text(encoding="utf-8")):
            command = example.command
            if not command.startswith(program) or (left_out and command.startswith(left_out)) or command == LAST:
                continue
            if example.output is None and (command in self.typed or NOT_RUN.rule(command)):
                continue
            self.type(page, example)

    def type(self, page, example):
        """Type one command; a file that ``cat`` shows is written before."""
        if example.command.startswith("cat "):
            self.host.put({f"{HERE}/{example.command[4:]}": "\n".join(example.output) + "\n"})
            return
        self.typed.add(example.command)
        command = example.command.replace("sudo ", "", 1)
        done = self.host.exec(f"cd {HERE}; {command}", check=False)
        if example.output is None:
            assert done.returncode == 0, f"{page}: $ {example.command}\n{done.stdout}{done.stderr}"
        else:
            lost = console.missing(example.output, done.stdout.splitlines())
            assert lost is None, f"{page}: $ {example.command}\ndoes not show: {lost}\n{done.stdout}"
        if command.startswith("systemctl restart salt-master"):
            self.wait()

    def wait(self):
        """Until the minion answers."""
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            try:
                answer = self.host.exec("salt -t 5 --out=json mail.example.com test.ping", check=False, timeout=60)
            except subprocess.TimeoutExpired:
                continue
            if '"mail.example.com": true' in answer.stdout:
                return
        pytest.fail("the minion does not answer")


@pytest.fixture(scope="module")
def host(container):
    """The host, with a clone of the repository and a user."""
    container.put({f"{HERE}/{name}": REPOSITORY / name for name in COPIED})
    container.put({f"{HERE}/old-pillar.sls": json.dumps(OLD_PILLAR)})
    container.exec("useradd --create-home alice; mkdir -p /srv/www /var/lib/prometheus/node-exporter")
    return container


@pytest.fixture(scope="module")
def reader(host):
    return Reader(host)


def test_one_server(reader):
    reader.read("docs/one-server.md")


def test_an_apply_that_is_undone(host, reader):
    # With no settings again, as the page has it.
    host.exec([f"{HERE}/bin/apply", "mail.example.com"])
    reader.read("README.md", left_out=NEED_A_MASTER)


def test_an_audit(reader):
    reader.read("docs/internet.md", left_out=NEED_A_MASTER)


def test_the_queue(host, reader):
    host.exec(DEFERRED)
    reader.read("docs/queue.md", left_out=NEED_A_MASTER)
    host.exec("postsuper -d ALL; postconf -X defer_transports; postfix reload")


def test_another_set_up(reader):
    reader.read("docs/migration.md", left_out=NEED_A_MASTER)


def test_rules_and_metrics(host, reader):
    host.exec(
        "cd /tmp; apt-get -q update; apt-get -q download prometheus"
        "; dpkg-deb --fsys-tarfile prometheus_*.deb | tar -C / -x ./usr/bin/promtool"
    )
    reader.read("docs/guarantees.md", left_out=NEED_A_MASTER)
    reader.read("docs/monitoring.md", left_out=NEED_A_MASTER)


@pytest.fixture(scope="module")
def master(host, reader):
    """A master and a minion as services of the host."""
    units = {
        f"/etc/systemd/system/salt-{role}.service": fleet.UNIT.format(role=role, kill=kill)
        for role, kill in fleet.KILL.items()
    }
    host.put(
        {
            **units,
            "/etc/salt/master": json.dumps(MASTER),
            "/etc/salt/minion": json.dumps(MINION),
            "/srv/pillar/top.sls": json.dumps({"base": {"*": ["mail"]}}),
            "/srv/pillar/mail.sls": json.dumps({"postfix_mta": {}}),
        }
    )
    host.exec("systemctl daemon-reload; systemctl start salt-master salt-minion")
    reader.wait()


def test_a_fleet(master, reader):
    reader.read("docs/fleet.md")


@pytest.mark.parametrize("page", [page for page in PAGES if page != "docs/fleet.md"])
def test_what_needs_a_master(master, reader, page):
    reader.read(page, program=NEED_A_MASTER)


def test_promtool_takes_the_metrics(master, host, reader):
    host.exec("promtool check metrics </var/lib/prometheus/node-exporter/postfix_mta.prom")


def test_the_clean_up(host, reader):
    host.exec("systemctl stop salt-minion salt-master")
    reader.type("docs/one-server.md", console.Example(LAST, None))


def test_no_command_was_left_out(reader):
    pages = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md")]
    for page in [*pages, *sorted((REPOSITORY / "docs").glob("*.md"))]:
        for example in console.steps(page.read_text(encoding="utf-8")):
            shown = example.command.startswith("cat ")
            assert shown or example.command in reader.typed or NOT_RUN.rule(example.command), (
                f"{page.name}: nothing runs {example.command}"
            )
