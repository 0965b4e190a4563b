"""Teachers: trained networks that only give knowledge."""

import contextlib
import contextvars
import hashlib
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_smkd import _checks
from keras_smkd import functional
from keras_smkd._config import StatefulPart
from keras_smkd.batch import Batch
from keras_smkd.batch import Knowledge
from keras_smkd.batch import to_all

COMBINATIONS = ("mean", "mean_logits")

# Whether the file that is being written shall hold the teachers' weights.
_WHOLE_FILE = contextvars.ContextVar("whole_file", default=False)


@contextlib.contextmanager
def in_whole_file() -> Iterator[None]:
    """Have teachers put their weights into what is saved meanwhile."""
    token = _WHOLE_FILE.set(True)
    try:
        yield
    finally:
        _WHOLE_FILE.reset(token)


class _Frozen(keras.layers.Layer):
    """Holds models whose weights no file needs to hold again.

    It is the place where `Teacher` keeps them: Keras tracks them, so that they
    are part of the compiled step, but looks for what to save by `dir`.
    """

    def __init__(self, models: Sequence[keras.Model]) -> None:
        super().__init__(trainable=False)
        for model in models:
            model.trainable = False
        self.models = list(models)
        self.built = True

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if name != "models"]

    @property
    def trainable(self) -> bool:
        """False, whatever it is set to."""
        return False

    @trainable.setter
    def trainable(self, value: bool) -> None:
        del value  # Setting it on the model of peers must not thaw a teacher.


@keras.saving.register_keras_serializable(package="keras_smkd")
class Teacher(StatefulPart):
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
        super().__init__()
        models = [model] if not isinstance(model, (list, tuple)) else model
        if not models:
            raise ValueError(
                "`model` must be a `keras.Model` or a list of one or more. "
                "Received: an empty list."
            )
        for i, item in enumerate(models):
            if not isinstance(item, keras.Model):
                raise TypeError(
                    "`model` must be a `keras.Model` or a list of such. "
                    f"Received: {item!r} of type {type(item).__name__} at "
                    f"place {i}."
                )
            if not item.built:
                raise ValueError(
                    "`model` must be built, and trained: a teacher. Received: "
                    f"{item.name!r}, which is not built."
                )
        if combine is not None:
            _checks.one_of("combine", combine, COMBINATIONS)
        self.combine = combine
        self.from_logits = _checks.boolean("from_logits", from_logits)
        self.frozen = _Frozen(models)

    def models(self) -> list[keras.Model]:
        """Return the teachers.

        Not a property: Keras would find them there, and save their weights.
        """
        return list(self.frozen.models)

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
        own = {id(variable) for peer in peers for variable in peer.variables}
        for teacher in self.models():
            if any(id(variable) in own for variable in teacher.variables):
                raise ValueError(
                    "`model` of a teacher must share no weights with the "
                    f"peers. Received: {teacher.name!r}, which is a peer or "
                    "shares layers with one. Give a copy: "
                    "`keras.models.clone_model` and `set_weights`."
                )
            shape = _known(teacher, "output_shape")
            if shape is not None and tuple(shape)[1:] != (num_classes,):
                raise ValueError(
                    f"`model` of a teacher must have the peers' {num_classes} "
                    f"classes. Received: {teacher.name!r} with outputs of "
                    f"shape {shape}."
                )
            given, wanted = (
                _known(model, "input_shape") for model in (teacher, peers[0])
            )
            if given is not None and wanted is not None and given != wanted:
                raise ValueError(
                    "`model` of a teacher must take the peers' inputs. "
                    f"Received: {teacher.name!r} with input_shape={given}, "
                    f"for peers with {wanted}."
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

    def digest(self) -> Any:
        """Return the SHA-256 digest of the teachers' weights, 32 bytes."""
        found = hashlib.sha256()
        for value in self._values():
            found.update(np.ascontiguousarray(value).tobytes())
        return np.frombuffer(found.digest(), dtype="uint8")

    def save_own_variables(self, store: Any) -> None:
        """Save the digest, and the weights if the file is to be whole."""
        store["digest"] = self.digest()
        if _WHOLE_FILE.get():
            for i, value in enumerate(self._values()):
                store[f"weight_{i}"] = value

    def load_own_variables(self, store: Any) -> None:
        """Load the weights if they are there, or compare the digest.

        Raises:
            ValueError: if the file was saved with another teacher.
        """
        names = set(store.keys())
        if "weight_0" in names:
            for i, variable in enumerate(self._variables()):
                variable.assign(store[f"weight_{i}"])
            return
        # Keras may look for it in a second place, and tells the last error.
        saved = np.asarray(store["digest"]) if "digest" in names else None
        if saved is None or not np.array_equal(saved, self.digest()):
            raise ValueError(
                "The teacher must be the one that the weights were saved "
                f"with. Received: {[model.name for model in self.models()]} "
                "with other weights. Load that teacher's weights into it "
                "first."
            )

    def _variables(self) -> list[Any]:
        return [v for model in self.models() for v in model.weights]

    def _values(self) -> list[Any]:
        return [ops.convert_to_numpy(v) for v in self._variables()]


def _known(model: keras.Model, attribute: str) -> Any:
    try:
        return getattr(model, attribute)
    except (AttributeError, ValueError):
        return None
