"""The loss that revises the transition matrix while it trains.

Keras does not look for weights in a loss. The revision is therefore a weight
of the model, in a layer that `TransitionRevision.attach` gives to it.
"""

import math
import weakref
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from keras_smkd.losses import base
from keras_smkd.losses import corrections

ATTRIBUTE = "transition_slack"


def transition_revision(
    labels: Any, log_probs: Any, transition_matrix: Any, slack: Any
) -> Any:
    """Return `-sum_j labels_j w_j log p_j`, `w_j = p_j / (p (T + slack))_j`.

    The gradient flows through the weights `w` as well, into the predictions
    and into the slack.

    Args:
        labels: `(batch, classes)`, noisy labels, rows sum to 1.
        log_probs: `(batch, classes)`, log-probabilities of clean classes.
        transition_matrix: `(classes, classes)`, rows sum to 1.
        slack: `(classes, classes)`, of any sign.

    Returns:
        `(batch,)`. The formula as it stands: negative where
        `(p (T + slack))_j` is, and not finite where that is 0.
    """
    dtype = keras.backend.standardize_dtype(log_probs.dtype)
    labels = ops.cast(labels, dtype)
    revised = ops.convert_to_tensor(transition_matrix, dtype=dtype)
    revised = revised + ops.cast(slack, dtype)
    clean = ops.expand_dims(log_probs, axis=2)
    # Both parts of the fraction are divided by the largest `p_i` that has a
    # share in `(p (T + slack))_j`, for both may round to 0.
    shift = ops.max(ops.where(revised != 0, clean, -math.inf), axis=1)
    shift = ops.stop_gradient(shift)
    # What the label excludes is put out of the way before it is computed: its
    # slope can be infinite, and 0 times that is NaN.
    absent = labels == 0
    own = ops.exp(ops.where(absent, 0.0, log_probs - shift))
    exponents = clean - ops.expand_dims(shift, axis=1)
    # Only an entry of 0 has a larger `p_i`. It must add 0 and not 0 * inf, and
    # keep the gradient that says what it would add.
    largest = math.log(np.finfo(dtype).max) - 1.0
    # Not `minimum`, which makes float64 into float32 on torch.
    exponents = ops.where(exponents > largest, largest, exponents)
    shares = ops.exp(exponents)
    seen = ops.sum(revised * shares, axis=1)
    weights = own / ops.where(absent, 1.0, seen)
    return -base.expectation(labels, weights * log_probs)


