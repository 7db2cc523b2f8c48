"""
Read, check and change Postfix's ``main.cf`` and ``master.cf``.

Reading happens in process, by the rules of postconf(5) and master(5): a run that has nothing to change reads
two files and starts no program. A change is built by postconf(1) in a private copy of the configuration
directory, checked there by postconf(1), postmap(1) and ``postfix check``, tried there by Postfix's daemons
(:py:mod:`mta_rehearsal`), and only then switched through :py:mod:`mta_transaction`, under the lock that
``postconf -e`` itself takes.

How values are compared (a false difference costs one rewrite, a false match hides a change, so only what
Postfix itself takes for the same is the same):

- text that is identical, with the blanks around it ignored, is the same, and so is a tab or a line end (in what
  was continued on a further line) with the blanks beside it, and one space;
- a parameter that holds a list by its name (``mynetworks``, ``…_restrictions``, ``…_maps`` and so on), or one
  that was asked for as a list, is compared item by item. Commas and blanks both separate items, an empty item
  is none, the order counts, and what stands in braces is one item;
- everything else, such as the text of a banner or a command, has to be identical.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from salt.exceptions import CommandExecutionError, SaltInvocationError

__func_alias__ = {"set_": "set"}

CONFIG_DIRECTORY = "/etc/postfix"
QUEUE = "/var/spool/postfix"
RECORD = "postconf.json"
# In the record beside the configuration directories, which are absolute paths.
MADE = "made"
FILES = ("main.cf", "master.cf")
LOCK_SECONDS = 30
RUN_SECONDS = 60
ATTEMPTS = 3
UNMANAGED = ("keep", "warn", "remove")

BLANKS = " \t\r\v\f"
BLANK_RUN = re.compile(f"[{BLANKS}\n]+")
UNSEEN = re.compile(r" *[\t\r\v\f\n][ \t\r\v\f\n]*")
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
PARAMETER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\Z")
ASSIGNMENT = re.compile(rf"([^={BLANKS}]*)[{BLANKS}]*=(.*)\Z", re.DOTALL)
REFERENCE = re.compile(r"\$(?:\{+([\w.-]+)|\(([\w.-]+)|(\w+))", re.ASCII)
LISTS = (
    r"(?:.*_)?(?:access_list|actions|addresses|chain_files|checks|ciphers|classes|clients|codes|database|domains|"
    r"environment|events|exceptions|extensions|features|files|hosts|interfaces|keywords|limits|macros|maps|milters|"
    r"mydestination|mynetworks|networks|options|peer_list|protocols|ranges|recipients|restrictions|servers|sites|"
    r"types|users)\Z"
)

# Fields of a master.cf entry in the file's order, master(5).
FLAGS = ("private", "unprivileged", "chroot")
FIELDS = (*FLAGS, "wakeup", "process_limit", "command")
TYPES = ("inet", "unix", "unix-dgram", "fifo", "pass")
# The programs that speak SMTP with a client; and those that only the queue manager, or master(8), talks to.
SERVERS = ("smtpd", "postscreen")
NO_SERVERS = ("smtp", "lmtp", "local", "virtual", "pipe", "error", "discard", "qmgr", "oqmgr", "pickup")
PORTS = {"smtp": 25, "submission": 587, "smtps": 465, "submissions": 465, "urd": 465}

# master(8) "ignores a value change" of the first two (master_vars.c, postconf(5)): the values after expansion
# count.
LISTENING = {"inet_interfaces": "all", "inet_protocols": "all"}
LOOPBACK = r"loopback-only|localhost|127\.[\d.]+|\[?::1\]?"
# The others it uses once, at its start: directory changes, lock and PID files, identity, environment
# (master.c).
AT_START = {
    "command_directory",
    "daemon_directory",
    "data_directory",
    "import_environment",
    "mail_owner",
    "meta_directory",
    "process_id_directory",
    "queue_directory",
    "setgid_group",
    "shlib_directory",
}

# Read by master(8) alone, which dies of a bad one at a reload; no program can be asked (master_vars.c).
MASTERS = {"default_process_limit": r"[0-9]+", "service_throttle_time": r"[0-9]+[smhdw]?"}

# What the package configures: its templates, and what Debian's postinst and dpkg-reconfigure set.
PACKAGE_MAIN = (
    "/usr/share/postfix/main.cf.debian",
    "/usr/share/postfix/main.cf.tls",
    "/usr/share/postfix/main.cf.dist",
    "/etc/postfix/main.cf.proto",
)
PACKAGE_MASTER = ("/usr/share/postfix/master.cf.dist", "/etc/postfix/master.cf.proto")
PACKAGE_PARAMETERS = {
    "alias_database",
    "alias_maps",
    "compatibility_level",
    "cyrus_sasl_config_path",
    "default_transport",
    "inet_interfaces",
    "inet_protocols",
    "mailbox_command",
    "mailbox_size_limit",
    "mydestination",
    "myhostname",
    "mynetworks",
    "mynetworks_style",
    "myorigin",
    "recipient_delimiter",
    "relay_transport",
    "relayhost",
    "smtpd_relay_restrictions",
}

SERIOUS = r"unused parameter|undefined parameter|\b(?:bad|unknown|missing|fatal|invalid|malformed)\b"
# Table types by how their names end on disk; a type that is in none of these has no file of its own.
TABLE_FILES = {"hash": ".db", "btree": ".db", "lmdb": ".lmdb", "cdb": ".cdb", "dbm": ".pag", "sdbm": ".pag"}
TABLE_TEXTS = (
    "cidr",
    "pcre",
    "regexp",
    "texthash",
    "ldap",
    "mysql",
    "pgsql",
    "sqlite",
    "memcache",
    "mongodb",
)
TRANSPORTS = r"(?:.*_transport|content_filter)\Z"
TABLES = r"(?:.*_)?(?:maps|checks|map|database|databases)\Z"
PEM_FILES = r"(?:lmtp|smtp|smtpd|tlsproxy|postscreen)_tls_(?:.*_)?(?:cert_file|key_file|CAfile|chain_files)\Z"


# -- the syntax of main.cf and master.cf -------------------------------------------------------


def _logical_lines(text):
    """
    Join the physical lines of a Postfix file as readlline(3) does: ``[(text, [line indexes])]``.

    A line that begins with a blank continues the one before it, also across comments and empty lines.
    """
    found = []
    for index, line in enumerate(text.split("\n")):
        content = line.strip(BLANKS)
        if not content or content.startswith("#"):
            continue
        if line[0] in BLANKS and found:
            joined, indexes = found[-1]
            found[-1] = (joined + line, [*indexes, index])
        else:
            found.append((line, [index]))
    return found


def _parse_main(text):
    """Split main.cf into ``[(name, value, indexes)]`` and the unparsable, ``[(reason, text, indexes)]``."""
    entries, broken = [], []
    for line, indexes in _logical_lines(text):
        if line[0] in BLANKS:
            continue  # nothing before it to continue: Postfix warns and ignores it
        match = ASSIGNMENT.match(line)
        if not match:
            broken.append(("missing '=' after attribute name", line, indexes))
        elif not match[1]:
            broken.append(("missing attribute name", line, indexes))
        else:
            entries.append((match[1], match[2].strip(BLANKS), indexes))
    return entries, broken


def _tokens(text, separators=BLANKS + "\n"):
    """Split ``text`` as mystrtokq() does: ``{…}`` holds together what stands in it."""
    found, token, depth = [], "", 0
    for character in text:
        if not depth and character in separators:
            if token:
                found.append(token)
            token = ""
            continue
        depth += (character == "{") - (character == "}" and depth > 0)
        token += character
    return [*found, token] if token else found


def _parse_master(text):
    """Split master.cf into ``[(name/type, entry, indexes)]`` and what master(8) would die of, likewise."""
    entries, broken = [], []
    for line, indexes in _logical_lines(text):
        if line[0] in BLANKS:
            continue
        fields = _tokens(UNSEEN.sub(" ", line))
        if len(fields) < 8:
            broken.append(("bad field count", line, indexes))
            continue
        entry = dict(zip(FIELDS, fields[2:8]))
        reason = _bad_field(fields[1], entry)
        if reason:
            broken.append((reason, line, indexes))
            continue
        entry["overrides"], entry["arguments"] = _options(fields[8:])
        entries.append((f"{fields[0]}/{fields[1]}", entry, indexes))
    return entries, broken


def _bad_field(kind, entry):
    """Why master(8) would refuse the type or a column of an entry, or ``None``."""
    if kind not in TYPES:
        return f"invalid type field {kind!r}, expected one of {', '.join(TYPES)}"
    for field in FLAGS:
        if entry[field] not in ("y", "n", "-"):
            return f"invalid {field} field {entry[field]!r}, expected y, n or -"
    if not re.fullmatch(r"-|[0-9]+\??", entry["wakeup"]):
        return f"invalid wakeup field {entry['wakeup']!r}, expected seconds, optionally followed by '?', or -"
    if not re.fullmatch(r"-|[0-9]+", entry["process_limit"]):
        return f"invalid process_limit field {entry['process_limit']!r}, expected a number or -"
    return None


def _options(words):
    """Split a daemon's arguments into its ``-o`` overrides and all others, as postconf(1) does."""
    overrides, arguments = {}, []
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] != "--":
        # Letters without a value may stand before the "o" in one word.
        letters, override, setting = rest.pop(0)[1:].partition("o")
        if letters:
            arguments.append(f"-{letters}")
        if not override:
            continue
        setting = setting or (rest.pop(0) if rest else "")
        if setting.startswith("{"):
            setting = setting[1:].rpartition("}")[0]
        name, _, value = setting.partition("=")
        overrides[name.strip(BLANKS)] = value.strip(BLANKS)
    return overrides, arguments + [_braced(word) for word in rest]


