"""Teachers: trained networks that only give knowledge."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_smkd import _checks
from keras_smkd import functional
from keras_smkd._frozen import FrozenPart
from keras_smkd._frozen import known
from keras_smkd.batch import Batch
from keras_smkd.batch import Knowledge
from keras_smkd.batch import to_all

COMBINATIONS = ("mean", "mean_logits")


@keras.saving.register_keras_serializable(package="keras_smkd")
class Teacher(FrozenPart):
    """What one trained network or several predict; all learners learn it.

    The networks are frozen here, for good: `trainable` of the model that they
    teach in does not thaw them, they run in inference mode, and no optimizer
    sees their weights.

    A `.keras` file of the model holds their weights, so that it can be loaded
    and trained on. A file of weights alone (`save_weights`, most checkpoints)
    holds only a digest of them: it can be loaded into a model with the same
    teacher, and one with another is refused.

    Args:
        model: A built `keras.Model` with the learners' inputs and classes, or
            a list of such.
        combine: What several say: `None` for each as a source of its own,
            `"mean"` for the mean of their probabilities, `"mean_logits"` for
            that of their logits.
        from_logits: Whether they put out logits, or probabilities.

    Raises:
        TypeError: if one is no `keras.Model`.
        ValueError: if one is not built; when the model of peers is built, if
            its inputs or classes are not theirs, or it shares weights with
            one of them.

    Example:

    ```python
    student = keras_smkd.PeerLearning(
        [peer],
        knowledge=keras_smkd.knowledge.Teacher(teacher),
        divergence=keras_smkd.divergences.KullbackLeibler(4.0),
        supervised_weight=0.1,
        distillation_weight=0.9,
    )
    ```

    Reference:
        Hinton et al., 2015, "Distilling the Knowledge in a Neural Network".
        https://arxiv.org/abs/1503.02531
    """

    def __init__(
        self,
        model: keras.Model | Sequence[keras.Model],
        combine: str | None = None,
        from_logits: bool = True,
    ) -> None:
        super().__init__("model", model)
        if combine is not None:
            _checks.one_of("combine", combine, COMBINATIONS)
        self.combine = combine
        self.from_logits = _checks.boolean("from_logits", from_logits)

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        return {
            "model": [serialize(model) for model in self.models()],
            "combine": self.combine,
            "from_logits": self.from_logits,
        }

    def __repr__(self) -> str:
        names = [model.name for model in self.models()]
        return f"{type(self).__name__}({names}, combine={self.combine!r})"

    def prepare(self, peers: Sequence[keras.Model], num_classes: int) -> None:
        """Check that the teachers fit the peers, and are not among them.

        Raises:
            ValueError: if they do not, or are.
        """
        self.check_apart(peers)
        self.check_inputs(peers)
        for teacher in self.models():
            shape = known(teacher, "output_shape")
            if shape is not None and tuple(shape)[1:] != (num_classes,):
                raise ValueError(
                    f"`model` of a teacher must have the peers' {num_classes} "
                    f"classes. Received: {teacher.name!r} with outputs of "
                    f"shape {shape}."
                )

    def __call__(self, batch: Batch) -> Knowledge:
        """Return what the teachers predict, from one source or several.

        Args:
            batch: With `x`.
        """
        inputs = batch.needed("x", self)
        logits = functional.logits(
            ops.stack(
                [
                    functional.at_least_float32(model(inputs, training=False))
                    for model in self.models()
                ],
                axis=1,
            ),
            self.from_logits,
        )
        logits = ops.stop_gradient(logits)
        if self.combine == "mean_logits":
            logits = ops.mean(logits, axis=1, keepdims=True)
        elif self.combine == "mean":
            log_probs = functional.log_probabilities(logits)
            count = ops.cast(log_probs.shape[1], log_probs.dtype)
            logits = ops.logsumexp(log_probs, axis=1, keepdims=True) - ops.log(
                count
            )
        return Knowledge(
            logits=logits, routes=to_all(batch.num_learners, logits.shape[1])
        )
