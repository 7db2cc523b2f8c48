"""What differs from the defaults: each key of the suite's pillar shows on the host."""

import pytest

from rig.results import failures, state_of

RULES = """\
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -p tcp --dport 22 -j ACCEPT
#  Log iptables denied calls
-A INPUT -j LOG --log-prefix "denied: "
-A INPUT -j DROP
COMMIT
"""
RULES_FILE = "/etc/iptables.firewall.rules"


def test_the_hosts_file_names_the_host(host):
    assert "127.0.1.1\t\tmail.example.com mail" in host.file("/etc/hosts").content_string.replace(
        " mail.", "\t\tmail."
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("message_size_limit", "52428800"),
        ("disable_vrfy_command", "yes"),
        ("mynetworks", "127.0.0.0/8, [::1]/128"),
        ("biff", "yes"),
    ],
)
def test_a_parameter_has_the_value_of_the_pillar(host, name, value):
    assert host.check_output("postconf -h %s", name) == value


def test_a_parameter_that_is_null_is_not_in_main_cf(host):
    assert "biff" not in host.check_output("postconf -n")


def test_the_submission_service_answers(host):
    shown = host.run("echo QUIT | openssl s_client -starttls smtp -connect 127.0.0.1:587 -brief 2>&1").stdout
    assert "CONNECTION ESTABLISHED" in shown
    assert host.check_output("postconf -P submission/inet/smtpd_tls_security_level").endswith("= encrypt")


def test_the_keys_are_elliptic_and_the_certificate_has_all_names(host):
    shown = host.check_output("openssl x509 -noout -text -in /etc/ssl/certs/smtpd.crt")
    for expected in ("id-ecPublicKey", "DNS:mail.example.com", "DNS:smtp.example.com", "O = Example Ltd"):
        assert expected in shown.replace("O=Example Ltd", "O = Example Ltd")


def test_the_authoritys_key_is_encrypted_with_the_passphrase(host):
    key = "/etc/ssl/private/cakey.pem"
    assert "ENCRYPTED" in host.file(key).content_string
    assert host.run("openssl pkey -noout -in %s -passin pass:not-in-any-log", key).rc == 0
    assert host.run("openssl pkey -noout -in %s -passin pass:another", key).rc != 0


def test_the_passphrase_is_in_no_log_and_no_state(host, container):
    container.exec(["salt-call", "--local", f"--config-dir={container.root}etc/salt", "-l", "trace", "state.apply",
                    "postfix_mta", "--log-file=/var/log/salt-trace", "--log-file-level=all"])  # fmt: skip
    found = host.run(
        "grep -rlF not-in-any-log /var/log /var/cache/salt /var/lib/postfix_mta /etc /run 2>/dev/null"
    )
    assert found.stdout.split() in ([], ["/var/log/salt-trace"])
    lines = host.run("grep -F not-in-any-log /var/log/salt-trace").stdout.splitlines()
    assert [line for line in lines if "mta_" in line or "postfix_mta/" in line] == []


@pytest.mark.parametrize(
    "line",
    ["root:", "postmaster:", "abuse:", '"quoted user":'],
)
def test_the_aliases_are_there(host, line):
    assert any(text.startswith(line) for text in host.file("/etc/aliases").content_string.splitlines())


def test_aliases_are_looked_up(host):
    assert host.check_output("postalias -q abuse /etc/aliases").replace(" ", "") == "root,bob"
    assert host.check_output("postalias -q 'quoted user' /etc/aliases") == '"|/usr/bin/logger -t quoted"'


def test_the_socket_directory_is_closed_to_others_and_open_to_postfix(host):
    directory = host.file("/var/spool/postfix/var/run/saslauthd")
    assert (directory.mode, directory.user, directory.group) == (0o710, "root", "sasl")
    assert "postfix" in host.group("sasl").members


def test_threads_are_what_the_pillar_says(host):
    assert len(host.check_output("pgrep saslauthd").split()) == 2


