"""Label correction: from a label and what is known to a target.

A target is a callable of a `keras_smkd.batch.Batch` that gives
`(batch, learners, classes)`, distributions. One that remembers examples is a
layer, and its memory one of the model's weights.
"""

from typing import Any

from keras_smkd._config import part_of
from keras_smkd.targets.blending import corrected_targets
from keras_smkd.targets.bootstrapping import HardBootstrapping
from keras_smkd.targets.bootstrapping import SoftBootstrapping
from keras_smkd.targets.memory import JointOptimizationLabels
from keras_smkd.targets.memory import TemporalEnsembling
from keras_smkd.targets.mixture import MixtureBootstrapping
from keras_smkd.targets.posterior import PosteriorLabels
from keras_smkd.targets.proselflc import ProSelfLC
from keras_smkd.targets.refinement import CoRefinement
from keras_smkd.targets.smoothing import LabelSmoothing
from keras_smkd.targets.smoothing import VirtualTeacher

KNOWN = {
    "hard_bootstrapping": HardBootstrapping,
    "label_smoothing": LabelSmoothing,
    "proselflc": ProSelfLC,
    "soft_bootstrapping": SoftBootstrapping,
    "virtual_teacher": VirtualTeacher,
}


def get(target: Any) -> Any:
    """Return a label correction from its name or from itself.

    Args:
        target: `"hard_bootstrapping"`, `"label_smoothing"`, `"proselflc"`,
            `"soft_bootstrapping"`, `"virtual_teacher"`, a callable of the
            batch, or `None` for none.

    Raises:
        ValueError: if a name is not known.
        TypeError: if it is none of these.
    """
    return part_of("target", target, KNOWN)


__all__ = [
    "CoRefinement",
    "HardBootstrapping",
    "JointOptimizationLabels",
    "LabelSmoothing",
    "MixtureBootstrapping",
    "PosteriorLabels",
    "ProSelfLC",
    "SoftBootstrapping",
    "TemporalEnsembling",
    "VirtualTeacher",
    "corrected_targets",
    "get",
]
