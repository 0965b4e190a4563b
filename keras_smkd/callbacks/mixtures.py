"""The callback that tells right labels from wrong ones by their losses."""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_smkd import _checks
from keras_smkd._labels import class_ids
from keras_smkd.targets.mixture import MixtureTarget

KINDS = ("beta", "gaussian")


class FitMixture(keras.callbacks.Callback):
    """Fits, after every epoch, a mixture of two distributions to the losses.

    All peers predict all examples, without training. The cross entropies of
    each peer are one mixture's: the component of small losses is taken for the
    right labels, the other for the wrong ones. How probably each label is
    wrong joins the model's target, for the next epoch.

    It is a weight, so that a model that was saved goes on as it would have.
    Place this callback before those that save the model.

    Args:
        x: Inputs of the training examples, as `predict` takes them, in the
            order of their indices: that of the arrays which `fit` is given.
        labels: `(examples,)` or `(examples, 1)` class ids, as trained on.
        start_epoch: Epochs to be trained on the labels as they are, at least
            1; the first fit is at the end of the last of these. The authors
            of the beta mixture have 105 of 300, those of the Gaussian one 10
            for CIFAR-10 and 30 for CIFAR-100.
        kind: `"beta"` (M-correction) or `"gaussian"` (DivideMix; needs
            scikit-learn).
        batch_size: Batch size of the predictions.
        lookup_points: For the beta mixture: size of the table from which
            probabilities are read, which keeps the largest losses from
            passing for clean; the authors have 100. `None` for the formula.
        seed: For the Gaussian mixture: integer >= 0, where its EM begins.

    Raises:
        TypeError: if labels are not numbers, or another argument is not of
            its kind.
        ValueError: if labels are no class ids, or another argument is out of
            range.

    Example:

    ```python
    mixture = keras_smkd.callbacks.FitMixture(x, y, start_epoch=10)
    model.fit(x, y, epochs=30, callbacks=[mixture])
    ```

    Reference:
        Arazo et al., 2019, "Unsupervised Label Noise Modeling and Loss
        Correction". https://arxiv.org/abs/1904.11238
        Li et al., 2020, "DivideMix: Learning with Noisy Labels as
        Semi-supervised Learning". https://arxiv.org/abs/2002.07394
    """

    def __init__(
        self,
        x: Any,
        labels: Any,
        start_epoch: int,
        kind: str = "beta",
        batch_size: int = 256,
        lookup_points: int | None = 100,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.x = x
        self.labels = class_ids("labels", labels)
        self.start_epoch = _checks.integer(
            "start_epoch", start_epoch, minimum=1
        )
        self.kind = _checks.one_of("kind", kind, KINDS)
        self.batch_size = _checks.integer("batch_size", batch_size, minimum=1)
        if lookup_points is not None:
            _checks.integer("lookup_points", lookup_points, minimum=2)
        self.lookup_points = lookup_points
        self.seed = _checks.integer("seed", seed, minimum=0)

    def on_train_begin(self, logs: Any = None) -> None:
        """Look for the model's target.

        Raises:
            TypeError: if it is none that a mixture is fitted for.
            ValueError: if there are more labels than it has examples, or a
                label is none of the model's classes.
        """
        model = self.model
        target = _target_of(model)
        class_ids("labels", self.labels, model.num_classes)
        if len(self.labels) > target.num_examples:
            raise ValueError(
                "`labels` must not be more than the `num_examples` of the "
                f"model's target. Received: {len(self.labels)} labels with "
                f"num_examples={target.num_examples}."
            )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Fit the mixtures, if labels are to be corrected in the next epoch.

        Raises:
            ValueError: if the labels do not fit the predictions, a prediction
                is not finite, or the losses are all alike, so that there is
                nothing to tell apart.
        """
        if epoch + 1 < self.start_epoch:
            return
        model = self.model
        predictions = model.predict(
            self.x, batch_size=self.batch_size, verbose=0, output="all"
        )
        losses = [
            _cross_entropies(predictions[name], self.labels)
            for name in model.peer_names
        ]
        posterior = np.stack([self._posterior(own) for own in losses], axis=1)
        _target_of(model).set_posterior(posterior)

    def _posterior(
        self, losses: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """Return how probably each label is wrong, `(examples,)`."""
        # Training without this callback needs no estimators.
        from keras_smkd import estimators

        if self.kind == "gaussian":
            return estimators.gaussian_mixture_posterior(losses, self.seed)
        # The authors keep a bit of either target.
        return estimators.fit_beta_mixture(losses).posterior_noisy(
            losses, self.lookup_points, margin=1e-4
        )


def _cross_entropies(
    probs: npt.NDArray[Any], labels: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    if len(probs) != len(labels):
        raise ValueError(
            "`labels` must be one for each example that `x` gives. "
            f"Received: {len(labels)} labels for {len(probs)} examples."
        )
    labels = class_ids("labels", labels, probs.shape[1])
    own = probs[np.arange(len(labels)), labels].astype(np.float64)
    # A probability may have rounded to 0, and no loss may be infinite.
    return -np.log(np.maximum(own, np.finfo(np.float32).tiny))


def _target_of(model: Any) -> MixtureTarget:
    target = getattr(model, "target", None)
    if not isinstance(target, MixtureTarget):
        raise TypeError(
            "`FitMixture` must be used with a model whose `target` is a "
            "`MixtureBootstrapping` or a `CoRefinement`. "
            f"Received: target={target!r} of {type(model).__name__}."
        )
    return target