class TestCertificate:
    """A pair that is not good is renewed; an authority that cannot sign is never overwritten."""

    def test_a_pair_that_does_not_match_is_renewed(self, host, container):
        key = "/etc/ssl/private/smtpd.key"
        host.check_output("openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out %s", key)
        results = container.apply()
        assert state_of(results, "postfix_mta_certificate")["changes"]
        assert all(state["result"] for state in results.values())
        assert not any(state["changes"] for state in container.apply().values())

    def test_an_authority_without_its_key_is_an_error_and_nothing_changes(self, host, container):
        host.check_output("mv /etc/ssl/private/cakey.pem /root/ && rm /etc/ssl/certs/smtpd.crt")
        before = host.check_output("sha256sum /etc/ssl/certs/cacert.pem /etc/postfix/main.cf")
        failed = state_of(container.apply(), "postfix_mta_ca")
        assert failed["result"] is False
        assert "/etc/ssl/private/cakey.pem" in failed["comment"]
        assert host.check_output("sha256sum /etc/ssl/certs/cacert.pem /etc/postfix/main.cf") == before
        assert not host.file("/etc/ssl/private/cakey.pem").exists
        host.check_output("mv /root/cakey.pem /etc/ssl/private/")
        assert all(state["result"] for state in container.apply().values())


class TestSecretsOfTheAuthority:
    """What is kept for an undo and a roll back does not outlive the change that was to protect it."""

    KEY = "/etc/ssl/private/cakey.pem"

    @pytest.fixture
    def forms(self, host):
        """How often the stores have the authority's key: not encrypted, and opened by a passphrase."""
        own = host.check_output(f"openssl pkey -in {self.KEY} -passin pass:not-in-any-log -pubout")

        def count(passphrase):
            files = host.run("grep -rlF 'PRIVATE KEY' /var/lib/postfix_mta").stdout.split()
            shown = [host.run("openssl pkey -in %s -passin pass:%s -pubout", path, passphrase) for path in files]
            return [path for path, done in zip(files, shown) if done.rc == 0 and done.stdout.strip() == own]

        return count

    def test_a_key_that_was_not_encrypted_is_in_no_store_once_it_is(self, host, container, forms):
        host.check_output(
            f"umask 077; openssl pkey -in {self.KEY} -passin pass:not-in-any-log -out /root/open.pem"
            f" && cp /root/open.pem {self.KEY} && rm /root/open.pem"
        )
        assert "ENCRYPTED" not in host.file(self.KEY).content_string
        done = state_of(container.apply(), "postfix_mta_ca")
        assert done["result"] is True and self.KEY in done["changes"]
        assert "ENCRYPTED" in host.file(self.KEY).content_string
        assert forms("none") == []
        locked = host.file(self.KEY).content_string
        refused = container.call("mta_transaction.roll_back")
        assert refused["result"] is False
        assert f"{self.KEY} stays as it is: it was encrypted" in refused["comment"]
        assert host.file(self.KEY).content_string == locked
        assert not any(state["changes"] for state in container.apply().values())

    def test_a_change_of_the_passphrase_leaves_none_that_the_former_one_opens(
        self, host, container, instance, forms
    ):
        pillar = instance.provisioner["pillars"]["postfix_mta.sls"]["postfix_mta"]
        for new, former in (("another-one", "not-in-any-log"), ("not-in-any-log", "another-one")):
            ca = {"passphrase": new, "previous_passphrase": former}
            certificate = {**pillar["certificate"], "ca": ca}
            results = container.apply(pillar={"postfix_mta": {**pillar, "certificate": certificate}})
            assert all(state["result"] for state in results.values())
            assert forms(former) == []
            assert host.run(f"openssl pkey -noout -in {self.KEY} -passin pass:{new}").rc == 0
        container.set_pillar({"postfix_mta": pillar})
        assert not any(state["changes"] for state in container.apply().values())


@pytest.mark.parametrize(
    "command",
    [
        ["mta_apply.commit"],
        [
            "mta_apply.participate",
            "mta_aliases.managed",
            "/etc/aliases",
            '{"aliases": {"x": "bob"}}',
            "transaction=t",
        ],
        ["mta_apply.converge", "mta_beacon.managed", "x", "{}", "test=False", "subject=x"],
        ["mta_package.converge", "[postfix]", "{}", "mail.example.com", "/etc/mailname", "test=False"],
        ["mta_apply.undo", "no reason"],
    ],
    ids=lambda command: command[0],
)
def test_a_part_of_an_apply_is_no_command(host, container, command):
    before = host.check_output("sha256sum /etc/aliases /etc/postfix/main.cf /var/lib/postfix_mta/previous/left")
    config = f"--config-dir={container.root}etc/salt"
    done = container.exec(["salt-call", "--local", config, *command], check=False)
    assert done.returncode != 0
    assert "is for states" in done.stdout + done.stderr
    assert "PRIVATE KEY" not in done.stdout and "not-in-any-log" not in done.stdout + done.stderr
    assert not host.file("/var/lib/postfix_mta/journal").exists
    after = host.check_output("sha256sum /etc/aliases /etc/postfix/main.cf /var/lib/postfix_mta/previous/left")
    assert after == before


