"""The merge of defaults, operating system family, profile and pillar, and what follows from the settings."""

import json
import os
import pathlib
import re
from typing import ClassVar

import pytest
import salt.utils.yaml
from hypothesis import given, settings
from pillars import pillars
from salt.exceptions import CommandExecutionError

import _mta_pillar_schema
import _mta_settings
from _mta_revision import REVISION

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
RESTRICTIONS = "permit_sasl_authenticated,permit_mynetworks,reject_unauth_destination"
# What the how-to gave by hand.
GOLDEN = REPOSITORY / "test/integration/default/debian-12.postconf-n.txt"
FILES = {
    name: salt.utils.yaml.safe_load((REPOSITORY / f"postfix_mta/{name}.yaml").read_text())
    for name in ("defaults", "os_family", "profiles", "services", "revision")
}


def merged(pillar=None, os_family="Debian", fqdn="mail.example.com"):
    """The effective settings with a pillar, on a host of a family."""
    return _mta_settings.merge(FILES, pillar, {"os_family": os_family, "fqdn": fqdn})


def parameters_of(pillar=None, **host):
    return merged(pillar, **host)["main_cf"]


class TestMerge:
    def test_an_empty_pillar_gives_the_defaults_for_this_host(self):
        mta = merged()
        assert (mta["hostname"], mta["short"], mta["domain"]) == ("mail.example.com", "mail", "example.com")
        assert mta["certificate"]["key"] == "/etc/ssl/private/smtpd.key"
        assert mta["certificate"]["key_size"] == 3072
        assert mta["firewall"]["ports"] == [25, 110, 995, 143, 993]
        assert mta["family"]["packages"] == ["postfix", "libsasl2-2", "sasl2-bin", "libsasl2-modules"]
        assert mta["verify"] == {
            "enabled": True,
            "capabilities": [],
            "timeout": 30,
            "skip": [],
            "relay": True,
            "intended": [],
            "login_pillar": None,
        }
        assert "skip" not in mta["conversation"]

    def test_listeners_that_are_not_judged_are_told_to_both_conversations(self):
        mta = merged({"hostname": "mx.example.org", "verify": {"skip": ["10589/inet"]}})
        assert mta["conversation"]["skip"] == ["10589/inet"]

    def test_the_pillar_is_laid_over_the_defaults(self):
        mta = merged(
            {
                "hostname": "mx.example.org",
                "certificate": {"key_type": "ec", "ca": {"days": 1000}, "names": ["a.example.org"]},
                "firewall": {"ports": [25]},
                "parameters": {"relayhost": None, "mynetworks": ["127.0.0.0/8"]},
                "services": {"smtp/inet": {"overrides": {"a": "b"}}},
            }
        )
        assert mta["hostname"] == "mx.example.org"
        assert mta["certificate"]["key_size"] == 256
        assert mta["certificate"]["ca"]["days"] == 1000
        assert mta["certificate"]["ca"]["key"] == "/etc/ssl/private/cakey.pem"
        assert mta["firewall"]["ports"] == [25]
        assert mta["parameters"] == {"relayhost": None, "mynetworks": ["127.0.0.0/8"]}
        assert mta["services"] == {"smtp/inet": {"overrides": {"a": "b"}}}

    def test_the_mailboxes_of_rfc_2142_lead_to_postmaster(self):
        assert merged()["rfc2142_aliases"] == {}
        assert merged({"rfc2142_aliases": ["noc", "postmaster", "x"]})["rfc2142_aliases"] == {
            "noc": "postmaster",
            "postmaster": "root",
        }
        assert len(merged({"rfc2142_aliases": True})["rfc2142_aliases"]) == 15

    @pytest.mark.parametrize(("name", "port"), [("submission", 587), ("submissions", 465)])
    def test_one_line_switches_a_port_for_users_on(self, name, port):
        mta = merged({"services": {name: True}})
        entry = mta["services"][f"{name}/inet"]
        assert (entry["command"], entry["chroot"]) == ("smtpd", True)
        assert entry["overrides"]["smtpd_sasl_auth_enable"] is True
        assert entry["overrides"]["syslog_name"] == f"postfix/{name}"
        assert ("smtpd_tls_wrappermode" in entry["overrides"]) is (port == 465)
        assert mta["main_cf"]["smtpd_sasl_auth_enable"] is False
        assert mta["firewall"]["ports"] == [25, 110, 995, 143, 993, port]
        assert list(mta["services"]) == [f"{name}/inet"]

    def test_the_pillar_is_laid_over_a_preset(self):
        mta = merged(
            {
                "services": {
                    "submission/inet": {"chroot": False, "overrides": {"syslog_name": None, "x": "y"}},
                    "submission": True,
                },
                "parameters": {"smtpd_sasl_auth_enable": True},
                "firewall": {"ports": [25]},
            }
        )
        entry = mta["services"]["submission/inet"]
        assert (entry["chroot"], entry["command"]) == (False, "smtpd")
        assert entry["overrides"]["syslog_name"] is None
        assert entry["overrides"]["x"] == "y"
        assert entry["overrides"]["milter_macro_daemon_name"] == "ORIGINATING"
        assert mta["main_cf"]["smtpd_sasl_auth_enable"] is True
        assert mta["firewall"]["ports"] == [25]

    @pytest.mark.parametrize("off", [False, None])
    def test_presets_are_switched_off_again(self, off):
        mta = merged({"services": {"submission": off, "postscreen": off}})
        assert mta["services"] == {
            "submission/inet": None,
            "smtp/inet": {"command": "smtpd", "process_limit": "-"},
            "smtpd/pass": None,
            "dnsblog/unix": None,
            "tlsproxy/unix": None,
        }
        assert mta["main_cf"] == merged()["main_cf"]

    def test_postscreen_is_not_in_a_chroot_where_the_package_has_none(self):
        services = merged({"services": {"postscreen": True}}, os_family="RedHat")["services"]
        assert {name: entry["chroot"] for name, entry in services.items()} == dict.fromkeys(services, False)
        assert services["smtp/inet"]["command"] == "postscreen"

    def test_the_presets_are_those_that_the_pillar_may_name(self):
        assert tuple(FILES["services"]) == _mta_pillar_schema.PRESETS

    def test_without_a_profile_main_cf_is_what_the_pillar_says(self):
        mta = merged({"profile": "none", "parameters": {"biff": False}})
        assert mta["main_cf"] == {"biff": False}
        assert mta["mailname"] is None
        assert merged({"profile": "none", "mailname": "example.com"})["mailname"] == "example.com"

    def test_without_logins_their_packages_are_not_needed(self):
        assert merged({"sasl": {"enabled": False}})["packages"] == ["postfix"]

    def test_a_login_at_a_smarthost_needs_them_too(self):
        relay = {"host": "x.example", "username": "a", "password": "geheim"}
        assert "libsasl2-modules" in merged({"sasl": {"enabled": False}, "relay": relay})["packages"]

    def test_a_certificate_of_somebody_else_has_no_authority(self):
        mta = merged({"certificate": {"source": "none"}})
        assert mta["ca_file"] is None
        assert mta["main_cf"]["smtpd_tls_cert_file"] == "/etc/ssl/certs/smtpd.crt"

    def test_null_means_the_default(self):
        pillar = {"hostname": None, "certificate": None, "sasl": {"threads": None, "mechanisms": None}}
        assert merged(pillar) == merged()

    @pytest.mark.parametrize(
        ("os_family", "key", "smtpd_conf", "mailname"),
        [
            ("Debian", "/etc/ssl/private/smtpd.key", "/etc/postfix/sasl/smtpd.conf", "/etc/mailname"),
            ("RedHat", "/etc/pki/tls/private/smtpd.key", "/etc/sasl2/smtpd.conf", None),
            ("Suse", "/etc/postfix/ssl/smtpd.key", "/etc/sasl2/smtpd.conf", None),
        ],
    )
    def test_a_family_has_its_own_paths_under_the_pillar(self, os_family, key, smtpd_conf, mailname):
        mta = merged(os_family=os_family)
        assert mta["certificate"]["key"] == key
        assert mta["family"]["smtpd_conf"] == smtpd_conf
        assert mta["family"]["mailname_file"] == mailname
        assert bool(mta["debconf"]) is (os_family == "Debian")
        assert mta["family"].keys() == {*merged()["family"]}
        assert merged({"certificate": {"key": "/x"}}, os_family=os_family)["certificate"]["key"] == "/x"

    def test_an_unknown_family_renders_so_that_it_can_be_refused(self):
        assert merged(os_family="Arch")["family"] == merged()["family"]

    def test_secrets_are_replaced_by_their_pillar_paths(self):
        mta = merged(
            {
                "certificate": {"ca": {"passphrase": "geheim"}},
                "verify": {"login": {"username": "alice", "password": "geheim"}},
            }
        )
        assert "geheim" not in str(mta)
        assert mta["certificate"]["ca"]["passphrase_pillar"] == "postfix_mta:certificate:ca:passphrase"
        assert mta["verify"]["login_pillar"] == "postfix_mta:verify:login"

    def test_no_secret_of_a_relay_is_left_however_broken_it_is(self):
        for relay in (
            {"host": "x", "username": "a", "password": "geheim"},
            {"password": "geheim"},
            {"senders": {"a@b.example": {"username": "a", "password": "geheim"}, "c@d.example": "geheim"}},
            {"senders": {"a@b.example": {"host": "geheim-not", "password": "geheim"}}, "ca_file": ["geheim"]},
        ):
            assert "geheim" not in str(merged({"relay": relay})).replace("geheim-not", "")


