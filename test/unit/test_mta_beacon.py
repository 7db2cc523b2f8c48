"""The beacon: one event when a condition begins, one when it ends, and nothing is read twice in between."""

import json
import os
import stat

import pytest
import salt.config
import salt.loader
from salt.exceptions import CommandExecutionError

import _mta_beacon
import _mta_last_apply
import _mta_revision
import _mta_system
import _mta_x509
import _mta_x509_make
from _mta_minion import CUT_OFF

CERTIFICATE = "/etc/ssl/certs/smtpd.crt"


@pytest.fixture
def world(pretend, tmp_path, monkeypatch):
    """What there is to be seen; a healthy server until a test changes it."""
    files = {name: tmp_path / name for name in ("main.cf", "master.cf", "smtpd.crt")}
    for path in files.values():
        path.write_text("well")
    facts = {
        "stale": [],
        "answers": True,
        "size": {"total": 0},
        "under_way": False,
        "connected": True,
        "asked": [],
    }
    monkeypatch.setattr(_mta_beacon, "CONFIGURATION", (str(files["main.cf"]), str(files["master.cf"])))
    monkeypatch.setattr(_mta_beacon, "_connected", lambda opts: facts["connected"])
    pretend("_mta_transaction.under_way", lambda: facts["under_way"])

    def told(name):
        def tell(*_args, **_kwargs):
            facts["asked"].append(name)
            if isinstance(facts[name], Exception):
                raise facts[name]
            return facts[name]

        return tell

    pretend("_mta_judge.stale", told("stale"))
    pretend("_mta_saslauthd_view.answers", told("answers"))
    pretend("_mta_queue.size", told("size"))
    return {"files": files, **facts, "facts": facts}


@pytest.fixture
def observe(minion, world):
    """``observe(now)``: the events, as ``(condition, state)``."""
    settings = {"saslauthd": "/run/mux", "queue_limit": 100}

    def look(now=1000, **more):
        return [(one["condition"], one["state"]) for one in _mta_beacon.observe(minion, {**settings, **more}, now)]

    return look


def test_a_healthy_server_says_nothing(observe):
    assert observe() == []


@pytest.mark.parametrize(
    ("fact", "bad", "well", "condition"),
    [
        ("answers", False, True, "saslauthd"),
        ("size", {"total": 101}, {"total": 90}, "queue"),
        ("stale", ["127.0.0.1:25"], [], "certificate_served"),
    ],
)
def test_a_condition_is_said_once_when_it_begins_and_once_when_it_ends(observe, world, fact, bad, well, condition):
    world["facts"][fact] = bad
    assert observe() == [(condition, "begin")]
    assert observe() == []
    world["facts"][fact] = well
    assert observe() == [(condition, "end")]
    assert observe() == []


def test_an_apply_that_was_cut_off_is_a_condition_until_one_is_complete(observe, minion):
    minion.state.write(CUT_OFF, {})
    assert observe() == [("apply", "begin")]
    minion.state.forget(CUT_OFF)
    assert observe() == [("apply", "end")]


def test_an_event_says_since_when_and_what(minion, world):
    world["facts"]["size"] = {"total": 101}
    (event,) = _mta_beacon.observe(minion, {"queue_limit": 100}, 1000)
    details = {"messages": 101, "limit": 100}
    assert event == {"condition": "queue", "state": "begin", "since": "1970-01-01T00:16:40Z", "details": details}
    assert _mta_beacon.conditions(minion) == {"queue": {"since": "1970-01-01T00:16:40Z", "details": details}}


def test_a_minion_that_restarts_does_not_say_it_again(observe, world, minion, context):
    world["facts"]["answers"] = False
    assert observe() == [("saslauthd", "begin")]
    context.clear()
    assert observe() == []
    _mta_beacon.close(minion)
    assert observe() == []
    world["facts"]["answers"] = True
    assert observe() == [("saslauthd", "end")]


def test_what_a_master_that_is_away_would_miss_is_said_when_it_is_back(observe, world, minion):
    world["facts"].update(answers=False, connected=False)
    assert observe() == []
    assert _mta_beacon.conditions(minion) == {}
    world["facts"]["connected"] = True
    assert observe() == [("saslauthd", "begin")]


