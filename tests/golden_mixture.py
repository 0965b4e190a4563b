"""Part of the golden test: M-correction, its mixture and its targets."""

import math

import golden_estimators
import numpy as np
from keras import ops
from naive import gradient
from naive import numpy_of

from keras_smkd import functional
from keras_smkd import losses
from keras_smkd import targets
from keras_smkd.batch import Batch


def m_correction(case, tolerance):
    """The mixture, or both targets under the authors' mixed loss.

    Their prediction is of the image as it is, and the loss of a mixture of it
    with another, whose targets are mixed alike. The penalty is ours but for a
    constant, `log(classes)`.
    """
    if "losses" in case["inputs"]:
        return golden_estimators.m_correction(case, tolerance)
    assert case["hyperparameters"]["reg_term"] == 1.0
    share = case["hyperparameters"]["lambda"]
    inputs = case["inputs"]
    logits = inputs["logits_mixed"]
    size, num_classes = logits.shape
    batch = Batch(
        labels=np.eye(num_classes)[inputs["labels"]],
        log_probs=functional.log_probabilities(
            inputs["logits_clean_pass"][:, None]
        ),
        index=np.arange(size),
        training=True,
    )
    loss = losses.JointOptimization(alpha=1.0, beta=0.0)
    plain = losses.JointOptimization(alpha=0.0, beta=0.0)
    result = {}
    for name, hard in (("soft", False), ("hard", True)):
        target = targets.MixtureBootstrapping(size, hard)
        target.prepare(peers=[None], num_classes=num_classes)
        target.set_posterior(inputs["posterior_noisy"][:, None])
        own = numpy_of(target(batch))[:, 0]
        mixed = share * own + (1.0 - share) * own[inputs["permutation"]]

        def mean(z, with_loss=loss, mixed=mixed):
            values = with_loss.values(
                ops.convert_to_tensor(mixed), functional.log_probabilities(z)
            )
            return ops.sum(values) / size

        value = numpy_of(mean(logits)) - math.log(num_classes)
        result[f"{name}_loss"] = value
        result[f"{name}_grad_logits_mixed"] = gradient(mean, logits)
        result["reg_loss"] = value - numpy_of(mean(logits, plain))
    return result


PARTS = {"m_correction": m_correction}
