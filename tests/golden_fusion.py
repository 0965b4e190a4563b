"""Parts of the golden test: what is learned from the fused classifier."""

from keras import ops
from naive import gradient
from naive import numpy_of

from keras_smkd import divergences
from keras_smkd.batch import Batch
from keras_smkd.knowledge.fused import FusedClassifier


def ffl_kl(case, tolerance):
    """A peer's divergence from the fused classifier, and its gradient.

    The authors add 1e-7 to each probability of the fused classifier and we do
    not: where that is no longer small beside the tolerance, only the
    `*_exact` value is ours.
    """
    given = case["hyperparameters"]
    logits = case["inputs"]["logits"]
    knowledge = FusedClassifier()
    knowledge.prepare([None], logits.shape[-1])
    divergence = divergences.KullbackLeibler(float(given["temperature"]))

    def values(z):
        logits = ops.stack([z, case["inputs"]["teacher_logits"]], axis=1)
        batch = Batch(logits=logits)
        known = knowledge(batch)
        batch = batch.filled(knowledge_logits=known.logits, routes=known.routes)
        return divergence.factor * divergence(batch)[:, 0]

    value = numpy_of(values(logits)).mean()
    result = {"loss_mean_exact": value}
    if given["target_eps"] * logits.shape[-1] < tolerance["rtol"]:
        result["loss_mean"] = value
        result["grad_logits"] = gradient(lambda z: ops.mean(values(z)), logits)
    return result


PARTS = {"ffl_kl": ffl_kl}
