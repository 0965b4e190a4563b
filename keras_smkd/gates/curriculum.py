"""The gate that weighs labels by a rule of their losses, as in MentorNet."""

from typing import Any

import keras
from keras import ops

from keras_smkd import _checks
from keras_smkd.batch import Batch
from keras_smkd.gates.percentile import RunningPercentile
from keras_smkd.gates.percentile import epoch_percent

RULES = ("self_paced", "linear", "focal", "hard_example", "predefined")

# Of the authors' predefined rule, in whole percents of training.
_WARMUP, _LINEAR_START = 18, 90


@keras.saving.register_keras_serializable(package="keras_smkd")
class Curriculum(RunningPercentile):
    """Weigh each label by its loss, by one of MentorNet's rules.

    With the loss `l`, and `d` by how much it is above a running percentile of
    the learner's own losses, which has this batch in it:

    | rule | weight |
    |---|---|
    | `"self_paced"` | `1 if d <= 0 else 0` |
    | `"linear"` | `min(max(1 - d / gamma, 0), 1)` |
    | `"focal"` | `(1 - exp(-l))^exponent` |
    | `"hard_example"` | `1 if d >= 0 else 0` |
    | `"predefined"` | 1, then self-paced, then linear (MentorNet PD) |

    `"predefined"` goes by whole percents of training: 1 to the end of percent
    18, self-paced before 90, linear from there on. `"focal"` and
    `"hard_example"` prefer large losses: the opposite of what noise asks for.

    Weights are not normalised. Examples without a label do not count in the
    percentile. It cannot be used with a head.

    Args:
        rule: One of the above.
        percentile: Of the losses in a batch, in [0, 1]. Near the share of
            labels that are right.
        decay: Share of the past in the running average of it, in [0, 1).
        gamma: Difference at which the linear weight reaches 0, > 0.
        exponent: Of the focal rule, > 0.

    Example:

    ```python
    model = keras_smkd.PeerLearning(
        [peer], gate=keras_smkd.gates.Curriculum("predefined", percentile=0.6)
    )
    ```

    Reference:
        Jiang et al., 2018, "MentorNet: Learning Data-Driven Curriculum for
        Very Deep Neural Networks on Corrupted Labels" (thresholds: authors'
        code). https://arxiv.org/abs/1712.05055
    """

    def __init__(
        self,
        rule: str = "self_paced",
        percentile: float = 0.7,
        decay: float = 0.5,
        gamma: float = 1.0,
        exponent: float = 2.0,
    ) -> None:
        super().__init__(percentile, decay)
        self.rule = _checks.one_of("rule", rule, RULES)
        self.gamma = _checks.number("gamma", gamma, above=0.0)
        self.exponent = _checks.number("exponent", exponent, above=0.0)

    @property
    def needs_progress(self) -> bool:
        """Whether the rule follows the progress of training."""
        return self.rule == "predefined"

    def __call__(self, batch: Batch) -> Any:
        """Return the weight of each example's label for each learner.

        Args:
            batch: With `losses`; for `"predefined"` with `progress`.

        Returns:
            `(batch, learners)` in [0, 1], no gradient.
        """
        losses, differences = self.differences(batch)
        if self.rule == "focal":
            return focal_weights(losses, self.exponent)
        if self.rule == "linear":
            return linear_weights(differences, self.gamma)
        if self.rule == "hard_example":
            return hard_example_weights(differences)
        if self.rule == "self_paced":
            return self_paced_weights(differences)
        percent = epoch_percent(batch.needed("progress", self))
        return predefined_weights(differences, percent, self.gamma)


def self_paced_weights(differences: Any) -> Any:
    """Return `1 if d <= 0 else 0`.

    Args:
        differences: Tensor, each loss minus the reference loss (d).
    """
    return ops.cast(differences <= 0, differences.dtype)


def hard_example_weights(differences: Any) -> Any:
    """Return `1 if d >= 0 else 0`.

    Args:
        differences: Tensor, each loss minus the reference loss (d).
    """
    return ops.cast(differences >= 0, differences.dtype)


def linear_weights(differences: Any, gamma: float = 1.0) -> Any:
    """Return `min(max(1 - d / gamma, 0), 1)`.

    Args:
        differences: Tensor, each loss minus the reference loss (d).
        gamma: Difference at which the weight reaches 0, > 0.
    """
    return ops.clip(1.0 - differences / gamma, 0.0, 1.0)


def focal_weights(losses: Any, exponent: float = 2.0) -> Any:
    """Return `(1 - exp(-l))^exponent`, `(1 - p)^exponent` of cross entropy.

    Args:
        losses: Tensor, >= 0; smaller ones count as 0.
        exponent: > 0.
    """
    # Not `maximum`, which on torch makes float64 into float32.
    return (-ops.expm1(-ops.relu(losses))) ** exponent


def predefined_weights(differences: Any, percent: Any, gamma: float) -> Any:
    """Return the weights of MentorNet PD at a time of the training.

    Args:
        differences: Tensor, each loss minus the reference loss (d).
        percent: Whole percents of training done, of the same shape or one.
        gamma: Difference at which the linear weight reaches 0, > 0.
    """
    late = ops.where(
        percent >= _LINEAR_START,
        linear_weights(differences, gamma),
        self_paced_weights(differences),
    )
    return ops.where(percent <= _WARMUP, ops.ones_like(late), late)
