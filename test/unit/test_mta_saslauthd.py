"""saslauthd as it is managed: what each of its resources needs, and that it is made so once."""

import grp
import os
import re

import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_saslauthd
import _mta_saslauthd_files
import _mta_saslauthd_view
from _mta_plan import Plan

DEFAULTS_DEBIAN_12 = """\
#
# Settings for saslauthd daemon
# Example: MECHANISMS="pam"
DESC="SASL Authentication Daemon"
NAME="saslauthd"
MECHANISMS="pam"
MECH_OPTIONS=""

THREADS=5
# Note: You MUST specify the -m option or saslauthd won't run!
OPTIONS="-c -m /var/run/saslauthd"
"""
DEFAULTS_DEBIAN_11 = DEFAULTS_DEBIAN_12.replace('DESC="SASL', '# Should it run?\nSTART=no\nDESC="SASL')
INIT_SCRIPT_DEBIAN_12 = 'if [ "$START" != "yes" ]; then\n\treturn 0\nfi\n'
SOURCE = "salt://postfix_mta/files/saslauthd-proxy.py"


@pytest.fixture
def host(tmp_path, monkeypatch, pretend, functions):
    """A host below ``tmp_path``, with commands recorded, in place of this machine."""
    for module, names in (
        (_mta_saslauthd_view, ("DEFAULTS_FILE", "OWN_FILE", "PROXY_SOCKET")),
        (_mta_saslauthd._mta_services, ("SYSTEMD_RUNS",)),
        (
            _mta_saslauthd,
            (
                "INIT_SCRIPT",
                "DROP_IN",
                "STATOVERRIDE",
                "GROUP_FILE",
                "PROGRAM",
                "CONF_FILE",
                "SASLDB",
                "PROXY_PROGRAM",
                "PROXY_SERVICE",
                "PROXY_DROP_IN",
                "LINK_DROP_IN",
                "PYTHON",
            ),
        ),
    ):
        for name in names:
            monkeypatch.setattr(module, name, f"{tmp_path}{getattr(module, name)}")
    units = tuple(f"{tmp_path}{path}" for path in _mta_saslauthd.NATIVE_UNITS)
    monkeypatch.setattr(_mta_saslauthd, "NATIVE_UNITS", units)
    # The only group that surely exists wherever the tests run is root's.
    monkeypatch.setattr(_mta_saslauthd_files, "GROUP", grp.getgrgid(0).gr_name)
    return Host(tmp_path, pretend, functions)


class Host:
    """Files and arguments of one host; the transaction writes at once, and records commands."""

    def __init__(self, root, pretend, functions):
        self.root = root
        self.args = {
            "socket_directory": f"{root}/chroot/saslauthd",
            "smtpd_conf": f"{root}/etc/postfix/sasl/smtpd.conf",
            "directory_mode": "0710",
        }
        self.commands, self.needs, self.obsolete, self.restored, self.secrets = [], [], {}, [], {}
        self.fetched, self.chroots = [], {}
        self.write("/etc/group", "root:x:0:\nsasl:x:45:\n")
        self.write("/var/lib/dpkg/statoverride", "root postdrop 2555 /usr/sbin/postqueue\n")
        self.write("/cache/program", "the program\n")
        functions["cp.cache_file"] = self._fetch
        pretend("_mta_transaction.begin", lambda: None)
        pretend("_mta_transaction.need", self.needs.append)
        pretend("_mta_transaction.command", lambda item, do, undo, evidence: self.commands.extend(do))
        pretend("_mta_transaction.write", self._write)
        pretend("_mta_transaction.directory", self._directory)
        pretend("_mta_restore.obsolete", self._obsolete)
        pretend("_mta_restore.restore", self.restored.extend)
        pretend("_mta_secrets.get", self.secrets.get)
        pretend("_mta_postfix_view.chroots", lambda: self.chroots)

    def write(self, path, text):
        path = self.root / path.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def read(self, path):
        return (self.root / path.lstrip("/")).read_text()

    def _fetch(self, source, saltenv):
        self.fetched.append((source, saltenv))
        return f"{self.root}/cache/program" if source == SOURCE else False

    def _obsolete(self, module, needed):
        changes = {item: change for item, change in self.obsolete.items() if item not in needed}
        return {"changes": changes, "stays": []}

    @staticmethod
    def _write(path, contents, user=None, group=None, mode=None):
        with open(path, "wb") as handle:
            handle.write(contents)
        if mode:
            os.chmod(path, int(mode, 8))

    @staticmethod
    def _directory(path, user="root", group="root", mode="0755", runtime=()):
        os.makedirs(path, exist_ok=True)
        os.chmod(path, int(mode, 8))


