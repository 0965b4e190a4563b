"""The gate whose curriculum a network has learned, as in MentorNet."""

from typing import Any

import keras
from keras import ops

from keras_smkd.batch import Batch
from keras_smkd.gates.percentile import RunningPercentile
from keras_smkd.gates.percentile import epoch_percent

NUM_FEATURES = 4


@keras.saving.register_keras_serializable(package="keras_smkd")
class LearnedCurriculum(RunningPercentile):
    """Weigh each label by what a trained network says of its loss.

    `g = mentor([l, d, 0, percent])` for each learner, where `l` is the loss,
    `d` by how much it is above a running percentile of the learner's losses,
    which has this batch in it, 0 stands for the label, and `percent` is the
    whole percents of training done, 0 to 99 (`curriculum_features`).

    The mentor is frozen here, for good: `trainable` of the model that it
    weighs for does not thaw it, and it runs in inference mode. Files of the
    model hold its weights. It cannot be used with a head.

    Args:
        mentor: A built `keras.Model` from `(batch, 4)` to `(batch, 1)`, a
            weight in [0, 1], such as `mentor_network()`, trained.
        percentile: Of the losses in a batch, in [0, 1].
        decay: Share of the past in the running average of it, in [0, 1).

    Raises:
        TypeError: if the mentor is no `keras.Model`.
        ValueError: if it is not built, or of other shapes.

    Example:

    ```python
    mentor = keras_smkd.gates.mentor_network()
    mentor.compile("adam", "binary_crossentropy")
    mentor.fit(features, label_is_right)
    model = keras_smkd.PeerLearning(
        [peer], gate=keras_smkd.gates.LearnedCurriculum(mentor)
    )
    ```

    Reference:
        Jiang et al., 2018, "MentorNet: Learning Data-Driven Curriculum for
        Very Deep Neural Networks on Corrupted Labels".
        https://arxiv.org/abs/1712.05055
    """

    needs_progress = True

    def __init__(
        self,
        mentor: keras.Model,
        percentile: float = 0.7,
        decay: float = 0.5,
    ) -> None:
        super().__init__(percentile, decay)
        if not isinstance(mentor, keras.Model):
            raise TypeError(
                "`mentor` must be a `keras.Model`. "
                f"Received: mentor={mentor!r}."
            )
        if not mentor.built:
            raise ValueError(
                "`mentor` must be built, and trained. "
                f"Received: {mentor.name!r}, which is not built."
            )
        shapes = tuple(mentor.input_shape), tuple(mentor.output_shape)
        if (shapes[0][1:], shapes[1][1:]) != ((NUM_FEATURES,), (1,)):
            raise ValueError(
                f"`mentor` must be from (batch, {NUM_FEATURES}) to (batch, "
                f"1). Received: {mentor.name!r} from {shapes[0]} to "
                f"{shapes[1]}."
            )
        mentor.trainable = False
        self.mentor = mentor

    @property
    def trainable(self) -> bool:
        """False, whatever it is set to."""
        return False

    @trainable.setter
    def trainable(self, value: bool) -> None:
        del value  # Setting it on the model of peers must not thaw the mentor.

    def __call__(self, batch: Batch) -> Any:
        """Return the weight of each example's label for each learner.

        Args:
            batch: With `losses` and `progress`.

        Returns:
            `(batch, learners)`, no gradient.
        """
        losses, differences = self.differences(batch)
        features = curriculum_features(
            losses, differences, batch.needed("progress", self)
        )
        weights = self.mentor(
            ops.reshape(features, (-1, NUM_FEATURES)), training=False
        )
        weights = ops.reshape(weights, (-1, losses.shape[1]))
        return ops.stop_gradient(ops.cast(weights, losses.dtype))


def curriculum_features(losses: Any, differences: Any, progress: Any) -> Any:
    """Return what a mentor sees of losses.

    Args:
        losses: Tensor of any shape.
        differences: The same shape, how far above the percentile they are.
        progress: Tensor in [0, 1], the same shape or one for all.

    Returns:
        `(..., 4)`: loss, difference, 0, whole percents of training done.
    """
    percent = ops.cast(epoch_percent(progress), losses.dtype)
    zero = ops.zeros_like(losses)
    return ops.stack([losses, differences, zero, zero + percent], axis=-1)


def mentor_network() -> keras.Model:
    """Return the paper's mentor, not trained yet.

    From `(batch, 4)`, as `curriculum_features` makes them, to `(batch, 1)`
    in [0, 1]. Loss and difference are read one after the other by a
    bidirectional LSTM of one unit; beside it stand the embeddings of the
    label (2 numbers) and of the percent (5, as they are drawn, not trained);
    then a dense layer of 20 units.
    """
    layers = keras.layers
    inputs = keras.Input((NUM_FEATURES,))
    pair = layers.Reshape((2, 1))(inputs[:, :2])
    joined = layers.Concatenate()(
        [
            layers.Embedding(2, 2)(inputs[:, 2]),
            layers.Embedding(100, 5, trainable=False)(inputs[:, 3]),
            layers.Bidirectional(layers.LSTM(1))(pair),
        ]
    )
    hidden = layers.Dense(20, activation="tanh")(joined)
    outputs = layers.Dense(1, activation="sigmoid", dtype="float32")(hidden)
    return keras.Model(inputs, outputs, name="mentor")