class TestUnmanaged:
    """What main.cf and master.cf hold that neither the pillar nor the package names."""

    @pytest.fixture
    def by_hand(self, host):
        host.check_output("postconf -e 'maximal_backoff_time = 1h' 'delay_warning_time = 4h'")
        host.check_output(
            "postconf -Me 'byhand/unix=byhand unix - n n - - pipe flags=q user=nobody argv=/bin/true'"
        )
        yield ("maximal_backoff_time", "delay_warning_time", "byhand/unix")
        host.run("postconf -X maximal_backoff_time delay_warning_time; postconf -MX byhand/unix")

    @pytest.fixture
    def apply(self, container, instance):
        pillar = instance.provisioner["pillars"]["postfix_mta.sls"]["postfix_mta"]

        def with_unmanaged(unmanaged, **kwargs):
            settings = {**pillar, "unmanaged": unmanaged}
            return state_of(container.apply(pillar={"postfix_mta": settings}, **kwargs), "postfix_mta_config")

        yield with_unmanaged
        container.set_pillar({"postfix_mta": pillar})

    def test_keep_leaves_it(self, apply, by_hand):
        done = apply("keep")
        assert (done["result"], done["changes"]) == (True, {})
        assert not any(name in done["comment"] for name in by_hand)

    def test_warn_lists_it(self, apply, by_hand):
        done = apply("warn")
        assert (done["result"], done["changes"]) == (True, {})
        assert all(name in done["comment"] for name in by_hand)

    def test_remove_takes_it_out_and_leaves_what_the_package_has(self, host, apply, by_hand):
        before = host.check_output("postconf -n; postconf -M").splitlines()
        predicted = apply("remove", test=True)
        done = apply("remove")
        assert done["result"] is True
        assert done["changes"] == predicted["changes"]
        gone = set(before) - set(host.check_output("postconf -n; postconf -M").splitlines())
        assert len(gone) == 3
        assert all(any(name.partition("/")[0] in line for line in gone) for name in by_hand)
        assert apply("remove")["changes"] == {}


# virtual(8) has no default for where mailboxes are.
VIRTUAL = {
    "virtual_mailbox_domains": "virtual.example.com",
    "virtual_mailbox_maps": "inline:{ info@virtual.example.com=info/ }",
    "virtual_mailbox_base": "/srv/virtual",
    "virtual_uid_maps": "static:5000",
    "virtual_gid_maps": "static:5000",
    "virtual_mailbox_limit": 0,
}