def installed(host, defaults=DEFAULTS_DEBIAN_12):
    host.write("/usr/sbin/saslauthd", "")
    host.write("/etc/default/saslauthd", defaults)


def test_a_fresh_host_is_planned_from_absent_files(host, minion):
    plan = _mta_saslauthd.plan(minion, **host.args)
    assert set(plan.changes) == {
        "OPTIONS",
        "pwcheck_method",
        "mech_list",
        "saslauthd_path",
        "dpkg-statoverride",
        host.args["socket_directory"],
        f"group {_mta_saslauthd_files.GROUP}",
    }
    assert plan.activate == {"saslauthd": "restart", "postfix": "restart"}
    assert plan.notes == ["sasl2-bin is not installed: what it sets by itself is not known before it is there"]


def test_without_the_package_nothing_is_applied(host, minion):
    with pytest.raises(CommandExecutionError, match="sasl2-bin"):
        _mta_saslauthd.apply(minion, **host.args)
    assert not (host.root / "etc/default").exists()


def test_what_was_planned_is_applied_once(host, minion):
    installed(host)
    host.write("/etc/init.d/saslauthd", INIT_SCRIPT_DEBIAN_12)
    _mta_saslauthd.apply(minion, **host.args)
    directory = host.args["socket_directory"]
    expected = DEFAULTS_DEBIAN_12.replace("/var/run/saslauthd", directory) + "START=yes\n"
    assert host.read("/etc/default/saslauthd") == expected
    smtpd_conf = host.read("/etc/postfix/sasl/smtpd.conf")
    assert smtpd_conf == f"pwcheck_method: saslauthd\nmech_list: plain login\nsaslauthd_path: {directory}/mux\n"
    group = _mta_saslauthd_files.GROUP
    assert host.commands == [
        f"dpkg-statoverride --admindir {host.root}/var/lib/dpkg --add root {group} 0710 {directory}".split(),
        ["gpasswd", "--add", "postfix", group],
    ]
    host.write("/etc/group", f"{group}:x:0:other,postfix\n")
    host.write("/var/lib/dpkg/statoverride", f"root {group} 710 {directory}\n")
    assert _mta_saslauthd.plan(minion, **host.args) == Plan()


def test_a_start_line_of_older_releases_is_switched_on(host, minion):
    installed(host, DEFAULTS_DEBIAN_11)
    assert _mta_saslauthd.plan(minion, **host.args).changes["START"] == {"old": "no", "new": "yes"}


def test_a_wrong_override_is_corrected(host, minion):
    installed(host)
    directory, group = host.args["socket_directory"], _mta_saslauthd_files.GROUP
    host.write("/var/lib/dpkg/statoverride", f"root {group} 755 {directory}\n")
    _mta_saslauthd.apply(minion, **host.args, member=None)
    assert [command[3:] for command in host.commands] == [
        ["--remove", directory],
        ["--add", "root", group, "0710", directory],
    ]


NATIVE_UNIT = "/usr/lib/systemd/system/saslauthd.service"
UNIT_DROP_IN = "/etc/systemd/system/saslauthd.service.d/postfix_mta.conf"
SETTINGS_FILE = "/etc/default/postfix-mta-saslauthd"


@pytest.fixture
def native(host):
    """A host with the package, its systemd unit, and systemd."""
    installed(host)
    host.write(NATIVE_UNIT, "")
    (host.root / "run/systemd/system").mkdir(parents=True)
    return host


