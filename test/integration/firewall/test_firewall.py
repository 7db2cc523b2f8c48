"""
Each firewall in turn, with its real tools: packets decide what is open, for a client in a network of its own.

The host has no Postfix: master.cf alone says what its listeners are, and small servers stand in for them.
"""

import json

import pytest

from rig.results import state_of

ADDRESSES = ("192.0.2.1", "2001:db8::1")
OPEN, CLOSED = (25, 587), (2500, 10025)

MASTER_CF = """\
smtp       inet  n       -       y       -       -       smtpd
submission inet  n       -       y       -       -       smtpd
127.0.0.1:10025 inet n   -       y       -       -       smtpd
pickup     unix  n       -       y       60      1       pickup
"""
PEER = """
mount -o remount,rw /proc/sys
ip netns add client
ip link add host0 type veth peer name client0 netns client
sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.host0.disable_ipv6=0
ip addr add 192.0.2.1/24 dev host0
ip addr add 2001:db8::1/64 dev host0 nodad
ip link set host0 up
ip -n client addr add 192.0.2.2/24 dev client0
ip -n client addr add 2001:db8::2/64 dev client0 nodad
ip -n client link set client0 up
"""
SERVER = """
import select, socket
servers = [socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) for port in PORTS]
while True:
    for server in select.select(servers, [], [])[0]:
        server.accept()[0].close()
""".replace("PORTS", str([*OPEN, *CLOSED]))
CLIENT = """
import concurrent.futures, json, socket
def reached(target):
    try:
        socket.create_connection(target, 1).close()
        return True
    except OSError:
        return False
targets = [(address, port) for address in ADDRESSES for port in PORTS]
with concurrent.futures.ThreadPoolExecutor(len(targets)) as pool:
    print(json.dumps([target for target, there in zip(targets, pool.map(reached, targets)) if there]))
""".replace("PORTS", str([*OPEN, *CLOSED])).replace("ADDRESSES", str(ADDRESSES))
SAVED = "nftables.conf ufw firewalld iptables.firewall.rules ip6tables.firewall.rules"
EVERYTHING_OPEN = sorted([address, port] for address in ADDRESSES for port in OPEN)
NO_FIREWALL = sorted([address, port] for address in ADDRESSES for port in [*OPEN, *CLOSED])

