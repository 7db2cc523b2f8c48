"""
What a receiver makes of messages, by programs of others: dkimpy, Mail::DKIM, pyspf and authheaders.

The arguments are files of messages, as they were delivered; of each a line of JSON is printed.
"""

import concurrent.futures
import json
import re
import subprocess
import sys

import authheaders
import dkim


def verified(message, number):
    """Whether dkimpy verifies one of a message's signatures; a body that is another raises there."""
    try:
        return dkim.DKIM(message).verify(idx=number)
    except dkim.DKIMException:
        return False


def judge(path):
    """The verdicts on a message."""
    with open(path, "rb") as handle:
        message = handle.read()
    text = message.decode(errors="replace")
    sender = re.search(r"(?m)^Return-Path: <(.*)>", text)[1]
    client = re.search(r"(?m)^Received: from (\S+) \(.*\[([\d.]+)\]\)", text)
    # What was delivered has these before what was signed.
    bare = re.sub(rb"(?s)^Return-Path:.*?\r?\nX-Original-To:.*?\r?\nDelivered-To:[^\n]*\n", b"", message)
    bare = bare.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    signatures = len(re.findall(r"(?mi)^DKIM-Signature:", text))
    perl = "use Mail::DKIM::Verifier; my $d = Mail::DKIM::Verifier->new; $d->PRINT(join '', <STDIN>); $d->CLOSE;"
    other = subprocess.run(["perl", "-e", f"{perl} print $d->result"], input=bare, capture_output=True, check=True)
    results = authheaders.authenticate_message(
        bare, "mx.peer.test", ip=client[2], mail_from=sender, helo=client[1], spf=True, dkim=True, arc=False
    )
    found = dict(re.findall(r"(?<![.\w])(spf|dkim|dmarc)=(\w+)", results))
    return {
        "subject": re.search(r"(?m)^Subject: (.*)", text)[1].strip(),
        "signatures": signatures,
        "selector": (re.search(r"(?s)DKIM-Signature:.*?\bs=([\w-]+);", text) or [None, None])[1],
        "dkimpy": signatures > 0 and all(verified(bare, number) for number in range(signatures)),
        "mail-dkim": other.stdout.decode(),
        **found,
    }


with concurrent.futures.ThreadPoolExecutor(4) as pool:
    for verdict in pool.map(judge, sys.argv[1:]):
        print(json.dumps(verdict))
