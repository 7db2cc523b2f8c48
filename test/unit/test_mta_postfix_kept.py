"""Parameters, entries, fields and overrides: what each was before, and what comes back of it."""

import pytest
from conftest import MASTER

import _mta_postfix_syntax
from _mta_kept import Record
from _mta_postfix_kept import Asked, Files, kept, restored

SMTP = _mta_postfix_syntax.services(MASTER)["smtp/inet"]


class Host:
    """main.cf and master.cf, of which only the comparison is real."""

    def __init__(self, master):
        self.master, self.record = dict(master), Record({}, {})

    def apply(self, services):
        """Apply what is asked for; return the items that are somebody else's."""
        asked, present = Asked([*services], services), Files({}, self.master)
        back = restored(self.record, asked, present)
        base = {name: entry for name, entry in {**self.master, **back.services}.items() if entry}
        after = {**self.master, **back.services, **_mta_postfix_syntax.wanted_services(services, base)}
        changed = {name: entry for name, entry in after.items() if entry != self.master.get(name)}
        self.record = kept(self.record, asked, present, back, {}, changed)
        self.master = {name: entry for name, entry in after.items() if entry}
        return back.theirs

    def set(self, service, **fields):
        """Somebody edits an entry."""
        overrides = {**self.master[service]["overrides"], **fields.pop("overrides", {})}
        self.master[service] = {**self.master[service], **fields, "overrides": overrides}


@pytest.fixture
def host():
    return Host({"smtp/inet": SMTP})


EXTRA = {"command": "smtpd", "process_limit": 3, "overrides": {"syslog_name": "x", "biff": False}}


@pytest.mark.parametrize(
    "steps",
    [
        [{"smtp/inet": {"process_limit": 5, "overrides": {"biff": False}}}],
        [{"smtp/inet": {"process_limit": 5}}, {"smtp/inet": {"process_limit": 6}}],
        [{"smtp/inet": {"process_limit": 5}}, {"smtp/inet": None}],
        [{"smtp/inet": None}, {"smtp/inet": {"process_limit": 5}}],
        [{"smtp/inet": None}],
        [{"10025/inet": EXTRA}],
        [{"10025/inet": EXTRA}, {"10025/inet": {"command": "smtpd"}}],
        [{"10025/inet": EXTRA}, {"10025/inet": None}],
        [{"10025/inet": None}, {"10025/inet": EXTRA}],
        [{"smtp/inet": {"command": "postscreen"}, "10025/inet": EXTRA}, {"smtp/inet": {"process_limit": 1}}],
    ],
)
def test_nothing_is_left_of_what_was_asked_for(host, steps):
    for services in steps:
        host.apply(services)
    assert host.apply({}) == []
    assert host.master == {"smtp/inet": SMTP}
    assert host.record[:2] == ({}, {})


def test_an_override_or_a_field_goes_while_others_stay(host):
    host.apply({"smtp/inet": {"process_limit": 5, "overrides": {"biff": False, "x": 1}}, "10025/inet": EXTRA})
    host.apply({"smtp/inet": {"overrides": {"x": 1}}, "10025/inet": {"command": "smtpd"}})
    assert host.master["smtp/inet"] == {**SMTP, "overrides": {"x": "1"}}
    left = host.master["10025/inet"]
    assert (left["process_limit"], left["overrides"]) == ("-", {})


def test_an_override_that_was_taken_out_comes_back(host):
    host.set("smtp/inet", overrides={"biff": "yes"})
    host.apply({"smtp/inet": {"overrides": {"biff": None}}})
    assert host.master["smtp/inet"]["overrides"] == {}
    host.apply({"smtp/inet": {"process_limit": 2}})
    assert host.master["smtp/inet"]["overrides"] == {"biff": "yes"}


def test_what_somebody_has_set_beside_it_stays(host):
    host.apply({"smtp/inet": {"process_limit": 5}})
    host.set("smtp/inet", chroot="n", overrides={"own": "1"})
    assert host.apply({}) == []
    assert host.master["smtp/inet"] == {**SMTP, "chroot": "n", "overrides": {"own": "1"}}


def test_an_entry_of_ours_that_somebody_has_changed_stays_whole(host):
    host.apply({"10025/inet": EXTRA})
    host.set("10025/inet", overrides={"own": "1"})
    host.apply({"10025/inet": {**EXTRA, "process_limit": 4}})
    assert host.apply({}) == ["10025/inet"]
    assert host.master["10025/inet"]["overrides"] == {"syslog_name": "x", "biff": "no", "own": "1"}
