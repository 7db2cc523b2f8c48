"""What looks like a secret is found by its name or by itself, and what is none is not."""

import time

import pytest

import _mta_secret_kinds

# One in each line; {} divides what would look like somebody's real token.
SECRETS = r"""
|/usr/bin/prog --key=s3cr3t
|/usr/bin/prog --key s3cr3t
|mysql -u root -p geheim db
|mysql -u root -pgeheim db
|mysql -uroot -pgeheim db
|/usr/bin/prog -p geheim
|sshpass -p geheim ssh backup cat
|sshpass -pgeheim ssh backup cat
|curl --user=a:b https://x.example
|curl --user a:b https://x.example
|curl -ua:b https://x.example
|/opt/prog --user=a:b
|/opt/prog --auth=a:geheim
|/opt/prog --auth geheim
|/opt/prog --login=a:geheim
|/opt/prog --basic-auth a:geheim
|curl -H "X-Token: abcd" https://x
|curl -H 'X-Auth-Token: abcd' https://x
|curl -H 'X-API-Key: abcd' https://x
|curl -H 'X-Redmine-API-Key: abcd' https://x
|curl -H 'Authorization: Basic dXNlcjpwdw==' https://x
|curl -H 'PRIVATE-TOKEN: glpat{}-xxxx' https://x
|curl -H 'X-Gitlab-Token: foo' https://x
|curl -H 'X-Signature: foo' https://x
|curl -H 'Cookie: session=foo' https://x
SECRET=abcd /usr/bin/prog
|SECRET=abcd /usr/bin/prog
|DB_PASSWORD=abcd /usr/bin/prog
|env API_TOKEN=abcd /usr/bin/prog
|env AWS_SECRET_ACCESS_KEY=abcd /usr/bin/prog
|env AWS_ACCESS_KEY_ID=AKI{}AIOSFODNN7EXAMPLE /usr/bin/prog
|PGPASSWORD=abcd psql
|MYSQL_PWD=abcd mysql
|REDISCLI_AUTH=abcd redis-cli
|RSYNC_PASSWORD=abcd rsync
|SSHPASS=abcd sshpass -e ssh x
|API_KEY=abcd /prog
|KEY=abcd /prog
|env APIKEY=abcd /prog
https://api.example.com/inbound?token=abc
https://api.example.com/inbound?access_token=abc
https://api.example.com/inbound?apikey=abc
https://api.example.com/inbound?auth=abc
https://api.example.com/inbound?k=abc&password=foo
https://user:pw@api.example.com/x
|curl https://token@api.example.com/x
https://api.telegram.org/bot{}123456:ABC-DEF1234ghIkl-zyx57W2v1u123ew11/sendMessage
https://discord.com/api/webhooks/123/abc
https://hooks.slack.com/services/T00/B00/XXX
https://outlook.office.com/webhook/abc
https://chat.googleapis.com/v1/spaces/A/messages?key=abc&token=xyz
https://maker.ifttt.com/trigger/x/with/key/abc
https://ntfy.sh/abcdefgh12345678901234
https://api.pushover.net/1/messages.json?token=abc
reject_rbl_client abcdefghij1k2l3m4n5o6p7qrs.zen.dq.spamhaus.net
reject_rbl_client abcdefghijklmnopqrstuvwxyz.zen.dq.spamhaus.net
reject_rbl_client abcdefghijklmnopqrstuvwxy2.zen.dq.spamhaus.net=127.0.0.[2..11]
reject_rhsbl_sender 3x4mpl3k3yabcdefghijk2.dbl.dq.spamhaus.net
reject_rbl_client KEYKEY12.combined.mail.abusix.zone
reject_rbl_client 1234567890abcdef.combined.mail.abusix.zone
reject_rbl_client q5zcks.bl.score.senderscore.com
|/usr/bin/prog --password-file=/etc/x --pass foo
|/usr/local/bin/mailhandler.rb -k abcd1234
|ruby /opt/rdm-mailhandler.rb --url https://redmine.example.com --key abc
|swaks --auth-password foo
|swaks -ap foo --to x
|ldapsearch -w geheim -D cn=admin
|ldapsearch -D cn=admin -w geheim
|smbclient //host/share -U user%geheim
|mosquitto_pub -P geheim -u a
|mosquitto_pub -u a -P geheim
|redis-cli -a geheim lpush x
|wget --password=foo --user=bar https://x
|wget --http-password=foo https://x
|openssl enc -pass pass:foo
|openssl enc -aes-256-cbc -k foo
|gpg --passphrase foo
|lftp -u user,pass ftp://x
|ncftpput -u user -p pass host
|zip -P foo x
|7z a -pfoo x
|prog --client-secret foo
|prog --webhook-secret=foo
|prog --bearer foo
|prog --apikey foo
|prog --access-key-id foo --secret-access-key bar
|prog /token:abcd
|prog token:abcd
|curl --oauth2-bearer foo
|curl --proxy-user a:b x
|curl -d "password=foo" x
|curl -d '{"token": "foo"}' x
|curl --data key=foo x
|curl -d 'apikey=foo' x
|curl -F token=foo x
|curl -sSL -u "admin:foo" x
|http -a user:pass x
|http --auth user:pass x
|python3 /opt/x.py --pw=foo
|/usr/bin/php /x/y.php secret=foo
|ghp{}_abcdefghijklmnopqrstuvwxyz0123456789
|prog xoxb{}-123456789012-abcdefg
|prog glpat{}-abcdefghij0123456789
|prog sk{}_live_abcdefghij0123456789
|prog SG{}.abcdefghijklmnop.abcdefghijklmnop
|prog AKI{}AIOSFODNN7EXAMPLE
|prog eyJ{}hbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc
"""
NONE = r"""
|/usr/bin/procmail -t -p
|/usr/lib/mailman/mail/mailman post mylist
|/usr/bin/vacation -a root alice
|/usr/lib/dovecot/deliver -f ${sender} -d ${recipient}
|/usr/bin/maildrop -w 90 -d ${user}@${nexthop} ${extension} ${recipient} ${user} ${nexthop} ${sender}
/usr/bin/spamc -u ${user} -e /usr/sbin/sendmail -oi -f ${sender} ${recipient}
flags=R user=scalemail argv=/usr/lib/scalemail/bin/scalemail-store ${nexthop} ${user} ${extension}
|exec /usr/bin/procmail || exit 75 #user
|/usr/bin/amavis-filter -k 3 -p 25
|mkdir -p queue
|postlog -p fatal -t name text
|ssh -p 2222 host cat
|nc -w 5 host 25
|/usr/bin/logger -p mail.info -t mail
|/usr/bin/tee -a /var/log/x
|rsync -a /x /y
|/usr/bin/cyrus-deliver -e -r ${sender} -m ${extension} ${user}
|prog --key-file=/etc/x.key
|prog --key=/etc/x.key
|prog --key $KEY
|prog --user=vmail
|curl --cacert /etc/ssl/ca.pem https://x.example.com/inbound
|PATH=/usr/bin prog
|KEYMAP=de prog
|curl -H 'X-Forwarded-For: 1.2.3.4' https://x
|curl -H 'Content-Type: application/json' https://x
|sudo -u www-data /usr/bin/php /var/www/app/bin/console mail:import
|php -f /var/www/mail.php --env=prod
|postqueue -p
reject_rbl_client zen.spamhaus.org
reject_rbl_client b.barracudacentral.org
reject_rhsbl_client dbl.spamhaus.org
reject_rbl_client combined.mail.abusix.zone
reject_rbl_client list.dnswl.org=127.0.[0..255].[1..3]
check_policy_service inet:127.0.0.1:10023
proxy:mysql:/etc/postfix/mysql-virtual.cf
ldap:/etc/postfix/ldap-aliases.cf
https://www.example.com/contact?id=12
$myhostname ESMTP token ring fan club
ec2-198-51-100-23.compute-1.amazonaws.com
user=vmail:vmail argv=/usr/bin/x
/usr/bin/python /usr/lib/mailman/bin/postfix-to-mailman.py ${nexthop} ${user}
hash:/var/lib/mailman/data/aliases
|/usr/share/request-tracker4/bin/rt-mailgate --queue general --action correspond --url http://localhost/rt
|/usr/bin/rt-mailgate-5 --queue 'General Support' --action comment --url https://rt.example.com
|/usr/lib/sympa/bin/queue mylist@example.com
|/usr/bin/mlmmj-receive -L /var/spool/mlmmj/list
|/home/majordom/wrapper resend -p bulk -M 10000 -l list -f owner-list -h example.com -s list-outgoing
|/usr/bin/sa-learn --spam -p /x
|docker exec -i -u www app php x
|/usr/bin/fetchnews -k
|prog -k
|/usr/lib/uucp/uux -r -n -z -a$sender - $nexthop!rmail ($recipient)
|sed -e s/a/b/ | sendmail -oi user
"""


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("ldap_bind_pw", "x", True),
        ("ldap_bind_pw", "", False),
        ("relay_password", None, False),
        ("smtp_sasl_password_maps", "hash:/etc/postfix/x", False),
        ("smtp_sasl_password_maps", "static:user:x", True),
        ("relayhost", "mail.example.com", False),
        ("any", "https://user:x@example.com/", True),
        ("any", ["a", "--password=x"], True),
        ("any", "--password=$1", False),
        ("any", "api_key: x", True),
        # Redmine's documented alias, and its kind.
        ("any", '"|/srv/redmine/extra/mail_handler/rdm-mailhandler.rb --url https://x.example --key bMGz8"', True),
        ("any", "argv=/x --url https://x.example --api-key=abc", True),
        ("any", "|/usr/bin/x --password geheim", True),
        ("any", "|/usr/bin/x -passphrase 'geheim'", True),
        ("any", "|/usr/bin/x --key /etc/ssl/private/x.pem", False),
        ("any", "|/usr/bin/x --key ${recipient} --token-file /x", False),
        ("any", "|curl -s -u user:pw https://x.example/mail", True),
        ("any", "|curl --user user:pw --data-binary @- https://x.example/mail", True),
        ("any", "|curl -u $1 --data-binary @- https://x.example/mail", False),
        ("any", "flags=R user=vmail:vmail argv=/x -u alice -f ${sender}", False),
        ("any", "|curl -H 'Authorization: Bearer x1y2z3' https://x.example", True),
        ("any", "|curl -d @- https://hooks.slack.com/services/T00000000/B00000000/XXXX", True),
        ("any", "|/x https://discord.com/api/webhooks/1234/abcd", True),
        ("any", "|/x https://chat.example.com/hooks/xyz", True),
        ("any", "|/x https://api.telegram.org/bot1234:abc/sendMessage", True),
        ("any", "|/x https://x.example/in?sig=abc", True),
        ("any", "|/x https://x.example/3f9c2a7be01d44c8a5d9/in", True),
        ("any", "|/x https://www.example.com/mail/incoming-messages-of-all-users", False),
        ("any", ["permit_mynetworks", "reject_rbl_client 3x4mpl3k3yabcdefghijk2.zen.dq.spamhaus.net"], True),
        (
            "postscreen_dnsbl_sites",
            "zen.spamhaus.org*3, 0123456789abcdef0123.combined.mail.abusix.zone",
            True,
        ),
        ("any", "reject_rbl_client zen.spamhaus.org", False),
        ("any", "reject_rbl_client b.barracudacentral.org, mail7.backup2.example1.com", False),
        ("relayhost", "[email-smtp.eu-west-1.amazonaws.com]:587", False),
        ("mynetworks", "127.0.0.0/8 2001:db8:1234:5678:9abc:def0:1234:5678 10.1.2.3", False),
        ("smtpd_banner", "$myhostname ESMTP $mail_name (Debian/GNU)", False),
        ("any", "/etc/letsencrypt/live/mail01.example.com/fullchain.pem", False),
    ],
)
def test_a_secret_is_recognised_by_its_name_or_by_itself(name, value, secret):
    assert _mta_secret_kinds.is_secret(name, value) is secret


@pytest.mark.parametrize("text", SECRETS.strip().splitlines())
def test_what_looks_like_a_secret_is_one(text):
    assert _mta_secret_kinds.is_secret("", text.replace("{}", ""))


@pytest.mark.parametrize("text", NONE.strip().splitlines())
def test_what_programs_and_tables_usually_say_is_none(text):
    assert not _mta_secret_kinds.is_secret("", text)


@pytest.mark.parametrize("text", ["192.0.2.0/24 ", "a", "|x -a ", "1a2b", "https://x/", "-d &", "--a-b-"])
def test_a_long_value_is_looked_through_quickly(text):
    began = time.process_time()
    _mta_secret_kinds.is_secret("mynetworks", text * 12000)
    assert time.process_time() - began < 2