def _braced(word):
    """A word as postconf(1) writes it: in braces, without blanks beside them, where it has blanks in it."""
    if word.startswith("{") and word.endswith("}"):
        word = word[1:-1].strip(BLANKS)
    return f"{{{word}}}" if BLANK_RUN.search(word) else word


def _entry_text(service, entry):
    """The master.cf line of an entry, for ``postconf -M``."""
    name, _, kind = service.rpartition("/")
    words = [name, kind, *(entry[field] for field in FIELDS)]
    for parameter, value in entry["overrides"].items():
        long = BLANK_RUN.search(value) or "{" in value
        words += ["-o", f"{{ {parameter} = {value} }}" if long else f"{parameter}={value}"]
    return " ".join([*words, *entry["arguments"]])


def _parameters(text):
    """The parameters that main.cf sets; of several settings of one name the last one counts."""
    return {name: value for name, value, _ in _parse_main(text)[0]}


def _services(text):
    return {service: entry for service, entry, _ in _parse_master(text)[0]}


def _mended(text, broken, superseded):
    """Comment out the logical lines in ``broken``; leave out those in ``superseded``."""
    lines = text.split("\n")
    for _, _, indexes in broken:
        for index in indexes:
            lines[index] = f"# {lines[index]}"
    gone = {index for indexes in superseded for index in indexes}
    return "\n".join(line for index, line in enumerate(lines) if index not in gone)


def _superseded(entries, names):
    """The lines of all but the last setting of each of ``names``."""
    last = {entry[0]: entry[2] for entry in entries}
    return [indexes for name, _, indexes in entries if name in names and indexes is not last[name]]


def _appended(text, parameters):
    """main.cf with further settings at its end, which is where they count."""
    lines = [f"{name} = {value}" for name, value in parameters.items() if value is not None]
    return "\n".join([text.rstrip("\n"), *lines, ""])


def _expand(value, parameters, seen=()):
    """
    Expand ``$name``, ``${name}``, ``$(name)``, ``${name?text}``, ``${name:text}`` and ``${name?{a}:{b}}``.

    What is not known, and a comparison, stays as it is written.
    """

    def replacement(match):
        name, operator, text = match[1] or match[4] or match[5], match[2], match[3]
        found = None if name in seen else parameters.get(name)
        if operator:
            chosen, _, other = text.partition("}:{") if text.startswith("{") else (text, "", "")
            chosen, other = chosen.lstrip("{").rstrip("}"), other.rstrip("}")
            if operator == ":":
                chosen, other = "", chosen
            return _expand(chosen if found else other, parameters, seen)
        return match[0] if found is None else _expand(found, parameters, (*seen, name))

    pattern = r"\$(?:\{([\w.-]+)(?:([?:])((?:[^{}]|\{[^{}]*\})*))?\}|\(([\w.-]+)\)|(\w+))"
    return re.sub(pattern, replacement, value, flags=re.ASCII)


def _items(value):
    return _tokens(value, BLANKS + "\n,")


def _same(name, present, wanted, as_list=False):
    """Whether Postfix takes the two texts of a parameter for the same; see the module's docstring."""
    if present is None or wanted is None:
        return present is wanted
    if wanted in (present, UNSEEN.sub(" ", present)):
        return True
    return bool(as_list or re.match(LISTS, name)) and _items(present) == _items(wanted)


# -- what is asked for -------------------------------------------------------------------------


def _wanted_text(name, value):
    """The text of a parameter's value as main.cf holds it; ``None`` takes the parameter out."""
    if not isinstance(name, str) or not PARAMETER.match(name):
        raise SaltInvocationError(
            f"{name!r} is not the name of a parameter: letters, digits, '_', '-' and '.' only"
        )
    if value is None:
        return None
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name == "compatibility_level" and isinstance(value, float):
        raise SaltInvocationError(f"{name}: put it in quotes; YAML reads the number 3.10 as 3.1")
    if isinstance(value, (list, tuple)):
        if not all(isinstance(item, (str, int, float)) and not isinstance(item, bool) for item in value):
            raise SaltInvocationError(f"{name}: a list of texts is expected, not {value!r}")
        value = ", ".join(str(item).strip() for item in value)
    elif not isinstance(value, (str, int, float)):
        raise SaltInvocationError(f"{name}: a text, a number, true, false, a list or null, not {value!r}")
    text = str(value).strip(BLANKS + "\n")
    if CONTROL.search(text):
        raise SaltInvocationError(f"{name}: a value has no line breaks and no control characters: {text!r}")
    return text


def _wanted_parameters(parameters):
    """``{name: (text or None, whether it was given as a list)}``"""
    if not isinstance(parameters or {}, dict):
        raise SaltInvocationError(f"parameters is a dictionary, not {parameters!r}")
    return {
        name: (_wanted_text(name, value), isinstance(value, (list, tuple)))
        for name, value in (parameters or {}).items()
    }


def _wanted_service(service, fields, present):
    """The whole entry that results when ``fields`` change ``present`` (``None``: it is not there)."""
    name, _, kind = str(service).rpartition("/")
    if not name or kind not in TYPES or re.search(r"[\s={}#]", name) or CONTROL.search(service):
        raise SaltInvocationError(f"{service!r} is not name/type of a service, with a type of {', '.join(TYPES)}")
    if fields is None:
        return None
    if not isinstance(fields, dict):
        raise SaltInvocationError(f"{service}: a dictionary of fields, or null, not {fields!r}")
    unknown = sorted(set(fields) - {*FIELDS, "overrides", "arguments"})
    if unknown:
        raise SaltInvocationError(
            f"{service}: {', '.join(map(str, unknown))}: not a field; there are "
            + ", ".join((*FIELDS, "overrides", "arguments"))
        )
    entry = {**_new_entry(service), **(present or {})}
    for field in FIELDS:
        if fields.get(field) is not None:
            entry[field] = _column(service, field, fields[field])
    if not entry["command"]:
        raise SaltInvocationError(f"{service}: a new entry needs its command")
    reason = _bad_field(kind, entry)
    if kind == "inet" and fields.get("command") in NO_SERVERS:
        reason = f"command: {entry['command']} takes no mail from the network; what does is {' or '.join(SERVERS)}"
    if reason:
        raise SaltInvocationError(f"{service}: {reason}")
    if fields.get("arguments") is not None:
        entry["arguments"] = _words(service, fields["arguments"])
    entry["overrides"] = _overridden(service, fields.get("overrides") or {}, entry["overrides"])
    return entry


def _new_entry(service):
    """What a new entry has in fields that are not given."""
    private = "n" if service.endswith("/inet") else "-"
    return {**dict.fromkeys(FIELDS, "-"), "private": private, "command": "", "overrides": {}, "arguments": []}


def _column(service, field, value):
    if isinstance(value, bool):
        value = "y" if value else "n"
    text = str(value)
    if not text or CONTROL.search(text) or BLANK_RUN.search(text):
        raise SaltInvocationError(f"{service}: {field}: one word, not {value!r}")
    return text


def _words(service, arguments):
    if isinstance(arguments, str):
        arguments = _tokens(arguments)
    if not isinstance(arguments, (list, tuple)):
        raise SaltInvocationError(f"{service}: arguments: a list or a text, not {arguments!r}")
    words = [str(word) for word in arguments]
    for word in words:
        if CONTROL.search(word) or _tokens(word) != [word]:
            raise SaltInvocationError(f"{service}: arguments: {word!r} is not one word; put it in braces")
    return [_braced(word) for word in words]


def _overridden(service, wanted, present):
    """The ``-o`` overrides after ``wanted`` was merged into them; one that is the same keeps its text."""
    if not isinstance(wanted, dict):
        raise SaltInvocationError(f"{service}: overrides is a dictionary, not {wanted!r}")
    result = dict(present)
    for name, value in wanted.items():
        try:
            text = _wanted_text(name, value)
        except SaltInvocationError as err:
            raise SaltInvocationError(f"{service}: overrides: {err}") from None
        if text is None:
            result.pop(name, None)
        elif not _same(name, present.get(name), text, isinstance(value, (list, tuple))):
            result[name] = text
    return result


def _wanted_services(services, present):
    """``{name/type: entry or None}`` of those services that differ from ``present``."""
    if not isinstance(services or {}, dict):
        raise SaltInvocationError(f"services is a dictionary, not {services!r}")
    result = {}
    for service, fields in (services or {}).items():
        entry = _wanted_service(service, fields, present.get(service))
        if entry != present.get(service):
            result[service] = entry
    return result


