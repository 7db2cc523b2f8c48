"""What is configured: main.cf and master.cf as they are, and where Postfix listens."""

import textwrap

import pytest
from conftest import MAIN, MASTER
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _mta_postfix_view
from _mta_postfix_view import Files


def test_a_configuration_that_is_not_there_is_an_error_only_for_who_wants_to_see_it(configuration):
    (configuration.directory / "main.cf").unlink()
    (configuration.directory / "master.cf").unlink()
    with pytest.raises(CommandExecutionError, match="There is no"):
        configuration.show()
    with pytest.raises(CommandExecutionError, match="There is no"):
        configuration.services()
    assert configuration.listeners() == []
    assert configuration.changes({"biff": False}) == {"biff": {"old": None, "new": "no"}}


@pytest.mark.parametrize(
    ("text", "line"),
    [("a = 1\nbad line\n", 2), ("\n\n= foo\n", 3), ("two words = 1\n", 1), ("a = 1\n\nbad\n  more\n", 3)],
)
def test_a_line_that_cannot_be_parsed_is_named_by_its_number(configuration, text, line):
    configuration.write(text)
    with pytest.raises(CommandExecutionError, match=f"main.cf, line {line}: missing"):
        configuration.show()


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
def test_an_entry_that_stops_master_is_named_by_its_line(configuration, entry):
    configuration.write(master=f"{MASTER}{entry}\n")
    with pytest.raises(CommandExecutionError, match=r"master\.cf, line 14: (bad field count|invalid)"):
        configuration.services()


# -- listeners ---------------------------------------------------------------------------------


def test_the_stock_server_listens_on_port_25(configuration):
    assert configuration.listeners() == [
        {
            "service": "smtp/inet",
            "host": "127.0.0.1",
            "port": 25,
            "wrappermode": False,
            "starttls": True,
            "auth": False,
            "bars_users": "",
            "login_maps": "",
            "auth_before_tls": False,
            "may_hide": [],
            "proxy": "",
            "certificate": "/etc/ssl/certs/ssl-cert-snakeoil.pem",
            "key": "/etc/ssl/private/ssl-cert-snakeoil.key",
            "certificates": ["/etc/ssl/certs/ssl-cert-snakeoil.pem"],
            "keys": ["/etc/ssl/private/ssl-cert-snakeoil.key"],
            "sasl_type": "cyrus",
            "sasl_files": [],
            "hostname": "mail.example.com",
            "hopcount_limit": 50,
        }
    ]


@pytest.mark.parametrize(
    ("main", "overrides", "limit"),
    [
        ("hopcount_limit = 200", [], 200),
        ("hopcount_limit = 20", ["70", "30"], 70),
        ("", ["70"], 70),
        ("hopcount_limit = $a", [], 50),
    ],
)
def test_the_limit_of_hops_is_the_largest_of_any_cleanup(configuration, main, overrides, limit):
    cleanups = [
        f"clean{number} unix n - y - 0 cleanup -o hopcount_limit={value}\n"
        for number, value in enumerate(overrides)
    ]
    configuration.write(f"{MAIN}\n{main}\n", f"{MASTER}{''.join(cleanups)}")
    assert [one["hopcount_limit"] for one in configuration.listeners()] == [limit]