def test_a_queue_that_goes_to_and_fro_over_its_limit_is_one_condition(observe, world):
    seen = []
    for number in (101, 99, 101, 91, 101, 90):
        world["facts"]["size"] = {"total": number}
        seen += observe()
    assert seen == [("queue", "begin"), ("queue", "end")]


def test_nothing_is_looked_at_while_an_apply_is_under_way(observe, world):
    world["facts"].update(under_way=True, answers=False)
    assert observe() == []
    assert world["facts"]["asked"] == []


def test_what_cannot_be_looked_at_stays_as_it_was_and_the_others_are_looked_at(observe, world):
    world["facts"]["answers"] = False
    observe()
    world["facts"].update(answers=CommandExecutionError("no"), size={"total": 101})
    assert observe() == [("queue", "begin")]
    world["facts"]["answers"] = True
    assert observe() == [("saslauthd", "end")]


def test_the_certificate_served_is_asked_for_until_the_last_change_is_long_ago(observe, world):
    changed = os.stat(world["files"]["main.cf"]).st_ctime
    for now in (changed + 10, changed + 200):
        observe(now)
    assert world["facts"]["asked"].count("stale") == 2
    for now in (changed + 400, changed + 500, changed + 600):
        observe(now)
    assert world["facts"]["asked"].count("stale") == 3
    world["files"]["main.cf"].write_text("another")
    observe(changed + 700)
    assert world["facts"]["asked"].count("stale") == 4


def test_a_server_that_does_not_talk_says_nothing_about_its_certificate(observe, world):
    world["facts"]["stale"] = None
    assert observe() == []
    world["facts"]["stale"] = ["127.0.0.1:25"]
    assert observe() == [("certificate_served", "begin")]
    world["facts"]["stale"] = None
    assert observe() == []


def test_main_cf_is_compared_with_the_last_apply_and_read_only_when_it_changes(
    observe, world, minion, monkeypatch
):
    main, master = (str(world["files"][name]) for name in ("main.cf", "master.cf"))
    assert observe() == []
    _mta_last_apply.wrote(minion, [main, master, "/etc/aliases"])
    read, digest = [], _mta_last_apply._digest
    monkeypatch.setattr(_mta_last_apply, "_digest", lambda path: read.append(path) or digest(path))
    assert observe() == observe() == []
    assert read == [main, master]
    world["files"]["main.cf"].write_text("by hand")
    assert observe() == [("configuration", "begin")]
    assert _mta_beacon.conditions(minion)["configuration"]["details"] == {"files": [main]}
    world["files"]["main.cf"].unlink()
    assert observe() == []
    _mta_last_apply.wrote(minion, [main])
    assert observe() == [("configuration", "end")]


@pytest.fixture
def certificate(world):
    """A certificate from 1970-01-01 on, for 90 days."""
    import datetime

    key = _mta_x509_make.make_key("ec", 256)
    public = _mta_x509.describe_key(key)["public"]
    fields = _mta_x509_make.check_subject(None, "mail.example.com")
    epoch = datetime.datetime.fromtimestamp(0, datetime.timezone.utc)
    pem = _mta_x509_make.make_certificate(public, epoch, 90, fields, ["mail.example.com"], key)
    world["files"]["smtpd.crt"].write_bytes(pem)
    return str(world["files"]["smtpd.crt"])


def test_a_certificate_enters_its_renewal_window_by_the_clock_alone(observe, certificate, minion, pretend):
    day = 86400
    assert observe(50 * day, certificates=[certificate]) == []
    pretend("_mta_x509.describe", lambda *_: pytest.fail("read again"))
    assert observe(59 * day, certificates=[certificate]) == []
    assert observe(63 * day, certificates=[certificate]) == [("certificate_renewal", "begin")]
    details = _mta_beacon.conditions(minion)["certificate_renewal"]["details"]
    assert details["certificate"] == certificate
    assert details["not_after"].startswith("1970-0")


def test_the_window_can_be_another(observe, certificate):
    assert observe(86 * 86400, certificates=[certificate], renew_days=2) == []
    assert observe(89 * 86400, certificates=[certificate], renew_days=2) == [("certificate_renewal", "begin")]


