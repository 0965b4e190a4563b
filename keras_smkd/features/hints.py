"""Hints: a teacher's inner layer teaches one of the peers'."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_smkd import _checks
from keras_smkd import functional
from keras_smkd._frozen import FrozenPart
from keras_smkd.batch import Batch
from keras_smkd.features.recording import checked_names
from keras_smkd.features.recording import recorder
from keras_smkd.features.recording import shapes_of
from keras_smkd.features.recording import tap_key

REDUCTIONS = ("sum", "mean")
Shape = tuple[int | None, ...]


def hint_loss(student: Any, teacher: Any, reduction: str = "sum") -> Any:
    """Return half the squared distance of two features, for each example.

    `"sum"`: `1/2 * sum_j (s_j - t_j)^2` over all units or over all channels
    at all positions. `"mean"`: the sum over the channels alone, and the mean
    over the positions, so that a hint's weight does not depend on the size of
    a map. Both are the same for dense features.

    Args:
        student: `(batch, units)` or `(batch, height, width, channels)`.
        teacher: The same shape.
        reduction: `"sum"` or `"mean"`.

    Returns:
        `(batch,)`.

    Example:

    >>> hint_loss([[1.0, 2.0]], [[0.0, 0.0]])
    [2.5]

    Reference:
        Romero et al., 2015, "FitNets: Hints for Thin Deep Nets", eq. 3
        (`"sum"`), and the authors' code (`"mean"`).
        https://arxiv.org/abs/1412.6550
    """
    _checks.one_of("reduction", reduction, REDUCTIONS)
    student = functional.at_least_float32(student)
    teacher = functional.at_least_float32(teacher)
    squares = 0.5 * ops.sum(ops.square(student - teacher), axis=-1)
    positions = tuple(range(1, len(squares.shape)))
    if not positions:
        return squares
    total = ops.sum(squares, axis=positions)
    if reduction == "sum":
        return total
    count = 1
    for axis in positions:
        count = count * ops.shape(squares)[axis]
    return total / ops.cast(count, total.dtype)


@keras.saving.register_keras_serializable(package="keras_smkd")
class Hint(FrozenPart):
    """FitNets, stage 1: a teacher's inner layer is the target of a peer's.

    `sum_i 1/2 * || regressor_i(features_i(x)) - t(x) ||^2`

    `features_i` is what the layer puts out in peer `i`, in the pass that makes
    its prediction; `t` what the teacher's layer does. The regressor matches
    their shapes and is trained with the peer, by the first of several
    optimizers. By default it is what the paper has: of maps, a convolution
    without padding, as large as it takes to get from the peer's height and
    width to the teacher's; of dense features a dense layer.

    The teacher is frozen, called in inference mode and no further than its
    layer. A `.keras` file of the model holds its weights, other files a digest
    of them, as with `keras_smkd.knowledge.Teacher`.

    With `supervised_weight=0` and no knowledge it is the paper's first stage,
    `keras_smkd.methods.fitnets` both.

    Args:
        student_layer: Name of the layer, the same in every peer, or a list of
            one name for each.
        teacher: A built `keras.Model` with the peers' inputs: functional, or
            a `keras.Sequential`.
        teacher_layer: Name of its layer.
        regressor: A Keras layer or model, of which each peer gets one of its
            own made of its configuration, or `None` for the default.
        reduction: As in `hint_loss`.

    Raises:
        TypeError: if an argument is not of its kind.
        ValueError: if a layer is not there; when the model is built, if the
            regressor's outputs do not have the teacher's shape, the default
            cannot, or the teacher has other inputs or shares weights with a
            peer.

    Example:

    ```python
    model = keras_smkd.PeerLearning(
        [thin],
        feature_loss=keras_smkd.features.Hint("block_2", wide, "block_1"),
        supervised_weight=0,
    )
    ```

    Reference:
        Romero et al., 2015, "FitNets: Hints for Thin Deep Nets", section 2.2.
        https://arxiv.org/abs/1412.6550
    """

    def __init__(
        self,
        student_layer: str | Sequence[str],
        teacher: keras.Model,
        teacher_layer: str,
        regressor: Any = None,
        reduction: str = "sum",
    ) -> None:
        super().__init__("teacher", teacher)
        if len(self.models()) > 1:
            raise TypeError(
                "`teacher` must be one `keras.Model`. "
                f"Received: {len(self.models())}."
            )
        self.student_layer = student_layer
        self.taps = checked_names(
            "student_layer",
            [student_layer]
            if isinstance(student_layer, str)
            else student_layer,
        )
        if regressor is not None and not isinstance(regressor, keras.Layer):
            raise TypeError(
                "`regressor` must be a Keras layer or None. "
                f"Received: regressor={regressor!r}."
            )
        self.teacher_layer = teacher_layer
        self.reduction = _checks.one_of("reduction", reduction, REDUCTIONS)
        # In closures: as attributes their weights would be saved, too.
        self._regressor = lambda: regressor
        (model,) = self.models()
        recorded = recorder(model, [teacher_layer])
        cut = keras.Model(recorded.input, recorded.output[1][0])
        self._target: Callable[[], keras.Model] = lambda: cut
        self.regressors: list[Any] = []

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        return {
            "student_layer": self.student_layer,
            "teacher": serialize(self.models()[0]),
            "teacher_layer": self.teacher_layer,
            "regressor": serialize(self._regressor()),
            "reduction": self.reduction,
        }

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.student_layer!r}, "
            f"{self.models()[0].name!r}, {self.teacher_layer!r})"
        )

    def prepare(self, peers: Sequence[keras.Model], num_classes: int) -> None:
        """Make the regressors, from the shapes of the features.

        Raises:
            ValueError: if shapes cannot be matched, or the teacher is a peer.
        """
        self.check_apart(peers)
        self.check_inputs(peers)
        target = tuple(self._target().output.shape)
        shapes = shapes_of(peers, self.taps)
        if self.regressors:
            return
        self.regressors = [
            self._matching(shape, target, i) for i, shape in enumerate(shapes)
        ]

    def _matching(self, shape: Shape, target: Shape, i: int) -> Any:
        """Return a built regressor from one shape to another."""
        given = self._regressor()
        if given is None:
            layer = default_regressor(shape, target, f"regressor_{i}")
        else:
            layer = type(given).from_config(given.get_config())
        if not layer.built:
            layer.build(shape)
        found = tuple(layer.compute_output_shape(shape))
        if found[1:] != target[1:]:
            raise ValueError(
                "`regressor` must give the shape of the teacher's layer. "
                f"Received: {layer.name!r} from {shape} to {found}, for "
                f"{self.teacher_layer!r} with {target}."
            )
        return layer

    def __call__(self, batch: Batch) -> Any:
        """Return the distances, summed over the peers.

        Args:
            batch: With `x` and `features`.

        Returns:
            `(batch,)`.
        """
        target = ops.stop_gradient(
            self._target()(batch.needed("x", self), training=False)
        )
        features = batch.needed("features", self)[tap_key(self.taps)]
        return sum(
            hint_loss(
                regressor(own, training=batch.training), target, self.reduction
            )
            for regressor, own in zip(self.regressors, features, strict=True)
        )


def default_regressor(shape: Shape, target: Shape, name: str) -> Any:
    """Return the layer, built, that takes a peer's features to a teacher's.

    Args:
        shape: `(batch, units)` or `(batch, height, width, channels)`.
        target: The same kind of shape, of the teacher.
        name: Of the layer.

    Raises:
        ValueError: if the features are not of one kind, or the peer's map is
            smaller than the teacher's.
    """
    ranks = len(shape), len(target)
    layer: Any = None
    if ranks == (2, 2):
        layer = keras.layers.Dense(target[-1], name=name)
    elif ranks == (4, 4):
        sizes = [
            1 if own == wanted else (own or 0) - (wanted or own or 0) + 1
            for own, wanted in zip(shape[1:3], target[1:3], strict=True)
        ]
        if min(sizes) > 0:
            layer = keras.layers.Conv2D(
                target[-1],
                tuple(sizes),
                data_format="channels_last",
                name=name,
            )
    if layer is None:
        raise ValueError(
            "`regressor` must be given where features are not both dense, or "
            "both maps of which the peer's is as large as the teacher's. "
            f"Received: a peer's of {shape} and a teacher's of {target}."
        )
    layer.build(shape)
    return layer
