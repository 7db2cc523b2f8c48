# What SASL mechanisms ask, from Debian's packages, each with one user: alice, whose password is "right pass".
set -e
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq -y install --no-install-recommends \
    sasl2-bin libsasl2-modules slapd ldap-utils dovecot-imapd krb5-kdc krb5-admin-server iptables >/dev/null

useradd --create-home alice
echo 'alice:right pass' | chpasswd
echo 'right pass' | saslpasswd2 -p -c -u mail.example.com alice

# Signed by the host's own authority.
install -o openldap -m 0600 /etc/ssl/private/smtpd.key /etc/ldap/key.pem
ldapmodify -Q -Y EXTERNAL -H ldapi:/// <<L
dn: olcDatabase={1}mdb,cn=config
changetype: modify
replace: olcRootPW
olcRootPW: bind #pass

dn: cn=config
changetype: modify
replace: olcTLSCertificateFile
olcTLSCertificateFile: /etc/ssl/certs/smtpd.crt
-
replace: olcTLSCertificateKeyFile
olcTLSCertificateKeyFile: /etc/ldap/key.pem
L
ldapadd -x -D cn=admin,dc=example,dc=com -w 'bind #pass' <<L
dn: uid=alice,dc=example,dc=com
objectClass: account
objectClass: simpleSecurityObject
uid: alice
userPassword: right pass
L

cat >/etc/krb5.conf <<L
[libdefaults]
 default_realm = EXAMPLE.COM
 dns_lookup_kdc = false
[realms]
 EXAMPLE.COM = {
  kdc = 127.0.0.1
 }
L
kdb5_util create -s -r EXAMPLE.COM -P master
kadmin.local -q 'addprinc -pw "right pass" alice'
kadmin.local -q 'addprinc -randkey host/mail.example.com'
kadmin.local -q 'ktadd -k /etc/mail.keytab host/mail.example.com'
systemctl restart krb5-kdc

# Wrong passwords cost no time here.
cat >/etc/dovecot/conf.d/99-postfix.conf <<L
auth_failure_delay = 0
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
service auth {
  unix_listener /var/spool/postfix/private/auth {
    mode = 0660
    user = postfix
    group = postfix
  }
}
L
systemctl restart dovecot
