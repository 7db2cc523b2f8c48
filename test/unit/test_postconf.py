"""main.cf and master.cf: read by Postfix's rules, compared, staged, and switched only if nobody edits."""

import fcntl
import os
import pathlib
import socket
import subprocess
import textwrap
import time

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_apply
import _mta_postfix_edit
import _mta_postfix_outlook
import _mta_postfix_view
import _mta_transaction

MAIN = """\
# See /usr/share/postfix/main.cf.dist for a commented, more complete version

smtpd_banner = $myhostname ESMTP $mail_name (Debian/GNU)
biff = no
myhostname = mail.example.com
mydestination = $myhostname, mail.example.com, localhost.example.com, , localhost
mynetworks = 127.0.0.0/8 [::ffff:127.0.0.0]/104 [::1]/128
inet_interfaces = all
inet_protocols = all
smtpd_tls_cert_file=/etc/ssl/certs/ssl-cert-snakeoil.pem
smtpd_tls_key_file=/etc/ssl/private/ssl-cert-snakeoil.key
smtpd_tls_security_level=may
"""
MASTER = """\
# ==========================================================================
# service type  private unpriv  chroot  wakeup  maxproc command + args
smtp      inet  n       -       y       -       -       smtpd
#submission inet n       -       y       -       -       smtpd
#  -o syslog_name=postfix/submission
pickup    unix  n       -       y       60      1       pickup
tlsmgr    unix  -       -       y       1000?   1       tlsmgr
relay     unix  -       -       y       -       -       smtp
        -o syslog_name=postfix/$service_name
#       -o smtp_helo_timeout=5 -o smtp_connect_timeout=5
postlog   unix-dgram n  -       n       -       1       postlogd
uucp      unix  -       n       n       -       -       pipe
  flags=Fqhu user=uucp argv=uux -r -n -z -a$sender - $nexthop!rmail ($recipient)
"""
# Stands in for postconf(1), postmap(1) and postfix(1), which the development machine does not have.
PROGRAM = """\
#!/bin/sh
echo "${0##*/} $*" >> "$LOG"
if [ "${0##*/} $3" = "postconf -X" ]; then
    file=$2/main.cf
    shift 3
    for name; do
        grep -v "^$name *=" "$file" > "$file.new"
        mv "$file.new" "$file"
    done
    exit
fi
[ "${0##*/} $3" = "postconf -e" ] || exec grep -h COMPLAIN "$2/main.cf" "$2/master.cf" >&2
file=$2/main.cf
shift 3
for setting; do
    name=${setting%%=*}
    { grep -v "^$name *=" "$file"; echo "$name = ${setting#*=}"; } > "$file.new"
    mv "$file.new" "$file"
done
"""


FUNCTIONS = ("show", "services", "listeners", "refused", "plan", "apply")


class Host:
    """A configuration directory and the functions over it."""

    def __init__(self, directory, modules):
        self.directory = directory
        self.modules = modules
        self.private = vars(_mta_postfix_edit)
        self.write(MAIN, MASTER)

    def write(self, main=None, master=None):
        for name, text in (("main.cf", main), ("master.cf", master)):
            if text is not None:
                (self.directory / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    def __getattr__(self, function):
        if function not in FUNCTIONS:
            raise AttributeError(function)
        run = self.modules[f"postconf.{function}"]
        if function in ("plan", "apply"):
            return lambda **args: run(name=str(self.directory), **args)
        return lambda *args: run(*args, config_directory=str(self.directory))

    def main(self):
        return (self.directory / "main.cf").read_text()

    def changes(self, parameters=None, services=None, **args):
        return self.plan(parameters=parameters, services=services, **args)["changes"]


@pytest.fixture
def host(tmp_path, modules):
    directory = tmp_path / "postfix"
    directory.mkdir()
    return Host(directory, modules)


@pytest.fixture
def private(host, modules, monkeypatch):
    """The module's private functions, with the ``__salt__`` that they lack when no loader calls them."""
    monkeypatch.setitem(host.private, "__salt__", modules)
    return host.private


@pytest.fixture
def log(tmp_path, monkeypatch):
    """Programs that stand in for Postfix's; gives a function for the commands run since its last."""
    programs, path = tmp_path / "bin", tmp_path / "log"
    programs.mkdir()
    for name in ("postconf", "postmap", "postfix"):
        (programs / name).write_text(PROGRAM)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("LOG", str(path))

    def commands():
        lines = path.read_text().splitlines() if path.exists() else []
        path.write_text("")
        return lines

    return commands


@pytest.fixture
def written(host, pretend):
    """The transaction's part: files are written at once; a list of what was needed and written."""
    calls = []

    def write(path, contents, activate=None):
        calls.append((os.path.basename(path), activate))
        with open(path, "wb") as handle:
            handle.write(contents)

    pretend("_mta_transaction.write", write)
    pretend("_mta_transaction.need", lambda activate, let_go: calls.append(("need", activate)))
    return calls


# -- reading -----------------------------------------------------------------------------------


def test_a_file_is_named_by_what_main_cf_and_master_cf_will_say(host, minion, context, tmp_path):
    link = tmp_path / "link"
    link.symlink_to("/etc/ssl/private/b.pem")
    host.write(
        f"smtpd_tls_chain_files = /etc/ssl/private/a.pem,\n  {link}\n"
        "virtual_alias_maps = hash:/etc/postfix/virtual\n",
        "465 inet n - n - - smtpd\n -o smtpd_tls_cert_file=/etc/ssl/certs/c.crt\n",
    )
    paths = [f"/etc/ssl/private/{name}.pem" for name in "abx"] + ["/etc/ssl/certs/c.crt", "/etc/postfix/virtual"]
    naming = {
        paths[0]: "smtpd_tls_chain_files",
        paths[1]: "smtpd_tls_chain_files",
        paths[3]: "master.cf 465/inet -o smtpd_tls_cert_file",
        paths[4]: "virtual_alias_maps",
    }
    assert _mta_postfix_outlook.naming(minion, paths, str(host.directory)) == naming
    announced = {
        "smtpd_tls_chain_files": {"old": "x", "new": None},
        "smtpd_tls_cert_file": {"old": None, "new": "/etc/ssl/private/x.pem"},
        "master.cf 465/inet": {"old": {}, "new": None},
        "activation": "reload",
    }
    _mta_transaction.outlook(minion)
    context["mta_transaction"]["changes"]["postconf"] = announced
    assert _mta_postfix_outlook.naming(minion, paths, str(host.directory)) == {
        paths[2]: "smtpd_tls_cert_file",
        paths[4]: "virtual_alias_maps",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=1\n", {"a": "1"}),
        ("a = 1   \t\n", {"a": "1"}),
        ("a = 1\r\nb = 2\r\n", {"a": "1", "b": "2"}),
        ("a =\n", {"a": ""}),
        ("a = 1", {"a": "1"}),
        ("a = b = c\n", {"a": "b = c"}),
        ("a = 1\na = 2\n", {"a": "2"}),
        ("a = 1,\n  2,\n\t3\n", {"a": "1,  2,\t3"}),
        ("a = 1,\n# comment\n  2\n\n  # indented comment\n   \n  3\nb = 4\n", {"a": "1,  2  3", "b": "4"}),
        ("a =\n  1\n", {"a": "1"}),
        ("  lost = 1\na = 2\n", {"a": "2"}),
        ("a = café\n", {"a": "café"}),
        ("a = {{ b = c }, { d }}\n", {"a": "{{ b = c }, { d }}"}),
        ("a = #1\n", {"a": "#1"}),
        ("my-transport_destination_recipient_limit = 1\n", {"my-transport_destination_recipient_limit": "1"}),
        ("a = x\u00a0y\u2028z\n", {"a": "x\u00a0y\u2028z"}),
    ],
)
def test_main_cf_is_read_as_postfix_reads_it(host, text, expected):
    host.write(text)
    assert host.show() == expected


