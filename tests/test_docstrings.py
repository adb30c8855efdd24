"""The examples in the docstrings run, and show what they say they show."""

import doctest
import importlib

import pytest

from tests.test_imports import FILES

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL


@pytest.mark.parametrize("module", [name for name in FILES if name.startswith("nonconvex")])
def test_examples(module):
    result = doctest.testmod(importlib.import_module(module), optionflags=OPTIONS)
    assert result.failed == 0
