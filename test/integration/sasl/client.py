"""
AUTH PLAIN as mail clients do: prints the reply's code and after how many seconds.

Arguments: port, user, password.
"""

import base64
import smtplib
import sys
import time

begun = time.monotonic()
try:
    with smtplib.SMTP("127.0.0.1", int(sys.argv[1]), timeout=60) as client:
        client.ehlo()
        words = "\0".join(["", *sys.argv[2:]])
        code = client.docmd("AUTH", "PLAIN " + base64.b64encode(words.encode()).decode())[0]
except smtplib.SMTPServerDisconnected:
    code = 421
print(code, round(time.monotonic() - begun, 1))
