"""Label correction: from a label and a prediction to a target.

A target is a callable `(labels, predictions, progress) -> targets`, all three
distributions of shape `(batch, classes)`, `progress` a scalar in [0, 1]. No
correction is `None` where a target is asked for.

A target that remembers examples takes a fourth argument, what it remembers of
the examples in the batch, and has a method `remember` that gives what is to be
remembered next. `SelectiveMutualDistillation` keeps it as a weight.
"""

from keras_smkd.targets.blending import corrected_targets
from keras_smkd.targets.bootstrapping import HardBootstrapping
from keras_smkd.targets.bootstrapping import SoftBootstrapping
from keras_smkd.targets.memory import JointOptimizationLabels
from keras_smkd.targets.memory import TemporalEnsembling
from keras_smkd.targets.proselflc import ProSelfLC
from keras_smkd.targets.smoothing import LabelSmoothing
from keras_smkd.targets.smoothing import VirtualTeacher

__all__ = [
    "HardBootstrapping",
    "JointOptimizationLabels",
    "LabelSmoothing",
    "ProSelfLC",
    "SoftBootstrapping",
    "TemporalEnsembling",
    "VirtualTeacher",
    "corrected_targets",
]