@pytest.mark.parametrize(
    ("text", "line"),
    [("a = 1\nbad line\n", 2), ("\n\n= foo\n", 3), ("two words = 1\n", 1), ("a = 1\n\nbad\n  more\n", 3)],
)
def test_a_line_that_cannot_be_parsed_is_named_by_its_number(host, text, line):
    host.write(text)
    with pytest.raises(CommandExecutionError, match=f"main.cf, line {line}: missing"):
        host.show()


def test_a_configuration_that_is_not_there_is_an_error_only_for_who_wants_to_see_it(host):
    (host.directory / "main.cf").unlink()
    (host.directory / "master.cf").unlink()
    with pytest.raises(CommandExecutionError, match="There is no"):
        host.show()
    with pytest.raises(CommandExecutionError, match="There is no"):
        host.services()
    assert host.listeners() == []
    assert host.changes({"biff": False}) == {"biff": {"old": None, "new": "no"}}


def test_bytes_that_are_not_utf_8_survive_a_change(host, log, written):
    host.write(b"# gr\xfc\xdfe\na = \xff\xfe\n")
    host.apply(parameters={"b": "1"})
    assert (host.directory / "main.cf").read_bytes() == b"# gr\xfc\xdfe\na = \xff\xfe\nb = 1\n"


def test_master_cf_is_read_with_its_continuation_lines(host):
    found = host.services()
    assert list(found) == [
        "smtp/inet",
        "pickup/unix",
        "tlsmgr/unix",
        "relay/unix",
        "postlog/unix-dgram",
        "uucp/unix",
    ]
    assert found["tlsmgr/unix"]["wakeup"] == "1000?"
    assert found["relay/unix"]["overrides"] == {"syslog_name": "postfix/$service_name"}
    assert found["uucp/unix"]["arguments"][:3] == ["flags=Fqhu", "user=uucp", "argv=uux"]
    assert found["uucp/unix"]["overrides"] == {}


def test_comments_between_overrides_do_not_end_an_entry(host):
    host.write(
        master=textwrap.dedent("""\
            submission inet n - y - - smtpd
            # what clients see
              -o syslog_name=postfix/submission

              # who may send
              -o { smtpd_client_restrictions = permit_sasl_authenticated, reject }
              -osmtpd_sasl_auth_enable=yes
              -v
            127.0.0.1:10025 inet n - n - 10 smtpd
              -o smtpd_tls_security_level=none
            [::1]:10025 inet n - n - 10 smtpd
            """)
    )
    found = host.services()
    assert list(found) == ["submission/inet", "127.0.0.1:10025/inet", "[::1]:10025/inet"]
    assert found["submission/inet"]["overrides"] == {
        "syslog_name": "postfix/submission",
        "smtpd_client_restrictions": "permit_sasl_authenticated, reject",
        "smtpd_sasl_auth_enable": "yes",
    }
    assert found["submission/inet"]["arguments"] == ["-v"]


AMAVIS = """\
smtp      inet  n       -       y       -       -       smtpd\r
\t-o\tcontent_filter=smtp-amavis:[127.0.0.1]:10024  \t\r
        -o receive_override_options=no_address_mappings\r
smtp-amavis     unix    -       -       -       -       2       smtp\r
\t-o smtp_data_done_timeout=1200\r
# in the middle: größer\r
\r
   # indented\r
        -o { smtp_header_checks = \tpcre:/a\t b }\r
127.0.0.1:10025 inet    n       -       -       -       -       smtpd\r
        -o content_filter=\r
[::1]:smtp inet n - y - - smtpd -vo smtpd_delay_reject=no -D -osmtpd_banner=x\r
"""


def test_the_file_of_a_content_filter_with_carriage_returns_and_tabs_is_read(host):
    host.write(master=AMAVIS)
    found = host.services()
    assert found["smtp/inet"]["overrides"] == {
        "content_filter": "smtp-amavis:[127.0.0.1]:10024",
        "receive_override_options": "no_address_mappings",
    }
    assert found["smtp-amavis/unix"]["overrides"] == {
        "smtp_data_done_timeout": "1200",
        "smtp_header_checks": "pcre:/a b",
    }
    assert found["127.0.0.1:10025/inet"]["overrides"] == {"content_filter": ""}
    assert found["[::1]:smtp/inet"]["overrides"] == {"smtpd_delay_reject": "no", "smtpd_banner": "x"}
    assert found["[::1]:smtp/inet"]["arguments"] == ["-v", "-D"]


PIPES = """\
dovecot   unix  -       n       n       -       -       pipe
  flags=DRhu user=vmail:vmail argv=/usr/lib/dovecot/dovecot-lda -f ${sender} -d ${user}@${nexthop}
policyd-spf  unix  -       n       n       -       0       spawn
    user=policyd-spf argv=/usr/bin/policyd-spf
mailman   unix  -       n       n       -       -       pipe
  flags=FR user=list argv=/usr/lib/mailman/bin/postfix-to-mailman.py
  ${nexthop} ${user}
own unix - n n - - pipe user=x argv={ /opt/my own } { a  b } -o foo -f "${sender}" --
"""


