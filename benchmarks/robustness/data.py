"""Examples split by a seed, with labels wrong in a stated way.

A seed decides which examples are tested on, unless `fresh_test` is false, which
of the others are trained on, which are for validation, and which labels are
wrong: those of the validation examples, too, as a user has no clean ones.
"""

import dataclasses
from typing import Any

import numpy as np
import pools

import keras_smkd
from keras_smkd import noise

# Classes that resemble each other: {clean: noisy}. That of digits is the one
# that is usual for MNIST. T-shirt 0, trouser 1, pullover 2, dress 3, coat 4,
# sandal 5, shirt 6, sneaker 7, bag 8, ankle boot 9.
ASYMMETRIC_FLIPS = {
    "digits": {2: 7, 3: 8, 5: 6, 6: 5, 7: 1},
    "fashion": {9: 7, 7: 5, 2: 6, 3: 4, 4: 3},
}
HUMAN_LABELS = {
    "worst": "worse_label",
    "aggregate": "aggre_label",
    "random1": "random_label1",
    "random2": "random_label2",
    "random3": "random_label3",
}
# Clothes that are taken for each other in shops' texts: of the tops, the one
# that each is taken for most often; the shoes; what is hardly mistaken.
NEAREST_TOPS = {0: 6, 2: 4, 3: 4, 4: 2, 6: 0}
SHOES = (5, 7, 9)
KINDS = (
    "none",
    "symmetric",
    "asymmetric",
    "pair",
    "instance",
    "clothing",
    "human",
)
VALIDATION_FRACTION = 0.15


@dataclasses.dataclass(frozen=True)
class Split:
    """Holds what one run trains, chooses and tests on.

    Args:
        inputs: `(train + validation + test, ...)` float32 in [0, 1].
        sizes: The three numbers of examples.
        noisy_labels: `(train,)`.
        clean_labels: `(train,)`.
        validation_labels: `(validation,)`, noisy.
        test_labels: `(test,)`, clean.
        recipe: How the noise was made.
        num_classes: Number of classes.
    """

    inputs: Any
    sizes: tuple[int, int, int]
    noisy_labels: Any
    clean_labels: Any
    validation_labels: Any
    test_labels: Any
    recipe: dict[str, Any]
    num_classes: int


def parse_noise(text: str) -> tuple[str, Any]:
    """Return `(kind, rate)` of `"pair:0.4"`, or `("human", name)`."""
    kind, _, argument = text.partition(":")
    if kind == "none" and not argument:
        return kind, None
    if kind == "human" and argument in HUMAN_LABELS:
        return kind, argument
    try:
        if kind in KINDS[1:-1] and 0.0 < float(argument) <= 1.0:
            return kind, float(argument)
    except ValueError:
        pass
    raise ValueError(
        f"`noise` must be none, {', '.join(KINDS[1:-1])} with a rate in "
        f"(0, 1], such as pair:0.4, or human with one of "
        f"{', '.join(HUMAN_LABELS)}. Received: noise={text!r}."
    )


def transition_matrix(dataset: str, rate: float) -> Any:
    """Return the asymmetric matrix of a data set: half of the classes flip."""
    if dataset == "cifar10":
        return noise.asymmetric_cifar10(rate)
    if dataset not in ASYMMETRIC_FLIPS:
        raise ValueError(
            "`noise` must not be asymmetric where it is not said which classes "
            f"resemble each other. Received: dataset={dataset!r}."
        )
    matrix = np.eye(10)
    for clean, noisy in ASYMMETRIC_FLIPS[dataset].items():
        matrix[clean, clean] = 1.0 - rate
        matrix[clean, noisy] = rate
    return matrix


def clothing_matrix(rate: float) -> Any:
    """Return a matrix for Fashion-MNIST whose confusion is that of shops.

    A top's label is wrong at the rate, half of the time that of the nearest
    one and otherwise of any other top; a shoe's at half of the rate; that of
    trousers or a bag at an eighth, of any class.
    """
    matrix = np.zeros((10, 10))
    for top, nearest in NEAREST_TOPS.items():
        others = [
            other for other in NEAREST_TOPS if other not in (top, nearest)
        ]
        matrix[top, others] = 0.5 * rate / len(others)
        matrix[top, nearest] = 0.5 * rate
    matrix[np.ix_(SHOES, SHOES)] = 0.25 * rate
    rare = [c for c in range(10) if c not in (*NEAREST_TOPS, *SHOES)]
    matrix[rare] = 0.125 * rate / 9
    np.fill_diagonal(matrix, 0.0)
    np.fill_diagonal(matrix, 1.0 - matrix.sum(axis=1))
    return matrix


