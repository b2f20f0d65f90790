"""The README's examples print what it says."""

import doctest
import pathlib

import pytest

README = pathlib.Path(__file__).parents[2] / "README.md"


def test_every_python_example_of_the_readme_prints_what_it_says():
    if not README.exists():
        pytest.skip("the README is not beside these tests")
    outcome = doctest.testfile(str(README), module_relative=False)
    assert outcome.attempted >= 10 and outcome.failed == 0
