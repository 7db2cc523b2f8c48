"""The formula as a Salt extension: one wheel, from the files that Salt also syncs."""

import ctypes
import ctypes.util
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import venv

import built_wheel
import pytest

from rig import REPOSITORY

FOLDERS = built_wheel.FOLDERS
# Prints the file of one function of each loader.
ASK = """
import json, site, sys
for path in sys.argv[2:]:
    site.addsitedir(path)
import salt.config, salt.loader
opts = salt.config.minion_config(None)
opts.update(json.loads(sys.argv[1]))
opts["grains"] = {}
mods = salt.loader.minion_mods(opts, context={})
loaders = {
    "modules": (mods, "mta_queue.size"),
    "states": (salt.loader.states(opts, mods, {}, None), "postconf.managed"),
    "beacons": (salt.loader.beacons(opts, mods), "postfix_mta.beacon"),
    "runners": (salt.loader.runner(opts), "postfix_mta.status"),
}
found = {kind: sys.modules[loader[name].__module__] for kind, (loader, name) in loaders.items()}
print(json.dumps({kind: module.__file__ for kind, module in found.items()}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A directory in which the wheel is installed, and nothing else."""
    place = tmp_path_factory.mktemp("extension")
    argv = [
        *built_wheel.PIP,
        "install",
        *built_wheel.OFFLINE,
        "--target",
        place / "site",
        built_wheel.build(place),
    ]
    subprocess.run(argv, check=True)
    return place / "site"


@pytest.fixture(scope="module")
def onedir(tmp_path_factory):
    """
    A directory like that of Salt's own packages, in which Salt and all else of this environment is installed.

    relenv's runtime is that of those packages, and extras come first in it. Its Python is not one that relenv has
    built.
    """
    relenv = importlib.util.find_spec("relenv")
    if not relenv:
        pytest.skip("relenv needs a newer Python")
    root = tmp_path_factory.mktemp("onedir")
    venv.create(root, symlinks=True)
    (packages,) = root.glob("lib/python*/site-packages")
    for path in pathlib.Path(sysconfig.get_path("purelib")).iterdir():
        if path.name != "relenv":
            (packages / path.name).symlink_to(path)
    shutil.copytree(pathlib.Path(relenv.origin).parent, packages / "relenv")
    (packages / "relenv.pth").write_text("import relenv.runtime; relenv.runtime.bootstrap()\n")
    extras = root / "extras-{}.{}".format(*sys.version_info)
    (packages / "extras.pth").write_text(f"import sys; sys.path.insert(0, {str(extras)!r})\n")
    # relenv has an OpenSSL of its own there.
    ctypes.CDLL(ctypes.util.find_library("crypto"))
    libraries = re.search(r"(/\S*/libcrypto\S*)$", pathlib.Path("/proc/self/maps").read_text(), re.MULTILINE)
    (root / "lib" / "libcrypto.so").symlink_to(libraries[1])
    return root


def files(installed, tmp_path, python=sys.executable):
    """Which files Salt's loaders take, where the wheel is installed (``None``: where that Python finds it)."""
    opts = {name: str(tmp_path / name) for name in ("root_dir", "cachedir", "pki_dir", "sock_dir")}
    opts["extension_modules"] = str(tmp_path / "extmods")
    sites = [str(installed)] if installed else []
    environment = {**os.environ, "PYTHONPATH": "".join(sites), "PYTHONWARNINGS": "ignore"}
    argv = [python, "-c", ASK, json.dumps(opts), *sites]
    done = subprocess.run(argv, env=environment, check=True, capture_output=True, text=True, cwd=tmp_path)
    return json.loads(done.stdout.splitlines()[-1])


def test_the_wheel_gives_salt_all_kinds_of_modules(installed, tmp_path):
    found = files(installed, tmp_path)
    for kind in FOLDERS:
        assert found[kind].startswith(f"{installed}/saltext/postfix_mta/{kind}/")


def test_salt_pip_brings_the_wheel_and_nothing_else_to_a_onedir(onedir, tmp_path):
    (tmp_path / "minion").write_text(json.dumps({"root_dir": str(tmp_path)}))
    wheel = built_wheel.build(tmp_path)
    program = "import sys; from salt.scripts import salt_pip; sys.argv[0] = 'salt-pip'; salt_pip()"
    argv = [onedir / "bin" / "python", "-c", program, "install", "--no-index", wheel]
    environment = {**os.environ, "SALT_CONFIG_DIR": str(tmp_path), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (extras,) = onedir.glob("extras-*")
    assert {path.name for path in extras.iterdir()} == {"saltext", "postfix_mta_formula-0.1.0.dist-info"}
    found = files(None, tmp_path, onedir / "bin" / "python")
    for kind in FOLDERS:
        assert found[kind].startswith(f"{extras}/saltext/postfix_mta/{kind}/")


def test_the_wheel_has_the_files_that_are_synced_and_no_others(installed):
    for kind, folder in FOLDERS.items():
        names = {path.name for path in (installed / "saltext" / "postfix_mta" / kind).glob("*.py")}
        assert names == {path.name for path in (REPOSITORY / folder).glob("*.py")}


def test_what_the_formula_has_synced_comes_before_what_is_installed(installed, tmp_path):
    for kind, folder in FOLDERS.items():
        shutil.copytree(REPOSITORY / folder, tmp_path / "extmods" / kind)
    found = files(installed, tmp_path)
    for kind in ("modules", "states", "beacons"):
        assert found[kind].startswith(f"{tmp_path}/extmods/{kind}/")


def test_an_editable_install_takes_the_files_of_the_clone(tmp_path):
    built_wheel.build(tmp_path)
    argv = [*built_wheel.PIP, "install", *built_wheel.OFFLINE, "--target", tmp_path / "site"]
    subprocess.run([*argv, "--editable", tmp_path / "tree"], check=True)
    found = files(tmp_path / "site", tmp_path)
    for kind, folder in FOLDERS.items():
        assert found[kind].startswith(f"{tmp_path}/tree/{folder}/")


def test_in_a_clone_the_directories_are_those_of_the_repository():
    path = REPOSITORY / "extension" / "__init__.py"
    spec = importlib.util.spec_from_file_location("extension_of_the_clone", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.loader_dirs() == {kind: [str(REPOSITORY / folder)] for kind, folder in FOLDERS.items()}
