"""The mail server's log, from wherever it is."""

import _mta_mail_log
import _mta_system


def test_a_file_is_told_without_time_and_program(tmp_path, monkeypatch):
    file = tmp_path / "mail.log"
    file.write_text("Nov 27 02:44:37 mail postfix/local[77]: AB12: to=<alice>\n")
    assert _mta_mail_log.lines(0, str(file)) == ["AB12: to=<alice>"]


def test_without_a_log_there_is_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(_mta_mail_log, "JOURNAL", str(tmp_path / "none"))
    monkeypatch.setattr(_mta_mail_log, "FILES", (str(tmp_path / "no.log"),))
    assert _mta_mail_log.lines(0) == []


def test_a_file_to_which_nobody_writes_is_no_log(tmp_path, monkeypatch):
    monkeypatch.setattr(_mta_mail_log, "JOURNAL", str(tmp_path / "none"))
    file = tmp_path / "mail.log"
    file.write_text("Nov 27 07:00:00 mail postfix/local[1]: AB12: to=<alice>\n")
    monkeypatch.setattr(_mta_mail_log, "FILES", (str(file),))
    assert _mta_mail_log.lines(file.stat().st_mtime) == ["AB12: to=<alice>"]
    assert _mta_mail_log.lines(file.stat().st_mtime + 60) == []


def test_the_journal_is_asked_for_the_facility_of_the_server(tmp_path, monkeypatch):
    asked = []

    def run(argv, **_):
        asked.extend(argv)
        return _mta_system.Finished(0, b"AB12: removed\n", b"")

    monkeypatch.setattr(_mta_mail_log, "JOURNAL", str(tmp_path))
    monkeypatch.setattr(_mta_system, "run", run)
    assert _mta_mail_log.lines(0, facility="local5") == ["AB12: removed"]
    assert "SYSLOG_FACILITY=21" in asked