def test_the_native_unit_gets_a_drop_in_and_the_package_s_file_stays_as_it_came(native, minion):
    changes = _mta_saslauthd.plan(minion, **native.args).changes
    assert {*changes["OPTIONS"].values()} == {
        "-c -m /var/run/saslauthd",
        f"-c -m {native.args['socket_directory']}",
    }
    _mta_saslauthd.apply(minion, **native.args)
    assert native.read("/etc/default/saslauthd") == DEFAULTS_DEBIAN_12
    drop_in = native.read(UNIT_DROP_IN)
    assert f"\nPIDFile={native.args['socket_directory']}/saslauthd.pid\n" in drop_in
    assert (
        f"\nEnvironmentFile={native.root}{SETTINGS_FILE}\nExecStart=\nExecStart=/usr/sbin/saslauthd -a" in drop_in
    )
    assert "-O" not in drop_in
    settings = _mta_saslauthd_view.settings()
    assert (settings["socket_directory"], settings["threads"], settings["cache"]) == (
        native.args["socket_directory"],
        5,
        True,
    )
    again = _mta_saslauthd.plan(minion, **native.args).changes
    assert not {"OPTIONS", _mta_saslauthd.DROP_IN} & {*again}
    # With options of the mechanism; and what an older formula had written into the package's file is put back.
    native.obsolete = {f"{native.root}/etc/default/saslauthd": {"old": "a", "new": "b"}}
    _mta_saslauthd.apply(minion, **native.args, mechanisms=["rimap"], mech_options="imap")
    assert " -O ${MECH_OPTIONS} $OPTIONS" in native.read(UNIT_DROP_IN)
    assert _mta_saslauthd_view.settings()["mech_options"] == "imap"
    assert native.restored == [*native.obsolete]


def test_options_that_somebody_adds_to_the_package_s_file_are_taken_over(native, minion):
    _mta_saslauthd.apply(minion, **native.args)
    native.write("/etc/default/saslauthd", DEFAULTS_DEBIAN_12.replace("-c -m", "-l -c -m"))
    assert _mta_saslauthd.plan(minion, **native.args).changes["OPTIONS"]["new"].endswith(" -l")


def test_what_somebody_has_written_into_the_package_s_file_stays_where_it_is_right(native, minion):
    by_hand = DEFAULTS_DEBIAN_12.replace("/var/run/saslauthd", native.args["socket_directory"])
    native.write("/etc/default/saslauthd", by_hand)
    _mta_saslauthd.apply(minion, **native.args)
    assert not (native.root / SETTINGS_FILE.lstrip("/")).exists()
    assert "ExecStart=/" not in native.read(UNIT_DROP_IN)
    assert native.read("/etc/default/saslauthd") == by_hand


def test_without_systemd_the_init_script_reads_the_package_s_file(host, minion):
    installed(host)
    host.write(NATIVE_UNIT, "")
    host.write("/etc/init.d/saslauthd", INIT_SCRIPT_DEBIAN_12)
    _mta_saslauthd.apply(minion, **host.args)
    assert host.args["socket_directory"] in host.read("/etc/default/saslauthd")
    assert not (host.root / SETTINGS_FILE.lstrip("/")).exists()


def _path_and_link(host, minion):
    """What smtpd.conf is told of the socket, and the link that is made; by one plan."""
    changes = _mta_saslauthd.plan(minion, **host.args).changes
    told, link = (
        changes.get("saslauthd_path", {}).get("new"),
        changes.get(_mta_saslauthd.LINK_DROP_IN, {}).get("new"),
    )
    found = re.search("ln -sfn (.*)", link or "")
    return told, found and found[1]


def test_a_smtpd_outside_of_the_chroot_finds_the_socket_too(host, minion):
    installed(host)
    (host.root / "run/systemd/system").mkdir(parents=True)
    host.args["queue_directory"] = f"{host.root}/chroot"
    real = f"{host.args['socket_directory']}/mux"
    host.chroots = {"smtp/inet": True, "submission/inet": True}
    assert _path_and_link(host, minion) == ("/saslauthd/mux", None)
    host.chroots = {"smtp/inet": False, "submission/inet": False}
    assert _path_and_link(host, minion) == (real, None)
    host.chroots = {"smtp/inet": True, "submission/inet": False}
    assert _path_and_link(host, minion) == ("/saslauthd/mux", f"{real} /saslauthd/mux")
    # What this apply asks of master.cf counts.
    host.args["chroots"] = {"submission/inet": None}
    assert _path_and_link(host, minion) == ("/saslauthd/mux", None)
    host.args["chroots"] = {"smtp/inet": False}
    assert _path_and_link(host, minion) == (real, None)
    # Before Postfix is there: as its package will have it.
    host.chroots, host.args["chroots"], host.args["chroot"] = {}, {}, False
    assert _path_and_link(host, minion) == (real, None)


