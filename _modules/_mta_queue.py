"""TODO subject (mta_queue)."""

import collections
import contextlib
import json
import os
import re
import subprocess
import tempfile
import time

from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_postfix_view

POSTQUEUE = "/usr/sbin/postqueue"
POSTSUPER = "/usr/sbin/postsuper"
QUEUES = ("maildrop", "incoming", "active", "deferred", "hold")
SPOOL = (*QUEUES, "corrupt")
# What postsuper(1) is told, the queues that it works on, and what has been done then.
ACTIONS = {
    "delete": ("-d", QUEUES, "deleted"),
    "hold": ("-h", ("incoming", "active", "deferred"), "put on hold"),
    "release": ("-H", ("hold",), "released"),
    "requeue": ("-r", ("incoming", "active", "deferred", "hold"), "requeued"),
}
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


def _parsed(line):
    """
    A message from a line of ``postqueue -j``, as :func:`list` returns it but for its age.

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


def _domain(address):
    return address.rpartition("@")[2].lower() if "@" in address else ""


def _messages():
    """Yield every message of the queue, as soon as postqueue(1) has written it."""
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                [POSTQUEUE, "-j"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
            )
        except OSError as err:
            raise CommandExecutionError(f"Cannot run {POSTQUEUE}: {err.strerror}") from err
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


def _pattern(name, value):
    """A regular expression for an address or domain in which ``*`` stands for any text."""
    text = _text(name, value)
    if not text.strip("*@. "):
        raise SaltInvocationError(f"{name}: {value!r} selects everything; say everything=True if it is meant")
    return re.compile(".*".join(re.escape(part) for part in text.split("*")), re.IGNORECASE | re.DOTALL)


def _text(name, value):
    if not isinstance(value, str) or not value.strip():
        raise SaltInvocationError(f"{name}: {value!r} is not a text; leave it out if it shall not matter")
    return value.strip()


def _names(name, value, pattern, what):
    """A set of names from one name or a list of them."""
    # Salt's command line makes a number of a queue id that is all digits.
    names = [str(item) for item in (value if isinstance(value, (list, tuple, set)) else [value])]
    for item in names:
        if not re.fullmatch(pattern, item):
            raise SaltInvocationError(f"{name}: {item!r} is not {what}")
    return frozenset(names)


def _selection(filters):
    """
    Check the filters; return a function that tells whether a message, at a time, meets them all.

    ``filters`` by name, ``None`` for those that do not matter. Without any, every message is selected.
    """
    tests, of_recipient = [], []
    given = {name: value for name, value in filters.items() if value is not None}
    if "queue" in given:
        queues = _names("queue", given["queue"], "|".join(QUEUES), f"a queue; there are {', '.join(QUEUES)}")
        tests.append(lambda message, now: message["queue"] in queues)
    if "queue_id" in given:
        ids = _names("queue_id", given["queue_id"], QUEUE_ID, "a queue id")
        tests.append(lambda message, now: message["id"] in ids)
    if "older_than" in given:
        seconds = given["older_than"]
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or seconds < 1:
            raise SaltInvocationError(f"older_than: {seconds!r} is not a number of seconds, 1 or more")
        tests.append(lambda message, now: now - message["arrived"] >= seconds)
    if "sender" in given:
        bounce = _text("sender", given["sender"]).upper() in (NULL_SENDER, "MAILER-DAEMON")
        sender = re.compile(NULL_SENDER) if bounce else _pattern("sender", given["sender"])
        tests.append(lambda message, now: sender.fullmatch(message["sender"]))
    if "recipient" in given:
        address = _pattern("recipient", given["recipient"])
        of_recipient.append(lambda recipient: address.fullmatch(recipient["address"]))
    if "domain" in given:
        domain = _pattern("domain", given["domain"])
        of_recipient.append(lambda recipient: domain.fullmatch(_domain(recipient["address"])))
    if "reason" in given:
        reason = _text("reason", given["reason"]).casefold()
        of_recipient.append(lambda recipient: reason in recipient["reason"].casefold())
    if of_recipient:
        tests.append(
            lambda message, now: any(
                all(test(recipient) for test in of_recipient) for recipient in message["recipients"]
            )
        )
    return lambda message, now: all(test(message, now) for test in tests)


def _limit(value, least=0):
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SaltInvocationError(f"limit: {value!r} is not a whole number, {least} or more")
    return value


def _aged(message, now):
    return {**message, "age": max(0, int(now - message["arrived"]))}


class _Tally:
    """
    Counts by name, of which the largest are wanted, in bounded memory.

    Beyond ``DISTINCT`` names the smaller half is added to the others: then counts are lower bounds.
    """

    def __init__(self):
        self.counts = collections.Counter()
        self.others = 0

    def add(self, name):
        self.counts[name] += 1
        if len(self.counts) > DISTINCT:
            self.shrink(DISTINCT // 2)

    def shrink(self, size):
        kept = collections.Counter(dict(self.counts.most_common(size)))
        self.others += sum(self.counts.values()) - sum(kept.values())
        self.counts = kept

    def largest(self, limit):
        self.shrink(limit)
        return {**dict(self.counts.most_common()), **({OTHERS: self.others} if self.others else {})}


def _kind(reason):
    """A reason without what differs from message to message: addresses, IP addresses, queue ids."""
    text = re.sub(r"^delivery temporarily suspended: ", "", reason)
    text = re.sub(r"\[[0-9A-Fa-f:.]+\]", "", text)
    text = re.sub(r"<[^<> ]*>", "<>", text)
    text = re.sub(r"\b(?=[0-9A-Fa-f]*[0-9])[0-9A-Fa-f]{8,16}\b", "…", text)
    return text if len(text) <= REASON_LENGTH else text[: REASON_LENGTH - 1] + "…"


def _summed(messages, now, limit):
    """The summary of messages."""
    total = {"messages": 0, "recipients": 0, "bytes": 0, "oldest": 0}
    queues, ages = collections.Counter(), dict.fromkeys((label for _, label in AGES), 0)
    domains, reasons = _Tally(), _Tally()
    for message in messages:
        age = max(0, int(now - message["arrived"]))
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


def summary(
    limit=20,
    queue=None,
    sender=None,
    recipient=None,
    domain=None,
    older_than=None,
    reason=None,
    queue_id=None,
):
    """
    Return how many messages wait, by queue, age, recipients' domain and reason.

    limit (int, default 20)
        How many domains and reasons to name, those with most messages first. The rest is ``(others)``.

    queue, sender, recipient, domain, older_than, reason, queue_id
        Only messages that meet all of these; see the top of this module. Default: all messages.

    Returns ``messages``, ``recipients`` (those still to be reached), ``bytes``, ``oldest`` (seconds) and, each a
    mapping to the number of messages, ``queues``, ``ages``, ``domains`` and ``reasons``. A message counts once for
    each of its domains and reasons. Reasons are grouped: without IP addresses, mail addresses and queue ids.

    Raises ``SaltInvocationError`` for a bad filter, ``CommandExecutionError`` when postqueue(1) fails.
    """
    now, limit = time.time(), _limit(limit)
    selected = _selection(_filters(locals()))
    with contextlib.closing(_messages()) as messages:
        return _summed((message for message in messages if selected(message, now)), now, limit)


def list_(
    limit=1000,
    queue=None,
    sender=None,
    recipient=None,
    domain=None,
    older_than=None,
    reason=None,
    queue_id=None,
):
    """
    Return messages in the queue, in the order in which postqueue(1) lists them.

    limit (int, default 1000)
        How many at most.

    queue, sender, recipient, domain, older_than, reason, queue_id
        Only messages that meet all of these; see the top of this module. Default: all messages.

    Returns a list of ``id``, ``queue``, ``arrived`` (seconds since 1970), ``age`` (seconds), ``size`` (bytes),
    ``sender`` and ``recipients``: a list of ``address`` and ``reason`` (empty: not tried yet).

    Raises ``SaltInvocationError`` for a bad filter, ``CommandExecutionError`` when postqueue(1) fails.
    """
    now, limit = time.time(), _limit(limit)
    selected = _selection(_filters(locals()))
    found = []
    with contextlib.closing(_messages()) as messages:
        for message in messages:
            if len(found) >= limit:
                break
            if selected(message, now):
                found.append(_aged(message, now))
    return found


def size(queue_directory=None):
    """
    Return how many files are in each queue, without a process: cheap enough to ask at every interval.

    queue_directory (str, default: what main.cf says)
        Where the queues are.

    Counts directory entries, not what they hold; so it has to run as root. ``deferred`` (as every queue in
    ``hash_queue_names``) has a level of directories with names of one character. Also counted is what no listing
    shows: messages in ``corrupt``.

    Returns the number of files by queue, and their ``total``, without ``corrupt``; ``None`` where there is no
    queue directory. Raises ``CommandExecutionError`` when one cannot be read.
    """
    base = queue_directory or _queue_directory()
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


def _queue_directory():
    try:
        named = _mta_postfix_view.show().get("queue_directory", "")
    except CommandExecutionError:
        named = ""
    return named if named.startswith("/") else "/var/spool/postfix"


def _files(directory):
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


def _filters(arguments):
    names = ("queue", "sender", "recipient", "domain", "older_than", "reason", "queue_id")
    return {name: arguments[name] for name in names}


class _Oldest:
    """Of the messages that are added, the ``size`` that arrived first; of those of one second, the lowest ids."""

    def __init__(self, size):
        self.size = size
        self.found = {}

    def add(self, message, kept=None):
        # By this key a message that postqueue(1) lists twice is one.
        self.found[message["arrived"], message["id"]] = kept
        if len(self.found) > 2 * self.size:
            self.shrink()

    def shrink(self):
        self.found = {key: self.found[key] for key in sorted(self.found)[: self.size]}

    def ids(self):
        self.shrink()
        return [queue_id for _, queue_id in self.found]

    def kept(self):
        self.shrink()
        return list(self.found.values())


def _chosen(queues, arguments, participle, act):
    """
    Hand the ids of the messages that an action is for, one in a line of a file, to ``act(file)``.

    queues: those that the action works on. participle: what has been done to a message then. Returns what every
    action returns. The ids are collected before the first message is touched: an action changes what
    postqueue(1) would list.
    """
    everything, test, limit = arguments["everything"], arguments["test"], arguments["limit"]
    for name, flag in (("everything", everything), ("test", test)):
        if not isinstance(flag, bool):
            raise SaltInvocationError(f"{name}: {flag!r} is not a boolean")
    if limit is not None:
        _limit(limit, 1)
    filters = _filters(arguments)
    given = [name for name, value in filters.items() if value is not None]
    if not given and not everything:
        raise SaltInvocationError("Nothing was done: give a filter, or everything=True for the whole queue")
    if given and everything:
        raise SaltInvocationError(f"Nothing was done: everything=True contradicts the filter {', '.join(given)}")
    now, selected = time.time(), _selection(filters)
    matched, done = 0, None
    first, shown = _Oldest(limit or 0), _Oldest(min(limit or SHOWN, SHOWN))
    with tempfile.TemporaryFile() as ids:
        with contextlib.closing(_messages()) as messages:
            for message in messages:
                if message["queue"] not in queues or not selected(message, now):
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
            done = act(ids) if matched else 0
    comment = _told(matched, done, limit, participle)
    return {"matched": matched, "done": done, "comment": comment, "messages": shown.kept()}


def _told(matched, done, limit, participle):
    """In a sentence, how many messages match and for how many of them it was done."""
    meant = min(matched, limit or matched)
    text = f"{matched} {'message matches' if matched == 1 else 'messages match'}"
    text += f"; {meant} would be {participle}" if done is None else f"; {done} {participle}"
    if meant < matched:
        text += f", as limit is {limit}: the oldest first"
    if done is not None and done < meant:
        text += f"; {meant - done} left the queue meanwhile"
    return f"{text}."


def _postsuper(action, arguments):
    """Let postsuper(1) do ``action`` with what is selected."""
    option, queues, participle = ACTIONS[action]

    def act(ids):
        # The queues again, so that a message that has changed queues meanwhile is no longer meant.
        return _run_postsuper([POSTSUPER, option, "-", *_queues(queues, arguments["queue"])], ids)

    return {"action": action, **_chosen(queues, arguments, participle, act)}


def _queues(possible, wanted):
    wanted = [wanted] if isinstance(wanted, str) else wanted
    return [name for name in possible if wanted is None or name in wanted]


def _run_postsuper(command, ids):
    """Run postsuper(1) with queue ids on its standard input; return for how many messages it did it."""
    done, last = 0, collections.deque(maxlen=5)
    try:
        process = subprocess.Popen(command, stdin=ids, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    except OSError as err:
        raise CommandExecutionError(f"Cannot run {POSTSUPER}: {err.strerror}") from err
    with process:
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


def delete(
    queue=None,
    sender=None,
    recipient=None,
    domain=None,
    older_than=None,
    reason=None,
    queue_id=None,
    everything=False,
    test=False,
    limit=None,
):
    """
    Delete the messages that a filter selects; there is no way back.

    queue, sender, recipient, domain, older_than, reason, queue_id
        Which messages: those that meet all of these; see the top of this module.

    everything (bool, default False)
        All messages. Without a filter and without this nothing is done.

    test (bool, default False)
        Only tell which messages it would be.

    limit (int, 1 or more; default: all that match)
        For how many of them at most, the oldest first: by the time of arrival, and of those of one second by the
        queue id.

    Returns ``action``, ``matched`` (how many messages match), ``done`` (for how many of them postsuper(1) did it;
    fewer when messages left the queue meanwhile; ``None`` with ``test``), ``comment`` (these numbers in a
    sentence), and ``messages``: the oldest of those that are meant, up to 100, as :func:`list` returns them.

    Raises ``SaltInvocationError`` without a filter and for a bad one, ``CommandExecutionError`` when postqueue(1)
    or postsuper(1) fails.
    """
    return _postsuper("delete", locals())


def hold(
    queue=None,
    sender=None,
    recipient=None,
    domain=None,
    older_than=None,
    reason=None,
    queue_id=None,
    everything=False,
    test=False,
    limit=None,
):
    """
    Put the messages that a filter selects on hold: Postfix does not try to deliver them until they are released.

    queue, sender, recipient, domain, older_than, reason, queue_id, everything, test, limit
        As for :func:`delete`.

    Returns and raises as :func:`delete` does.
    """
    return _postsuper("hold", locals())


def release(
    queue=None,
    sender=None,
    recipient=None,
    domain=None,
    older_than=None,
    reason=None,
    queue_id=None,
    everything=False,
    test=False,
    limit=None,
):
    """
    Release the messages on hold that a filter selects.

    queue, sender, recipient, domain, older_than, reason, queue_id, everything, test, limit
        As for :func:`delete`.

    Returns and raises as :func:`delete` does.
    """
    return _postsuper("release", locals())


def requeue(
    queue=None,
    sender=None,
    recipient=None,
    domain=None,
    older_than=None,
    reason=None,
    queue_id=None,
    everything=False,
    test=False,
    limit=None,
):
    """
    Queue the messages that a filter selects anew, under new ids: addresses are rewritten and routed once more.

    pickup(8) takes them up within a minute; until then they are in the queue ``maildrop``.

    queue, sender, recipient, domain, older_than, reason, queue_id, everything, test, limit
        As for :func:`delete`.

    Returns and raises as :func:`delete` does.
    """
    return _postsuper("requeue", locals())


def flush(
    queue=None,
    sender=None,
    recipient=None,
    domain=None,
    older_than=None,
    reason=None,
    queue_id=None,
    everything=False,
    test=False,
    limit=None,
):
    """
    Try to deliver the deferred messages that a filter selects now.

    queue, sender, recipient, domain, older_than, reason, queue_id, everything, test, limit
        As for :func:`delete`.

    Returns and raises as :func:`delete` does; ``done`` is for how many messages Postfix was asked to. Each
    selected message takes a process of some 10 ms (``postqueue -i``); everything, without a limit, takes one
    (``postqueue -f``).
    """
    arguments = locals()

    def act(ids):
        if everything and limit is None:
            _run_postqueue("-f")
            return sum(1 for _ in ids)
        done = 0
        for line in ids:
            _run_postqueue("-i", line.decode().strip())
            done += 1
        return done

    return {"action": "flush", **_chosen(("deferred",), arguments, "handed on for delivery", act)}


def _run_postqueue(*arguments):
    try:
        done = subprocess.run(
            [POSTQUEUE, *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as err:
        raise CommandExecutionError(f"Cannot run {POSTQUEUE}: {err}") from err
    if done.returncode:
        raise CommandExecutionError(f"postqueue failed: {done.stderr.decode(errors='replace').strip()}")
