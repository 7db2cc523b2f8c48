"""Pillars that nobody should have, for the tests of what has to survive them."""

from hypothesis import strategies as st

SECTIONS = [
    "hostname",
    "root_recipient",
    "aliases",
    "profile",
    "parameters",
    "services",
    "unmanaged",
    "certificate",
    "sasl",
    "firewall",
    "verify",
    "relay",
    "manage_hosts_file",
]


def pillars(allow_nan=True):
    """Values of any type and shape, and sections of the formula's pillar with such values."""
    junk = st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=allow_nan)
        | st.text(max_size=15)
        | st.binary(max_size=5)
        | st.dates(),
        lambda below: (
            st.lists(below, max_size=3)
            | st.dictionaries(
                st.text(max_size=8)
                | st.integers()
                | st.sampled_from(["ca", "login", "key", "ports", "enabled", "names"]),
                below,
                max_size=3,
            )
        ),
        max_leaves=8,
    )
    return junk | st.dictionaries(st.sampled_from(SECTIONS), junk, max_size=5)
