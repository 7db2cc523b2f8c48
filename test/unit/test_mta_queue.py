"""mta_queue: what postqueue(1) and postsuper(1) say is understood, and nothing is done that was not asked for."""

import json
import os
import time
import tracemalloc

import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_postfix_view
import _mta_queue

# Recorded: Postfix 3.7 and 3.10. The byte of Latin-1 in the sender caf? has been replaced by Postfix.
RECORDED = """\
{"queue_name": "deferred", "queue_id": "8092D1921A5", "arrival_time": 1795552001, "message_size": 266, \
"forced_expire": false, "sender": "s5@sender.example", "recipients": [{"address": "r5@refused.example", \
"delay_reason": "delivery temporarily suspended: connect to 127.0.0.1[127.0.0.1]:9: Connection refused"}, \
{"address": "x5@retry.example", "delay_reason": "go slow"}]}
{"queue_name": "hold", "queue_id": "9AC131921E4", "arrival_time": 1795552001, "message_size": 255, \
"forced_expire": false, "sender": "MAILER-DAEMON", "recipients": [{"address": "bounce@refused.example", \
"delay_reason": "connect to 127.0.0.1[127.0.0.1]:9: Connection refused"}]}
{"queue_name": "active", "queue_id": "A916F20835D", "arrival_time": 1795554750, "message_size": 269, \
"forced_expire": false, "sender": "büro@sender.example", "recipients": [{"address": "r@refused.example"}]}
{"queue_name": "deferred", "queue_id": "B9CBD208363", "arrival_time": 1795554750, "message_size": 267, \
"forced_expire": false, "sender": "caf?@sender.example", "recipients": [{"address": "\\"q r\\"@other.example", \
"delay_reason": "host mx.other.example[192.0.2.7] said: 450 4.1.1 <q@other.example>: greylisted (in reply to RCPT \
TO)"}]}
"""
LAST = 1795554750

PROGRAM = """\
#!/bin/sh
# postqueue and postsuper as recorded; what they are asked for goes into a log.
dir=${0%/*}
echo "$(basename "$0") $*" >>"$dir/log"
[ -e "$dir/broken" ] && { echo "$(basename "$0"): fatal: out of order" >&2; exit 1; }
case $(basename "$0") in
postqueue) [ "$1" = -j ] && cat "$dir/listing"; exit 0;;
postsuper)
    number=0
    while read -r id; do
        echo "$id" >>"$dir/log"
        [ -e "$dir/gone" ] && grep -q "$id" "$dir/gone" && continue
        number=$((number + 1))
        echo "postsuper: $id: removed" >&2
    done
    if [ $number = 1 ]; then plural=; else plural=s; fi
    echo "postsuper: Placed on hold: $number message$plural" >&2;;
esac
"""


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """``queue("action", …)`` on a host with the recorded queue, 100 s after the last message arrived."""
    for name in ("POSTQUEUE", "POSTSUPER"):
        program = tmp_path / name.lower()
        program.write_text(PROGRAM)
        program.chmod(0o755)
        monkeypatch.setattr(_mta_queue, name, str(program))
    (tmp_path / "listing").write_text(RECORDED)
    monkeypatch.setattr(time, "time", lambda: LAST + 100)

    def call(what, everything=False, test=False, limit=None, **filters):
        filters = _mta_queue.Filters(**filters)
        looks = {"list": _mta_queue.list_, "summary": _mta_queue.summary}
        if what in looks:
            return looks[what](filters, **({} if limit is None else {"limit": limit}))
        return _mta_queue.act(what, filters, everything, test, limit)

    return call


@pytest.fixture
def log(tmp_path):
    """What the programs were asked for, without the listing."""

    def read():
        try:
            lines = (tmp_path / "log").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [line for line in lines if line != "postqueue -j"]

    return read


def ids(messages):
    return [message["id"] for message in messages]