@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"])
def test_a_certificate_that_is_none_has_to_be_renewed(observe, world, minion, content):
    path = world["files"]["smtpd.crt"]
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert observe(certificates=[str(path)]) == [("certificate_renewal", "begin")]
    assert _mta_beacon.conditions(minion)["certificate_renewal"]["details"]["problem"]


def test_looking_now_remembers_nothing_and_sends_nothing(observe, world, minion):
    world["facts"]["answers"] = False
    assert _mta_beacon.found(minion, {"saslauthd": "/run/mux"}) == {"saslauthd": {"socket": "/run/mux"}}
    assert _mta_beacon.conditions(minion) == {}


def test_only_root_can_read_what_is_remembered(observe, world, tmp_path):
    world["facts"]["answers"] = False
    observe()
    assert stat.S_IMODE(os.stat(tmp_path / "state").st_mode) == 0o700
    assert stat.S_IMODE(os.stat(tmp_path / "state" / "beacon.json").st_mode) == 0o600


def test_a_disk_that_cannot_be_written_does_not_make_events_repeat_themselves(observe, world, tmp_path):
    (tmp_path / "state").write_text("not a directory")
    world["facts"]["answers"] = False
    assert observe() == [("saslauthd", "begin")]
    assert observe() == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"conditions": {}}'])
def test_a_damaged_memory_is_none(observe, tmp_path, content):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "beacon.json").write_text(content)
    assert observe() == []


@pytest.mark.parametrize(
    ("table", "connected"),
    [
        ("   0: 0100007F:1A0B 020012AC:1199 01 00000000:00000000\n", True),
        ("   0: 0100007F:1A0B 020012AC:1199 06 00000000:00000000\n", False),
        ("   0: 0100007F:1199 020012AC:1A0B 01 00000000:00000000\n", False),
        ("", False),
    ],
)
def test_the_connection_with_the_master_is_seen_in_proc(monkeypatch, table, connected):
    head = "  sl  local_address rem_address   st tx_queue rx_queue\n"
    monkeypatch.setattr(_mta_system, "read", lambda path: head + table if path == "/proc/net/tcp" else None)
    assert _mta_beacon._connected({"file_client": "remote"}) is connected
    assert _mta_beacon._connected({"file_client": "local"}) is True


# The beacon module


@pytest.fixture
def beacon(opts, modules):
    """``beacon("validate", config)``, by Salt's own loader."""
    loaded = salt.loader.beacons(opts, modules)
    return lambda function, config: loaded[f"postfix_mta.{function}"](config)


GOOD = [
    {"queue_limit": 10},
    {"certificates": [CERTIFICATE]},
    {"saslauthd": "/run/mux"},
    {"renew_days": 3},
    {"revision": "0123456789ab"},
    {"_beacon_name": "postfix_mta"},
]


def test_a_good_configuration_is_valid(beacon):
    assert beacon("validate", GOOD) == (True, "Valid beacon configuration")


def test_salt_finds_all_that_it_asks_a_beacon_for(opts, modules, monkeypatch):
    loaded = salt.loader.beacons(opts, modules)
    monkeypatch.setattr(loaded, "_load_all", lambda: pytest.fail("every beacon is loaded"))
    for function in ("validate", "beacon", "close"):
        assert f"postfix_mta.{function}" in loaded


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ([{"queue_limit": "10"}], "queue_limit"),
        ([{"queue_limit": 0}], "queue_limit"),
        ([{"interval": True}], "interval"),
        ([{"certificates": "x"}], "certificates"),
        ([{"certificates": ["x"]}], "certificates"),
        ([{"saslauthd": "mux"}], "saslauthd"),
        ([{"quue": 1}], "quue is not known"),
        (["x"], "list of settings"),
        (None, "list of settings"),
    ],
)
def test_a_bad_configuration_is_refused_with_a_reason(beacon, config, reason):
    valid, comment = beacon("validate", config)
    assert not valid
    assert reason in comment


def test_the_beacon_returns_the_events(beacon, world):
    world["facts"]["answers"] = False
    (event,) = beacon("beacon", GOOD[2:3])
    assert event["condition"] == "saslauthd"
    json.dumps(event)


