"""The list of deliberate breaks fits the package and its tests."""

import importlib.util
import pathlib
import re
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def module_of_breaks():
    path = ROOT / "benchmarks" / "mutants" / "breaks.py"
    spec = importlib.util.spec_from_file_location("mutants_breaks", path)
    module = importlib.util.module_from_spec(spec)
    # Where a dataclass looks for its annotations.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


BREAKS = module_of_breaks()


def source_of(item):
    return (ROOT / item.file).read_text(encoding="utf-8")


def test_every_break_fits_once_and_changes_the_program():
    for item in BREAKS.read_all():
        source = source_of(item)
        assert item.count(source) == 1, item.what
        broken = item.apply(source)
        assert broken != source, item.what
        compile(broken, item.file, "exec")


def test_the_tests_of_every_break_are_there():
    for item in BREAKS.read_all():
        for test in item.tests:
            path, *names = test.split("::")
            source = (ROOT / path).read_text(encoding="utf-8")
            for name in names:
                assert re.search(rf"^def {name}\(", source, re.M), test


def test_breaks_are_many_and_each_has_its_own_words():
    found = BREAKS.read_all()
    assert len(found) >= 150
    assert len({(item.file, item.what) for item in found}) == len(found)


def test_a_break_replaces_whole_lines():
    text = (
        "@ a.py\n\n# two lines\n> test_a.py test_b.py::test_c\n"
        " if x:\n-    y = 1\n+    y = 2\n\n"
        "# nothing is left\n> test_a.py\n! It is known.\n-y = 1\n"
    )
    first, second = BREAKS.read(text)
    assert first.file == second.file == "keras_smkd/a.py"
    assert first.tests == ("tests/test_a.py", "tests/test_b.py::test_c")
    assert (first.what, second.reason) == ("two lines", "It is known.")
    source = "y = 1\nif x:\n    y = 1\nyy = 1"
    assert (first.count(source), second.count(source)) == (1, 1)
    assert first.apply(source) == "y = 1\nif x:\n    y = 2\nyy = 1"
    assert second.apply(source) == "\nif x:\n    y = 1\nyy = 1"
    with pytest.raises(ValueError, match=r"must say all\. Received: # no test"):
        list(BREAKS.read("@ a.py\n\n# no test\n-y = 1"))