def test_a_message_is_listed_with_everything_known_about_it(queue):
    first = queue("list")[0]
    assert first == {
        "id": "8092D1921A5",
        "queue": "deferred",
        "arrived": 1795552001,
        "age": 2849,
        "size": 266,
        "sender": "s5@sender.example",
        "recipients": [
            {
                "address": "r5@refused.example",
                "reason": "delivery temporarily suspended: connect to 127.0.0.1[127.0.0.1]:9: Connection refused",
            },
            {"address": "x5@retry.example", "reason": "go slow"},
        ],
    }


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, [0, 1, 2, 3]),
        ({"queue": "deferred"}, [0, 3]),
        ({"queue": ["hold", "active"]}, [1, 2]),
        ({"queue": []}, []),
        ({"queue_id": "9AC131921E4"}, [1]),
        ({"queue_id": ["9AC131921E4", "8092D1921A5", "ABCDEF"]}, [0, 1]),
        ({"queue_id": "9ac131921e4"}, []),
        ({"queue_id": 12345}, []),
        ({"queue_id": []}, []),
        ({"sender": "S5@Sender.Example"}, [0]),
        ({"sender": "*@sender.example"}, [0, 2, 3]),
        ({"sender": "büro@*"}, [2]),
        ({"sender": "<>"}, [1]),
        ({"sender": "mailer-daemon"}, [1]),
        ({"sender": "s5"}, []),
        ({"sender": "s.@sender.example"}, []),
        ({"recipient": "x5@retry.example"}, [0]),
        ({"recipient": '"q r"@other.example'}, [3]),
        ({"domain": "refused.example"}, [0, 1, 2]),
        ({"domain": "*used.EXAMPLE"}, [0, 1, 2]),
        ({"domain": "example"}, []),
        ({"reason": "GO slow"}, [0]),
        ({"reason": "greylisted"}, [3]),
        ({"older_than": 100}, [0, 1, 2, 3]),
        ({"older_than": 101}, [0, 1]),
        ({"domain": "refused.example", "queue": "deferred"}, [0]),
        # One recipient has to meet both.
        ({"domain": "retry.example", "reason": "refused"}, []),
        ({"domain": "retry.example", "reason": "slow"}, [0]),
    ],
    ids=str,
)
def test_a_filter_selects(queue, filters, found):
    everyone = ids(queue("list"))
    assert ids(queue("list", **filters)) == [everyone[number] for number in found]


@pytest.mark.parametrize("action", ["delete", "hold", "release", "requeue", "flush"])
@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"everything": False},
        {"everything": "no"},
        {"everything": True, "test": "yes"},
        {"everything": True, "sender": "a@b"},
        {"sender": ""},
        {"sender": " "},
        {"sender": "*"},
        {"recipient": "*@*"},
        {"domain": "*.*"},
        {"domain": True},
        {"domain": "", "older_than": 60},
        {"reason": ""},
        {"older_than": 0},
        {"older_than": -5},
        {"older_than": "1h"},
        {"older_than": True},
        {"queue": "defered"},
        {"queue_id": "ALL "},
        {"queue_id": "../x"},
        {"queue_id": ["ABCDEF", "-d"]},
        {"queue_id": {}, "limit": -1},
        {"everything": True, "limit": 0},
        {"everything": True, "limit": True},
        {"everything": True, "limit": "1"},
    ],
    ids=str,
)
def test_what_selects_nothing_or_everything_by_accident_is_refused(queue, log, action, filters):
    with pytest.raises(SaltInvocationError):
        queue(action, **filters)
    assert log() == []


@pytest.mark.parametrize("action", ["delete", "hold", "release", "requeue", "flush"])
def test_a_filter_that_matches_nothing_does_nothing(queue, log, action):
    done = queue(action, sender="nobody@example.com")
    assert done.pop("comment").startswith("0 messages match; 0 ")
    assert done == {"action": action, "matched": 0, "done": 0, "messages": []}
    assert log() == []


