"""The view of all mail servers: the same data in every form, and nothing of a minion's that could do harm."""

import base64
import getpass
import hashlib
import html
import html.parser
import json
import pathlib
import re
import subprocess
import sys

import pytest
import salt.exceptions
from salt.exceptions import CommandExecutionError, SaltClientError

import _mta_history
import _mta_page
import _mta_view

NOW = 1_800_000_000
ROW = {
    "fqdn": "mail1.example.com",
    "postfix": "3.7.11",
    "revision": "0123456789ab",
    "profile": "guide",
    "running": True,
    "answers": True,
    "auth": True,
    "problems": [],
    "certificate_expires": NOW + 90 * 86400,
    "certificate_days": 90,
    "queue": {"deferred": 4, "active": 1, "total": 5},
    "drift": [],
    "last_apply": {"result": True, "failed": [], "changed": [], "time": NOW - 300},
    "commit": 1.5,
    "errors": {},
    "time": NOW,
}
NASTY = "<script>alert(1)</script>\x1b[31m\"'{{ salt }}\n# HELP forged\\"


def collect(answers, unreachable=()):
    return _mta_view.collect(answers, list(unreachable), NOW)


def show(form, answers, unreachable=()):
    return getattr(_mta_view, form)(collect(answers, unreachable))


class Page(html.parser.HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.cells, self.links = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.cells.append(data.strip())


def samples(text):
    """Metrics by name and labels, as a scraper reads them."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, labels, value = re.fullmatch(
                r'(\w+)(?:\{((?:\w+="(?:[^"\\]|\\.)*",?)*)\})? (\S+)', line
            ).groups()
            found[name, labels] = float(value)
    return found


def test_a_server_is_a_line_of_the_table():
    lines = show("text", {"mail1": ROW}).splitlines()
    assert lines[0].split()[:4] == ["MINION", "FQDN", "POSTFIX", "FORMULA"]
    assert re.split(r"  +", lines[1]) == [
        *("mail1", "mail1.example.com", "3.7.11", "0123456789ab", "guide", "90 d", "yes", "yes", "5"),
        *("none", "5 min ago", "-"),
    ]
    assert "mail servers: 1, not answering as they should: 0" in lines[-1]


def test_those_that_do_not_answer_are_listed():
    text = show("text", {"mail1": ROW}, ["mail2"])
    assert re.search(r"^mail2 +UNREACHABLE$", text, re.MULTILINE)
    assert "unreachable minions: 1" in text
    assert "mail2" in Page(show("html", {"mail1": ROW}, ["mail2"])).cells
    found = samples(show("prometheus", {"mail1": ROW}, ["mail2"]))
    assert found["postfix_mta_up", 'minion="mail1"'] == 1
    assert found["postfix_mta_up", 'minion="mail2"'] == 0


def test_what_is_no_mail_server_is_left_out():
    view = collect({"web": None, "new": "'mta_status.report' is not available.", "mail1": ROW})
    assert (list(view["minions"]), view["without"], view["failed"]) == (["mail1"], ["new"], {})


def test_a_minion_on_which_it_failed_is_told():
    text = show("text", {"mail1": "The minion function caused an exception"})
    assert re.search(r"^mail1 +FAILED$", text, re.MULTILINE)
    assert "mail1: The minion function caused" in text


@pytest.mark.parametrize(
    "change, word",
    [
        ({"running": False, "answers": False}, "down"),
        ({"answers": False, "problems": ["127.0.0.1:25 STARTTLS: 454"]}, "mail1: 127.0.0.1:25 STARTTLS: 454"),
        ({"auth": False}, "NO"),
        ({"auth": None}, "-"),
        ({"certificate_days": -3}, "-3 d"),
        ({"certificate_days": None, "errors": {"certificate_expires": "no such file"}}, "no such file"),
        ({"drift": ["/etc/postfix/main.cf"]}, "main.cf"),
        ({"conditions": ["queue"]}, "queue"),
        (
            {"dns": ["x.example MX, missing: it should be m"]},
            "mail1: the DNS: x.example MX, missing: it should be m",
        ),
        ({"last_apply": {"result": False, "failed": ["config"], "time": NOW - 8000}}, "FAILED 2 h ago"),
        ({"last_apply": {"result": False, "failed": ["config"], "time": NOW}}, "the last apply failed: config"),
        (
            {
                "last_apply": {
                    "result": False,
                    "failed": ["settings"],
                    "reasons": {"settings": "profile: no such"},
                    "time": NOW,
                }
            },
            "mail1: the last apply failed: settings (profile: no such)",
        ),
        ({"last_apply": None}, "-"),
    ],
)
def test_what_is_wrong_is_in_the_table_and_on_the_page(change, word):
    answers = {"mail1": {**ROW, **change}}
    assert re.search(rf"(^| ){re.escape(word)}( |$)", show("text", answers), re.MULTILINE)
    assert any(word in cell or cell in word for cell in Page(show("html", answers)).cells if cell)


def test_the_page_loads_nothing():
    page = Page(show("html", {"mail1": ROW}, ["mail2"]))
    assert page.links == []
    assert not {"link", "img", "iframe"} & set(page.tags)
    assert "url(" not in show("html", {"mail1": ROW})


def test_no_script_can_run_but_the_one_that_sorts():
    text = show("html", {"mail1": ROW})
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="(.*)">', text)
    digest = base64.b64encode(hashlib.sha256(_mta_page.SCRIPT.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" == html.unescape(policy)
    assert text.count("<script") == 1


def test_the_servers_with_problems_come_first():
    answers = {"a": ROW, "b": {**ROW, "drift": ["/etc/postfix/main.cf"]}, "c": {**ROW, "auth": False}, "d": ROW}
    rows = re.findall(r'<th scope="row">(\w)<', show("html", answers))
    assert rows[:4] == ["c", "b", "a", "d"]
    assert '<tr class="bad"><th scope="row">c<' in show("html", answers)


def test_a_name_that_is_not_the_minions_id_is_below_it():
    assert '<th scope="row">mail1<small>mail1.example.com</small></th>' in show("html", {"mail1": ROW})
    assert "<small>" not in show("html", {"mail1.example.com": ROW})


class TestLastDays:
    """The small line of each server."""

    def page(self, marks, answers=None, unreachable=()):
        span = NOW // _mta_history.SPAN
        kept = {
            name: [_mta_history.Mark(span - ago, *mark) for ago, *mark in them] for name, them in marks.items()
        }
        return _mta_view.html(collect(answers or {"mail1": ROW}, unreachable), kept)

    def test_it_says_in_words_what_it_shows(self):
        page = self.page({"mail1": [(2, 2, 12), (1, 2, None), (0, 0, 3)]})
        assert "<title>problems in 6 h, at most 12 messages in the queue</title>" in page
        assert "<title>no problems</title>" in self.page({"mail1": [(0, 0, None)]})

    def test_marks_beside_each_other_that_are_alike_are_one(self):
        page = self.page({"mail1": [(55, 0, 0), (54, 0, 0), (3, 0, 0), (2, 1, 0), (1, 2, 0), (0, 2, 0)]})
        ticks = re.findall(r'<rect class="(\w+)" x="(\d+)" y="\d+" width="(\d+)"', page)
        assert ticks == [("good", "0", "4"), ("good", "104", "2"), ("warning", "106", "2"), ("bad", "108", "4")]

    def test_the_queue_has_gaps_where_nothing_was_seen(self):
        page = self.page({"mail1": [(55, 0, 0), (54, 0, 100), (1, 0, 100), (0, 0, -5)]})
        assert re.findall(r'<path d="(.*?)"', page) == ["M0 13.0H2V1.0H4M108 1.0H110V13.0H112"]

    def test_one_that_cannot_be_reached_has_its_line(self):
        page = self.page({"mail2": [(1, 0, 4), (0, 2, None)]}, unreachable=["mail2"])
        assert page.count("<svg") == 1 and "problems in 3 h" in page

    def test_what_was_never_seen_has_none(self):
        assert "<svg" not in show("html", {"mail1": ROW})

    def test_what_is_kept_of_a_view(self):
        answers = {
            "a": ROW,
            "b": {**ROW, "drift": ["/etc/postfix/main.cf"]},
            "c": {**ROW, "auth": False},
            "e": "x",
        }
        kept = _mta_view.seen(collect(answers, ["d"]))
        assert kept == {"a": (0, 5), "b": (1, 5), "c": (2, 5), "d": (2, None), "e": (2, None)}


def test_every_cell_says_its_column_where_there_is_no_room_for_a_table():
    cells = re.findall(r"<td data-label=\"(.*?)\"", show("html", {"mail1": ROW}))
    heading = re.findall(r'<th scope="col"(?: class="line")?>(.*?)</th>', show("html", {"mail1": ROW}))
    assert cells == heading[1:]


def nasty(value=ROW):
    """The row with every text replaced."""
    if isinstance(value, dict):
        return {NASTY if key == "deferred" else key: nasty(item) for key, item in value.items()}
    if isinstance(value, list):
        return [NASTY]
    return NASTY if isinstance(value, (str, type(None))) else value


def test_no_text_of_a_minion_becomes_markup_or_a_terminals_command():
    answers, unreachable = {f"{NASTY}1": nasty(), "other": NASTY}, [f"{NASTY}2"]
    plain = Page(show("html", {"mail1": {**ROW, "problems": ["x"]}, "other": "y"}, ["z"])).tags
    page = show("html", answers, unreachable)
    assert set(Page(page).tags) == set(plain)
    assert "<script" not in page.replace(f"<script>{_mta_page.SCRIPT}</script>", "", 1)
    text = show("text", answers, unreachable)
    assert "\x1b" not in text + page
    assert not any(line.startswith("# HELP forged") for line in text.splitlines())


def test_no_text_of_a_minion_becomes_a_metric():
    text = show("prometheus", {NASTY: nasty()}, [f"{NASTY}2"])
    honest = show("prometheus", {"mail1": {**ROW, "conditions": ["x"]}}, ["z"])
    names = {line.split()[2] for line in text.splitlines() if line.startswith("#")}
    assert names <= {line.split()[2] for line in honest.splitlines() if line.startswith("#")}
    samples(text)


JUNK = [[1], {"a": 1}, "x", 7, True, None, {"x": {"y": "z"}}]
JUNK += [
    {1: 2, "a": 3, None: 4},
    float("inf"),
    float("-inf"),
    float("nan"),
    10**400,
    {"total": float("nan")},
    b"x",
]


@pytest.mark.parametrize("value", JUNK)
def test_wrong_types_break_no_form(value):
    answers = {"mail1": {**dict.fromkeys(ROW, value), "conditions": value}}
    for form in ("text", "html"):
        assert "mail1" in show(form, answers)
    json.dumps(collect(answers), allow_nan=False)
    samples(show("prometheus", answers))


@pytest.mark.parametrize("value", JUNK)
def test_wrong_types_inside_break_no_form_either(value):
    answers = {
        "mail1": {
            name: {**old, "total": value, "time": value} if isinstance(old, dict) else [value]
            for name, old in ROW.items()
        }
    }
    for form in ("text", "html", "prometheus"):
        assert "mail1" in show(form, answers)


def test_metrics():
    found = samples(show("prometheus", {"mail1": {**ROW, "auth": False, "conditions": ["queue"]}}))
    own = 'minion="mail1"'
    assert found["postfix_mta_answers", own] == 1
    assert found["postfix_mta_auth_works", own] == 0
    assert found["postfix_mta_certificate_expiry_timestamp_seconds", own] == NOW + 90 * 86400
    assert found["postfix_mta_queue_files", f'{own},queue="deferred"'] == 4
    assert found["postfix_mta_drift_files", own] == 0
    assert found["postfix_mta_last_apply_success", own] == 1
    assert found["postfix_mta_condition", f'{own},condition="queue"'] == 1
    info = 'fqdn="mail1.example.com",postfix="3.7.11",revision="0123456789ab",profile="guide"'
    assert found["postfix_mta_info", f"{own},{info}"] == 1
    assert ("postfix_mta_auth_works", own) not in samples(show("prometheus", {"mail1": {**ROW, "auth": None}}))


def test_every_metric_is_described_once_and_its_samples_are_together():
    lines = show("prometheus", {name: ROW for name in ("mail1", "mail2", "mail3")}).splitlines()
    described = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    runs = [name for name, before in zip(lines, ["", *lines]) if name.split("{")[0] != before.split("{")[0]]
    assert len(described) == len(set(described))
    assert len([line for line in runs if not line.startswith("#")]) == len(described)


class TestZone:
    MX = "; mail comes here\nexample.com.\t3600\tIN\tMX\t10 {name}.example.com."
    SPF = '; SPF\nexample.com.\t3600\tIN\tTXT\t"v=spf1 mx -all"'
    PTR = "; elsewhere: a name\n; 1.2.0.192.in-addr.arpa.\t3600\tIN\tPTR\tmail1.example.com."

    def test_each_record_is_there_once(self):
        one = "\n".join([self.MX.format(name="mail1"), self.SPF, self.PTR]) + "\n"
        two = "\n".join([self.MX.format(name="mail2"), self.SPF]) + "\n"
        shown = _mta_view.zone(
            {"a": one, "b": two, "c": "'mta_dns.records' is not available."}, ["d"]
        ).splitlines()
        records = [line for line in shown if not line.startswith(";")]
        assert [line.split("\t", 3)[3] for line in records] == [
            *("MX\t10 mail1.example.com.", 'TXT\t"v=spf1 mx -all"', "MX\t10 mail2.example.com.")
        ]
        assert shown[-2:] == ["; c has no records: 'mta_dns.records' is not available.", "; d did not answer"]
        assert "; 1.2.0.192.in-addr.arpa.\t3600\tIN\tPTR\tmail1.example.com." in shown

    def test_servers_that_contradict_each_other_are_told(self):
        text = '; DKIM\n{0}._domainkey.example.com.\t3600\tIN\tTXT\t"v=DKIM1; k=rsa; p={1}"\n'
        apart = _mta_view.zone({"a": text.format("a", 1), "b": text.format("b", 2)}, [])
        assert "receivers" not in apart
        shown = _mta_view.zone({"a": text.format("a", 1), "b": text.format("a", 2)}, []).splitlines()
        assert shown[-1].startswith("; a._domainkey.example.com has 2 records v=DKIM1, and receivers take none")
        assert shown[-1].endswith("or give all of them one dkim:private_key")

    def test_a_policy_is_there_once_and_whole(self):
        policy = "; elsewhere: MTA-STS\n; https://mta-sts.example.com/\n; version: STSv1\n; mx: a\n; mx: b"
        text = f"{self.SPF}\n{policy}\n"
        assert _mta_view.zone({"a": text, "b": text}, []) == f"{self.SPF}\n{policy}"

    def test_a_long_record_is_whole_and_what_is_no_record_is_left_out(self):
        key = '; DKIM\nk._domainkey.example.com.\t3600\tIN\tTXT\t"' + "A" * 255 + '" "' + "B" * 200 + '"'
        assert _mta_view.zone({"a": f"{key}\n$INCLUDE /etc/shadow\n"}, []) == key

    def test_the_runner_asks_for_records(self, runners, monkeypatch):
        asked = []

        def ask(*arguments):
            asked.append(arguments)
            return {"a": self.SPF + "\n"}, []

        monkeypatch.setitem(runners["postfix_mta.zone"].func.__globals__, "_ask", ask)
        shown = runners["postfix_mta.zone"]("mail*", zone="example.com")
        assert asked == [("mail*", "glob", "mta_dns.records", {"zone": "example.com"}, 15)]
        assert shown == {"outputter": "txt", "data": self.SPF}


class TestStatus:
    """The runner itself."""

    @pytest.fixture
    def status(self, runners, monkeypatch):
        def ask(tgt, tgt_type, function, kwargs, timeout):
            self.asked = tgt, tgt_type, function, kwargs, timeout
            return {"mail1": ROW}, ["mail2"]

        monkeypatch.setitem(runners["postfix_mta.status"].func.__globals__, "_ask", ask)
        return runners["postfix_mta.status"]

    def test_text_is_the_default(self, status):
        shown = status("mail*", login=False, timeout=9)
        assert self.asked == ("mail*", "glob", "mta_status.report", {"login": False}, 9)
        assert shown["outputter"] == "txt"
        assert "UNREACHABLE" in shown["data"]

    def test_json_is_data(self, status):
        shown = status(format="json")
        assert shown["outputter"] == "json"
        assert shown["data"]["minions"]["mail1"]["certificate_days"] == 90
        assert shown["data"]["unreachable"] == ["mail2"]

    @pytest.mark.parametrize("form", ["text", "json", "html", "prometheus"])
    def test_a_file_is_replaced_at_once_and_all_may_read_it(self, status, tmp_path, form):
        path = tmp_path / "out"
        path.write_text("old")
        path.chmod(0o600)
        inode = path.stat().st_ino
        assert "of 1 mail servers" in status(format=form, path=str(path))
        assert path.stat().st_ino != inode
        assert path.stat().st_mode & 0o777 == 0o644
        assert list(tmp_path.glob(".out*")) == []
        assert "mail1" in path.read_text()
        if form == "json":
            assert json.loads(path.read_text())["unreachable"] == ["mail2"]

    def test_what_is_seen_is_kept_for_the_page(self, status):
        status()
        page = status(format="html")["data"]
        assert page.count("<title>") == 3
        assert "<title>no problems, at most 5 messages in the queue</title>" in page

    def test_what_cannot_be_kept_keeps_nobody_from_seeing(self, status, runners):
        cache = pathlib.Path(runners.opts["cachedir"])
        cache.mkdir(parents=True, exist_ok=True)
        (cache / "postfix_mta").write_text("no directory")
        assert "mail1" in status(format="html")["data"]

    def test_bad_arguments(self, status, tmp_path):
        with pytest.raises(Exception, match="format must be one of"):
            status(format="xml")
        with pytest.raises(Exception, match="absolute"):
            status(path="relative")

    def test_a_folder_that_is_missing_is_told_before_a_minion_is_asked(self, status, tmp_path):
        path = tmp_path / "missing" / "out"
        with pytest.raises(salt.exceptions.NotImplemented) as caught:
            status(path=str(path))
        assert str(caught.value) == f"Cannot write {path}: the folder {path.parent} does not exist"
        assert not hasattr(self, "asked")

    @pytest.mark.parametrize("function", ["status", "zone"])
    @pytest.mark.parametrize("error", [CommandExecutionError, SaltClientError])
    def test_minions_that_cannot_be_asked_are_a_reason(self, runners, monkeypatch, function, error):
        def ask(*_):
            raise error("No minion matches nobody* (glob)")

        runner = runners[f"postfix_mta.{function}"]
        monkeypatch.setitem(runner.func.__globals__, "_ask", ask)
        with pytest.raises(salt.exceptions.NotImplemented, match=r"^No minion matches"):
            runner("nobody*")

    @pytest.mark.parametrize("arguments", ["status path=/nowhere/x", "status format=xml", "rollout action=resume"])
    def test_salt_run_exits_with_1_and_shows_a_reason_alone(self, tmp_path, arguments):
        (tmp_path / "var/cache/salt/master/proc").mkdir(parents=True)
        runners = pathlib.Path(_mta_view.__file__).parent
        options = {"root_dir": str(tmp_path), "runner_dirs": [str(runners)], "user": getpass.getuser()}
        (tmp_path / "master").write_text(json.dumps(options))
        name, *rest = arguments.split()
        command = ["salt-run", "--config-dir", str(tmp_path), f"postfix_mta.{name}", *rest]
        program = f"import sys; sys.argv = {command!r}; import salt.scripts; salt.scripts.salt_run()"
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 1, done
        assert "Traceback" not in done.stdout + done.stderr and "CLI Example" not in done.stdout
        assert name == "rollout" or len(done.stdout.splitlines()) == 1, done
