"""The formula as a Salt extension: one wheel, from the files that Salt also syncs."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import built_wheel
import pytest

from rig import REPOSITORY

FOLDERS = built_wheel.FOLDERS
# Prints the file of one function of each loader.
ASK = """
import json, site, sys
site.addsitedir(sys.argv[2])
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


def files(installed, tmp_path):
    """Which files Salt's loaders take, where the wheel is installed."""
    opts = {name: str(tmp_path / name) for name in ("root_dir", "cachedir", "pki_dir", "sock_dir")}
    opts["extension_modules"] = str(tmp_path / "extmods")
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONWARNINGS": "ignore"}
    argv = [sys.executable, "-c", ASK, json.dumps(opts), str(installed)]
    done = subprocess.run(argv, env=environment, check=True, capture_output=True, text=True, cwd=tmp_path)
    return json.loads(done.stdout.splitlines()[-1])


def test_the_wheel_gives_salt_all_kinds_of_modules(installed, tmp_path):
    found = files(installed, tmp_path)
    for kind in FOLDERS:
        assert found[kind].startswith(f"{installed}/saltext/postfix_mta/{kind}/")


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