@pytest.mark.parametrize(
    ("action", "number"), [("delete", 4), ("hold", 3), ("release", 1), ("requeue", 4), ("flush", 2)]
)
def test_everything_is_what_the_action_can_do_something_with(queue, log, action, number):
    assert queue(action, everything=True, test=True)["matched"] == number
    assert log() == []
    assert queue(action, everything=True)["done"] == number


def test_test_mode_shows_the_messages_and_does_nothing(queue, log):
    would = queue("delete", domain="refused.example", test=True, limit=2)
    assert (would["matched"], would["done"]) == (3, None)
    assert would["comment"] == "3 messages match; 2 would be deleted, as limit is 2: the oldest first."
    assert ids(would["messages"]) == ["8092D1921A5", "9AC131921E4"]
    assert log() == []


# In the order of the listing; the time of arrival, and then the id, decides.
MIXED = [("C3", 300), ("A1", 300), ("F6", 100), ("B2", 200), ("D4", 300), ("E5", 400)]
OLDEST = ["F6", "B2", "A1", "C3", "D4", "E5"]


@pytest.fixture
def mixed(tmp_path):
    """Messages of several ages, all in the queues that every action works on, as the listing has them."""

    def fill(queue="deferred"):
        lines = []
        for queue_id, second in MIXED:
            about = {"queue_name": queue, "queue_id": queue_id, "arrival_time": LAST - 1000 + second}
            about.update(message_size=1, sender="a@b.example", recipients=[{"address": "r@c.example"}])
            lines.append(json.dumps(about))
        # One that changes queues meanwhile is listed twice.
        (tmp_path / "listing").write_text("\n".join([*lines, lines[2], ""]))

    return fill


@pytest.mark.parametrize("limit", [1, 3, 5])
@pytest.mark.parametrize("action", ["delete", "hold", "release", "requeue", "flush"])
@pytest.mark.parametrize("selection", [{"sender": "a@b.example"}, {"everything": True}], ids=["filter", "all"])
def test_the_limit_is_for_what_is_done_and_the_oldest_come_first(queue, log, mixed, action, limit, selection):
    mixed("hold" if action == "release" else "deferred")
    would = queue(action, limit=limit, test=True, **selection)
    assert log() == []
    done = queue(action, limit=limit, **selection)
    asked = [line.rpartition(" ")[2] for line in log() if not line.startswith("postsuper")]
    assert asked == ids(done["messages"]) == ids(would["messages"]) == OLDEST[:limit]
    assert (done["matched"], done["done"], would["done"]) == (7, limit, None)
    assert done["comment"].startswith(f"7 messages match; {limit} ")
    assert done["comment"].endswith(f", as limit is {limit}: the oldest first.")


def test_a_limit_that_is_not_reached_limits_nothing(queue, log):
    done = queue("hold", domain="refused.example", limit=50)
    assert done["comment"] == "2 messages match; 2 put on hold."
    assert log()[1:] == ["8092D1921A5", "A916F20835D"]


def test_without_a_limit_the_oldest_hundred_are_shown_of_all_that_it_was_done_for(queue, log, tmp_path):
    with open(tmp_path / "listing", "w") as handle:
        for number in range(250):
            about = {"queue_name": "deferred", "queue_id": f"{number:03X}", "arrival_time": LAST - number}
            about.update(message_size=1, sender="a@b.example", recipients=[])
            handle.write(json.dumps(about) + "\n")
    done = queue("hold", sender="a@b.example")
    assert (done["matched"], done["done"], len(log()) - 1) == (250, 250, 250)
    assert ids(done["messages"]) == [f"{number:03X}" for number in range(249, 149, -1)]


def test_ids_go_to_postsuper_on_its_standard_input_with_the_queues_that_are_meant(queue, log):
    queue("delete", domain="refused.example")
    asked = ["postsuper -d - maildrop incoming active deferred hold", "8092D1921A5", "9AC131921E4", "A916F20835D"]
    assert log() == asked
    queue("hold", queue=["deferred", "hold"], older_than=60)
    assert log()[4:] == ["postsuper -h - deferred", "8092D1921A5", "B9CBD208363"]


