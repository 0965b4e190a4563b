"""The tensor maths of selective mutual distillation, on `keras.ops`.

Everything works on log-probabilities, which stay exact where a probability
rounds to 0 or 1. The class axis is the last one; the leading axes are free.
"""

from keras_smkd.functional.distances import kl_divergence
from keras_smkd.functional.distances import kl_of_close_logits
from keras_smkd.functional.distances import label_cross_entropy
from keras_smkd.functional.distances import mixed
from keras_smkd.functional.distances import mutual_distillation
from keras_smkd.functional.distances import routed
from keras_smkd.functional.distances import routed_divergence
from keras_smkd.functional.distances import soft_cross_entropy
from keras_smkd.functional.probabilities import at_least_float32
from keras_smkd.functional.probabilities import log_probabilities
from keras_smkd.functional.probabilities import logits
from keras_smkd.functional.uncertainties import MEASURES
from keras_smkd.functional.uncertainties import SAMPLE_MEASURES
from keras_smkd.functional.uncertainties import entropy
from keras_smkd.functional.uncertainties import looks_at_samples
from keras_smkd.functional.uncertainties import mean_of_samples
from keras_smkd.functional.uncertainties import measure_of
from keras_smkd.functional.uncertainties import mutual_information
from keras_smkd.functional.uncertainties import predictive_entropy
from keras_smkd.functional.uncertainties import uncertainty
from keras_smkd.functional.uncertainties import variation_ratio

__all__ = [
    "MEASURES",
    "SAMPLE_MEASURES",
    "at_least_float32",
    "entropy",
    "kl_divergence",
    "kl_of_close_logits",
    "label_cross_entropy",
    "log_probabilities",
    "logits",
    "looks_at_samples",
    "mean_of_samples",
    "measure_of",
    "mixed",
    "mutual_distillation",
    "mutual_information",
    "predictive_entropy",
    "routed",
    "routed_divergence",
    "soft_cross_entropy",
    "uncertainty",
    "variation_ratio",
]
