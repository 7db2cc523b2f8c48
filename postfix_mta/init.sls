#!py
# The whole mail server, in the how-to's order.

PARTS = ["settings", "package", "certificate", "sasl", "config", "aliases", "firewall", "verify", "watch"]
# Of the formula's files; bin/update-revision writes it.
REVISION = "8cf4dc93cdea"


def run():
    """Include the parts; where this formula's modules are loaded, they have them rendered already."""
    include = {"include": [f".{part}" for part in PARTS]}
    # salt-ssh renders on the master, and would ask on the target. Below a mountpoint settings.sls says what to do.
    # "mta_settings.states" in __salt__ would have Salt load all modules there are, where that one is not there.
    if "__master_opts__" in __opts__ or "mta_settings" not in __salt__.file_mapping or "." in sls:
        return include
    states = __salt__["mta_settings.states"](PARTS, REVISION, saltenv)
    files = {f"{saltenv}:{state['__sls__']}" for state in states.values() if "__sls__" in state}
    if not files or files & rendered_sls:
        return include
    # Salt's own list of what this run need not render any more.
    rendered_sls.update(files)
    return states