def test_a_changed_mode_alone_restarts_nothing(host, minion):
    installed(host)
    _mta_saslauthd.apply(minion, **host.args)
    host.write("/etc/group", f"{_mta_saslauthd_files.GROUP}:x:0:postfix\n")
    os.chmod(host.args["socket_directory"], 0o700)
    plan = _mta_saslauthd.plan(minion, **host.args)
    assert host.args["socket_directory"] in plan.changes
    assert plan.activate == {}


def test_a_directory_open_to_all_is_pointed_out(host, minion):
    host.args["directory_mode"] = "0755"
    assert "every local user can test passwords" in _mta_saslauthd.plan(minion, **host.args).notes[0]


def test_an_order_of_mechanisms_in_capitals_is_no_change(host, minion):
    host.write("/etc/postfix/sasl/smtpd.conf", "pwcheck_method:saslauthd\nmech_list:  PLAIN  LOGIN\n")
    assert not {"pwcheck_method", "mech_list"} & set(_mta_saslauthd.plan(minion, **host.args).changes)


LDAP = {
    "servers": ["ldaps://a.example.com", "ldaps://b.example.com"],
    "search_base": "dc=example,dc=com",
    "bind_dn": "cn=reader",
    "password_pillar": "p",
    "timeout": 3,
}


def test_the_option_file_is_roots_alone_and_its_password_is_not_shown(host, minion):
    installed(host)
    args = {**host.args, "mechanisms": ["ldap"], "ldap": LDAP}
    host.secrets["p"] = "geheim #1"
    shown = _mta_saslauthd.plan(minion, **args).changes[_mta_saslauthd.CONF_FILE]
    assert shown["new"]["ldap_bind_pw"] == "****"
    _mta_saslauthd.apply(minion, **args)
    lines = host.read("/etc/saslauthd.conf").splitlines()
    assert "ldap_servers: ldaps://a.example.com ldaps://b.example.com" in lines
    assert "ldap_bind_pw: geheim #1" in lines
    assert "ldap_tls_check_peer: yes" in lines
    assert os.stat(_mta_saslauthd.CONF_FILE).st_mode & 0o777 == 0o600
    assert _mta_saslauthd.CONF_FILE not in _mta_saslauthd.plan(minion, **args).changes
    host.secrets["p"] = "geheim #2"
    plan = _mta_saslauthd.plan(minion, **args)
    assert plan.changes[_mta_saslauthd.CONF_FILE]["new"]["ldap_bind_pw"] == "**** (changed)"
    assert plan.activate["saslauthd"] == "restart"
    assert "geheim" not in str(plan)
    host.secrets["p"] = "geheim #1"
    os.chmod(_mta_saslauthd.CONF_FILE, 0o644)
    assert _mta_saslauthd.plan(minion, **args).changes[_mta_saslauthd.CONF_FILE]["old"] == "root:root 0644"


def test_a_password_with_a_second_line_is_refused_unseen(host, minion):
    host.secrets["p"] = "geheim\nldap_debug: -1"
    with pytest.raises(SaltInvocationError, match="in one line") as error:
        _mta_saslauthd.plan(minion, **{**host.args, "mechanisms": ["ldap"], "ldap": LDAP})
    assert "geheim" not in str(error.value)


def test_a_queue_that_does_not_exist_is_not_made(host, minion):
    installed(host)
    args = {**host.args, "queue_directory": f"{host.root}/srv/nope"}
    assert _mta_saslauthd.plan(minion, **args).errors == [
        f"queue_directory = {host.root}/srv/nope: make that directory, and move what is in the present queue"
    ]
    (host.root / "srv/nope").mkdir(parents=True)
    assert _mta_saslauthd.plan(minion, **args).errors == []


