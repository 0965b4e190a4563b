"""DivideMix's labels: refined where they are clean, guessed where not."""

from typing import Any

import keras
from keras import ops

from keras_smkd import _checks
from keras_smkd import functional
from keras_smkd.batch import Batch
from keras_smkd.targets.blending import corrected_targets
from keras_smkd.targets.mixture import MixtureTarget


def sharpened(probs: Any, temperature: float) -> Any:
    """Return distributions made more certain, or less.

    `p_c^(1 / temperature) / sum_k p_k^(1 / temperature)`

    Args:
        probs: `(..., classes)`, >= 0, rows not all 0.
        temperature: `T > 0`; 1 changes nothing, below 1 sharpens.

    Returns:
        `(..., classes)`, rows sum to 1.
    """
    probs = functional.at_least_float32(probs)
    # Or all the powers of a row could round to 0.
    powers = ops.power(
        probs / ops.max(probs, axis=-1, keepdims=True), 1.0 / temperature
    )
    return powers / ops.sum(powers, axis=-1, keepdims=True)


@keras.saving.register_keras_serializable(package="keras_smkd")
class CoRefinement(MixtureTarget):
    """Labels that peers refine, or guess, by the other's judgment of them.

    For peer `i`, with the probability `w` that the label is right by the
    losses of the next peer (of the first one for the last):

    - `targets = sharpen(w * labels + (1 - w) * p_i)` where `w > threshold`:
      label co-refinement;
    - `targets = sharpen(1/N * sum_j p_j)` elsewhere: label co-guessing;

    with `sharpen(q)_c = q_c^(1/T) / sum_k q_k^(1/T)`. Labels stay (but
    distributions are sharpened) until
    `keras_smkd.callbacks.FitMixture(kind="gaussian")` has set `w`.

    These are the labels of DivideMix, not all of it. What does not fit into
    one batch with one loss is left out: MixMatch's mixing of labelled and
    unlabelled batches, predictions averaged over two augmentations, and the
    squared error, with a weight of its own, of guessed labels, which here
    have the compiled loss. `keras_smkd.losses.JointOptimization(alpha=1,
    beta=0)` has the paper's penalty against predicting few classes.

    The model remembers `num_examples * peers` numbers.

    Args:
        num_examples: Number of examples in the data set, above every index.
        temperature: `T > 0`; 1 does not sharpen.
        threshold: What `w` must exceed for a label to count, in [0, 1]. The
            authors have 0.6 where nine of ten labels are noisy.

    Example:

    >>> target = CoRefinement(num_examples=1)
    >>> target.prepare(peers=[None, None], num_classes=2)
    >>> target.set_posterior(np.array([[1.0, 0.5 - 1e-6]]))
    >>> log_probs = ops.log([[[0.5, 0.5], [0.2, 0.8]]])
    >>> target(
    ...     Batch(
    ...         labels=[[1.0, 0.0]],
    ...         log_probs=log_probs,
    ...         index=np.array([0]),
    ...         training=True,
    ...     )
    ... )
    [[[0.9, 0.1], [0.22477, 0.77523]]]

    Reference:
        Li et al., 2020, "DivideMix: Learning with Noisy Labels as
        Semi-supervised Learning", algorithm 1.
        https://arxiv.org/abs/2002.07394
    """

    def __init__(
        self,
        num_examples: int,
        temperature: float = 0.5,
        threshold: float = 0.5,
    ) -> None:
        super().__init__(num_examples)
        self.temperature = _checks.number("temperature", temperature, above=0.0)
        self.threshold = _checks.number(
            "threshold", threshold, minimum=0.0, maximum=1.0
        )

    def __call__(self, batch: Batch) -> Any:
        """Return the refined and guessed targets.

        Args:
            batch: With `labels`, `log_probs`, and in training `index`.

        Returns:
            `(batch, learners, classes)`, rows sum to 1, no gradient.
        """
        probs = ops.stop_gradient(ops.exp(batch.needed("log_probs", self)))
        # Peer i is told by peer i + 1.
        noisy = ops.roll(self.posterior_of(batch), -1, axis=1)
        refined = corrected_targets(batch.needed("labels", self), probs, noisy)
        guessed = ops.sum(probs, axis=1, keepdims=True) / probs.shape[1]
        # A NaN, of a place that is not in the data set, must stay one.
        is_noisy = ops.expand_dims(noisy >= 1.0 - self.threshold, axis=-1)
        return sharpened(
            ops.where(is_noisy, guessed, refined), self.temperature
        )