RULES = """\
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m state --state ESTABLISHED,RELATED -j ACCEPT
-A INPUT -p ICMP -j ACCEPT
-A INPUT -p tcp --dport 22 -j ACCEPT
#  Log iptables denied calls
-A INPUT -m limit --limit 5/min -j LOG --log-prefix "denied: "
-A INPUT -j DROP
COMMIT
"""
BOOT_UNIT = """\
[Unit]
DefaultDependencies=no
Before=network-pre.target
[Service]
Type=oneshot
ExecStart=/usr/sbin/iptables-restore /etc/iptables.firewall.rules
ExecStart=/usr/sbin/ip6tables-restore /etc/ip6tables.firewall.rules
[Install]
WantedBy=multi-user.target
"""
RULESET = """\
#!/usr/sbin/nft -f
flush ruleset

table inet filter {
	set banned {
		type ipv4_addr
		elements = { 203.0.113.7 }
	}
	chain input {
		type filter hook input priority filter; policy drop;
		ct state vmap { established : accept, related : accept, invalid : drop }
		iif lo accept
		meta l4proto { icmp, ipv6-icmp } accept
		ip saddr @banned drop
		tcp dport 22 accept
		# What is left
		counter reject
	}
}
"""
# firewalld itself sometimes writes a zone's file anew, and then spells out a default that was not there.
FIREWALLS = {
    "nftables": {
        "files": {"/etc/nftables.conf": RULESET},
        "start": """
            systemctl enable -q --now nftables
            nft 'add table ip others; add chain ip others c { type filter hook input priority -5; }
                 add rule ip others c ip saddr 203.0.113.8 drop'
        """,
        "bad": "echo 'table inet broken { chain x { no such rule; }; }' >> /etc/nftables.conf",
        "rules": "nft -s list ruleset | grep -v postfix_mta; grep -v postfix_mta /etc/nftables.conf",
        "off": "nft flush ruleset",
        "stop": "systemctl disable -q --now nftables",
    },
    "ufw": {
        "files": {},
        "start": "ufw allow 22/tcp; ufw deny from 203.0.113.7; ufw deny from any; ufw --force enable",
        "bad": "sed -i 's/^### tuple ### allow tcp 22 /### tuple ### allow tcp 22x /' /etc/ufw/user.rules",
        "rules": r"""
            { iptables -S; ip6tables -S; } | grep -v -- '-dports \(25\|110\)'
            grep -v -e 25,587 -e 110,587 -e '^$' /etc/ufw/user.rules /etc/ufw/user6.rules
        """,
        "off": "/lib/ufw/ufw-init force-stop",
        "stop": "ufw disable",
    },
    "firewalld": {
        "files": {},
        "start": """
            systemctl enable -q --now firewalld
            firewall-cmd --permanent --add-port=22/tcp
            firewall-cmd --permanent --zone=drop --add-source=203.0.113.7
            firewall-cmd --reload
            firewall-cmd --add-rich-rule='rule family=ipv4 source address=203.0.113.8 drop'
        """,
        "bad": "echo '<zone><short>' > /etc/firewalld/zones/broken.xml",
        "rules": r"""
            nft -s list ruleset | grep -v -e 'tcp dport \(25\|587\|110\) '
            sed 's/ target="default"//' /etc/firewalld/zones/*.xml | grep -v postfix_mta
        """,
        "off": "systemctl stop firewalld",
        "stop": "systemctl disable -q --now firewalld",
    },
    "iptables": {
        "files": {
            "/etc/iptables.firewall.rules": RULES,
            "/etc/ip6tables.firewall.rules": RULES.replace("ICMP", "ipv6-icmp"),
            "/etc/systemd/system/rules.service": BOOT_UNIT,
        },
        "start": """
            systemctl enable -q rules.service
            systemctl restart rules.service
            iptables -N others
            iptables -A others -s 203.0.113.8/32 -j DROP
            iptables -I INPUT -j others
        """,
        "bad": "sed -i 's/^-A INPUT -i lo.*/-A INPUT -i/' /etc/ip6tables.firewall.rules",
        "rules": r"""
            { iptables -S; ip6tables -S; } | grep -v -e '--dport \(25\|587\|110\)'
            sed '/postfix_mta: begin/,/postfix_mta: end/d' /etc/ip*tables.firewall.rules | grep -v '^$'
        """,
        "off": "iptables -F; ip6tables -F; iptables -X",
        "stop": """
            systemctl disable -q rules
            rm /etc/ip*tables.firewall.rules
            iptables -F; ip6tables -F; iptables -X
        """,
    },
}


@pytest.fixture(scope="module")
def firewalls(container):
    """The host with all four firewalls installed and off, and Postfix's files."""
    container.exec(
        "export DEBIAN_FRONTEND=noninteractive; apt-get -qq update &&"
        " apt-get -qq -y install --no-install-recommends nftables ufw firewalld"
        " && systemctl disable -q --now firewalld",
    )
    container.put({"/etc/postfix/main.cf": "inet_interfaces = all\n", "/etc/postfix/master.cf": MASTER_CF})
    with_network(container)
    return container


def with_network(container):
    """Give the host a client in a network of its own, and the servers that it connects to."""
    container.exec(PEER)
    container.exec(["systemd-run", "--quiet", "--unit=servers", "python3", "-c", SERVER])
    container.exec("timeout 20 sh -c 'until ss -ltn | grep -q :10025; do sleep 0.1; done'")


@pytest.fixture(scope="module", params=list(FIREWALLS))
def firewall(request, firewalls):
    """What a firewall is made of, with that one in force."""
    made = FIREWALLS[request.param]
    firewalls.put(made["files"])
    firewalls.exec(f"set -e\n{made['start']}")
    assert reached(firewalls) == []
    firewalls.set_pillar(pillar("listeners"))
    yield {**made, "name": request.param, "before": rules(firewalls, made)}
    firewalls.exec(made["stop"])


def pillar(*ports, **firewall):
    """A pillar with these ports, and further settings of the firewall."""
    return {"postfix_mta": {"hostname": "mail.example.com", "firewall": {"ports": ports, **firewall}}}


def rules(container, made):
    """The rules of others, in force and in files, line by line."""
    return container.exec(made["rules"]).stdout.splitlines()


def as_it_is(container):
    """All rules in force, without counters, and the files of all firewalls."""
    program = f"nft -s list ruleset; iptables -S; ip6tables -S; cd /etc; find {SAVED} -type f | xargs sha256sum"
    return container.exec(program, check=False).stdout.splitlines()


