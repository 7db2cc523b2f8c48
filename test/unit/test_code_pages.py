"""The pages of the reference that are made from docstrings and from the comments of SLS files."""

import sys
import textwrap

import pytest

from rig import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "docs" / "site"))

import code_pages


@pytest.mark.parametrize(
    ("docstring", "markdown"),
    [
        ("See ``main.cf`` and :func:`list`.", "See `main.cf` and `list`."),
        ("As for :py:func:`managed`.", "As for `managed`."),
        ("a <b> and *c*", r"a \<b\> and \*c\*"),
        ("name (str)\n    Of it.\n    More.\n\nAll.", "- **name (str)**:\n  Of it.\n  More.\n\nAll."),
        (
            "Example:\n\n.. code-block:: bash\n\n    salt '*' a.b\n\nEnd.",
            "Example:\n\n```bash\nsalt '*' a.b\n```\n\nEnd.",
        ),
    ],
)
def test_a_docstring_becomes_markdown(docstring, markdown):
    assert code_pages.prose(docstring) == markdown


def test_functions_have_the_names_and_arguments_that_salt_has(tmp_path):
    source = '''
    """About it."""
    __func_alias__ = {"list_": "list"}
    def list_(limit: int = 10, *names, queue=None, **rest):
        """List them.

        limit
            How many.
        """
    def _private():
        """No."""
    '''
    path = tmp_path / "mta_x.py"
    path.write_text(textwrap.dedent(source))
    text, (function,) = code_pages.functions(path)
    assert (text, function.name, function.first) == ("About it.", "list", "List them.")
    assert function.arguments == ["limit=10", "*names", "queue=None", "**rest"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("#!yaml\n# The first\n# part.\n#\n# More.\ninclude: []\n", "The first part."),
        ("{#-\n  What it does.\n\n  Why.\n-#}\na: b\n", "What it does."),
        ("a: b\n", ""),
    ],
)
def test_an_sls_file_is_described_by_its_first_comment(tmp_path, text, said):
    (tmp_path / "a.sls").write_text(text)
    assert code_pages.sls_comment(tmp_path / "a.sls") == said


def test_every_sls_file_says_what_it_does():
    for path in (REPOSITORY / "postfix_mta").rglob("*.sls"):
        assert code_pages.sls_comment(path), path