def test_programs_that_mail_is_piped_into_are_described_as_they_are(host):
    host.write(master=PIPES)
    described = {
        service: {**entry, "arguments": " ".join(entry["arguments"])} for service, entry in host.services().items()
    }
    assert host.changes(services=described) == {}
    assert described["dovecot/unix"]["arguments"].endswith("-f ${sender} -d ${user}@${nexthop}")
    written = {"own/unix": {"arguments": 'user=x argv={ /opt/my own } { a  b } -o foo -f "${sender}" --'}}
    assert host.changes(services=written) == {}


def test_one_override_is_taken_out_by_null_and_the_others_stay(host):
    services = {"relay/unix": {"overrides": {"syslog_name": None, "smtp_bind_address": "192.0.2.1"}}}
    assert host.changes(services=services) == {
        "master.cf relay/unix": {
            "old": {"-o smtp_bind_address": None, "-o syslog_name": "postfix/$service_name"},
            "new": {"-o smtp_bind_address": "192.0.2.1", "-o syslog_name": None},
        }
    }


def test_the_same_service_at_several_addresses_is_several_entries(host):
    host.write(master=AMAVIS)
    changes = host.changes(services={"[::1]:smtp/inet": None, "127.0.0.1:smtp/inet": {"command": "smtpd"}})
    assert set(changes) == {"master.cf [::1]:smtp/inet", "master.cf 127.0.0.1:smtp/inet"}


@pytest.mark.parametrize(
    "entry",
    [
        "foo inet n - y - smtpd",
        "foo inex n - y - - smtpd",
        "foo unix x - y - - smtpd",
        "foo unix n - y soon - smtpd",
        "foo unix n - y - many smtpd",
    ],
)
def test_an_entry_that_stops_master_is_named_by_its_line(host, entry):
    host.write(master=f"{MASTER}{entry}\n")
    with pytest.raises(CommandExecutionError, match=r"master\.cf, line 14: (bad field count|invalid)"):
        host.services()


name_texts = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
value_texts = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=60).map(
    lambda text: text.strip(" ")
)
relaxed = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@relaxed
@given(
    st.dictionaries(name_texts, value_texts, max_size=8),
    st.sampled_from(["\n", "\r\n", "\n\n# x\n", "\n   \n"]),
)
def test_what_is_written_is_what_is_read(host, parameters, ending):
    text = "".join(f"{name} = {value}{ending}" for name, value in parameters.items())
    assert host.private["_parameters"](text) == parameters


@relaxed
@given(st.text(max_size=200))
@example("\x00=\n")
@example("=\n =\n\t{\n")
def test_no_text_at_all_breaks_the_parsers(host, text):
    entries, broken = host.private["_parse_main"](text)
    assert all(name and "=" not in name for name, _, _ in entries)
    services, refused = host.private["_parse_master"](text)
    lines = [index for item in entries + broken for index in item[2]]
    assert len(lines) == len(set(lines))
    mended = host.private["_mended"](text, broken, [])
    assert host.private["_parse_main"](mended) == (entries, [])
    assert host.private["_parse_master"](host.private["_mended"](text, refused, [])) == (services, [])


words = st.text(st.sampled_from("abc$/=._-"), min_size=1, max_size=8).filter(lambda word: word[0] not in "-{")


@relaxed
@given(
    st.dictionaries(name_texts, st.lists(words, max_size=3).map(" ".join), max_size=4),
    st.lists(words, max_size=4),
)
def test_an_entry_written_is_the_entry_read(host, overrides, arguments):
    entry = dict.fromkeys(host.private["FIELDS"], "-")
    entry.update(command="smtpd", overrides=overrides, arguments=arguments)
    text = host.private["_entry_text"]("127.0.0.1:10025/inet", entry)
    assert host.private["_services"](f"{text}\n") == {"127.0.0.1:10025/inet": entry}


# -- comparing ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "present", "wanted"),
    [
        ("biff", "no", False),
        ("mailbox_size_limit", "0", 0),
        ("relayhost", "", ""),
        ("relayhost", "", []),
        ("smtpd_banner", "$myhostname  ESMTP", "$myhostname  ESMTP"),
        ("smtpd_banner", "$myhostname ESMTP", "  $myhostname ESMTP "),
        ("mailbox_command", "/usr/bin/procmail\r\n\t-a x", "/usr/bin/procmail -a x"),
        ("mynetworks", "127.0.0.0/8,\n    [::1]/128", "127.0.0.0/8 [::1]/128"),
        ("mydestination", "$myhostname, a.example, , localhost", "$myhostname, a.example, localhost"),
        ("smtpd_recipient_restrictions", "permit_mynetworks,reject", ["permit_mynetworks", "reject"]),
        ("smtpd_recipient_restrictions", "permit_mynetworks reject", "permit_mynetworks,  reject"),
        ("smtpd_milters", "{ inet:a:1, timeout=5s }, unix:/b", "{ inet:a:1, timeout=5s } unix:/b"),
        ("my_own", "a  b", ["a", "b"]),
        ("not_there", None, None),
    ],
)
def test_what_means_the_same_is_no_change(host, name, present, wanted):
    host.write("" if present is None else f"{name} = {present}\n")
    assert host.changes({name: wanted}) == {}


@pytest.mark.parametrize(
    ("name", "present", "wanted"),
    [
        ("smtpd_banner", "$myhostname  ESMTP", "$myhostname ESMTP"),
        ("smtpd_banner", "a,b", "a, b"),
        ("mailbox_command", 'x "a  b"', 'x "a b"'),
        ("ldap_search_base", "ou=a b, dc=c", "ou=a, b, dc=c"),
        ("smtpd_recipient_restrictions", "reject, permit_mynetworks", "permit_mynetworks, reject"),
        ("smtpd_milters", "{ inet:a:1, timeout=5s }", "{ inet:a:1 }, timeout=5s"),
        ("relayhost", None, ""),
        ("relayhost", "", None),
        ("mynetworks", "127.0.0.0/8,\n# comment\n  10.0.0.0/8", "127.0.0.0/8"),
    ],
)
def test_what_means_something_else_is_a_change(host, name, present, wanted):
    host.write("" if present is None else f"{name} = {present}\n")
    assert list(host.changes({name: wanted})) == [name]


