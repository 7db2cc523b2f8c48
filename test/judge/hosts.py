"""The hosts on which cases are tried: containers with a network of strangers inside, and a worker in each."""

import hashlib
import json
import pathlib
import subprocess

from rig import PREFIX, images, venvs
from rig.container import Container

INSIDE = pathlib.Path(__file__).with_name("inside")
PLACE = "/srv/judge"
# What the formula installs, so that no case has to; what bases use; and rsync, which puts servers back.
PACKAGES = (
    "postfix libsasl2-2 sasl2-bin libsasl2-modules postfix-pcre postfix-lmdb "
    "dovecot-core dovecot-lmtpd procmail rsync"
)
APT = "DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends"
INSTALL = f"apt-get -qq update && {APT} install {PACKAGES}"


def image(instance):
    """The image of a platform with the packages in it, made when it is missing."""
    platform = images.platform_image(instance.platform)
    digest = hashlib.sha256(f"{platform} {INSTALL}".encode()).hexdigest()[:12]
    name = f"{PREFIX}:judge-{instance.platform}-{digest}"
    with venvs.locked(name.replace(":", "-")):
        if not images.exists(name):
            print(f"Building the image {name}", flush=True)
            host = Container.start(f"{PREFIX}-{digest}", instance.driver, platform, [f"{PREFIX}.judge"])
            try:
                host.exec(INSTALL)
                host.exec("systemctl stop postfix saslauthd dovecot; apt-get clean")
                images.commit(host.name, name)
            finally:
                host.remove()
    return name


class Host:
    """A container in which a worker tries cases."""

    def __init__(self, container, provisioner):
        self.container = container
        container.provision(provisioner)
        container.set_pillar({})
        container.put({f"{PLACE}/{file.name}": file for file in INSIDE.iterdir() if file.is_file()})
        container.exec(["sh", f"{PLACE}/prepare.sh", PLACE])
        argv = ["docker", "exec", "--interactive", container.name, "python3", f"{PLACE}/worker.py", PLACE]
        self.worker = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
        self.answer()

    @classmethod
    def start(cls, name, instance, labels):
        """Start a container and the worker in it."""
        return cls(Container.start(name, instance.driver, image(instance), labels), instance.provisioner)

    def answer(self):
        """What the worker says next."""
        line = self.worker.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker in {self.container.name} has ended")
        return json.loads(line)

    def try_case(self, job):
        """Have a case tried; what came of it."""
        self.worker.stdin.write(json.dumps(job) + "\n")
        self.worker.stdin.flush()
        return self.answer()

    def stop(self):
        """End the worker."""
        self.worker.terminate()
        self.worker.wait(60)
