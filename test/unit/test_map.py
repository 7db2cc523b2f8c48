"""The settings and the profile, rendered by Salt as SLS files do, for each family of operating systems."""

import os
import pathlib
import re
import shutil

import pytest
import salt.fileclient
import salt.loader
import salt.template
import salt.utils.yaml
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
RESTRICTIONS = "permit_sasl_authenticated,permit_mynetworks,reject_unauth_destination"
# How every SLS file begins.
PREAMBLE = """\
{%- if "__master_opts__" not in opts and "mta_settings.effective" in salt %}
{%-   set mta = salt["mta_settings.effective"](saltenv) %}
{%- else %}{% from "postfix_mta/map.jinja" import mta with context %}{% endif %}
"""
# What the how-to gave by hand.
GOLDEN = REPOSITORY / "test/integration/default/debian-12.postconf-n.txt"


class Renderer:
    """Renders SLS text as a state run does: one file client, one context, the real renderers."""

    def __init__(self, opts, synced=True):
        self.opts = {**opts, "module_dirs": opts["module_dirs"] if synced else []}
        self.loaded = None

    def load(self, pillar, grains):
        """Start over, as a run with this pillar on this host would."""
        opts = {**self.opts, "pillar": {"postfix_mta": pillar}, "grains": grains}
        client = salt.fileclient.get_file_client(opts)
        self.functions = salt.loader.minion_mods(
            opts,
            utils=salt.loader.utils(opts),
            context={},
            file_client=salt.fileclient.ContextlessFileClient(client),
        )
        self.renderers = salt.loader.render(opts, self.functions, file_client=client)
        self.loaded = (pillar, grains)

    def __call__(self, text, pillar=None, os_family="Debian", fqdn="mail.example.com"):
        wanted = (pillar, {"os_family": os_family, "fqdn": fqdn})
        if self.loaded is None or self.loaded[0] is not pillar or self.loaded[1] != wanted[1]:
            self.load(*wanted)
        return salt.template.compile_template(
            ":string:", self.renderers, "jinja|yaml", [], [], saltenv="base", sls="x", input_data=text
        )

    def mta(self, pillar=None, **host):
        return self(f"{PREAMBLE}{{{{ mta | json }}}}", pillar, **host)

    def parameters(self, pillar=None, **host):
        return self.mta(pillar, **host)["main_cf"]


@pytest.fixture
def render(opts):
    return Renderer(opts)