@pytest.mark.parametrize(
    "parameters",
    [
        {"smtpd_banner": "a\nb"},
        {"smtpd_banner": "a\x00b"},
        {"smtpd_banner": "a\x1bb"},
        {"two words": "x"},
        {"a=b": "x"},
        {"#a": "x"},
        {"a\n": "x"},
        {"": "x"},
        {7: "x"},
        {"a": {"b": "c"}},
        {"a": [["b"]]},
        {"a": ["b", None]},
        {"a": ["b\nc = d"]},
        {"compatibility_level": 3.10},
        ["a"],
    ],
)
def test_parameters_that_cannot_be_are_refused(host, parameters):
    with pytest.raises(SaltInvocationError):
        host.plan(parameters=parameters)


@pytest.mark.parametrize(
    "services",
    [
        {"smtp": {"command": "smtpd"}},
        {"smtp/tcp": {"command": "smtpd"}},
        {"a b/inet": {"command": "smtpd"}},
        {"new/inet": {}},
        {"smtp/inet": {"chrooot": "y"}},
        {"smtp/inet": {"chroot": "maybe"}},
        {"smtp/inet": {"process_limit": "many"}},
        {"smtp/inet": {"command": "smtpd -v"}},
        {"smtp/inet": {"overrides": {"a b": "c"}}},
        {"smtp/inet": {"overrides": {"a": "b\nc"}}},
        {"smtp/inet": {"overrides": ["a=b"]}},
        {"smtp/inet": {"arguments": ["two words"]}},
        {"smtp/inet": "smtpd"},
        ["smtp/inet"],
    ],
)
def test_services_that_cannot_be_are_refused(host, services):
    with pytest.raises(SaltInvocationError):
        host.plan(services=services)


def test_only_the_fields_of_a_service_that_are_named_change(host):
    services = {"smtp/inet": {"process_limit": 50, "chroot": True, "overrides": {"smtpd_banner": "hello  you"}}}
    assert host.changes(services=services) == {
        "master.cf smtp/inet": {
            "old": {"process_limit": "-", "-o smtpd_banner": None},
            "new": {"process_limit": "50", "-o smtpd_banner": "hello  you"},
        }
    }


def test_a_service_as_it_is_wanted_is_no_change(host):
    services = {
        "smtp/inet": {"command": "smtpd", "private": False, "chroot": "y"},
        "relay/unix": {"overrides": {"syslog_name": "postfix/$service_name", "never_there": None}},
        "uucp/unix": {
            "arguments": "flags=Fqhu user=uucp argv=uux -r -n -z -a$sender - $nexthop!rmail ($recipient)"
        },
        "submission/inet": None,
    }
    assert host.changes(services=services) == {}


def test_a_new_service_has_the_defaults_of_postfix(host):
    change = host.changes(services={"submission/inet": {"command": "smtpd"}})["master.cf submission/inet"]
    assert change["old"] is None
    assert change["new"] == {
        "private": "n",
        "unprivileged": "-",
        "chroot": "-",
        "wakeup": "-",
        "process_limit": "-",
        "command": "smtpd",
        "overrides": {},
        "arguments": [],
    }


# -- activation --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "action"),
    [
        ({"biff": True}, "reload"),
        ({"inet_interfaces": "loopback-only"}, "restart"),
        ({"inet_protocols": "ipv4"}, "restart"),
        ({"inet_interfaces": None}, "reload"),
        ({"queue_directory": "/srv/queue"}, "restart"),
        ({"myhostname": "mx.example.com"}, "reload"),
        ({"default_process_limit": 200}, "reload"),
    ],
)
def test_postfix_is_restarted_only_where_a_reload_would_not_do(host, parameters, action):
    assert host.plan(parameters=parameters)["activate"] == {"postfix": action}


def test_a_host_name_that_the_interfaces_refer_to_needs_a_restart(host):
    host.write(MAIN.replace("inet_interfaces = all", "inet_interfaces = $myhostname, localhost"))
    assert host.plan(parameters={"myhostname": "mx.example.com"})["activate"] == {"postfix": "restart"}


def test_master_cf_needs_no_restart(host):
    services = {"submission/inet": {"command": "smtpd"}, "smtp/inet": None}
    assert host.plan(services=services)["activate"] == {"postfix": "reload"}


# -- unmanaged ---------------------------------------------------------------------------------

STRANGE = "mail_spool_directory = /srv/mail\nadmin_nets = 10.0.0.0/8\nold_nets = 10.9.0.0/16\n"


def test_unmanaged_settings_are_kept_or_listed_or_removed(host):
    host.write(MAIN + STRANGE, f"{MASTER}extra unix - - y - - smtp\n")
    package = {"unmanaged": "keep", "parameters": {"smtpd_banner": "x", **dict.fromkeys(["biff"], False)}}
    assert list(host.changes(**package)) == ["smtpd_banner"]
    package["unmanaged"] = "warn"
    plan = host.plan(**package)
    assert list(plan["changes"]) == ["smtpd_banner"]
    assert "mail_spool_directory" in plan["comment"] and "extra/unix in master.cf" in plan["comment"]
    package["unmanaged"] = "remove"
    changes = host.changes(**package)
    assert changes["mail_spool_directory"] == {"old": "/srv/mail", "new": None}
    assert changes["master.cf extra/unix"]["new"] is None
    assert "myhostname" not in changes and "biff" not in changes


def test_what_a_kept_setting_refers_to_is_not_removed(host):
    host.write(f"{MAIN}{STRANGE}relay_domains = ${{a_list}}\na_list = $(old_nets)\n")
    parameters = {"mynetworks": "127.0.0.0/8 $admin_nets", "relay_domains": "${a_list}"}
    changes = host.changes(parameters, unmanaged="remove")
    assert "mail_spool_directory" in changes
    assert not {"admin_nets", "a_list", "old_nets"} & set(changes)


def test_restriction_classes_in_use_are_not_removed(host):
    host.write(f"{MAIN}smtpd_restriction_classes = strict\nstrict = reject\n")
    changes = host.changes({"smtpd_restriction_classes": "strict"}, unmanaged="remove")
    assert "strict" not in changes


def test_an_unknown_way_with_unmanaged_settings_is_refused(host):
    with pytest.raises(SaltInvocationError, match="keep, warn, remove"):
        host.plan(unmanaged="drop")