def _difference(present, wanted):
    """``{"old": …, "new": …}`` of two entries, down to the fields that differ."""
    if present is None or wanted is None:
        return {"old": present, "new": wanted}
    old, new = {}, {}
    for field in (*FIELDS, "arguments"):
        if present[field] != wanted[field]:
            old[field], new[field] = present[field], wanted[field]
    for name in sorted({*present["overrides"], *wanted["overrides"]}):
        before, after = present["overrides"].get(name), wanted["overrides"].get(name)
        if before != after:
            old[f"-o {name}"], new[f"-o {name}"] = before, after
    return {"old": old, "new": new}


# -- files and processes -----------------------------------------------------------------------


def _read(path):
    """The text of a file, with bytes that are not UTF-8 kept apart; ``None`` when it is not there."""
    try:
        with open(path, "rb") as handle:
            return handle.read().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return None
    except OSError as err:
        raise CommandExecutionError(f"Cannot read {path}: {err.strerror}") from err


def _read_both(config_directory):
    return {name: _read(os.path.join(config_directory, name)) for name in FILES}


def _run(*command):
    """Run a program of Postfix without a shell: ``(exit code, stdout, stderr)``."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAIL_")}
    environment.update(LC_ALL="C", PATH=f"{environment.get('PATH', '')}:/usr/sbin:/usr/bin:/sbin:/bin")
    try:
        process = subprocess.Popen(
            [word.encode("utf-8", "surrogateescape") for word in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
    except OSError as err:
        raise CommandExecutionError(f"Cannot run {command[0]}: {err.strerror}") from err
    with process:
        try:
            output, errors = process.communicate(timeout=RUN_SECONDS)
        except subprocess.TimeoutExpired:
            # `postfix check` is a tree of shell scripts, and each of them holds the pipes.
            os.killpg(process.pid, signal.SIGKILL)
            raise CommandExecutionError(f"{command[0]} did not end within {RUN_SECONDS} s") from None
    return process.returncode, output.decode(errors="replace"), errors.decode(errors="replace")


def _installed():
    return bool(shutil.which("postconf") or shutil.which("postconf", path="/usr/sbin"))


def _record(config_directory):
    """
    What parameters and services of :func:`plan`'s ``revert`` were before: ``{name: text, entry or None}``.

    The whole record has one such dictionary for each configuration directory. One that is damaged is none.
    """
    whole = __salt__["mta_state.read"](RECORD)
    return whole, whole.get(config_directory, {})


@contextlib.contextmanager
def _stage(config_directory, main, master):
    """A private copy of what postconf(1) needs of the configuration directory, with the given two files."""
    parent = __salt__["mta_state.path"]("")
    there = os.path.isdir(parent)
    try:
        os.makedirs(parent, mode=0o700, exist_ok=True)
        _sweep(parent)
        stage = tempfile.mkdtemp(prefix=f"stage.{os.getpid()}.", dir=parent)
    except OSError as err:
        raise CommandExecutionError(f"Cannot make a private copy below {parent}: {err.strerror}") from err
    try:
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(os.path.join(config_directory, "dynamicmaps.cf"), stage)
        with contextlib.suppress(FileNotFoundError):
            source = os.path.join(config_directory, "dynamicmaps.cf.d")
            shutil.copytree(source, os.path.join(stage, "dynamicmaps.cf.d"))
        for name, text in zip(FILES, (main, master)):
            with open(os.path.join(stage, name), "wb") as handle:
                handle.write((text or "").encode("utf-8", "surrogateescape"))
        _age(stage)
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        if not there:
            with contextlib.suppress(OSError):
                os.rmdir(parent)


def _sweep(parent):
    """Remove the private copies of runs that were killed: the second word of the name is their process."""
    for name in os.listdir(parent):
        if name.startswith("stage.") and not os.path.exists(f"/proc/{name.split('.')[1]}"):
            shutil.rmtree(os.path.join(parent, name), ignore_errors=True)


def _age(stage):
    """Make staged files look old: a Postfix program waits until main.cf is older than a second or two."""
    old = time.time() - 60
    for name in FILES:
        os.utime(os.path.join(stage, name), (old, old))


def _edit(stage, *arguments):
    """Let postconf(1) edit the staged files."""
    code, _, errors = _run("postconf", "-c", stage, *arguments)
    if code:
        raise CommandExecutionError(f"postconf cannot edit the configuration: {errors.strip()}")


def _edit_services(stage, services):
    texts = [f"{name}={_entry_text(name, entry)}" for name, entry in services.items() if entry]
    gone = [name for name, entry in services.items() if not entry]
    if texts:
        _edit(stage, "-M", "-e", *texts)
    if gone:
        _edit(stage, "-M", "-X", *gone)


def _messages(stage, config_directory, *outputs):
    """What Postfix programs said, once each, as if they had spoken of the real directory."""
    found = {}
    for line in "\n".join(outputs).splitlines():
        text = re.sub(
            r"^(?:\S*/)?(?:postconf|postmap|postfix|post-install|postfix-script|postlog)(?:\[\d+\])?: ",
            "",
            line,
        )
        text = text.replace(stage, config_directory).replace(f"{config_directory}/", "").strip()
        text = re.sub(r",? line \d+", "", text)
        # The value says nothing more, and differs between the old and the new file.
        text = re.sub(r"((?:unused parameter|overriding earlier entry): [^=]+)=.*", r"\1", text)
        if text:
            found[text] = None
    return list(found)


def _complaints(directory, config_directory, thorough):
    """
    What Postfix says about the configuration in ``directory``, which stands for ``config_directory``.

    ``postmap`` initialises itself as every daemon does, and says on stderr what ``postfix check`` of Postfix
    3.7 only logs. ``thorough`` adds ``postfix check``, which creates missing directories of the queue. A
    program that dies waits a second first, so the first death ends it.
    """
    commands = [
        ("postconf", "-c", directory, "-n"),
        ("postconf", "-c", directory, "-M"),
        ("postmap", "-c", directory, "-q", "x", "static:y"),
    ]
    if thorough:
        commands.append(("postfix", "-c", directory, "check"))
    outputs = []
    for command in commands:
        code, _, errors = _run(*command)
        outputs.append(errors)
        if code:
            if "fatal" not in errors:
                outputs.append(f"fatal: {command[0]} ended with exit code {code}")
            break
    return _messages(directory, config_directory, *outputs)


@contextlib.contextmanager
def _edit_locks(config_directory):
    """
    Keep ``postconf -e`` out while files are switched, by its own protocol.

    edit_file(3) takes an exclusive flock(2) on FILE.tmp, and begins again when the file it locked is gone by
    then.
    """
    with contextlib.ExitStack() as held:
        for name in FILES:
            held.enter_context(_edit_lock(os.path.join(config_directory, f"{name}.tmp")))
        yield


@contextlib.contextmanager
def _edit_lock(path):
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as err:
            raise CommandExecutionError(f"Cannot lock {path}: {err.strerror}") from err
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    break
        except BlockingIOError:
            pass
        os.close(descriptor)
        if time.monotonic() > deadline:
            raise CommandExecutionError(f"Someone is editing: {path} has been locked for {LOCK_SECONDS} s")
        time.sleep(0.05)
    try:
        yield
    finally:
        os.unlink(path)
        os.close(descriptor)


# -- planning ----------------------------------------------------------------------------------


def _package_parameters():
    names = set(PACKAGE_PARAMETERS)
    for path in PACKAGE_MAIN:
        names.update(_parameters(_read(path) or ""))
    return names


def _package_services():
    return {service for path in PACKAGE_MASTER for service in _services(_read(path) or "")}


# -- describing --------------------------------------------------------------------------------


def _package_settings():
    """What the package's own main.cf and master.cf have, before its scripts put in what they know of the host."""
    main = _parameters("\n".join(_read(path) or "" for path in PACKAGE_MAIN[:2]))
    if not main:
        main = _parameters(_read(PACKAGE_MAIN[-1]) or "")
    master = next(filter(None, map(_read, PACKAGE_MASTER)), "")
    return main, _services(master)


def _described(name, text):
    """A value of main.cf as one writes it in pillar."""
    text = UNSEEN.sub(" ", text)
    if text in ("yes", "no"):
        return text == "yes"
    if re.fullmatch(r"0|[1-9][0-9]{0,15}", text):
        return int(text)
    items = _items(text)
    return items if re.match(LISTS, name) and len(items) > 1 else text


def _described_service(service, entry, known):
    """The fields in which a master.cf entry differs from ``known``, or from a new one where that is ``None``."""
    base = known or {**_new_entry(service), "command": None}
    fields = {}
    for field in FIELDS:
        if entry[field] != base[field]:
            number = int(entry[field]) if entry[field].isdigit() else entry[field]
            fields[field] = {"y": True, "n": False}.get(entry[field], number) if field != "command" else number
    overrides = {
        name: _described(name, value)
        for name, value in entry["overrides"].items()
        if base["overrides"].get(name) != value
    }
    overrides.update({name: None for name in base["overrides"] if name not in entry["overrides"]})
    if overrides:
        fields["overrides"] = overrides
    if entry["arguments"] != base["arguments"]:
        fields["arguments"] = " ".join(entry["arguments"]) or []
    return fields


