"""A queue of some hundred deferred messages, looked at and changed by filter."""

import time

import pytest

# 150 for a host that refuses, 100 for one whose socket is not there, 50 with a recipient of each kind.
FILL = """
import smtplib
with smtplib.SMTP("127.0.0.1") as client:
    for number in range(300):
        kinds = ["refused"] if number < 150 else ["gone"] if number < 250 else ["refused", "gone"]
        sender = "" if number % 100 == 0 else f"s{number % 3}@mail.example.com"
        recipients = [f"r{number}@{kind}.example" for kind in kinds]
        client.sendmail(sender, recipients, f"Subject: {number}\\r\\n\\r\\nx\\r\\n")
"""


@pytest.fixture(scope="module", autouse=True)
def full(host, container, convergence):
    """The queue as it is after the first attempts."""
    container.exec(["python3", "-"], input=FILL)
    waiting = "find /var/spool/postfix/deferred -type f | wc -l"
    deadline = time.monotonic() + 60
    while host.check_output(waiting) != "300":
        assert time.monotonic() < deadline, host.check_output("postqueue -p | tail -20")
        time.sleep(0.5)
    yield
    host.check_output("postsuper -d ALL")


@pytest.fixture
def queue(container):
    return lambda function, **kwargs: container.call(f"mta_queue.{function}", **kwargs)


def files(host, name):
    """Names of the files in a queue."""
    return set(host.check_output("find /var/spool/postfix/%s -type f -printf '%%f\\n'", name).split())


def test_the_summary_counts_by_domain_and_reason(queue):
    summary = queue("summary")
    assert (summary["messages"], summary["recipients"]) == (300, 350)
    assert summary["queues"] == {"deferred": 300}
    assert summary["domains"] == {"refused.example": 200, "gone.example": 150}
    assert summary["reasons"] == {
        "connect to 127.0.0.1:9: Connection refused": 200,
        "connect to mail.example.com[nothing]: No such file or directory": 150,
    }
    assert summary["ages"]["up to 5 minutes"] == 300


def test_counting_files_agrees(queue):
    size = queue("size")
    assert (size["deferred"], size["total"]) == (300, 300)


def test_messages_are_listed_by_filter(queue):
    assert len(queue("list", limit=7)) == 7
    bounces = queue("list", sender="<>")
    assert sorted(message["recipients"][0]["address"] for message in bounces) == [
        "r0@refused.example",
        "r100@refused.example",
        "r200@gone.example",
    ]
    assert queue("list", domain="refused.example", sender="<>", reason="no such file") == []


@pytest.mark.parametrize("filters", [{}, {"sender": "*"}, {"domain": ""}], ids=str)
def test_nothing_is_deleted_without_a_filter_that_selects(host, queue, filters):
    with pytest.raises(AssertionError, match=r"everything|is not a text"):
        queue("delete", **filters)
    assert len(files(host, "deferred")) == 300


def test_hold_and_release_are_for_what_is_selected(host, queue):
    would = queue("hold", domain="gone.example", test=True)
    assert (would["matched"], would["done"], len(would["messages"])) == (150, None, 100)
    assert files(host, "hold") == set()
    assert queue("hold", domain="gone.example")["comment"] == "150 messages match; 150 put on hold."
    assert len(files(host, "hold")) == 150
    assert queue("hold", domain="gone.example")["matched"] == 0
    assert queue("release", recipient="r299@gone.example")["done"] == 1
    assert queue("release", everything=True)["done"] == 149
    assert files(host, "hold") == set()


def test_a_limit_is_for_how_many_messages_it_is_done_and_the_oldest_come_first(host, queue):
    by_age = sorted(queue("list", domain="gone.example"), key=lambda message: (message["arrived"], message["id"]))
    oldest = {message["id"] for message in by_age[:2]}
    would = queue("hold", domain="gone.example", limit=2, test=True)
    assert would["comment"] == "150 messages match; 2 would be put on hold, as limit is 2: the oldest first."
    assert {message["id"] for message in would["messages"]} == oldest
    done = queue("hold", domain="gone.example", limit=2)
    assert (done["matched"], done["done"]) == (150, 2)
    assert files(host, "hold") == oldest
    released = queue("release", everything=True, limit=1)
    assert (released["matched"], released["done"], len(files(host, "hold"))) == (2, 1, 1)
    requeued = queue("requeue", domain="gone.example", limit=1)
    assert (requeued["matched"], requeued["done"]) == (150, 1)
    queue("release", everything=True)
    host.check_output("postkick public pickup W")
    deadline = time.monotonic() + 30
    while len(files(host, "deferred")) != 300:
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_requeued_messages_have_new_ids(host, queue):
    before = {message["id"] for message in queue("list", domain="gone.example", sender="s1@*")}
    assert queue("requeue", domain="gone.example", sender="s1@*")["done"] == len(before) > 10
    assert not before & files(host, "deferred")
    # pickup(8) takes them up within a minute, or when it is told to.
    host.check_output("postkick public pickup W")
    deadline = time.monotonic() + 30
    while len(files(host, "deferred")) != 300:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert not before & files(host, "deferred")


def test_flush_tries_the_selected_messages_again(host, queue):
    (message,) = queue("list", recipient="r42@refused.example")
    attempts = f"journalctl --no-pager -o cat | grep -c '^{message['id']}: .*status=deferred'"
    before = int(host.check_output(attempts))
    assert queue("flush", queue_id=message["id"])["done"] == 1
    deadline = time.monotonic() + 20
    while int(host.check_output(attempts)) == before:
        assert time.monotonic() < deadline
        time.sleep(0.3)


def test_messages_that_leave_meanwhile_are_no_error(host, container, queue):
    ids = sorted(message["id"] for message in queue("list", domain="gone.example"))
    assert queue("delete", queue_id=ids[20:], limit=3)["done"] == 3
    assert len(set(ids[20:]) & files(host, "deferred")) == len(ids) - 23
    # Another administrator deletes, message by message, what is being deleted here.
    container.exec(
        ["sh", "-c", "while read -r id; do postsuper -d $id; done >/dev/null 2>&1 &"],
        input="".join(f"{item}\n" for item in ids[:20]),
    )
    done = queue("delete", domain="gone.example")
    assert done["done"] <= done["matched"] <= 150
    time.sleep(1)
    assert not set(ids) & files(host, "deferred")


def test_everything_is_deleted_when_it_is_said(host, queue):
    left = len(files(host, "deferred"))
    assert left == 150
    nothing = queue("delete", sender="nobody@example.com")
    assert (nothing["matched"], nothing["done"], nothing["messages"]) == (0, 0, [])
    assert queue("delete", everything=True)["done"] == left
    assert queue("summary")["messages"] == queue("size")["total"] == 0
