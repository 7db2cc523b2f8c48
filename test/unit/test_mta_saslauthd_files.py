"""What the files of saslauthd say: edited ones, and those of the formula's own."""

import pytest

import _mta_saslauthd_files
from _mta_saslauthd_request import request

# -- files that are edited -------------------------------------------------------------------------------------


def test_a_value_over_several_lines_is_replaced_whole():
    text = 'A=1\nOPTIONS="-c \\\n -m /a" # kept\nB=2\n'
    assert _mta_saslauthd_files.shell_set(text, "OPTIONS", "-m /b") == 'A=1\nOPTIONS="-m /b" # kept\nB=2\n'


def test_the_last_assignment_is_the_one_that_is_edited():
    assert _mta_saslauthd_files.shell_set("THREADS=1\nTHREADS=2\n", "THREADS", "5") == "THREADS=1\nTHREADS=5\n"


def test_a_missing_assignment_is_added_at_the_end():
    assert _mta_saslauthd_files.shell_set("A=1", "START", "yes") == "A=1\nSTART=yes\n"


@pytest.mark.parametrize(
    ("directory", "queue", "path"),
    [
        ("/var/spool/postfix/var/run/saslauthd", "/var/spool/postfix", None),
        ("/var/run/saslauthd", "/var/spool/postfix", None),
        ("/var/spool/postfix/run/sasl", "/var/spool/postfix", "/run/sasl/mux"),
        ("/run/sasl", "/var/spool/postfix", "/run/sasl/mux"),
        ("/srv/queue/var/run/saslauthd", "/srv/queue", None),
    ],
)
def test_libsasl_is_told_where_the_socket_is_unless_it_looks_there_anyway(directory, queue, path):
    assert _mta_saslauthd_files.socket_told(_mta_saslauthd_files.socket_seen(directory, queue)) == path


def test_outside_of_the_chroot_the_socket_is_where_it_is():
    directory = "/var/spool/postfix/var/run/saslauthd"
    assert (
        _mta_saslauthd_files.socket_seen(directory, "/var/spool/postfix", "proxy", chrooted=False)
        == f"{directory}/proxy"
    )


# -- databases of the system -----------------------------------------------------------------------------------


def test_the_override_is_found_by_its_path():
    text = "root sasl 710 /var/run/saslauthd\nroot sasl 2755 /a b\n"
    assert _mta_saslauthd_files.statoverride(text, "/var/run/saslauthd") == "root:sasl 0710"
    assert _mta_saslauthd_files.statoverride(text, "/a b") == "root:sasl 2755"
    assert _mta_saslauthd_files.statoverride(text, "/run/saslauthd") is None


def test_members_of_the_group_are_those_of_its_line():
    assert _mta_saslauthd_files.members("xsasl:x:1:a\nsasl:x:45:b,c\n") == ["b", "c"]
    assert _mta_saslauthd_files.members("sasl:x:45:\n") == []
    assert _mta_saslauthd_files.members("root:x:0:\n") == []


# -- the proxy -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conf", "arguments"),
    [
        ("ldap_servers: ldap://a ldaps://b:636\n", '"/d/mux" "ldap" "ldap://a" "ldaps://b:636"'),
        (
            "ldap_servers: ldap://a\nldap_start_tls: yes\nldap_tls_check_peer: yes\nldap_tls_cacert_file: /ca\n",
            '"--start-tls" "--ca-file=/ca" "/d/mux" "ldap" "ldap://a"',
        ),
        ("ldap_servers: ldap://a\nldap_tls_cacert_file: /ca\n", '"/d/mux" "ldap" "ldap://a"'),
        ('ldap_servers: ldapi://%2frun "$x\\\n', r'"/d/mux" "ldap" "ldapi://%%2frun" "\"$$x\\"'),
        (None, '"/d/mux" "ldap"'),
    ],
)
def test_the_proxy_asks_the_servers_that_the_option_file_names(conf, arguments):
    requested = request({"mechanisms": ["ldap"], "socket_directory": "/d"})
    assert _mta_saslauthd_files.proxy_arguments(requested, conf) == arguments