# -- staging and switching ---------------------------------------------------------------------


def test_a_run_without_changes_starts_no_process_and_writes_nothing(host, log, written, tmp_path):
    began = time.perf_counter()
    plan = host.plan(parameters={"biff": False}, services={"smtp/inet": {"chroot": "y"}})
    assert time.perf_counter() - began < 0.1
    assert plan == {"changes": {}, "activate": {}, "errors": [], "comment": None}
    host.apply(parameters={"biff": False})
    assert log() == [] and written == [] and not (tmp_path / "state").exists()


def test_thirty_parameters_take_one_write_process(host, log, written):
    parameters = {f"my_parameter_{number}": number for number in range(30)}
    plan = host.plan(parameters=parameters)
    host.apply(parameters=parameters)
    assert plan["errors"] == [] and len(plan["changes"]) == 30
    assert len([line for line in log() if " -e " in line]) == 1
    assert written == [("need", {"postfix": "reload"}), ("main.cf", {"postfix": "reload"})]
    assert host.changes(parameters) == {}


def test_the_private_copy_is_gone_afterwards_and_nobody_else_could_read_it(host, private, log, tmp_path):
    with private["_stage"](str(host.directory), MAIN, MASTER) as stage:
        assert os.stat(stage).st_mode & 0o777 == 0o700
        assert sorted(os.listdir(stage)) == ["main.cf", "master.cf"]
    assert not (tmp_path / "state").exists()


def test_a_complaint_that_the_change_brings_is_an_error_and_an_old_one_a_note(host, log):
    host.write(f"{MAIN}old = COMPLAIN bad old\n")
    plan = host.plan(parameters={"new": "COMPLAIN bad new"})
    assert plan["errors"] == ["new = COMPLAIN bad new"]
    assert plan["comment"] == "It was so before: old = COMPLAIN bad old"
    with pytest.raises(CommandExecutionError, match="bad new"):
        host.apply(parameters={"new": "COMPLAIN bad new"})


def test_a_broken_main_cf_is_mended(host, log, written):
    host.write("biff = no\nbad line\n  goes on\n= foo\nbiff = maybe\n")
    plan = host.plan(parameters={"biff": "yes"})
    assert plan["changes"] == {
        "main.cf line 2": {"old": "bad line  goes on", "new": None},
        "main.cf line 4": {"old": "= foo", "new": None},
        "biff": {"old": "maybe", "new": "yes"},
    }
    assert "stops Postfix" in plan["comment"] and plan["errors"] == []
    host.apply(parameters={"biff": "yes"})
    assert host.main() == "# bad line\n#   goes on\n# = foo\nbiff = yes\n"
    assert host.changes({"biff": True}) == {}


def test_a_broken_master_cf_is_mended(host, log, written):
    host.write(master=f"{MASTER}foo inet n - y - smtpd\n  -o a=b\n")
    assert list(host.changes()) == ["master.cf line 14"]
    host.apply()
    assert (host.directory / "master.cf").read_text() == f"{MASTER}# foo inet n - y - smtpd\n#   -o a=b\n"


def test_an_edit_between_plan_and_switch_is_not_overwritten(host, log, written, pretend):
    edits = iter(["admin_one = 1\n", "admin_two = 2\n"])

    def administrator(*_):
        host.write(host.main() + next(edits, ""))

    pretend("_mta_transaction.need", administrator)
    host.apply(parameters={"biff": True})
    found = host.show()
    assert (found["biff"], found["admin_one"], found["admin_two"]) == ("yes", "1", "2")
    assert [name for name, _ in written] == ["main.cf"]


def test_an_administrator_who_never_stops_editing_wins(host, log, written, pretend):
    pretend("_mta_transaction.need", lambda *_: host.write(host.main() + "# again\n"))
    with pytest.raises(CommandExecutionError, match="keeps editing"):
        host.apply(parameters={"biff": True})
    assert "biff = no" in host.main() and written == []


def test_the_switch_waits_for_postconf_and_leaves_no_lock(host, log, written, monkeypatch):
    held = os.open(host.directory / "main.cf.tmp", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(held, fcntl.LOCK_EX)
    monkeypatch.setattr(_mta_postfix_edit, "LOCK_SECONDS", 0.2)
    with pytest.raises(CommandExecutionError, match="Someone is editing"):
        host.apply(parameters={"biff": True})
    os.close(held)
    host.apply(parameters={"biff": True})
    assert sorted(os.listdir(host.directory)) == ["main.cf", "master.cf"]


def test_a_lock_file_that_was_replaced_is_locked_anew(host):
    path = host.directory / "main.cf.tmp"
    path.touch()
    with host.private["_edit_locks"](str(host.directory)):
        locked = subprocess.run(["flock", "-n", path, "true"], check=False).returncode
    assert locked == 1 and not path.exists()


def test_without_postfix_the_plan_shows_everything_and_apply_fails(host, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    (host.directory / "main.cf").unlink()
    assert len(host.changes({"a": "1", "b": None, "c": [1, 2]})) == 2
    with pytest.raises(CommandExecutionError, match="not installed"):
        host.apply(parameters={"a": "1"})


def test_a_program_that_hangs_is_ended_with_its_children(host, monkeypatch):
    monkeypatch.setattr(_mta_postfix_view, "RUN_SECONDS", 0.3)
    began = time.monotonic()
    with pytest.raises(CommandExecutionError, match="did not end"):
        host.private["_run"]("sh", "-c", "sleep 60 & sleep 60")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("key", "value", "tables"),
    [
        (
            "virtual_alias_maps",
            "hash:/a, proxy:ldap:/b texthash:c",
            [("hash", "/a"), ("ldap", "/b"), ("texthash", "c")],
        ),
        ("smtpd_client_restrictions", "check_client_access cidr:/a, reject", [("cidr", "/a")]),
        ("smtpd_client_restrictions", "check_policy_service unix:private/x", []),
        ("mynetworks", "127.0.0.0/8 [::1]/128", []),
        ("tls_random_source", "dev:/dev/urandom", []),
        ("header_checks", "inline:{ a=b }", [("inline", "{ a=b }")]),
        ("mailbox_transport", "lmtp:unix:/run/lmtp", []),
    ],
)
def test_the_tables_that_a_value_names_are_found(host, key, value, tables):
    found = host.private["_tables"](key, value)
    assert found == tables if "inline" not in value else [kind for kind, _ in found] == ["inline"]


# -- what master(8) would die of, or mail would wait for for ever --------------------------------


def refusals(host, parameters=None, services=None):
    """What the plan refuses."""
    return "\n".join(host.plan(parameters=parameters, services=services)["errors"])


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"default_process_limit": "many"}, "default_process_limit"),
        ({"content_filter": "amavis:[127.0.0.1]:10024"}, "content_filter: master.cf has no service amavis/unix"),
        ({"default_transport": "relay"}, ""),
        ({"local_transport": ""}, ""),
        ({"queue_directory": "/nowhere"}, "there is no directory /nowhere"),
        ({"inet_interfaces": "198.51.100.7"}, "198.51.100.7 port smtp: Cannot assign requested address"),
        ({"smtpd_tls_cert_file": "/nowhere.pem"}, "/nowhere.pem is not there"),
    ],
)
def test_what_breaks_mail_without_a_word_is_refused_before_the_switch(host, log, parameters, words):
    found = refusals(host, parameters)
    assert words in found
    assert bool(found) == bool(words)