def test_overrides_decide_what_a_listener_offers(configuration):
    configuration.write(
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
    found = configuration.listeners()
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
def test_a_listener_is_where_the_interfaces_say(configuration, parameters, expected):
    configuration.write(MAIN + parameters)
    assert [item["host"] for item in configuration.listeners()] == expected


@pytest.mark.parametrize(
    ("parameters", "certificates", "keys"),
    [
        ("smtpd_tls_chain_files = /a.pem, /b.pem\n", ["/a.pem", "/b.pem"], ["/a.pem", "/b.pem"]),
        ("smtpd_tls_eccert_file = /ec.crt\n", ["{rsa}", "/ec.crt"], ["{key}", "/ec.crt"]),
        ("smtpd_tls_cert_file = none\n", [], []),
    ],
)
def test_a_listener_has_all_of_its_certificates_and_keys(configuration, parameters, certificates, keys):
    configuration.write(MAIN + parameters)
    stock = {"rsa": "/etc/ssl/certs/ssl-cert-snakeoil.pem", "key": "/etc/ssl/private/ssl-cert-snakeoil.key"}
    (found,) = configuration.listeners()
    assert found["certificates"] == [path.format(**stock) for path in certificates]
    assert found["keys"] == [path.format(**stock) for path in keys]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("", ["{config}/sasl/smtpd.conf", "/etc/sasl2/smtpd.conf", "/usr/lib/sasl2/smtpd.conf"]),
        ("cyrus_sasl_config_path = /a:/b\n", ["/a/smtpd.conf", "/b/smtpd.conf"]),
        (
            "cyrus_sasl_config_path = /a\nsmtpd_sasl_path = other\n",
            ["/a/other.conf", "/a/smtpd.conf"],
        ),
        ("smtpd_sasl_type = dovecot\n", []),
    ],
)
def test_the_settings_of_libsasl_are_where_postfix_looks(configuration, parameters, expected):
    configuration.write(f"{MAIN}smtpd_sasl_auth_enable = yes\n{parameters}")
    (found,) = configuration.listeners()
    assert found["sasl_files"] == [path.format(config=configuration.path) for path in expected]


def test_an_override_of_chain_files_is_that_services_own(configuration):
    services = "smtp inet n - y - - smtpd\n465 inet n - y - - smtpd -o smtpd_tls_chain_files=/own.pem\n"
    configuration.write(MAIN, services)
    assert [found["certificates"][0] for found in configuration.listeners()][1] == "/own.pem"


def test_a_chain_file_is_certificate_and_key(configuration):
    configuration.write(f"{MAIN}smtpd_tls_chain_files = /etc/ssl/mail.pem, /etc/ssl/ec.pem\n")
    assert [(item["certificate"], item["key"]) for item in configuration.listeners()] == [
        ("/etc/ssl/mail.pem",) * 2
    ]


# -- sockets and ports ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("", {("0.0.0.0", "smtp"), ("::", "smtp"), ("127.0.0.1", "10025")}),
        ("inet_protocols = ipv4\n", {("0.0.0.0", "smtp"), ("127.0.0.1", "10025")}),
        ("inet_interfaces = loopback-only\n", {("127.0.0.1", "10025")}),
        ("inet_interfaces = [2001:db8::1], $unknown\n", {("2001:db8::1", "smtp"), ("127.0.0.1", "10025")}),
    ],
)
def test_the_sockets_that_master_would_bind_are_known(parameters, expected):
    files = Files(MAIN + parameters, f"{MASTER}127.0.0.1:10025 inet n - n - - smtpd\n")
    assert set(_mta_postfix_view.sockets("/etc/postfix", files)) == expected


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [({}, [25, 2525]), ({"inet_interfaces": "loopback-only"}, [2525]), ({"master_service_disable": "inet"}, [])],
)
def test_ports_that_only_this_host_reaches_are_left_out(parameters, expected):
    services = (
        "127.0.0.1:10025 inet n - n - - smtpd\n192.0.2.1:2525 inet n - n - - smtpd\n80 inet n - n - - spawn\n"
    )
    files = Files("", MASTER + services)
    assert _mta_postfix_view.ports_of("/etc/postfix", parameters, files.services()) == expected


def test_a_smtpd_with_logins_is_chrooted_as_its_line_says(configuration):
    master = """\
smtp inet n - y - - smtpd
submission inet n - - - - smtpd
10025 inet n - n - - smtpd
  -o smtpd_sasl_auth_enable=no
pickup unix n - y 60 1 pickup
"""
    configuration.write("compatibility_level = 3.6\n", master=master)
    found = _mta_postfix_view.chroots(str(configuration.directory))
    assert found == {"smtp/inet": True, "submission/inet": False}
    configuration.write("", master=master)
    assert _mta_postfix_view.chroots(str(configuration.directory))["submission/inet"] is True