class TestWhatLeavesThePillar:
    """It leaves the host: in one apply, as predicted, and what somebody has changed since stays."""

    def look(self, host):
        """All of main.cf and master.cf, and the aliases, in an order of their own."""
        return {
            "main": {*host.check_output("postconf -n").splitlines()},
            "master": {*host.check_output("postconf -P; postconf -F").splitlines()},
            "aliases": {*host.check_output("postalias -s /etc/aliases | grep -v YP_").splitlines()},
            "table": host.file("/etc/postfix/relay_passwords").exists,
        }

    @pytest.fixture
    def pillar(self, container, instance):
        pillar = instance.provisioner["pillars"]["postfix_mta.sls"]["postfix_mta"]
        yield pillar
        container.set_pillar({"postfix_mta": pillar})
        assert all(state["result"] for state in container.apply().values())

    def test_all_of_it_is_as_before_and_what_somebody_has_changed_stays(self, host, container, pillar):
        host.check_output("postconf -e delay_warning_time=4h && postconf -Pe smtp/inet/biff=no")
        before = self.look(host)
        more = {
            "relay": {
                "host": "127.0.0.1",
                "port": 2599,
                "tls": "none",
                "username": "alice",
                "password": "not-in-any-log",
            },
            # Nobody is there.
            "verify": {"relay": False},
            "parameters": {**pillar["parameters"], "delay_warning_time": "5h", "bounce_queue_lifetime": "1d"},
            "services": {
                "submission/inet": {**pillar["services"]["submission/inet"], "process_limit": 7},
                "smtp/inet": {"process_limit": 50, "overrides": {"biff": True, "syslog_name": "in"}},
                "10027/inet": {
                    "command": "smtpd",
                    "chroot": True,
                    "process_limit": 3,
                    "overrides": {"syslog_name": "own"},
                },
            },
            "aliases": {"abuse": "root", "quoted user": None, "extra": "bob"},
        }
        results = container.apply(pillar={"postfix_mta": {**pillar, **more}})
        assert failures(results) == []
        changed = self.look(host)
        assert "relayhost = [127.0.0.1]:2599" in changed["main"] and changed["table"]
        host.check_output("postconf -e bounce_queue_lifetime=2d")
        predicted = container.apply(test=True, pillar={"postfix_mta": pillar})
        results = container.apply()
        assert failures(results) == []
        for name in ("postfix_mta_config", "postfix_mta_aliases", "postfix_mta_maps"):
            assert state_of(results, name)["changes"] == state_of(predicted, name)["changes"], name
        comment = state_of(results, "postfix_mta_config")["comment"]
        assert "Not restored, as somebody has changed it since: bounce_queue_lifetime" in comment
        assert self.look(host) == {**before, "main": {*before["main"], "bounce_queue_lifetime = 2d"}}
        again = container.apply()
        assert not any(state["changes"] for state in again.values())
        assert "Not restored" not in str(again)
        host.check_output("postconf -X bounce_queue_lifetime")

    def test_virtual_mailboxes_leave_it_too(self, host, container, pillar):
        before = self.look(host)
        host.check_output("install --directory --owner=5000 --group=5000 /srv/virtual")
        parameters = {**pillar["parameters"], **VIRTUAL}
        assert failures(container.apply(pillar={"postfix_mta": {**pillar, "parameters": parameters}})) == []
        assert failures(container.apply(pillar={"postfix_mta": pillar})) == []
        assert self.look(host) == before

    def test_without_records_of_an_older_version_and_with_another_profile_at_once(self, host, container, pillar):
        # What was set by hand is no longer known after that.
        host.check_output("postconf -X delay_warning_time")
        before = self.look(host)
        parameters = {**pillar["parameters"], "delay_warning_time": "5h", "smtpd_helo_required": False}
        older = {
            "postfix_mta": {**pillar, "parameters": parameters, "aliases": {**pillar["aliases"], "older": "bob"}}
        }
        assert failures(container.apply(pillar=older)) == []
        host.check_output("rm /var/lib/postfix_mta/postconf.json /var/lib/postfix_mta/aliases.json")
        adopted = container.apply()
        assert failures(adopted) == [] and not any(state["changes"] for state in adopted.values())

        one_key = {**pillar["certificate"], "second": {"key_type": "none"}}
        hardened = {"postfix_mta": {**pillar, "profile": "hardened", "certificate": one_key}}
        predicted = container.apply(test=True, pillar=hardened)
        results = container.apply()
        assert failures(results) == []
        for name in ("postfix_mta_config", "postfix_mta_aliases"):
            assert state_of(results, name)["changes"] == state_of(predicted, name)["changes"], name
        now = self.look(host)
        assert "smtpd_helo_required = yes" in now["main"]
        assert not [line for line in now["main"] if line.startswith("delay_warning_time")]
        assert now["aliases"] == before["aliases"]
        assert failures(container.apply(pillar={"postfix_mta": pillar})) == []
        assert self.look(host) == before
        host.check_output("postconf -e delay_warning_time=4h")


class TestLogin:
    """verify.login: the conversation logs in, and a wrong password undoes the change that it came with."""

    @pytest.fixture
    def apply(self, host, container, instance):
        host.check_output("useradd --create-home carol && echo carol:right-password | chpasswd")
        pillar = instance.provisioner["pillars"]["postfix_mta.sls"]["postfix_mta"]

        def with_login(password, **more):
            verify = {**pillar["verify"], "login": {"username": "carol", "password": password}}
            return container.apply(pillar={"postfix_mta": {**pillar, "verify": verify, **more}})

        yield with_login
        container.set_pillar({"postfix_mta": pillar})
        host.check_output("userdel --remove carol")

    def test_a_right_password_passes_and_is_not_shown(self, apply):
        results = apply("right-password")
        assert all(state["result"] for state in results.values())
        assert "235" in state_of(results, "postfix_mta_verified")["comment"]
        assert "right-password" not in str(results)

    def test_users_log_in_where_main_cf_does_not_say_where_smtpd_conf_is(self, host, apply):
        host.run("postconf -X cyrus_sasl_config_path && postfix reload")
        results = apply("right-password")
        assert all(state["result"] for state in results.values()), results
        assert "235" in state_of(results, "postfix_mta_verified")["comment"]

    def test_a_wrong_password_undoes_the_change(self, host, apply):
        before = host.file("/etc/aliases").content_string
        results = apply("wrong-password", aliases={"another": "bob"})
        failed = state_of(results, "postfix_mta_committed")
        assert (failed["result"], failed["changes"]) == (False, {})
        assert "535" in failed["comment"]
        assert "wrong-password" not in str(results)
        assert host.file("/etc/aliases").content_string == before


