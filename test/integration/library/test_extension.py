"""The formula's modules installed as a Salt extension, beside what an apply syncs."""

import json

import built_wheel
import pytest

from rig import REPOSITORY

REVISION = (REPOSITORY / "postfix_mta" / "revision.yaml").read_text(encoding="utf-8")
HERE = "/root/extension"
CACHE = "/var/tmp/extension-cache"
MINION = {"id": "mail.example.com", "cachedir": CACHE, "extension_modules": f"{CACHE}/extmods"}
SALT = ["salt-call", "--local", f"--config-dir={HERE}/etc", "--out=json"]
SALT += [f"--file-root={HERE}", f"--pillar-root={HERE}/pillar"]


@pytest.fixture(scope="module")
def host(container, tmp_path_factory):
    """The host with the wheel in Salt's own Python, and the formula as a file root."""
    built = built_wheel.build(tmp_path_factory.mktemp("wheel"))
    container.put({f"{HERE}/{name}": REPOSITORY / name for name in (*built_wheel.FOLDERS.values(), "postfix_mta")})
    container.put({f"{HERE}/{built.name}": built, f"{HERE}/etc/minion": json.dumps(MINION)})
    container.exec(f"/opt/salt/bin/python -m pip install -q --no-deps --no-index {HERE}/{built.name}")
    yield container
    container.exec("/opt/salt/bin/python -m pip uninstall -q -y postfix-mta-formula")


def call(host, *argv):
    """What a function returns."""
    return json.loads(host.exec([*SALT, *argv], check=False).stdout)["local"]


def synced(host):
    """Whether an apply has brought modules."""
    return bool(host.exec(f"find {CACHE}/extmods -name '*.py'", check=False).stdout)


def test_where_the_installed_modules_fit_nothing_is_synced(host):
    assert call(host, "mta_settings.revision") in REVISION
    states = call(host, "state.apply", "postfix_mta", "test=True")
    assert isinstance(states, dict), states
    assert all(state["result"] is not False for state in states.values())
    assert not synced(host)


def test_where_they_do_not_those_of_the_formula_win(host):
    find = "import saltext.postfix_mta as m; print(m.__path__[0])"
    place = host.exec(["/opt/salt/bin/python", "-c", find]).stdout.strip()
    host.exec(["sed", "-i", 's/^REVISION = .*/REVISION = "000000000000"/', f"{place}/modules/_mta_revision.py"])
    assert call(host, "mta_settings.revision") == "000000000000"
    states = call(host, "state.apply", "postfix_mta", "test=True")
    assert isinstance(states, dict), states
    assert all(state["result"] is not False for state in states.values())
    assert synced(host)
    assert call(host, "mta_settings.revision") in REVISION
