"""The golden vectors of the noise: our values for each case of a file."""

import numpy as np

from keras_smkd import noise
from keras_smkd.noise.instance import truncated_normal_quantiles

MATRICES = {
    "symmetric_excluding_true": noise.symmetric_excluding_true,
    "symmetric_including_true": noise.symmetric_including_true,
    "pairflip": noise.pair_flip,
    "asymmetric_cifar10": lambda rate, _: noise.asymmetric_cifar10(rate),
    "asymmetric_cifar100_blocks": lambda rate, _: (
        noise.asymmetric_cifar100_blocks(rate)
    ),
}


def noise_transition_matrices(case, tolerance):
    """The matrix, in the form that the case has it."""
    given = float(case["hyperparameters"]["rate"])
    num_classes = int(np.asarray(case["inputs"]["num_classes"]))
    (build,) = (
        MATRICES[kind]
        for kind in MATRICES
        if case["name"].startswith(f"{kind}_")
    )
    matrix = build(given, num_classes)
    assert matrix.shape == (num_classes, num_classes)
    result = {}
    if "T" in case["outputs"]:
        result["T"] = matrix
    if "T_nonzero" in case["outputs"]:
        # Row, column and value: all else in the matrix is zero.
        places = np.nonzero(matrix)
        result["T_nonzero"] = np.stack([*places, matrix[places]], axis=1)
    if "diag" in case["outputs"]:
        others = matrix[~np.eye(num_classes, dtype=bool)]
        assert np.ptp(matrix.diagonal()) == np.ptp(others) == 0
        result["diag"] = matrix[0, 0]
        result["offdiag"] = others[0]
    return result


def mean_over_levels(function):
    """Return the integral of a function of the level over (0, 1).

    By a rule whose points crowd at the ends, where quantiles go steeply.
    """
    t = np.linspace(-4.0, 4.0, 801)
    levels = 1.0 / (1.0 + np.exp(-np.pi * np.sinh(t)))
    weights = np.pi * np.cosh(t) * levels * (1.0 - levels)
    return np.sum(function(levels) * weights) * (t[1] - t[0])


def instance_noise(case, tolerance):
    """Label distributions for given draws, or that of the flip rates."""
    given = case["hyperparameters"]
    inputs = {name: np.asarray(v) for name, v in case["inputs"].items()}
    if "features" in inputs:
        probabilities = noise.instance_dependent_probabilities(
            inputs["features"],
            inputs["labels"].astype("int64"),
            inputs["W"],
            inputs["flip_rates"],
        )
        return {"P": probabilities}

    def quantiles(levels):
        return truncated_normal_quantiles(
            levels, float(given["noise_rate"]), float(given["norm_std"])
        )

    mean = mean_over_levels(quantiles)
    variance = mean_over_levels(lambda levels: (quantiles(levels) - mean) ** 2)
    return {
        "mean": mean,
        "std": np.sqrt(variance),
        "quantiles": quantiles(inputs["quantile_levels"]),
    }


PARTS = {
    "instance_noise": instance_noise,
    "noise_transition_matrices": noise_transition_matrices,
}
