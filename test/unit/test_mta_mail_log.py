"""The mail server's log, from wherever it is."""

import _mta_mail_log


def test_a_file_is_told_without_time_and_program(tmp_path, monkeypatch):
    file = tmp_path / "mail.log"
    file.write_text("Nov 27 02:44:37 mail postfix/local[77]: AB12: to=<alice>\n")
    assert _mta_mail_log.lines(0, str(file)) == ["AB12: to=<alice>"]


def test_without_a_log_there_is_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(_mta_mail_log, "JOURNAL", str(tmp_path / "none"))
    monkeypatch.setattr(_mta_mail_log, "FILES", (str(tmp_path / "no.log"),))
    assert _mta_mail_log.lines(0) == []
