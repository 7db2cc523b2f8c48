"""saslauthd: the settings it edits, the unit that it is for the transaction, and its socket."""

import functools
import grp
import os
import socket
import struct
import threading

import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_saslauthd
import _mta_saslauthd_view

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


@pytest.fixture
def inside():
    """The module's own names, private functions included."""
    return vars(_mta_saslauthd)


@pytest.fixture
def host(inside, tmp_path, monkeypatch):
    """A host below ``tmp_path``, with commands recorded, in place of this machine."""
    for name in (
        "DEFAULTS_FILE",
        "INIT_SCRIPT",
        "DROP_IN",
        "STATOVERRIDE",
        "GROUP_FILE",
        "PROGRAM",
        "CONF_FILE",
        "SASLDB",
        "FRONT_PROGRAM",
        "FRONT_SERVICE",
        "FRONT_SOCKET",
        "FRONT_DROP_IN",
        "SYSTEMD_RUNS",
        "PYTHON",
    ):
        monkeypatch.setitem(inside, name, str(tmp_path) + inside[name])
    units = tuple(str(tmp_path) + path for path in _mta_saslauthd.NATIVE_UNITS)
    monkeypatch.setattr(_mta_saslauthd, "NATIVE_UNITS", units)
    # The only group that surely exists wherever the tests run is root's.
    monkeypatch.setattr(_mta_saslauthd, "GROUP", grp.getgrgid(0).gr_name)
    return Host(tmp_path, inside, monkeypatch)


class Host:
    """Files and arguments of one host."""

    def __init__(self, root, inside, monkeypatch):
        self.root, self.inside = root, inside
        self.args = {
            "socket_directory": f"{root}/chroot/saslauthd",
            "smtpd_conf": f"{root}/etc/postfix/sasl/smtpd.conf",
            "directory_mode": "0710",
        }
        monkeypatch.setitem(_mta_saslauthd.ARGUMENTS, "socket_directory", self.args["socket_directory"])
        self.commands = []
        monkeypatch.setitem(inside, "__salt__", self)
        self.needs, self.superseded, self.given_back, self.secrets = [], {}, [], {}
        self.write("/etc/group", "root:x:0:\nsasl:x:45:\n")
        self.write("/var/lib/dpkg/statoverride", "root postdrop 2555 /usr/sbin/postqueue\n")

    def write(self, path, text):
        path = self.root / path.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def read(self, path):
        return (self.root / path.lstrip("/")).read_text()

    def __getitem__(self, function):
        return {
            "mta_transaction.begin": lambda: None,
            "mta_transaction.need": self.needs.append,
            "mta_transaction.command": lambda item, do, undo, evidence: self.commands.extend(do),
            "mta_originals.superseded": self._superseded,
            "mta_originals.give_back": self.given_back.extend,
            "mta_secret.get": self.secrets.get,
            "mta_saslauthd_front.text": lambda: "the program\n",
            "mta_transaction.write": self._write,
            "mta_transaction.directory": self._directory,
        }[function]

    def _superseded(self, module, wanted):
        changes = {item: change for item, change in self.superseded.items() if item not in wanted}
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


# -- the shell file ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('OPTIONS="-c -m /a"', "-c -m /a"),
        ("OPTIONS='-c  -m /a'", "-c -m /a"),
        ("  export OPTIONS=-c\\ -m\\ /a  # why", "-c -m /a"),
        ('OPTIONS="first"\nOPTIONS="last"', "last"),
        ('#OPTIONS="no"\n', None),
        ('MECH_OPTIONS="no"\n', None),
        ("OPTIONS=", ""),
    ],
)
def test_the_shell_file_is_read_as_a_shell_reads_it(inside, text, value):
    assert _mta_saslauthd_view.shell_value(text, "OPTIONS") == value


