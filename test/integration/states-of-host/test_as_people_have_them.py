"""
A host as people have it: two Postfix instances, files whose last line does not end, aliases elsewhere, a listener
of an old name, a company's authority, options of saslauthd added by hand. IPv6 is off, and localhost has ::1.
"""

import ipaddress

import pytest

from rig import results

OVER_IPV6 = """
import smtplib
with smtplib.SMTP("::1") as client:
    client.ehlo("mail.example.com")
    client.mail("alice@mail.example.com")
    print(client.rcpt("somebody@example.net")[0])
"""
NETWORKS = [str(network) for network in ipaddress.ip_network("10.0.0.0/8").subnets(new_prefix=22)][:12000]
PASSWORD = "not-in any#log"
SETUP = f"""
set -e; export DEBIAN_FRONTEND=noninteractive
apt-get -qq update; apt-get -qq -y --no-install-recommends install postfix sasl2-bin openssl >/dev/null
postmulti -e init; postmulti -I postfix-out -G out -e create
mkdir /etc/corp /etc/mail; cd /etc/corp; groupadd keys
openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 900 -subj /CN=Corporate 2>/dev/null
openssl req -newkey rsa:2048 -nodes -keyout mail.key -subj /CN=mail.example.com -out mail.csr 2>/dev/null
echo subjectAltName=DNS:mail.example.com >ext
openssl x509 -req -in mail.csr -CA ca.pem -CAkey ca.key -extfile ext -days 300 -out mail.pem 2>/dev/null
chgrp keys mail.key; chmod 640 mail.key
useradd --create-home alice; useradd --badname --no-create-home alice@example.org
echo 'alice@example.org:{PASSWORD}' | chpasswd
printf 'postmaster: root\\nroot: alice' >/etc/mail/aliases; echo 'team: alice' >/etc/mail/lists
postconf -e 'alias_maps = hash:/etc/mail/aliases, hash:/etc/mail/lists' 'alias_database = $alias_maps'
postconf -M smtps/inet='smtps inet n - y - - smtpd -o smtpd_tls_wrappermode=yes'
for file in main master; do printf %s "$(cat /etc/postfix/$file.cf)" >/etc/postfix/$file.cf; done
sed -i 's/^OPTIONS=.*/OPTIONS="-c -O none -m \\/var\\/run\\/saslauthd"/' /etc/default/saslauthd
newaliases; systemctl restart postfix
cat /etc/postfix-out/*.cf >/root/other-instance
"""
PILLAR = {
    "postfix_mta": {
        "hostname": "mail.example.com",
        "root_recipient": "alice",
        "aliases": {"people": "alice"},
        "parameters": {"mynetworks": ["127.0.0.0/8", *NETWORKS]},
        "services": {"submissions": True},
        "certificate": {
            "source": "files",
            "files": {
                "certificate": "/etc/corp/mail.pem",
                "key": "/etc/corp/mail.key",
                "chain": "/etc/corp/ca.pem",
            },
        },
        "sasl": {"combine_realm": True},
        "verify": {"login": {"username": "alice@example.org", "password": PASSWORD}},
    }
}


@pytest.fixture(scope="module")
def host(new_container):
    host = new_container("debian-12-salt-3008", hostname="web3.internal.example.net")
    host.exec(SETUP)
    return host


@pytest.fixture(scope="module")
def applied(host):
    """What the dry run and the apply say."""
    return host.apply(pillar=PILLAR, test=True), host.apply()


def test_it_comes_over_as_the_dry_run_says(host, applied):
    prediction, reality = applied
    assert not results.failures(prediction) + results.failures(reality)
    assert not results.difference(prediction, reality) + results.other_items(prediction, reality)
    again = host.apply()
    assert not results.failures(again) and not results.changed(again)


def test_only_the_default_instance_is_changed_and_judged(host, applied):
    assert "not the instances in /etc/postfix-out" in results.state_of(applied[1], "postfix_mta_config")["comment"]
    host.exec("cat /etc/postfix-out/*.cf | cmp - /root/other-instance")


def test_files_whose_last_line_did_not_end_are_whole(host, applied):
    shown = host.exec("postconf -n mydestination recipient_delimiter inet_protocols").stdout
    assert "recipient_delimiter = +\n" in shown
    assert "inet_protocols = all\n" in shown
    assert len(host.exec("postconf -h mynetworks").stdout.split()) == 12001
    assert "submissions inet" in " ".join(host.exec("postconf -M").stdout.split())
    assert "smtps" not in host.exec("postconf -M").stdout


def test_aliases_are_where_they_are_looked_up(host, applied):
    assert "people" not in host.exec("cat /etc/aliases").stdout
    assert host.exec("postalias -q people hash:/etc/mail/aliases").stdout == "alice\n"
    assert host.exec("cat /etc/mail/aliases").stdout.splitlines() == [
        "postmaster: root",
        "root: alice",
        "people: alice",
    ]


def test_a_companys_authority_and_a_key_for_a_group_are_taken_with_a_warning(host, applied):
    comment = results.state_of(applied[1], "postfix_mta_certificate")["comment"]
    assert "clients that check strictly refuse the authority CN=Corporate" in comment
    assert "/etc/corp/mail.key can be read by the group keys" in comment


def test_users_log_in_with_their_whole_address_and_options_by_hand_stay(host, applied):
    running = host.exec("pgrep -ax saslauthd").stdout
    assert " -r" in running and "-O none" in running
    assert host.call("saslauthd.authenticate", "alice@example.org", PASSWORD) is True


def test_once_it_has_ipv6_its_programs_may_send_over_that_too(host, applied):
    host.exec("mount -o remount,rw /proc/sys && sysctl -qw net.ipv6.conf.all.disable_ipv6=0")
    pillar = {"postfix_mta": {**PILLAR["postfix_mta"], "parameters": {}}}
    prediction, reality = host.apply(pillar=pillar, test=True), host.apply()
    assert not results.failures(reality) + results.difference(prediction, reality)
    assert host.exec("postconf -h mynetworks").stdout == "127.0.0.0/8 [::1]/128\n"
    assert host.exec(["python3", "-c", OVER_IPV6]).stdout == "250\n"
