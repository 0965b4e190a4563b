"""From the arguments of `compile` to what the model of peers works with.

The loss becomes a function of one value per example, and a list of optimizers
becomes one optimizer that routes each variable to its peer's.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import keras

# These take integer labels; every other loss of Keras takes distributions.
_INTEGER_LABEL_LOSSES = (
    "SparseCategoricalCrossentropy",
    "CategoricalGeneralizedCrossEntropy",
    "sparse_categorical_crossentropy",
    "categorical_generalized_cross_entropy",
)
_CROSS_ENTROPIES = ("categoricalcrossentropy", "sparsecategoricalcrossentropy")


class PerExampleLoss:
    """A compiled Keras loss, as `(labels, outputs) -> (batch,)`.

    `is_cross_entropy` says whether it is `-sum_c y_c log p_c` of logits, which
    log-probabilities that are there already give at once.

    Args:
        loss: A string, a `keras.losses.Loss` or a function
            `(y_true, y_pred) -> (batch,)`.
        from_logits: What the peers put out.
        soft_targets: Whether targets are distributions because the labels are
            corrected. A sparse categorical cross entropy then becomes the
            categorical one, which is the same loss for one-hot labels.
    """

    def __init__(self, loss: Any, from_logits: bool, soft_targets: bool):
        loss = _resolve_loss(loss, from_logits)
        self.takes_distributions = _is_keras(loss) and (
            loss_name(loss) not in _INTEGER_LABEL_LOSSES
        )
        self.is_sparse = _short_name(loss) == "sparsecategoricalcrossentropy"
        integers_only = loss_name(loss) in _INTEGER_LABEL_LOSSES
        if soft_targets and integers_only and not self.is_sparse:
            raise ValueError(
                "`loss` must take distributions, because the labels are "
                f"corrected by `target`. Received: {loss_name(loss)}, which "
                "takes integer labels."
            )
        if self.is_sparse and soft_targets:
            loss = keras.losses.CategoricalCrossentropy(
                from_logits=from_logits, reduction=None
            )
        self.name = loss_name(loss)
        self.is_cross_entropy = from_logits and _is_cross_entropy(loss)
        self._values = loss.call if isinstance(loss, keras.Loss) else loss

    def check_labels(self, labels: Any, num_classes: int) -> None:
        """Raise if the labels' form is not one that the loss can take."""
        is_distribution = len(labels.shape) == 2 and labels.shape[-1] != 1
        if is_distribution and self.is_sparse:
            raise ValueError(
                "Labels must be integers of shape (batch,) for the loss "
                "'sparse_categorical_crossentropy'. Received: labels of shape "
                f"{tuple(labels.shape)}. For one-hot or soft labels compile "
                "with 'categorical_crossentropy'."
            )
        if not is_distribution and self.takes_distributions:
            raise ValueError(
                f"Labels must have shape (batch, {num_classes}) for the loss "
                f"'{self.name}'. Received: labels of shape "
                f"{tuple(labels.shape)}. For integer labels compile with "
                "'sparse_categorical_crossentropy'."
            )

    def __call__(self, labels: Any, outputs: Any) -> Any:
        values = self._values(labels, outputs)
        if len(values.shape) != 1:
            raise ValueError(
                f"The loss '{self.name}' must give one value per example, "
                f"shape (batch,). Received: shape {tuple(values.shape)}."
            )
        return values


def _resolve_loss(loss: Any, from_logits: bool) -> Any:
    """Return a loss object or function that agrees with `from_logits`."""
    if loss is None or isinstance(loss, (list, tuple, dict)):
        raise ValueError(
            "`loss` must be one loss for all peers: a string, a "
            f"`keras.losses.Loss` or a function. Received: loss={loss!r}."
        )
    given = loss
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
        takes = loss.__init__ if isinstance(loss, keras.Loss) else loss
        if "from_logits" in inspect.signature(takes).parameters:
            loss = _with_from_logits(loss, from_logits)
        elif from_logits:
            raise ValueError(_no_logits_message(given))
        return loss
    if not isinstance(loss, keras.Loss):
        return loss
    if loss.reduction not in ("sum_over_batch_size", "mean", "none", None):
        raise ValueError(
            "`loss` must have the reduction 'sum_over_batch_size' or None: "
            "the objective is the mean over the batch. "
            f"Received: reduction={loss.reduction!r}."
        )
    config = loss.get_config()
    if config.get("ignore_class") is not None:
        raise ValueError(
            "`loss` must not ignore a class. Received: "
            f"ignore_class={config['ignore_class']}. Give these examples "
            "`sample_weight` 0 instead."
        )
    if "from_logits" in config:
        if bool(config["from_logits"]) != from_logits:
            raise ValueError(
                "`from_logits` of the model and of the loss must agree. "
                f"Received: from_logits={from_logits} for the model, "
                f"from_logits={config['from_logits']} for the loss "
                f"{loss_name(loss)}."
            )
    elif from_logits:
        raise ValueError(_no_logits_message(loss_name(loss)))
    return loss


