"""Label correction by the peer's own prediction, more of it as time goes on."""

from typing import Any

import keras
from keras import ops

from keras_smkd import _checks
from keras_smkd import functional
from keras_smkd import schedules
from keras_smkd._config import Configured
from keras_smkd.batch import Batch
from keras_smkd.targets.blending import corrected_targets

TRUSTS = ("entropy", "probability", "global")


@keras.saving.register_keras_serializable(package="keras_smkd")
class ProSelfLC(Configured):
    """Progressive self label correction: trust grows with time and confidence.

    `targets = (1 - trust) * labels + trust * predictions` with
    `trust = sigmoid(sharpness * (t - midpoint)) * local(p)`; the paper's
    `epsilon = g(t) * l(p)` with `sharpness` for `B` and `midpoint` for `rho`.
    The trust never carries a gradient.

    Args:
        sharpness: How fast the global trust grows, > 0.
        midpoint: Progress at which the global trust is 1/2, in [0, 1].
        trust: The local trust. `"entropy"` is the paper's
            `1 - H(p) / log(classes)`, `"probability"` is `max_k p_k`,
            `"global"` is 1.
        target_gradient: Whether the gradient also flows through the
            predictions inside the target. The authors' first code does, their
            second does not.

    Example:

    >>> target = ProSelfLC(sharpness=16.0, trust="global")
    >>> log_probs = ops.log([[[0.5, 0.5]]])
    >>> target(Batch(labels=[[1.0, 0.0]], log_probs=log_probs, progress=0.5))
    [[[0.75, 0.25]]]

    Reference:
        Wang et al., 2021, "ProSelfLC: Progressive Self Label Correction for
        Training Robust Deep Neural Networks".
        https://arxiv.org/abs/2005.03788
    """

    needs_progress = True

    def __init__(
        self,
        sharpness: float = 16.0,
        midpoint: float = 0.5,
        trust: str = "entropy",
        target_gradient: bool = False,
    ) -> None:
        self.sharpness = _checks.number("sharpness", sharpness, above=0.0)
        self.midpoint = _checks.number(
            "midpoint", midpoint, minimum=0.0, maximum=1.0
        )
        self.trust = _checks.one_of("trust", trust, TRUSTS)
        self.target_gradient = bool(target_gradient)

    def __call__(self, batch: Batch) -> Any:
        """Return the corrected targets.

        Args:
            batch: With `labels`, `log_probs` and `progress`.

        Returns:
            `(batch, learners, classes)`, rows sum to 1.
        """
        predictions = ops.exp(batch.needed("log_probs", self))
        return corrected_targets(
            batch.needed("labels", self),
            predictions,
            self.trust_in(predictions, batch.needed("progress", self)),
            self.target_gradient,
        )

    def trust_in(self, predictions: Any, progress: Any) -> Any:
        """Return the share of each target that the prediction makes up.

        Args:
            predictions: `(..., classes)`, probabilities.
            progress: Scalar in [0, 1].

        Returns:
            `(...)`, in [0, 1], no gradient.
        """
        predictions = ops.stop_gradient(
            functional.at_least_float32(predictions)
        )
        if self.trust == "entropy":
            local = 1.0 - functional.uncertainty(ops.log(predictions))
        elif self.trust == "probability":
            local = ops.max(predictions, axis=-1)
        else:
            local = ops.ones_like(predictions[..., 0])
        growth = schedules.Sigmoid(0.5, -self.sharpness, self.midpoint)
        return ops.cast(growth(progress), local.dtype) * local