def test_a_value_over_several_lines_is_replaced_whole(inside):
    text = 'A=1\nOPTIONS="-c \\\n -m /a" # kept\nB=2\n'
    assert _mta_saslauthd._shell_set(text, "OPTIONS", "-m /b") == 'A=1\nOPTIONS="-m /b" # kept\nB=2\n'


def test_the_last_assignment_is_the_one_that_is_edited(inside):
    assert _mta_saslauthd._shell_set("THREADS=1\nTHREADS=2\n", "THREADS", "5") == "THREADS=1\nTHREADS=5\n"


def test_a_missing_assignment_is_added_at_the_end(inside):
    assert _mta_saslauthd._shell_set("A=1", "START", "yes") == "A=1\nSTART=yes\n"


def test_settings_are_what_the_file_says(host):
    installed(host, 'START=no\nMECHANISMS="rimap"\nMECH_OPTIONS="imap/143"\nTHREADS=0\nOPTIONS="-m/run/x/"\n')
    assert _mta_saslauthd_view.settings() == {
        "mechanisms": ["rimap"],
        "mech_options": "imap/143",
        "threads": 0,
        "cache": False,
        "socket_directory": "/run/x",
        "start": False,
        "front": False,
    }


def test_settings_without_the_package_are_the_packages(host):
    assert _mta_saslauthd_view.settings()["socket_directory"] == "/var/run/saslauthd"


# -- smtpd.conf, the override, the group ---------------------------------------------------------------------


def test_other_keys_of_smtpd_conf_stay(inside):
    text = "# ours\nlog_level: 3\nMech_List: cram-md5\nmech_list: digest-md5\nsql_passwd: x\n"
    edited = _mta_saslauthd._sasl_set(text, "mech_list", "plain login")
    assert edited == "# ours\nlog_level: 3\nmech_list: plain login\nsql_passwd: x\n"
    assert _mta_saslauthd_view.sasl_value(text, "mech_list") == "cram-md5"


def test_the_override_is_found_by_its_path(inside):
    text = "root sasl 710 /var/run/saslauthd\nroot sasl 2755 /a b\n"
    assert _mta_saslauthd._statoverride(text, "/var/run/saslauthd") == "root:sasl 0710"
    assert _mta_saslauthd._statoverride(text, "/a b") == "root:sasl 2755"
    assert _mta_saslauthd._statoverride(text, "/run/saslauthd") is None


# -- plan and apply ------------------------------------------------------------------------------------------


def test_a_fresh_host_is_planned_from_absent_files(host, minion):
    plan = _mta_saslauthd.plan(minion, **host.args)
    assert set(plan["changes"]) == {
        "OPTIONS",
        "pwcheck_method",
        "mech_list",
        "saslauthd_path",
        "dpkg-statoverride",
        host.args["socket_directory"],
        f"group {host.inside['GROUP']}",
    }
    assert plan["activate"] == {"saslauthd": "restart", "postfix": "restart"}
    assert "comment" not in plan


def test_without_the_package_nothing_is_applied(host, minion):
    with pytest.raises(CommandExecutionError, match="sasl2-bin"):
        _mta_saslauthd.apply(minion, **host.args)
    assert not (host.root / "etc/default").exists()


@pytest.mark.parametrize(
    ("directory", "path"),
    [
        ("/var/spool/postfix/var/run/saslauthd", None),
        ("/var/run/saslauthd", None),
        ("/var/spool/postfix/run/sasl", "/run/sasl/mux"),
        ("/run/sasl", "/run/sasl/mux"),
    ],
)
def test_libsasl_is_told_where_the_socket_is_unless_it_looks_there_anyway(inside, directory, path):
    assert _mta_saslauthd._socket_seen(directory) == path


def test_a_key_that_is_not_wanted_is_taken_out(inside):
    text = "a: b\nsaslauthd_path: /x\nSaslauthd_path: /y\n"
    assert _mta_saslauthd._sasl_set(text, "saslauthd_path", None) == "a: b\n"