def reached(container):
    """What the client can connect to: lists of address and port."""
    argv = ["ip", "netns", "exec", "client", "python3", "-c", CLIENT]
    return sorted(json.loads(container.exec(argv).stdout))


def state(results, name="postfix_mta_firewall"):
    """The result of the state with an id."""
    return state_of(results, name)


def applied(container, **kwargs):
    """The result of the firewall's state."""
    return state(container.apply(sls="postfix_mta.firewall", **kwargs))


def test_the_dry_run_tells_what_the_apply_then_changes_in_the_firewall_in_force(firewalls, firewall):
    predicted = applied(firewalls, test=True)
    assert predicted["result"] is None, predicted
    assert reached(firewalls) == []
    done = applied(firewalls)
    assert done["result"] is True, done
    assert f"Backend: {firewall['name']}" in done["comment"]
    assert done["changes"] == predicted["changes"]
    again = applied(firewalls)
    assert (again["result"], again["changes"]) == (True, {})


def test_packets_reach_the_listeners_and_nothing_else(firewalls, firewall):
    assert reached(firewalls) == EVERYTHING_OPEN


def test_the_rules_of_others_are_as_they_were(firewalls, firewall):
    assert rules(firewalls, firewall) == firewall["before"]


def test_rules_that_cannot_be_loaded_leave_everything_as_it_was(firewalls, firewall):
    firewalls.exec(f"tar -C /etc -cf /root/saved.tar {SAVED}", check=False)
    firewalls.exec(firewall["bad"])
    before = as_it_is(firewalls)
    failed = applied(firewalls, pillar=pillar(110, 587))
    assert (failed["result"], failed["changes"]) == (False, {}), failed
    assert as_it_is(firewalls) == before
    assert reached(firewalls) == EVERYTHING_OPEN
    firewalls.exec("rm -f /etc/firewalld/zones/broken.xml && tar -C /etc -xf /root/saved.tar")


def test_it_is_still_so_after_a_reboot(firewalls, firewall):
    firewalls.restart()
    with_network(firewalls)
    assert reached(firewalls) == EVERYTHING_OPEN
    assert applied(firewalls, pillar=pillar("listeners"))["changes"] == {}


def test_other_ports_replace_the_ones_before(firewalls, firewall):
    before = rules(firewalls, firewall)
    assert applied(firewalls, pillar=pillar(110, 587))["result"] is True
    assert reached(firewalls) == [[address, 587] for address in ADDRESSES]
    assert rules(firewalls, firewall) == before


def test_clean_removes_ours_and_nothing_else(firewalls, firewall):
    before = rules(firewalls, firewall)
    predicted = state(firewalls.apply(sls="postfix_mta.clean", test=True), "postfix_mta_firewall_clean")
    done = state(firewalls.apply(sls="postfix_mta.clean"), "postfix_mta_firewall_clean")
    assert done["result"] is True, done
    assert done["changes"] == predicted["changes"] != {}
    assert reached(firewalls) == []
    assert rules(firewalls, firewall) == before
    for path, text in firewall["files"].items():
        assert firewalls.exec(["cat", path]).stdout == text
    assert (
        firewalls.exec("grep -rl postfix_mta /etc/nftables.conf /etc/ufw /etc/firewalld", check=False).stdout == ""
    )
    again = state(firewalls.apply(sls="postfix_mta.clean"), "postfix_mta_firewall_clean")
    assert again["changes"] == {}


@pytest.mark.parametrize("name", FIREWALLS)
def test_a_firewall_that_does_not_run_is_not_switched_on(firewalls, name):
    made = FIREWALLS[name]
    firewalls.put(made["files"])
    firewalls.exec(f"set -e\n{made['start']}")
    firewalls.exec(made["off"])
    assert reached(firewalls) == NO_FIREWALL
    firewalls.set_pillar(pillar("listeners", backend=name))
    predicted, done = applied(firewalls, test=True), applied(firewalls)
    assert reached(firewalls) == NO_FIREWALL, done
    assert done["changes"] == predicted["changes"]
    # ufw would load some of its rules with any change.
    refused = name == "ufw"
    assert done["result"] is not refused, done
    assert bool(done["changes"]) is not refused
    assert not any("running" in item for item in done["changes"])
    assert ("is not switched on here" if refused else "only") in done["comment"]
    assert applied(firewalls)["changes"] == {}
    assert state(firewalls.apply(sls="postfix_mta.clean"), "postfix_mta_firewall_clean")["result"] is True
    assert reached(firewalls) == NO_FIREWALL
    firewalls.exec(made["stop"])
