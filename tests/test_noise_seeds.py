"""Seeds fix labels for ever: the SHA-256 of what each kind draws.

A hash that differs means that runs of older versions can no longer be made
again, and results with them no longer compared.
"""

import hashlib

import numpy as np
import pytest

from keras_smkd import noise

MATRIX_HASHES = {
    # Random draws, and exact ones.
    "symmetric_excluding_true": (
        "df56a46bab4339d1484384c45be61e36e983ae36f4e7a0965cfffe425b09bece",
        "057fadfa33b2ab11b0087dfbae13a51f17c7abef1a5e61d002e6dce4c752f8f2",
    ),
    "symmetric_including_true": (
        "a8a7945d21736c84099be92d7e3d6900b6b81b6d27e1b4f04e1d0a50acd2c3d4",
        "2123510f274cb8ecf1cc9f8e39dfe5dfc2615442ddb0b118c39649fa8fab697c",
    ),
    "pair_flip": (
        "1dfb866c2a013d36a08702c5419724b2a41ae7a2afc4d6639fc0b6d7ec6f3349",
        "2ae1c273fe9396b732b987cfab16a8fe5e9248dccfed08f82915f5aa74358f3e",
    ),
    "asymmetric_cifar10": (
        "aaed3b692513448f44715ee7039e1171f1ddb421746f775f21f3ff044eff350e",
        "99c54c2edd41680e235d1e4a8bded94065af21bb522ec031038fb2cbfd632b81",
    ),
    "asymmetric_cifar100": (
        "8351a6d25bf9ed06117788759e42936f8dc58bf9a0e4d8dbd44999b569f41282",
        "73d9efb5ae578ef819866f367fc6b52b726e833d1a4ab2c70fa146a903bc65a3",
    ),
    "asymmetric_cifar100_blocks": (
        "9d7e17e184bb267e09e03ff4327a7c4ea6433e7a592bf3aaafcfadc37521f52c",
        "6bf062f2de2e933f16169b8e41d47e467416820c96ea6c924a08e41a48c1d90f",
    ),
}
OTHER_HASHES = {
    "instance": (
        "f294d60e032795ef25a76e9e93e00bd1e0a5c6e61d3e92834b1049e6d01062e4"
    ),
    "instance, soft": (
        "c17223d2fc78375073464263b7f777ea5816a3d2c5556b5c15b40e65eadfeaa1"
    ),
    "labels": (
        "df56a46bab4339d1484384c45be61e36e983ae36f4e7a0965cfffe425b09bece"
    ),
    "open set": (
        "a04f2a25ef772ff041a391969a7b51b482eea4275b0dc1f0cc41ef62476a6962"
    ),
    "open set, exact": (
        "b08d80d4f19435a78fee081e307ea6923ad013200760effb23527bd123051b93"
    ),
}


def sha256(array):
    return hashlib.sha256(array.astype("<i8").tobytes()).hexdigest()


def clean_labels(classes):
    """A thousand labels in no simple order, made without a generator."""
    return np.arange(1000) * 7919 % 1009 % classes


def features():
    """Bytes like pixels, made without a generator."""
    places = np.arange(1000 * 48, dtype=np.int64)
    return (places * 7919 % 10007 % 256).astype(np.uint8).reshape(1000, 48)


def classes_of(kind):
    return 100 if "cifar100" in kind else 10


def drawn(name):
    images, labels = features(), clean_labels(10)
    if name.startswith("instance"):
        scale = 1 / 1000 if "soft" in name else 1.0
        return noise.make_noisy_by_instance(
            labels, images, 0.4, num_classes=10, seed=0, scale=scale
        ).noisy_labels
    if name.startswith("labels"):
        matrix = noise.symmetric_excluding_true(0.4, 10)
        return noise.draw_labels(matrix[labels], seed=0)
    return noise.replace_images(
        images, labels, images[:600], 0.4, seed=0, exact="exact" in name
    ).source


@pytest.mark.parametrize("kind", noise.KINDS)
def test_labels_of_a_matrix(kind):
    classes = classes_of(kind)
    hashes = tuple(
        sha256(
            noise.make_noisy(
                clean_labels(classes),
                kind,
                0.4,
                num_classes=classes,
                seed=0,
                exact=exact,
            ).noisy_labels
        )
        for exact in (False, True)
    )
    assert hashes == MATRIX_HASHES[kind]


@pytest.mark.parametrize("name", OTHER_HASHES)
def test_what_else_is_drawn(name):
    assert sha256(drawn(name)) == OTHER_HASHES[name]


def test_the_clean_labels_are_the_same_for_ever():
    assert sha256(clean_labels(10)) == (
        "9e0bb8098d12bc638e8d7fc7b196283d70dd44dc837f264c4105ddabae329c2e"
    )
    assert sha256(features()) == (
        "736d48d1972727960ac7c42fdb9f447f0df91cf79b7342d7ddb54dfb8b9f5bda"
    )
    assert len(set(OTHER_HASHES.values())) == len(OTHER_HASHES)
    # Drawn from a matrix or from its rows, labels are the same.
    random, _ = MATRIX_HASHES["symmetric_excluding_true"]
    assert OTHER_HASHES["labels"] == random
