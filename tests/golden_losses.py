"""Parts of the golden test: the losses for noisy labels."""

import numpy as np
from keras import ops
from naive import gradient
from naive import numpy_of

from keras_smkd import functional
from keras_smkd import losses
from keras_smkd import noise
from keras_smkd.losses import base
from keras_smkd.losses import robust


def logits_and_labels(case):
    inputs = case["inputs"]
    labels = "soft_labels" if "soft_labels" in inputs else "labels"
    return inputs["logits"], inputs[labels]


def mean_gradient(loss, labels, logits):
    return gradient(lambda z: ops.mean(loss.call(labels, z)), logits)


def loss_part(loss_of):
    """A part that compares one loss: values, their mean and the gradient.

    Where the authors clip probabilities and the file also has the values
    without, those are ours.
    """

    def part(case, tolerance):
        loss = loss_of(case)
        logits, labels = logits_and_labels(case)
        values = numpy_of(loss.call(labels, logits))
        grad = mean_gradient(loss, labels, logits)
        if "loss_per_sample_unclipped" in case["outputs"]:
            return {
                "loss_per_sample_unclipped": values,
                "grad_logits_unclipped": grad,
            }
        return {
            "loss_per_sample": values,
            "loss_mean": values.mean(),
            "grad_logits": grad,
        }

    return part


def scaled(kind):
    def loss_of(case):
        assert case["hyperparameters"] == {"scale": 1.0}
        return kind(from_logits=True)

    return loss_part(loss_of)


def rce(case, tolerance):
    """As the others; the authors raise probabilities to 1e-7, and we do not.

    At a hundred classes that adds up to 9e-5 to a loss. It is a constant,
    without a gradient, and added to ours.
    """
    result = scaled(losses.ReverseCrossEntropy)(case, tolerance)
    logits, labels = logits_and_labels(case)
    probs = numpy_of(ops.exp(functional.log_probabilities(logits)))
    raised = np.maximum(probs, 1e-7) - probs
    raised[np.arange(len(labels)), labels] = 0.0
    values = result["loss_per_sample"] - np.log(1e-4) * raised.sum(axis=1)
    return {
        **result,
        "loss_per_sample": values,
        "loss_mean": values.mean(),
    }


def active_passive(active, passive):
    """The sum, and for the focal loss the gradient through its factors."""

    def loss_of(case, **arguments):
        given = case["hyperparameters"]
        if "gamma" in given:
            arguments["gamma"] = given["gamma"]
        return losses.ActivePassive(
            active(from_logits=True, **arguments),
            passive(from_logits=True),
            given["alpha"],
            given["beta"],
            from_logits=True,
        )

    def part(case, tolerance):
        result = loss_part(loss_of)(case, tolerance)
        if "grad_logits_full" in case["outputs"]:
            loss = loss_of(case, factor_gradient=True)
            logits, labels = logits_and_labels(case)
            result["grad_logits_full"] = mean_gradient(loss, labels, logits)
        return result

    return part


def gce_truncated(case, tolerance):
    """The loss for given weights, which starts at -L_q(k), and new weights."""
    given = case["hyperparameters"]
    logits, labels = logits_and_labels(case)
    kept = case["inputs"]["sample_weights"].astype(bool)[:, None]
    loss = losses.TruncatedGeneralizedCrossEntropy(**given, from_logits=True)
    # L_q(k) is what an example that is dropped has as its loss.
    dropped = np.array([[-30.0, 0.0]], logits.dtype)
    constant = numpy_of(loss.call([0], dropped))[0]

    def values(z):
        log_probs = functional.log_probabilities(z)
        return (
            robust.truncated_generalized_cross_entropy(
                base.distributions(labels, log_probs),
                log_probs,
                **given,
                kept=kept,
            )
            - constant
        )

    result = numpy_of(values(logits))
    return {
        "loss_per_sample": result,
        "loss_mean": result.mean(),
        "grad_logits": gradient(lambda z: ops.mean(values(z)), logits),
        "updated_weights": numpy_of(loss.call(labels, logits)) < constant,
    }


def sce(case, tolerance):
    """Both variants; the authors' own clips the probability of the label."""
    given = case["hyperparameters"]
    logits, labels = logits_and_labels(case)
    loss = losses.SymmetricCrossEntropy(
        given["alpha"], given["beta"], given["A"], from_logits=True
    )
    cross = losses.ForwardCorrection(np.eye(logits.shape[-1]), True)
    label_log_probs = -numpy_of(cross.call(labels, logits))
    clip = np.log(given.get("ce_clip", 0.0) or 1e-300)
    if label_log_probs.min() > clip:
        return loss_part(lambda case: loss)(case, tolerance)
    # What is clipped is a constant, without a gradient: added back, the rest
    # is ours.
    clipped = given["alpha"] * np.minimum(label_log_probs - clip, 0.0)
    values = numpy_of(loss.call(labels, logits)) + clipped
    return {"loss_per_sample": values, "loss_mean": values.mean()}


