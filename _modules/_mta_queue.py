"""Postfix's mail queue: what waits in it, selected by filters, and what is done with that."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Collection, Generator, Iterable
from typing import IO, Any, Callable

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_postfix_view
import _mta_system
from _mta_records import NamedTuple, TypedDict

POSTQUEUE = "/usr/sbin/postqueue"
POSTSUPER = "/usr/sbin/postsuper"
QUEUES = ("maildrop", "incoming", "active", "deferred", "hold")
SPOOL = (*QUEUES, "corrupt")
# Of the messages that an action is for, so many are shown.
SHOWN = 100
NULL_SENDER = "<>"
QUEUE_ID = re.compile("[0-9A-Za-z]{1,64}")
DONE = re.compile(r"postsuper: [A-Z][a-z -]+: (\d+) messages?\s*")
AGES = (
    (300, "up to 5 minutes"),
    (3600, "up to 1 hour"),
    (6 * 3600, "up to 6 hours"),
    (86400, "up to 1 day"),
    (5 * 86400, "up to 5 days"),
    (float("inf"), "over 5 days"),
)
# A queue of millions of messages may have as many domains: so many of them are counted exactly.
DISTINCT = 20_000
OTHERS = "(others)"
REASON_LENGTH = 160


class Action(NamedTuple):
    """The option by which postsuper(1) does it, the queues that it works on, and what has been done then."""

    option: str | None
    queues: tuple[str, ...]
    participle: str


ACTIONS = {
    "delete": Action("-d", QUEUES, "deleted"),
    "hold": Action("-h", ("incoming", "active", "deferred"), "put on hold"),
    "release": Action("-H", ("hold",), "released"),
    "requeue": Action("-r", ("incoming", "active", "deferred", "hold"), "requeued"),
    # postqueue(1) does that.
    "flush": Action(None, ("deferred",), "handed on for delivery"),
}


class Recipient(TypedDict):
    """A recipient that a message still has to reach; ``reason``: why it has not, empty when it was not tried."""

    address: str
    reason: str


class Message(TypedDict):
    """A message: ``arrived`` in seconds since 1970, ``size`` in bytes."""

    id: str
    queue: str
    arrived: int
    size: int
    sender: str
    recipients: list[Recipient]


class Aged(Message):
    """A message with its age in seconds, as it is shown."""

    age: int


# -- which messages ----------------------------------------------------------------------------


class Filters(NamedTuple):
    """What a message has to meet, as a person gave it; ``None`` does not matter. See the module ``mta_queue``."""

    queue: Any = None
    sender: Any = None
    recipient: Any = None
    domain: Any = None
    older_than: Any = None
    reason: Any = None
    queue_id: Any = None

    def given(self) -> dict[str, Any]:
        """Return those that matter, by name."""
        return {name: value for name, value in self._asdict().items() if value is not None}


EVERYTHING = Filters()
Test = Callable[[Message, float], bool]


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise SaltInvocationError(f"{name}: {value!r} is not a text; leave it out if it does not matter")
    return value.strip()


def _pattern(name: str, value: object) -> re.Pattern[str]:
    """A regular expression for an address or domain in which ``*`` stands for any text."""
    text = _text(name, value)
    if not text.strip("*@. "):
        raise SaltInvocationError(f"{name}: {value!r} selects everything; say everything=True if it is meant")
    return re.compile(".*".join(re.escape(part) for part in text.split("*")), re.IGNORECASE | re.DOTALL)


def _names(name: str, value: object, pattern: re.Pattern[str], what: str) -> frozenset[str]:
    """A set of names from one name or a list of them."""
    # Salt's command line makes a number of a queue id that is all digits.
    names = [str(item) for item in (value if isinstance(value, (list, tuple, set)) else [value])]
    for item in names:
        if not pattern.fullmatch(item):
            raise SaltInvocationError(f"{name}: {item!r} is not {what}")
    return frozenset(names)


def _by_queue(value: object) -> Test:
    queues = _names("queue", value, re.compile("|".join(QUEUES)), f"a queue; there are {', '.join(QUEUES)}")
    return lambda message, now: message["queue"] in queues


def _by_id(value: object) -> Test:
    ids = _names("queue_id", value, QUEUE_ID, "a queue id")
    return lambda message, now: message["id"] in ids


def _by_age(value: object) -> Test:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 1:
        raise SaltInvocationError(f"older_than: {value!r} is not a number of seconds, 1 or more")
    seconds = value
    return lambda message, now: now - message["arrived"] >= seconds


def _by_sender(value: object) -> Test:
    bounce = _text("sender", value).upper() in (NULL_SENDER, "MAILER-DAEMON")
    sender = re.compile(NULL_SENDER) if bounce else _pattern("sender", value)
    return lambda message, now: bool(sender.fullmatch(message["sender"]))


OF_MESSAGE = {"queue": _by_queue, "queue_id": _by_id, "older_than": _by_age, "sender": _by_sender}
OfRecipient = Callable[[Recipient], bool]


def _by_recipient(filters: Filters) -> Test | None:
    """One recipient has to meet all that is said of recipients; ``None``: nothing is."""
    tests: list[OfRecipient] = []
    if filters.recipient is not None:
        address = _pattern("recipient", filters.recipient)
        tests.append(lambda recipient: bool(address.fullmatch(recipient["address"])))
    if filters.domain is not None:
        domain = _pattern("domain", filters.domain)
        tests.append(lambda recipient: bool(domain.fullmatch(_domain(recipient["address"]))))
    if filters.reason is not None:
        reason = _text("reason", filters.reason).casefold()
        tests.append(lambda recipient: reason in recipient["reason"].casefold())
    if not tests:
        return None
    return lambda message, now: any(all(test(one) for test in tests) for one in message["recipients"])


def _selection(filters: Filters) -> Test:
    """Check the filters; return what tells whether a message, at a time, meets them all."""
    given = filters.given()
    tests = [make(given[name]) for name, make in OF_MESSAGE.items() if name in given]
    of_recipient = _by_recipient(filters)
    if of_recipient:
        tests.append(of_recipient)
    return lambda message, now: all(test(message, now) for test in tests)


def _limit(value: object, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SaltInvocationError(f"limit: {value!r} is not a whole number, {least} or more")
    return value


# -- what is in the queue ----------------------------------------------------------------------


def _parsed(line: bytes) -> Message:
    """
    A message from a line of ``postqueue -j``.

    Postfix 3.5 to 3.10 write UTF-8 addresses as they are, and escape or replace what is no UTF-8.
    """
    try:
        data = json.loads(line.decode(errors="replace"), strict=False)
        sender = data["sender"]
        return {
            "id": data["queue_id"],
            "queue": data["queue_name"],
            "arrived": int(data["arrival_time"]),
            "size": int(data["message_size"]),
            # Every other address in the queue has a domain.
            "sender": NULL_SENDER if sender in ("", "MAILER-DAEMON") else sender,
            "recipients": [
                {"address": recipient["address"], "reason": recipient.get("delay_reason", "")}
                for recipient in data["recipients"]
            ],
        }
    except (ValueError, KeyError, TypeError) as err:
        raise CommandExecutionError(f"Cannot read what postqueue -j says: {line[:200]!r}") from err


def _messages() -> Generator[Message]:
    """Yield every message of the queue, as soon as postqueue(1) has written it."""
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                [POSTQUEUE, "-j"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
            )
        except OSError as err:
            raise CommandExecutionError(f"Cannot run {POSTQUEUE}: {err.strerror}") from err
        assert process.stdout
        try:
            for line in process.stdout:
                yield _parsed(line)
            if process.wait():
                errors.seek(0)
                message = errors.read(2000).decode(errors="replace").strip()
                raise CommandExecutionError(f"postqueue cannot list the queue: {message}")
        finally:
            process.stdout.close()
            process.kill()
            process.wait()


def _domain(address: str) -> str:
    return address.rpartition("@")[2].lower() if "@" in address else ""


def _age(message: Message, now: float) -> int:
    return max(0, int(now - message["arrived"]))


def _aged(message: Message, now: float) -> Aged:
    return {**message, "age": _age(message, now)}


def list_(filters: Filters = EVERYTHING, limit: int = 1000) -> list[Aged]:
    """Return at most ``limit`` of the messages that meet the filters, in the order of postqueue(1)."""
    now, limit = time.time(), _limit(limit)
    selected = _selection(filters)
    found: list[Aged] = []
    with contextlib.closing(_messages()) as messages:
        for message in messages:
            if len(found) >= limit:
                break
            if selected(message, now):
                found.append(_aged(message, now))
    return found


class _Tally:
    """
    Counts by name, of which the largest are wanted, in bounded memory.

    Beyond ``DISTINCT`` names the smaller half is added to the others: then counts are lower bounds.
    """

    def __init__(self) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self.others = 0

    def add(self, name: str) -> None:
        self.counts[name] += 1
        if len(self.counts) > DISTINCT:
            self._shrink(DISTINCT // 2)

    def _shrink(self, size: int) -> None:
        kept = collections.Counter(dict(self.counts.most_common(size)))
        self.others += sum(self.counts.values()) - sum(kept.values())
        self.counts = kept

    def largest(self, limit: int) -> dict[str, int]:
        self._shrink(limit)
        return {**dict(self.counts.most_common()), **({OTHERS: self.others} if self.others else {})}


def _kind(reason: str) -> str:
    """A reason without what differs from message to message: addresses, IP addresses, queue ids."""
    text = re.sub(r"^delivery temporarily suspended: ", "", reason)
    text = re.sub(r"\[[0-9A-Fa-f:.]+\]", "", text)
    text = re.sub(r"<[^<> ]*>", "<>", text)
    text = re.sub(r"\b(?=[0-9A-Fa-f]*[0-9])[0-9A-Fa-f]{8,16}\b", "…", text)
    return text if len(text) <= REASON_LENGTH else text[: REASON_LENGTH - 1] + "…"


def _summed(messages: Iterable[Message], now: float, limit: int) -> dict[str, Any]:
    """The summary of messages."""
    total = {"messages": 0, "recipients": 0, "bytes": 0, "oldest": 0}
    queues: collections.Counter[str] = collections.Counter()
    ages = dict.fromkeys((label for _, label in AGES), 0)
    domains, reasons = _Tally(), _Tally()
    for message in messages:
        age = _age(message, now)
        total["messages"] += 1
        total["recipients"] += len(message["recipients"])
        total["bytes"] += message["size"]
        total["oldest"] = max(total["oldest"], age)
        queues[message["queue"]] += 1
        ages[next(label for most, label in AGES if age <= most)] += 1
        # In order, so that equals come out as the queue has them.
        for domain in dict.fromkeys(_domain(recipient["address"]) for recipient in message["recipients"]):
            domains.add(domain)
        for reason in dict.fromkeys(_kind(recipient["reason"]) for recipient in message["recipients"]):
            if reason:
                reasons.add(reason)
    return {
        **total,
        "queues": dict(queues),
        "ages": ages,
        "domains": domains.largest(limit),
        "reasons": reasons.largest(limit),
    }


def summary(filters: Filters = EVERYTHING, limit: int = 20) -> dict[str, Any]:
    """Return how many messages meet the filters, by queue, age, recipients' domain and reason."""
    now, limit = time.time(), _limit(limit)
    selected = _selection(filters)
    with contextlib.closing(_messages()) as messages:
        return _summed((message for message in messages if selected(message, now)), now, limit)