def _unmanaged(main, master, parameters, services):
    """Parameters and services that neither the arguments nor the package know, and nothing refers to."""
    strange = {name for name in main if name not in parameters} - _package_parameters()
    values = {name: value for name, value in main.items() if name not in strange}
    values.update({name: text for name, (text, _) in parameters.items() if text is not None})
    strange_services = [name for name in master if name not in services and name not in _package_services()]
    texts = list(values.values())
    texts += [_entry_text(name, entry) for name, entry in master.items() if name not in strange_services]
    texts += [_entry_text(name, entry) for name, entry in services.items() if entry]
    classes = set(_items(values.get("smtpd_restriction_classes", "")))
    while texts:
        used = {next(filter(None, match.groups())) for text in texts for match in REFERENCE.finditer(text)}
        needed = strange & (used | classes)
        strange -= needed
        texts = [main[name] for name in needed]
    return sorted(strange), strange_services


def _prepare(name, parameters, services, unmanaged, revert):
    """Read what is there and find what has to change; without a process, unless a name in ``revert`` is new."""
    if unmanaged not in UNMANAGED:
        raise SaltInvocationError(f"unmanaged is one of {', '.join(UNMANAGED)}, not {unmanaged!r}")
    if not isinstance(revert or [], (list, tuple)):
        raise SaltInvocationError(f"revert is a list of names, not {revert!r}")
    wanted = _wanted_parameters(parameters)
    texts = _read_both(name)
    master_text = texts["master.cf"] or ""
    changes = {}
    if texts["master.cf"] is None and _installed():
        # Without it there is no Postfix; the package's own is what it begins with.
        master_text = next(filter(None, map(_read, PACKAGE_MASTER)), "")
        changes["master.cf"] = {"old": None, "new": "as in the package"}
    settings, broken_main = _parse_main(texts["main.cf"] or "")
    entries, broken_master = _parse_master(master_text)
    main = {parameter: value for parameter, value, _ in settings}
    master = {service: entry for service, entry, _ in entries}
    news = [key for key, (text, _) in wanted.items() if text is not None and key not in main]
    unknown = _unknown(name, [key for key in news if key in (revert or [])])
    wanted = {key: value for key, value in wanted.items() if key not in unknown}
    notes = [f"This Postfix does not know, and goes without: {', '.join(unknown)}"] if unknown else []
    left, left_services, lent, theirs = _lent(name, revert, {**main, **master})
    theirs = [key for key in theirs if key not in wanted and key not in (services or {})]
    notes += [f"Not put back, as somebody has changed it since: {', '.join(theirs)}"] if theirs else []
    new_parameters = {
        parameter: text
        for parameter, (text, as_list) in {**{key: (text, False) for key, text in left.items()}, **wanted}.items()
        if not _same(parameter, main.get(parameter), text, as_list)
    }
    bare = {service: entry for service, entry in {**master, **left_services}.items() if entry}
    results = {**{key: bare.get(key) for key in left_services}, **_wanted_services(services, bare)}
    new_services = {key: entry for key, entry in results.items() if entry != master.get(key)}
    if unmanaged != "keep":
        known = {service: master.get(service) for service in services or {}}
        there = {key: value for key, value in {**main, **left}.items() if value is not None}
        strange, strange_services = _unmanaged(there, bare, wanted, {**known, **new_services})
        if unmanaged == "remove":
            new_parameters.update(dict.fromkeys(strange))
            new_services.update(dict.fromkeys(strange_services))
        elif strange or strange_services:
            found = strange + [f"{service} in master.cf" for service in strange_services]
            notes.append("Not managed: " + ", ".join(found))
    for file_name, broken in zip(FILES, (broken_main, broken_master)):
        for reason, text, indexes in broken:
            label = f"{file_name} line {indexes[0] + 1}"
            changes[label] = {"old": text.strip(BLANKS), "new": None}
            notes.append(f"{label} stops Postfix and becomes a comment: {reason}")
    changes.update({key: {"old": main.get(key), "new": text} for key, text in new_parameters.items()})
    for service, entry in new_services.items():
        changes[f"master.cf {service}"] = _difference(master.get(service), entry)
    made = {key: value for key, value in _made(name).items() if key in lent}
    for key in revert or []:
        if key in {**new_parameters, **new_services}:
            lent.setdefault(key, master.get(key) if "/" in key else main.get(key))
            made[key] = new_services[key] if "/" in key else new_parameters[key]
    return {
        "texts": texts,
        "base": {
            "main.cf": _mended(texts["main.cf"] or "", broken_main, _superseded(settings, new_parameters)),
            "master.cf": _mended(master_text, broken_master, _superseded(entries, new_services)),
        },
        "broken": bool(broken_main or texts["main.cf"] is None),
        "parameters": new_parameters,
        "services": new_services,
        "changes": changes,
        "activate": {"postfix": _activation(main, new_parameters)} if changes else {},
        "notes": notes,
        "record": None if revert is None else lent,
        "made": made,
    }


def _lent(name, revert, present):
    """
    What was before of the parameters, and of the services, that are lent no longer; and of what still is.

    Last, the names of those that are not as they were made: they are somebody else's now.
    """
    record, made = _record(name)[1] if revert is not None else {}, _made(name)
    no_longer = [key for key in record if key not in revert]
    theirs = [
        key
        for key in no_longer
        if key in made
        and present.get(key) != made[key]
        and ("/" in key or not _same(key, present.get(key), made[key]))
    ]
    back = {key: record[key] for key in no_longer if key not in theirs}
    parameters = {key: before for key, before in back.items() if "/" not in key}
    services = {key: before for key, before in back.items() if "/" in key}
    return parameters, services, {key: before for key, before in record.items() if key in revert}, theirs


def _made(name):
    """What the last apply that changed them made of the parameters and services that are lent."""
    return _record(name)[0].get(MADE, {}).get(name, {})


def _unknown(config_directory, names):
    """Those of the names of parameters that this Postfix does not know; none of them where it is not installed."""
    if not names or not _installed():
        return []
    output = _run("postconf", "-c", config_directory, "-d")[1]
    known = {line.partition(" ")[0] for line in output.splitlines()}
    return [name for name in names if name not in known] if known else []


def _activation(main, changed):
    """``restart`` when master(8) would not take a change up by a reload."""
    if AT_START & set(changed):
        return "restart"
    new = {name: value for name, value in {**main, **changed}.items() if value is not None}
    for name, default in LISTENING.items():
        before, after = (_expand(values.get(name, default), values) for values in (main, new))
        if _items(before) != _items(after):
            return "restart"
    return "reload"


def _staged(name, prepared):
    """Build the new files in a private copy and check them: ``{"texts": …, "errors": […], "notes": […]}``."""
    memory = __context__.setdefault("postconf.staged", {})
    key = (name, *prepared["texts"].values(), repr(prepared["parameters"]), repr(prepared["services"]))
    if memory.get("key") == key:
        return memory["result"]
    parameters, services, base = prepared["parameters"], prepared["services"], prepared["base"]
    # `postfix check` creates missing directories, and its postlog(1) reads the main.cf that is in force, too.
    thorough = not prepared["broken"] and not {"queue_directory", "data_directory"} & set(parameters)
    with _stage(name, *base.values()) as stage:
        settings = [f"{key}={value}" for key, value in parameters.items() if value is not None]
        gone = [key for key, value in parameters.items() if value is None]
        if settings:
            _edit(stage, "-e", *settings)
        if gone:
            _edit(stage, "-X", *gone)
        _edit_services(stage, services)
        _age(stage)
        texts = _read_both(stage)
        messages = _complaints(stage, name, thorough)
    before = []
    if messages:
        with _stage(name, *base.values()) as stage:
            before = _complaints(stage, name, thorough)
    errors, notes = _introduced(name, prepared, messages, before)
    written = _parameters(texts["main.cf"])
    refused, missing = _table_problems(prepared, written)
    refused += _missing_programs(services, written) + _unfit_for_master(parameters)
    refused += _unusable_addresses(name, prepared, texts) + _missing_services(prepared, texts)
    refused += _missing_directories(parameters)
    for parameter, value in parameters.items():
        if not _same(parameter, written.get(parameter), value):
            errors.append(f"{parameter}: postconf wrote {written.get(parameter)!r} instead of {value!r}")
    written = _services(texts["master.cf"])
    for service, entry in services.items():
        if written.get(service) != entry:
            wrote = _difference(entry, written.get(service))
            errors.append(f"{service}: postconf wrote {wrote['new']!r} instead of {wrote['old']!r}")
    errors += refused
    # What is only not there, or does not answer, an earlier state of the same test run may be going to mend.
    if not errors and not missing:
        missing = _rehearsed(name, prepared, texts)
    result = {"texts": texts, "errors": errors, "missing": missing, "notes": notes}
    memory.update(key=key, result=result)
    return result


def _introduced(name, prepared, messages, before):
    """Tell the errors that a change brings from what was there before it."""
    hidden = any("fatal" in text for text in before)  # a fatal error hides what else was wrong
    named = {*prepared["parameters"], *(key.split()[-1] for key in prepared["changes"])}
    for entry in filter(None, prepared["services"].values()):
        named.update(entry["overrides"])
    named.update(value for value in prepared["parameters"].values() if value)
    errors, notes = [], []
    for text in messages:
        if text in before or (hidden and "fatal" not in text and not _mentions(text, named)):
            notes.append(f"It was so before: {text}")
        elif re.search(SERIOUS, text):
            errors.append(text + _blamed(name, prepared, text))
        else:
            notes.append(text)
    return errors, notes


