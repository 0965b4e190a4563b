"""Parts of the golden test: what is learned from teachers and averages."""

import golden_targets
import numpy as np
from keras import ops
from naive import gradient
from naive import numpy_of

from keras_smkd import divergences
from keras_smkd import functional
from keras_smkd import gates
from keras_smkd import knowledge
from keras_smkd import schedules
from keras_smkd.batch import Batch
from keras_smkd.batch import to_all
from keras_smkd.knowledge import peers


def batch_of(logits, *sources):
    """A batch of one learner, with sources of knowledge given by logits."""
    return Batch(
        logits=ops.expand_dims(logits, axis=1),
        knowledge_logits=ops.convert_to_tensor(np.stack(sources, axis=1)),
        routes=to_all(1, len(sources)),
    )


def learned(divergence, *sources):
    """Return `logits -> (batch,)`, the second term of the formula."""

    def values(z):
        batch = batch_of(z, *sources)
        return divergence.factor * ops.sum(divergence(batch), axis=1)

    return values


def cross_entropy(case):
    """Return `logits -> (batch,)`, the cross entropy with the labels."""
    num_classes = case["inputs"]["logits"].shape[-1]
    labels = np.eye(num_classes)[case["inputs"]["labels"]]
    return lambda z: functional.soft_cross_entropy(
        labels, functional.log_probabilities(z)
    )


def mean_gradient(values, logits):
    return gradient(lambda z: ops.mean(values(z)), logits)


def kd(case, tolerance):
    """The divergence with and without `T^2`, and both terms with weights."""
    given, inputs = case["hyperparameters"], case["inputs"]
    logits, teacher = inputs["logits"], inputs["teacher_logits"]
    temperature = given["temperature"]
    scaled = learned(divergences.KullbackLeibler(temperature), teacher)
    plain = divergences.KullbackLeibler(temperature, scaled=False)
    supervised = cross_entropy(case)

    def total(z):
        weight = given["alpha"]
        return (1.0 - weight) * supervised(z) + weight * scaled(z)

    divergence = numpy_of(learned(plain, teacher)(logits))
    soft = functional.log_probabilities(teacher, temperature=temperature)
    values = numpy_of(total(logits))
    return {
        "kd_loss_T2": numpy_of(scaled(logits)).mean(),
        "grad_kd_loss_T2": mean_gradient(scaled, logits),
        "kl_per_sample": divergence,
        "soft_cross_entropy_per_sample": divergence
        + numpy_of(functional.entropy(soft)),
        "loss_per_sample": values,
        "loss_mean": values.mean(),
        "grad_logits": mean_gradient(total, logits),
    }


def logit_matching(case, tolerance):
    """The regression of logits; the mean over classes is 2 / classes of it."""
    reduction = case["hyperparameters"]["reduction"]
    assert reduction == "0.5*sum over classes, mean over batch"
    logits, teacher = case["inputs"]["logits"], case["inputs"]["teacher_logits"]
    values = learned(divergences.LogitSquaredError(), teacher)
    each = numpy_of(values(logits))
    return {
        "loss_per_sample": each,
        "loss_mean": each.mean(),
        "grad_logits": mean_gradient(values, logits),
        "mse_mean_over_all": 2.0 * each.mean() / logits.shape[-1],
    }


def ban(case, tolerance):
    """Cross entropy with the generation before, and labels weighed by it.

    Theirs is a cross entropy, ours a divergence: the entropy of the teacher
    is added, which is a constant.
    """
    assert case["hyperparameters"] == {"temperature": 1}
    logits, teacher = case["inputs"]["logits"], case["inputs"]["teacher_logits"]
    values = learned(divergences.KullbackLeibler(), teacher)
    entropy = functional.entropy(functional.log_probabilities(teacher))
    weights = gates.TeacherConfidence()(batch_of(logits, teacher))[:, 0]
    supervised = cross_entropy(case)

    def weighed(z):
        return weights * supervised(z)

    return {
        "ban_loss": numpy_of(values(logits) + entropy).mean(),
        "ban_grad_logits": mean_gradient(values, logits),
        # Theirs sum to 1, ours have mean 1.
        "cwtm_weights": numpy_of(weights) / len(logits),
        "cwtm_loss": numpy_of(weighed(logits)).mean(),
        "cwtm_grad_logits": mean_gradient(weighed, logits),
    }