class _SlackWeight(keras.layers.Layer):
    """Holds one weight, of given values."""

    def __init__(self, values: npt.NDArray[np.float64], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._values = values

    def build(self, input_shape: Any = None) -> None:
        self.slack = self.add_weight(
            name="slack",
            shape=self._values.shape,
            initializer="zeros",
            dtype=self.variable_dtype,
            autocast=False,
        )
        self.slack.assign(self._values)


@keras.saving.register_keras_serializable(package="keras_smkd")
class TransitionSlack(keras.layers.Layer):
    """The place in a model for the weight of a `TransitionRevision`.

    Empty until `TransitionRevision.attach` puts the weight in. Most models are
    given one by `attach`. Keras gives nothing new to a subclass of
    `keras.Model` that is built, so such a class makes its own, as the
    attribute `transition_slack`. It is not to be called.

    Args:
        name, **kwargs: As for `keras.layers.Layer`.

    Example:

    ```python
    class Classifier(keras.Model):
        def __init__(self):
            super().__init__()
            self.transition_slack = keras_smkd.losses.TransitionSlack()
    ```
    """

    def __init__(self, name: str = ATTRIBUTE, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        # Said here and never by calling `build`, after which Keras would let
        # nothing in.
        self.built = True

    def build(self, input_shape: Any = None) -> None:
        """Do nothing: the weight comes from the loss."""

    def hold(self, values: Any) -> Any:
        """Make a weight of the given values, in the place of any other.

        Args:
            values: `(classes, classes)` NumPy array.

        Returns:
            A layer, whose `slack` is the weight.
        """
        self.clear()
        dtype = keras.backend.result_type(keras.config.floatx(), "float32")
        held = _SlackWeight(values, name=self.name, dtype=dtype)
        # By Keras's `build`, so that torch too knows the weight, as one of the
        # module's parameters.
        held.build()
        self.held = held
        return held

    def clear(self) -> None:
        """Let go of the weight, if there is one, so that no model has it."""
        held = getattr(self, "held", None)
        if held is not None:
            # Keras forgets a variable that is deleted, and not a layer.
            del held.slack
            del self.held


@keras.saving.register_keras_serializable(package="keras_smkd")
class TransitionRevision(corrections.ImportanceReweighting):
    """The cross entropy, reweighted by a matrix that is trained along.

    `-w log p_y` with `w = p_y / (p (T + slack))_y`, where the slack is a
    weight that starts at zero. The gradient flows through `w`, into the
    predictions and the slack. With a slack of zero the value is that of
    `ImportanceReweighting`; its gradient is not, for it holds `w` fixed.

    The weight is the model's, and has to be given to it before training:

    ```python
    loss = TransitionRevision(matrix, from_logits=True)
    loss.attach(model)
    model.compile("adam", loss)
    model.fit(x, y)
    loss.revised_matrix
    ```

    The model then trains it and saves it as it does its other weights. The
    configuration of the loss has its values too, and so has the `.keras` file
    of a compiled model, but the model that Keras makes of such a file has no
    slack until `attach` is called again. To go on with a plain model:

    ```python
    model = keras.models.load_model(path, compile=False)
    loss = TransitionRevision(matrix, from_logits=True)
    loss.attach(model)
    model.load_weights(path)
    model.compile("adam", loss)
    ```

    As in the paper, nothing keeps the revised matrix stochastic. The loss
    falls as any entry grows, so that its gradient never lowers one, and the
    method needs a network that is already trained, with a small learning rate
    for a limited time: the authors have Adam with 5e-7. The gradient in the
    slack can leave the range of float32 for a label that prediction and
    matrix exclude together. A slack below zero, which training from zero does
    not come to, can make `(p (T + slack))_y` negative: the formula is then
    taken as it stands, with a negative weight that teaches the contrary of
    the label; where it is 0 the loss is not finite.

    Args:
        transition_matrix: `(classes, classes)`, nested list or array,
            `T[i, j] = P(noisy=j | clean=i)`, rows sum to 1, the diagonal
            positive. See `keras_smkd.noise`.
        slack: `(classes, classes)`, nested list or array: where the revision
            starts. `None` is zeros.
        from_logits: Whether predictions are logits.
        reduction: As in `keras.losses.Loss`.
        name: Name of the loss.
        dtype: As in `keras.losses.Loss`.

    Labels are integers or distributions; for soft labels the loss is the
    expectation over the noisy label.

    Raises:
        ValueError: in `call`, if the loss is attached to no model.

    Example:

    >>> loss = TransitionRevision([[0.5, 0.5], [0.0, 1.0]])
    >>> loss.revised_matrix.tolist()
    [[0.5, 0.5], [0.0, 1.0]]

    Reference:
        Xia et al., 2019, "Are Anchor Points Really Indispensable in
        Label-Noise Learning?". https://arxiv.org/abs/1906.00189
    """

    def __init__(
        self,
        transition_matrix: Any,
        slack: Any = None,
        from_logits: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(transition_matrix, from_logits, reduction, name, dtype)
        self._initial_slack = _checked_slack(slack, self._matrix.shape)
        self._weight: Any = None
        # Not held themselves: Keras would save them as parts of the loss.
        self._layer: Any = _nothing
        self._model: Any = _nothing

    @property
    def slack(self) -> list[list[float]]:
        """The present values of the slack, as nested lists."""
        return self._slack_values().tolist()

    @property
    def revised_matrix(self) -> npt.NDArray[np.float64]:
        """The matrix plus the slack, `(classes, classes)`.

        On JAX the slack is up to date when `fit` returns and at the ends of
        epochs.
        """
        return self._matrix + self._slack_values()

    def attach(self, model: keras.Model) -> None:
        """Make the slack a weight of a model, which then trains and saves it.

        The layer that holds it is the model's `transition_slack`. The slack of
        another loss, which was there, is let go. Nothing happens if the loss
        is attached to this model already.

        Args:
            model: A functional model, or a subclass of `keras.Model` that is
                not built or has a `TransitionSlack` as its `transition_slack`.
                Its optimizer must not be built: attach before `compile`, or,
                if the model was compiled and trained before, right after
                `compile` with a new optimizer.

        Raises:
            TypeError: if `model` is not a `keras.Model`.
            ValueError: if the loss is attached to another model, the
                optimizer is built, or the model cannot take a weight.
        """
        if not isinstance(model, keras.Model):
            raise TypeError(
                "`model` must be a `keras.Model`. "
                f"Received: model={model!r} of type {type(model).__name__}."
            )
        if self._is_attached():
            if self._model() is model:
                return
            raise ValueError(
                "`model` must be the only one that the loss is attached to. "
                f"Received: model={model.name!r}, and it is attached to "
                f"{self._model().name!r}. Call `detach` first, or make "
                "another loss."
            )
        optimizer = getattr(model, "optimizer", None)
        if getattr(optimizer, "built", False):
            raise ValueError(
                "`model` must have an optimizer that is not built, or none. "
                f"Received: model={model.name!r}, whose optimizer has its "
                "variables already. Attach the loss before `compile` and "
                "`fit`, or right after `compile` with a new optimizer."
            )
        layer = _slot_of(model).hold(self._slack_values())
        self._weight = layer.slack
        self._layer = weakref.ref(layer)
        self._model = weakref.ref(model)

    def detach(self) -> None:
        """Take the slack from the model, if there is one; keep its values.

        Compile the model again before training it.
        """
        if self._is_attached():
            getattr(self._model(), ATTRIBUTE).clear()

    def call(self, y_true: Any, y_pred: Any) -> Any:
        if not self._is_attached():
            raise ValueError(
                f"`{type(self).__name__}` must be attached to a model, which "
                "trains its slack. Received: a loss that is attached to none. "
                "Call `loss.attach(model)` before training; after "
                "`keras.models.load_model`, too."
            )
        return super().call(y_true, y_pred)

    def values(self, labels: Any, log_probs: Any) -> Any:
        return transition_revision(
            labels, log_probs, self._matrix, self._weight
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "slack": self.slack}

    def _slack_values(self) -> npt.NDArray[np.float64]:
        if self._weight is None:
            return self._initial_slack
        return np.array(ops.convert_to_numpy(self._weight), dtype=np.float64)

    def _is_attached(self) -> bool:
        # The model, or a loss that was attached to it later, may have let go.
        return (
            self._model() is not None
            and getattr(self._layer(), "slack", None) is self._weight
        )


def _nothing() -> None:
    """Stand for a reference to what is not there."""


def _slot_of(model: keras.Model) -> TransitionSlack:
    """Return the layer of a model for the slack, made if there is none."""
    slot = getattr(model, ATTRIBUTE, None)
    if isinstance(slot, TransitionSlack):
        return slot
    if slot is not None:
        raise ValueError(
            f"`model` must leave the attribute `{ATTRIBUTE}` to the loss. "
            f"Received: model={model.name!r}, where it is a "
            f"{type(slot).__name__}."
        )
    if isinstance(model, keras.Sequential):
        # It would be set, and not be found among the variables.
        raise ValueError(
            "`model` must be able to take another weight, and a "
            f"`keras.Sequential` is not. Received: model={model.name!r}. Give "
            "the functional `keras.Model(model.inputs, model.outputs)`."
        )
    slot = TransitionSlack()
    try:
        setattr(model, ATTRIBUTE, slot)
    except ValueError as error:
        raise ValueError(
            "`model` must be able to take another weight, and a subclass of "
            "`keras.Model` that is built is not. "
            f"Received: model={model.name!r}. Attach the loss before the model "
            f"is built, or make `self.{ATTRIBUTE} = "
            "keras_smkd.losses.TransitionSlack()` in its constructor."
        ) from error
    return slot


def _checked_slack(slack: Any, shape: Any) -> npt.NDArray[np.float64]:
    if slack is None:
        return np.zeros(shape)
    try:
        values = np.array(slack, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            "`slack` must be a square array of numbers. "
            f"Received: slack={slack!r}."
        ) from error
    if values.shape != shape or not np.all(np.isfinite(values)):
        raise ValueError(
            f"`slack` must be finite and of the matrix's shape {shape}. "
            f"Received: slack={slack!r}."
        )
    return values