def _mentions(text, words):
    return any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) for word in words)


def _blamed(name, prepared, message):
    """`` (by name = value)`` for the changed parameters that give the message each by itself."""
    settings = {key: value for key, value in prepared["parameters"].items() if value is not None}
    if _mentions(message, settings):
        return ""
    guilty = []
    for parameter, value in settings.items():
        main = _appended(prepared["base"]["main.cf"], {parameter: value})
        with _stage(name, main, prepared["base"]["master.cf"]) as stage:
            if message in _complaints(stage, name, thorough=False):
                guilty.append(f"{parameter} = {value}")
    if not guilty:
        guilty = list(prepared["changes"])
    return f" (by {', '.join(guilty)})"


def _table_problems(prepared, parameters):
    """
    Look at the tables and PEM files that changed values name.

    Returns what Postfix cannot use at all, and what is only not there.
    """
    values = [(key, value) for key, value in prepared["parameters"].items() if value]
    for service, entry in prepared["services"].items():
        values += [(f"{service} {key}", value) for key, value in (entry or {}).get("overrides", {}).items()]
    types, refused, missing = None, [], []
    for label, value in values:
        key = label.split()[-1]
        value = _expand(value, parameters)
        for kind, path in _tables(key, value):
            if types is None:
                types = _run("postconf", "-m")[1].split()
            if kind not in types:
                # A plugin's package may be one that an earlier state brings.
                known = kind in TABLE_FILES or kind in TABLE_TEXTS
                (missing if known else refused).append(
                    f"{label}: this Postfix has no table type {kind!r}; it has {', '.join(types)}"
                )
                continue
            if kind in TABLE_FILES:
                # Daemons run in the queue directory, and that is where they look for a relative path.
                path = os.path.join(parameters.get("queue_directory", QUEUE), path) + TABLE_FILES[kind]
            if (kind in TABLE_FILES or kind in TABLE_TEXTS) and not _is_there(path):
                missing.append(f"{label}: {path} is not there")
        if re.match(PEM_FILES, key):
            missing += [f"{label}: {path} is not there" for path in _items(value) if not _is_there(path)]
    return refused, missing


def _unfit_for_master(parameters):
    """Numbers that master(8) would not read."""
    return [
        f"{name}: {parameters[name]!r} is not what master(8) can read"
        for name, pattern in MASTERS.items()
        if parameters.get(name) and not re.fullmatch(pattern, parameters[name])
    ]


def _missing_directories(parameters):
    """Directories that Postfix does not make itself."""
    return [
        f"{name}: there is no directory {parameters[name]}"
        for name in ("queue_directory", "daemon_directory", "command_directory")
        if parameters.get(name) and not os.path.isdir(parameters[name])
    ]


def _missing_services(prepared, texts):
    """Transports without a service, with which mail would wait for ever; and a server without a listener."""
    main, services = _parameters(texts["main.cf"]), _services(texts["master.cf"])
    found = []
    for name, value in prepared["parameters"].items():
        transport = _expand(value or "", main).partition(":")[0]
        if (
            re.match(TRANSPORTS, name)
            and transport
            and "$" not in transport
            and f"{transport}/unix" not in services
        ):
            found.append(f"{name}: master.cf has no service {transport}/unix")
    listeners = {"smtpd", "postscreen"}
    before = _services(prepared["texts"]["master.cf"] or "")
    gone = [name for name, entry in before.items() if name not in services and entry["command"] in listeners]
    if gone and not any(entry["command"] in listeners for entry in services.values()):
        found.append(f"{', '.join(gone)}: no SMTP listener would be left")
    return found


def _doors(name, texts):
    """``{(host, port): label}`` of what master(8) would bind, before names are resolved."""
    main = {**_defaults(name), **_parameters(texts["main.cf"] or "")}
    protocols = set(_items(_expand(main["inet_protocols"], main)))
    everywhere = ["0.0.0.0"] * bool({"all", "ipv4"} & protocols) + ["::"] * bool({"all", "ipv6"} & protocols)
    found = {}
    for service in _services(texts["master.cf"] or ""):
        address, _, kind = service.rpartition("/")
        if kind != "inet":
            continue
        host, _, port = address.rpartition(":")
        label = service if host else f"inet_interfaces, {service}"
        hosts = [host.strip("[]")] if host else _items(_expand(main["inet_interfaces"], main))
        for one in hosts:
            for place in everywhere if one == "all" else [one.strip("[]")]:
                if place != "loopback-only" and "$" not in place:
                    found[place, port] = label
    return found


def _unusable_addresses(name, prepared, texts):
    """Addresses and ports that master(8) could not bind, and would die of."""
    before = _doors(name, prepared["texts"])
    # A port that Postfix has now is free for it, whatever the address.
    services = _services(prepared["base"]["master.cf"])
    ours = {service.rpartition("/")[0].rpartition(":")[2] for service in services if service.endswith("/inet")}
    found = []
    for (host, port), label in _doors(name, texts).items():
        if (host, port) not in before:
            reason = _why_not_bound(host, port, port in ours)
            if reason:
                found.append(f"{label}: cannot listen at {host} port {port}: {reason}")
    return found


def _why_not_bound(host, port, may_be_in_use):
    try:
        number = int(port) if port.isdigit() else socket.getservbyname(port, "tcp")
        resolved = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, OverflowError) as err:
        return str(err.args[-1])
    for family, kind, protocol, _, address in resolved:
        try:
            with socket.socket(family, kind, protocol) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind(address)
                sock.listen()
        except OSError as err:
            no_such_family = err.errno == errno.EAFNOSUPPORT
            if not no_such_family and not (may_be_in_use and err.errno == errno.EADDRINUSE):
                return err.strerror
    return None


def _rehearsed(name, prepared, texts):
    """What Postfix's daemons cannot do with the new files and could do with the old ones, and by whose fault."""
    found = _rehearsal(name, prepared, texts)
    if not found:
        return []
    with _stage(name, *prepared["base"].values()) as stage:
        fatal = any("fatal" in text for text in _complaints(stage, name, thorough=False))
    # A daemon may die of such an old file without a word.
    before = None if fatal else _rehearsal(name, prepared, prepared["base"], {key for key, _ in found})
    if before is None:
        # Nobody can tell what is new. The running server will, and what mends the old files is not refused.
        return []
    known = {service for service, _ in before}
    result = []
    for service, text in found:
        if service not in known:
            culprits = _culprits(name, prepared, service, text)
            result.append(f"{service} would not work: {text} (by {', '.join(culprits)})")
    return list(dict.fromkeys(result))


def _rehearsal(name, prepared, texts, only=None):
    """:func:`mta_rehearsal.problems` of two files, of all their services or of some; ``None``: not to be tried."""
    services = _services(texts["master.cf"])
    with _stage(name, texts["main.cf"], texts["master.cf"]) as stage:
        # Where cyrus_sasl_config_path is empty, Debian's smtpd(8) looks for smtpd.conf beside its main.cf.
        for entry in set(os.listdir(name)) - set(os.listdir(stage)):
            os.symlink(os.path.join(name, entry), os.path.join(stage, entry))
        asked = ("daemon_directory", "queue_directory")
        values = _run("postconf", "-c", stage, "-x", "-h", *asked)[1].splitlines()
        if len(values) != len(asked) or not os.path.isdir(values[0]):
            return None
        return __salt__["mta_rehearsal.problems"](
            stage,
            {"config_directory": name, **dict(zip(asked, values))},
            {key: entry for key, entry in services.items() if only is None or key in only},
            _listeners(name, texts),
            converse=not AT_START & set(prepared["parameters"])
            and not _needs_proxymap(prepared)
            and _runs(values[1]),
            envelope=_understood_by_others(prepared),
        )