class TestMap:
    def test_an_empty_pillar_gives_the_defaults_for_this_host(self, render):
        mta = render.mta()
        assert (mta["hostname"], mta["short"], mta["domain"]) == ("mail.example.com", "mail", "example.com")
        assert mta["certificate"]["key"] == "/etc/ssl/private/smtpd.key"
        assert mta["certificate"]["key_size"] == 3072
        assert mta["firewall"]["ports"] == [25, 110, 995, 143, 993]
        assert mta["family"]["packages"] == ["postfix", "libsasl2-2", "sasl2-bin", "libsasl2-modules"]
        assert mta["verify"] == {"enabled": True, "capabilities": [], "timeout": 30, "login_pillar": None}

    def test_the_pillar_is_laid_over_the_defaults(self, render):
        mta = render.mta(
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

    def test_the_mailboxes_of_rfc_2142_lead_to_postmaster(self, render):
        assert render.mta()["rfc2142_aliases"] == {}
        assert render.mta({"rfc2142_aliases": ["noc", "postmaster", "x"]})["rfc2142_aliases"] == {
            "noc": "postmaster",
            "postmaster": "root",
        }
        assert len(render.mta({"rfc2142_aliases": True})["rfc2142_aliases"]) == 15

    @pytest.mark.parametrize(("name", "port"), [("submission", 587), ("submissions", 465)])
    def test_one_line_switches_a_port_for_users_on(self, render, name, port):
        mta = render.mta({"services": {name: True}})
        entry = mta["services"][f"{name}/inet"]
        assert (entry["command"], entry["chroot"]) == ("smtpd", True)
        assert entry["overrides"]["smtpd_sasl_auth_enable"] is True
        assert entry["overrides"]["syslog_name"] == f"postfix/{name}"
        assert ("smtpd_tls_wrappermode" in entry["overrides"]) is (port == 465)
        assert mta["main_cf"]["smtpd_sasl_auth_enable"] is False
        assert mta["firewall"]["ports"] == [25, 110, 995, 143, 993, port]
        assert list(mta["services"]) == [f"{name}/inet"]

    def test_the_pillar_is_laid_over_what_is_ready_made(self, render):
        mta = render.mta(
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
    def test_what_is_ready_made_is_switched_off_again(self, render, off):
        mta = render.mta({"services": {"submission": off, "postscreen": off}})
        assert mta["services"] == {
            "submission/inet": None,
            "smtp/inet": {"command": "smtpd", "process_limit": "-"},
            "smtpd/pass": None,
            "dnsblog/unix": None,
            "tlsproxy/unix": None,
        }
        assert mta["main_cf"] == render.mta()["main_cf"]

    def test_postscreen_is_not_in_a_chroot_where_the_package_has_none(self, render):
        services = render.mta({"services": {"postscreen": True}}, os_family="RedHat")["services"]
        assert {name: entry["chroot"] for name, entry in services.items()} == dict.fromkeys(services, False)
        assert services["smtp/inet"]["command"] == "postscreen"

    def test_all_that_is_ready_made_has_a_name_that_the_validation_knows(self, modules):
        ready = yaml.safe_load((REPOSITORY / "postfix_mta" / "services.yaml").read_text())
        assert tuple(ready) == modules["mta_settings.problems"].__globals__["_READY"]

    def test_without_a_profile_main_cf_is_what_the_pillar_says(self, render):
        mta = render.mta({"profile": "none", "parameters": {"biff": False}})
        assert mta["main_cf"] == {"biff": False}
        assert mta["mailname"] is None
        assert render.mta({"profile": "none", "mailname": "example.com"})["mailname"] == "example.com"

    def test_without_logins_their_packages_are_not_needed(self, render):
        assert render.mta({"sasl": {"enabled": False}})["packages"] == ["postfix"]

    def test_a_login_at_a_smarthost_needs_them_too(self, render):
        relay = {"host": "x.example", "username": "a", "password": "geheim"}
        assert "libsasl2-modules" in render.mta({"sasl": {"enabled": False}, "relay": relay})["packages"]

    def test_a_certificate_of_somebody_else_has_no_authority(self, render):
        mta = render.mta({"certificate": {"source": "none"}})
        assert mta["ca_file"] is None
        assert mta["main_cf"]["smtpd_tls_cert_file"] == "/etc/ssl/certs/smtpd.crt"

    def test_null_means_the_default(self, render):
        pillar = {"hostname": None, "certificate": None, "sasl": {"threads": None, "mechanisms": None}}
        assert render.mta(pillar) == render.mta()

    @pytest.mark.parametrize(
        ("os_family", "key", "smtpd_conf", "mailname"),
        [
            ("Debian", "/etc/ssl/private/smtpd.key", "/etc/postfix/sasl/smtpd.conf", "/etc/mailname"),
            ("RedHat", "/etc/pki/tls/private/smtpd.key", "/etc/sasl2/smtpd.conf", None),
            ("Suse", "/etc/postfix/ssl/smtpd.key", "/etc/sasl2/smtpd.conf", None),
        ],
    )
    def test_a_family_has_its_own_paths_under_the_pillar(self, render, os_family, key, smtpd_conf, mailname):
        mta = render.mta(os_family=os_family)
        assert mta["certificate"]["key"] == key
        assert mta["family"]["smtpd_conf"] == smtpd_conf
        assert mta["family"]["mailname_file"] == mailname
        assert bool(mta["debconf"]) is (os_family == "Debian")
        assert mta["family"].keys() == {*render.mta()["family"]}
        assert render.mta({"certificate": {"key": "/x"}}, os_family=os_family)["certificate"]["key"] == "/x"

    def test_an_unknown_family_renders_so_that_it_can_be_refused(self, render):
        assert render.mta(os_family="Arch")["family"] == render.mta()["family"]

    def test_secrets_are_replaced_by_their_pillar_paths(self, render):
        mta = render.mta(
            {
                "certificate": {"ca": {"passphrase": "geheim"}},
                "verify": {"login": {"username": "alice", "password": "geheim"}},
            }
        )
        assert "geheim" not in str(mta)
        assert mta["certificate"]["ca"]["passphrase_pillar"] == "postfix_mta:certificate:ca:passphrase"
        assert mta["verify"]["login_pillar"] == "postfix_mta:verify:login"

    def test_no_secret_of_a_relay_is_left_however_broken_it_is(self, render):
        for relay in (
            {"host": "x", "username": "a", "password": "geheim"},
            {"password": "geheim"},
            {"senders": {"a@b.example": {"username": "a", "password": "geheim"}, "c@d.example": "geheim"}},
            {"senders": {"a@b.example": {"host": "geheim-not", "password": "geheim"}}, "ca_file": ["geheim"]},
        ):
            assert "geheim" not in str(render.mta({"relay": relay})).replace("geheim-not", "")

    def test_a_minion_that_never_synced_gets_the_same(self, opts, render):
        fresh = Renderer(opts, synced=False)
        pillar = {"hostname": "mx.example.org", "verify": {"login": {"username": "a", "password": "b"}}}
        assert fresh.mta(pillar) == {**render.mta(pillar), "synced": False}
        assert "mta_settings.effective" not in fresh.functions
        assert fresh.parameters(pillar) == render.parameters(pillar)

    def test_with_salt_ssh_the_settings_are_made_where_it_renders(self, opts, render):
        pillar = {"services": {"submission": True}, "verify": {"login": {"username": "a", "password": "geheim"}}}
        master = Renderer({**opts, "__master_opts__": {}})
        ordinary, over_ssh = render.mta(pillar), master.mta(pillar)
        assert over_ssh.pop("packages") == [*ordinary.pop("packages"), "python3-cryptography", "python3-openssl"]
        assert over_ssh == {**ordinary, "beacon": None, "schedule": None}
        assert "geheim" not in str(over_ssh)

    def test_a_run_reads_the_formulas_files_once(self, render, monkeypatch):
        render.load(None, {"os_family": "Debian", "fqdn": "mail.example.com"})
        module = render.functions["mta_settings.effective"].__globals__
        opened, read = module["_fopen"], []
        monkeypatch.setitem(module, "_fopen", lambda path, **how: read.append(path) or opened(path, **how))
        for _ in range(7):
            render(f"{PREAMBLE}x: {{{{ mta.hostname | json }}}}")
        names = ["defaults.yaml", "os_family.yaml", "profiles.yaml", "revision.yaml"]
        assert sorted(os.path.basename(path) for path in read) == names

    def test_a_minion_with_older_modules_gets_the_settings_of_the_file_server(self, opts, tmp_path):
        modules = tmp_path / "old"
        shutil.copytree(
            REPOSITORY / "_modules", modules / "_modules", ignore=shutil.ignore_patterns("__pycache__")
        )
        old = modules / "_modules" / "mta_settings.py"
        text = re.sub("(?m)^REVISION = .*", 'REVISION = "0"', old.read_text())
        old.write_text(text.replace('settings["family"] = own["family"]', 'settings["family"] = None'))
        stale = Renderer({**opts, "module_dirs": [str(modules)]})
        current = Renderer(opts).mta()
        assert stale.mta() == {**current, "synced": False}
        assert stale.functions["mta_settings.revision"]() == "0"

    def test_a_minion_that_has_synced_the_execution_modules_alone_is_not_synced(self, opts, tmp_path):
        shutil.copytree(
            REPOSITORY / "_modules", tmp_path / "_modules", ignore=shutil.ignore_patterns("__pycache__")
        )
        half = Renderer({**opts, "module_dirs": [str(tmp_path)]})
        assert half.mta()["synced"] is False
        (tmp_path / "_states").mkdir()
        shutil.copy(REPOSITORY / "_states/mta_settings.py", tmp_path / "_states")
        assert Renderer({**opts, "module_dirs": [str(tmp_path)]}).mta()["synced"] is True

    def test_every_sls_file_asks_in_the_same_words(self):
        for path in (REPOSITORY / "postfix_mta").rglob("*.sls"):
            text = path.read_text()
            assert PREAMBLE in text or not re.search(r"\bmta\.", text), path.name

    def test_only_a_minion_with_other_modules_syncs(self, opts, render, monkeypatch):
        text = (REPOSITORY / "postfix_mta" / "settings.sls").read_text()
        assert "postfix_mta_modules" not in render(text)
        fresh = Renderer(opts, synced=False)
        fresh.load(None, {"os_family": "Debian", "fqdn": "mail.example.com"})
        calls = []
        fresh.functions["saltutil.sync_all"] = lambda **arguments: calls.append(arguments)
        assert fresh(text)["postfix_mta_modules"]["test.nop"][0] == {"force_reload_modules": True}
        assert calls == [{"refresh": False}]


class TestGuideProfile:
    def test_it_gives_the_values_of_the_how_to(self, render):
        parameters = render.parameters()
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

    def test_it_agrees_with_what_the_how_to_gave_by_hand(self, render):
        golden = dict(re.match(r"(\S+) =\s?(.*)", line).groups() for line in GOLDEN.read_text().splitlines())
        golden["mydestination"] = golden["mydestination"].replace(", ,", ",")
        for name, value in render.parameters().items():
            if value is None:
                assert name not in golden
                continue
            text = {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
            assert golden.get(name, "None") == text, name

    def test_without_sasl_nobody_logs_in(self, render):
        assert render.parameters({"sasl": {"enabled": False}})["smtpd_sasl_auth_enable"] is False

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
    def test_chain_files_take_the_place_of_the_two_where_the_key_may_change(self, render, certificate, files):
        parameters = render.parameters({"certificate": certificate})
        assert parameters["smtpd_tls_chain_files"] == files
        assert parameters["smtpd_tls_key_file"] is parameters["smtpd_tls_cert_file"] is None

    def test_pem_text_is_named_by_its_pillar_path_and_a_file_by_its_own(self, render):
        files = {"certificate": "/etc/c.pem", "key": "-----BEGIN PRIVATE KEY-----\ngeheim\n", "chain": "sdb://v/c"}
        mta = render.mta({"certificate": {"source": "files", "files": files}})
        arguments = mta["pairs"][0]["arguments"]
        assert {name: value for name, value in arguments.items() if name.endswith("_source")} == {
            "certificate_source": "/etc/c.pem",
            "key_source": "postfix_mta:certificate:files:key",
            "chain_source": "postfix_mta:certificate:files:chain",
        }
        assert "geheim" not in str(mta)
        assert mta["ca_file"] is None

    def test_a_self_signed_certificate_has_no_authority(self, render):
        assert render.parameters({"certificate": {"source": "self_signed"}})["smtpd_tls_CAfile"] is None

    def test_the_pillar_s_parameters_win(self, render):
        parameters = render.parameters({"parameters": {"inet_interfaces": None, "message_size_limit": 1}})
        assert parameters["inet_interfaces"] is None
        assert parameters["message_size_limit"] == 1

    @pytest.mark.parametrize("profile", ["hardend", "../map", 5, ["guide"]])
    def test_an_unknown_profile_renders_so_that_it_can_be_refused(self, render, profile):
        assert render.parameters({"profile": profile}) == render.parameters()

    def test_it_leaves_master_cf_alone(self, render):
        assert render.mta()["services"] == {}


PROFILES = salt.utils.yaml.safe_load((REPOSITORY / "postfix_mta" / "profiles.yaml").read_text())


class TestHardenedProfile:
    @pytest.fixture
    def hardened(self, render):
        return lambda pillar=None, **host: render.mta({"profile": "hardened", **(pillar or {})}, **host)

    def test_nothing_of_the_other_profile_stays(self):
        for name in ("parameters", "settings", "services", "login_services"):
            assert {*PROFILES["guide"][name]} <= {*PROFILES["hardened"][name]}

    def test_the_profiles_are_those_that_the_pillar_may_name(self, render):
        render.load(None, {"os_family": "Debian", "fqdn": "mail.example.com"})
        assert render.functions["mta_settings.effective"].__globals__["_PROFILES"] == (*PROFILES,)

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
        assert not {"submission/inet", "submissions/inet"} & {*off["of_profile"]}
        assert "submission/inet" in hardened({"sasl": {"type": "dovecot"}})["services"]

    def test_all_files_of_its_pairs_stay(self, hardened, render):
        one = ["/etc/ssl/certs/cacert.pem", "/etc/ssl/certs/smtpd.crt", "/etc/ssl/private/smtpd.key"]
        assert render.mta()["pairs_keep"] == one
        second = ["/etc/ssl/certs/smtpd-2.crt", "/etc/ssl/private/smtpd-2.key", "/etc/ssl/private/smtpd-2.pem"]
        assert hardened()["pairs_keep"] == [*one, "/etc/ssl/private/smtpd.pem", *second]
        taken = {"source": "files", "files": {"certificate": "/c", "key": "-----BEGIN PRIVATE KEY-----\n"}}
        assert render.mta({"certificate": taken})["pairs_keep"] == [*one, "/etc/ssl/private/smtpd.pem", "/c"]

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

    def test_what_is_the_profile_s_own_goes_with_it(self, hardened, render):
        assert {"smtp/inet", "disable_vrfy_command"} <= {*hardened()["of_profile"]}
        assert {*render.mta()["of_profile"]} == {*PROFILES["guide"]["parameters"]}


class TestRelay:
    """What main.cf and the table of logins get from the pillar's relay."""

    def test_without_one_nothing_is_said_of_it(self, render):
        mta = render.mta()
        assert "relay" not in mta
        assert (mta["maps"], mta["maps_keep"], "relayhost" in mta["main_cf"]) == ({}, {}, False)

    def test_a_smarthost_without_login(self, render):
        mta, without = render.mta({"relay": {"host": "smtp.example.net"}}), render.mta()
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
    def test_the_mode_decides_port_and_level(self, render, tls, ca_file, port, level, wrapped):
        parameters = render.parameters({"relay": {"host": "2001:db8::1", "tls": tls, "ca_file": ca_file}})
        assert parameters["relayhost"] == f"[2001:db8::1]:{port}"
        assert parameters["smtp_tls_security_level"] == level
        assert parameters["smtp_tls_wrappermode"] is wrapped
        assert parameters.get("smtp_tls_CAfile") == ca_file
        # Taken out, and not only not given: no other authority is trusted.
        assert ("smtp_tls_CApath" in parameters) is bool(ca_file)
        assert parameters.get("smtp_tls_CApath") is None

    def test_a_login_is_a_pillar_path_by_the_next_hop(self, render):
        mta = render.mta({"relay": {"host": "x.example", "port": 2525, "username": "a", "password": "geheim"}})
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

    def test_senders_have_their_own_hosts_and_logins(self, render):
        senders = {
            "a@b.example": {"username": "a", "password": "geheim"},
            "@c.example": {"host": "c.example", "port": 25},
        }
        mta = render.mta({"relay": {"host": "x.example", "senders": senders}})
        table = "inline:{ {a@b.example = [x.example]:587}, {@c.example = [c.example]:25} }"
        assert mta["main_cf"]["sender_dependent_relayhost_maps"] == table
        assert mta["main_cf"]["smtp_sender_dependent_authentication"] is True
        assert mta["maps"]["relay_passwords"]["logins"] == {"a@b.example": "postfix_mta:relay:senders:a@b.example"}

    def test_without_a_host_for_all_only_the_senders_hosts_demand_tls(self, render):
        parameters = render.parameters({"relay": {"senders": {"@c.example": {"host": "c.example"}}}})
        assert parameters["smtp_tls_policy_maps"] == "inline:{ {[c.example]:587 = encrypt} }"
        assert parameters["smtp_tls_security_level"] == "may"
        assert "relayhost" not in parameters

    def test_the_table_is_beside_those_of_maps(self, render):
        relay = {"host": "x.example", "username": "a", "password": "geheim"}
        mta = render.mta({"relay": relay, "maps": {"virtual": {}, "relay_passwords": {"type": "hash"}}})
        assert list(mta["maps"]) == ["relay_passwords", "virtual"]
        assert "logins" in mta["maps"]["relay_passwords"]


BROKEN = ["text", ["list"], 5, {"sasl": "x"}, {"certificate": {"ca": [1]}}, {"parameters": ["a"]}]
BROKEN += [
    {1: 2, "a": 3},
    {"parameters": {1: 2, "a": "\x00\x7f\ud800"}},
    {"firewall": {"ports": {"append": 1}}},
]
BROKEN += [
    {"hostname": 5},
    {"hostname": "a\nb: c"},
    {"certificate": {"key": "a\nb"}},
    {"sasl": {"mechanisms": None}},
]
BROKEN += [{"relay": "x"}, {"relay": {"senders": {"a": 1, "b": {"host": [1], "port": {}}}, "port": "a", "tls": 7}}]
BROKEN += [{"aliases": {"a": {"b": {"c": object()}}}}, {"root_recipient": ["a"]}, {"verify": {"login": "x"}}]


def files():
    """Every SLS file of the formula but the one that syncs modules, and the profile."""
    names = sorted(path.stem for path in (REPOSITORY / "postfix_mta").glob("*.sls"))
    return [(REPOSITORY / "postfix_mta" / f"{name}.sls").read_text() for name in names]


@pytest.mark.parametrize("pillar", BROKEN, ids=str)
def test_a_broken_pillar_does_not_break_the_rendering(render, pillar):
    for text in files():
        assert isinstance(render(text, pillar), dict)


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=15)
    | st.binary(max_size=5)
    | st.dates(),
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(
            st.text(max_size=8)
            | st.integers()
            | st.sampled_from(["ca", "login", "key", "ports", "enabled", "names"]),
            below,
            max_size=3,
        )
    ),
    max_leaves=8,
)
SECTIONS = [
    "hostname",
    "root_recipient",
    "aliases",
    "profile",
    "parameters",
    "services",
    "unmanaged",
    "certificate",
]
SECTIONS += ["sasl", "firewall", "verify", "relay", "manage_hosts_file"]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pillar=JUNK | st.dictionaries(st.sampled_from(SECTIONS), JUNK, max_size=5))
def test_no_pillar_breaks_the_rendering(render, pillar):
    for text in files():
        assert isinstance(render(text, pillar), dict)
    assert isinstance(render.parameters(pillar), dict)
