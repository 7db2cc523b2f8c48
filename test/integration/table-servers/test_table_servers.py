"""Lookup tables that ask a server: mail is delivered by each, and a login that fails undoes itself."""

import pytest

from rig import results

SECRET = "geheim-7431"
WHERE = {"hosts": "127.0.0.1", "user": "postfix", "password": SECRET, "dbname": "mail"}
QUERY = "SELECT target FROM aliases WHERE address = '%s'"
TABLES = {
    "by-ldap": {
        "type": "ldap",
        "entries": {
            "server_host": "ldap://127.0.0.1",
            "version": 3,
            "bind": True,
            "bind_dn": "cn=admin,dc=example,dc=com",
            "bind_pw": SECRET,
            "search_base": "dc=example,dc=com",
            "query_filter": "(mail=%s)",
            "result_attribute": "uid",
        },
    },
    "by-mysql": {"type": "mysql", "entries": {**WHERE, "query": QUERY}},
    "by-pgsql": {"type": "pgsql", "entries": {**WHERE, "query": QUERY}},
    "by-memcache": {"type": "memcache", "entries": {"memcache": "inet:127.0.0.1:11211", "key_format": "%s"}},
    "by-socketmap": {"type": "socketmap", "path": "inet:127.0.0.1:4711:aliases"},
}
KINDS = [table["type"] for table in TABLES.values()]
DATA = (
    "CREATE TABLE aliases (address VARCHAR(99), target VARCHAR(99));"
    " INSERT INTO aliases VALUES ('{}@example.org', 'alice');"
)
SET_UP = f"""
set -e
export DEBIAN_FRONTEND=noninteractive
debconf-set-selections <<END
slapd slapd/domain string example.com
slapd shared/organization string example
slapd slapd/password1 password {SECRET}
slapd slapd/password2 password {SECRET}
END
apt-get -qq -y --no-install-recommends install slapd ldap-utils mariadb-server postgresql memcached
ldapadd -x -H ldap://127.0.0.1 -D cn=admin,dc=example,dc=com -w {SECRET} <<END
dn: uid=alice,dc=example,dc=com
objectClass: inetOrgPerson
cn: alice
sn: alice
uid: alice
mail: ldap@example.org
END
mariadb <<END
CREATE DATABASE mail;
USE mail;
{DATA.format("mysql")}
CREATE USER postfix@'%' IDENTIFIED BY '{SECRET}';
GRANT SELECT ON mail.* TO postfix@'%';
END
cd /
su postgres -c "psql -q -v ON_ERROR_STOP=1" <<END
CREATE ROLE postfix LOGIN PASSWORD '{SECRET}';
CREATE DATABASE mail;
\\connect mail
{DATA.format("pgsql")}
GRANT SELECT ON aliases TO postfix;
END
python3 - <<END
import socket
with socket.create_connection(("127.0.0.1", 11211)) as connection:
    connection.sendall(b"set memcache@example.org 0 0 5\\r\\nalice\\r\\n")
    assert connection.recv(99).startswith(b"STORED")
END
useradd --create-home alice
"""
# socketmap_table(5): netstrings of "name key", answered by "OK value" or "NOTFOUND ".
SOCKETMAP = """
import socketserver
class Map(socketserver.StreamRequestHandler):
    def handle(self):
        while True:
            digits = b""
            while not digits.endswith(b":"):
                read = self.rfile.read(1)
                if not read:
                    return
                digits += read
            asked = self.rfile.read(int(digits[:-1]) + 1)[:-1]
            answer = b"OK alice" if asked == b"aliases socketmap@example.org" else b"NOTFOUND "
            self.wfile.write(b"%d:%s," % (len(answer), answer))
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
Server(("127.0.0.1", 4711), Map).serve_forever()
"""
RCPT = """
import smtplib, sys
with smtplib.SMTP("127.0.0.1") as client:
    client.ehlo()
    client.mail("sender@example.net")
    print(*(client.rcpt(f"{name}@example.org")[0] for name in sys.argv[1:]))
"""


def pillar(**tables):
    """The whole pillar, with all tables named in main.cf; those of databases through proxymap(8)."""
    names = [f"proxy:{{maps.{name}}}" if "sql" in name else f"{{maps.{name}}}" for name in TABLES]
    parameters = {"virtual_alias_domains": "example.org", "virtual_alias_maps": names}
    return {"postfix_mta": {"root_recipient": "alice", "maps": {**TABLES, **tables}, "parameters": parameters}}


@pytest.fixture(scope="module")
def applied(container):
    """The servers, and the results of the first apply."""
    container.put({"/srv/set-up": SET_UP, "/srv/socketmap.py": SOCKETMAP, "/srv/rcpt.py": RCPT})
    container.exec(["sh", "/srv/set-up"])
    container.exec(["systemd-run", "--unit=socketmap", "--quiet", "python3", "/srv/socketmap.py"])
    return container.apply(pillar=pillar())


def test_the_tables_and_the_plugins_come_in_one_apply(container, applied):
    assert results.failures(applied) == []
    assert SECRET not in str(applied)
    again = container.apply()
    assert (results.failures(again), results.changed(again)) == ([], set())


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_is_looked_up_at_the_server(container, applied, kind):
    table = TABLES[f"by-{kind}"].get("path", f"/etc/postfix/by-{kind}")
    assert container.call("postconf.lookup", f"{kind}:{table}", f"{kind}@example.org") == "alice"
    assert container.call("postconf.lookup", f"{kind}:{table}", "nobody@example.org") is None


def test_the_running_server_delivers_by_each(container, applied):
    assert container.exec(["python3", "/srv/rcpt.py", *KINDS, "nobody"]).stdout == "250 250 250 250 250 550\n"
    for kind in KINDS:
        container.exec(["sendmail", f"{kind}@example.org"], input=f"Subject: by {kind}\n\nx\n")
    maildir = "/home/alice/Maildir/new"
    container.exec(f"for i in $(seq 100); do [ $(ls {maildir} | wc -l) = 5 ] && break; sleep 0.1; done")
    subjects = container.exec(f"grep -rh ^Subject: {maildir}").stdout.splitlines()
    assert sorted(subjects) == sorted(f"Subject: by {kind}" for kind in KINDS)


def test_a_password_is_for_root_and_the_daemons_alone(container, applied):
    listing = container.exec("stat -c '%a %U %G' /etc/postfix/by-ldap /etc/postfix/by-mysql /etc/postfix/by-pgsql")
    assert listing.stdout.splitlines() == ["640 root postfix"] * 3


@pytest.mark.parametrize("kind", ["ldap", "mysql", "pgsql"])
def test_a_wrong_password_undoes_itself(container, applied, kind):
    name = f"by-{kind}"
    secret = "bind_pw" if kind == "ldap" else "password"
    wrong = {**TABLES[name], "entries": {**TABLES[name]["entries"], secret: "wrong"}}
    before = container.exec(["sha256sum", f"/etc/postfix/{name}"]).stdout
    found = container.apply(pillar=pillar(**{name: wrong}))
    assert results.failures(found)
    assert container.exec(["sha256sum", f"/etc/postfix/{name}"]).stdout == before
    assert container.exec(["python3", "/srv/rcpt.py", kind]).stdout == "250\n"