class TestGuideProfile:
    def test_it_gives_the_values_of_the_how_to(self):
        parameters = parameters_of()
        guide = {
            "home_mailbox": "Maildir/",
            "mailbox_command": "",
            "smtpd_sasl_local_domain": "",
            "smtpd_sasl_auth_enable": True,
            "smtpd_sasl_security_options": "noanonymous",
            "smtpd_sasl_type": None,
            "smtpd_sasl_path": None,
            "broken_sasl_auth_clients": True,
            "smtpd_recipient_restrictions": RESTRICTIONS,
            "inet_interfaces": "all",
            "smtp_tls_security_level": "may",
            "smtpd_tls_security_level": "may",
            "smtpd_tls_auth_only": False,
            "smtp_tls_note_starttls_offer": True,
            "smtpd_tls_key_file": "/etc/ssl/private/smtpd.key",
            "smtpd_tls_cert_file": "/etc/ssl/certs/smtpd.crt",
            "smtpd_tls_chain_files": None,
            "smtpd_tls_CAfile": "/etc/ssl/certs/cacert.pem",
            "smtpd_tls_loglevel": 1,
            "smtpd_tls_received_header": True,
            "smtpd_tls_session_cache_timeout": "3600s",
            "tls_random_source": "dev:/dev/urandom",
            "myhostname": "mail.example.com",
            # Its debconf answers
            "myorigin": "/etc/mailname",
            "mydestination": "$myhostname, mail.example.com, localhost.example.com, localhost",
            "mynetworks": "127.0.0.0/8",
            "mailbox_size_limit": 0,
            "recipient_delimiter": "+",
            "inet_protocols": "all",
        }
        assert parameters == guide

    def test_it_agrees_with_what_the_how_to_gave_by_hand(self):
        golden = dict(re.match(r"(\S+) =\s?(.*)", line).groups() for line in GOLDEN.read_text().splitlines())
        golden["mydestination"] = golden["mydestination"].replace(", ,", ",")
        for name, value in parameters_of().items():
            if value is None:
                assert name not in golden
                continue
            text = {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
            assert golden.get(name, "None") == text, name

    def test_without_sasl_nobody_logs_in(self):
        assert parameters_of({"sasl": {"enabled": False}})["smtpd_sasl_auth_enable"] is False

    @pytest.mark.parametrize(
        ("certificate", "files"),
        [
            ({"chain_file": "/etc/ssl/one.pem"}, ["/etc/ssl/one.pem"]),
            ({"rotate_key": True}, ["/etc/ssl/private/smtpd.pem"]),
            ({"rotate_key": True, "key": "/etc/ssl/mail.pem"}, ["/etc/ssl/mail-chain.pem"]),
            ({"second": {"key_type": "ec"}}, ["/etc/ssl/private/smtpd.pem", "/etc/ssl/private/smtpd-2.pem"]),
            ({"source": "files", "files": {"certificate": "/c", "key": "/k"}}, ["/etc/ssl/private/smtpd.pem"]),
        ],
    )
    def test_chain_files_take_the_place_of_the_two_where_the_key_may_change(self, certificate, files):
        parameters = parameters_of({"certificate": certificate})
        assert parameters["smtpd_tls_chain_files"] == files
        assert parameters["smtpd_tls_key_file"] is parameters["smtpd_tls_cert_file"] is None

    def test_pem_text_is_named_by_its_pillar_path_and_a_file_by_its_own(self):
        files = {"certificate": "/etc/c.pem", "key": "-----BEGIN PRIVATE KEY-----\ngeheim\n", "chain": "sdb://v/c"}
        mta = merged({"certificate": {"source": "files", "files": files}})
        arguments = mta["pairs"][0]["arguments"]
        assert {name: value for name, value in arguments.items() if name.endswith("_source")} == {
            "certificate_source": "/etc/c.pem",
            "key_source": "postfix_mta:certificate:files:key",
            "chain_source": "postfix_mta:certificate:files:chain",
        }
        assert "geheim" not in str(mta)
        assert mta["ca_file"] is None

    def test_a_self_signed_certificate_has_no_authority(self):
        assert parameters_of({"certificate": {"source": "self_signed"}})["smtpd_tls_CAfile"] is None

    def test_the_pillar_s_parameters_win(self):
        parameters = parameters_of({"parameters": {"inet_interfaces": None, "message_size_limit": 1}})
        assert parameters["inet_interfaces"] is None
        assert parameters["message_size_limit"] == 1

    @pytest.mark.parametrize("profile", ["hardend", "../map", 5, ["guide"]])
    def test_an_unknown_profile_renders_so_that_it_can_be_refused(self, profile):
        assert parameters_of({"profile": profile}) == parameters_of()

    def test_it_leaves_master_cf_alone(self):
        assert merged()["services"] == {}


PROFILES = FILES["profiles"]


class TestHardenedProfile:
    @pytest.fixture
    def hardened(self):
        return lambda pillar=None, **host: merged({"profile": "hardened", **(pillar or {})}, **host)

    def test_nothing_of_the_other_profile_stays(self):
        for name in ("parameters", "settings", "services", "login_services"):
            assert {*PROFILES["guide"][name]} <= {*PROFILES["hardened"][name]}

    def test_the_profiles_are_those_that_the_pillar_may_name(self):
        assert (*PROFILES,) == _mta_pillar_schema.PROFILES

    def test_its_defaults_are_under_the_pillar_and_over_the_family_s(self, hardened):
        mta = hardened(os_family="RedHat")
        assert mta["sasl"]["directory_mode"] == "0710"
        assert mta["firewall"]["ports"] == ["listeners"]
        assert [pair["key_type"] for pair in mta["pairs"]] == ["rsa", "ec"]
        assert mta["certificate"]["days"] == 365
        mta = hardened(
            {"sasl": {"directory_mode": "0750"}, "certificate": {"days": 90}, "firewall": {"ports": [25]}}
        )
        assert mta["sasl"]["directory_mode"] == "0750"
        assert mta["firewall"]["ports"] == [25]
        assert mta["certificate"]["days"] == 90

    def test_there_is_one_pair_where_the_pillar_says_so(self, hardened):
        mta = hardened({"certificate": {"second": {"key_type": "none"}}})
        assert len(mta["pairs"]) == 1
        assert mta["main_cf"]["smtpd_tls_chain_files"] is None

    def test_a_login_is_offered_only_by_the_submission_services(self, hardened):
        mta = hardened()
        assert mta["main_cf"]["smtpd_sasl_auth_enable"] is False
        logins = {
            name: entry["overrides"]["smtpd_sasl_auth_enable"]
            for name, entry in mta["services"].items()
            if "overrides" in entry
        }
        assert logins == {"submission/inet": True, "submissions/inet": True}
        # What is asked about untrusted clients is not asked of users.
        own = [mta["services"][name]["overrides"] for name in logins]
        assert {one["smtpd_client_restrictions"] for one in own} == {""}

    def test_where_nobody_can_log_in_the_services_for_that_are_off(self, hardened):
        off = hardened({"sasl": {"enabled": False}})
        assert {*off["services"]} == {"smtp/inet", "smtpd/pass"}
        assert not {"submission/inet", "submissions/inet"} & {*off["revert"]}
        assert "submission/inet" in hardened({"sasl": {"type": "dovecot"}})["services"]

    def test_all_files_of_its_pairs_stay(self, hardened):
        one = ["/etc/ssl/certs/cacert.pem", "/etc/ssl/certs/smtpd.crt", "/etc/ssl/private/smtpd.key"]
        assert merged()["pairs_keep"] == one
        second = ["/etc/ssl/certs/smtpd-2.crt", "/etc/ssl/private/smtpd-2.key", "/etc/ssl/private/smtpd-2.pem"]
        assert hardened()["pairs_keep"] == [*one, "/etc/ssl/private/smtpd.pem", *second]
        taken = {"source": "files", "files": {"certificate": "/c", "key": "-----BEGIN PRIVATE KEY-----\n"}}
        assert merged({"certificate": taken})["pairs_keep"] == [*one, "/etc/ssl/private/smtpd.pem", "/c"]

    def test_the_pillar_is_laid_over_its_services(self, hardened):
        services = {
            "submission/inet": {"process_limit": 50, "overrides": {"syslog_name": None, "smtpd_tls_loglevel": 2}},
            "submissions/inet": None,
            "uucp/unix": None,
        }
        given = hardened({"services": services})["services"]
        assert given["submission/inet"]["command"] == "smtpd"
        assert given["submission/inet"]["process_limit"] == 50
        overrides = given["submission/inet"]["overrides"]
        assert overrides["smtpd_tls_security_level"] == "encrypt"
        assert (overrides["syslog_name"], overrides["smtpd_tls_loglevel"]) == (None, 2)
        assert given["submissions/inet"] is given["uucp/unix"] is None
        assert given["smtp/inet"] == hardened()["services"]["smtp/inet"]

    def test_what_is_the_profile_s_own_goes_with_it(self, hardened):
        assert {"smtp/inet", "disable_vrfy_command"} <= {*hardened()["revert"]}
        assert {*merged()["revert"]} == {*merged()["of_profile"]} == {*PROFILES["guide"]["parameters"]}

    def test_all_that_is_asked_for_goes_with_what_asks_for_it(self, hardened):
        asked = {
            "parameters": {"biff": None},
            "services": {"extra/unix": {"command": "pipe"}, "submission": False},
            "relay": {"host": "smtp.example.net", "username": "u", "password": "p"},
        }
        names = {"relayhost", "smtp_sasl_password_maps", "biff", "extra/unix", "submission/inet"}
        assert names <= {*hardened(asked)["revert"]}
        assert not names & {*hardened(asked)["of_profile"]}


class TestSenders:
    """Whose a sender's address is: the table's lines, looked up as regexp_table(5) does."""

    @staticmethod
    def owners(pillar, address):
        mta = merged({"profile": "hardened", **pillar})
        lines = [line.split(" ", 1) for line in mta["maps"]["sender_logins"]["entries"]]

        def look_up(key):
            for pattern, result in lines:
                found = re.search(pattern.strip("/"), key, re.IGNORECASE)
                if found:
                    return found.expand(re.sub(r"\$(\d)", r"\\\1", result))
            return None

        name = look_up(address)
        return name and look_up(name)

    @pytest.mark.parametrize(
        ("pillar", "address", "owners"),
        [
            ({}, "alice@mail.example.com", "alice, alice@mail.example.com"),
            ({}, "Alice+list@localhost", "Alice, Alice@mail.example.com"),
            ({}, "alice@example.com", None),
            ({}, "alice@mailXexample.com", None),
            ({"sasl": {"sender_domains": ["example.com"]}}, "alice@example.com", "alice, alice@mail.example.com"),
            (
                {"parameters": {"mydestination": ["$mydomain", "hash:/x"]}},
                "a@example.com",
                "a, a@mail.example.com",
            ),
            ({"parameters": {"recipient_delimiter": "-+"}}, "a-b+c@localhost", "a, a@mail.example.com"),
            ({"parameters": {"recipient_delimiter": ""}}, "a+b@localhost", "a+b, a+b@mail.example.com"),
            ({"sasl": {"type": "dovecot"}}, "a@elsewhere.example", "a@elsewhere.example"),
        ],
    )
    def test_an_address_is_its_user_s(self, pillar, address, owners):
        assert self.owners(pillar, address) == owners

    def test_an_alias_of_the_pillar_belongs_to_all_to_whom_it_leads(self):
        pillar = {"root_recipient": "alice", "rfc2142_aliases": ["abuse"], "aliases": {"sales": ["bob", "x@y.z"]}}
        assert "alice" in self.owners(pillar, "abuse@mail.example.com").split(", ")
        assert "bob" in self.owners(pillar, "sales@mail.example.com").split(", ")
        assert "alice" not in self.owners(pillar, "sales@mail.example.com").split(", ")

    def test_what_the_pillar_names_comes_first(self):
        named = {"office@example.com": ["alice", "bob"], "@lists.example.com": ["lists"]}
        mta = merged({"profile": "hardened", "sasl": {"sender_logins": named}})
        begin = "inline:{ {office@example.com = alice, bob}, {@lists.example.com = lists} }, $virtual_alias_maps, "
        assert mta["main_cf"]["smtpd_sender_login_maps"].startswith(begin)

    def test_only_the_ports_for_users_ask(self):
        mta = merged({"profile": "hardened"})
        asking = {name for name, entry in mta["services"].items() if "login_mismatch" in str(entry)}
        assert asking == {"submission/inet", "submissions/inet"}
        assert "smtpd_sender_restrictions" not in mta["main_cf"]

    @pytest.mark.parametrize(
        "pillar", [{"sasl": {"senders": "any"}}, {"sasl": {"enabled": False}}, {"profile": "guide"}]
    )
    def test_where_nobody_asks_there_is_no_table(self, pillar):
        mta = merged({"profile": "hardened", **pillar})
        assert mta["maps"] == {}
        assert mta["main_cf"].get("smtpd_sender_login_maps") is None
        assert "login_mismatch" not in str(mta["services"])


class TestHostsThatReceiveNothing:
    RELAY: ClassVar = {"relay": {"host": "smtp.example.net"}}

    @pytest.fixture
    def satellite(self):
        return lambda pillar=None, **host: merged({"profile": "satellite", **self.RELAY, **(pillar or {})}, **host)

    def test_a_satellite_has_no_logins_no_ports_and_no_authority_unless_asked(self, satellite):
        mta = satellite()
        assert mta["packages"] == ["postfix"]
        assert (mta["pairs"], mta["ca_file"], mta["firewall"]["ports"]) == ([], None, [])
        assert mta["saslauthd"] == {"name": "saslauthd"}
        main = mta["main_cf"]
        assert (main["smtpd_tls_security_level"], main["smtpd_tls_cert_file"]) == ("none", None)
        asked = satellite({"certificate": {"source": "local_ca"}})
        assert asked["pairs"]
        main = asked["main_cf"]
        assert (main["smtpd_tls_security_level"], main["smtpd_tls_cert_file"]) == (
            "may",
            "/etc/ssl/certs/smtpd.crt",
        )

    def test_everything_goes_to_the_smarthost_and_root_s_mail_elsewhere(self, satellite):
        mta = satellite({"root_recipient": "admin@example.org", "rfc2142_aliases": ["abuse"]})
        main = mta["main_cf"]
        assert main["relayhost"] == "[smtp.example.net]:587"
        assert (main["mydestination"], main["inet_interfaces"]) == ("", "loopback-only")
        assert main["virtual_alias_maps"] == (
            "inline:{ {root = admin@example.org}, {postmaster = admin@example.org}, {abuse = admin@example.org} }"
        )
        assert satellite()["main_cf"]["virtual_alias_maps"] is None

    def test_mail_of_a_local_host_stays_there(self):
        main = parameters_of({"profile": "local_only"})
        assert main["default_transport"] == main["relay_transport"] == "error:this host sends no mail to others"
        assert main["inet_interfaces"] == "loopback-only"
        assert main["local_transport"] is None

    @pytest.mark.parametrize(
        ("pillar", "kind"),
        [
            ({}, "Internet Site"),
            ({"profile": "hardened"}, "Internet Site"),
            (RELAY, "Internet with smarthost"),
            ({"profile": "satellite", **RELAY}, "Satellite system"),
            ({"profile": "local_only"}, "Local only"),
        ],
    )
    def test_the_package_is_told_what_kind_of_server_it_is_for(self, pillar, kind):
        answers = merged(pillar)["debconf"]["postfix"]
        assert answers["postfix/main_mailer_type"] == ["select", kind]
        # What the package set would stay when relay is gone.
        assert answers["postfix/relayhost"] == ["string", ""]


class TestRelay:
    """What main.cf and the table of logins get from the pillar's relay."""

    def test_without_one_nothing_is_said_of_it(self):
        mta = merged()
        assert "relay" not in mta
        assert (mta["maps"], mta["maps_keep"], "relayhost" in mta["main_cf"]) == ({}, {}, False)

    def test_a_smarthost_without_login(self):
        mta, without = merged({"relay": {"host": "smtp.example.net"}}), merged()
        assert mta["main_cf"] == {
            **without["main_cf"],
            "relayhost": "[smtp.example.net]:587",
            "smtp_tls_security_level": "encrypt",
            "smtp_tls_wrappermode": False,
        }
        assert mta["maps"] == {}

    @pytest.mark.parametrize(
        ("tls", "ca_file", "port", "level", "wrapped"),
        [
            ("starttls", None, 587, "encrypt", False),
            ("starttls", "/etc/ca.pem", 587, "secure", False),
            ("implicit", None, 465, "encrypt", True),
            ("implicit", "/etc/ca.pem", 465, "secure", True),
            ("none", None, 25, "none", False),
        ],
    )
    def test_the_mode_decides_port_and_level(self, tls, ca_file, port, level, wrapped):
        parameters = parameters_of({"relay": {"host": "2001:db8::1", "tls": tls, "ca_file": ca_file}})
        assert parameters["relayhost"] == f"[2001:db8::1]:{port}"
        assert parameters["smtp_tls_security_level"] == level
        assert parameters["smtp_tls_wrappermode"] is wrapped
        assert parameters.get("smtp_tls_CAfile") == ca_file
        # Taken out, and not only not given: no other authority is trusted.
        assert ("smtp_tls_CApath" in parameters) is bool(ca_file)
        assert parameters.get("smtp_tls_CApath") is None

    def test_a_login_is_a_pillar_path_by_the_next_hop(self):
        mta = merged({"relay": {"host": "x.example", "port": 2525, "username": "a", "password": "geheim"}})
        assert mta["maps"]["relay_passwords"] == {
            "name": "/etc/postfix/relay_passwords",
            "type": "texthash",
            "logins": {"[x.example]:2525": "postfix_mta:relay"},
            "mode": "0600",
        }
        assert mta["maps_keep"] == {"/etc/postfix/relay_passwords": "texthash"}
        assert mta["main_cf"]["smtp_sasl_password_maps"] == "texthash:/etc/postfix/relay_passwords"
        assert mta["main_cf"]["smtp_sasl_auth_enable"] is True
        assert mta["main_cf"]["smtp_sender_dependent_authentication"] is False

    def test_senders_have_their_own_hosts_and_logins(self):
        senders = {
            "a@b.example": {"username": "a", "password": "geheim"},
            "@c.example": {"host": "c.example", "port": 25},
        }
        mta = merged({"relay": {"host": "x.example", "senders": senders}})
        table = "inline:{ {a@b.example = [x.example]:587}, {@c.example = [c.example]:25} }"
        assert mta["main_cf"]["sender_dependent_relayhost_maps"] == table
        assert mta["main_cf"]["smtp_sender_dependent_authentication"] is True
        assert mta["maps"]["relay_passwords"]["logins"] == {"a@b.example": "postfix_mta:relay:senders:a@b.example"}

    def test_without_a_host_for_all_only_the_senders_hosts_demand_tls(self):
        parameters = parameters_of({"relay": {"senders": {"@c.example": {"host": "c.example"}}}})
        assert parameters["smtp_tls_policy_maps"] == "inline:{ {[c.example]:587 = encrypt} }"
        assert parameters["smtp_tls_security_level"] == "may"
        assert "relayhost" not in parameters

    def test_the_table_is_beside_those_of_maps(self):
        relay = {"host": "x.example", "username": "a", "password": "geheim"}
        mta = merged({"relay": relay, "maps": {"virtual": {}, "relay_passwords": {"type": "hash"}}})
        assert list(mta["maps"]) == ["relay_passwords", "virtual"]
        assert "logins" in mta["maps"]["relay_passwords"]


@settings(max_examples=200, deadline=None)
@given(pillar=pillars(allow_nan=False))
def test_no_pillar_breaks_the_merge_and_all_of_it_can_be_in_an_sls_file(pillar):
    mta = merged(pillar)
    assert json.loads(json.dumps(mta)) == mta


def test_a_merge_leaves_the_formula_s_data_as_it_is():
    before = json.dumps(FILES)
    pillar = {"profile": "hardened", "services": {"submission": True}, "sasl": {"enabled": False}}
    merged(pillar)
    merged({**pillar, "relay": {"host": "x", "username": "a", "password": "b"}, "maps": {"x": {}}})
    assert json.dumps(FILES) == before


class TestFiles:
    """What of the formula is read, and where."""

    @pytest.fixture
    def cache_files(self):
        """As cp.cache_files; ``asked``: what it was called with."""

        def cache(urls, saltenv):
            cache.asked.append((urls, saltenv))
            return [str(REPOSITORY / url.replace("salt://", "")) for url in urls]

        cache.asked = []
        return cache

    @pytest.fixture
    def minion(self, minion, functions, cache_files):
        functions["cp.cache_files"] = cache_files
        return minion

    def test_a_run_reads_the_formula_s_files_once_and_in_one_go(self, minion, cache_files):
        first = _mta_settings.current(minion, "base")
        assert _mta_settings.current(minion, "base") is first
        ((urls, saltenv),) = cache_files.asked
        names = ["revision.yaml", "defaults.yaml", "os_family.yaml", "profiles.yaml"]
        assert ([os.path.basename(url) for url in urls], saltenv) == (names, "base")
        assert first == {**merged(), "synced": True}

    @pytest.mark.parametrize("services", [{"submission": True}, {"postscreen": None}])
    def test_presets_are_read_where_one_is_named(self, cache_files, services):
        assert "services" in _mta_settings.read(cache_files, "base", {"services": services})

    @pytest.mark.parametrize("pillar", [None, [], "x", {"services": ["submission"]}, {"services": {"x/inet": {}}}])
    def test_and_only_there(self, cache_files, pillar):
        assert "services" not in _mta_settings.read(cache_files, "base", pillar)

    def test_a_file_that_is_not_there_is_an_error(self, cache_files):
        def without(urls, saltenv):
            return [path if "profiles" not in path else "" for path in cache_files(urls, saltenv)]

        with pytest.raises(CommandExecutionError, match=r"profiles\.yaml is not in the file roots of dev"):
            _mta_settings.read(without, "dev", {})

    def test_where_the_file_server_has_another_revision_its_code_makes_the_settings(
        self, minion, functions, monkeypatch
    ):
        asked = []
        functions["slsutil.renderer"] = lambda url, **how: asked.append((url, how)) or {"synced": False}
        monkeypatch.setattr(_mta_settings, "REVISION", "another")
        assert _mta_settings.current(minion, "dev") == {"synced": False}
        assert asked == [("salt://postfix_mta/settings.py", {"default_renderer": "py", "saltenv": "dev"})]

    def test_the_settings_say_of_which_revision_they_are(self):
        assert merged()["revision"] == REVISION == FILES["revision"]["revision"]


# -- the chroot --------------------------------------------------------------------------------


def test_debian_14_has_no_smtpd_in_the_chroot():
    def of(release):
        grains = {"os_family": "Debian", "oscodename": release, "fqdn": "mail.example.com"}
        settings = _mta_settings.merge(FILES, {"services": {"submission": True}}, grains)
        return settings["saslauthd"]["chroot"], settings["services"]["submission/inet"]["chroot"]

    assert of("trixie") == of(None) == (True, True)
    assert of("forky") == (False, False)


@pytest.mark.parametrize(
    ("release", "pillar", "said"),
    [
        ("bookworm", {}, None),
        ("trixie", {}, "/etc/postfix/sasl"),
        ("forky", {}, "/etc/postfix/sasl"),
        ("trixie", {"profile": "hardened"}, "/etc/postfix/sasl"),
        ("trixie", {"sasl": {"enabled": False}}, None),
        ("trixie", {"sasl": {"type": "dovecot"}}, None),
        ("trixie", {"parameters": {"cyrus_sasl_config_path": "/etc/sasl2"}}, "/etc/sasl2"),
    ],
)
def test_main_cf_says_where_smtpd_conf_is_if_smtpd_does_not_find_it_by_itself(release, pillar, said):
    grains = {"os_family": "Debian", "oscodename": release, "fqdn": "mail.example.com"}
    assert _mta_settings.merge(FILES, pillar, grains)["main_cf"].get("cyrus_sasl_config_path") == said


@pytest.mark.parametrize(
    ("addresses", "networks"),
    [
        (["::1", "fe80::1"], "127.0.0.0/8 [::1]/128"),
        (["fe80::1"], "127.0.0.0/8"),
        ([], "127.0.0.0/8"),
        (None, "127.0.0.0/8"),
    ],
)
def test_programs_of_this_host_may_send_over_ipv6_where_there_is_that(addresses, networks):
    grains = {"os_family": "Debian", "fqdn": "mail.example.com", "ipv6": addresses}
    assert _mta_settings.merge(FILES, {}, grains)["main_cf"]["mynetworks"] == networks


def test_sockets_move_with_the_queue():
    queue = {"parameters": {"queue_directory": "/srv/queue"}, "dkim": {"domains": ["example.com"]}}
    mta = merged(queue)
    assert mta["saslauthd"]["socket_directory"] == "/srv/queue/var/run/saslauthd"
    assert mta["beacon"]["saslauthd"] == "/srv/queue/var/run/saslauthd/mux"
    assert mta["saslauthd"]["queue_directory"] == mta["signer"]["queue_directory"] == "/srv/queue"

    elsewhere = merged({**queue, "sasl": {"socket_directory": "/run/saslauthd"}})
    assert elsewhere["saslauthd"]["socket_directory"] == "/run/saslauthd"
    assert merged()["saslauthd"]["queue_directory"] == "/var/spool/postfix"


def test_saslauthd_is_told_which_smtpd_will_be_chrooted():
    services = {
        "587/inet": {"command": "smtpd", "private": False, "chroot": False},
        "10025/inet": {"command": "smtpd", "chroot": True, "overrides": {"smtpd_sasl_auth_enable": False}},
        "smtps/inet": None,
        "slow/unix": {"command": "smtp", "chroot": True},
        "smtp/inet": {"overrides": {"smtpd_banner": "x"}},
    }
    chroots = merged({"services": services})["saslauthd"]["chroots"]
    assert chroots == {"587/inet": False, "10025/inet": None, "smtps/inet": None}


# -- MTA-STS of others, and what they send -----------------------------------------------------

SIGNING = {"profile": "hardened", "dkim": {"domains": ["example.com"]}}
OWN_TABLE = {"smtp_tls_policy_maps": "hash:/etc/postfix/policies"}


@pytest.mark.parametrize(
    ("pillar", "follows"),
    [
        (SIGNING, True),
        ({"profile": "hardened"}, False),
        ({**SIGNING, "profile": "guide"}, False),
        ({"dns": {"follow_mta_sts": True}}, True),
        ({**SIGNING, "dns": {"follow_mta_sts": False}}, False),
        ({**SIGNING, "relay": {"host": "smtp.example.net"}}, False),
        ({**SIGNING, "parameters": OWN_TABLE}, False),
    ],
)
def test_mail_keeps_to_the_policies_of_others_where_it_is_signed_or_asked_for(pillar, follows):
    settings = merged(pillar)
    assert settings["sts"] is follows
    assert ("postfix-mta-sts-resolver" in settings["packages"]) is follows
    table = settings["main_cf"].get("smtp_tls_policy_maps")
    assert table == (
        "socketmap:unix:postfix_mta_sts/socket:postfix"
        if follows
        else pillar.get("parameters", {}).get("smtp_tls_policy_maps")
    )


def test_other_families_have_no_package_for_it():
    assert merged({**SIGNING, "dns": {"follow_mta_sts": True}}, os_family="RedHat")["sts"] is False


@pytest.mark.parametrize(
    ("profile", "processor", "dkim", "judged"),
    [
        ("hardened", "x86_64", {}, True),
        ("hardened", "aarch64", {}, False),
        ("guide", "x86_64", {}, False),
        ("guide", "aarch64", {"results": True}, True),
        ("hardened", "x86_64", {"results": False}, False),
        ("guide", "aarch64", {"dmarc_reject": True}, True),
    ],
)
def test_others_mail_is_judged_in_hardened_where_that_is_quick_or_asked_for(profile, processor, dkim, judged):
    grains = {"os_family": "Debian", "cpuarch": processor, "fqdn": "mail.example.com"}
    pillar = {"profile": profile, "dkim": {"domains": ["example.com"], **dkim}}
    signer = _mta_settings.merge(FILES, pillar, grains)["signer"]
    assert signer["results"] is judged
    assert signer["dmarc_reject"] is dkim.get("dmarc_reject", False)