def test_files_of_the_administrator_have_to_be_there_and_closed(host, minion):
    installed(host)
    args = {**host.args, "mechanisms": ["kerberos5"], "kerberos5": {"keytab": f"{host.root}/etc/k"}}
    assert "cannot read" in _mta_saslauthd.plan(minion, **args).errors[0]
    host.write("/etc/k", "")
    os.chmod(host.root / "etc/k", 0o644)
    assert "chmod o=" in _mta_saslauthd.plan(minion, **args).errors[0]
    os.chmod(host.root / "etc/k", 0o600)
    assert _mta_saslauthd.plan(minion, **args).errors == []
    assert "saslpasswd2" in _mta_saslauthd.plan(minion, **{**host.args, "mechanisms": ["sasldb"]}).errors[0]


def test_in_an_open_directory_postfix_needs_no_group(host, minion):
    installed(host)
    host.args["directory_mode"] = "0755"
    group = f"group {_mta_saslauthd_files.GROUP}: postfix"
    host.obsolete = {group: {"old": "as this formula made it", "new": None}}
    plan = _mta_saslauthd.plan(minion, **host.args)
    assert plan.activate["postfix"] == "restart"
    _mta_saslauthd.apply(minion, **host.args)
    assert host.restored == [group]
    host.args["directory_mode"] = "0710"
    assert group not in _mta_saslauthd.plan(minion, **host.args).changes


@pytest.fixture
def proxied(host):
    """A host on which the proxy before saslauthd can run, and a mechanism that asks a server."""
    installed(host)
    host.write("/run/systemd/system/x", "")
    host.write("/usr/bin/python3", "")
    for path in (
        _mta_saslauthd.PROXY_PROGRAM,
        _mta_saslauthd.PROXY_SERVICE,
        _mta_saslauthd.PROXY_DROP_IN,
    ):
        os.makedirs(os.path.dirname(path), exist_ok=True)
    host.args.update(mechanisms=["rimap"], mech_options="imap.example.com/143", member=None, proxy=SOURCE)
    return host


def test_what_asks_a_server_gets_a_proxy_and_postfix_asks_that(proxied, minion):
    plan = _mta_saslauthd.plan(minion, **proxied.args)
    _mta_saslauthd.apply(minion, **proxied.args)
    # Commands are only recorded here.
    assert {*_mta_saslauthd.plan(minion, **proxied.args).changes} == {"dpkg-statoverride"}
    directory = proxied.args["socket_directory"]
    assert _sasl(proxied)["saslauthd_path"] == f"{directory}/proxy"
    socket_unit = proxied.read("/etc/systemd/system/postfix-mta-saslauthd.socket")
    assert f"ListenStream={directory}/proxy\n" in socket_unit
    service = proxied.read("/etc/systemd/system/postfix-mta-saslauthd.service")
    assert f'-proxy.py "{directory}/mux" "rimap" "imap.example.com/143"\n' in service
    drop_in = proxied.read("/etc/systemd/system/saslauthd.service.d/postfix_mta_proxy.conf")
    assert "Wants=postfix-mta-saslauthd.socket" in drop_in
    assert proxied.read("/usr/local/lib/postfix-mta-saslauthd-proxy.py") == "the program\n"
    assert plan.activate == {"saslauthd": "restart", "postfix": "reload"}
    assert _mta_saslauthd_view.settings()["proxy"] is True


def _sasl(host):
    lines = host.read("/etc/postfix/sasl/smtpd.conf").splitlines()
    return dict(line.split(": ", 1) for line in lines)


@pytest.mark.parametrize("how", ["pam", "off", "no systemd", "no python3"])
def test_elsewhere_there_is_no_proxy(proxied, minion, how):
    _mta_saslauthd.apply(minion, **proxied.args)
    paths = [getattr(_mta_saslauthd, name) for name in ("PROXY_PROGRAM", "PROXY_SERVICE", "PROXY_DROP_IN")]
    paths.append(_mta_saslauthd_view.PROXY_SOCKET)
    proxied.obsolete = {path: {"old": "as this formula made it", "new": None} for path in paths}
    if how == "pam":
        proxied.args.update(mechanisms=["pam"], mech_options=None)
    elif how == "off":
        proxied.args["proxy"] = None
    elif how == "no systemd":
        (proxied.root / "run/systemd/system/x").unlink()
        (proxied.root / "run/systemd/system").rmdir()
    else:
        (proxied.root / "usr/bin/python3").unlink()
    proxied.fetched.clear()
    plan = _mta_saslauthd.plan(minion, **proxied.args)
    assert proxied.fetched == []
    assert {*paths} <= {*plan.changes}
    assert [note.partition(":")[0] for note in plan.notes] == {
        "no systemd": ["There is no proxy before saslauthd, as systemd does not run"],
        "no python3": [f"There is no proxy before saslauthd, as there is no {_mta_saslauthd.PYTHON}"],
    }.get(how, [])
    _mta_saslauthd.apply(minion, **proxied.args)
    assert {*paths} <= {*proxied.restored}
    assert _sasl(proxied)["saslauthd_path"].endswith("/mux")