class TestFirewall:
    """The how-to's ports in the how-to's rules file."""

    def test_ports_go_before_the_log_line_once_and_are_loaded(self, host, container):
        container.put({RULES_FILE: RULES})
        host.check_output("iptables-restore < %s", RULES_FILE)
        predicted = state_of(container.apply(test=True), "postfix_mta_firewall")
        assert predicted["result"] is None
        done = state_of(container.apply(), "postfix_mta_firewall")
        assert done["changes"] == predicted["changes"]
        lines = host.file(RULES_FILE).content_string.splitlines()
        for port in (25, 110, 995, 143, 993):
            rule = f"-A INPUT -p tcp --dport {port} -j ACCEPT"
            assert lines.count(rule) == 1
            assert lines.index(rule) < lines.index("#  Log iptables denied calls")
            assert f"--dport {port} -j ACCEPT" in host.check_output("iptables -S INPUT")
        assert not any(state["changes"] for state in container.apply().values())

    def test_a_bad_rules_file_is_left_and_the_running_rules_stay(self, host, container):
        host.check_output(
            "sed -i '/postfix_mta: begin/,/postfix_mta: end/d; s/^-A INPUT -i lo.*/-A INPUT -i/' %s", RULES_FILE
        )
        before = host.file(RULES_FILE).content_string, host.check_output("iptables -S")
        failed = state_of(container.apply(), "postfix_mta_firewall")
        assert failed["result"] is False
        assert (host.file(RULES_FILE).content_string, host.check_output("iptables -S")) == before
        container.put({RULES_FILE: RULES})
        assert all(state["result"] for state in container.apply().values())


class TestClean:
    """.clean undoes what the formula did."""

    def test_clean_puts_everything_back_and_keeps_mail(self, host, container):
        host.check_output("mkdir -p /var/mail-kept && echo kept > /var/mail-kept/message")
        predicted = container.apply(test=True, sls="postfix_mta.clean")
        results = container.apply(sls="postfix_mta.clean")
        assert all(state["result"] for state in results.values()), results
        changed = {name for name, state in results.items() if state["changes"]}
        assert changed == {name for name, state in predicted.items() if state["changes"]}
        shown = host.check_output("postconf -n; postconf -M")
        for gone in ("smtpd_sasl_auth_enable = yes", "message_size_limit", "submission"):
            assert gone not in shown
        # Somebody has set it by hand: TestWhatLeavesThePillar.
        assert "delay_warning_time = 4h" in shown
        assert "abuse" not in host.check_output("postalias -s /etc/aliases")
        for path in ("/etc/ssl/certs/smtpd.crt", "/etc/postfix/sasl/smtpd.conf"):
            assert not host.file(path).exists
        # Somebody has replaced it since: test_a_pair_that_does_not_match_is_renewed.
        assert host.file("/etc/ssl/private/smtpd.key").exists
        assert "/etc/ssl/private/smtpd.key stays" in state_of(results, "postfix_mta_clean")["comment"]
        # Nobody else can sign in the authority's place.
        assert host.file("/etc/ssl/private/cakey.pem").mode == 0o600
        assert "/etc/ssl/private/cakey.pem" in state_of(results, "postfix_mta_clean")["comment"].splitlines()[-1]
        assert not host.service("saslauthd").is_running
        assert host.service("postfix").is_running
        assert "--dport 25" not in host.file(RULES_FILE).content_string
        assert not any(state["changes"] for state in container.apply(sls="postfix_mta.clean").values())

    def test_an_apply_after_a_clean_makes_the_server_again(self, container):
        assert all(state["result"] for state in container.apply().values())
        assert not any(state["changes"] for state in container.apply().values())


def test_beacon_and_schedule_are_in_the_minions_configuration(container):
    configured = container.call("mta_beacon.configured")
    assert (configured["interval"], configured["queue_limit"]) == (60, 50)
    assert configured["saslauthd"].endswith("/mux")
    assert container.call("mta_schedule.configured")["splay"] == 1200
    files = container.exec(f"ls {container.root}etc/salt/minion.d").stdout.split()
    assert files == ["postfix_mta.conf", "postfix_mta_schedule.conf"]
