"""main.cf and master.cf as text: read by Postfix's rules, compared, described, written."""

import textwrap

import pytest
from conftest import MASTER
from hypothesis import example, given, settings
from hypothesis import strategies as st
from salt.exceptions import SaltInvocationError

import _mta_postfix_syntax


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
def test_main_cf_is_read_as_postfix_reads_it(text, expected):
    assert _mta_postfix_syntax.parameters(text) == expected


def test_master_cf_is_read_with_its_continuation_lines():
    found = _mta_postfix_syntax.services(MASTER)
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


def test_comments_between_overrides_do_not_end_an_entry():
    found = _mta_postfix_syntax.services(
        textwrap.dedent("""\
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


def test_the_file_of_a_content_filter_with_carriage_returns_and_tabs_is_read():
    found = _mta_postfix_syntax.services(AMAVIS)
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


def changes(services, text=MASTER):
    """What a dictionary of services would change in a master.cf, as a state shows it."""
    present = _mta_postfix_syntax.services(text)
    wanted = _mta_postfix_syntax.wanted_services(services, present)
    return {name: _mta_postfix_syntax.difference(present.get(name), entry) for name, entry in wanted.items()}


def test_programs_that_mail_is_piped_into_are_described_as_they_are():
    described = {
        service: {**entry, "arguments": " ".join(entry["arguments"])}
        for service, entry in _mta_postfix_syntax.services(PIPES).items()
    }
    assert changes(described, PIPES) == {}
    assert described["dovecot/unix"]["arguments"].endswith("-f ${sender} -d ${user}@${nexthop}")
    written = {"own/unix": {"arguments": 'user=x argv={ /opt/my own } { a  b } -o foo -f "${sender}" --'}}
    assert changes(written, PIPES) == {}


def test_one_override_is_taken_out_by_null_and_the_others_stay():
    services = {"relay/unix": {"overrides": {"syslog_name": None, "smtp_bind_address": "192.0.2.1"}}}
    assert changes(services) == {
        "relay/unix": {
            "old": {"-o smtp_bind_address": None, "-o syslog_name": "postfix/$service_name"},
            "new": {"-o smtp_bind_address": "192.0.2.1", "-o syslog_name": None},
        }
    }


def test_the_same_service_at_several_addresses_is_several_entries():
    services = {"[::1]:smtp/inet": None, "127.0.0.1:smtp/inet": {"command": "smtpd"}}
    assert set(changes(services, AMAVIS)) == {"[::1]:smtp/inet", "127.0.0.1:smtp/inet"}


name_texts = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)


value_texts = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=60).map(
    lambda text: text.strip(" ")
)


relaxed = settings(max_examples=80, deadline=None)


@relaxed
@given(
    st.dictionaries(name_texts, value_texts, max_size=8),
    st.sampled_from(["\n", "\r\n", "\n\n# x\n", "\n   \n"]),
)
def test_what_is_written_is_what_is_read(parameters, ending):
    text = "".join(f"{name} = {value}{ending}" for name, value in parameters.items())
    assert _mta_postfix_syntax.parameters(text) == parameters


@relaxed
@given(st.text(max_size=200))
@example("\x00=\n")
@example("=\n =\n\t{\n")
def test_no_text_at_all_breaks_the_parsers(text):
    parsed, broken = _mta_postfix_syntax.parse_main(text)
    assert all(setting.name and "=" not in setting.name for setting in parsed)
    services, refused = _mta_postfix_syntax.parse_master(text)
    lines = [index for item in parsed + broken for index in item.lines]
    assert len(lines) == len(set(lines))
    mended = _mta_postfix_syntax.mended(text, broken)
    assert _mta_postfix_syntax.parse_main(mended) == (parsed, [])
    assert _mta_postfix_syntax.parse_master(_mta_postfix_syntax.mended(text, refused)) == (services, [])


words = st.text(st.sampled_from("abc$/=._-"), min_size=1, max_size=8).filter(lambda word: word[0] not in "-{")


@relaxed
@given(
    st.dictionaries(name_texts, st.lists(words, max_size=3).map(" ".join), max_size=4),
    st.lists(words, max_size=4),
)
def test_an_entry_written_is_the_entry_read(overrides, arguments):
    entry = dict.fromkeys(_mta_postfix_syntax.FIELDS, "-")
    entry.update(command="smtpd", overrides=overrides, arguments=arguments)
    text = _mta_postfix_syntax.entry_text("127.0.0.1:10025/inet", entry)
    assert _mta_postfix_syntax.services(f"{text}\n") == {"127.0.0.1:10025/inet": entry}


# -- comparing ---------------------------------------------------------------------------------


def is_same(name, present, wanted):
    """Whether a parameter in a main.cf is what is asked for."""
    read = _mta_postfix_syntax.parameters("" if present is None else f"{name} = {present}\n")
    return _mta_postfix_syntax.same(
        name, read.get(name), *_mta_postfix_syntax.wanted_parameters({name: wanted})[name]
    )


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
def test_what_means_the_same_is_no_change(name, present, wanted):
    assert is_same(name, present, wanted)


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
def test_what_means_something_else_is_a_change(name, present, wanted):
    assert not is_same(name, present, wanted)


# -- what is asked for -------------------------------------------------------------------------


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
def test_parameters_that_cannot_be_are_refused(parameters):
    with pytest.raises(SaltInvocationError):
        _mta_postfix_syntax.wanted_parameters(parameters)


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
def test_services_that_cannot_be_are_refused(services):
    with pytest.raises(SaltInvocationError):
        changes(services)


def test_only_the_fields_of_a_service_that_are_named_change():
    services = {"smtp/inet": {"process_limit": 50, "chroot": True, "overrides": {"smtpd_banner": "hello  you"}}}
    assert changes(services) == {
        "smtp/inet": {
            "old": {"process_limit": "-", "-o smtpd_banner": None},
            "new": {"process_limit": "50", "-o smtpd_banner": "hello  you"},
        }
    }


def test_a_service_as_it_is_wanted_is_no_change():
    services = {
        "smtp/inet": {"command": "smtpd", "private": False, "chroot": "y"},
        "relay/unix": {"overrides": {"syslog_name": "postfix/$service_name", "never_there": None}},
        "uucp/unix": {
            "arguments": "flags=Fqhu user=uucp argv=uux -r -n -z -a$sender - $nexthop!rmail ($recipient)"
        },
        "submission/inet": None,
    }
    assert changes(services) == {}


def test_a_new_service_has_the_defaults_of_postfix():
    change = changes({"submission/inet": {"command": "smtpd"}})["submission/inet"]
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


# -- references and tables ---------------------------------------------------------------------


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
def test_the_tables_that_a_value_names_are_found(key, value, tables):
    found = _mta_postfix_syntax.tables(key, value)
    assert found == tables if "inline" not in value else [kind for kind, _ in found] == ["inline"]


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
def test_references_are_expanded(value, expanded):
    assert _mta_postfix_syntax.expand(value, {"a": "1", "b": "", "loop": "$loop"}) == expanded


@pytest.mark.parametrize(
    "command", ["smtp", "lmtp", "local", "virtual", "pipe", "error", "discard", "qmgr", "pickup"]
)
def test_a_program_that_takes_no_mail_from_the_network_is_no_listener(command):
    words = f"smtp/inet: command: {command} takes no mail from the network; what does is smtpd or postscreen"
    with pytest.raises(SaltInvocationError, match=f"^{words}$"):
        changes({"smtp/inet": {"command": command}})
    # Another type, another program, and one that is there already.
    assert changes({"smtp/unix": {"command": command}})
    assert changes({"10025/inet": {"command": "spawn"}})
    assert changes({"smtp/inet": {"process_limit": 3}}, MASTER.replace("smtpd", command))
