"""
A sample of what `bin/test judge` tries: changes of working servers, undone or not, and what real mail says.

known.yaml has the cases in which the formula is wrong today, with the cause. It may only become shorter: a case
that is right and still in it fails.
"""

import os
import pathlib

import pytest
import yaml
from judge import cases, outcomes
from judge.__main__ import try_all

from rig import PREFIX
from rig.container import remove_all, run_label

HOSTS = 2
SAMPLE = yaml.safe_load(pathlib.Path(__file__).with_name("sample.yaml").read_text())
KNOWN = yaml.safe_load(pathlib.Path(__file__).with_name("known.yaml").read_text()) or {}
CASES = [cases.named()[name] for name in SAMPLE]


def params():
    """A test for each case; those that are known to be wrong have to be."""
    for case in CASES:
        known = KNOWN.get(case.name)
        marks = [pytest.mark.xfail(reason=known, strict=True)] if known else []
        yield pytest.param(case, id=case.name, marks=marks)


@pytest.fixture(scope="module")
def found(instance):
    """The outcomes of all cases by name, tried on some hosts at a time."""
    label = f"{PREFIX}-judge={os.urandom(3).hex()}"
    try:
        results = try_all(CASES, instance, HOSTS, [label, run_label()], lambda outcome, number: None)
        yield {outcome.case.name: outcome for outcome in results}
    finally:
        remove_all(label)


@pytest.mark.parametrize("case", list(params()))
def test_the_verdict_is_what_real_mail_says(found, case):
    outcome = found[case.name]
    assert outcome.is_right, outcomes.describe(outcome)


def test_the_servers_to_begin_from_work(found):
    assert outcomes.bases(found.values()) == ""


def test_every_case_that_is_known_to_be_wrong_is_tried():
    assert set(KNOWN) <= set(SAMPLE)
