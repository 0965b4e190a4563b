"""Gradient rules: optimizers that change what another optimizer is given.

A rule is a Keras optimizer around one. It takes the gradients of a step,
changes them, and hands them on; steps, learning rate and state are the inner
optimizer's. It works in any Keras model.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_smkd import _checks


class GradientRule(keras.optimizers.Optimizer):
    """An optimizer that changes gradients before another one applies them.

    `inner_optimizer.apply(changed(gradients, variables), variables)`

    A subclass writes `changed`. All that an optimizer is set to belongs on the
    inner one: `weight_decay`, clipping, averages of weights, and
    `gradient_accumulation_steps`, with which the gradients of each batch are
    changed before they are summed. Loss scaling goes around the rule, where
    Keras puts it by itself. With several replicas on TensorFlow a rule sees
    the gradients of its own replica.

    Args:
        inner_optimizer: A Keras optimizer, or its name.
        name: As for `keras.optimizers.Optimizer`.

    Raises:
        TypeError: if `inner_optimizer` is neither.
        ValueError: if it is a rule, or a `LossScaleOptimizer`.

    Example:

    ```python
    class SignDescent(keras_smkd.optimizers.GradientRule):
        def changed(self, gradients, variables):
            return [keras.ops.sign(gradient) for gradient in gradients]

    model.compile(SignDescent(keras.optimizers.SGD(0.001)), loss)
    ```
    """

    def __init__(self, inner_optimizer: Any, name: str | None = None) -> None:
        if isinstance(inner_optimizer, str):
            inner_optimizer = keras.optimizers.get(inner_optimizer)
        if not isinstance(inner_optimizer, keras.optimizers.Optimizer):
            raise TypeError(
                "`inner_optimizer` must be a Keras optimizer or its name. "
                f"Received: inner_optimizer={inner_optimizer!r} of type "
                f"{type(inner_optimizer).__name__}."
            )
        if isinstance(inner_optimizer, GradientRule):
            raise ValueError(
                "`inner_optimizer` must not be a gradient rule itself. "
                f"Received: a {type(inner_optimizer).__name__}. Write one rule "
                "that does what both do, in its `changed`."
            )
        if isinstance(inner_optimizer, keras.optimizers.LossScaleOptimizer):
            raise ValueError(
                "`inner_optimizer` must see gradients that are not scaled. "
                "Received: a LossScaleOptimizer. Put it around the rule: "
                f"`LossScaleOptimizer({type(self).__name__}(...))`."
            )
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = inner_optimizer

    def changed(
        self, gradients: Sequence[Any], variables: Sequence[Any]
    ) -> list[Any]:
        """Return the gradients that the inner optimizer is to see.

        Args:
            gradients: Tensors, one for each variable; of shapes that are
                known, and `None` where the loss does not depend on it.
            variables: Those that are trained.
        """
        raise NotImplementedError(
            f"`changed` must be written by {type(self).__name__}."
        )

    def build(self, variables: Sequence[Any]) -> None:
        """Make the inner optimizer's state, if it is not there."""
        if not self.inner_optimizer.built:
            self.inner_optimizer.build(variables)
        super().build(variables)

    def apply(
        self, grads: Sequence[Any], trainable_variables: Any = None
    ) -> None:
        """Change the gradients, and have the inner optimizer apply them."""
        if trainable_variables is None:
            variables = list(self._trainable_variables)
        else:
            variables = list(trainable_variables)
        if not self.built:
            self.build(variables)
        self.inner_optimizer.apply(
            self.changed(list(grads), variables), variables
        )

    @property
    def variables(self) -> list[Any]:
        """The state of the rule and that of the inner optimizer."""
        return [*super().variables, *self.inner_optimizer.variables]

    @property
    def iterations(self) -> Any:
        """The steps that the inner optimizer has taken."""
        return self.inner_optimizer.iterations

    @property
    def learning_rate(self) -> Any:
        """The inner optimizer's learning rate, to read and to set."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        self.inner_optimizer.learning_rate = value

    # Keras sets both in the constructor, before there is an inner optimizer.

    @property
    def gradient_accumulation_steps(self) -> int | None:
        """How many batches the inner optimizer sums, or `None`."""
        inner = getattr(self, "inner_optimizer", None)
        return getattr(inner, "gradient_accumulation_steps", None)

    @gradient_accumulation_steps.setter
    def gradient_accumulation_steps(self, value: Any) -> None:
        if value is not None:
            raise ValueError(
                "`gradient_accumulation_steps` must be set on the inner "
                f"optimizer. Received: {value!r} for {type(self).__name__}."
            )

    @property
    def loss_scale_factor(self) -> float | None:
        """By what the inner optimizer divides the gradients, or `None`."""
        inner = getattr(self, "inner_optimizer", None)
        return getattr(inner, "loss_scale_factor", None)

    @loss_scale_factor.setter
    def loss_scale_factor(self, value: Any) -> None:
        inner = getattr(self, "inner_optimizer", None)
        if inner is not None:
            inner.loss_scale_factor = value

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Set all `variables`."""
        for variable, value in zip(self.variables, weights, strict=True):
            variable.assign(value)

    def finalize_variable_values(self, var_list: Any) -> None:
        """Let the inner optimizer put its averages of weights in place."""
        self.inner_optimizer.finalize_variable_values(var_list)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        serialize = keras.saving.serialize_keras_object
        return {
            "inner_optimizer": serialize(self.inner_optimizer),
            "name": self.name,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> "GradientRule":
        """Return the rule that `get_config` described."""
        inner_optimizer = keras.saving.deserialize_keras_object(
            config["inner_optimizer"], custom_objects=custom_objects
        )
        return cls(**{**config, "inner_optimizer": inner_optimizer})


def critical_gradients(
    gradients: Sequence[Any], weights: Sequence[Any], noise_rate: float
) -> list[Any]:
    """Return gradients that move the critical weights alone, and more slowly.

    `g'_j = (1 - noise_rate) * g_j` if weight `w_j` is critical, else 0

    Of the `m` weights in all tensors of rank 2 or 4 (dense layers,
    embeddings, convolutions), the `floor((1 - noise_rate) * m)` with the
    largest `|w_j * g_j|` are critical, and all that equal the last of them. A
    gradient that is not finite counts as critical, and is seen. Tensors of
    other ranks, such as biases and those of normalisations, keep theirs.

    Args:
        gradients: Tensors, `None` where there is none.
        weights: Tensors or variables of the same shapes.
        noise_rate: In [0, 1). 0 changes nothing.

    Returns:
        List of tensors (and `None`s) like `gradients`.

    Example:

    >>> critical_gradients([[[4.0, 1.0]]], [[[1.0, 2.0]]], 0.5)[0]
    [[2.0, 0.0]]

    Reference:
        Xia et al., 2021, "Robust early-learning: Hindering the memorization
        of noisy labels", section 3. https://openreview.net/forum?id=Eql5b1_hTE4
    """
    result = list(gradients)
    if noise_rate == 0:
        return result
    criticality = {}
    for i, (gradient, weight) in enumerate(
        zip(gradients, weights, strict=True)
    ):
        if gradient is None:
            continue
        # The sum is dense, where those of embeddings are not on TensorFlow.
        result[i] = ops.add(gradient, 0.0)
        if len(result[i].shape) in (2, 4):
            value = ops.abs(_full(weight) * _full(result[i]))
            # Sorts disagree on where NaN belongs.
            criticality[i] = ops.where(ops.isnan(value), math.inf, value)
    # Weights of several precisions are compared in the largest.
    dtypes = {value.dtype for value in criticality.values()}
    criticality = {
        i: ops.cast(value, keras.backend.result_type(*dtypes))
        for i, value in criticality.items()
    }
    sizes = [math.prod(value.shape) for value in criticality.values()]
    # Else 0.8 of ten would be seven: 1 - 0.2 is a little less than it.
    num_critical = math.floor((1.0 - noise_rate) * sum(sizes) + 1e-6)
    if num_critical == 0:
        threshold = math.inf
    else:
        everything = ops.concatenate(
            [ops.reshape(value, (-1,)) for value in criticality.values()]
        )
        threshold = ops.sort(everything)[sum(sizes) - num_critical]
    for i, value in criticality.items():
        result[i] = ops.where(
            value < threshold,
            ops.zeros_like(result[i]),
            (1.0 - noise_rate) * result[i],
        )
    return result


def _full(values: Any) -> Any:
    """Return a tensor of float32 or more: products underflow in half."""
    values = ops.convert_to_tensor(values)
    dtype = keras.backend.standardize_dtype(values.dtype)
    return ops.cast(values, keras.backend.result_type(dtype, "float32"))


@keras.saving.register_keras_serializable(package="keras_smkd")
class CriticalGradients(GradientRule):
    """CDR: weights that matter little for this batch take no gradient.

    Each batch, `critical_gradients` multiplies the gradients of the critical
    weights by `1 - noise_rate` and sets the others to 0. On those, only the
    inner optimizer's own movement acts, such as its weight decay, by which
    they shrink: give it one.

    The bar is one for all weights that the optimizer trains. One optimizer
    for several peers couples them; a list of one per peer does not. Each step
    sorts as many numbers as there are weights.

    Args:
        inner_optimizer: A Keras optimizer, or its name; in the paper
            `SGD(0.01, momentum=0.9, weight_decay=0.001)`.
        noise_rate: Share of the labels that are wrong, in [0, 1).
        name: As for `keras.optimizers.Optimizer`.

    Raises:
        TypeError: if `inner_optimizer` is no optimizer, or `noise_rate` no
            number.
        ValueError: if `noise_rate` is not in [0, 1), or `inner_optimizer` a
            rule or a `LossScaleOptimizer`.

    Example:

    ```python
    optimizer = keras_smkd.optimizers.CriticalGradients(
        keras.optimizers.SGD(0.01, momentum=0.9, weight_decay=0.001),
        noise_rate=0.2,
    )
    model.compile(optimizer, "sparse_categorical_crossentropy")
    ```

    Reference:
        Xia et al., 2021, "Robust early-learning: Hindering the memorization
        of noisy labels", section 3. https://openreview.net/forum?id=Eql5b1_hTE4
    """

    def __init__(
        self, inner_optimizer: Any, noise_rate: float, name: str | None = None
    ) -> None:
        rate = _checks.number("noise_rate", noise_rate)
        if not 0.0 <= rate < 1.0:
            advice = " Give a fraction, not a percentage." if rate > 1 else ""
            raise ValueError(
                "`noise_rate` must be in [0, 1). "
                f"Received: noise_rate={noise_rate!r}.{advice}"
            )
        super().__init__(inner_optimizer, name=name)
        self.noise_rate = rate

    def changed(
        self, gradients: Sequence[Any], variables: Sequence[Any]
    ) -> list[Any]:
        """Return `critical_gradients` of them."""
        return critical_gradients(gradients, variables, self.noise_rate)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "noise_rate": self.noise_rate}