def _runs(queue):
    """Whether master(8) runs: someone answers at a socket of its own."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(1)
        try:
            sock.connect(os.path.join(queue, "private", "rewrite"))
        except OSError:
            return False
    return True


def _understood_by_others(prepared):
    """
    Whether smtpd(8) alone can know what to answer, with all other daemons still under the old configuration.

    It cannot when the change brings a service that it may have to ask.
    """
    return all(entry and entry["command"] in ("smtpd", "postscreen") for entry in prepared["services"].values())


def _needs_proxymap(prepared):
    """
    Whether a change brings a table that proxymap(8) has to allow.

    The one that runs knows only the old configuration, and who asks it for such a table dies of the answer.
    """
    values = [value for value in prepared["parameters"].values() if value]
    for entry in filter(None, prepared["services"].values()):
        values += entry["overrides"].values()
    return any("proxy:" in value for value in values)


def _culprits(name, prepared, service, text):
    """The changes of which each by itself keeps a service from working; all of them when none does."""
    changes = [{"parameters": {key: value}, "services": {}} for key, value in prepared["parameters"].items()]
    changes += [{"parameters": {}, "services": {key: entry}} for key, entry in prepared["services"].items()]
    labels = [_label(change, text) for change in changes]
    named = [label for change, label in zip(changes, labels) if _mentions(text, change["parameters"])]
    if len(changes) > 1 and not named:
        named = [
            label
            for change, label in zip(changes, labels)
            if _mentions(text, _telling(change["parameters"])) or _breaks(name, prepared, change, service)
        ]
    return named or labels


def _telling(parameters):
    """The values that are not in any text, as "no" or "1" is."""
    return [value for value in parameters.values() if value and len(value) > 3]


def _label(change, text):
    """What to call a change: a service with those of its overrides that ``text`` mentions."""
    label = " ".join([*change["parameters"], *change["services"]])
    for entry in filter(None, change["services"].values()):
        for key, value in entry["overrides"].items():
            if _mentions(text, [key, *_telling({key: value})]):
                label += f" -o {key}={value}"
    return label


def _breaks(name, prepared, change, service):
    base = prepared["base"]
    with _stage(name, *base.values()) as stage:
        main = _mended(base["main.cf"], [], _assigned(base["main.cf"], change["parameters"]))
        main = _appended(main, change["parameters"])
        with open(os.path.join(stage, "main.cf"), "wb") as handle:
            handle.write(main.encode("utf-8", "surrogateescape"))
        _edit_services(stage, change["services"])
        texts = _read_both(stage)
    return bool(_rehearsal(name, {**prepared, **change}, texts, {service}))


def _assigned(main, names):
    """The lines of main.cf that set one of ``names``."""
    return [indexes for name, _, indexes in _parse_main(main)[0] if name in names]


def _missing_programs(services, parameters):
    """What changed master.cf entries would run and cannot."""
    commands = {service: entry["command"] for service, entry in services.items() if entry}
    if not commands:
        return []
    directory = parameters.get("daemon_directory") or _run("postconf", "-d", "-h", "daemon_directory")[1].strip()
    paths = {service: os.path.join(directory, command) for service, command in commands.items()}
    return [f"{service}: there is no program {path}" for service, path in paths.items() if not _is_there(path)]


def _is_there(path):
    # A table or PEM file may be named by something else than a path, or refer to what is not known here.
    return not path.startswith("/") or "$" in path or os.path.exists(path)


def _tables(key, value):
    """``[(type, path)]`` of the lookup tables that a value names."""
    found = []
    previous = ""
    for item in _items(value):
        table = re.match(TABLES, key) or re.match(r"check_\w+_access\Z", previous)
        previous = item
        match = re.match(r"(?:proxy:)?([a-z][a-z0-9]*):(?=[^:\s])(.*)", item)
        if table and match and not item.startswith("${"):
            found.append((match[1], match[2]))
    return found


# -- the public functions ----------------------------------------------------------------------


def show(config_directory=CONFIG_DIRECTORY):
    """
    Return the parameters that main.cf sets, ``{name: value}``, read in process by the rules of postconf(5).

    config_directory
        Path, ``/etc/postfix``.

    Continuation lines are joined, the last of several settings of a name counts, ``$name`` is not expanded.
    Raises ``CommandExecutionError`` when there is no main.cf, and for a line that cannot be parsed, by its
    number.

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.show
    """
    path = os.path.join(config_directory, "main.cf")
    entries, broken = _parse_main(_present(path))
    _refuse_broken(path, broken)
    return {name: value for name, value, _ in entries}


def _present(path):
    text = _read(path)
    if text is None:
        raise CommandExecutionError(f"There is no {path}")
    return text


def _refuse_broken(path, broken):
    if broken:
        reason, text, indexes = broken[0]
        raise CommandExecutionError(f"{path}, line {indexes[0] + 1}: {reason}: {text.strip(BLANKS)!r}")


def get(parameter, config_directory=CONFIG_DIRECTORY):
    """
    Return the value of a parameter: the one in main.cf, else Postfix's default; ``None`` when it has neither.

    parameter
        Name.

    config_directory
        Path, ``/etc/postfix``.

    ``$name`` in it is not expanded. Raises ``CommandExecutionError`` as :func:`show` does, and when the
    default is needed and Postfix is not installed.

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.get smtpd_banner
    """
    present = show(config_directory)
    if parameter in present:
        return present[parameter]
    code, output, errors = _run("postconf", "-c", config_directory, "-d", "-h", parameter)
    if "unknown parameter" in errors:
        return None
    if code:
        raise CommandExecutionError(f"postconf cannot tell {parameter}: {errors.strip()}")
    return output.rstrip("\n")


def naming(paths, config_directory=CONFIG_DIRECTORY):
    """
    Tell which files main.cf and master.cf name, as they will be after what this run of states has announced.

    paths
        List of absolute paths.

    config_directory
        Path, ``/etc/postfix``.

    Returns ``{path: where}`` with those that are named, by themselves or through symbolic links. What cannot be
    parsed names nothing.

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.naming '[/etc/ssl/private/smtpd.key]'
    """
    values = {}
    with contextlib.suppress(CommandExecutionError):
        values.update(show(config_directory))
    with contextlib.suppress(CommandExecutionError):
        for service, entry in services(config_directory).items():
            values.update({f"master.cf {service} -o {key}": value for key, value in entry["overrides"].items()})
    for item, change in __salt__["mta_transaction.outlook"]()["members"].get("postconf", {}).items():
        if not isinstance(change, dict):
            continue
        new = change.get("new")
        if item.startswith("master.cf "):
            gone = {key for key in values if new is None and key.startswith(f"{item} -o ")}
            values = {key: value for key, value in values.items() if key not in gone}
            values.update({f"{item} {key}": value for key, value in (new or {}).items() if key.startswith("-o ")})
        else:
            values[item] = new
    named = {}
    for label, value in values.items():
        for word in re.findall(r"(?<![\w./-])/[^\s,{}()]+", value if isinstance(value, str) else ""):
            named.setdefault(os.path.realpath(word), []).append(label)
    real = {path: os.path.realpath(path) for path in paths}
    return {path: ", ".join(dict.fromkeys(named[real[path]])) for path in paths if real[path] in named}


def in_force(config_directory=CONFIG_DIRECTORY):
    """
    Return all parameters, ``{name: value}``: those of main.cf and Postfix's defaults, with ``$name`` expanded.

    config_directory
        Path, ``/etc/postfix``.

    One process, postconf(1). Raises ``CommandExecutionError`` when Postfix is not installed or cannot read it.

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.in_force
    """
    if not _installed():
        raise CommandExecutionError("Postfix is not installed: there is no postconf")
    code, output, errors = _run("postconf", "-c", config_directory, "-x")
    if code:
        raise CommandExecutionError(f"postconf cannot read {config_directory}: {errors.strip()}")
    return {name: value.strip() for name, _, value in (line.partition(" =") for line in output.splitlines())}


def set_(parameters, services=None, config_directory=CONFIG_DIRECTORY):
    """
    Set parameters, all by one process, and have a live SMTP conversation verify it; undone when that fails.

    parameters
        Dictionary of names to text, number, boolean (``yes``/``no``), list (joined by commas) or ``None``
        (out).

    services
        Dictionary of master.cf entries as for ``postconf.managed``; none by default.

    config_directory
        Path, ``/etc/postfix``.

    Returns the changes, ``{name: {"old": …, "new": …}}``. Raises ``CommandExecutionError`` when Postfix does
    not work with them; nothing is changed then.

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.set parameters='{"home_mailbox": "Maildir/", "biff": false}'
    """
    args = {"name": config_directory, "parameters": parameters, "services": services}
    outcome = __salt__["mta_transaction.member"](
        config_directory, "postconf", args, subject="Postfix's configuration"
    )
    if not outcome["result"]:
        raise CommandExecutionError(outcome["comment"])
    return outcome["changes"]


def reset(parameters, config_directory=CONFIG_DIRECTORY):
    """
    Take parameters out of main.cf, so that their defaults hold; otherwise as :func:`set_`.

    parameters
        List of names, or one name.

    config_directory
        Path, ``/etc/postfix``.

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.reset '[biff, relayhost]'
    """
    names = [parameters] if isinstance(parameters, str) else parameters
    return set_(dict.fromkeys(names), config_directory=config_directory)


def services(config_directory=CONFIG_DIRECTORY):
    """
    Return the entries of master.cf, read in process by the rules of master(5).

    config_directory
        Path, ``/etc/postfix``.

    Returns ``{"smtp/inet": {"private": "n", "unprivileged": "-", "chroot": "y", "wakeup": "-",
    "process_limit": "-", "command": "smtpd", "overrides": {parameter: value}, "arguments": [word]}}``. Raises
    ``CommandExecutionError`` when there is no master.cf, and for an entry that master(8) would refuse, by its
    line number.

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.services
    """
    path = os.path.join(config_directory, "master.cf")
    entries, broken = _parse_master(_present(path))
    _refuse_broken(path, broken)
    return {service: entry for service, entry, _ in entries}


def differences(config_directory=CONFIG_DIRECTORY):
    """
    Return in what main.cf and master.cf differ from the package's own, as pillar and ``postconf.managed`` take it.

    config_directory
        Path, ``/etc/postfix``.

    Returns ``{"parameters": …, "services": …, "left_out": {name: why}}``. What stands in the package's files with
    another value or not at all is there with this host's value; what only they have is ``None``. Left out is
    what ``postconf.managed`` could not be told. Reads files; starts no process. Raises
    ``CommandExecutionError`` as :func:`show` and :func:`services` do.

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.differences
    """
    main, master = show(config_directory), services(config_directory)
    package_main, package_master = _package_settings()
    parameters = {name: _described(name, value) for name, value in main.items() if value != package_main.get(name)}
    parameters.update({name: None for name in package_main if name not in main})
    entries = {
        service: _described_service(service, entry, package_master.get(service))
        for service, entry in master.items()
        if entry != package_master.get(service)
    }
    entries.update({service: None for service in package_master if service not in master})
    left_out = {}
    for found, one in (
        (parameters, lambda key, value: ({key: value}, None)),
        (entries, lambda key, value: (None, {key: value})),
    ):
        for key, value in list(found.items()):
            try:
                differs = _prepare(config_directory, *one(key, value), "keep", None)["changes"]
                why = "it is not the same when written anew" if differs else None
            except SaltInvocationError as err:
                why = str(err)
            if why:
                left_out[key] = why
                del found[key]
    return {"parameters": parameters, "services": entries, "left_out": left_out}


def export(config_directory=CONFIG_DIRECTORY, probe=True):
    """
    Return the pillar that describes the mail server of this host, as the text of an SLS file.

    config_directory
        Path, ``/etc/postfix``.

    probe
        Whether to hold the conversation of an apply with the running server. It leaves no mail behind. Where this
        server does not pass it, it is switched off in the pillar. Default ``True``.

    Applying that pillar changes nothing: it has ``profile: none``, in what main.cf and master.cf differ from the
    package's own, the aliases, and saslauthd where it is set up as this formula does it. Certificates and the
    firewall are left alone. Secrets, and what pillar cannot hold, are left out and named in its comments. Raises
    ``CommandExecutionError`` when main.cf or master.cf cannot be read, by the line.

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.export
    """
    return __salt__["mta_migration.host"](config_directory, probe)


def check(config_directory=CONFIG_DIRECTORY):
    """
    Return what Postfix has to say against its configuration, a list of texts; empty when it is content.

    config_directory
        Path, ``/etc/postfix``.

    Asks ``postconf -n``, ``postconf -M``, ``postmap`` and ``postfix check``. They do not see everything: a
    bad network in ``mynetworks`` shows only in a conversation, see ``mta_probe.check``.

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.check
    """
    return _complaints(config_directory, config_directory, thorough=True)


def listeners(config_directory=CONFIG_DIRECTORY):
    """
    Return what smtpd(8) and postscreen(8) listen on, and what a client may expect there; read in process.

    config_directory
        Path, ``/etc/postfix``.

    Each is a dictionary: ``service`` (``smtp/inet``), ``host``, ``port``, ``wrappermode``, ``starttls``,
    ``auth``, ``auth_before_tls`` (booleans), ``certificate``, ``key`` (paths or ``None``), ``certificates``,
    ``keys`` (lists of paths: there may be one pair per type of key, or several chain files), ``sasl_type``,
    ``hostname``. Empty without configuration.

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.listeners
    """
    return _listeners(config_directory, _read_both(config_directory))


def ports(config_directory=CONFIG_DIRECTORY):
    """
    Return the TCP ports on which smtpd(8) and postscreen(8) serve other hosts; read in process.

    config_directory
        Path, ``/etc/postfix``.

    Ports that are bound to the loopback interface only are left out. Where :func:`plan` has announced, in the same
    run, changes that have not been made, it is what there will be after them. Empty without configuration.

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.ports
    """
    texts = _read_both(config_directory)
    announced = __context__.get("postconf.announced", {})
    if announced.get("key") == (config_directory, texts):
        return _announced_ports(config_directory, announced["prepared"])
    return _ports(config_directory, _parameters(texts["main.cf"] or ""), _services(texts["master.cf"] or ""))


def _announced_ports(config_directory, prepared):
    """What :func:`ports` will return after the changes."""
    # Every package's master.cf has this one.
    return _ports(config_directory, *_after(prepared, {"smtp/inet": {"command": "smtpd", "overrides": {}}}))


def _after(prepared, otherwise=None):
    """Parameters and services as they are after the changes; ``otherwise``: services where there were none."""
    main = {**_parameters(prepared["base"]["main.cf"]), **prepared["parameters"]}
    master = {**(_services(prepared["base"]["master.cf"]) or otherwise or {}), **prepared["services"]}
    return [{name: value for name, value in items.items() if value is not None} for items in (main, master)]


def _let_go(config_directory, prepared, services):
    """
    The listeners that the changes take out on request: by ``null``, by what is asked for no longer, by
    ``unmanaged: remove`` or ``master_service_disable``.

    One to which ``services`` gives another program is not meant to go.
    """
    texts = prepared["texts"]
    before = _parameters(texts["main.cf"] or ""), _services(texts["master.cf"] or "")
    there, left = (
        {service for _, service, _ in _inet(config_directory, *given)[1]} for given in (before, _after(prepared))
    )
    asked = {service: (fields or {}).get("command", "smtpd") for service, fields in (services or {}).items()}
    return sorted(service for service in there - left if asked.get(service, "smtpd") in SERVERS)


def _ports(config_directory, parameters, services):
    main, entries = _inet(config_directory, parameters, services)
    found = set()
    for name, _service, _entry in entries:
        addresses, _, port = name.rpartition(":")
        hosts = [addresses] if addresses else _items(_expand(main["inet_interfaces"], main))
        if not all(re.fullmatch(LOOPBACK, host) for host in hosts):
            found.add(_port(port))
    return sorted(found - {None})


def _inet(config_directory, parameters, services):
    """Return all parameters, and the entries of master.cf that listen: ``(name, service, entry)``."""
    main = {**_defaults(config_directory), **parameters}
    main.setdefault("mydomain", _expand(main["myhostname"], main).partition(".")[2] or "localdomain")
    disabled = _items(_expand(main.get("master_service_disable", ""), main))
    found = []
    for service, entry in services.items():
        name, _, kind = service.rpartition("/")
        listens = kind == "inet" and entry["command"] in SERVERS
        if listens and not {"inet", service, f"{name}.inet"} & set(disabled):
            found.append((name, service, entry))
    return main, found


def _listeners(config_directory, texts):
    parameters, services = _parameters(texts["main.cf"] or ""), _services(texts["master.cf"] or "")
    main, entries = _inet(config_directory, parameters, services)
    found = []
    for name, service, entry in entries:
        own = {**main, **entry["overrides"]}
        facts = _promises(own, "postscreen" if entry["command"] == "postscreen" else "smtpd")
        addresses, _, port = name.rpartition(":")
        hosts = [addresses.strip("[]")] if addresses else _addresses(main)
        found += [{"service": service, "host": host, "port": _port(port), **facts} for host in hosts]
    return found


def _defaults(config_directory):
    """Defaults of those parameters that :func:`listeners` looks at, or that are often referred to."""
    host = socket.gethostname()
    return {
        "config_directory": config_directory,
        "data_directory": "/var/lib/postfix",
        "mail_name": "Postfix",
        "myhostname": host if "." in host else f"{host}.localdomain",
        "queue_directory": QUEUE,
        "smtpd_sasl_type": "cyrus",
        "smtpd_tls_key_file": "$smtpd_tls_cert_file",
        "smtpd_tls_eckey_file": "$smtpd_tls_eccert_file",
        "postscreen_tls_security_level": "$smtpd_tls_security_level",
        "postscreen_use_tls": "$smtpd_use_tls",
        "postscreen_enforce_tls": "$smtpd_enforce_tls",
        "smtpd_tls_cert_file": "",
        "smtpd_tls_eccert_file": "",
        "smtpd_tls_security_level": "",
        "smtpd_use_tls": "no",
        "smtpd_enforce_tls": "no",
        **LISTENING,
    }


def _promises(parameters, daemon):
    """What a listener offers by its parameters, postconf(5)."""

    def value(name):
        return _expand(parameters.get(name, ""), parameters)

    def enabled(name):
        return value(name).lower() == "yes"

    level = value(f"{daemon}_tls_security_level")
    wrapped = daemon == "smtpd" and enabled("smtpd_tls_wrappermode")
    enforced = level == "encrypt" or (not level and enabled(f"{daemon}_enforce_tls"))
    offered = enforced or level == "may" or (not level and enabled(f"{daemon}_use_tls"))
    # postscreen(8) has no AUTH of its own; it hands known clients on.
    auth = daemon == "smtpd" and enabled("smtpd_sasl_auth_enable")
    # With chain files Postfix ignores the others.
    pairs = [(path, path) for path in _items(value("smtpd_tls_chain_files"))] or [
        (value(f"smtpd_tls_{kind}cert_file"), value(f"smtpd_tls_{kind}key_file")) for kind in ("", "ec")
    ]
    pairs = [pair for pair in pairs if pair[0] not in ("", "none")]
    certificate, key = pairs[0] if pairs else (None, None)
    return {
        "wrappermode": wrapped,
        "starttls": offered and not wrapped,
        "auth": auth,
        "auth_before_tls": auth and not wrapped and not enforced and not enabled("smtpd_tls_auth_only"),
        "certificate": certificate,
        "key": key,
        "certificates": [path for path, _ in pairs],
        "keys": [path for _, path in pairs],
        "sasl_type": value("smtpd_sasl_type"),
        "hostname": value("myhostname"),
    }


def _addresses(parameters):
    """Where a service without an address of its own can be reached."""
    wanted = _items(_expand(parameters["inet_interfaces"], parameters))
    protocols = _items(_expand(parameters["inet_protocols"], parameters))
    loopback = "127.0.0.1" if {"all", "ipv4"} & set(protocols) else "::1"
    hosts = [loopback if host in ("all", "loopback-only") else host.strip("[]") for host in wanted]
    return list(dict.fromkeys(hosts))


def _port(name):
    if name.isdigit():
        return int(name)
    try:
        return socket.getservbyname(name, "tcp")
    except OSError:
        return PORTS.get(name)


def tables(parameter, config_directory=CONFIG_DIRECTORY):
    """
    Return the lookup tables that a parameter names, in order, as a list of ``type:path``.

    parameter
        Name of a parameter that holds tables, such as ``virtual_alias_maps``.

    config_directory
        Path, ``/etc/postfix``.

    References to other parameters are expanded. Raises ``CommandExecutionError`` as :func:`get` does.

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.tables virtual_alias_maps
    """
    main = {**_defaults(config_directory), **show(config_directory)}
    main.setdefault("default_database_type", __salt__["mta_map.default_type"]() or "")
    value = _expand(get(parameter, config_directory) or "", main)
    return [item for item in _items(value) if re.match(r"[a-z][a-z0-9]*:", item)]


def lookup(table, key, config_directory=CONFIG_DIRECTORY):
    """
    Look a key up in a table, or in the tables of a parameter; see :py:func:`mta_map.lookup`.

    table
        ``type:path``, or a parameter such as ``virtual_alias_maps``.

    key
        Text, one line.

    config_directory
        Path, ``/etc/postfix``.

    Returns the value, or ``None``.

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.lookup virtual_alias_maps info@example.com
    """
    return __salt__["mta_map.lookup"](table, key, config_directory)


def refused(parameters=None, services=None, config_directory=CONFIG_DIRECTORY):
    """
    Return what this Postfix would not know of new settings, before anything is changed.

    parameters, services
        Dictionaries as for ``postconf.managed``.

    config_directory
        Path, ``/etc/postfix``.

    Returns a list of ``{"parameter" or "service": name, "reason": text, "nearest": name or None}``.
    postconf(1) judges the merged configuration, so a name counts as known that is referred to as ``$name``,
    is a restriction class, or belongs to a service or a table. Without a process, and empty, when every name
    is in the files already, and when Postfix is not installed.

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.refused '{"smtpd_bannr": "hello"}'
    """
    texts = _read_both(config_directory)
    present = _parameters(texts["main.cf"] or "")
    present_services = _services(texts["master.cf"] or "")
    problems, wanted, wanted_services = [], {}, {}
    for name, value in (parameters or {}).items():
        try:
            wanted.update({name: _wanted_text(name, value)} if value is not None else {})
        except SaltInvocationError as err:
            problems.append({"parameter": name, "reason": str(err), "nearest": None})
    for name, fields in (services or {}).items():
        try:
            wanted_services.update(_wanted_services({name: fields}, present_services))
        except SaltInvocationError as err:
            problems.append({"service": name, "reason": str(err), "nearest": None})
    known = {*present, *(name for entry in present_services.values() for name in entry["overrides"])}
    names = {*wanted, *(name for entry in wanted_services.values() if entry for name in entry["overrides"])}
    if names <= known or not _installed():
        return problems
    main = _mended(texts["main.cf"] or "", _parse_main(texts["main.cf"] or "")[1], [])
    master = _mended(texts["master.cf"] or "", _parse_master(texts["master.cf"] or "")[1], [])
    with _stage(config_directory, _appended(main, wanted), master) as stage:
        _edit_services(stage, wanted_services)
        unknown = _unused(stage)
    if unknown:
        with _stage(config_directory, main, master) as stage:
            before = _unused(stage)
        unknown = [item for item in unknown if item not in before and item[1] in names]
    for file_name, name in unknown:
        near = _nearest(name, config_directory)
        reason = "this Postfix does not know this parameter, and nothing refers to it"
        if file_name == "main.cf":
            problems.append({"parameter": name, "reason": reason, "nearest": near})
            continue
        for service, entry in wanted_services.items():
            if name in (entry or {}).get("overrides", {}):
                problems.append({"service": service, "reason": f"-o {name}: {reason}", "nearest": near})
    return problems


def _unused(stage):
    """``[(file name, parameter)]`` that postconf(1) calls unused."""
    errors = _run("postconf", "-c", stage, "-n")[2]
    return list(dict.fromkeys(re.findall(r"(main\.cf|master\.cf): unused parameter: ([^=\n]+)=", errors)))


def _nearest(name, config_directory):
    import difflib

    output = _run("postconf", "-c", config_directory, "-d")[1]
    names = [line.partition(" ")[0] for line in output.splitlines()]
    return next(iter(difflib.get_close_matches(name, names, 1, 0.75)), None)


def plan(name=CONFIG_DIRECTORY, parameters=None, services=None, unmanaged="keep", revert=None):
    """
    Tell what :func:`apply` would change. Only when there is something, Postfix checks it on a private copy.

    name, parameters, services, unmanaged, revert
        As for the state ``postconf.managed``.

    Returns a dictionary: ``changes`` (``{name: {"old": …, "new": …}}``, services as ``master.cf smtp/inet``),
    ``activate`` (``{"postfix": "reload" or "restart"}``), ``comment`` (text or ``None``), ``errors`` (list of
    texts: what Postfix refuses of it). Raises ``SaltInvocationError`` for an argument that cannot be.

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.plan parameters='{"biff": false}'
    """
    prepared = _prepare(name, parameters, services, unmanaged, revert)
    result = {"changes": prepared["changes"], "activate": prepared["activate"], "errors": []}
    __context__["postconf.announced"] = {"key": (name, prepared["texts"]), "prepared": prepared}
    notes = list(prepared["notes"])
    if prepared["changes"] and _installed():
        # Only apply(), in the same run, may rely on what is found now.
        __context__.pop("postconf.staged", None)
        staged = _staged(name, prepared)
        result["errors"] = list(staged["errors"])
        notes += staged["notes"]
        # What earlier states have announced in test mode may be what is missing; apply() looks again.
        later = __salt__["mta_transaction.outlook"]()["changes"]
        (notes if later else result["errors"]).extend(staged["missing"])
    result["comment"] = "\n".join(notes) or None
    return result


def apply(name=CONFIG_DIRECTORY, parameters=None, services=None, unmanaged="keep", revert=None):
    """
    Make the changes that :func:`plan` tells, as a part of the transaction.

    For states: by itself it is refused.

    name, parameters, services, unmanaged, revert
        As for the state ``postconf.managed``.

    main.cf and master.cf are switched only if they are still what the new ones were made from; a file that
    was edited meanwhile is planned again. Raises ``CommandExecutionError`` when Postfix refuses the result,
    is not installed, or the files cannot be locked or written.
    """
    # What is made, or undone later, is announced no longer.
    __context__.pop("postconf.announced", None)
    if not _installed():
        raise CommandExecutionError("Postfix is not installed: there is no postconf")
    if not _prepare(name, parameters, services, unmanaged, revert)["changes"]:
        return
    __salt__["mta_transaction.begin"]()
    for _ in range(ATTEMPTS):
        prepared = _prepare(name, parameters, services, unmanaged, revert)
        if not prepared["changes"]:
            return
        staged = _staged(name, prepared)
        if staged["errors"] or staged["missing"]:
            raise CommandExecutionError("\n".join(staged["errors"] + staged["missing"]))
        # This takes the transaction's lock and looks at the server, before postconf(1) is kept waiting.
        __salt__["mta_transaction.need"](prepared["activate"], _let_go(name, prepared, services))
        with _edit_locks(name):
            if _read_both(name) == prepared["texts"]:
                _switch(name, prepared, staged["texts"])
                return
    raise CommandExecutionError(
        f"Someone keeps editing main.cf or master.cf in {name}; gave up after {ATTEMPTS} attempts"
    )


def _switch(name, prepared, texts):
    for file_name in FILES:
        if texts[file_name] != (prepared["texts"][file_name] or ""):
            contents = texts[file_name].encode("utf-8", "surrogateescape")
            __salt__["mta_transaction.write"](
                os.path.join(name, file_name), contents, activate=prepared["activate"]
            )
    whole, record = _record(name)
    if prepared["record"] is not None and (prepared["record"], prepared["made"]) != (record, _made(name)):
        made = {**whole.get(MADE, {}), name: prepared["made"]}
        text = json.dumps({**whole, name: prepared["record"], MADE: made}, indent=1)
        __salt__["mta_transaction.write"](__salt__["mta_state.path"](RECORD), text, mode="0600")