@pytest.mark.parametrize(("function", "arguments"), [("problems", [{}]), ("observe", [{}]), ("close", [])])
def test_what_only_the_beacon_calls_is_no_job(modules, function, arguments):
    with pytest.raises(CommandExecutionError, match="refused as a job"):
        modules[f"mta_beacon.{function}"](*arguments, __pub_fun=f"mta_beacon.{function}")


# Switching it on and off


@pytest.fixture
def file(opts, tmp_path, modules, states):
    """The beacon's file; the modules with a configuration directory below ``tmp_path``, no minion running."""
    opts["conf_file"] = str(tmp_path / "etc" / "minion")
    opts["default_include"] = "minion.d/*.conf"
    opts["sock_dir"] = str(tmp_path / "run")
    for loader in (modules, modules.pack["__salt__"], states):
        loader.opts.update(opts)
    return tmp_path / "etc" / "minion.d" / "postfix_mta.conf"


def managed(states, **settings):
    return states["mta_beacon.managed"]("postfix_mta_beacon", **settings)


def test_off_is_the_default_and_changes_nothing(states, file):
    assert managed(states) == {
        "name": "postfix_mta_beacon",
        "changes": {},
        "result": True,
        "comment": "The beacon is in the correct state.",
    }
    assert not file.exists()


def test_on_writes_what_a_minion_reads_and_a_second_time_changes_nothing(states, file):
    settings = {
        "enabled": True,
        "interval": 60,
        "queue_limit": 7,
        "certificates": [CERTIFICATE],
        "renew_days": None,
    }
    assert managed(states, **settings)["changes"]
    assert managed(states, **settings)["changes"] == {}
    config = file.parent.parent / "minion"
    config.write_text("id: mail.example.com\n")
    (items,) = [salt.config.minion_config(str(config))["beacons"]["postfix_mta"]]
    expected = [
        ("interval", 60),
        ("queue_limit", 7),
        ("certificates", [CERTIFICATE]),
        ("revision", _mta_revision.REVISION),
    ]
    assert items == [{key: value} for key, value in expected]
    assert managed(states, enabled=False)["changes"]["postfix_mta"]["new"] is None
    assert not file.exists()


def test_a_dry_run_says_what_the_real_one_changes(states, file):
    states.opts["test"] = True
    dry = managed(states, enabled=True, interval=5)
    assert dry["result"] is None
    assert not file.exists()
    states.opts["test"] = False
    assert managed(states, enabled=True, interval=5)["changes"] == dry["changes"]


def test_a_bad_setting_changes_nothing(states, file):
    failed = managed(states, enabled=True, interval="often")
    assert failed["result"] is False
    assert "interval" in failed["comment"]
    assert not file.exists()


def test_another_revision_of_the_formula_is_told_to_the_minion(states, file, monkeypatch):
    managed(states, enabled=True, interval=5)
    monkeypatch.setattr(_mta_revision, "REVISION", "another")
    assert managed(states, enabled=True, interval=5)["changes"]["postfix_mta"]["new"]["revision"] == "another"


def test_a_minion_that_runs_without_it_gets_it(states, modules, file, pretend, listening):
    managed(states, enabled=True, interval=5)
    pretend("_mta_minion_config.is_this", lambda opts: True)
    fired = []
    modules.pack["__salt__"]._dict["event.fire"] = lambda data, tag: fired.append((tag, data.get("func")))
    (file.parents[2] / "run").mkdir()
    listening(file.parents[2] / "run" / "minion_event_0_pull.ipc")
    assert managed(states, enabled=True, interval=5)["changes"]["postfix_mta"]["old"] is None
    assert fired == [("manage_beacons", "add"), ("module_refresh", None)]


def test_what_the_last_look_at_the_dns_found_is_a_condition_until_the_next_one(minion, observe, world):
    finding = {"name": "x.example", "type": "MX", "kind": "missing", "reason": "it should be m"}
    assert observe(dns=True) == []
    minion.state.write("dns.json", {"time": 1000, "findings": [finding]})
    assert observe() == []
    assert observe(dns=True) == [("dns", "begin")]
    details = _mta_beacon.conditions(minion)["dns"]["details"]
    assert details == {"findings": [finding], "looked": "1970-01-01T00:16:40Z"}
    assert observe(dns=True) == []
    minion.state.write("dns.json", {"time": 2000, "findings": []})
    assert observe(dns=True) == [("dns", "end")]