def confidence_penalty(case, tolerance):
    """The paper's form, and the convex combination of another repository."""
    given = case["hyperparameters"]
    logits, _ = logits_and_labels(case)
    if "epsilon" not in given:
        loss = losses.ConfidencePenalty(given["beta"], from_logits=True)
        log_probs = functional.log_probabilities(logits)
        return {
            **loss_part(lambda case: loss)(case, tolerance),
            "entropy_per_sample": numpy_of(functional.entropy(log_probs)),
        }
    if "scale20" in case["name"]:
        # Its constant inside the logarithms, 1e-6, is larger there than the
        # label's probability, and differs from ours by tens of nats.
        return {}
    share = 1.0 - given["epsilon"]
    loss = losses.ConfidencePenalty(given["epsilon"] / share, from_logits=True)
    result = loss_part(lambda case: loss)(case, tolerance)
    return {name: share * value for name, value in result.items()}


def matrix_of(case):
    """The transition matrix of a case; at a hundred classes only its name."""
    if "T" in case["inputs"]:
        return case["inputs"]["T"]
    kind, rate = case["inputs"]["T_spec"].values()
    num_classes = len(case["inputs"]["logits"][0])
    if kind == "symmetric_excluding_true":
        return noise.symmetric_excluding_true(rate, num_classes)
    if kind == "pairflip":
        return noise.pair_flip(rate, num_classes)
    # Within each block of five classes to the next one.
    assert (kind, num_classes) == ("asymmetric_cifar", 100)
    return np.kron(np.eye(20), noise.pair_flip(rate, 5))


def matrix_loss(kind):
    return loss_part(lambda case: kind(matrix_of(case), from_logits=True))


def l_dmi(case, tolerance):
    """The loss of the batch, its gradient and the determinant."""
    given = case["hyperparameters"]
    assert not given["normalise_by_N"]
    loss = losses.DeterminantMutualInformation(given["eps"], from_logits=True)
    exact = losses.DeterminantMutualInformation(0.0, from_logits=True)
    logits, labels = logits_and_labels(case)
    result = {
        "loss_mean": numpy_of(loss.call(labels, logits)).mean(),
        "abs_det": np.exp(-numpy_of(exact.call(labels, logits))[0]),
    }
    if "grad_logits" in case["outputs"]:
        result["grad_logits"] = mean_gradient(loss, labels, logits)
    return result


def joint_optimization(case, tolerance):
    """The loss of the batch, its gradient and its three terms."""
    given = case["hyperparameters"]
    assert given["prior"] == "uniform"
    logits, labels = logits_and_labels(case)

    def mean(alpha, beta):
        loss = losses.JointOptimization(alpha, beta, from_logits=True)
        return numpy_of(loss.call(labels, logits)).mean()

    loss = losses.JointOptimization(
        given["alpha"], given["beta"], from_logits=True
    )
    prior = mean(1.0, 0.0) - mean(0.0, 0.0)
    return {
        "loss_mean": mean(given["alpha"], given["beta"]),
        "grad_logits": mean_gradient(loss, labels, logits),
        "L_c": mean(0.0, 0.0),
        "L_p": prior,
        "L_p_kl": prior - np.log(logits.shape[-1]),
        "L_e": mean(0.0, 1.0) - mean(0.0, 0.0),
    }


PARTS = {
    "backward_correction": matrix_loss(losses.BackwardCorrection),
    "confidence_penalty": confidence_penalty,
    "forward_correction": matrix_loss(losses.ForwardCorrection),
    "gce": loss_part(
        lambda case: losses.GeneralizedCrossEntropy(
            case["hyperparameters"]["q"], from_logits=True
        )
    ),
    "gce_truncated": gce_truncated,
    "joint_optimization": joint_optimization,
    "l_dmi": l_dmi,
    "mae": scaled(losses.MeanAbsoluteProbabilityError),
    "nce": scaled(losses.NormalizedCrossEntropy),
    "nce_mae": active_passive(
        losses.NormalizedCrossEntropy, losses.MeanAbsoluteProbabilityError
    ),
    "nce_rce": active_passive(
        losses.NormalizedCrossEntropy, losses.ReverseCrossEntropy
    ),
    "nfl_mae": active_passive(
        losses.NormalizedFocal, losses.MeanAbsoluteProbabilityError
    ),
    "nfl_rce": active_passive(
        losses.NormalizedFocal, losses.ReverseCrossEntropy
    ),
    "rce": rce,
    "sce": sce,
}