def test_what_was_planned_is_applied_once(host, minion):
    installed(host)
    host.write("/etc/init.d/saslauthd", INIT_SCRIPT_DEBIAN_12)
    _mta_saslauthd.apply(minion, **host.args)
    directory = host.args["socket_directory"]
    expected = DEFAULTS_DEBIAN_12.replace("/var/run/saslauthd", directory) + "START=yes\n"
    assert host.read("/etc/default/saslauthd") == expected
    smtpd_conf = host.read("/etc/postfix/sasl/smtpd.conf")
    assert smtpd_conf == f"pwcheck_method: saslauthd\nmech_list: plain login\nsaslauthd_path: {directory}/mux\n"
    group = host._mta_saslauthd.GROUP
    assert host.commands == [
        f"dpkg-statoverride --admindir {host.root}/var/lib/dpkg --add root {group} 0710 {directory}".split(),
        ["gpasswd", "--add", "postfix", group],
    ]
    host.write("/etc/group", f"{group}:x:0:other,postfix\n")
    host.write("/var/lib/dpkg/statoverride", f"root {group} 710 {directory}\n")
    assert _mta_saslauthd.plan(minion, **host.args) == {"changes": {}, "activate": {}, "errors": []}


def test_a_start_line_of_older_releases_is_switched_on(host, minion):
    installed(host, DEFAULTS_DEBIAN_11)
    assert _mta_saslauthd.plan(minion, **host.args)["changes"]["START"] == {"old": "no", "new": "yes"}


def test_a_wrong_override_is_corrected(host, minion):
    installed(host)
    directory, group = host.args["socket_directory"], host._mta_saslauthd.GROUP
    host.write("/var/lib/dpkg/statoverride", f"root {group} 755 {directory}\n")
    _mta_saslauthd.apply(minion, **host.args, member=None)
    assert [command[3:] for command in host.commands] == [
        ["--remove", directory],
        ["--add", "root", group, "0710", directory],
    ]


def test_the_native_unit_gets_a_drop_in(host, minion):
    installed(host)
    host.write("/usr/lib/systemd/system/saslauthd.service", "")
    _mta_saslauthd.apply(minion, **host.args)
    drop_in = host.read("/etc/systemd/system/saslauthd.service.d/postfix_mta.conf")
    assert f"\nPIDFile={host.args['socket_directory']}/saslauthd.pid\n" in drop_in
    assert "ExecStart=" not in drop_in.replace("ExecStartPre=", "")
    changes = _mta_saslauthd.plan(minion, **host.args, mechanisms=["rimap"], mech_options="imap/143")["changes"]
    assert "-O ${MECH_OPTIONS}" in changes[host._mta_saslauthd.DROP_IN]["new"]


def test_a_changed_mode_alone_restarts_nothing(host, minion):
    installed(host)
    _mta_saslauthd.apply(minion, **host.args)
    host.write("/etc/group", f"{host.inside['GROUP']}:x:0:postfix\n")
    os.chmod(host.args["socket_directory"], 0o700)
    plan = _mta_saslauthd.plan(minion, **host.args)
    assert host.args["socket_directory"] in plan["changes"]
    assert plan["activate"] == {}


def test_a_directory_open_to_all_is_pointed_out(host, minion):
    host.args["directory_mode"] = "0755"
    assert "every local user can test passwords" in _mta_saslauthd.plan(minion, **host.args)["comment"]


