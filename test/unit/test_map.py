"""The settings and the profile, rendered by Salt as SLS files do, for each family of operating systems."""

import pathlib
import re
import shutil

import pytest
import salt.fileclient
import salt.loader
import salt.template
import salt.utils.yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
RESTRICTIONS = "permit_sasl_authenticated,permit_mynetworks,reject_unauth_destination"
# How every SLS file begins.
PREAMBLE = """\
{%- if "mta_settings.effective" in salt %}{% set mta = salt["mta_settings.effective"](saltenv) %}
{%- else %}{% from "postfix_mta/map.jinja" import mta with context %}{% endif %}
"""
GOLDEN = REPOSITORY.parent / "shared" / "golden" / "debian-12.postconf-n.txt"


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

    def test_a_minion_that_never_synced_gets_the_same(self, opts, render):
        fresh = Renderer(opts, synced=False)
        pillar = {"hostname": "mx.example.org", "verify": {"login": {"username": "a", "password": "b"}}}
        assert fresh.mta(pillar) == {**render.mta(pillar), "synced": False}
        assert "mta_settings.effective" not in fresh.functions
        assert fresh.parameters(pillar) == render.parameters(pillar)

    def test_a_run_reads_the_formulas_files_once(self, render, monkeypatch):
        render.load(None, {"os_family": "Debian", "fqdn": "mail.example.com"})
        module = render.functions["mta_settings.effective"].__globals__
        read, asked = module["_read"], []
        monkeypatch.setitem(module, "_read", lambda url, saltenv: asked.append(url) or read(url, saltenv))
        for _ in range(7):
            render(f"{PREAMBLE}x: {{{{ mta.hostname | json }}}}")
        names = ("defaults", "os_family", "profiles", "revision")
        assert sorted(asked) == [f"salt://postfix_mta/{name}.yaml" for name in names]

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

    def test_every_sls_file_asks_in_the_same_words(self):
        for path in (REPOSITORY / "postfix_mta").rglob("*.sls"):
            text = path.read_text()
            assert PREAMBLE in text or not re.search(r"\bmta\.(?!sls)", text), path.name

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

    @pytest.mark.skipif(not GOLDEN.exists(), reason="the golden files are not here")
    def test_it_agrees_with_what_the_how_to_gave_by_hand(self, render):
        golden = dict(re.match(r"(\S+) =\s?(.*)", line).groups() for line in GOLDEN.read_text().splitlines())
        golden["mydestination"] = golden["mydestination"].replace(", ,", ",")
        for name, value in render.parameters().items():
            if value is None:
                assert name not in golden
                continue
            text = {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
            assert golden[name] == text, name

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

    @pytest.mark.parametrize("profile", ["hardened", "../map", 5, ["guide"]])
    def test_an_unknown_profile_renders_so_that_it_can_be_refused(self, render, profile):
        assert render.parameters({"profile": profile}) == render.parameters()


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
SECTIONS += ["sasl", "firewall", "verify", "manage_hosts_file"]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pillar=JUNK | st.dictionaries(st.sampled_from(SECTIONS), JUNK, max_size=5))
def test_no_pillar_breaks_the_rendering(render, pillar):
    for text in files():
        assert isinstance(render(text, pillar), dict)
    assert isinstance(render.parameters(pillar), dict)
