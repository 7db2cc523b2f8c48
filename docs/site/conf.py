"""Sphinx over the repository's Markdown pages; `bin/docs site` runs it."""

import pathlib
import re

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]

project = "postfix_mta"
version = release = re.search(r"(?m)^version: (.*)$", (REPOSITORY / "FORMULA").read_text(encoding="utf-8"))[1]
extensions = ["myst_parser"]
master_doc = "README"
include_patterns = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "docs/**.md"]
myst_heading_anchors = 3
highlight_language = "text"
html_theme = "furo"
html_title = f"postfix_mta {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
# Appended to the first page, for the menu.
HIDDEN = "\n```{toctree}\n:hidden:\n:caption: CAPTION\n\nPAGES\n```\n"


def _pages():
    """The site's menu: titles to documents, in the order of docs/index.md."""
    index = (REPOSITORY / "docs" / "index.md").read_text(encoding="utf-8")
    listed = [f"docs/{name}" for name in re.findall(r"\]\(([\w/-]+)\.md\)", index)]
    reference = (REPOSITORY / "docs" / "reference" / "index.md").read_text(encoding="utf-8")
    looked_up = [f"docs/reference/{name}" for name in re.findall(r"\]\(([\w-]+)\.md\)", reference)]
    jobs = [name for name in dict.fromkeys(listed) if name != "docs/reference/index"]
    return {
        "Documents": ["docs/index", *jobs],
        "Reference": ["docs/reference/index", *looked_up],
        "Project": ["CONTRIBUTING", "SECURITY", "CHANGELOG"],
    }


def _add_menu(app, name, source):
    if name == "README":
        for caption, pages in _pages().items():
            source[0] += HIDDEN.replace("CAPTION", caption).replace("PAGES", "\n".join(pages))


def _index(app, error):
    """Browsers look for index.html."""
    if error is None:
        page = pathlib.Path(app.outdir) / "README.html"
        (page.parent / "index.html").write_text(page.read_text(encoding="utf-8"), encoding="utf-8")


def setup(app):
    """Sphinx calls this."""
    app.connect("source-read", _add_menu)
    app.connect("build-finished", _index)
