"""Parts of the golden test: knowledge from ensembles of the peers."""

import numpy as np
from keras import ops
from naive import gradient
from naive import numpy_of

from keras_smkd import functional
from keras_smkd.batch import Batch
from keras_smkd.divergences import KullbackLeibler
from keras_smkd.functional import ensembles
from keras_smkd.knowledge.ensembles import MinLogitEnsemble
from keras_smkd.knowledge.ensembles import NaiveEnsemble

KINDS = {"naive": NaiveEnsemble, "minlogit": MinLogitEnsemble}


def kdcl(case, tolerance):
    """Teacher, loss and gradient of each peer, and the general weights.

    The naive teacher is ours per example; `best_student_by_batch_mean` is
    another reading.
    """
    given, inputs = case["hyperparameters"], case["inputs"]
    if given["kind"] == "general":
        correlation = inputs["error_correlation"]
        return {"weights": ensembles.general_weights(correlation, ridge=0.0)}
    names = [name for name in inputs if name.startswith("logits_")]
    logits = np.stack([inputs[name] for name in names], axis=1)
    labels = np.eye(logits.shape[-1], dtype=logits.dtype)[inputs["labels"]]
    divergence = KullbackLeibler(given["temperature"])
    knowledge_of = KINDS[given["kind"]]()

    def losses(z):
        batch = Batch(logits=z, labels=labels)
        knowledge = knowledge_of(batch)
        batch = batch.filled(
            knowledge=functional.log_probabilities(knowledge.logits),
            knowledge_logits=knowledge.logits,
            routes=knowledge.routes,
        )
        supervised = functional.soft_cross_entropy(
            labels[:, None], batch.log_probs
        )
        weight = given["lambda"] * divergence.factor
        return supervised + weight * divergence(batch)

    z = ops.convert_to_tensor(logits)
    teacher = numpy_of(knowledge_of(Batch(logits=z, labels=labels)).logits)[
        :, 0
    ]
    # In NumPy: Keras takes the mean of float64 in float32 on torch.
    values = numpy_of(losses(z)).mean(axis=0)
    # Peers share no gradient, so that of the sum holds every peer's own.
    grads = gradient(lambda z: ops.sum(losses(z)) / len(labels), logits)
    result = {"teacher_logits": teacher}
    if "best_student" in case["outputs"]:
        is_teacher = (logits == teacher[:, None]).all(axis=-1)
        result["best_student"] = is_teacher.argmax(axis=1)
    for i in range(len(names)):
        result[f"loss_{i + 1}"] = values[i]
        if f"grad_logits_{i + 1}" in case["outputs"]:
            result[f"grad_logits_{i + 1}"] = grads[:, i]
    return result


PARTS = {"kdcl": kdcl}