def test_a_message_that_left_the_queue_meanwhile_is_not_counted_as_done(queue, tmp_path):
    (tmp_path / "gone").write_text("9AC131921E4\n")
    done = queue("delete", domain="refused.example")
    assert (done["action"], done["matched"], done["done"], len(done["messages"])) == ("delete", 3, 2, 3)
    assert done["comment"] == "3 messages match; 2 deleted; 1 left the queue meanwhile."


def test_flush_asks_for_each_message_or_once_for_everything(queue, log):
    queue("flush", domain="*.example")
    queue("flush", everything=True)
    assert log() == ["postqueue -i 8092D1921A5", "postqueue -i B9CBD208363", "postqueue -f"]


def test_the_summary_counts_messages_by_queue_age_domain_and_reason(queue):
    summary = queue("summary")
    ages = summary.pop("ages")
    assert summary == {
        "messages": 4,
        "recipients": 5,
        "bytes": 1057,
        "oldest": 2849,
        "queues": {"deferred": 2, "hold": 1, "active": 1},
        "domains": {"refused.example": 3, "retry.example": 1, "other.example": 1},
        "reasons": {
            "connect to 127.0.0.1:9: Connection refused": 2,
            "go slow": 1,
            "host mx.other.example said: 450 4.1.1 <>: greylisted (in reply to RCPT TO)": 1,
        },
    }
    assert {label: number for label, number in ages.items() if number} == {
        "up to 5 minutes": 2,
        "up to 1 hour": 2,
    }
    assert queue("summary", limit=1, queue="deferred")["domains"] == {"refused.example": 1, "(others)": 2}


def test_an_empty_queue_is_no_error(queue, tmp_path):
    (tmp_path / "listing").write_text("")
    assert queue("list") == []
    assert (queue("summary")["messages"], queue("summary")["oldest"]) == (0, 0)


@pytest.mark.parametrize("function", ["list", "summary", "delete"])
def test_a_listing_that_fails_or_cannot_be_read_is_an_error_before_anything_is_done(
    queue, log, tmp_path, function
):
    filters = {"older_than": 1}
    (tmp_path / "listing").write_text(RECORDED + '{"queue_name": "deferred", \n')
    with pytest.raises(CommandExecutionError, match="Cannot read"):
        queue(function, **filters)
    (tmp_path / "broken").write_text("")
    with pytest.raises(CommandExecutionError, match="out of order"):
        queue(function, **filters)
    assert not any(line.startswith("postsuper") for line in log())


def test_an_id_that_is_none_is_never_handed_on(queue, log, tmp_path):
    (tmp_path / "listing").write_text(RECORDED.replace("9AC131921E4", "ALL\\nX"))
    with pytest.raises(CommandExecutionError, match="queue id that is none"):
        queue("delete", everything=True)
    assert log() == []


def test_a_failing_postsuper_is_an_error_with_its_words(queue, tmp_path):
    program = tmp_path / "postsuper"
    program.write_text("#!/bin/sh\necho 'postsuper: fatal: use of this command is reserved' >&2\nexit 1\n")
    with pytest.raises(CommandExecutionError, match="reserved"):
        queue("delete", everything=True)


def test_without_postfix_the_error_says_which_program_is_missing(queue, tmp_path):
    (tmp_path / "postqueue").unlink()
    with pytest.raises(CommandExecutionError, match="postqueue: No such file"):
        queue("list")


def test_bytes_that_are_no_utf8_and_control_characters_do_not_stop_the_listing(queue, tmp_path):
    line = RECORDED.splitlines()[0].encode().replace(b"s5@", b"caf\xe9\x01@")
    (tmp_path / "listing").write_bytes(line + b"\n")
    assert queue("list")[0]["sender"] == "caf\ufffd\x01@sender.example"


