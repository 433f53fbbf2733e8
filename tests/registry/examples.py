"""Running the examples in the docstrings of verbs."""

from __future__ import annotations

import doctest
import sys
from typing import Any

import llreg

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def examples_of(verbs: Any) -> dict[str, doctest.DocTest]:
    """The examples of a function, or of each method of a class, by its name."""
    module = sys.modules[verbs.__module__]
    tests = doctest.DocTestFinder().find(verbs, verbs.__name__, module, globs={})
    return {test.name.rpartition(".")[2]: test for test in tests if test.examples}


def run(test: doctest.DocTest, **names: Any) -> None:
    """Run a method's examples with `llreg` and some further names; fail with what doctest says."""
    test.globs = {"llreg": llreg, **names}
    report: list[str] = []
    doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.append)
    assert not report, "".join(report)
