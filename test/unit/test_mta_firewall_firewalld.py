"""The backend firewalld: the service's and the zones' files, and what the running firewall is told."""

import pytest
from salt.exceptions import CommandExecutionError

import _mta_firewall_firewalld
from _mta_plan import Plan

# As firewalld 1.3 writes it.
ZONE = """\
<?xml version="1.0" encoding="utf-8"?>
<zone>
  <short>Public</short>
  <description>For use in public areas.</description>
  <service name="ssh"/>
  <rule family="ipv4">
    <source address="192.0.2.0/24"/>
    <port port="99" protocol="tcp"/>
    <accept/>
  </rule>
  <forward/>
</zone>
"""
LINE = '  <service name="postfix_mta"/>\n'


@pytest.fixture
def host(monkeypatch, pretend, tmp_path):
    """firewalld's directories, and a stand-in for its programs that keeps a zone's running ports and services."""
    for name, text in {
        "own/firewalld.conf": "# DefaultZone=x\nDefaultZone=public\n",
        "own/zones/home.xml": ZONE.replace("Public", "Home"),
        "own/services/.keep": "",
        "package/zones/public.xml": ZONE,
        "program": "",
        "proc/7/comm": "firewalld\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for process in ("7", "self"):
        (tmp_path / f"proc/{process}/ns").mkdir(parents=True)
        (tmp_path / f"proc/{process}/ns/pid").symlink_to("pid:[1]")
    monkeypatch.setattr(_mta_firewall_firewalld, "OWN", str(tmp_path / "own"))
    monkeypatch.setattr(_mta_firewall_firewalld, "PACKAGE", (str(tmp_path / "package"),))
    monkeypatch.setattr(_mta_firewall_firewalld, "PROGRAM", str(tmp_path / "program"))
    monkeypatch.setattr(_mta_firewall_firewalld, "PROC", str(tmp_path / "proc"))

    class Host:
        path, zones = tmp_path, tmp_path / "own/zones"
        refuses = None

    Host.told = []
    Host.running = {"public": {"80/tcp", "ssh"}, "home": {"ssh"}}

    def run(argv, stdin=""):
        Host.told.append(argv)
        if Host.refuses and Host.refuses in argv:
            raise CommandExecutionError("firewall-cmd failed: no")
        if argv[0] == "firewall-offline-cmd":
            return ""
        zone = Host.running[argv[1].partition("=")[2]]
        for option in argv[2:]:
            name, _, value = option.partition("=")
            if name == "--list-ports":
                return " ".join(item for item in zone if "/" in item) + "\n"
            if name == "--list-services":
                return " ".join(item for item in zone if "/" not in item) + "\n"
            (zone.add if name.startswith("--add") else zone.remove)(value)
        return "success\n"

    pretend("_mta_firewall_files.run", run)
    return Host


def test_the_default_zone_names_a_service_of_our_own_once_until_it_is_removed(host):
    plan, apply = _mta_firewall_firewalld.plan, _mta_firewall_firewalld.apply
    changes = plan([587, 25], []).changes
    assert changes[f"{host.path}/own/services/postfix_mta.xml"] == {"old": "", "new": "25, 587"}
    assert changes[f"{host.path}/own/zones/public.xml"] == {"old": "", "new": "service postfix_mta"}
    assert list(changes)[2:] == ["running rules"]
    assert host.told == []
    apply([587, 25], [])
    assert (host.zones / "public.xml").read_text() == ZONE.replace("</zone>", LINE + "</zone>")
    assert host.running == {"public": {"25/tcp", "587/tcp", "80/tcp", "ssh"}, "home": {"ssh"}}
    assert not any("--reload" in argv for argv in host.told)
    host.told.clear()
    assert plan([25, 587], []) == Plan()
    assert host.told == []
    apply([], [])
    assert not (host.zones / "public.xml").exists()
    assert not (host.path / "own/services/postfix_mta.xml").exists()
    assert host.running == {"public": {"80/tcp", "ssh"}, "home": {"ssh"}}


def test_other_ports_open_before_the_service_and_obsolete_ports_go(host):
    apply = _mta_firewall_firewalld.apply
    apply([25, 110], [])
    # As after a reboot.
    host.running["public"] = {"80/tcp", "ssh", "postfix_mta"}
    host.told.clear()
    apply([25, 587], [])
    assert host.running["public"] == {"80/tcp", "ssh", "25/tcp", "587/tcp"}
    order = [argv[2].partition("=")[0] for argv in host.told if argv[0] == "firewall-cmd"]
    assert order.index("--add-port") < order.index("--remove-service")
    apply([587], [])
    assert host.running["public"] == {"80/tcp", "ssh", "587/tcp"}


def test_other_zones_lose_the_service(host):
    apply = _mta_firewall_firewalld.apply
    apply([25], [])
    apply([25], ["home"])
    assert not (host.zones / "public.xml").exists()
    assert LINE in (host.zones / "home.xml").read_text()
    assert host.running == {"public": {"80/tcp", "ssh"}, "home": {"ssh", "25/tcp"}}
    apply([], [])
    assert (host.zones / "home.xml").read_text() == ZONE.replace("Public", "Home")


@pytest.mark.parametrize("refused", ["--check-config", "--add-port=25/tcp", "--remove-port=110/tcp"])
def test_what_firewalld_refuses_is_undone(host, refused):
    apply = _mta_firewall_firewalld.apply
    apply([110], [])
    files = {path: path.read_text() for path in host.path.glob("own/*/*.xml")}
    running = {zone: set(items) for zone, items in host.running.items()}
    host.refuses = refused
    with pytest.raises(CommandExecutionError):
        apply([25], [])
    host.refuses = None
    assert {path: path.read_text() for path in host.path.glob("own/*/*.xml")} == files
    assert host.running == running


@pytest.mark.parametrize("text", [ZONE.replace("</short>", ""), "<zone/>"])
def test_a_zone_that_cannot_be_changed_is_an_error(host, text):
    (host.zones / "public.xml").write_text(text)
    with pytest.raises(CommandExecutionError, match="public"):
        _mta_firewall_firewalld.plan([25], [])


def test_a_zone_that_is_not_there_is_an_error(host):
    with pytest.raises(CommandExecutionError, match="no zone nowhere"):
        _mta_firewall_firewalld.plan([25], ["nowhere"])


def test_where_it_does_not_run_only_the_files_change(host):
    (host.path / "proc/7/ns/pid").unlink()
    (host.path / "proc/7/ns/pid").symlink_to("pid:[2]")
    assert not _mta_firewall_firewalld.in_force([])
    _mta_firewall_firewalld.apply([25], [])
    assert [argv[0] for argv in host.told] == ["firewall-offline-cmd"]


def test_it_is_in_force_when_it_runs_on_this_host(host):
    assert _mta_firewall_firewalld.in_force([])
    (host.path / "program").unlink()
    assert not _mta_firewall_firewalld.in_force([])
