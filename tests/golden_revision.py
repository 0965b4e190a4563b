"""A part of the golden test: importance reweighting, and its revision."""

import numpy as np
from keras import ops
from naive import gradient
from naive import numpy_of

from keras_smkd import functional
from keras_smkd import losses
from keras_smkd import noise
from keras_smkd.losses import base
from keras_smkd.losses import corrections
from keras_smkd.losses import revision

# At a hundred classes the files have only the name of the matrix.
MATRICES = {
    "symmetric_excluding_true": noise.symmetric_excluding_true,
    "pairflip": noise.pair_flip,
}


def t_revision(case, tolerance):
    """Both losses with their gradients, and the weights of the first.

    The authors' own revision is the value without the gradient in the matrix,
    or adds the slack once more for each example; neither is ours.
    """
    inputs = case["inputs"]
    logits = np.asarray(inputs["logits"])
    labels = np.asarray(inputs["labels"])
    if "T" in inputs:
        matrix = np.asarray(inputs["T"])
    else:
        spec = inputs["T_spec"]
        matrix = MATRICES[spec["kind"]](float(spec["rate"]), logits.shape[-1])
    loss = losses.ImportanceReweighting(matrix, from_logits=True)
    log_probs = functional.log_probabilities(logits)
    weights = numpy_of(corrections.importance_weights(log_probs, matrix))
    result = {
        "loss_mean": numpy_of(loss.call(labels, logits)).mean(),
        "grad_logits": gradient(
            lambda z: ops.mean(loss.call(labels, z)), logits
        ),
        "beta": weights[np.arange(len(labels)), labels],
    }
    if "delta_T" in inputs:
        slack = np.asarray(inputs["delta_T"]).astype(logits.dtype)

        def revised(z, slack):
            log_probs = functional.log_probabilities(z)
            one_hot = base.distributions(labels, log_probs)
            return ops.mean(
                revision.transition_revision(one_hot, log_probs, matrix, slack)
            )

        result["revision_loss"] = numpy_of(revised(logits, slack))
        result["revision_grad_logits_full"] = gradient(
            lambda z: revised(z, slack), logits
        )
        result["revision_grad_delta_T_full"] = gradient(
            lambda slack: revised(logits, slack), slack
        )
    return result


PARTS = {"t_revision": t_revision}
