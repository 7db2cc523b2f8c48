"""Lookup tables and Postfix's programs: what is compiled, what is remembered of it, what is shown."""

import pytest
from salt.exceptions import CommandExecutionError

import _mta_tables

TABLE = """\
# top
info@example.com   alice,
  # between
  bob
"john doe"@x\tcarol
# end
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "virtual"


def test_the_entries_of_a_table_are_shown_as_postfix_reads_them(path):
    assert _mta_tables.show(str(path), "hash") is None
    path.write_text(TABLE)
    assert _mta_tables.show(str(path), "hash") == [
        ["info@example.com", "alice,  bob"],
        ['"john doe"@x', "carol"],
    ]
    path.write_bytes(b"a \xff\n")
    with pytest.raises(CommandExecutionError, match="no UTF-8 text"):
        _mta_tables.show(str(path), "hash")