def test_an_order_of_mechanisms_in_capitals_is_no_change(host, minion):
    host.write("/etc/postfix/sasl/smtpd.conf", "pwcheck_method:saslauthd\nmech_list:  PLAIN  LOGIN\n")
    assert not {"pwcheck_method", "mech_list"} & set(_mta_saslauthd.plan(minion, **host.args)["changes"])


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
    shown = _mta_saslauthd.plan(minion, **args)["changes"][host._mta_saslauthd.CONF_FILE]
    assert shown["new"]["ldap_bind_pw"] == "****"
    _mta_saslauthd.apply(minion, **args)
    lines = host.read("/etc/saslauthd.conf").splitlines()
    assert "ldap_servers: ldaps://a.example.com ldaps://b.example.com" in lines
    assert "ldap_bind_pw: geheim #1" in lines
    assert "ldap_tls_check_peer: yes" in lines
    assert os.stat(host._mta_saslauthd.CONF_FILE).st_mode & 0o777 == 0o600
    assert host._mta_saslauthd.CONF_FILE not in _mta_saslauthd.plan(minion, **args)["changes"]
    host.secrets["p"] = "geheim #2"
    plan = _mta_saslauthd.plan(minion, **args)
    assert plan["changes"][host._mta_saslauthd.CONF_FILE]["new"]["ldap_bind_pw"] == "**** (changed)"
    assert plan["activate"]["saslauthd"] == "restart"
    assert "geheim" not in str(plan)
    host.secrets["p"] = "geheim #1"
    os.chmod(host._mta_saslauthd.CONF_FILE, 0o644)
    assert _mta_saslauthd.plan(minion, **args)["changes"][host._mta_saslauthd.CONF_FILE]["old"] == "root:root 0644"


def test_a_password_with_a_second_line_is_refused_unseen(host, minion):
    host.secrets["p"] = "geheim\nldap_debug: -1"
    with pytest.raises(SaltInvocationError, match="in one line") as error:
        _mta_saslauthd.plan(minion, **{**host.args, "mechanisms": ["ldap"], "ldap": LDAP})
    assert "geheim" not in str(error.value)


def test_files_of_the_administrator_have_to_be_there_and_closed(host, minion):
    installed(host)
    args = {**host.args, "mechanisms": ["kerberos5"], "kerberos5": {"keytab": f"{host.root}/etc/k"}}
    assert "cannot read" in _mta_saslauthd.plan(minion, **args)["errors"][0]
    host.write("/etc/k", "")
    os.chmod(host.root / "etc/k", 0o644)
    assert "chmod o=" in _mta_saslauthd.plan(minion, **args)["errors"][0]
    os.chmod(host.root / "etc/k", 0o600)
    assert _mta_saslauthd.plan(minion, **args)["errors"] == []
    assert "saslpasswd2" in _mta_saslauthd.plan(minion, **{**host.args, "mechanisms": ["sasldb"]})["errors"][0]


def test_in_an_open_directory_postfix_needs_no_group(host, minion):
    installed(host)
    host.args["directory_mode"] = "0755"
    group = f"group {host.inside['GROUP']}: postfix"
    host.superseded = {group: {"old": "as this formula made it", "new": None}}
    plan = _mta_saslauthd.plan(minion, **host.args)
    assert plan["activate"]["postfix"] == "restart"
    _mta_saslauthd.apply(minion, **host.args)
    assert host.given_back == [group]
    host.args["directory_mode"] = "0710"
    assert group not in _mta_saslauthd.plan(minion, **host.args)["changes"]


@pytest.fixture
def fronted(host):
    """A host on which the program before saslauthd can run, and a mechanism that asks a server."""
    installed(host)
    host.write("/run/systemd/system/x", "")
    host.write("/usr/bin/python3", "")
    for path in (
        host._mta_saslauthd.FRONT_PROGRAM,
        host._mta_saslauthd.FRONT_SERVICE,
        host._mta_saslauthd.FRONT_DROP_IN,
    ):
        os.makedirs(os.path.dirname(path), exist_ok=True)
    host.args.update(mechanisms=["rimap"], mech_options="imap.example.com/143", member=None)
    return host


