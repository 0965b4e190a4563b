"""Heads: one more classifier, on the features of all peers."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_smkd import _checks
from keras_smkd.features.recording import checked_names
from keras_smkd.features.recording import shapes_of

Shape = tuple[int | None, ...]


class FeatureHead(keras.layers.Layer):
    """A classifier of what the same layer puts out in every peer.

    A subclass makes its layers in `make_layers` and calls them in `call`.

    Args:
        tap: Name of the layer, the same in every peer, or a list of one name
            for each.
        **kwargs: As for `keras.layers.Layer`.

    Raises:
        TypeError: if `tap` is neither.
    """

    def __init__(self, tap: str | Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tap = tap if isinstance(tap, str) else checked_names("tap", tap)
        self.num_classes: int | None = None

    @property
    def taps(self) -> tuple[str, ...]:
        """The layers to tap: one name for all peers, or one for each."""
        return (self.tap,) if isinstance(self.tap, str) else self.tap

    def prepare(self, peers: Sequence[keras.Model], num_classes: int) -> None:
        """Make the weights, from the shapes of the peers' features.

        Nothing happens where they are there already and fit.

        Args:
            peers: The peers, built. They are not kept.
            num_classes: Number of classes.

        Raises:
            ValueError: if the layers are not there, their outputs do not fit
                together, or there are weights for others already.
        """
        shapes = shapes_of(peers, self.taps)
        if not self.built:
            self.num_classes = num_classes
            self.build(shapes)
            return
        if (num_classes, _widths(shapes)) != (self.num_classes, self.widths):
            raise ValueError(
                "`head` must be prepared once. Received: a "
                f"{type(self).__name__} for features of {self.widths} units "
                f"and {self.num_classes} classes, which now gets shapes "
                f"{shapes} and {num_classes} classes. Make a new one."
            )

    def build(self, features_shape: Any) -> None:
        """Make the weights, once the number of classes is known.

        Args:
            features_shape: List of shapes, one for each peer.

        Raises:
            ValueError: if it is not known, or the shapes do not fit together.
        """
        if self.num_classes is None:
            raise ValueError(
                f"{type(self).__name__} must know the number of classes before "
                "it is called. Received: none. Call `prepare(peers, "
                "num_classes)` first, as a model does with its `head`."
            )
        shapes = [tuple(shape) for shape in features_shape]
        self.widths = _widths(shapes)
        self.make_layers(shapes)
        # Logits in full precision, also among layers of half.
        self.classifier = keras.layers.Dense(
            self.num_classes, dtype=self.variable_dtype, name="classifier"
        )
        self.classifier.build((None, self.classifier_width(shapes)))

    def make_layers(self, shapes: list[Shape]) -> None:
        """Make and build the layers before the classifier.

        Args:
            shapes: Of each peer's features.

        Raises:
            ValueError: if the shapes do not fit together.
        """
        raise NotImplementedError

    def classifier_width(self, shapes: list[Shape]) -> int:
        """Return the number of units that the classifier sees.

        Args:
            shapes: Of each peer's features.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        tap = self.tap if isinstance(self.tap, str) else list(self.tap)
        return {**super().get_config(), "tap": tap}

    def get_build_config(self) -> dict[str, Any] | None:
        """Return what the weights were made for, which a file keeps."""
        config = super().get_build_config()
        return config and {**config, "num_classes": self.num_classes}

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Make the weights for what `get_build_config` described."""
        if config:
            self.num_classes = config["num_classes"]
            super().build_from_config(config)


@keras.saving.register_keras_serializable(package="keras_smkd")
class FeatureFusion(FeatureHead):
    """The fused classifier: peers' features, mixed by convolutions.

    Of maps `F_1 ... F_n`, `(batch, height, width, channels)`, channels last:

    `M = relu(norm(depthwise 3x3 of concat(F_1 ... F_n)))`

    `logits = dense(mean over height and width of relu(norm(1x1 of M)))`

    Of dense features, `(batch, units)`, a dense layer of `filters` units takes
    the place of both convolutions:
    `logits = dense(relu(norm(dense of concat(F_1 ... F_n))))`. All are without
    bias before a normalisation; the gradient flows on into the peers. Call it
    as `head(features, training=...)`.

    Args:
        tap: Name of the layer whose output is taken, the same in every peer,
            or a list of one name for each.
        filters: Number of channels of the 1x1 convolution (`C_f`), or of
            units; by default as many as the first peer's features have.
        **kwargs: As for `keras.layers.Layer`.

    Raises:
        TypeError: if `tap` is no name, or `filters` no integer.
        ValueError: if `filters < 1`; later, if the features are not all maps
            or all dense, or the maps differ in height or width.

    Example:

    >>> peers = [
    ...     keras.Sequential(
    ...         [
    ...             keras.Input((8, 8, 3)),
    ...             keras.layers.Conv2D(4, 3, name="maps"),
    ...             keras.layers.GlobalAveragePooling2D(),
    ...             keras.layers.Dense(10),
    ...         ]
    ...     )
    ...     for _ in range(2)
    ... ]
    >>> head = FeatureFusion("maps")
    >>> head.prepare(peers, num_classes=10)
    >>> maps = ops.ones((5, 6, 6, 4))
    >>> tuple(head([maps, maps], training=False).shape)
    (5, 10)

    Reference:
        Kim et al., 2019, "Feature Fusion for Online Mutual Knowledge
        Distillation", section 3. https://arxiv.org/abs/1904.09058
    """

    def __init__(
        self,
        tap: str | Sequence[str],
        filters: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(tap, **kwargs)
        if filters is not None:
            filters = _checks.integer("filters", filters, minimum=1)
        self.filters = filters

    def make_layers(self, shapes: list[Shape]) -> None:
        """Make and build the convolutions, or the dense layer."""
        _check_alike(shapes)
        total = sum(self.widths)
        filters = self.classifier_width(shapes)
        layers = keras.layers
        dtype = self.dtype_policy
        if len(shapes[0]) == 4:
            self.depthwise = layers.DepthwiseConv2D(
                3,
                padding="same",
                use_bias=False,
                data_format="channels_last",
                dtype=dtype,
                name="depthwise",
            )
            self.depthwise.build((*shapes[0][:-1], total))
            self.first_norm = layers.BatchNormalization(
                dtype=dtype, name="first_norm"
            )
            self.first_norm.build((*shapes[0][:-1], total))
            self.mixing = layers.Conv2D(
                filters,
                1,
                use_bias=False,
                data_format="channels_last",
                dtype=dtype,
                name="mixing",
            )
        else:
            self.depthwise = None
            self.mixing = layers.Dense(
                filters, use_bias=False, dtype=dtype, name="mixing"
            )
        self.mixing.build((*shapes[0][:-1], total))
        self.norm = layers.BatchNormalization(dtype=dtype, name="norm")
        self.norm.build((*shapes[0][:-1], filters))

    def classifier_width(self, shapes: list[Shape]) -> int:
        """Return the number of filters."""
        return self.filters or self.widths[0]

    def call(self, features: Any, training: bool | None = None) -> Any:
        """Return `(batch, classes)`, logits.

        Args:
            features: List of one tensor for each peer.
            training: Whether this is a training step.
        """
        fused = ops.concatenate(list(features), axis=-1)
        if self.depthwise is not None:
            fused = self.first_norm(self.depthwise(fused), training=training)
            fused = ops.relu(fused)
        fused = ops.relu(self.norm(self.mixing(fused), training=training))
        return self.classifier(_pooled(fused))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "filters": self.filters}


@keras.saving.register_keras_serializable(package="keras_smkd")
class FeatureConcatenation(FeatureHead):
    """The peer ensemble: a linear classifier of all peers' features.

    `logits = dense(concat(f_1 ... f_n))`, where `f_i` is what the layer puts
    out in peer `i`, averaged over height and width if it is a map. Peers' maps
    may differ in size. The gradient flows on into the peers. Call it as
    `head(features, training=...)`.

    Args:
        tap: Name of the layer whose output is taken, the same in every peer,
            or a list of one name for each.
        **kwargs: As for `keras.layers.Layer`.

    Raises:
        TypeError: if `tap` is no name; later
        ValueError: if a feature is neither `(batch, units)` nor
            `(batch, height, width, channels)`.

    Example:

    >>> peers = [
    ...     keras.Sequential(
    ...         [keras.Input((2,)), keras.layers.Dense(3, name="hidden")]
    ...     )
    ...     for _ in range(2)
    ... ]
    >>> head = FeatureConcatenation("hidden")
    >>> head.prepare(peers, num_classes=3)
    >>> head.classifier.kernel.assign(ops.ones((6, 3)))
    >>> head([ops.ones((1, 3)), 2 * ops.ones((1, 3))], training=False)
    [[9.0, 9.0, 9.0]]

    Reference:
        Wu and Gong, 2021, "Peer Collaborative Learning for Online Knowledge
        Distillation", section 3. https://arxiv.org/abs/2006.04147
    """

    def make_layers(self, shapes: list[Shape]) -> None:
        """Make nothing: there is only the classifier."""

    def classifier_width(self, shapes: list[Shape]) -> int:
        """Return the number of units of all peers."""
        return sum(self.widths)

    def call(self, features: Any, training: bool | None = None) -> Any:
        """Return `(batch, classes)`, logits.

        Args:
            features: List of one tensor for each peer.
            training: Without effect.
        """
        pooled = [_pooled(feature) for feature in features]
        return self.classifier(ops.concatenate(pooled, axis=-1))


def _pooled(feature: Any) -> Any:
    """Return the mean over height and width of a map, all else as it is."""
    return (
        ops.mean(feature, axis=(1, 2)) if len(feature.shape) == 4 else feature
    )


def _widths(shapes: list[Shape]) -> tuple[int, ...]:
    """Return the number of channels or units of each feature."""
    if not all(len(shape) in (2, 4) and shape[-1] for shape in shapes):
        raise ValueError(
            "`tap` must name layers that put out (batch, units) or (batch, "
            f"height, width, channels). Received: shapes {shapes}."
        )
    return tuple(int(shape[-1] or 0) for shape in shapes)


def _check_alike(shapes: list[Shape]) -> None:
    """Raise unless all features are maps of one size, or all are dense."""
    for shape in shapes:
        if len(shape) != len(shapes[0]):
            raise ValueError(
                "`tap` must name layers that put out maps in all peers, or "
                f"(batch, units) in all. Received: shapes {shapes[0]} and "
                f"{shape}."
            )
        if _checks.shapes_differ(shape[:-1], shapes[0][:-1]):
            raise ValueError(
                "`tap` must name layers whose maps have the same height and "
                f"width in all peers. Received: shapes {shapes[0]} and "
                f"{shape}. Tap layers of one size, or use "
                "`FeatureConcatenation`."
            )
