"""The estimator: peers behind scikit-learn's `fit` and `predict`."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

try:
    from sklearn.base import BaseEstimator
    from sklearn.base import ClassifierMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted
    from sklearn.utils.validation import validate_data
except ImportError as error:
    raise ImportError(
        "`keras_smkd.sklearn` needs scikit-learn 1.6 or later. Install it "
        'with: pip install "keras-smkd[sklearn]"'
    ) from error

from keras_smkd import methods
from keras_smkd.sklearn import arguments
from keras_smkd.sklearn import files
from keras_smkd.sklearn import peers
from keras_smkd.sklearn.batches import Batches
from keras_smkd.sklearn.randomness import seeded


class SelectiveMutualClassifier(ClassifierMixin, BaseEstimator):
    """Peers that learn from wrong labels together, as one classifier.

    It builds the peers for the data that it is given, trains them by a method,
    by default `keras_smkd.methods.posterior_smkd` as it is, and predicts with
    their ensemble. It is an estimator of scikit-learn: it can be cloned,
    searched over, put at the end of a pipeline, pickled, and given to what
    works with such estimators.

    `X` is `(examples, features)`, or `(examples, ...)` of any more dimensions,
    such as `(examples, height, width, channels)` images; the peers get it as
    float32, as it is: scale a table before. `y` is `(examples,)` labels of any
    kind that can be sorted: integers, with gaps or not, booleans, texts, or a
    column of a table of these.

    Every `fit` trains new peers. With the same `random_state`, on the same
    backend, it gives the same classifier: initial weights, dropout and the
    order of the batches follow from it, and the generators of Python, NumPy
    and torch are left as they were. (Backends share the order, and draw other
    weights from a seed.) What it does not reach are draws in layers of your
    own by `keras.random` without a seed, or by TensorFlow's own generator, and
    what a GPU adds up in no fixed order.

    Args:
        build_peer: `(input_shape, num_classes) -> keras.Model`, called once
            for each peer: a new model of inputs `(batch, *input_shape)` with
            logits `(batch, num_classes)`. `None`, for tables only: two hidden
            layers of 64. To be pickled, it must be a function of a module, and
            layers of your own be registered with Keras.
        num_peers: How many peers there are, at least 2.
        epochs: Passes over the data, at least 1.
        batch_size: Examples in a batch, in training and in prediction, at
            least 1.
        optimizer: Name of a Keras optimizer, or `learning_rate -> optimizer`,
            such as `keras.optimizers.AdamW`.
        learning_rate: Number > 0, or a
            `keras.optimizers.schedules.LearningRateSchedule`.
        loss: Name of a loss of integer labels, or a `keras.losses.Loss` of
            logits, such as
            `keras_smkd.losses.GeneralizedCrossEntropy(from_logits=True)`.
        method: `(peers, num_examples) -> keras_smkd.PeerLearning`, called once
            for each `fit`: a new model, not compiled, made of the peers, the
            number of training examples and new parts. For example
            `lambda peers, num_examples: SelectiveMutualDistillation(peers)`,
            SMKD with its gate, or `functools.partial(methods.posterior_smkd,
            class_prior=prior)`. To be pickled, it must be a function of a
            module.
        callbacks: List of `keras.callbacks.Callback`s, or `None`. Each `fit`
            works with copies of them. A threshold schedule is one.
        random_state: Integer in [0, 2**32) or a `numpy.random.RandomState`, or
            `None` for NumPy's own generator.
        verbose: What `fit` prints: 0, 1, 2 or `"auto"`, as in Keras.

    What there is after `fit`: `classes_`, the labels, sorted; `model_`, the
    `PeerLearning`, of class ids; `history_`, a list of each logged value by
    epoch; `n_features_in_`, the size of `X` along axis 1;
    `feature_names_in_`, where the columns of `X` have names;
    `suspicious_labels_` and `noise_rate_`, which are found when first asked
    for.

    Files (`pickle`, `joblib`) have the model as Keras writes it, optimizer
    included, and not the training data: `suspicious_labels_` and `noise_rate_`
    are in them if they were asked for before.

    Example:

    ```python
    classifier = SelectiveMutualClassifier(epochs=20, random_state=0)
    classifier = make_pipeline(StandardScaler(), classifier)
    scores = cross_val_score(classifier, table, labels)
    ```
    """

    def __init__(
        self,
        build_peer: Callable[[tuple[int, ...], int], keras.Model] | None = None,
        num_peers: int = 2,
        *,
        epochs: int = 60,
        batch_size: int = 64,
        optimizer: str | Callable[[Any], Any] = "adam",
        learning_rate: Any = 0.001,
        loss: Any = "sparse_categorical_crossentropy",
        method: Callable[..., Any] = methods.posterior_smkd,
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
        random_state: Any = None,
        verbose: Any = 0,
    ) -> None:
        self.build_peer = build_peer
        self.num_peers = num_peers
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.loss = loss
        self.method = method
        self.callbacks = callbacks
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None
    ) -> "SelectiveMutualClassifier":
        """Train new peers.

        Args:
            X: `(examples, ...)` finite numbers.
            y: `(examples,)` labels, of two classes or more.
            sample_weight: `(examples,)` numbers >= 0, or `None` for ones. Only
                their ratios matter. An example of weight 0 is left out; in the
                loss, one of weight 2 counts as if it were there twice (but not
                in what layers know of their inputs, such as batch
                normalisation, nor in what a method measures of labels).

        Returns:
            The estimator.

        Raises:
            TypeError: if an argument is of a wrong kind, or labels cannot be
                sorted.
            ValueError: if an argument, a label or a weight is out of range, or
                shapes do not fit.
        """
        checked = arguments.checked(self)
        X, y = self._validated(X, arguments.plain_labels(y))
        classes, ids = arguments.classes_and_ids(y)
        check_classification_targets(y)
        weights = arguments.checked_weights(sample_weight, ids)
        kept = slice(None) if weights is None else weights > 0
        if weights is not None:
            # Or the step would shrink with the share of what counts.
            weights = (weights / weights[kept].mean()).astype("float32")[kept]
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        with seeded(seed):
            model = peers.learning(
                self.method,
                peers.built(self.build_peer, self.num_peers, X, len(classes)),
                len(ids[kept]),
            )
            model.compile(checked.optimizer, checked.loss)
            batches = Batches(
                X[kept],
                ids[kept],
                weights,
                batch_size=self.batch_size,
                epochs=self.epochs,
                seed=seed,
                with_index=model.needs_index,
            )
            history = model.fit(
                batches,
                epochs=self.epochs,
                steps_per_epoch=batches.steps,
                shuffle=False,
                callbacks=checked.callbacks,
                verbose=checked.verbose,
            )
        self.classes_ = classes
        self.model_ = model
        self.history_ = history.history
        self._input_shape = X.shape[1:]
        # For what is asked about the training labels later.
        self._training = (X, ids)
        self._suspicious_labels: Any = None
        return self

    def predict_proba(self, X: Any) -> npt.NDArray[np.float32]:
        """Return the mean of the peers' probabilities.

        Args:
            X: `(examples, ...)` finite numbers, of the shape that `fit` got.

        Returns:
            `(examples, classes)`, in the order of `classes_`; rows sum to 1.

        Raises:
            ValueError: if `X` is not that. `NotFittedError`, one of its kind,
                if `fit` has not been called.
        """
        check_is_fitted(self)
        X = self._validated(X, reset=False)
        if X.shape[1:] != self._input_shape:
            shape = ", ".join(map(str, self._input_shape))
            raise ValueError(
                f"`X` must be of shape (examples, {shape}), as in `fit`. "
                f"Received: X of shape {X.shape}."
            )
        found: npt.NDArray[np.float32] = self.model_.predict(
            X, batch_size=self.batch_size, verbose=0
        )
        return found

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Return the most probable label of each example.

        Args:
            X: As for `predict_proba`, whose errors it has.

        Returns:
            `(examples,)`, of the kind of `y`.
        """
        ids = np.argmax(self.predict_proba(X), axis=1)
        found: npt.NDArray[Any] = self.classes_[ids]
        return found

    def _validated(self, *data: Any, **kwargs: Any) -> Any:
        # What float32 cannot hold is an error: no warning has to come first.
        with np.errstate(over="ignore"):
            return validate_data(
                self, *data, dtype=np.float32, allow_nd=True, **kwargs
            )

    @property
    def suspicious_labels_(self) -> Any:
        """Table of the training labels that the peers contradict.

        That of `keras_smkd.report.suspicious_labels`, of class ids (places in
        `classes_`), for the rows of `X` as `fit` got them.

        Raises:
            AttributeError: if `fit` has not been called, or the estimator
                comes from a file and this was not asked for before.
        """
        check_is_fitted(self)
        if self._suspicious_labels is None:
            from keras_smkd import report

            if self._training is None:
                raise AttributeError(
                    "`suspicious_labels_` must be asked for before the "
                    "estimator is written to a file, which has no training "
                    "data. Received: an estimator from a file. Call "
                    "`keras_smkd.report.suspicious_labels` with its `model_`, "
                    "the data and the class ids."
                )
            self._suspicious_labels = report.suspicious_labels(
                self.model_,
                *self._training,
                class_names=[str(label) for label in self.classes_],
            )
        return self._suspicious_labels

    @property
    def noise_rate_(self) -> float:
        """Share of the training labels that are wrong, as it is estimated.

        Raises:
            AttributeError: as `suspicious_labels_`.
        """
        table = self.suspicious_labels_
        from keras_smkd import report

        return float(report.noise_rate(table))

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for a file, the model as Keras's archive."""
        state = dict(super().__getstate__())
        if "model_" in state:
            state["model_"] = files.archive(self.model_)
            state["_training"] = None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a state from a file, and load the model from its archive."""
        state = dict(state)
        if "model_" in state:
            state["model_"] = files.model_of(state["model_"])
        super().__setstate__(state)

    def __sklearn_tags__(self) -> Any:
        """Return what scikit-learn asks of estimators: images are fine."""
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags
