"""Settings files of libsasl: its values, and how one is changed."""

import _mta_libsasl


def test_libsasl_takes_the_first_value():
    text = "# ours\nlog_level: 3\nMech_List: cram-md5\nmech_list: digest-md5\nsql_passwd: x\n"
    assert _mta_libsasl.value(text, "mech_list") == "cram-md5"
    assert _mta_libsasl.value(text, "pwcheck_method") is None


def test_other_keys_of_smtpd_conf_stay():
    text = "# ours\nlog_level: 3\nMech_List: cram-md5\nmech_list: digest-md5\nsql_passwd: x\n"
    edited = _mta_libsasl.changed(text, "mech_list", "plain login")
    assert edited == "# ours\nlog_level: 3\nmech_list: plain login\nsql_passwd: x\n"


def test_a_key_that_is_not_requested_is_taken_out():
    text = "a: b\nsaslauthd_path: /x\nSaslauthd_path: /y\n"
    assert _mta_libsasl.changed(text, "saslauthd_path", None) == "a: b\n"
