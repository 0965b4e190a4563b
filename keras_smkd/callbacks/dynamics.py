"""The callback that hands on how each training example was learnt."""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from keras_smkd import _checks
from keras_smkd._labels import labels_of
from keras_smkd.observers import Dynamics
from keras_smkd.observers import ExampleDynamics


class TrainingDynamics(keras.callbacks.Callback):
    """How the label of each training example was learnt, over the epochs.

    What is kept, and what the words mean, is said by the model's `observer`,
    a `keras_smkd.observers.ExampleDynamics`; this callback fills it, or
    checks that the training does, and has its results as arrays. They are
    weights of the model, so that a resumed training goes on with them. No
    clean labels are needed.

    - `TrainingDynamics()`, with an observer of `source="training"`: the
      predictions of each step are kept, which cost next to nothing.
    - `TrainingDynamics(x, labels)`, with `source="passes"`: after every epoch
      all peers predict all examples in inference mode, which is as long as
      one `predict`. Place it before callbacks that save the model.

    Args:
        x: Inputs of the training examples, as `predict` takes them, in one
            order at all times; `None` where the training's own predictions
            are kept.
        labels: Their labels, as trained on: `(examples,)` or `(examples, 1)`
            class ids, or `(examples, classes)` distributions, of which the
            largest counts. `None` if `x` is.
        batch_size: Batch size of the predictions.

    Raises:
        TypeError: if labels are not numbers, or `batch_size` no integer.
        ValueError: if only one of `x` and `labels` is given, labels are of no
            form that is known, or `batch_size` is below 1.

    Example:

    ```python
    model = keras_smkd.PeerLearning(
        [peer_a, peer_b],
        observer=keras_smkd.observers.ExampleDynamics(len(x)),
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    dynamics = keras_smkd.callbacks.TrainingDynamics()
    model.fit(x, noisy_labels, epochs=20, callbacks=[dynamics])
    hard = np.argsort(dynamics.confidence)
    ```

    Reference:
        Swayamdipta et al., 2020, "Dataset Cartography: Mapping and Diagnosing
        Datasets with Training Dynamics". https://arxiv.org/abs/2009.10795
        Toneva et al., 2019, "An Empirical Study of Example Forgetting during
        Deep Neural Network Learning". https://arxiv.org/abs/1812.05159
        Pleiss et al., 2020, "Identifying Mislabeled Data using the Area Under
        the Margin Ranking". https://arxiv.org/abs/2001.10528
    """

    def __init__(
        self, x: Any = None, labels: Any = None, batch_size: int = 256
    ) -> None:
        super().__init__()
        if (x is None) != (labels is None):
            raise ValueError(
                "`x` and `labels` must both be given or both be None. "
                f"Received: {'labels' if x is None else 'x'} only."
            )
        self.x = x
        self.labels = None if labels is None else labels_of("labels", labels)
        self.batch_size = _checks.integer("batch_size", batch_size, minimum=1)

    def on_train_begin(self, logs: Any = None) -> None:
        """Look for the model's observer.

        Raises:
            TypeError: if it is no `ExampleDynamics`.
            ValueError: if it takes the predictions from elsewhere, or has
                other examples or classes than the labels.
        """
        model, observer = self.model, self._observer()
        source = "training" if self.x is None else "passes"
        if observer.source != source:
            raise ValueError(
                f"`observer` must have source={source!r} where `x` is "
                f"{'None' if self.x is None else 'given'}. "
                f"Received: observer={observer!r}."
            )
        if self.labels is None:
            return
        labels_of("labels", self.labels, model.num_classes)
        if len(self.labels) != observer.num_examples:
            raise ValueError(
                "`labels` must be one for each of the `num_examples` of the "
                f"model's observer. Received: {len(self.labels)} labels with "
                f"num_examples={observer.num_examples}."
            )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Keep a visit of every example, or check those of the training.

        Raises:
            ValueError: if `x` gives another number of examples than there are
                labels, or batches of the training brought places that are not
                in the data set.
        """
        observer = self._observer()
        if self.labels is None:
            observer.check()
            return
        model = self.model
        predictions = model.predict(
            self.x, batch_size=self.batch_size, verbose=0, output="all"
        )
        probs = np.stack([predictions[name] for name in model.peer_names], 1)
        if len(probs) != len(self.labels):
            raise ValueError(
                "`labels` must be one for each example that `x` gives. "
                f"Received: {len(self.labels)} labels for {len(probs)} "
                "examples."
            )
        labels = self.labels
        if labels.ndim == 1:
            labels = np.eye(probs.shape[-1], dtype="float32")[labels]
        # A probability may have rounded to 0.
        smallest = np.finfo(np.float32).tiny
        log_probs = np.log(np.maximum(probs, smallest, dtype=np.float32))
        observer.visit(
            ops.arange(len(labels), dtype="int32"),
            ops.convert_to_tensor(log_probs),
            ops.convert_to_tensor(labels),
        )

    @property
    def results(self) -> Dynamics:
        """All statistics, as one record of arrays `(examples,)`."""
        return self._observer().results()

    @property
    def confidence(self) -> npt.NDArray[np.float32]:
        """Mean over the visits of the probability of the label."""
        return self.results.confidence

    @property
    def variability(self) -> npt.NDArray[np.float32]:
        """Standard deviation of that probability over the visits."""
        return self.results.variability

    @property
    def correctness(self) -> npt.NDArray[np.float32]:
        """Share of the visits at which the label was predicted."""
        return self.results.correctness

    @property
    def margin(self) -> npt.NDArray[np.float32]:
        """Mean of the label's logit minus the largest other logit."""
        return self.results.margin

    @property
    def learnt(self) -> npt.NDArray[np.int64]:
        """How often the label became what is predicted."""
        return self.results.learnt

    @property
    def forgotten(self) -> npt.NDArray[np.int64]:
        """How often it was predicted at one visit, and not at the next."""
        return self.results.forgotten

    @property
    def count(self) -> npt.NDArray[np.int64]:
        """Number of visits."""
        return self.results.count

    def _observer(self) -> ExampleDynamics:
        observer = getattr(self.model, "observer", None)
        if not isinstance(observer, ExampleDynamics):
            raise TypeError(
                "`TrainingDynamics` must be used with a model whose "
                "`observer` is an `ExampleDynamics`. Received: "
                f"observer={observer!r} of {type(self.model).__name__}."
            )
        return observer