def test_a_port_that_is_taken_cannot_be_bound_and_one_that_is_free_can(host):
    why_not_bound = host.private["_why_not_bound"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert why_not_bound("127.0.0.1", port, may_be_in_use=False) == "Address already in use"
        assert why_not_bound("127.0.0.1", port, may_be_in_use=True) is None
    assert why_not_bound("127.0.0.1", port, may_be_in_use=False) is None
    assert why_not_bound("127.0.0.1", "nosuchport", may_be_in_use=False)


def test_the_last_listener_is_not_taken_away(host):
    prepared = {"parameters": {}, "texts": {"master.cf": MASTER}}
    texts = {"main.cf": MAIN, "master.cf": MASTER.replace("smtp      inet", "#")}
    assert host.private["_missing_services"](prepared, texts) == ["smtp/inet: no SMTP listener would be left"]
    assert host.private["_missing_services"](prepared, {**texts, "master.cf": MASTER}) == []


@pytest.mark.parametrize(
    ("arguments", "let_go"),
    [
        ({"services": {"smtps/inet": None}}, ["smtps/inet"]),
        ({"services": {"smtps/inet": {"command": "spawn"}}}, []),
        ({"services": {"smtps/inet": {"command": "postscreen"}}}, []),
        ({"services": {"smtps/inet": {"process_limit": 3}, "smtp/inet": None}}, ["smtp/inet"]),
        ({"services": {"smtps/inet": None, "587/inet": {"command": "smtpd"}}}, ["smtps/inet"]),
        ({"parameters": {"master_service_disable": "smtps.inet"}}, ["smtps/inet"]),
        ({"parameters": {"inet_interfaces": "loopback-only"}}, []),
        ({"unmanaged": "remove"}, ["2525/inet"]),
        ({"unmanaged": "remove", "services": {"2525/inet": {"process_limit": 3}}}, []),
    ],
    ids=str,
)
def test_a_listener_that_is_taken_out_is_let_go_and_one_with_another_program_is_not(
    host, private, tmp_path, monkeypatch, arguments, let_go
):
    (tmp_path / "master.dist").write_text(f"{MASTER}smtps inet n - y - - smtpd\n")
    monkeypatch.setattr(_mta_postfix_view, "PACKAGE_MASTER", (str(tmp_path / "master.dist"),))
    host.write(master=f"{MASTER}smtps inet n - y - - smtpd\n2525 inet n - y - - smtpd\n")
    arguments = {"parameters": {}, "services": {}, "unmanaged": "keep", "revert": None, **arguments}
    prepared = private["_prepare"](str(host.directory), **arguments)
    assert private["_let_go"](str(host.directory), prepared, arguments["services"]) == let_go


@pytest.mark.parametrize(
    "command", ["smtp", "lmtp", "local", "virtual", "pipe", "error", "discard", "qmgr", "pickup"]
)
def test_a_program_that_takes_no_mail_from_the_network_is_no_listener(host, command):
    wanted = {"smtp/inet": {"command": command}}
    words = f"smtp/inet: command: {command} takes no mail from the network; what does is smtpd or postscreen"
    with pytest.raises(SaltInvocationError, match=f"^{words}$"):
        host.changes(services=wanted)
    assert host.refused({}, wanted) == [{"service": "smtp/inet", "reason": words, "nearest": None}]
    # Another type, another program, and one that is there already.
    assert host.changes(services={"smtp/unix": {"command": command}})
    assert host.changes(services={"10025/inet": {"command": "spawn"}})
    host.write(master=MASTER.replace("smtpd", command))
    assert host.changes(services={"smtp/inet": {"process_limit": 3}})


def test_what_is_missing_is_a_note_while_earlier_states_still_announce_changes(host, log, pretend):
    pretend("_mta_transaction.outlook", lambda: {"changes": True})
    plan = host.plan(parameters={"smtpd_tls_cert_file": "/nowhere.pem"})
    assert plan["errors"] == []
    assert "/nowhere.pem is not there" in plan["comment"]
    with pytest.raises(CommandExecutionError, match=r"/nowhere\.pem is not there"):
        host.apply(parameters={"smtpd_tls_cert_file": "/nowhere.pem"})


# -- what Postfix does not know ----------------------------------------------------------------


def test_names_that_are_in_the_files_already_need_no_process(host, log):
    services = {"relay/unix": {"overrides": {"syslog_name": "x"}}, "smtp/inet": {"chroot": "n"}}
    assert host.refused({"biff": "x", "never": None}, services) == []
    assert log() == []


def test_shapes_that_cannot_be_are_refused_by_name(host):
    problems = host.refused({"a b": "x"}, {"smtp/tcp": {}})
    assert [(item.get("parameter"), item.get("service")) for item in problems] == [
        ("a b", None),
        (None, "smtp/tcp"),
    ]


def test_a_name_that_postconf_calls_unused_is_refused_with_the_nearest(host, log, monkeypatch):
    def run(*command):
        if command[3] == "-d":
            return 0, "smtpd_banner = x\nsmtpd_helo_required = no\n", ""
        main = pathlib.Path(command[2], "main.cf").read_text()
        names = [name for name in ("smtpd_bannr", "old_one") if name in main]
        return (
            0,
            "",
            "".join(f"postconf: warning: {command[2]}/main.cf: unused parameter: {n}=x\n" for n in names),
        )

    host.write(f"{MAIN}old_one = 1\n")
    monkeypatch.setattr(_mta_postfix_view, "run", run)
    assert host.refused({"smtpd_bannr": "x", "old_one": "2"}) == [
        {
            "parameter": "smtpd_bannr",
            "reason": "this Postfix does not know this parameter, and nothing refers to it",
            "nearest": "smtpd_banner",
        }
    ]


# -- listeners ---------------------------------------------------------------------------------


def test_the_stock_server_listens_on_port_25(host):
    assert host.listeners() == [
        {
            "service": "smtp/inet",
            "host": "127.0.0.1",
            "port": 25,
            "wrappermode": False,
            "starttls": True,
            "auth": False,
            "auth_before_tls": False,
            "certificate": "/etc/ssl/certs/ssl-cert-snakeoil.pem",
            "key": "/etc/ssl/private/ssl-cert-snakeoil.key",
            "certificates": ["/etc/ssl/certs/ssl-cert-snakeoil.pem"],
            "keys": ["/etc/ssl/private/ssl-cert-snakeoil.key"],
            "sasl_type": "cyrus",
            "hostname": "mail.example.com",
        }
    ]


def test_overrides_decide_what_a_listener_offers(host):
    host.write(
        MAIN.replace("mail.example.com\n", "$host.example.com\nhost = mx\nsmtpd_sasl_auth_enable = yes\n", 1),
        textwrap.dedent("""\
            smtp inet n - y - - smtpd
            submission inet n - y - - smtpd -o smtpd_tls_security_level=encrypt
            submissions inet n - y - - smtpd -o smtpd_tls_wrappermode=yes -o smtpd_sasl_auth_enable=yes
            127.0.0.1:10025 inet n - n - - smtpd -o smtpd_tls_security_level=none -o smtpd_sasl_auth_enable=no
            [::1]:2525 inet n - n - - postscreen
            smtpd pass - - y - - smtpd
            10026 inet n - n - - qmqpd
            """),
    )
    found = host.listeners()
    shown = ("service", "host", "port", "wrappermode", "starttls", "auth", "auth_before_tls")
    assert [tuple(item[key] for key in shown) for item in found] == [
        ("smtp/inet", "127.0.0.1", 25, False, True, True, True),
        ("submission/inet", "127.0.0.1", 587, False, True, True, False),
        ("submissions/inet", "127.0.0.1", 465, True, False, True, False),
        ("127.0.0.1:10025/inet", "127.0.0.1", 10025, False, False, False, False),
        ("[::1]:2525/inet", "::1", 2525, False, True, False, False),
    ]
    assert {item["hostname"] for item in found} == {"mx.example.com"}


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("inet_interfaces = loopback-only\n", ["127.0.0.1"]),
        ("inet_protocols = ipv6\n", ["::1"]),
        ("inet_interfaces = 192.0.2.1, [2001:db8::1]\n", ["192.0.2.1", "2001:db8::1"]),
        ("inet_interfaces = $myhostname, localhost\n", ["mail.example.com", "localhost"]),
        ("master_service_disable = inet\n", []),
        ("master_service_disable = smtp.inet\n", []),
    ],
)
def test_a_listener_is_where_the_interfaces_say(host, parameters, expected):
    host.write(MAIN + parameters)
    assert [item["host"] for item in host.listeners()] == expected