def mean_teacher(case, tolerance):
    """Both consistency costs, the running average, and the ramp up.

    The ramp down is a schedule of the learning rate, for which Keras has its
    own.
    """
    if case["name"] == "ema":
        return running_average(case)
    if "cosine_rampdown" in case["outputs"]:
        return {}
    if "sigmoid_rampup" in case["outputs"]:
        length = case["hyperparameters"]["rampup_length"]
        # As epochs of a training that is twice as long.
        ramp = schedules.RampUp(1.0, 0.5)
        progress = np.minimum(case["inputs"]["current"] / (2.0 * length), 1.0)
        return {"sigmoid_rampup": [ramp(float(t)) for t in progress]}
    logits, teacher = case["inputs"]["logits"], case["inputs"]["teacher_logits"]
    result = {}
    for name, divergence in (
        ("softmax_mse_sum", divergences.SquaredError()),
        ("softmax_kl_sum", divergences.KullbackLeibler()),
    ):
        values = learned(divergence, teacher)
        result[name] = numpy_of(values(logits)).sum()
        result[f"grad_{name}"] = gradient(
            lambda z, values=values: ops.sum(values(z)), logits
        )
    # It is of logits, and what is called so is the mean of all its entries.
    of_logits = learned(divergences.LogitSquaredError(), teacher)
    result["symmetric_mse_sum"] = (
        2.0 * numpy_of(of_logits(logits)).sum() / logits.shape[-1]
    )
    return result


def running_average(case):
    """The average after each step, and the share of the past in it."""
    momentum = case["hyperparameters"]["alpha"]
    average = ops.convert_to_tensor(case["inputs"]["ema_init"])
    zero, one = ops.zeros_like(average[0]), ops.ones_like(average[0])
    results, shares = [], []
    # The steps are counted from 1. The list of steps is that of the shares.
    for step, value in enumerate(case["inputs"]["student_params"], start=1):
        average = peers.averaged(average, value, momentum, step)
        results.append(numpy_of(average))
    for step in case["inputs"]["global_step"]:
        share = peers.averaged(one, zero, momentum, int(step))
        shares.append(numpy_of(share))
    return {"ema_params_after_step": results, "effective_alpha": shares}


def pcl_peer_mean(case, tolerance):
    """The mean over the other peers' averages."""
    inputs = case["inputs"]
    values = learned(
        divergences.KullbackLeibler(case["hyperparameters"]["temperature"]),
        inputs["peer_mean_logits_1"],
        inputs["peer_mean_logits_2"],
    )
    return {
        "pm_loss": numpy_of(values(inputs["logits"])).mean(),
        "grad_logits": mean_gradient(values, inputs["logits"]),
    }


def tf_kd(case, tolerance):
    """A teacher of the same kind, or a virtual one.

    The authors average the divergence over classes too, and weigh it with a
    multiplier.
    """
    given, inputs = case["hyperparameters"], case["inputs"]
    if given["kind"] == "regularization":
        return golden_targets.virtual_teacher(case)
    assert given["kl_reduction"] == "mean over N*C"
    logits = inputs["logits"]
    weight = given["alpha"] * given["multiplier"] / logits.shape[-1]
    taught = learned(
        divergences.KullbackLeibler(given["temperature"]),
        inputs["teacher_logits"],
    )
    supervised = cross_entropy(case)

    def total(z):
        return (1.0 - given["alpha"]) * supervised(z) + weight * taught(z)

    values = numpy_of(total(logits))
    return {
        "loss_per_sample": values,
        "loss_mean": values.mean(),
        "grad_logits": mean_gradient(total, logits),
    }


def temporal_ensembling(case, tolerance):
    """As a target, and as past predictions that a learner is compared with."""
    result = golden_targets.temporal_ensembling(case, tolerance)
    if "alpha" not in case["hyperparameters"]:
        return result
    visits = case["inputs"]["epoch_predictions"]
    num_examples, num_classes = visits.shape[1:]
    part = knowledge.PastPredictions(
        num_examples, case["hyperparameters"]["alpha"]
    )
    part.prepare([None], num_classes)
    memories, averages = [], []
    for visit in [*visits, visits[0]]:
        given = part(
            Batch(
                log_probs=ops.log(ops.convert_to_tensor(visit[:, None])),
                index=ops.arange(num_examples, dtype="int32"),
                training=True,
            )
        )
        memories.append(numpy_of(part.memory)[:, 0])
        averages.append(np.exp(numpy_of(given.log_probs))[:, 0])
    # What it says is of the visits before.
    ours = {"ensemble": memories[:-1], "targets": averages[1:]}
    for name, values in ours.items():
        np.testing.assert_allclose(
            values, result[name], rtol=tolerance["rtol"], err_msg=name
        )
    return ours


PARTS = {
    "ban": ban,
    "kd": kd,
    "logit_matching": logit_matching,
    "mean_teacher": mean_teacher,
    "pcl_peer_mean": pcl_peer_mean,
    "temporal_ensembling": temporal_ensembling,
    "tf_kd": tf_kd,
}
