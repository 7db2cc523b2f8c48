"""
The status page in a real browser: axe-core finds nothing, nothing is cut off; and its picture in the documents.

``bin/test page`` looks at the page in every view, leaves a picture of each in build/page, and renews the one in
docs/monitoring where the page has changed since.
"""

import hashlib
import html
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib

import _mta_history
import _mta_view
from rig import REPOSITORY, venvs

NOW = 1_800_000_000
PICTURE = REPOSITORY / "docs" / "monitoring" / "status.png"
# What the picture was made of, in a chunk of its own (PNG specification, tEXt).
STAMP = b"page"
# The package that brings axe-core.
AXE = "axe-playwright-python==0.1.8"
# Width and height in pixels, and whether the browser is in dark mode.
VIEWS = {
    "wide": (1200, 660, False),
    "wide-dark": (1200, 660, True),
    "tablet": (800, 1500, False),
    "phone": (390, 1800, False),
    "phone-dark": (390, 1800, True),
}
ROW = {
    "postfix": "3.7.11",
    "revision": "0123456789ab",
    "profile": "hardened",
    "running": True,
    "answers": True,
    "auth": True,
    "problems": [],
    "certificate_expires": NOW + 90 * 86400,
    "certificate_days": 90,
    "drift": [],
    "conditions": [],
    "last_apply": {"result": True, "failed": [], "time": NOW - 300},
}
CHANGED = {
    "mail3": {
        "answers": False,
        "auth": False,
        "problems": ["127.0.0.1:25 AUTH PLAIN of an unknown user: 454 4.7.0 Temporary authentication failure"],
    },
    "mail5": {
        "drift": ["/etc/postfix/main.cf", "/etc/postfix/master.cf"],
        "conditions": ["configuration", "queue"],
    },
    "mail6": {"certificate_days": 9, "last_apply": {"result": False, "failed": ["config"], "time": NOW - 7300}},
    "mail7": {"fqdn": "smtp.example.com"},
}
# Takes away what keeps scripts from running; the rest of the page is as it is.
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy".*?>')
REPORT = """
<script>%s</script>
<script>axe.run().then(found => parent.postMessage({
  violations: found.violations.map(item => [item.id, item.nodes.map(node => node.html)]),
  passes: found.passes.length,
  overflow: document.documentElement.scrollWidth - innerWidth,
}, "*"));</script>
"""
# The page at a width; a browser's own window cannot be as narrow as a phone.
FRAME = """<!DOCTYPE html>
<html><body style="margin: 0"><iframe style="border: 0; width: %dpx; height: %dpx" srcdoc="%s"></iframe>
<pre id="report"></pre>
<script>addEventListener("message", said => report.textContent = JSON.stringify(said.data));</script>
</body></html>
"""


def sample():
    """A page of nine servers, some of which have problems, with a week behind them."""
    answers = {}
    for number in range(1, 9):
        name = f"mail{number}"
        queue = {"total": 1834 if name == "mail5" else number * 7 % 5}
        answers[f"{name}.example.com"] = {
            **ROW,
            "fqdn": f"{name}.example.com",
            "queue": queue,
            **CHANGED.get(name, {}),
        }
    view = _mta_view.collect(answers, ["mail9.example.com"], NOW)
    return _mta_view.html(view, week(view))


def crowded():
    """A page with the longest of everything, which has to fit, too."""
    name = "mail-relay-outbound-01.eu-central-1.production.example.com"
    said = {
        **ROW,
        "fqdn": f"smtp-{name}",
        "postfix": "3.10.5-1+deb13u1",
        "profile": "local_only",
        "queue": {"total": 123456},
        "drift": ["/etc/postfix/main.cf", "/etc/postfix/master.cf"],
        "conditions": ["certificate_renewal", "certificate_served", "configuration", "saslauthd", "apply", "dns"],
        "problems": ["x" * 290],
    }
    view = _mta_view.collect({name: said}, [f"other-{name}"], NOW)
    return _mta_view.html(view, week(view))


