"""The schedule: off by default, exact, and no two minions of a fleet at the same moment."""

import datetime

import pytest
import salt.config
import salt.utils.schedule

START = datetime.datetime(2026, 1, 1)


@pytest.fixture
def file(opts, tmp_path, modules, states):
    """The schedule's file; the modules with a configuration directory below ``tmp_path``, no minion running."""
    opts["conf_file"] = str(tmp_path / "etc" / "minion")
    opts["default_include"] = "minion.d/*.conf"
    opts["sock_dir"] = str(tmp_path / "run")
    for loader in (modules, modules.pack["__salt__"], states):
        loader.opts.update(opts)
    return tmp_path / "etc" / "minion.d" / "postfix_mta_schedule.conf"


@pytest.fixture
def runs(file, modules, states, pretend, listening):
    """The options of a minion that runs on this host, and the events that it has got."""
    file.parent.mkdir(parents=True)
    directory = file.parents[2] / "run"
    directory.mkdir()
    listening(directory / "minion_event_0_pull.ipc")
    told = []
    pretend("_mta_minion_config.is_this", lambda opts: True)
    modules.pack["__salt__"]._dict["event.fire"] = lambda data, tag: told.append((tag, data)) or True
    return modules.pack["__opts__"], told


def managed(states, **settings):
    return states["mta_schedule.managed"]("postfix_mta_schedule", **settings)


def read(file):
    """The job as a minion that starts has it."""
    config = file.parent.parent / "minion"
    config.write_text("id: mail.example.com\n")
    return salt.config.minion_config(str(config))["schedule"].get("postfix_mta")


def test_off_is_the_default_and_changes_nothing(states, file):
    right = {"result": True, "comment": "The schedule is in the correct state."}
    assert managed(states) == {"name": "postfix_mta_schedule", "changes": {}, **right}
    assert not file.exists()


def test_on_writes_what_a_minion_reads_and_a_second_time_changes_nothing(states, file):
    assert managed(states, enabled=True)["changes"]
    assert managed(states, enabled=True)["changes"] == {}
    job = read(file)
    assert (job["function"], job["args"]) == ("state.apply", ["postfix_mta"])
    assert (job["minutes"], job["splay"], job["run_on_start"]) == (30, 1800, False)
    assert managed(states, enabled=False)["changes"]["postfix_mta"] == {"old": job, "new": None}
    assert read(file) is None


@pytest.mark.parametrize(
    ("given", "expected"), [({"splay": 0}, (30, 1)), ({"splay": 7}, (30, 7)), ({"minutes": 5}, (5, 300))]
)
def test_the_splay_is_that_of_pillar_or_all_of_the_minutes(states, file, given, expected):
    managed(states, enabled=True, **given)
    job = read(file)
    assert (job["minutes"], job["splay"]) == expected


def test_a_dry_run_says_what_the_real_one_changes(states, file):
    states.opts["test"] = True
    dry = managed(states, enabled=True, minutes=5)
    assert dry["result"] is None
    assert not file.exists()
    states.opts["test"] = False
    assert managed(states, enabled=True, minutes=5)["changes"] == dry["changes"]


@pytest.mark.parametrize("wrong", [{"minutes": "often"}, {"minutes": 0}, {"splay": -1}, {"splay": {"start": 1}}])
def test_a_bad_setting_changes_nothing(states, file, wrong):
    failed = managed(states, enabled=True, **wrong)
    assert (failed["result"], failed["changes"]) == (False, {})
    assert next(iter(wrong)) in failed["comment"]
    assert not file.exists()


def test_the_minion_that_runs_is_told(states, runs):
    options, told = runs
    job = managed(states, enabled=True)["changes"]["postfix_mta"]["new"]
    assert told.pop() == (
        "manage_schedule",
        {"func": "add", "schedule": {"postfix_mta": job}, "persist": False},
    )
    # It has it, with what the scheduler notes in it.
    options["schedule"] = {"postfix_mta": {**job, "_seconds": 1800, "enabled": True, "name": "postfix_mta"}}
    assert managed(states, enabled=True)["changes"] == {}
    assert managed(states, enabled=False)["changes"]["postfix_mta"]["old"] == job
    assert told == [("manage_schedule", {"func": "delete", "name": "postfix_mta", "persist": False})]


def test_a_minion_that_runs_without_it_gets_it(states, file, runs):
    managed(states, enabled=True)
    assert managed(states, enabled=True)["changes"]["postfix_mta"]["old"] is None


def test_it_goes_from_the_file_too_into_which_salt_wrote_every_job(states, file, runs):
    options, told = runs
    (file.parent / "_schedule.conf").write_text("schedule: {postfix_mta: {function: state.apply}}\n")
    options["schedule"] = {"postfix_mta": {"function": "state.apply", "minutes": 5}}
    assert managed(states, enabled=False)["changes"]
    assert told == [("manage_schedule", {"func": "delete", "name": "postfix_mta", "persist": True})]


@pytest.fixture
def fleet(opts, modules, states, file, monkeypatch):
    """``fleet(hours)``: the minutes after their common start at which Salt's scheduler runs each of 40 minions."""
    managed(states, enabled=True)
    job = read(file)
    moments = []
    monkeypatch.setattr(salt.utils.schedule.Schedule, "_check_max_running", lambda self, fun, data, *_: data)

    def run(hours, **changed):
        minions = []
        for number in range(40):
            own = {**opts, "schedule": {"postfix_mta": {**job, **changed}}, "loop_interval": 1}
            scheduler = salt.utils.schedule.Schedule(own, modules, {}, new_instance=True, utils={})
            scheduler._run_job = lambda *_args, number=number, **_: moments.append((number, minute))
            minions.append(scheduler)
        # Salt rounds down to seconds: a minute's step may come a second early.
        for minute in range(60 * hours + 1):
            for scheduler in minions:
                scheduler.eval(now=START + datetime.timedelta(minutes=minute))
        return [[minute for number, minute in moments if number == wanted] for wanted in range(40)]

    return run


def test_minions_that_start_together_apply_at_moments_of_their_own(fleet):
    runs = fleet(3)
    firsts = [times[0] for times in runs]
    # Random ones among 30 minutes; fewer different ones, or so many in one of them, do not happen in 10,000 runs.
    assert 30 <= min(firsts) < 40
    assert 50 < max(firsts) <= 61
    assert len(set(firsts)) >= 12
    assert max(map(firsts.count, firsts)) <= 8
    gaps = [late - early for times in runs for early, late in zip(times, times[1:])]
    assert min(gaps) >= 30
    assert max(gaps) <= 61
    assert all(2 <= len(times) <= 6 for times in runs)


def test_without_run_on_start_and_splay_all_of_them_would_come_at_once(fleet):
    firsts = [times[0] for times in fleet(1, splay=0, run_on_start=True)]
    assert len(set(firsts)) == 1
