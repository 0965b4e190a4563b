"""The golden vectors of the estimators: one part per file.

Each part returns what we compute of a case, by the name of the output.
"""

import re

import numpy as np

from keras_smkd import estimators


def dual_t(case, tolerance):
    """Both factors and their product, with and without the filter.

    The authors' filter writes zeros into the probabilities, from one class to
    the next (`*_official*`); ours leaves the caller's alone.
    """
    logits = np.asarray(case["inputs"]["logits"])
    probs = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs = probs / probs.sum(axis=1, keepdims=True)
    labels = np.asarray(case["inputs"]["noisy_labels"]).astype("int64")
    percentile = float(case["hyperparameters"]["percentile"])
    result = {
        "T_spadesuit": estimators.intermediate_transition_matrix(
            probs, labels, empty_rows="zeros"
        )
    }
    for name, share in (
        ("argmax", None),
        ("filter_no_side_effect", percentile),
    ):
        result[f"T_clubsuit_{name}"] = estimators.anchor_transition_matrix(
            probs, share
        )
        result[f"dual_T_{name}"] = estimators.dual_t_transition_matrix(
            probs, labels, share, empty_rows="zeros"
        )
    return result


def incv(case, tolerance):
    """The authors' search for the noise rate, and what follows from it."""
    given = case["hyperparameters"]
    agreements = np.asarray(case["inputs"]["validation_agreement"])
    # The number of classes is in the name only.
    num_classes = int(re.search(r"_C(\d+)", case["name"]).group(1))
    rates = [
        estimators.agreement_noise_rate(
            float(agreement),
            num_classes,
            top=int(given["top"]),
            step=float(given["step"]),
        )
        for agreement in agreements
    ]
    return {
        "estimated_noise_ratio": np.array(rates),
        "discard_ratio": np.array([estimators.discard_ratio(r) for r in rates]),
    }


def m_correction(case, tolerance):
    """The beta mixture; the target built from it is in another part."""
    if "losses" not in case["inputs"]:
        return {}
    given = case["hyperparameters"]
    points = int(given["lookup_resolution"])
    losses = np.asarray(case["inputs"]["losses"])
    mixture = estimators.fit_beta_mixture(
        losses,
        max_iterations=int(given["max_iters"]),
        alphas=[float(a) for a in given["alphas_init"]],
        betas=[float(b) for b in given["betas_init"]],
        weights=[float(w) for w in given["weights_init"]],
    )
    return {
        "percentile_5": mixture.low,
        "percentile_95": mixture.high,
        "normalised_losses": mixture.normalized(losses),
        "alphas": mixture.alphas,
        "betas": mixture.betas,
        "weights": mixture.weights,
        "posterior_noisy": mixture.posterior_noisy(losses),
        "lookup_table": mixture.lookup_table(points),
        "posterior_noisy_lookup": mixture.posterior_noisy(losses, points),
        "bootstrap_weights": mixture.posterior_noisy(
            losses, points, margin=1e-4
        ),
    }


PARTS = {
    "dual_t": dual_t,
    "incv": incv,
    "m_correction": m_correction,
}
