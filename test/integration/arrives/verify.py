"""
What a receiver makes of messages, by programs of others: dkimpy, Mail::DKIM, pyspf and authheaders.

The arguments are files of messages, as they were delivered; of each a line of JSON is printed.
"""

import functools
import json
import re
import subprocess
import sys

import authheaders
import authheaders.dmarc_lookup
import dkim

# Verdicts on messages, each of which comes after a line with its length.
PERL = """
use Mail::DKIM::Verifier;
while (defined(my $length = <STDIN>)) {
    read STDIN, my $message, $length;
    my $verifier = Mail::DKIM::Verifier->new;
    $verifier->PRINT($message);
    $verifier->CLOSE;
    print $verifier->result, "\\n";
}
"""
# Otherwise it reads all public suffixes for each message.
authheaders.dmarc_lookup.get_org_domain = functools.lru_cache(authheaders.dmarc_lookup.get_org_domain)


def as_sent(path):
    """A message as it was sent: what was delivered has some lines before what was signed."""
    with open(path, "rb") as handle:
        message = handle.read()
    bare = re.sub(rb"(?s)^Return-Path:.*?\r?\nX-Original-To:.*?\r?\nDelivered-To:[^\n]*\n", b"", message)
    return message.decode(errors="replace"), bare.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def verified(message, number):
    """Whether dkimpy verifies one of a message's signatures; a body that is another raises there."""
    try:
        return dkim.DKIM(message).verify(idx=number)
    except dkim.DKIMException:
        return False


def judge(text, bare, other):
    """The verdicts on a message; ``other``: that of Mail::DKIM."""
    sender = re.search(r"(?m)^Return-Path: <(.*)>", text)[1]
    client = re.search(r"(?m)^Received: from (\S+) \(.*\[([\d.]+)\]\)", text)
    signatures = len(re.findall(r"(?mi)^DKIM-Signature:", text))
    results = authheaders.authenticate_message(
        bare, "mx.peer.test", ip=client[2], mail_from=sender, helo=client[1], spf=True, dkim=True, arc=False
    )
    found = dict(re.findall(r"(?<![.\w])(spf|dkim|dmarc)=(\w+)", results))
    return {
        "subject": re.search(r"(?m)^Subject: (.*)", text)[1].strip(),
        "signatures": signatures,
        "selector": (re.search(r"(?s)DKIM-Signature:.*?\bs=([\w-]+);", text) or [None, None])[1],
        "dkimpy": signatures > 0 and all(verified(bare, number) for number in range(signatures)),
        "mail-dkim": other,
        **found,
    }


messages = [as_sent(path) for path in sys.argv[1:]]
stream = b"".join(b"%d\n%s" % (len(bare), bare) for _, bare in messages)
others = subprocess.run(["perl", "-e", PERL], input=stream, stdout=subprocess.PIPE, check=True)
for (text, bare), other in zip(messages, others.stdout.decode().split()):
    print(json.dumps(judge(text, bare, other)))
