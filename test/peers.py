#!/usr/bin/env python3
"""
What an apply with nothing to change costs, beside what other tools need to find that nothing has to be done.

    bin/test peers [--platform debian-12-salt-3008] [--rounds 5] [--formula FOLDER] [--out FILE]

All of them run in turn and masterless, on one host, which this formula has set up by the how-to. The others are
told less than this formula looks at: that the packages are installed, that the server's files are as they are
(copies of them, with owner and mode), and that its services run and start at boot. None asks the live server.

CPU seconds are those of the program and its children; medians of the rounds. ``--formula`` is the folder
``postfix`` of a clone of the community's postfix-formula, which is on no package index. It has a host of its own,
for its main.cf is another one, with its defaults: the package, main.cf, master.cf, the service.
"""

import argparse
import json
import pathlib
import signal
import statistics
import sys

import plot

from rig import PREFIX, images, kitchen
from rig.container import Container, remove_all
from rig.measure import measured

LABEL = f"{PREFIX}.peers"
FOLDER = "/root/peers"
PACKAGES = ["postfix", "libsasl2-2", "sasl2-bin", "libsasl2-modules"]
SERVICES = ["postfix", "saslauthd"]
FILES = """
find /etc/postfix/main.cf /etc/postfix/master.cf /etc/postfix/sasl/smtpd.conf /etc/aliases /etc/default/saslauthd \
    /etc/mailname /etc/ssl/certs/cacert.pem /etc/ssl/certs/smtpd.crt /etc/ssl/private/smtpd.key \
    -printf '%p %u %g %#m\\n' 2>/dev/null
"""
# From the mirror and the package index, not from the archive of the image.
SCRIPT = """
cp /etc/apt/sources.list /tmp/sources.list
printf '%s\\n' "$SOURCES" >/etc/apt/sources.list
apt_get update
apt_get install --no-install-recommends python3-venv python3-apt puppet
for name in ansible-core pyinfra; do
    python3 -m venv /opt/$name
    /opt/$name/bin/pip install -q --progress-bar=off $name
done
mv /tmp/sources.list /etc/apt/sources.list
apt_get update
"""
VERSIONS = {
    "Ansible": ["/opt/ansible-core/bin/ansible", "--version"],
    "pyinfra": ["/opt/pyinfra/bin/pyinfra", "--version"],
    "Puppet": ["puppet", "--version"],
    "Salt": ["salt-call", "--version"],
}


def playbook(files):
    """Ansible's description."""
    copies = [
        {"src": FOLDER + path, "dest": path, "owner": user, "group": group, "mode": mode}
        for path, user, group, mode in files
    ]
    tasks = [
        {"ansible.builtin.apt": {"name": PACKAGES}},
        {"ansible.builtin.copy": {key: f"{{{{ item.{key} }}}}" for key in copies[0]}, "loop": copies},
        {
            "ansible.builtin.systemd_service": {"name": "{{ item }}", "state": "started", "enabled": True},
            "loop": SERVICES,
        },
    ]
    return json.dumps([{"hosts": "localhost", "connection": "local", "tasks": tasks}])


def deploy(files):
    """pyinfra's."""
    lines = ["from pyinfra.operations import apt, files, systemd", f"apt.packages(packages={PACKAGES})"]
    for path, user, group, mode in files:
        lines.append(f"files.put({FOLDER + path!r}, {path!r}, user={user!r}, group={group!r}, mode={mode[1:]!r})")
    lines += [f"systemd.service({service!r}, running=True, enabled=True)" for service in SERVICES]
    return "\n".join(lines) + "\n"


def manifest(files):
    """Puppet's."""
    lines = [f"package {{ {json.dumps(PACKAGES)}: ensure => installed }}"]
    for path, user, group, mode in files:
        lines.append(
            f"file {{ '{path}': source => '{FOLDER}{path}', "
            f"owner => '{user}', group => '{group}', mode => '{mode}' }}"
        )
    lines.append(f"service {{ {json.dumps(SERVICES)}: ensure => running, enable => true }}")
    return "\n".join(lines) + "\n"