def _with_from_logits(loss: Any, from_logits: bool) -> Any:
    if isinstance(loss, keras.Loss):
        config = loss.get_config()
        return type(loss).from_config({**config, "from_logits": from_logits})

    def values(y_true: Any, y_pred: Any) -> Any:
        return loss(y_true, y_pred, from_logits=from_logits)

    values.__name__ = loss.__name__
    values.__module__ = loss.__module__
    return values


def _no_logits_message(name: str) -> str:
    return (
        f"The loss {name!r} takes probabilities, but `from_logits` is True. "
        "End the peers in a softmax and set `from_logits=False`, use a loss "
        "with a `from_logits` argument, or give a function: it gets the "
        "outputs as they are."
    )


def loss_name(loss: Any) -> str:
    """Return what a loss object or function is called."""
    if isinstance(loss, keras.Loss):
        return type(loss).__name__
    return getattr(loss, "__name__", type(loss).__name__)


def _short_name(loss: Any) -> str:
    """Return a loss's name, the same for its class and its function."""
    return loss_name(loss).lower().replace("_", "")


def _is_cross_entropy(loss: Any) -> bool:
    """Return whether a loss is Keras's `-sum_c y_c log p_c`, and no more."""
    config = loss.get_config() if isinstance(loss, keras.Loss) else {}
    return (
        _is_keras(loss)
        and _short_name(loss) in _CROSS_ENTROPIES
        and not config.get("label_smoothing")
        and config.get("axis", -1) == -1
    )


def _is_keras(loss: Any) -> bool:
    kind = type(loss) if isinstance(loss, keras.Loss) else loss
    return getattr(kind, "__module__", "").startswith("keras.")


def optimizer_for_peers(optimizer: Any, peers: Sequence[keras.Model]) -> Any:
    """Return one Keras optimizer from one, or from a list of one per peer.

    Args:
        optimizer: An optimizer, its name, or a list of these.
        peers: The peers; asked for their trainable variables only when the
            optimizer is built, since they may not be built yet.

    Raises:
        ValueError: if a list has another length than the peers, contains the
            same object twice, optimizers that route or scale themselves, or
            different accumulation steps.
    """
    if not isinstance(optimizer, (list, tuple)):
        return keras.optimizers.get(optimizer)
    if len(optimizer) != len(peers):
        raise ValueError(
            "`optimizer` must be one optimizer or a list of one per peer. "
            f"Received: {len(optimizer)} optimizers for {len(peers)} peers."
        )
    optimizers = [keras.optimizers.get(item) for item in optimizer]
    if len({id(item) for item in optimizers}) != len(optimizers):
        raise ValueError(
            "`optimizer` must be a list of different objects, one per peer. "
            f"Received: optimizer={optimizer!r}, with one object twice."
        )
    wrappers = (
        keras.optimizers.LossScaleOptimizer,
        keras.optimizers.MultiOptimizer,
    )
    for item in optimizers:
        if isinstance(item, wrappers):
            raise ValueError(
                "`optimizer` must be a list of plain optimizers. Received: a "
                f"{type(item).__name__} in it; loss scaling is added around "
                "the list by `compile`."
            )
    steps = {item.gradient_accumulation_steps for item in optimizers}
    if len(steps) > 1:
        raise ValueError(
            "`optimizer` must be a list of optimizers with the same "
            f"gradient_accumulation_steps. Received: {sorted(steps, key=str)}."
        )

    routes: dict[int, Any] = {}

    def route(variable: Any) -> Any:
        if not routes:
            for item, peer in zip(optimizers, peers, strict=True):
                routes.update((id(v), item) for v in peer.trainable_variables)
        # A variable of no peer (of a loss or a target) goes with the first.
        return routes.get(id(variable), optimizers[0])

    return keras.optimizers.MultiOptimizer(route)


def portable(config: Any) -> Any:
    """Return a configuration that the other backends can read, too.

    On torch, Keras names optimizers by modules that only exist there.
    """
    if isinstance(config, (list, tuple)):
        return [portable(item) for item in config]
    if not isinstance(config, dict):
        return config
    config = {name: portable(value) for name, value in config.items()}
    if str(config.get("module")).startswith("keras.src.backend.torch."):
        config["module"] = "keras.optimizers"
    return config
