"""Parts of the golden test: gradient rules, several passes, hints."""

import numpy as np
from keras import ops
from naive import gradient
from naive import numpy_of

from keras_smkd import functional
from keras_smkd.features import hint_loss
from keras_smkd.optimizers import critical_gradients


def cdr(case, tolerance):
    """The gradients of one linear layer, as the rule changes them."""
    inputs = case["inputs"]
    weight, bias = inputs["weight"], inputs["bias"]
    one_hot = np.eye(len(bias), dtype=bias.dtype)[inputs["labels"]]

    def loss(weight, bias):
        # Not `matmul`, which on torch makes float64 into float32.
        weight = ops.expand_dims(weight, axis=0)
        logits = ops.sum(ops.multiply(weight, inputs["x"][:, None]), axis=-1)
        log_probs = functional.log_probabilities(ops.add(logits, bias))
        values = functional.soft_cross_entropy(one_hot, log_probs)
        return ops.sum(values) / len(one_hot)

    gradients = [
        gradient(lambda w: loss(w, bias), weight),
        gradient(lambda b: loss(weight, b), bias),
    ]
    masked, masked_bias = critical_gradients(
        gradients, [weight, bias], case["hyperparameters"]["noise_rate"]
    )
    masked = numpy_of(masked)
    return {
        "grad_weight": gradients[0],
        "grad_bias": gradients[1],
        "criticality": abs(weight * gradients[0]),
        "masked_grad_weight": masked,
        "masked_grad_bias": numpy_of(masked_bias),
        "num_critical": (masked != 0).sum(),
    }


def mc_dropout_uncertainty(case, tolerance):
    """The three measures, in nats."""
    assert case["hyperparameters"]["log"] == "natural"
    log_probs = functional.log_probabilities(case["inputs"]["logits"])
    result = {
        name: numpy_of(getattr(functional, name)(log_probs))
        for name in functional.SAMPLE_MEASURES
    }
    expected = numpy_of(functional.entropy(log_probs)).mean(axis=0)
    mean = functional.mean_of_samples(log_probs)
    return {
        **result,
        "expected_entropy": expected,
        "one_minus_max_mean_prob": numpy_of(
            functional.uncertainty(mean, "probability")
        ),
    }


def fitnets_hint(case, tolerance):
    """Both forms of the hint; the file has the channels first."""
    student, teacher = (
        np.moveaxis(case["inputs"][name], 1, -1)
        for name in ("regressed_student", "teacher_hint")
    )
    mean = numpy_of(hint_loss(student, teacher, "mean")).mean()
    return {
        "loss_half_sq_sum_all_mean_batch": numpy_of(
            hint_loss(student, teacher)
        ).mean(),
        "loss_half_sq_sum_channels_mean_rest": mean,
        "mse_mean_all": 2.0 * mean / student.shape[-1],
    }


PARTS = {
    "cdr": cdr,
    "fitnets_hint": fitnets_hint,
    "mc_dropout_uncertainty": mc_dropout_uncertainty,
}
