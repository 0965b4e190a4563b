"""Labels in every form that users have, at the one check of them."""

import doctest
import fractions
import re

import numpy as np
import pytest

from keras_smkd import _labels
from keras_smkd._labels import class_ids
from keras_smkd._labels import labels_of

RULE = (
    "`y` must be class ids, whole numbers in [0, 3), of shape (examples,) or "
    "(examples, 1)"
)
DISTRIBUTIONS = (
    ", or distributions, of shape (examples, 3), whose rows sum to 1"
)


class Column:
    """A column of a table: it knows `__array__` and little else."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0, 2, 1], [0, 2, 1]),
        (range(3), [0, 1, 2]),
        (np.array([0, 2], "uint8"), [0, 2]),
        (np.array([0, 2], "int8"), [0, 2]),
        (np.array([2, 0], "uint64"), [2, 0]),
        ([True, False], [1, 0]),
        (np.array([[2], [0]], "int16"), [2, 0]),
        ([[1.0], [2.0]], [1, 2]),
        ([0.0, -0.0, 2.0], [0, 0, 2]),
        (np.array([2, 1], "float16"), [2, 1]),
        (np.array([0, 2.0, np.True_, np.int8(1)], object), [0, 2, 1, 1]),
        (np.array([fractions.Fraction(2)], object), [2]),
        (Column([1, 2]), [1, 2]),
    ],
)
def test_class_ids(labels, expected):
    for ids in (class_ids("y", labels, 3), labels_of("y", labels, 3)):
        assert ids.dtype == np.int64 and ids.shape == (len(expected),)
        assert ids.tolist() == expected
    assert class_ids("y", labels).tolist() == expected


@pytest.mark.parametrize(
    ("dtype", "num_classes"),
    [("uint8", 256), ("uint8", 300), ("int8", 128), ("int8", 500)],
)
def test_ids_in_a_dtype_that_cannot_hold_the_number_of_classes(
    dtype, num_classes
):
    highest = np.iinfo(dtype).max
    ids = class_ids("y", np.array([0, highest], dtype), num_classes)
    assert ids.tolist() == [0, highest]
    assert (ids + 1).tolist() == [1, highest + 1]


@pytest.mark.parametrize(
    ("labels", "error", "received"),
    [
        ([], ValueError, "y of shape (0,)."),
        (1, ValueError, "y of shape ()."),
        (np.zeros((2, 1, 1)), ValueError, "y of shape (2, 1, 1)."),
        (np.zeros((0, 3)), ValueError, "y of shape (0, 3)."),
        ([0.0, 0.5], ValueError, "y[1]=0.5."),
        ([[0.0], [0.5]], ValueError, "y[1]=0.5."),
        ([0.0, np.nan], ValueError, "y[1]=nan."),
        ([0.0, np.inf], ValueError, "y from 0 to inf."),
        ([0, -1], ValueError, "y from -1 to 0."),
        ([0, 3], ValueError, "y from 0 to 3."),
        (
            [1, 2, 3],
            ValueError,
            "y from 1 to 3. Class ids begin with 0: subtract 1.",
        ),
        ([0.0, 3.0], ValueError, "y from 0 to 3."),
        ([2**80], ValueError, f"y from {2**80} to {2**80}."),
        ([2**63], ValueError, f"y from {2**63} to {2**63}."),
        ([10**400], ValueError, "y with a number too large for a float."),
        ([[0, 1], [0]], ValueError, "y that are no array: "),
        (["cat", "dog"], TypeError, "y of dtype <U3. Encode names as class "),
        ([b"cat"], TypeError, "y of dtype |S3. Encode names as class ids"),
        ([1j], TypeError, "y of dtype complex128. Encode"),
        (
            np.array([0, "cat"], object),
            TypeError,
            "y[1]='cat' of type str. Encode names as class ids, for example "
            "by `names, ids = np.unique(labels, return_inverse=True)`.",
        ),
        ([0, None], TypeError, "y[1]=None of type NoneType. Encode"),
    ],
)
def test_one_sentence_for_what_is_no_label(labels, error, received):
    expected = f"{RULE}. Received: {received}"
    with pytest.raises(error, match=f"^{re.escape(expected)}"):
        class_ids("y", labels, 3)
    expected = f"{RULE}{DISTRIBUTIONS}. Received: {received}"
    with pytest.raises(error, match=f"^{re.escape(expected)}"):
        labels_of("y", labels, 3)


def test_ids_without_a_number_of_classes():
    assert class_ids("y", [2**31 - 1]).tolist() == [2**31 - 1]
    with pytest.raises(
        ValueError, match=r"in \[0, 2\*\*31\), .* to 2147483648"
    ):
        class_ids("y", [2**31])
    with pytest.raises(ValueError, match=r"y from -1 to 0\."):
        class_ids("y", [0, -1])


def test_distributions():
    soft = np.array([[0.25, 0.75], [1.0, 0.0]], "float16")
    found = labels_of("y", soft, 2)
    assert found.dtype == np.float16 and found.tolist() == soft.tolist()
    assert labels_of("y", np.eye(3)).dtype == np.float64
    for one_hot in (np.eye(3, dtype=np.uint8), np.eye(3, dtype=bool)):
        found = labels_of("y", one_hot, 3)
        assert found.dtype == np.float32
        assert found.tolist() == np.eye(3).tolist()


@pytest.mark.parametrize(
    ("labels", "received"),
    [
        (np.eye(2), r"y of shape \(2, 2\)"),
        ([[1, 0, 0], [0.5, 0.5, 0.5]], "row 1 of y sums to 1.5"),
        ([[1, 0, 0], [0, 0, 0]], "row 1 of y sums to 0"),
        ([[2, -1, 0]], r"y\[0, 1\]=-1.0"),
        ([[1, 0, np.nan]], r"y\[0, 2\]=nan"),
        ([[1, 0, np.inf]], "row 0 of y sums to inf"),
        ([[0, 1, 2]], "row 0 of y sums to 3"),
    ],
)
def test_what_is_no_distribution(labels, received):
    with pytest.raises(ValueError, match=rf"examples, 3\).*{received}\."):
        labels_of("y", labels, 3)
    with pytest.raises(ValueError, match=r"Received: y of shape"):
        class_ids("y", np.eye(3), 3)


def test_rows_are_summed_in_float64():
    # In float16 a sum of numbers of 1e-4 stops at 0.25.
    rows = np.full((2, 10_000), 1e-4, "float16")
    for order in "CF":
        values = np.asarray(rows, order=order)
        assert labels_of("y", values, 10_000) is values
    assert np.add.reduce(np.asarray(rows, order="F"), axis=1)[0] < 0.5


def test_docstring_examples():
    result = doctest.testmod(_labels)
    assert result.attempted > 1 and result.failed == 0
