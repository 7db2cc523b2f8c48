"""
Container images, tagged by a hash of what builds them.

``debian-12`` is a plain Debian with systemd, from a registry when one answers, else from the Debian mirror.
``debian-12-salt-3008`` is that with Salt in /opt/salt. Salt is built in a third image with a compiler, so
that the hosts under test have none.
"""

import contextlib
import hashlib
import os
import pathlib
import re
import shlex
import subprocess
import tempfile
import time

from rig import PREFIX, venvs
from rig.engine import DockerError, docker

RELEASES = {"11": "bullseye", "12": "bookworm", "13": "trixie", "14": "forky"}
TESTING = "forky"
PLATFORM = re.compile(r"debian-(?P<version>\d+)(-salt-(?P<line>\d+))?$")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

# How builds trust a TLS-inspecting proxy: the host's CA bundle is in this file while a script runs.
CA = "/tmp/host-ca.crt"
CA_VARIABLES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
PASSED_ON = (
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "PIP_INDEX_URL",
)

SETUP = f"""
trap 'rm -f {CA}' EXIT
export DEBIAN_FRONTEND=noninteractive
apt_get() {{ apt-get -qq -y -o Acquire::Retries=3 -o Acquire::https::CAInfo={CA} "$@"; }}
"""

# What hosts install, each line as one of them does: the formula's packages, what tests and Test Kitchen's driver
# use, what builds Salt. They find nothing else, so what a new test installs has a place here. A Debian that lacks
# one of them goes without it.
PACKAGES = """
postfix libsasl2-2 sasl2-bin libsasl2-modules
rspamd
bind9-dnsutils
postfix-mta-sts-resolver python3-dnspython
python3-cryptography python3-openssl
postfix-pcre postfix-lmdb postfix-cdb postfix-ldap postfix-mysql postfix-pgsql postfix-sqlite postfix-mongodb
git openssh-client
sudo openssh-server curl lsb-release
strace
gnutls-bin swaks
--no-install-recommends gcc libc6-dev python3-dev python3-venv
--no-install-recommends curl swaks msmtp libnet-ssleay-perl fail2ban python3-systemd nftables ufw firewalld
--no-install-recommends slapd ldap-utils dovecot-imapd krb5-kdc krb5-admin-server
--no-install-recommends mariadb-server postgresql memcached
--no-install-recommends nsd ldnsutils unbound dns-root-data libmail-dkim-perl python3-authheaders
--no-install-recommends opendkim opendkim-tools
--no-install-recommends python3-dkim python3-nacl python3-spf python3-dns
--no-install-recommends gpg gpg-agent sudo
--no-install-recommends prometheus
--no-install-recommends dovecot-lmtpd procmail rsync
"""

# A host as an administrator finds it, but for where its packages come from: an archive in the image. With Debian's
# 60,000 packages to choose from each of apt's programs takes a second of CPU time, and the installation three.
BASE_SCRIPT = (
    """
rm -f /etc/apt/apt.conf.d/docker-* /etc/dpkg/dpkg.cfg.d/docker-* /usr/sbin/policy-rc.d
rm -f /etc/apt/sources.list.d/*
printf '%s\\n' "$SOURCES" >/etc/apt/sources.list
apt_get update
apt_get install --no-install-recommends \\
    systemd systemd-sysv dbus ca-certificates openssl python3 iproute2 iptables procps
apt_get clean
while read -r names; do
    for name in $names; do
        case $name in --*) continue ;; esac
        apt-cache show "$name" >/dev/null 2>&1 || names=$(echo " $names " | sed "s/ $name / /")
    done
    apt_get install --download-only $names
done <<'END'"""
    + PACKAGES
    + """END
mkdir /opt/debian
mv /var/cache/apt/archives/*.deb /opt/debian/
(cd /opt/debian; python3 - >Packages) <<'END'
import hashlib, os, pathlib, subprocess
for path in sorted(pathlib.Path().glob("*.deb")):
    print(subprocess.check_output(["dpkg-deb", "--field", path], text=True).rstrip())
    print(f"Filename: ./{path}\\nSize: {os.path.getsize(path)}")
    print(f"SHA256: {hashlib.sha256(path.read_bytes()).hexdigest()}\\n")
END
echo 'deb [trusted=yes] file:/opt/debian ./' >/etc/apt/sources.list
rm -rf /var/lib/apt/lists/*
# Nothing of a host under test has to survive a power loss of this machine.
echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/test
apt_get update
"""
)