def make_labels(
    dataset: str, pool: pools.Pool, text: str, seed: int, places: pools.Places
) -> noise.NoisyLabels:
    """Return noisy labels of the whole pool.

    Args:
        dataset: Name of the data set.
        pool: Its examples.
        text: The noise, as `parse_noise` reads it.
        seed: Seed of the noise.
        places: Where human labels are.
    """
    kind, rate = parse_noise(text)
    if kind == "clothing" and dataset != "fashion":
        raise ValueError(
            "`noise` must not be clothing without the data set fashion. "
            f"Received: dataset={dataset!r}."
        )
    settings = {"num_classes": pool.num_classes, "seed": seed}
    if kind == "none":
        return noise.NoisyLabels(
            pool.labels, pool.labels, pool.num_classes, {"kind": kind}
        )
    if kind == "human":
        if dataset != "cifar10" or places.human_labels is None:
            raise ValueError(
                "`noise` must not be human without the data set cifar10 and "
                f"`human_labels`. Received: dataset={dataset!r}, "
                f"human_labels={places.human_labels!r}."
            )
        clean, noisy = (
            # By the index: the files are in the canonical order.
            keras_smkd.data.load_human_labels(places.human_labels, name)[
                pool.index
            ]
            for name in ("clean_label", HUMAN_LABELS[rate])
        )
        if not np.array_equal(clean, pool.labels):
            raise ValueError(
                "`human_labels` must be those of the data set's images. "
                f"Received: human_labels={places.human_labels!r}, whose clean "
                "labels differ."
            )
        return noise.NoisyLabels(clean, noisy, 10, {"kind": HUMAN_LABELS[rate]})
    if kind == "instance":
        return noise.make_noisy_by_instance(
            pool.labels, pool.images, rate, **settings
        )
    if kind in ("asymmetric", "clothing"):
        return noise.make_noisy_by_matrix(
            pool.labels,
            transition_matrix(dataset, rate)
            if kind == "asymmetric"
            else clothing_matrix(rate),
            seed=seed,
            name=f"{kind}_{dataset}({rate})",
        )
    kinds = {"symmetric": "symmetric_excluding_true", "pair": "pair_flip"}
    return noise.make_noisy(pool.labels, kinds[kind], rate, **settings)


def parse_imbalance(text: str) -> tuple[str, float]:
    """Return `(kind, value)` of `"none"`, `"half:0.3"`, `"long_tailed:10"`."""
    kind, _, argument = text.partition(":")
    try:
        value = float(argument) if argument else 1.0
        if (
            (kind == "none" and not argument)
            or (kind == "half" and 0.0 < value < 1.0)
            or (kind == "long_tailed" and value > 1.0)
        ):
            return kind, value
    except ValueError:
        pass
    raise ValueError(
        "`imbalance` must be none, half with the share that is kept of half "
        "of the classes, such as half:0.3, or long_tailed with the ratio of "
        "the largest class to the smallest, such as long_tailed:10. "
        f"Received: imbalance={text!r}."
    )


def imbalanced(labels: Any, text: str, num_classes: int, seed: int) -> Any:
    """Return the places of the examples that imbalanced data keep, in order.

    Which classes are rare is drawn.

    Args:
        labels: `(examples,)`, clean.
        text: As `parse_imbalance` reads it.
        num_classes: Number of classes.
        seed: Seed of the draws.
    """
    kind, value = parse_imbalance(text)
    if kind == "none":
        return np.arange(len(labels))
    rng = np.random.default_rng([seed, 3])
    place = rng.permutation(num_classes)
    if kind == "half":
        share = np.where(place < num_classes // 2, value, 1.0)
    else:
        share = value ** (-place / (num_classes - 1))
    kept = []
    for label in range(num_classes):
        own = np.flatnonzero(labels == label)
        count = max(1, round(share[label] * len(own)))
        kept.append(rng.permutation(own)[:count])
    return np.sort(np.concatenate(kept))


def split_positions(
    num_examples: int,
    batch_size: int,
    seed: int,
    fraction: float = VALIDATION_FRACTION,
) -> tuple[Any, Any]:
    """Return the positions to train on and those to validate with.

    At least that fraction is for validation: whatever fills no batch of
    training goes there, so that all batches have one size and compile once.
    """
    batches = int(num_examples * (1.0 - fraction)) // batch_size
    if batches == 0:
        raise ValueError(
            "`batch_size` must leave a whole batch to train on. Received: "
            f"batch_size={batch_size}, for {num_examples} examples."
        )
    # A stream of its own: the noise draws from the same seed.
    order = np.random.default_rng([seed, 1]).permutation(num_examples)
    size = batches * batch_size
    return np.sort(order[:size]), np.sort(order[size:])


def load(config: dict[str, Any], places: pools.Places) -> Split:
    """Return what a run of a configuration trains and tests on."""
    dataset, seed = config["dataset"], config["seed"]
    fresh = config.get("fresh_test", False)
    pool = pools.load_pool(
        dataset,
        config["examples"],
        config["test_examples"],
        places,
        seed if fresh else None,
    )
    kept = imbalanced(
        pool.labels,
        config.get("imbalance", "none"),
        pool.num_classes,
        seed,
    )
    pool = dataclasses.replace(
        pool,
        images=pool.images[kept],
        labels=pool.labels[kept],
        index=pool.index[kept],
    )
    labels = make_labels(dataset, pool, config["noise"], seed, places)
    train, held = split_positions(
        len(pool.labels),
        config["batch_size"],
        seed,
        config.get("validation_fraction", VALIDATION_FRACTION),
    )
    parts = (pool.images[train], pool.images[held], pool.test_images)
    return Split(
        inputs=np.concatenate(parts).astype("float32") / pool.largest,
        sizes=tuple(len(part) for part in parts),
        noisy_labels=labels.noisy_labels[train].astype("int32"),
        clean_labels=labels.clean_labels[train].astype("int32"),
        validation_labels=labels.noisy_labels[held].astype("int32"),
        test_labels=pool.test_labels.astype("int32"),
        recipe=labels.recipe,
        num_classes=pool.num_classes,
    )
