"""The wheel of this clone, as bin/release builds it."""

import shutil
import subprocess
import sys

from rig import REPOSITORY

# The package's name for a kind of modules to the repository's folder.
FOLDERS = {"modules": "_modules", "states": "_states", "beacons": "_beacons", "runners": "_runners"}
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")
OFFLINE = ("--no-deps", "--no-index", "--no-build-isolation")


def build(place):
    """Build the wheel below a directory, and return its path. Nothing is left in the repository."""
    for name in ("extension", *FOLDERS.values()):
        shutil.copytree(REPOSITORY / name, place / "tree" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, place / "tree")
    argv = [*PIP, "wheel", *OFFLINE, "--wheel-dir", place, place / "tree"]
    subprocess.run(argv, check=True, capture_output=True, text=True)
    (built,) = place.glob("*.whl")
    return built
