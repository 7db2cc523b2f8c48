"""A bare host is converged: the dry run told the truth, and a second apply finds nothing to do."""

import pytest

from rig import results


def tell(problems):
    """Fail with the problems, one in a line, when there are any."""
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)


def test_a_dry_run_on_a_bare_host_succeeds(prediction):
    if prediction is None:
        pytest.skip("Test Kitchen has converged the host already")
    tell(results.failures(prediction))
    assert results.announced(prediction)


def test_the_first_apply_succeeds(convergence):
    if convergence is None:
        pytest.skip("Test Kitchen has converged the host already")
    tell(results.failures(convergence))


def test_the_first_apply_changes_exactly_what_the_dry_run_announced(prediction, convergence):
    if prediction is None:
        pytest.skip("Test Kitchen has converged the host already")
    tell(results.difference(prediction, convergence))
    tell(results.other_items(prediction, convergence))


def test_a_second_apply_changes_nothing(container, instance, convergence):
    second = container.apply(sls=instance.sls)
    tell(results.failures(second))
    found = [f"{results.label(key)}: {second[key]['changes']}" for key in sorted(results.announced(second))]
    tell(found)


def test_a_dry_run_on_a_converged_host_announces_nothing(container, instance, convergence):
    third = container.apply(test=True, sls=instance.sls)
    tell(results.failures(third))
    found = [f"{results.label(key)}: {third[key]['comment']}" for key in sorted(results.announced(third))]
    tell(found)
