"""Selection: which knowledge is passed on.

A selection is a callable `(log_probs, threshold) -> selected`: from
`(..., classes)` log-probabilities to `(...)` of 1 (passed on) and 0.
"""

from typing import Any

import keras
from keras import ops

from keras_smkd import _checks
from keras_smkd import functional


@keras.saving.register_keras_serializable(package="keras_smkd")
class ConfidentKnowledge:
    """Pass on the predictions whose uncertainty lies below a threshold.

    `s = 1 if uncertainty(p) < threshold else 0`, strict, with the uncertainty
    of `functional.uncertainty` in [0, 1]. Threshold 0 passes nothing on
    (independent models); any threshold above 1 passes on everything (deep
    mutual learning). A prediction that is not finite is never passed on.

    Args:
        measure: `"entropy"` (normalised by `log(classes)`), `"probability"`
            (1 minus the largest) or `"margin"` (1 minus the difference of
            the two largest).
        threshold: Number >= 0, used as long as no
            `keras_smkd.callbacks.ThresholdSchedule` is given to `fit`.

    Example:

    >>> log_probs = ops.log([[0.99, 0.01], [0.5, 0.5]])
    >>> ConfidentKnowledge("entropy", threshold=0.5)(log_probs)
    [1.0, 0.0]

    Reference:
        Li et al., 2023, "SMKD: Selective Mutual Knowledge Distillation",
        IJCNN.
        https://doi.org/10.1109/IJCNN54540.2023.10191991
    """

    def __init__(
        self, measure: str = "entropy", threshold: float = 0.5
    ) -> None:
        self.measure = _checks.one_of("measure", measure, functional.MEASURES)
        self.threshold = _checks.number("threshold", threshold, minimum=0.0)

    def __call__(self, log_probs: Any, threshold: Any = None) -> Any:
        """Return 1 where the prediction is passed on, 0 where it is not.

        Args:
            log_probs: `(..., classes)`, log-probabilities at temperature 1.
            threshold: Scalar in place of the one given at construction.

        Returns:
            `(...)`, 0 or 1, dtype of the log-probabilities, no gradient.
        """
        if threshold is None:
            threshold = self.threshold
        log_probs = ops.stop_gradient(functional.at_least_float32(log_probs))
        uncertainty = functional.uncertainty(log_probs, self.measure)
        return ops.cast(
            uncertainty < ops.cast(threshold, uncertainty.dtype),
            uncertainty.dtype,
        )

    def get_config(self) -> dict[str, Any]:
        return {"measure": self.measure, "threshold": self.threshold}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ConfidentKnowledge":
        return cls(**config)
