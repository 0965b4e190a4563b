"""The tensor maths of selective mutual distillation, on `keras.ops`.

Everything works on log-probabilities, which stay exact where a probability
rounds to 0 or 1. The class axis is the last one; the leading axes are free.
"""

from keras_smkd.functional.distances import kl_divergence
from keras_smkd.functional.distances import kl_of_close_logits
from keras_smkd.functional.distances import mixed
from keras_smkd.functional.distances import mutual_distillation
from keras_smkd.functional.distances import routed_divergence
from keras_smkd.functional.distances import soft_cross_entropy
from keras_smkd.functional.probabilities import at_least_float32
from keras_smkd.functional.probabilities import log_probabilities
from keras_smkd.functional.probabilities import logits
from keras_smkd.functional.uncertainties import MEASURES
from keras_smkd.functional.uncertainties import entropy
from keras_smkd.functional.uncertainties import measure_of
from keras_smkd.functional.uncertainties import uncertainty

__all__ = [
    "MEASURES",
    "at_least_float32",
    "entropy",
    "kl_divergence",
    "kl_of_close_logits",
    "log_probabilities",
    "logits",
    "measure_of",
    "mixed",
    "mutual_distillation",
    "routed_divergence",
    "soft_cross_entropy",
    "uncertainty",
]
