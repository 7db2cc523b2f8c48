"""What kitchen.yml says: its suites and platforms as instances, merged as Test Kitchen merges them."""

import dataclasses

import yaml

from rig import REPOSITORY


@dataclasses.dataclass(frozen=True)
class Instance:
    """A suite on a platform, with the settings of its driver and its provisioner."""

    suite: str
    platform: str
    driver: dict
    provisioner: dict

    @property
    def name(self):
        """The name that Test Kitchen gives the instance."""
        return f"{self.suite}-{self.platform}".replace(".", "")

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
    """Whether a suite is for a platform, by its ``includes`` and ``excludes``."""
    includes = suite.get("includes") or [platform]
    return platform in includes and platform not in suite.get("excludes", [])


def instances(text=None, excluded=False):
    """Every instance of kitchen.yml (or of ``text``), suite by suite; on request those that it leaves out, too."""
    data = yaml.safe_load((REPOSITORY / "kitchen.yml").read_text() if text is None else text)
    found = []
    for suite in data["suites"]:
        for platform in data["platforms"]:
            if excluded or selected(suite, platform["name"]):
                settings = {
                    key: merge(data.get(key), platform.get(key), suite.get(key))
                    for key in ("driver", "provisioner")
                }
                found.append(Instance(suite["name"], platform["name"], **settings))
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