def test_a_queue_of_any_length_takes_bounded_memory(queue, tmp_path, monkeypatch):
    monkeypatch.setattr(_mta_queue, "DISTINCT", 1000)
    with open(tmp_path / "listing", "w") as handle:
        for number in range(6_000):
            # Every second message is for one domain, which has to come out in spite of all the others.
            domain = "big.example" if number % 2 else f"d{number}.example"
            recipient = {"address": f"r@{domain}", "delay_reason": f"x{number}y"}
            message = {"queue_name": "deferred", "queue_id": f"{number:011X}", "arrival_time": LAST}
            message.update(message_size=1, sender="a@b.example", recipients=[recipient])
            handle.write(json.dumps(message) + "\n")
    tracemalloc.start()
    try:
        summary = queue("summary", limit=3)
        done = queue("delete", older_than=1)
        limited = queue("delete", older_than=1, limit=5)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000
    assert next(iter(summary["domains"].items())) == ("big.example", 3_000)
    assert sum(summary["domains"].values()) == sum(summary["reasons"].values()) == 6_000
    assert (done["matched"], done["done"], len(done["messages"])) == (6_000, 6_000, 100)
    assert (limited["matched"], limited["done"], len(limited["messages"])) == (6_000, 5, 5)


@pytest.mark.parametrize("action", ["delete", "hold", "release", "requeue", "flush"])
def test_what_a_person_calls_hands_all_of_it_over(modules, pretend, action):
    told = []
    pretend("_mta_queue.act", lambda *arguments: told.append(arguments))
    filters = {"queue": "hold", "sender": "a", "recipient": "b", "domain": "c"}
    filters.update({"older_than": 1, "reason": "d", "queue_id": "E"})
    modules[f"mta_queue.{action}"](**filters, everything=True, test=False, limit=7)
    assert told == [(action, _mta_queue.Filters(**filters), True, False, 7)]


@pytest.mark.parametrize(("function", "found"), [("list", "list_"), ("summary", "summary")])
def test_what_a_person_asks_is_asked_with_all_filters(modules, pretend, function, found):
    told = []
    pretend(f"_mta_queue.{found}", lambda *arguments: told.append(arguments))
    filters = {"queue": "hold", "sender": "a", "recipient": "b", "domain": "c"}
    filters.update({"older_than": 1, "reason": "d", "queue_id": "E"})
    modules[f"mta_queue.{function}"](limit=7, **filters)
    assert told == [(_mta_queue.Filters(**filters), 7)]


class TestSize:
    """Counted without a process."""

    @pytest.fixture
    def spool(self, tmp_path):
        for path in ("active/A1", "deferred/0/0A", "deferred/0/0B", "deferred/F/FC", "hold/H1", "corrupt/C1"):
            (tmp_path / "spool" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "spool" / path).write_text("")
        return tmp_path / "spool"

    def test_files_are_counted_in_hashed_queues_too(self, spool):
        (spool / "deferred/0/1").mkdir()
        (spool / "deferred/0/1/01D").write_text("")
        assert _mta_queue.size(str(spool)) == {
            "maildrop": 0,
            "incoming": 0,
            "active": 1,
            "deferred": 4,
            "hold": 1,
            "corrupt": 1,
            "total": 6,
        }

    def test_main_cf_says_where_the_queue_is(self, spool, tmp_path, monkeypatch):
        monkeypatch.setattr(_mta_postfix_view, "CONFIG_DIRECTORY", str(tmp_path))
        (tmp_path / "main.cf").write_text(f"queue_directory =\n {spool}\nno parameter\n")
        assert _mta_queue.size()["total"] == 5

    def test_no_queue_directory_is_none(self, tmp_path):
        assert _mta_queue.size(str(tmp_path / "nothing")) is None

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
    def test_who_may_not_look_is_told(self, spool):
        (spool / "deferred").chmod(0)
        with pytest.raises(CommandExecutionError, match="Cannot count the queue deferred"):
            _mta_queue.size(str(spool))
