"""Losses for noisy labels, one value per example.

They take integer labels, `(batch,)` or `(batch, 1)`, and, where their
docstring does not say otherwise, distributions, `(batch, classes)`. Each
class holds constants around a function of labels and log-probabilities, which
is in the same file.
"""

from keras_smkd.losses.corrections import BackwardCorrection
from keras_smkd.losses.corrections import ForwardCorrection
from keras_smkd.losses.corrections import ImportanceReweighting
from keras_smkd.losses.information import DeterminantMutualInformation
from keras_smkd.losses.normalized import ActivePassive
from keras_smkd.losses.normalized import NormalizedCrossEntropy
from keras_smkd.losses.normalized import NormalizedFocal
from keras_smkd.losses.penalties import ConfidencePenalty
from keras_smkd.losses.penalties import JointOptimization
from keras_smkd.losses.revision import TransitionRevision
from keras_smkd.losses.revision import TransitionSlack
from keras_smkd.losses.robust import GeneralizedCrossEntropy
from keras_smkd.losses.robust import MeanAbsoluteProbabilityError
from keras_smkd.losses.robust import TruncatedGeneralizedCrossEntropy
from keras_smkd.losses.symmetric import ReverseCrossEntropy
from keras_smkd.losses.symmetric import SymmetricCrossEntropy

__all__ = [
    "ActivePassive",
    "BackwardCorrection",
    "ConfidencePenalty",
    "DeterminantMutualInformation",
    "ForwardCorrection",
    "GeneralizedCrossEntropy",
    "ImportanceReweighting",
    "JointOptimization",
    "MeanAbsoluteProbabilityError",
    "NormalizedCrossEntropy",
    "NormalizedFocal",
    "ReverseCrossEntropy",
    "SymmetricCrossEntropy",
    "TransitionRevision",
    "TransitionSlack",
    "TruncatedGeneralizedCrossEntropy",
]