@pytest.mark.parametrize(
    ("parameters", "certificates", "keys"),
    [
        ("smtpd_tls_chain_files = /a.pem, /b.pem\n", ["/a.pem", "/b.pem"], ["/a.pem", "/b.pem"]),
        ("smtpd_tls_eccert_file = /ec.crt\n", ["{rsa}", "/ec.crt"], ["{key}", "/ec.crt"]),
        ("smtpd_tls_cert_file = none\n", [], []),
    ],
)
def test_a_listener_has_all_of_its_certificates_and_keys(host, parameters, certificates, keys):
    host.write(MAIN + parameters)
    stock = {"rsa": "/etc/ssl/certs/ssl-cert-snakeoil.pem", "key": "/etc/ssl/private/ssl-cert-snakeoil.key"}
    (found,) = host.listeners()
    assert found["certificates"] == [path.format(**stock) for path in certificates]
    assert found["keys"] == [path.format(**stock) for path in keys]


def test_an_override_of_chain_files_is_that_services_own(host):
    services = "smtp inet n - y - - smtpd\n465 inet n - y - - smtpd -o smtpd_tls_chain_files=/own.pem\n"
    host.write(MAIN, services)
    assert [found["certificates"][0] for found in host.listeners()][1] == "/own.pem"


def test_a_chain_file_is_certificate_and_key(host):
    host.write(f"{MAIN}smtpd_tls_chain_files = /etc/ssl/mail.pem, /etc/ssl/ec.pem\n")
    assert [(item["certificate"], item["key"]) for item in host.listeners()] == [("/etc/ssl/mail.pem",) * 2]


@pytest.mark.parametrize(
    ("value", "expanded"),
    [
        ("$a", "1"),
        ("${a}x$(b)", "1x"),
        ("${a?yes}${b?no}", "yes"),
        ("${b:other}", "other"),
        ("${b?{x}:{y z}}", "y z"),
        ("${a?{x $a}:{y}}", "x 1"),
        ("$unknown", "$unknown"),
        ("$loop", "$loop"),
    ],
)
def test_references_are_expanded(host, value, expanded):
    assert host.private["_expand"](value, {"a": "1", "b": "", "loop": "$loop"}) == expanded


# -- the state ---------------------------------------------------------------------------------


def test_the_state_reports_what_would_change_and_changes_nothing(host, opts, request):
    opts["test"] = True
    states = request.getfixturevalue("states")
    result = states["postconf.managed"](str(host.directory), parameters={"biff": True}, transaction="mail")
    assert result["result"] is None, result["comment"]
    assert result["changes"] == {"biff": {"old": "no", "new": "yes"}, "activation": "reload"}
    assert host.main() == MAIN


def test_the_state_is_content_with_what_is_right(host, states):
    result = states["postconf.managed"](str(host.directory), parameters={"biff": False}, transaction="mail")
    assert (result["result"], result["changes"]) == (True, {})


