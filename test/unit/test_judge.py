"""What the judge is measured with: the changes that are tried, and how what came of them is assessed."""

from judge import cases, outcomes, servers
from judge.__main__ import bundles

KEYS = {"why", *cases.OWN, "pillar", "files", "host", "needs", "lacks", "excuses", "checks"}
OF_NAMED = {"server", "expected", "says", "uses"}
SERVERS = [servers.draw(seed) for seed in range(400)]
EVERY = [change for kind in cases.KINDS for change in cases.changes(kind).values()]


def found(verdict="committed", broken=(), **others):
    """What a worker says about a case on a server on which everything works."""
    checks = ["stranger to alice", "out by sendmail"]
    return {
        "verdict": verdict,
        "how": "as the formula left it",
        "base": {"name": "x", "truth": {name: {"ok": True, "what": "arrived"} for name in checks}},
        "truth": {name: {"ok": name not in broken, "what": "held"} for name in checks},
        "applied": {"comments": [], "said": ["all is well"], "changes": [], "seconds": 1},
        "left": [],
        **others,
    }


def case(kind, name=None, **others):
    """A case with the first change of a kind, or with one by name."""
    known = cases.changes(kind)
    return cases.Case("1", servers.make("guide", []), (known[name or next(iter(known))],), **others)


def test_every_change_says_why_and_sets_something():
    bad = [one.name for one in EVERY if not one.about["why"] or not one.keys or set(one.about) - KEYS]
    assert bad == []


def test_there_are_servers_for_every_change():
    assert [one.name for one in EVERY if not any(one.fits(server) for server in SERVERS)] == []


def test_only_policies_have_excuses():
    assert {change.kind for change in EVERY if "excuses" in change.about} == {"policy"}


def test_there_are_hundreds_of_different_cases():
    drawn = [cases.draw(seed) for seed in range(600)]
    different = {(one.server.name, *(change.name for change in one.changes)) for one in drawn}
    assert len(different) > 550
    assert {len(one.changes) for one in drawn} == {1, 2, 3}


def test_a_seed_repeats_a_case():
    assert cases.draw(4711).job() == cases.draw(4711).job()


def test_no_two_changes_of_a_case_set_the_same():
    for seed in range(300):
        keys = [key for change in cases.draw(seed).changes for key in change.keys]
        assert len(keys) == len(set(keys))


def test_a_fault_comes_without_what_excuses_it():
    drawn = [cases.draw(seed) for seed in range(300)]
    assert not [one for one in drawn if one.harmful and one.excuses]


def test_cases_with_the_same_server_are_tried_one_after_the_other():
    groups = bundles([cases.draw(seed) for seed in range(2 * cases.GROUP)])
    assert [len(group) for group in groups] == [cases.GROUP, cases.GROUP]


def test_no_host_gets_all_cases_of_a_server():
    assert [len(group) for group in bundles([cases.draw(0)] * 20)] == [16, 4]


def test_a_change_is_tried_by_its_name():
    one = cases.of_change("a smarthost without a login")
    assert (one.name, one.server.name) == ("change: a smarthost without a login", "guide")
    assert "pipe" in cases.of_change("a pipe to a program that is missing").server.name


def test_every_named_case_says_what_is_expected():
    known = ("undo", "commit", "unchanged", "any", "truth")
    bad = [
        name
        for name, one in cases.named().items()
        if one.expected not in known or name.isdigit() or set(one.changes[0].about) - KEYS - OF_NAMED
    ]
    assert bad == []
    assert len(cases.named()) > 80


def test_a_server_behind_a_smarthost_sends_to_it():
    places = {one["name"]: one["arrives"] for one in servers.make("guide", ["smarthost"]).checks}
    assert places["out by sendmail"] == "smarthost"


def test_users_log_in_where_the_server_promises_it():
    def ports(*args):
        return {one["port"] for one in servers.make(*args).checks if one["via"] == "login"}

    assert ports("guide", []) == {25}
    assert ports("guide", ["submission"]) == {587}
    assert ports("hardened", []) == {587, 465}
    assert ports("hardened", ["local only"]) == set()


def test_what_failed_before_is_no_fault():
    before = {"a": {"ok": False, "what": "x"}, "b": {"ok": True, "what": "arrived"}}
    after = {name: {"ok": False, "what": "y"} for name in ("a", "b", "new")}
    assert outcomes.compare(before, after) == {"b": "y", "new": "y"}


def test_a_fault_that_was_undone_is_right():
    outcome = outcomes.assess(case("harmful"), found("undone", ["stranger to alice"], differences=[]))
    assert (outcome.row, outcome.column, outcome.wrong) == (outcomes.BROKEN, outcomes.UNDONE, ())


def test_a_fault_that_was_let_through_is_wrong():
    outcome = outcomes.assess(case("harmful"), found("committed", ["stranger to alice"]))
    assert outcome.wrong == ("a fault was let through",)


def test_a_harmless_change_that_was_undone_is_wrong():
    outcome = outcomes.assess(case("harmless"), found("undone", differences=[]))
    assert outcome.wrong == ("undone for nothing",)


def test_a_policy_may_refuse_whom_it_is_for():
    policy = case("policy", "one connection at a time")
    outcome = outcomes.assess(policy, found("committed", ["stranger to alice"]))
    assert (outcome.row, outcome.wrong) == (outcomes.WORKS, ())
    assert outcome.excused == {"stranger to alice": "held"}


def test_a_policy_may_not_break_anything_else():
    policy = case("policy", "one connection at a time")
    assert outcomes.assess(policy, found("committed", ["out by sendmail"])).row == outcomes.DIFFERS


def test_a_fault_that_real_mail_does_not_notice_is_for_a_person():
    outcome = outcomes.assess(case("harmful"), found("committed"))
    assert (outcome.row, outcome.wrong) == (outcomes.DIFFERS, ())


def test_what_is_left_behind_is_wrong_whatever_the_verdict():
    outcome = outcomes.assess(case("harmless"), found("committed", left=["/home/alice/Maildir/new/1"]))
    assert outcome.wrong == ("left behind: /home/alice/Maildir/new/1",)


def test_what_is_undone_by_half_is_wrong():
    outcome = outcomes.assess(
        case("harmful"), found("undone", ["stranger to alice"], differences=["/etc/postfix/main.cf"])
    )
    assert outcome.wrong == ("not undone completely: /etc/postfix/main.cf",)


def test_a_comment_has_to_say_what_is_asked_for():
    outcome = outcomes.assess(case("harmless", says=("smtpd_banner", "well")), found())
    assert outcome.wrong == ("the comment does not say 'smtpd_banner'",)


def test_an_apply_without_a_change_must_not_make_one():
    applied = {"comments": [], "said": [], "changes": ["postfix_mta_aliases"], "seconds": 1}
    outcome = outcomes.assess(case("harmless", expected="unchanged"), found(applied=applied))
    assert outcome.wrong == ("changes where there are none: postfix_mta_aliases",)


def test_the_matrix_counts_every_outcome():
    results = [
        outcomes.assess(case("harmful"), found("committed", ["stranger to alice"])),
        outcomes.assess(case("harmful"), found("undone", ["stranger to alice"], differences=[])),
        outcomes.assess(case("harmless"), found("committed")),
        outcomes.assess(case("harmless"), {"error": "no"}),
    ]
    lines = outcomes.matrix(results).splitlines()
    assert lines[1].split() == ["mail", "works", "1", "0"]
    assert lines[2].split()[:5] == ["mail", "is", "broken", "1", "1"]
    assert lines[-1] == "no result: 1"
    assert "a fault was let through" in outcomes.report(results)
