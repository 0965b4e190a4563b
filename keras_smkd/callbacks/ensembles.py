"""The callback that measures the weights of an ensemble of peers."""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_smkd import _checks
from keras_smkd._config import parts_of
from keras_smkd._labels import labels_of
from keras_smkd.functional import ensembles
from keras_smkd.knowledge.ensembles import GeneralEnsemble


class MeasureEnsemble(keras.callbacks.Callback):
    """Measures, after every epoch, the weights of a `GeneralEnsemble`.

    All peers predict the validation data, without training, and the weights of
    the ensemble of least squared error join the model's `GeneralEnsemble`:
    `w = C^-1 1 / (1^T C^-1 1)` of the correlations `C` of the peers' errors.
    The first epoch learns from the plain mean. Place it before callbacks that
    save the model, so that they save the new weights.

    Args:
        x: Inputs that the peers are not trained on, as `predict` takes them.
        y: Their labels, which had better be right: `(examples,)` or
            `(examples, 1)` integers, or `(examples, classes)` distributions.
        batch_size: Batch size of the predictions.
        ridge: Number >= 0, what is added to the diagonal of `C`, relative to
            its mean. It bounds the weights where peers err alike: none is
            larger than about `ridge^(-1/2)`. 0 is the paper's formula, an
            error where `C` is singular.

    Raises:
        ValueError: if the labels have another shape or are not finite, or a
            number is out of range.
        TypeError: if the labels are no numbers.

    Example:

    ```python
    measure = keras_smkd.callbacks.MeasureEnsemble(x_valid, y_valid)
    model.fit(x, y, epochs=10, callbacks=[measure])
    ```

    Reference:
        Guo et al., 2020, "Online Knowledge Distillation via Collaborative
        Learning", CVPR, KDCL-General.
    """

    def __init__(
        self, x: Any, y: Any, batch_size: int = 256, ridge: float = 1e-6
    ) -> None:
        super().__init__()
        self.x = x
        self.y = labels_of("y", y)
        self.batch_size = _checks.integer("batch_size", batch_size, minimum=1)
        self.ridge = _checks.number("ridge", ridge, minimum=0.0)

    def on_train_begin(self, logs: Any = None) -> None:
        """Look for the model's ensemble.

        Raises:
            TypeError: if the model has no `GeneralEnsemble`.
        """
        _ensembles_of(self.model)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Measure the weights.

        Raises:
            ValueError: if the labels do not fit the predictions, or a
                prediction is not finite.
        """
        model = self.model
        predictions = model.predict(
            self.x, batch_size=self.batch_size, verbose=0, output="all"
        )
        probs = np.stack([predictions[name] for name in model.peer_names])
        correlation = ensembles.error_correlation(
            probs, _distributions(self.y, probs.shape[1], probs.shape[2])
        )
        weights = ensembles.general_weights(correlation, self.ridge)
        for ensemble in _ensembles_of(model):
            ensemble.set_peer_weights(weights)


def _distributions(
    labels: npt.NDArray[Any], num_examples: int, num_classes: int
) -> npt.NDArray[np.float64]:
    labels = labels_of("y", labels, num_classes)
    if len(labels) != num_examples:
        raise ValueError(
            "`y` must have a label for each example that `x` gives. Received: "
            f"{len(labels)} labels for {num_examples} examples."
        )
    if labels.ndim == 2:
        return labels.astype(np.float64)
    return np.eye(num_classes)[labels]


def _ensembles_of(model: Any) -> list[GeneralEnsemble]:
    """Return the model's ensembles, also those among several sources."""
    found = [
        part
        for part in parts_of(getattr(model, "knowledge", None))
        if isinstance(part, GeneralEnsemble)
    ]
    if not found:
        raise TypeError(
            "`MeasureEnsemble` must be used with a model whose `knowledge` is "
            "a `GeneralEnsemble`, or has one among its `sources`. Received: "
            f"model={model!r} of type {type(model).__name__}."
        )
    return found
