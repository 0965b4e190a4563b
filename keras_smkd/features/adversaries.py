"""Adversarial distillation of feature maps: peers' maps become alike."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_smkd import _checks
from keras_smkd import functional
from keras_smkd._config import StatefulPart
from keras_smkd.batch import Batch
from keras_smkd.features.recording import checked_names
from keras_smkd.features.recording import shapes_of
from keras_smkd.features.recording import tap_key

Shape = tuple[int | None, ...]


def discriminator_loss(of_other: Any, of_own: Any) -> Any:
    """Return what a discriminator is to make small, by least squares.

    `(1 - d(other))^2 + d(own)^2`

    Args:
        of_other: Its scores of the other network's features, any shape.
        of_own: Its scores of its own network's, the same shape.

    Returns:
        The same shape.

    Example:

    >>> discriminator_loss([1.0, 0.5], [0.0, 0.5])
    [0.0, 0.5]

    Reference:
        Mao et al., 2017, "Least Squares Generative Adversarial Networks",
        eq. 2. https://arxiv.org/abs/1611.04076
    """
    return ops.square(1.0 - ops.convert_to_tensor(of_other)) + ops.square(
        of_own
    )


def fooling_loss(of_own: Any) -> Any:
    """Return what a network is to make small: `(1 - d(own))^2`.

    Args:
        of_own: Its discriminator's scores of its features, any shape.

    Returns:
        The same shape.

    Example:

    >>> fooling_loss([1.0, 0.5])
    [0.0, 0.25]
    """
    return ops.square(1.0 - ops.convert_to_tensor(of_own))


@keras.saving.register_keras_serializable(package="keras_smkd")
class FeatureAdversaries(StatefulPart):
    """AFD: each peer's features are to pass for those of the next peer.

    Our reading of the paper, whose authors' code could not be found. Peer `k`
    has features `m_k = transfer_k(features_k)` and a discriminator `d_k` that
    tells the next peer's features (the first's after the last) from its own:

    `sum_k (1 - d_k(sg(m_next)))^2 + d_k(sg(m_k))^2 + (1 - sg(d_k)(m_k))^2`

    where `sg` lets no gradient through. So one backward pass trains both
    sides: the discriminators by the first two terms alone, the peers and
    their transfers by the third alone.

    A transfer is a 3x3 convolution, batch normalisation and ReLU, a
    discriminator a 3x3 convolution, leaky ReLU, the mean over height and
    width and a linear unit; of dense features, dense layers stand in for the
    convolutions. All are trained with the peers, by the first of several
    optimizers, while the paper has one of their own for them.

    Args:
        tap: Name of the layer whose output is compared, the same in every
            peer, or a list of one name for each.
        filters: Number of channels (or units) of `m_k`; by default as many as
            the first peer's features have.

    Raises:
        TypeError: if `tap` is no name, or `filters` no integer.
        ValueError: if `filters < 1`; when the model is built, if there are
            fewer than two peers, a layer is not there, or features are not
            all dense or all maps of one height and width.

    Example:

    ```python
    model = keras_smkd.PeerLearning(
        [peer_a, peer_b],
        knowledge="peers",
        feature_loss=keras_smkd.features.FeatureAdversaries("maps"),
    )
    ```

    Reference:
        Chung et al., 2020, "Feature-map-level Online Adversarial Knowledge
        Distillation", section 3. https://arxiv.org/abs/2002.01775
    """

    def __init__(
        self, tap: str | Sequence[str], filters: int | None = None
    ) -> None:
        super().__init__()
        self.tap = tap
        self.taps = checked_names("tap", [tap] if isinstance(tap, str) else tap)
        if filters is not None:
            filters = _checks.integer("filters", filters, minimum=1)
        self.filters = filters
        self.transfers: list[Any] = []
        self.discriminators: list[Any] = []

    def prepare(self, peers: Sequence[keras.Model], num_classes: int) -> None:
        """Make transfers and discriminators, from the features' shapes.

        Raises:
            ValueError: if there is one peer, or the features do not fit.
        """
        if len(peers) < 2:
            raise ValueError(
                f"`feature_loss` must have two peers or more to compare, for "
                f"{type(self).__name__}. Received: {len(peers)}."
            )
        shapes = shapes_of(peers, self.taps)
        for shape in shapes:
            fits = len(shape) in (2, 4) and len(shape) == len(shapes[0])
            if not fits or _checks.shapes_differ(shape[:-1], shapes[0][:-1]):
                raise ValueError(
                    "`tap` must name layers that put out (batch, units) in "
                    "all peers, or (batch, height, width, channels) of one "
                    f"height and width. Received: shapes {shapes}."
                )
        if self.transfers:
            return
        filters = self.filters or int(shapes[0][-1] or 1)
        self.transfers = [_transfer(shape, filters) for shape in shapes]
        self.discriminators = [
            _discriminator((*shape[:-1], filters), filters) for shape in shapes
        ]

    def __call__(self, batch: Batch) -> Any:
        """Return the losses of both sides, summed over the peers.

        Args:
            batch: With `features`.

        Returns:
            `(batch,)`.
        """
        features = batch.needed("features", self)[tap_key(self.taps)]
        maps = [
            transfer(own, training=batch.training)
            for transfer, own in zip(self.transfers, features, strict=True)
        ]
        total: Any = 0.0
        for k, discriminator in enumerate(self.discriminators):
            own, other = maps[k], maps[(k + 1) % len(maps)]
            # Read once: TensorFlow may run a second read, whose value no
            # gradient depends on, after the optimizer's update.
            weights = [
                ops.copy(variable)
                for variable in discriminator.trainable_variables
            ]
            constants = [ops.stop_gradient(weight) for weight in weights]
            telling = discriminator_loss(
                _scores(discriminator, weights, ops.stop_gradient(other)),
                _scores(discriminator, weights, ops.stop_gradient(own)),
            )
            fooling = fooling_loss(_scores(discriminator, constants, own))
            total = total + telling + fooling
        return total


def _scores(layer: keras.Layer, weights: list[Any], inputs: Any) -> Any:
    outputs, _ = layer.stateless_call(
        weights, [v.value for v in layer.non_trainable_variables], inputs
    )
    return functional.at_least_float32(outputs)[:, 0]


def _mixing(shape: Shape, filters: int, **kwargs: Any) -> Any:
    """Return the layer that mixes channels: of maps, 3x3."""
    if len(shape) == 2:
        return keras.layers.Dense(filters, **kwargs)
    return keras.layers.Conv2D(
        filters, 3, padding="same", data_format="channels_last", **kwargs
    )


def _transfer(shape: Shape, filters: int) -> Any:
    network = keras.Sequential(
        [
            _mixing(shape, filters, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
        ]
    )
    network.build(shape)
    return network


def _discriminator(shape: Shape, filters: int) -> Any:
    pooling = [] if len(shape) == 2 else [_mean_of_positions()]
    network = keras.Sequential(
        [
            _mixing(shape, filters),
            keras.layers.LeakyReLU(0.2),
            *pooling,
            # Scores in full precision, also among layers of half.
            keras.layers.Dense(1, dtype="float32"),
        ]
    )
    network.build(shape)
    return network


def _mean_of_positions() -> Any:
    return keras.layers.GlobalAveragePooling2D(data_format="channels_last")
