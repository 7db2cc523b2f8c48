"""
Virtual environments in the user's cache: the tools of pyproject.toml's extras with one Salt line each.

Only the standard library here: ``bin/test`` runs this file with the system's Python to get its environment.
"""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import subprocess
import sys

PYPROJECT = pathlib.Path(__file__).resolve().parents[2] / "pyproject.toml"
LINES = ("3008", "3006")

# Runs inside the new environment, whose pip has a TOML parser where Python (before 3.11) has none.
REQUIREMENTS = """
import sys
try:
    import tomllib
except ImportError:
    from pip._vendor import tomli as tomllib
with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
for requirements in (project["dependencies"], *project["optional-dependencies"].values()):
    print("\\n".join(requirements))
"""


def cache():
    """The rig's directory in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "postfix-mta-test"


@contextlib.contextmanager
def locked(name):
    """A context that one thread of one process is in at a time."""
    cache().mkdir(parents=True, exist_ok=True)
    with open(cache() / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def lines():
    """The Salt lines that this Python can run, the newest first: 3006 ends before Python 3.13."""
    return LINES if sys.version_info < (3, 13) else LINES[:1]


def python(line=LINES[0]):
    """
    The Python of the environment with Salt ``line``, which is made when it is missing.

    Its name has a hash of pyproject.toml and of this file in it: a changed requirement makes a new one.
    """
    digest = hashlib.sha256(PYPROJECT.read_bytes() + pathlib.Path(__file__).read_bytes())
    digest.update(sys.base_prefix.encode() + sys.version.encode())
    directory = cache() / f"venv-{line}-{digest.hexdigest()[:12]}"
    complete = directory / "complete"
    with locked(f"venv-{line}"):
        if not complete.exists():
            print(f"Making a virtual environment with Salt {line} in {directory}", file=sys.stderr, flush=True)
            make(directory, line)
            complete.touch()
    return directory / "bin" / "python"


def make(directory, line):
    """Fill ``directory`` with an environment that has all requirements and Salt ``line``."""
    run(sys.executable, "-m", "venv", "--clear", directory)
    interpreter = directory / "bin" / "python"
    pip = (interpreter, "-m", "pip", "--disable-pip-version-check", "install", "-qq", "--progress-bar=off")
    # Salt 3006 imports pkg_resources.
    run(*pip, "--upgrade", "pip", "wheel", "setuptools<80")
    found = subprocess.run(
        [interpreter, "-c", REQUIREMENTS, PYPROJECT], check=True, stdout=subprocess.PIPE, encoding="utf-8"
    )
    run(*pip, f"salt~={line}.0", *found.stdout.split("\n")[:-1])


def run(*argv):
    """Run a command with its output on standard error, and end with a plain message when it fails."""
    done = subprocess.run([str(arg) for arg in argv], stdout=sys.stderr, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        sys.exit(f"bin/test: {' '.join(map(str, argv))} failed with {done.returncode}")


if __name__ == "__main__":
    print(python())