@pytest.mark.parametrize("function", [_mta_postfix_view.show, _mta_postfix_view.services])
def test_a_parameter_in_place_of_the_directory_is_told_where_it_belongs(function):
    with pytest.raises(SaltInvocationError, match=r"absolute path, not 'message_size_limit'.*postconf\.get"):
        function("message_size_limit")


@pytest.mark.parametrize(
    ("main", "expected"),
    [
        ("smtpd_relay_restrictions = permit_mynetworks, permit_sasl_authenticated, reject", ""),
        ("smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination", "smtpd_relay_restrictions"),
        ("smtpd_client_restrictions = permit_mynetworks, reject", "smtpd_client_restrictions"),
        ("smtpd_client_restrictions = check_client_access cidr:/x, reject", ""),
        ("smtpd_client_restrictions = reject_unauth_destination", ""),
        ("smtpd_recipient_restrictions = warn_if_reject reject, permit", ""),
        ("smtpd_recipient_restrictions = $mua\nmua = reject", "smtpd_recipient_restrictions"),
    ],
)
def test_restrictions_that_bar_who_has_logged_in(tmp_path, main, expected):
    (tmp_path / "main.cf").write_text(f"smtpd_sasl_auth_enable = yes\n{main}\n")
    (tmp_path / "master.cf").write_text("smtp inet n - y - - smtpd\n")
    assert [one["bars_users"] for one in _mta_postfix_view.listeners(str(tmp_path))] == [expected]


@pytest.mark.parametrize(
    ("main", "expected"),
    [
        ("smtpd_sender_restrictions = reject_sender_login_mismatch", "hash:/etc/logins"),
        (
            "smtpd_recipient_restrictions = permit_mynetworks $own\nown = reject_sender_login_mismatch",
            "hash:/etc/logins",
        ),
        ("smtpd_sender_restrictions = permit_sasl_authenticated, reject_sender_login_mismatch", ""),
        ("smtpd_sender_restrictions = warn_if_reject reject_authenticated_sender_login_mismatch", ""),
        ("smtpd_sender_restrictions = reject_unauthenticated_sender_login_mismatch", ""),
    ],
)
def test_tables_that_say_whose_an_address_is(tmp_path, main, expected):
    logins = "smtpd_sender_login_maps = hash:$there\nthere = /etc/logins"
    (tmp_path / "main.cf").write_text(f"smtpd_sasl_auth_enable = yes\n{logins}\n{main}\n")
    (tmp_path / "master.cf").write_text("smtp inet n - y - - smtpd\n")
    assert [one["login_maps"] for one in _mta_postfix_view.listeners(str(tmp_path))] == [expected]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("mail.example.com /etc/a.pem, /etc/b.pem", ["/etc/a.pem", "/etc/b.pem"]),
        (".example.com\n  /etc/a.pem", ["/etc/a.pem"]),
        ("other.example.com /etc/a.pem", ["/etc/own.pem"]),
        ("# nothing", ["/etc/own.pem"]),
    ],
)
def test_who_asks_for_the_server_by_name_gets_the_certificate_of_a_table(tmp_path, entry, expected):
    (tmp_path / "sni").write_text(f"{entry}\n")
    table = f"tls_server_sni_maps = hash:{tmp_path}/sni"
    names = "myhostname = mail.example.com\nsmtpd_tls_chain_files = /etc/own.pem"
    (tmp_path / "main.cf").write_text(f"{names}\n{table}\n")
    (tmp_path / "master.cf").write_text("smtp inet n - y - - smtpd\n")
    assert _mta_postfix_view.listeners(str(tmp_path))[0]["certificates"] == expected