def test_what_asks_a_server_gets_a_front_and_postfix_asks_that(fronted, minion):
    plan = _mta_saslauthd.plan(minion, **fronted.args)
    _mta_saslauthd.apply(minion, **fronted.args)
    # Commands are only recorded here.
    assert {*_mta_saslauthd.plan(minion, **fronted.args)["changes"]} == {"dpkg-statoverride"}
    directory = fronted.args["socket_directory"]
    assert _sasl(fronted)["saslauthd_path"] == f"{directory}/front"
    socket_unit = fronted.read("/etc/systemd/system/postfix-mta-saslauthd.socket")
    assert f"ListenStream={directory}/front\n" in socket_unit
    service = fronted.read("/etc/systemd/system/postfix-mta-saslauthd.service")
    assert f'-front.py "{directory}/mux" "rimap" "imap.example.com/143"\n' in service
    drop_in = fronted.read("/etc/systemd/system/saslauthd.service.d/postfix_mta_front.conf")
    assert "Wants=postfix-mta-saslauthd.socket" in drop_in
    assert fronted.read("/usr/local/lib/postfix-mta-saslauthd-front.py") == "the program\n"
    assert plan["activate"] == {"saslauthd": "restart", "postfix": "reload"}
    assert _mta_saslauthd_view.settings()["front"] is True


def _sasl(host):
    lines = host.read("/etc/postfix/sasl/smtpd.conf").splitlines()
    return dict(line.split(": ", 1) for line in lines)


@pytest.mark.parametrize("how", ["pam", "off", "no systemd", "no python3"])
def test_elsewhere_there_is_no_front(fronted, minion, how):
    _mta_saslauthd.apply(minion, **fronted.args)
    paths = [fronted.inside[name] for name in ("FRONT_PROGRAM", "FRONT_SERVICE", "FRONT_SOCKET", "FRONT_DROP_IN")]
    fronted.superseded = {path: {"old": "as this formula made it", "new": None} for path in paths}
    if how == "pam":
        fronted.args.update(mechanisms=["pam"], mech_options=None)
    elif how == "off":
        fronted.args["front"] = False
    elif how == "no systemd":
        (fronted.root / "run/systemd/system/x").unlink()
        (fronted.root / "run/systemd/system").rmdir()
    else:
        (fronted.root / "usr/bin/python3").unlink()
    plan = _mta_saslauthd.plan(minion, **fronted.args)
    assert {*paths} <= {*plan["changes"]}
    assert ("no front of saslauthd" in (plan.get("comment") or "")) is how.startswith("no ")
    _mta_saslauthd.apply(minion, **fronted.args)
    assert {*paths} <= {*fronted.given_back}
    assert _sasl(fronted)["saslauthd_path"].endswith("/mux")


def test_a_front_whose_socket_is_gone_is_started_again(fronted, minion):
    _mta_saslauthd.apply(minion, **fronted.args)
    fronted.write(f"{fronted.args['socket_directory']}/mux".replace(str(fronted.root), ""), "")
    plan = _mta_saslauthd.plan(minion, **fronted.args)
    assert plan["activate"] == {"saslauthd": "restart"}
    assert fronted._mta_saslauthd_view.FRONT_SOCKET in plan["changes"]
    fronted.write(f"{fronted.args['socket_directory']}/front".replace(str(fronted.root), ""), "")
    assert fronted._mta_saslauthd_view.FRONT_SOCKET not in _mta_saslauthd.plan(minion, **fronted.args)["changes"]


@pytest.mark.parametrize(
    ("conf", "arguments"),
    [
        ("ldap_servers: ldap://a ldaps://b:636\n", '"D/mux" "ldap" "ldap://a" "ldaps://b:636"'),
        (
            "ldap_servers: ldap://a\nldap_start_tls: yes\nldap_tls_check_peer: yes\nldap_tls_cacert_file: /ca\n",
            '"--start-tls" "--ca-file=/ca" "D/mux" "ldap" "ldap://a"',
        ),
        ("ldap_servers: ldap://a\nldap_tls_cacert_file: /ca\n", '"D/mux" "ldap" "ldap://a"'),
        ('ldap_servers: ldapi://%2frun "$x\\\n', r'"D/mux" "ldap" "ldapi://%%2frun" "\"$$x\\"'),
        (None, '"D/mux" "ldap"'),
    ],
)
def test_the_front_asks_the_servers_that_the_option_file_names(inside, conf, arguments):
    wanted = {"mechanisms": ["ldap"], "mech_options": None, "socket_directory": "D"}
    assert _mta_saslauthd._front_arguments(wanted, conf) == arguments