def size(queue_directory: str | None = None) -> dict[str, int] | None:
    """
    Return how many files are in each queue, and their ``total``; ``None`` without a queue directory.

    No process is started: cheap enough to ask at every interval. Counts directory entries, not what they hold.
    ``deferred`` (as every queue in ``hash_queue_names``) has levels of directories with names of one character.
    Also counted, but not in the total, is what no listing shows: messages in ``corrupt``.
    """
    base = queue_directory or _mta_postfix_view.queue_directory()
    if not os.path.isdir(base):
        return None
    found = {}
    for name in SPOOL:
        try:
            found[name] = _files(os.path.join(base, name))
        except OSError as err:
            raise CommandExecutionError(f"Cannot count the queue {name}: {err}") from err
    found["total"] = sum(found[name] for name in QUEUES)
    return found


def _files(directory: str) -> int:
    """The number of files in a queue's directory and those that it is hashed to."""
    number = 0
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    number += 1
                elif len(entry.name) == 1:
                    number += _files(entry.path)
    except FileNotFoundError:
        # Postfix makes them when it needs them, and removes none; an unused queue may have none.
        return 0
    return number


# -- what is done with messages ----------------------------------------------------------------


class _Oldest:
    """Of the messages that are added, the ``size`` that arrived first; of those of one second, the lowest ids."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.found: dict[tuple[int, str], Aged | None] = {}

    def add(self, message: Message, shown: Aged | None = None) -> None:
        # By this key a message that postqueue(1) lists twice is one.
        self.found[message["arrived"], message["id"]] = shown
        if len(self.found) > 2 * self.size:
            self._shrink()

    def _shrink(self) -> None:
        self.found = {key: self.found[key] for key in sorted(self.found)[: self.size]}

    def ids(self) -> list[str]:
        self._shrink()
        return [queue_id for _, queue_id in self.found]

    def messages(self) -> list[Aged]:
        self._shrink()
        return [shown for shown in self.found.values() if shown]


def act(
    action: str,
    filters: Filters = EVERYTHING,
    everything: bool = False,
    test: bool = False,
    limit: int | None = None,
) -> dict[str, Any]:
    """
    Do something with the messages that meet the filters; see ``mta_queue.delete``.

    action
        One of ``ACTIONS``.

    everything
        All messages. Without a filter and without this nothing is done.

    test
        Only tell which messages it would be.

    limit
        For how many of them at most, the oldest first. Default: all.

    Their ids are collected, in a file, before the first message is touched: an action changes what postqueue(1)
    would list.
    """
    _refuse_accidents(filters, everything, test, limit)
    how, now, selected = ACTIONS[action], time.time(), _selection(filters)
    matched, done = 0, None
    first, shown = _Oldest(limit or 0), _Oldest(min(limit or SHOWN, SHOWN))
    with tempfile.TemporaryFile() as ids:
        with contextlib.closing(_messages()) as messages:
            for message in messages:
                if message["queue"] not in how.queues or not selected(message, now):
                    continue
                if not QUEUE_ID.fullmatch(message["id"]):
                    raise CommandExecutionError(f"postqueue lists a queue id that is none: {message['id']!r}")
                matched += 1
                shown.add(message, _aged(message, now))
                if limit:
                    first.add(message)
                else:
                    ids.write(message["id"].encode() + b"\n")
        ids.writelines(queue_id.encode() + b"\n" for queue_id in first.ids())
        if not test:
            ids.seek(0)
            done = _carry_out(how, ids, filters, limit) if matched else 0
    comment = _told(matched, done, limit, how.participle)
    return {
        "action": action,
        "matched": matched,
        "done": done,
        "comment": comment,
        "messages": shown.messages(),
    }


def flush(*, everything: bool) -> dict[str, Any]:
    """Try to deliver all deferred messages now."""
    return act("flush", everything=everything)


def _refuse_accidents(filters: Filters, everything: object, test: object, limit: object) -> None:
    """Refuse what would do something that may not be meant."""
    for name, flag in (("everything", everything), ("test", test)):
        if not isinstance(flag, bool):
            raise SaltInvocationError(f"{name}: {flag!r} is not a boolean")
    if limit is not None:
        _limit(limit, 1)
    given = filters.given()
    if not given and not everything:
        raise SaltInvocationError("Nothing was done: give a filter, or everything=True for the whole queue")
    if given and everything:
        raise SaltInvocationError(f"Nothing was done: everything=True contradicts the filter {', '.join(given)}")


def _told(matched: int, done: int | None, limit: int | None, participle: str) -> str:
    """In a sentence, how many messages match and for how many of them it was done."""
    meant = min(matched, limit or matched)
    text = f"{matched} {'message matches' if matched == 1 else 'messages match'}"
    text += f"; {meant} would be {participle}" if done is None else f"; {done} {participle}"
    if meant < matched:
        text += f", as limit is {limit}: the oldest first"
    if done is not None and done < meant:
        text += f"; {meant - done} left the queue meanwhile"
    return f"{text}."


def _carry_out(how: Action, ids: IO[bytes], filters: Filters, limit: int | None) -> int:
    """Do it with the messages whose ids are the lines of a file; return for how many it was done."""
    if how.option:
        # The queues again, so that a message that has changed queues meanwhile is no longer meant.
        return _postsuper([POSTSUPER, how.option, "-", *_queues(how.queues, filters.queue)], ids)
    if not filters.given() and limit is None:
        _mta_system.run([POSTQUEUE, "-f"])
        return sum(1 for _ in ids)
    done = 0
    for line in ids:
        _mta_system.run([POSTQUEUE, "-i", line.decode().strip()])
        done += 1
    return done


def _queues(possible: Collection[str], requested: object) -> list[str]:
    if requested is None:
        return list(possible)
    names = _names("queue", requested, re.compile(".*"), "a queue")
    return [name for name in possible if name in names]


def _postsuper(command: list[str], ids: IO[bytes]) -> int:
    """Run postsuper(1) with queue ids on its standard input; return for how many messages it did it."""
    done = 0
    last: collections.deque[str] = collections.deque(maxlen=5)
    try:
        process = subprocess.Popen(command, stdin=ids, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    except OSError as err:
        raise CommandExecutionError(f"Cannot run {POSTSUPER}: {err.strerror}") from err
    with process:
        assert process.stderr
        # One line for each message, and one with their number at the end.
        for line in process.stderr:
            text = line.decode(errors="replace").strip()
            last.append(text)
            number = DONE.fullmatch(text)
            if number:
                done = int(number[1])
    if process.returncode:
        raise CommandExecutionError(f"postsuper failed: {'; '.join(last)}")
    return done