def test_a_proxy_whose_socket_is_gone_is_started_again(proxied, minion):
    _mta_saslauthd.apply(minion, **proxied.args)
    proxied.write(f"{proxied.args['socket_directory']}/mux".replace(str(proxied.root), ""), "")
    plan = _mta_saslauthd.plan(minion, **proxied.args)
    assert plan.activate == {"saslauthd": "restart"}
    assert _mta_saslauthd_view.PROXY_SOCKET in plan.changes
    proxied.write(f"{proxied.args['socket_directory']}/proxy".replace(str(proxied.root), ""), "")
    assert _mta_saslauthd_view.PROXY_SOCKET not in _mta_saslauthd.plan(minion, **proxied.args).changes


def test_the_bind_password_is_not_among_the_proxy_s_arguments(proxied, minion):
    proxied.secrets["p"] = "geheim #1"
    proxied.args.update(mechanisms=["ldap"], mech_options=None, ldap=LDAP)
    _mta_saslauthd.apply(minion, **proxied.args)
    service = proxied.read("/etc/systemd/system/postfix-mta-saslauthd.service")
    assert '"ldap" "ldaps://a.example.com" "ldaps://b.example.com"\n' in service
    assert "geheim" not in service


def test_the_program_comes_from_the_file_server_of_this_environment(proxied, minion):
    minion.opts["saltenv"] = "dev"
    _mta_saslauthd.plan(minion, **proxied.args)
    assert proxied.fetched == [(SOURCE, "dev")]
    with pytest.raises(CommandExecutionError, match="has no salt://elsewhere"):
        _mta_saslauthd.plan(minion, **{**proxied.args, "proxy": "salt://elsewhere"})


def test_another_version_of_the_program_is_replaced(proxied, minion):
    _mta_saslauthd.apply(minion, **proxied.args)
    proxied.write("/cache/program", "the next program\n")
    plan = _mta_saslauthd.plan(minion, **proxied.args)
    assert plan.changes[_mta_saslauthd.PROXY_PROGRAM] == {"old": "another version", "new": "this formula's"}
    assert plan.activate == {"saslauthd": "restart"}


@pytest.mark.parametrize("on", [True, False])
def test_where_it_is_absent_it_is_stopped_and_everything_is_put_back(host, minion, pretend, on):
    status = {"installed": True, "enabled": on, "active": on}
    pretend("_mta_services.status", lambda names: {name: status for name in names})
    if on:
        host.obsolete = {"/etc/default/saslauthd": {"old": "a", "new": "b"}}
    plan = _mta_saslauthd.absent_plan(minion)
    assert bool(plan.changes) is on
    assert plan.activate == ({"postfix": "reload", "saslauthd": "stop"} if on else {})
    _mta_saslauthd.absent_apply(minion)
    assert ("/etc/default/saslauthd" in host.restored) is on


def test_a_file_in_the_way_of_the_directory_is_an_error(host, minion):
    host.write("/chroot/saslauthd", "")
    with pytest.raises(CommandExecutionError, match="not a directory"):
        _mta_saslauthd.plan(minion, **host.args)


# -- the state -------------------------------------------------------------------------------------------------


@pytest.fixture
def in_test_mode(opts):
    """``test=True``, from before the loaders take their options."""
    opts["test"] = True


def test_in_test_mode_the_state_changes_nothing(in_test_mode, host, states):
    def tree():
        return sorted(path for path in host.root.rglob("*") if "cache" not in str(path))

    before = tree()
    result = states["saslauthd.managed"]("saslauthd", transaction="postfix_mta", **host.args)
    assert result["result"] is None
    assert result["changes"]["OPTIONS"]["new"] == f"-c -m {host.args['socket_directory']}"
    assert tree() == before
