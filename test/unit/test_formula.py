"""The repository as a package: what SPM builds and installs."""

import pathlib
import subprocess
import sys
import tarfile

import yaml

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
FORMULA = yaml.safe_load((REPOSITORY / "FORMULA").read_text())


def spm(tmp_path, *args):
    """Run SPM with every path of its own below ``tmp_path``."""
    for name in ("cache", "build", "formulas", "pillar", "reactor", "share", "logs"):
        (tmp_path / name).mkdir(exist_ok=True)
    config = {
        "root_dir": str(tmp_path),
        "spm_build_dir": str(tmp_path / "build"),
        "spm_cache_dir": str(tmp_path / "cache"),
        "spm_db": str(tmp_path / "cache/packages.db"),
        "spm_logfile": str(tmp_path / "logs/spm"),
        "formula_path": str(tmp_path / "formulas"),
        "pillar_path": str(tmp_path / "pillar"),
        "reactor_path": str(tmp_path / "reactor"),
        "spm_share_dir": str(tmp_path / "share"),
    }
    (tmp_path / "spm").write_text(yaml.safe_dump(config))
    command = [pathlib.Path(sys.executable).parent / "spm", "-c", tmp_path, *args]
    return subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)


def test_spm_builds_and_installs_the_formula(tmp_path):
    spm(tmp_path, "build", ".")
    package = tmp_path / "build" / "{name}-{version}-{release}.spm".format(**FORMULA)
    with tarfile.open(package) as tar:
        names = set(tar.getnames())
    assert {"postfix_mta/FORMULA", "postfix_mta/postfix_mta/init.sls", "postfix_mta/_modules/postconf.py"} <= names
    assert "postfix_mta/_runners/postfix_mta.py" in names
    spm(tmp_path, "local", "install", "-y", package)
    assert (tmp_path / "formulas/postfix_mta/init.sls").exists()
    assert (tmp_path / "formulas/postfix_mta/files/saslauthd-proxy.py").exists()
    assert (tmp_path / "formulas/_states/postconf.py").exists()
    assert (tmp_path / "pillar/postfix_mta.sls.orig").read_text() == (REPOSITORY / "pillar.example").read_text()
