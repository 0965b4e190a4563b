"""Parts of the golden test: gates that weigh labels by their losses."""

import numpy as np
from keras import ops
from naive import gradient
from naive import naive_log_softmax
from naive import numpy_of

from keras_smkd import functional
from keras_smkd import gates
from keras_smkd import schedules
from keras_smkd.batch import Batch
from keras_smkd.gates import curriculum
from keras_smkd.gates.small_loss import disagreements


def cross_entropy(case, z):
    """Return the losses `(batch, 2)` of two peers' logits, and both."""
    labels = np.eye(z.shape[-1])[case["inputs"]["labels"]]
    log_probs = functional.log_probabilities(z)
    labels = ops.cast(labels[:, None], log_probs.dtype)
    return functional.soft_cross_entropy(labels, log_probs), log_probs


def small_loss(case, gate):
    """Return what a gate chooses, the means of the losses, the gradients."""
    inputs = case["inputs"]
    logits = np.stack([inputs["logits_1"], inputs["logits_2"]], axis=1)

    def weighed(z):
        losses, log_probs = cross_entropy(case, z)
        batch = Batch(log_probs=log_probs, losses=losses)
        return ops.stop_gradient(gate(batch)) * losses

    losses = numpy_of(cross_entropy(case, ops.convert_to_tensor(logits))[0])
    batch = Batch(logits=ops.convert_to_tensor(logits), losses=losses)
    weights = numpy_of(gate(batch))
    means = (weights * losses).mean(axis=0)
    # Peers share no gradient, so that of the sum holds every peer's own.
    grads = gradient(lambda z: ops.sum(weighed(z)) / len(logits), logits)
    # Theirs are in the order of the loss, which float32 cannot tell.
    log_probs = naive_log_softmax(logits)
    exact = -log_probs[np.arange(len(logits)), :, inputs["labels"]]
    result = {}
    for own in (0, 1):
        # The weights of the other are what this one has chosen.
        chosen = np.flatnonzero(weights[:, 1 - own])
        order = chosen[np.argsort(exact[chosen, own])]
        result[f"selected_by_{own + 1}"] = order
        result[f"loss_{own + 1}"] = means[own]
        result[f"grad_logits_{own + 1}"] = grads[:, own]
    return losses, result


def co_teaching(case, tolerance):
    """Both networks' choices, losses and gradients, or the forget rate.

    The authors' own loss, divided by the number of the chosen once more, is
    left out.
    """
    given = case["hyperparameters"]
    if "num_gradual" in given:
        epochs = case["inputs"]["epochs"]
        total = len(epochs)
        result = {}
        for name, form in (("paper_rate", "paper"), ("official_rate", "code")):
            rate = schedules.ForgetRate(
                given["forget_rate"],
                given["num_gradual"] / total,
                given["exponent"],
                form,
                total,
            )
            result[name] = [rate(int(epoch) / total) for epoch in epochs]
        return result
    losses, result = small_loss(case, gates.SmallLoss(given["forget_rate"]))
    return {**result, "ce_1": losses[:, 0], "ce_2": losses[:, 1]}


def co_teaching_plus(case, tolerance):
    """The choice among disagreements; the authors' losses from our weights.

    They rank and average the cross entropy of a softmax of a softmax, and
    divide by the number of the chosen once more. Without a disagreement all
    their examples count, in the first steps.
    """
    given, inputs = case["hyperparameters"], case["inputs"]
    gate = gates.SmallLoss(given["forget_rate"], disagreement=True)
    logits = np.stack([inputs["logits_1"], inputs["logits_2"]], axis=1)
    twice = np.exp(numpy_of(functional.log_probabilities(logits)))
    losses, log_probs = cross_entropy(case, ops.convert_to_tensor(twice))
    batch = Batch(log_probs=log_probs, losses=losses)
    differ = np.flatnonzero(numpy_of(disagreements(log_probs)))
    weights = numpy_of(gate(batch))
    official = (weights * numpy_of(losses)).mean(axis=0)
    result = {"disagree": differ}
    if given.get("step", 0) < 5000:
        count = 1
        if len(differ):
            count = np.count_nonzero(weights[:, 0])
            result["num_remember"] = count
        result["official_loss_1"] = official[0] / count
        result["official_loss_2"] = official[1] / count
    if len(differ):
        result |= small_loss(case, gate)[1]
    return result


def mentornet(case, tolerance):
    """The weights of each of the five rules."""
    given, inputs = case["hyperparameters"], case["inputs"]
    losses = ops.convert_to_tensor(inputs["loss"])
    differences = ops.convert_to_tensor(inputs["loss_diff"])
    percent = ops.convert_to_tensor(inputs["epoch_percent"])
    gamma = given["spcl_gamma"]
    result = {
        "self_paced": curriculum.self_paced_weights(differences),
        "spcl_linear": curriculum.linear_weights(differences, gamma),
        "mentornet_pd": curriculum.predefined_weights(
            differences, percent, gamma
        ),
        "hard_example_mining": curriculum.hard_example_weights(differences),
        "focal": curriculum.focal_weights(losses, given["focal_gamma"]),
    }
    return {name: numpy_of(value) for name, value in result.items()}


PARTS = {
    "co_teaching": co_teaching,
    "co_teaching_plus": co_teaching_plus,
    "mentornet": mentornet,
}
