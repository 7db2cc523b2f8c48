#!/bin/sh
# Makes a host ready to try cases on: users, a network with strangers in it, certificates, Dovecot, and what else mail
# servers use. Runs once, as root, before Postfix is configured; its argument is the directory of these files.
set -eu
here=$1

for user in alice bob; do
    id $user >/dev/null 2>&1 || useradd --create-home --shell /bin/sh $user
    echo "$user:not-in any#log" | chpasswd
done
id vmail >/dev/null 2>&1 || useradd --uid 5000 --no-create-home --shell /usr/sbin/nologin vmail
install -d -o vmail -g vmail /var/vmail
install -d -m 1777 /var/tmp/caught

# Strangers: 10.99.0.2 sends, the others get mail.
ip netns add outside
ip link add inner type veth peer name outer netns outside
ip address add 10.99.0.1/24 dev inner
ip link set inner up
for number in 2 3 4; do
    ip netns exec outside ip address add 10.99.0.$number/24 dev outer
done
ip netns exec outside ip link set outer up
ip netns exec outside ip link set lo up
echo 'nameserver 10.99.0.2' >/etc/resolv.conf

cd "$here"
certificate() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj "/CN=$1" \
        -addext "subjectAltName=DNS:$1" -keyout "$2.key" -out "$2.crt" 2>/dev/null
    cat "$2.key" "$2.crt" >"$2.pem"
    chmod 644 "$2.pem" "$2.key"
}
certificate smarthost.example.net smarthost
certificate client.example.net client
certificate other.example.com other
echo 'not a certificate' >garbage.pem

systemd-run --quiet --unit=judge-outside ip netns exec outside python3 "$here/outside.py" "$here"
systemd-run --quiet --unit=judge-services python3 "$here/services.py"

cat >/usr/local/bin/deliver <<'END'
#!/bin/sh
# A mailbox_command: one more file in the user's Maildir.
mkdir -p "$HOME/Maildir/new" "$HOME/Maildir/cur" "$HOME/Maildir/tmp"
exec cat >"$HOME/Maildir/new/$(date +%s%N).$$"
END
cat >/usr/local/bin/catch <<'END'
#!/bin/sh
# For pipe(8): one more file in /var/tmp/caught.
{ echo "$@"; cat; } >"/var/tmp/caught/$(date +%s%N).$$"
END
chmod 755 /usr/local/bin/deliver /usr/local/bin/catch

# Nobody guesses here: who fails does not make others wait.
sed -i 's/pam_unix.so/& nodelay/' /etc/pam.d/common-auth

cat >/etc/dovecot/local.conf <<'END'
protocols = lmtp
mail_location = maildir:~/Maildir
auth_mechanisms = plain login
auth_username_format = %Ln
disable_plaintext_auth = no
auth_failure_delay = 0
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
service lmtp {
  unix_listener /var/spool/postfix/private/dovecot-lmtp {
    mode = 0600
    user = postfix
    group = postfix
  }
}
service auth {
  unix_listener /var/spool/postfix/private/auth {
    mode = 0660
    user = postfix
    group = postfix
  }
}
END
systemctl restart dovecot
for _ in 1 2 3 4 5 6 7 8 9 10; do
    [ -S "$here/outside" ] && exit 0
    sleep 0.3
done
systemctl status judge-outside >&2
exit 1
