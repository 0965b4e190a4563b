"""The superclasses of CIFAR-100, and the flips within them."""

import numpy as np
import pytest

from keras_smkd import noise

# Of every fine label the coarse one, as CIFAR-100's own files pair them.
COARSE = """
     4  1 14  8  0  6  7  7 18  3  3 14  9 18  7 11  3  9  7 11
     6 11  5 10  7  6 13 15  3 15  0 11  1 10 12 14 16  9 11  5
     5 19  8  8 15 13 14 17 18 10 16  4 17  4  2  0 17  4 18 17
    10  3  2 12 12 16 12  1  9 19  2 10  0  1 16 12  9 13 15 13
    16 19  2  4  6 19  5  5  8 19 18  1  2 15  6  0 17  8 14 13
"""
# Fine labels as CIFAR-100 has them.
FINE = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl
    boy bridge bus butterfly camel can castle caterpillar cattle chair
    chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp
    lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain
    mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road
    rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television
    tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf
    woman worm
"""


def flips_of(matrix):
    """Return `{class: the one that it flips to}`."""
    off_diagonal = matrix * (1 - np.eye(len(matrix)))
    rows, columns = np.nonzero(off_diagonal)
    flips = dict(zip(rows.tolist(), columns.tolist(), strict=True))
    assert len(flips) == len(rows)
    return flips


def test_coarse_labels_are_those_of_cifar100():
    coarse = [int(label) for label in COARSE.split()]
    assert list(noise.CIFAR100_COARSE_LABELS) == coarse
    assert np.bincount(noise.CIFAR100_COARSE_LABELS).tolist() == [5] * 20


def test_fine_labels_are_alphabetical():
    names = FINE.split()
    assert len(names) == 100
    assert sorted(noise.cifar._COARSE_LABELS) == names


@pytest.mark.parametrize(
    "group",
    [
        "beaver dolphin otter seal whale",
        "baby boy girl man woman",
        "maple_tree oak_tree palm_tree pine_tree willow_tree",
        "apple mushroom orange pear sweet_pepper",
        "lawn_mower rocket streetcar tank tractor",
    ],
)
def test_classes_flip_to_the_next_of_their_superclass(group):
    labels = [FINE.split().index(name) for name in group.split()]
    flips = flips_of(noise.asymmetric_cifar100(0.3))
    assert [flips[label] for label in labels] == labels[1:] + labels[:1]


def test_flips_equal_a_naive_loop():
    coarse = [int(label) for label in COARSE.split()]
    for fine, flipped in flips_of(noise.asymmetric_cifar100(0.3)).items():
        following = fine
        while True:
            following = (following + 1) % 100
            if coarse[following] == coarse[fine]:
                break
        assert flipped == following


def test_blocks_flip_within_five_labels():
    flips = flips_of(noise.asymmetric_cifar100_blocks(0.3))
    assert flips == {i: i // 5 * 5 + (i + 1) % 5 for i in range(100)}


def test_the_blocks_are_not_the_superclasses():
    blocks = flips_of(noise.asymmetric_cifar100_blocks(0.3))
    coarse = noise.CIFAR100_COARSE_LABELS
    within = [i for i, j in blocks.items() if coarse[i] == coarse[j]]
    names = FINE.split()
    # The other 94 flips leave the superclass.
    assert [names[i] for i in within] == (
        "bee cattle leopard porcupine telephone tractor".split()
    )


@pytest.mark.parametrize(
    "build", [noise.asymmetric_cifar100, noise.asymmetric_cifar100_blocks]
)
@pytest.mark.parametrize("rate", [0.0, 0.4, 1.0])
def test_every_class_has_the_noise_rate(build, rate):
    matrix = noise.check_transition_matrix(build(rate), num_classes=100)
    assert matrix.dtype == np.float64
    np.testing.assert_array_equal(matrix.diagonal(), np.full(100, 1.0 - rate))
    np.testing.assert_array_equal(np.sort(matrix, axis=1)[:, :-2], 0.0)
    if rate == 0.0:
        np.testing.assert_array_equal(matrix, np.eye(100))
    else:
        assert len(flips_of(matrix)) == 100


@pytest.mark.parametrize(
    "build", [noise.asymmetric_cifar100, noise.asymmetric_cifar100_blocks]
)
def test_noise_rate_out_of_range(build):
    with pytest.raises(
        ValueError,
        match=r"`noise_rate` must be in \[0, 1\]\. Received: noise_rate=1\.5",
    ):
        build(1.5)
    with pytest.raises(TypeError, match="`noise_rate` must be a number"):
        build("0.4")
