"""Each part alone: it needs no other part's work, and leaves nothing half done."""

import pytest

from rig import results


@pytest.mark.parametrize("part", ["certificate", "sasl", "aliases", "service"])
def test_a_part_alone_converges_a_bare_host(new_container, part):
    bare = new_container()
    assert not results.failures(bare.apply(test=True, sls=f"postfix_mta.{part}"))
    assert not results.failures(bare.apply(sls=f"postfix_mta.{part}"))
    second = bare.apply(sls=f"postfix_mta.{part}")
    assert not results.failures(second)
    assert not results.changed(second)


@pytest.mark.parametrize(
    "part", ["settings", "package", "certificate", "sasl", "config", "aliases", "service", "firewall", "verify"]
)
def test_a_part_finds_nothing_to_do_on_a_converged_host(container, part):
    found = container.apply(sls=f"postfix_mta.{part}")
    assert not results.failures(found)
    assert not results.changed(found)


def test_verifying_a_bare_host_fails_and_changes_nothing(new_container):
    found = new_container().apply(sls="postfix_mta.verify")
    assert [text.partition(":")[0] for text in results.failures(found)] == ["mta_probe.answers"]
    assert not results.changed(found)