def test_the_bind_password_is_not_among_the_front_s_arguments(fronted, minion):
    fronted.secrets["p"] = "geheim #1"
    fronted.args.update(mechanisms=["ldap"], mech_options=None, ldap=LDAP)
    _mta_saslauthd.apply(minion, **fronted.args)
    service = fronted.read("/etc/systemd/system/postfix-mta-saslauthd.service")
    assert '"ldap" "ldaps://a.example.com" "ldaps://b.example.com"\n' in service
    assert "geheim" not in service


@pytest.mark.parametrize("on", [True, False])
def test_where_it_is_absent_it_is_stopped_and_everything_is_given_back(host, minion, monkeypatch, on):
    status = {"installed": True, "enabled": on, "active": on}
    known = Host.__getitem__
    stub = {"mta_service.status": lambda names: {name: status for name in names}}
    monkeypatch.setattr(Host, "__getitem__", lambda self, name: stub[name] if name in stub else known(self, name))
    if on:
        host.superseded = {"/etc/default/saslauthd": {"old": "a", "new": "b"}}
    plan = _mta_saslauthd.absent_plan(minion)
    assert bool(plan["changes"]) is on
    assert plan["activate"] == ({"postfix": "reload", "saslauthd": "stop"} if on else {})
    _mta_saslauthd.absent_apply(minion)
    assert ("/etc/default/saslauthd" in host.given_back) is on


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("mechanisms", "pam"),
        ("ldap", {"servers": ["ldap://a"]}),
        ("ldap", {"servers": ["ldap://a\n"], "search_base": "a"}),
        ("ldap", {"no_such_key": 1}),
        ("kerberos5", {"keytab": "/k\nx"}),
        ("mechanisms", ["pam", "shadow"]),
        ("mechanisms", ["pam$(reboot)"]),
        ("mech_options", 'x"; reboot'),
        ("mech_options", "$(reboot)"),
        ("mech_options", "a\nb"),
        ("threads", "5"),
        ("threads", True),
        ("threads", -1),
        ("cache", "yes"),
        ("socket_directory", "relative"),
        ("socket_directory", "/a/../b`reboot`"),
        ("socket_directory", "/a b"),
        ("socket_directory", "/a\n"),
        ("socket_directory", "/" + "a" * 120),
        ("directory_mode", 493),
        ("directory_mode", "rwx"),
        ("mech_list", []),
        ("mech_list", ["plain\nlog_level: 7"]),
        ("member", "root,evil"),
        ("no_such_argument", 1),
    ],
)
def test_a_bad_argument_is_refused_by_name(host, minion, argument, value):
    with pytest.raises(SaltInvocationError, match=argument):
        _mta_saslauthd.plan(minion, **{**host.args, argument: value})


def test_a_file_in_the_way_of_the_directory_is_an_error(host, minion):
    host.write("/chroot/saslauthd", "")
    with pytest.raises(CommandExecutionError, match="not a directory"):
        _mta_saslauthd.plan(minion, **host.args)


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


# -- the socket ----------------------------------------------------------------------------------------------


@pytest.fixture
def daemon(tmp_path):
    """A saslauthd that knows one password; ``daemon.reply`` overrides its answers."""
    path = str(tmp_path / "mux")
    server = Daemon(path)
    yield server
    server.socket.close()