def week(view):
    """What was seen of the servers in the week before."""
    marks = {}
    for age in reversed(range(_mta_history.KEPT)):
        seen = {}
        for place, (minion, (trouble, queue)) in enumerate(_mta_view.seen(view).items()):
            if age > place * 6 + 40:
                continue
            wave = (age * (place + 3) + place) % 11
            if queue is not None and queue > 1000:
                queue = max(3, queue // (age * age + 1)) + wave
            elif queue is not None:
                queue += wave
            seen[minion] = (trouble if age < place else int(wave == 10 and age > 30)), queue
        marks = _mta_history.noted(marks, seen, NOW - age * _mta_history.SPAN)
    return marks


def digest():
    """What tells whether a picture is of the page as it is now."""
    return hashlib.sha256(sample().encode()).hexdigest()


def chunks(png):
    """The chunks of a PNG file: type, data, and all of it as bytes."""
    at = 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        yield png[at + 4 : at + 8], png[at + 8 : at + 8 + length], png[at : at + 12 + length]
        at += 12 + length


def stamp(png):
    """What a picture was made of."""
    for kind, data, _ in chunks(png):
        key, _, value = data.partition(b"\0")
        if kind == b"tEXt" and key == STAMP:
            return value.decode()
    return None


def stamped(png, value):
    """A picture that says what it was made of."""
    body = b"tEXt" + STAMP + b"\0" + value.encode()
    mark = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return b"".join(
        [png[:8], *(mark + whole if kind == b"IEND" else whole for kind, _, whole in chunks(png))],
    )


def axe():
    """The text of axe-core."""
    directory = venvs.cache() / AXE.replace("==", "-")
    if not list(directory.glob("*/axe.min.js")):
        pip = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--target", directory, AXE], check=True)
    return next(directory.glob("*/axe.min.js")).read_text(encoding="utf-8")


def browse(directory, document, view, *options):
    """What the browser prints for a document in a view."""
    width, height, dark = VIEWS[view]
    path = directory / "frame.html"
    path.write_text(document, encoding="utf-8")
    chromium = [
        "chromium",
        "--headless",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={directory}/profile",
    ]
    chromium += ["--no-sandbox"] if os.geteuid() == 0 else []
    chromium += [f"--window-size={width},{height}", "--virtual-time-budget=20000"]
    chromium += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", *options, path.as_uri()]
    return subprocess.run(chromium, check=True, capture_output=True, text=True, timeout=120).stdout


def framed(page, view):
    """A document that shows the page as wide as the view is."""
    width, height, _ = VIEWS[view]
    return FRAME % (width, height, html.escape(page))


def faults(directory, page, view, script):
    """What is wrong with the page in a view, in words."""
    open_page = POLICY.sub("", page).replace("</body>", REPORT.replace("%s", script) + "</body>")
    dumped = browse(directory, framed(open_page, view), view, "--dump-dom")
    said = re.search(r'<pre id="report">(.*?)</pre>', dumped, re.DOTALL)
    if not said or not said[1]:
        return ["axe-core said nothing"]
    report = json.loads(html.unescape(said[1]))
    found = [f"{rule}: {', '.join(nodes)}" for rule, nodes in report["violations"]]
    if report["overflow"] > 0:
        found.append(f"{report['overflow']} pixels wider than the window")
    if not report["passes"]:
        found.append("axe-core has tried no rule")
    return found


def main():
    """Look at every view; the exit code."""
    if not shutil.which("chromium"):
        sys.exit("bin/test page needs Debian's package chromium")
    pictures = REPOSITORY / "build" / "page"
    pictures.mkdir(parents=True, exist_ok=True)
    script, page, failed = axe(), sample(), False
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        for view in VIEWS:
            found = faults(directory, page, view, script) + faults(directory, crowded(), view, script)
            browse(directory, framed(page, view), view, f"--screenshot={pictures / view}.png")
            print(f"{view}: {'; '.join(found) or 'nothing found'}", flush=True)
            failed = failed or bool(found)
    if not failed and stamp(PICTURE.read_bytes()) != digest():
        PICTURE.write_bytes(stamped((pictures / "wide.png").read_bytes(), digest()))
        print(f"{PICTURE.relative_to(REPOSITORY)}: made")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