def test_set_and_reset_raise_when_the_server_does_not_work_with_it(host, minion, pretend):
    outcomes = [
        {"result": True, "changes": {"biff": {"old": "no", "new": "yes"}}, "comment": ""},
        {"result": False, "changes": {}, "comment": "refused"},
    ]
    seen = []

    def member(name, module, args, **_):
        seen.append(args["parameters"])
        return outcomes[len(seen) - 1]

    pretend("_mta_apply.participate", member)
    assert _mta_apply.set_(minion, {"biff": True}) == outcomes[0]["changes"]
    with pytest.raises(CommandExecutionError, match="refused"):
        _mta_apply.reset(minion, ["biff", "relayhost"])
    assert seen == [{"biff": True}, {"biff": None, "relayhost": None}]


# -- what is only lent ---------------------------------------------------------------------------


HARDENED = {"parameters": {"biff": True, "smtpd_helo_required": True}, "revert": ["biff", "smtpd_helo_required"]}
GUIDE = {"parameters": {"smtpd_helo_required": None}, "revert": ["smtpd_helo_required"]}


class TestRevert:
    """A profile's names: what they were before is kept, and comes back when another profile lacks them."""

    @pytest.fixture
    def apply(self, host, log, pretend, opts):
        """Apply without a transaction; ``postconf -d`` knows what is in here."""
        known = ("biff", "smtpd_helo_required", "smtpd_banner")

        def write(path, contents, activate=None, mode=None):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            pathlib.Path(path).write_bytes(contents if isinstance(contents, bytes) else contents.encode())

        pretend("_mta_transaction.write", write)
        pretend("_mta_transaction.need", lambda activate, let_go: None)
        pretend("_mta_transaction.begin", lambda: None)
        run = host.private["_run"]

        def answer(*command):
            if command[-1] == "-d":
                return 0, "".join(f"{name} = x\n" for name in known), ""
            return run(*command)

        host.private["_run"] = answer
        yield lambda **args: host.apply(**args)
        host.private["_run"] = run

    def test_what_was_there_comes_back_and_what_was_not_goes(self, host, apply):
        apply(**HARDENED)
        assert host.show()["biff"] == host.show()["smtpd_helo_required"] == "yes"
        assert host.changes(**GUIDE) == {
            "biff": {"old": "yes", "new": "no"},
            "smtpd_helo_required": {"old": "yes", "new": None},
        }

    def test_a_second_run_changes_nothing(self, host, apply):
        apply(**HARDENED)
        assert host.changes(**HARDENED) == {}

    def test_what_others_set_since_is_theirs(self, host, apply):
        apply(**HARDENED)
        apply(parameters={"smtpd_helo_required": True}, revert=["smtpd_helo_required"])
        assert host.show()["biff"] == "no"
        host.write(host.main().replace("biff = no", "biff = yes"))
        assert host.changes(revert=["smtpd_helo_required"]) == {}

    def test_what_others_set_since_is_theirs_also_when_it_would_go_now(self, host, apply):
        apply(**HARDENED)
        host.write(host.main().replace("smtpd_helo_required = yes", "smtpd_helo_required = no"))
        plan = host.plan(revert=[])
        assert plan["changes"] == {"biff": {"old": "yes", "new": "no"}}
        assert "Not put back, as somebody has changed it since: smtpd_helo_required" in plan["comment"]
        apply(revert=[])
        assert host.plan(revert=[])["comment"] is None
        assert host.show()["smtpd_helo_required"] == "no"

    def test_a_service_that_others_set_since_is_theirs(self, host, private):
        service = {"smtp/inet": {"command": "postscreen", "process_limit": 1}}
        first = private["_prepare"](str(host.directory), {}, service, "keep", ["smtp/inet"])
        record = {str(host.directory): first["record"], "made": {str(host.directory): first["made"]}}
        host.private["_record"], kept = (lambda name: (record, record[name])), host.private["_record"]
        try:
            host.write(master=MASTER.replace("-       -       smtpd", "-       2       postscreen", 1))
            assert host.changes(revert=[]) == {}
        finally:
            host.private["_record"] = kept

    def test_what_is_asked_for_otherwise_stays(self, host, apply):
        apply(**HARDENED)
        assert host.changes(parameters={"biff": True}, revert=["smtpd_helo_required"]) == {}

    def test_a_state_that_says_nothing_of_it_leaves_it(self, host, apply):
        apply(**HARDENED)
        assert host.changes() == {}
        assert "biff" in host.changes(revert=[])

    def test_what_is_not_managed_may_go_in_the_same_run(self, host, private, apply):
        host.write(host.main() + "strange = 1\n")
        apply(parameters={"strange": 2}, revert=["strange"])
        prepared = private["_prepare"](str(host.directory), {}, {}, "remove", [])
        assert prepared["changes"]["strange"] == {"old": "2", "new": None}

    def test_a_service_comes_back_as_it_was_and_the_pillar_s_fields_stay(self, host, private):
        service = {"smtp/inet": {"command": "postscreen", "process_limit": 1}}
        prepare = private["_prepare"]
        first = prepare(str(host.directory), {}, service, "keep", ["smtp/inet"])
        before = host.services()["smtp/inet"]
        assert first["record"] == {"smtp/inet": before}
        record = {str(host.directory): first["record"]}
        host.private["_record"], kept = (lambda name: (record, record[name])), host.private["_record"]
        try:
            host.write(master=MASTER.replace("-       -       smtpd", "-       1       postscreen", 1))
            assert host.changes(revert=[])["master.cf smtp/inet"]["new"] == {
                "process_limit": "-",
                "command": "smtpd",
            }
            asked = host.changes(services={"smtp/inet": {"process_limit": 9}}, revert=[])
            assert asked["master.cf smtp/inet"]["new"] == {"process_limit": "9", "command": "smtpd"}
        finally:
            host.private["_record"] = kept

    def test_a_name_that_this_postfix_does_not_know_is_left_out_and_the_comment_says_so(self, host, apply):
        wanted = {"biff": True, "smtpd_forbid_novelty": True}
        plan = host.plan(parameters=wanted, revert=[*wanted])
        assert plan["changes"] == {"biff": {"old": "no", "new": "yes"}}
        assert "goes without: smtpd_forbid_novelty" in plan["comment"]

    def test_a_record_that_is_damaged_is_none(self, host, apply, opts):
        apply(**HARDENED)
        (pathlib.Path(opts["mta_state_dir"]) / "postconf.json").write_text("{")
        assert host.changes(revert=[]) == {}

    def test_only_a_list_of_names_is_taken(self, host):
        with pytest.raises(SaltInvocationError, match="revert is a list"):
            host.plan(revert="biff")
