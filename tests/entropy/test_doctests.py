"""The examples in the docstrings print what they say."""

import doctest
from importlib import import_module

import pytest


@pytest.mark.parametrize("name", ["counting", "discoverer", "information", "segmenter"])
def test_examples(name):
    found = doctest.testmod(import_module(f"entropy.{name}"))
    assert found.attempted > 0
    assert found.failed == 0
