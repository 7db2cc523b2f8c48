"""What may be requested of saslauthd."""

import pytest
from salt.exceptions import SaltInvocationError

from _mta_saslauthd_request import Request, request


def test_what_is_not_given_has_its_default():
    assert request({}) == Request()
    assert request({"mechanisms": ("ldap",), "directory_mode": "755"}) == Request(["ldap"], directory_mode="0755")


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("mechanisms", "pam"),
        ("ldap", {"servers": ["ldap://a"]}),
        ("ldap", {"servers": ["ldap://a\n"], "search_base": "a"}),
        ("ldap", {"no_such_key": 1}),
        ("kerberos5", {"keytab": "/k\nx"}),
        ("mechanisms", ["pam", "shadow"]),
        ("mechanisms", ["pam$(reboot)"]),
        ("mech_options", 'x"; reboot'),
        ("mech_options", "$(reboot)"),
        ("mech_options", "a\nb"),
        ("proxy", True),
        ("proxy", "/etc/x"),
        ("threads", "5"),
        ("threads", True),
        ("threads", -1),
        ("cache", "yes"),
        ("socket_directory", "relative"),
        ("socket_directory", "/a/../b`reboot`"),
        ("socket_directory", "/a b"),
        ("socket_directory", "/a\n"),
        ("socket_directory", "/" + "a" * 120),
        ("directory_mode", 493),
        ("directory_mode", "rwx"),
        ("mech_list", []),
        ("mech_list", ["plain\nlog_level: 7"]),
        ("smtpd_conf", "smtpd.conf"),
        ("member", "root,evil"),
        ("no_such_argument", 1),
    ],
)
def test_a_bad_argument_is_refused_by_name(argument, value):
    with pytest.raises(SaltInvocationError, match=argument):
        request({argument: value})


def test_all_bad_arguments_are_told_at_once():
    with pytest.raises(SaltInvocationError) as error:
        request({"threads": -1, "cache": "yes", "member": None})
    assert str(error.value).splitlines() == [
        "threads must be a number from 0 to 1000, not -1",
        "cache must be true or false, not 'yes'",
    ]


def test_a_password_in_the_wrong_place_is_not_shown():
    wrong = {"servers": ["ldap://a"], "search_base": "dc=a", "bind_password": "geheim #1"}
    with pytest.raises(SaltInvocationError, match="not one with servers, search_base, bind_password") as error:
        request({"ldap": wrong})
    assert "geheim" not in str(error.value)
