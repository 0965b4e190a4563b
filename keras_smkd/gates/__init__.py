"""Gates: how much each label counts, for each learner.

A gate is a callable of a `keras_smkd.batch.Batch` that gives
`(batch, learners)` weights of the label's own term. It acts in training only.
"""

from typing import Any

from keras_smkd._config import part_of
from keras_smkd.gates.curriculum import Curriculum
from keras_smkd.gates.label import LabelGate
from keras_smkd.gates.learned import LearnedCurriculum
from keras_smkd.gates.learned import curriculum_features
from keras_smkd.gates.learned import mentor_network
from keras_smkd.gates.product import Product
from keras_smkd.gates.small_loss import SmallLoss
from keras_smkd.gates.teacher import TeacherConfidence

KNOWN = {
    "curriculum": Curriculum,
    "label": LabelGate,
    "teacher_confidence": TeacherConfidence,
}


def get(gate: Any) -> Any:
    """Return a gate from its name or from itself.

    Args:
        gate: `"label"` for `LabelGate()`, `"curriculum"`,
            `"teacher_confidence"`, a callable of the batch, or `None` for
            none.

    Raises:
        ValueError: if a name is not known.
        TypeError: if it is none of these.
    """
    return part_of("gate", gate, KNOWN)


__all__ = [
    "Curriculum",
    "LabelGate",
    "LearnedCurriculum",
    "Product",
    "SmallLoss",
    "TeacherConfidence",
    "curriculum_features",
    "get",
    "mentor_network",
]
