"""Which files main.cf and master.cf will name, after what a run has announced."""

import _mta_postfix_outlook
from _mta_run import Run


def test_a_file_is_named_by_what_main_cf_and_master_cf_will_say(configuration, minion, tmp_path):
    link = tmp_path / "link"
    link.symlink_to("/etc/ssl/private/b.pem")
    configuration.write(
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
    assert _mta_postfix_outlook.naming(minion, paths, configuration.path) == naming
    announced = {
        "smtpd_tls_chain_files": {"old": "x", "new": None},
        "smtpd_tls_cert_file": {"old": None, "new": "/etc/ssl/private/x.pem"},
        "master.cf 465/inet": {"old": {}, "new": None},
        "activation": "reload",
    }
    Run.of(minion).changes["postconf"] = announced
    assert _mta_postfix_outlook.naming(minion, paths, configuration.path) == {
        paths[2]: "smtpd_tls_cert_file",
        paths[4]: "virtual_alias_maps",
    }