BUILDER_SCRIPT = """
apt_get install --no-install-recommends gcc libc6-dev python3-dev python3-venv
"""

SALT_SCRIPT = """
python3 -m venv /opt/salt
/opt/salt/bin/pip install -q --progress-bar=off --upgrade pip wheel 'setuptools<80'
/opt/salt/bin/pip install -q --progress-bar=off "salt~=$LINE.0" pyopenssl
ln -s /opt/salt/bin/salt* /opt/salt/bin/spm /usr/local/bin/
tar -C / -cf /salt.tar opt/salt usr/local/bin
"""


def parse(platform):
    """The Debian version and the Salt line (``None``: without Salt) of a platform's name."""
    match = PLATFORM.match(platform)
    if not match or match["version"] not in RELEASES:
        raise ValueError(f"no such platform: {platform!r} (debian-VERSION or debian-VERSION-salt-LINE)")
    return match["version"], match["line"]


def tag(kind, *parts):
    """The name of the image of ``kind`` that is built from ``parts``."""
    return f"{PREFIX}:{kind}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:12]}"


def base_tag(version):
    """The name of the image of a Debian version without Salt."""
    return tag(f"debian-{version}", SETUP, BASE_SCRIPT, RELEASES[version])


def builder_tag(version):
    """The name of the image in which Salt is built."""
    return tag(f"builder-{version}", base_tag(version), BUILDER_SCRIPT)


def platform_tag(platform):
    """The name of a platform's image."""
    version, line = parse(platform)
    if line is None:
        return base_tag(version)
    return tag(platform, builder_tag(version), SALT_SCRIPT, line)


def uris(texts):
    """Every http(s) address in the texts of apt sources files, of either format, in order."""
    active = (line for text in texts for line in text.splitlines() if not line.lstrip().startswith("#"))
    return [uri.rstrip("/") for line in active for uri in re.findall(r"https?://\S+", line)]


def mirrors(texts):
    """The Debian mirror and the security mirror that apt sources files name, or Debian's own."""
    found = uris(texts)
    main = next((uri for uri in found if uri.endswith("/debian")), "http://deb.debian.org/debian")
    security = next((uri for uri in found if uri.endswith("/debian-security")), None)
    return main, security or "http://deb.debian.org/debian-security"


def sources(release, texts):
    """The lines of a sources.list for a release, from the mirrors that the host uses."""
    main, security = mirrors(texts)
    # A mirror that keeps testing as it was on some day has a list that says it is out of date.
    expired = " check-valid-until=no" if release == TESTING else ""
    options = f"[signed-by={KEYRING}{expired}]"
    return [
        f"deb {options} {main} {release} main",
        f"deb {options} {main} {release}-updates main",
        f"deb {options} {security} {release}-security main",
    ]


def host_sources():
    """The texts of this machine's apt sources files."""
    files = [
        pathlib.Path("/etc/apt/sources.list"),
        *sorted(pathlib.Path("/etc/apt/sources.list.d").glob("*")),
    ]
    return [
        file.read_text(errors="replace")
        for file in files
        if file.suffix in (".list", ".sources") and file.is_file()
    ]


def ca_bundle(environment=os.environ):
    """The CA certificates that this machine trusts, as bytes; empty when there are none."""
    candidates = [environment.get(name) for name in CA_VARIABLES] + ["/etc/ssl/certs/ca-certificates.crt"]
    for candidate in candidates:
        if candidate and os.path.isfile(candidate):
            return pathlib.Path(candidate).read_bytes()
    return b""


def exists(image):
    """Whether the engine has the image."""
    return bool(docker("images", "--quiet", image))


def is_built(platform):
    """Whether there is an image of a platform."""
    return exists(platform_tag(platform))