class Daemon:
    def __init__(self, path):
        self.path, self.reply, self.requests = path, None, []
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(path)
        self.socket.listen(5)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                request = []
                for _ in range(4):
                    head = stream.read(2)
                    if len(head) == 2:
                        request.append(stream.read(struct.unpack("!H", head)[0]).decode())
                if len(request) < 4:
                    continue
                self.requests.append(request)
                reply = self.reply
                if reply is None:
                    text = b"OK" if request[1] == "Pä55word" else b"NO authentication failed"
                    reply = struct.pack("!H", len(text)) + text
                connection.sendall(reply)


def test_the_daemon_is_asked_as_smtpd_asks_it(minion, daemon):
    authenticate = functools.partial(_mta_saslauthd_view.authenticate, minion)
    assert authenticate("alice", "Pä55word", socket=daemon.path) is True
    assert authenticate("alice", "wrong", realm="example.com", socket=daemon.path) is False
    assert daemon.requests == [["alice", "Pä55word", "smtp", ""], ["alice", "wrong", "smtp", "example.com"]]


def test_the_password_may_be_named_by_its_pillar_path(opts, daemon):
    import salt.loader

    opts["pillar"] = {"postfix_mta": {"verify": {"login": {"password": "Pä55word"}}}}
    authenticate = salt.loader.minion_mods(opts)["saslauthd.authenticate"]
    assert authenticate("alice", password_pillar="postfix_mta:verify:login:password", socket=daemon.path)
    with pytest.raises(SaltInvocationError, match="no password for alice at postfix_mta:nothing"):
        authenticate("alice", password_pillar="postfix_mta:nothing", socket=daemon.path)


def test_a_password_in_the_pillar_may_be_in_sdb(opts, daemon, monkeypatch):
    import salt.loader

    monkeypatch.setenv("MTA_TEST_PASSWORD", "Pä55word")
    opts.update(pillar={"password": "sdb://environment/MTA_TEST_PASSWORD"}, environment={"driver": "env"})
    authenticate = salt.loader.minion_mods(opts)["saslauthd.authenticate"]
    assert authenticate("alice", password_pillar="password", socket=daemon.path)
    opts["pillar"]["password"] = "sdb://no-such-profile/x"
    authenticate = salt.loader.minion_mods(opts)["saslauthd.authenticate"]
    with pytest.raises(CommandExecutionError, match="leads to nothing"):
        authenticate("alice", password_pillar="password", socket=daemon.path)


@pytest.mark.parametrize("reply", [b"", b"\x00", b"\x00\x09OK", b"\x00\x02??"])
def test_half_an_answer_is_an_error_without_the_password(minion, daemon, reply):
    daemon.reply = reply
    with pytest.raises(CommandExecutionError) as error:
        _mta_saslauthd_view.authenticate(minion, "alice", "Pä55word", socket=daemon.path)
    assert "saslauthd" in str(error.value)
    assert "55word" not in str(error.value)


def test_a_daemon_that_hangs_is_not_waited_for_forever(minion, tmp_path):
    path = str(tmp_path / "mux")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(1)
        with pytest.raises(CommandExecutionError, match=r"did not answer .* within 0\.2 seconds"):
            _mta_saslauthd_view.authenticate(minion, "alice", "x", socket=path, timeout=0.2)
    with pytest.raises(CommandExecutionError, match="Nobody listens"):
        _mta_saslauthd_view.authenticate(minion, "alice", "x", socket=path)
    with pytest.raises(CommandExecutionError, match="There is no socket"):
        _mta_saslauthd_view.authenticate(minion, "alice", "x", socket=f"{path}2")


def test_more_than_the_daemon_takes_is_refused(minion, daemon):
    with pytest.raises(SaltInvocationError, match="password is longer than 256 bytes"):
        _mta_saslauthd_view.authenticate(minion, "alice", "ä" * 129, socket=daemon.path)


def test_liveness_is_whether_the_socket_takes_connections(daemon, tmp_path):
    assert _mta_saslauthd_view.answers(socket=daemon.path) is True
    assert _mta_saslauthd_view.answers(socket=str(tmp_path / "nothing")) is False
