"""What kitchen.yml says: its suites and platforms as instances, merged as Test Kitchen merges them."""

import dataclasses
import re
import shlex
import string

import yaml

from rig import REPOSITORY

# The settings that the rig follows, or that say what it does anyway. Any other one only Test Kitchen would follow.
KNOWN = {
    "driver": {
        *("name", "image", "hostname", "run_command", "run_options", "env_variables", "cap_add", "security_opt"),
        "disable_upstart",
    },
    "provisioner": {
        *("name", "formula", "state_top", "pillars", "pillars_from_files", "pillars_from_directories"),
        *("salt_copy_filter", "run_salt_call", "salt_install", "require_chef", "log_level"),
    },
    "verifier": {"name", "command", "shellout_opts"},
    "lifecycle": {"pre_create"},
}
PYTEST = ["bin/test", "pytest"]


@dataclasses.dataclass(frozen=True)
class Instance:
    """A suite on a platform, with the settings of its driver, its provisioner, its verifier and its hooks."""

    suite: str
    platform: str
    driver: dict
    provisioner: dict
    verifier: dict
    lifecycle: dict

    @property
    def name(self):
        """The name that Test Kitchen gives the instance."""
        return re.sub("[_,/]", "-", f"{self.suite}-{self.platform}").replace(".", "")

    def environment(self, container):
        """The variables that the verifier's command finds, for a container's name."""
        return {
            "KITCHEN_SUITE": self.suite,
            "KITCHEN_PLATFORM": self.platform,
            "KITCHEN_CONTAINER_ID": container,
        }

    def pytest_args(self, container):
        """The arguments that the verifier's command, ``bin/test pytest …``, gives to pytest."""
        words = shlex.split(string.Template(self.verifier["command"]).substitute(self.environment(container)))
        if words[: len(PYTEST)] != PYTEST:
            raise ValueError(f"kitchen.yml: the verifier's command does not begin with {' '.join(PYTEST)}")
        return words[len(PYTEST) :]

    @property
    def converges(self):
        """Whether the host is converged before the suite's tests: not with ``run_salt_call: false``."""
        return self.provisioner.get("run_salt_call", True)

    @property
    def sls(self):
        """What the top file gives to every minion, as ``state.apply`` takes it."""
        return ",".join(self.provisioner["state_top"]["base"]["*"])


def merge(*layers):
    """Merge mappings, later ones over earlier ones: mappings in them merge too, all else is replaced."""
    merged = {}
    for layer in layers:
        for key, value in (layer or {}).items():
            both = isinstance(value, dict) and isinstance(merged.get(key), dict)
            merged[key] = merge(merged[key], value) if both else value
    return merged


def selected(suite, platform):
    """Whether a suite is for a platform, by its ``includes``, or by its ``excludes`` where it has none."""
    if suite.get("includes"):
        return platform in suite["includes"]
    return platform not in suite.get("excludes", [])


def settings(*layers):
    """The settings of an instance by kind: of kitchen.yml, of its platform and of its suite."""
    return {kind: merge(*(layer.get(kind) for layer in layers)) for kind in KNOWN}


def check(data):
    """ValueError for a setting anywhere in kitchen.yml that the rig does not know."""
    layers = [(data, {"platforms", "suites"})]
    layers += [(platform, {"name"}) for platform in data["platforms"]]
    layers += [(suite, {"name", "includes", "excludes"}) for suite in data["suites"]]
    unknown = []
    for layer, others in layers:
        unknown += [key for key in layer if key not in KNOWN and key not in others]
        for kind, known in KNOWN.items():
            unknown += [f"{kind}.{key}" for key in layer.get(kind, {}) if key not in known]
    if unknown:
        raise ValueError(f"kitchen.yml: the rig does not know {', '.join(unknown)}")


def instances(text=None, excluded=False):
    """Every instance of kitchen.yml (or of ``text``), suite by suite; on request those that it leaves out, too."""
    data = yaml.safe_load((REPOSITORY / "kitchen.yml").read_text() if text is None else text)
    check(data)
    found = []
    for suite in data["suites"]:
        for platform in data["platforms"]:
            if excluded or selected(suite, platform["name"]):
                found.append(Instance(suite["name"], platform["name"], **settings(data, platform, suite)))
    return found


def platforms(text=None):
    """The names of all platforms, in order."""
    return list(dict.fromkeys(instance.platform for instance in instances(text)))


def choose(words, text=None):
    """
    The instances that words choose, each the name of a suite or of a platform, in any order.

    Where both are named, what kitchen.yml leaves out is chosen, too.
    """
    found = instances(text, excluded=True)
    suites = {instance.suite for instance in found}
    names = {instance.platform for instance in found}
    unknown = [word for word in words if word not in suites | names]
    if unknown:
        known = ", ".join([*sorted(suites), *sorted(names)])
        raise ValueError(f"neither a suite nor a platform: {', '.join(unknown)} (there are {known})")
    if not (suites.intersection(words) and names.intersection(words)):
        found = instances(text)
    wanted_suites = suites.intersection(words) or suites
    wanted_platforms = names.intersection(words) or names
    return [item for item in found if item.suite in wanted_suites and item.platform in wanted_platforms]