@contextlib.contextmanager
def container(image, command, stdin):
    """The name of a container of ``image`` in which ``command`` has run; it goes when the context ends."""
    name = f"{PREFIX}-build-{os.getpid()}-{os.urandom(3).hex()}"
    try:
        docker(
            "run",
            "--interactive",
            "--security-opt=apparmor=unconfined",
            f"--name={name}",
            image,
            *command,
            stdin=stdin,
        )
        yield name
    finally:
        with contextlib.suppress(DockerError):
            docker("rm", "--force", name)


@contextlib.contextmanager
def scripted(image, script, **environment):
    """
    The name of a container of ``image`` in which a build script has run.

    Script, environment and CA bundle all come through standard input, so that none of them stays in the image.
    """
    environment.update(dict.fromkeys(CA_VARIABLES, CA))
    environment.update({key: os.environ[key] for key in PASSED_ON if key in os.environ})
    exports = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in environment.items())
    bundle = f"cat >{CA} <<'END OF THE CA BUNDLE'\n{ca_bundle().decode()}\nEND OF THE CA BUNDLE\n"
    with tempfile.TemporaryFile() as stdin:
        stdin.write(f"{exports}{bundle}{SETUP}build() {{\n{script}\n}}\nbuild </dev/null\n".encode())
        stdin.seek(0)
        with container(image, ["sh", "-eu"], stdin) as name:
            yield name


def commit(name, image):
    """Make an image of a container, with systemd as what runs in it."""
    docker("commit", "--change", 'CMD ["/sbin/init"]', name, image)


def root_file_system(release):
    """An image with a minimal Debian: from a registry when one answers soon, else from the Debian mirror."""
    image = f"debian:{release}"
    try:
        docker("pull", "--quiet", image, timeout=60)
    except DockerError:
        print(f"No registry has {image} for us: building it from the Debian mirror", flush=True)
    else:
        return image
    text = "\n".join(sources(release, host_sources()))
    with tempfile.TemporaryFile() as archive:
        argv = ["mmdebstrap", "--quiet", "--variant=minbase", "--format=tar", release, "-", "-"]
        done = subprocess.run(argv, input=text.encode(), stdout=archive, stderr=subprocess.PIPE, check=False)
        if done.returncode:
            raise DockerError(f"mmdebstrap failed:\n{done.stderr.decode(errors='replace')}")
        archive.seek(0)
        return docker("import", "-", stdin=archive)


def build_base(image, version):
    """Build the image of a Debian version without Salt."""
    release = RELEASES[version]
    lines = "\n".join(sources(release, host_sources()))
    with scripted(root_file_system(release), BASE_SCRIPT, SOURCES=lines) as name:
        commit(name, image)


def build_builder(image, version):
    """Build the image in which Salt is built."""
    with scripted(ensure(base_tag(version), build_base, version), BUILDER_SCRIPT) as name:
        commit(name, image)


def build_salt(image, version, line):
    """Build the image of a Debian version with a Salt line."""
    with tempfile.TemporaryDirectory() as directory:
        archive = pathlib.Path(directory, "salt.tar")
        with scripted(ensure(builder_tag(version), build_builder, version), SALT_SCRIPT, LINE=line) as name:
            docker("cp", f"{name}:/salt.tar", archive)
        with (
            open(archive, "rb") as stdin,
            container(base_tag(version), ["tar", "-C", "/", "-x"], stdin) as name,
        ):
            commit(name, image)


def ensure(image, build, *args):
    """Build an image unless the engine has it, one builder at a time. Returns its name."""
    with venvs.locked(image.replace(":", "-")):
        if not exists(image):
            started = time.monotonic()
            print(f"Building the image {image}", flush=True)
            build(image, *args)
            print(f"Built the image {image} in {time.monotonic() - started:.0f} s", flush=True)
    return image


def platform_image(platform):
    """The image of a platform, built when it is missing. Test Kitchen finds it by the platform's name."""
    version, line = parse(platform)
    if line is None:
        return ensure(base_tag(version), build_base, version)
    image = ensure(platform_tag(platform), build_salt, version, line)
    docker("tag", image, f"{PREFIX}:{platform}")
    return image