def states(files):
    """The same by Salt's own states."""
    made = {"packages": {"pkg.installed": [{"pkgs": PACKAGES}]}}
    for path, user, group, mode in files:
        asked = {"source": f"salt://peers{path}", "user": user, "group": group, "mode": mode}
        made[path] = {"file.managed": [{key: value} for key, value in asked.items()]}
    for service in SERVICES:
        made[service] = {"service.running": [{"enable": True}]}
    return json.dumps(made)


SALT = ["salt-call", "--local", "--log-level=quiet", "state.apply"]


def programs(container):
    """Put the descriptions on the host; what is run by the name of who runs it."""
    files = [line.split() for line in container.exec(FILES, check=False).stdout.splitlines()]
    for path, *_ in files:
        container.exec(["install", "-D", "-m600", path, FOLDER + path])
        container.exec(["install", "-D", "-m600", path, f"/srv/salt/peers{path}"])
    container.put(
        {
            f"{FOLDER}/playbook.yml": playbook(files),
            f"{FOLDER}/deploy.py": deploy(files),
            f"{FOLDER}/site.pp": manifest(files),
            "/srv/salt/peers.sls": states(files),
            "/srv/salt/reference.sls": "reference:\n  test.nop: []\n",
        }
    )
    return {
        "one test.nop": [*SALT, "reference"],
        "this formula": [*SALT, "postfix_mta"],
        "Salt's own states": [*SALT, "peers"],
        "pyinfra": ["/opt/pyinfra/bin/pyinfra", "-y", "@local", f"{FOLDER}/deploy.py"],
        "Ansible": ["/opt/ansible-core/bin/ansible-playbook", f"{FOLDER}/playbook.yml"],
        "Puppet": ["puppet", "apply", f"{FOLDER}/site.pp"],
    }


def build(image, platform):
    """Build the platform's image with the other tools."""
    version, _ = images.parse(platform)
    lines = "\n".join(images.sources(images.RELEASES[version], images.host_sources()))
    with images.scripted(images.platform_image(platform), SCRIPT, SOURCES=lines) as name:
        images.commit(name, image)


def start(image, instance, name):
    """A host with the formula."""
    container = Container.start(f"{PREFIX}-peers-{name}", instance.driver, image, [LABEL])
    container.provision(instance.provisioner)
    return container


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bin/test peers", description=__doc__.strip().partition("\n")[0])
    parser.add_argument("--platform", default="debian-12-salt-3008")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--formula")
    parser.add_argument("--out")
    options = parser.parse_args()
    instance = kitchen.choose(["default", options.platform])[0]
    # So that what was started goes, too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    image = images.ensure(
        images.tag("peers", images.platform_tag(options.platform), SCRIPT), build, options.platform
    )
    costs = {}
    try:
        container = start(image, instance, "host")
        assert all(one["result"] for one in container.apply().values())
        for name, command in VERSIONS.items():
            print(f"{name}: {container.exec(command).stdout.splitlines()[0]}", flush=True)
        commands = {name: (container, command) for name, command in programs(container).items()}
        if options.formula:
            other = start(image, instance, "other")
            other.put({"/srv/salt/postfix": pathlib.Path(options.formula)})
            commands["the community's formula"] = other, [*SALT, "postfix,postfix.config"]
        for number in range(options.rounds + 2):
            for name, (host, command) in commands.items():
                cost, *said = measured(host, command)
                # The first one may change something, the second one must not.
                if number == 1:
                    print(f"--- {name}\n" + "\n".join("\n".join(said).splitlines()[-9:]), flush=True)
                if number > 1:
                    costs.setdefault(name, []).append(cost)
    finally:
        remove_all(LABEL)
    rows = {name: list(map(statistics.median, zip(*found))) for name, found in costs.items()}
    for name, (cpu, seconds, megabytes) in rows.items():
        ratio = cpu / rows["one test.nop"][0]
        print(f"{name:<24}{cpu:>8.2f} CPU s{ratio:>8.2f}{seconds:>8.2f} s{megabytes:>8.0f} MB", flush=True)
    plot.keep(options.out, "peers", rows)


if __name__ == "__main__":
    sys.exit(main())
