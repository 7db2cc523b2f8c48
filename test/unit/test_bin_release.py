"""bin/release: what keeps a clone from being a release, and the versions that have to agree."""

import shutil
import subprocess

import pytest
from conftest import load_program

from rig import REPOSITORY


@pytest.fixture
def release(tmp_path, monkeypatch):
    """The program over a small clone in which nothing keeps version 0.1.0 from being released."""
    module = load_program("release")
    for name in ("pyproject.toml", "FORMULA"):
        shutil.copy(REPOSITORY / name, tmp_path)
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 0.1.0\n\n- All.\n")
    (tmp_path / "bin").mkdir()
    for name in module.GENERATED:
        (tmp_path / "bin" / name).write_text("#!/bin/sh\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setattr(module, "REPOSITORY", tmp_path)
    for argv in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"],
    ):
        subprocess.run(["git", *argv], cwd=tmp_path, check=True)
    return module


def test_a_clean_clone_is_a_release(release):
    assert release.problems("0.1.0") == []


def test_everything_that_is_wrong_is_named(release):
    (release.REPOSITORY / "CHANGELOG.md").write_text("# Changelog\n\n## 0.1.0 (not released)\n")
    (release.REPOSITORY / "FORMULA").write_text("version: 0.0.9\n")
    (release.REPOSITORY / "bin" / "docs").write_text("#!/bin/sh\necho stale; exit 1\n")
    subprocess.run(["git", "tag", "v0.1.0"], cwd=release.REPOSITORY, check=True)
    found = "\n".join(release.problems("0.1.0"))
    for words in ("not committed", "a tag v0.1.0", "FORMULA has version 0.0.9", "not released", "stale"):
        assert words in found


def test_the_versions_of_this_clone_agree():
    module = load_program("release")
    assert not [problem for problem in module.problems("0.1.0") if "has version" in problem]
