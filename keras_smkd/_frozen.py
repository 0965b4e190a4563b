"""Networks that a part holds and no training changes."""

import contextlib
import contextvars
import hashlib
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_smkd._config import StatefulPart

# Whether the file that is being written shall hold the networks' weights.
_WHOLE_FILE = contextvars.ContextVar("whole_file", default=False)


@contextlib.contextmanager
def in_whole_file() -> Iterator[None]:
    """Have frozen networks put their weights into what is saved meanwhile."""
    token = _WHOLE_FILE.set(True)
    try:
        yield
    finally:
        _WHOLE_FILE.reset(token)


class Frozen(keras.layers.Layer):
    """Holds models whose weights no file needs to hold again.

    Keras tracks them here, so that they are part of the compiled step, but
    looks for what to save by `dir`.
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
        del value  # Setting it on the model of peers must not thaw them.


class FrozenPart(StatefulPart):
    """A part with trained networks, which it freezes for good.

    Whole files hold their weights, other files a digest of them.

    Args:
        argument: Name of the subclass's argument, for the messages.
        models: A built `keras.Model`, or a list of such.

    Raises:
        TypeError: if one is no `keras.Model`.
        ValueError: if there is none, or one is not built.
    """

    def __init__(
        self, argument: str, models: keras.Model | Sequence[keras.Model]
    ) -> None:
        super().__init__()
        if not isinstance(models, (list, tuple)):
            models = [models]
        if not models:
            raise ValueError(
                f"`{argument}` must be a `keras.Model` or a list of one or "
                "more. Received: an empty list."
            )
        for i, model in enumerate(models):
            if not isinstance(model, keras.Model):
                raise TypeError(
                    f"`{argument}` must be a `keras.Model` or a list of such. "
                    f"Received: {model!r} of type {type(model).__name__} at "
                    f"place {i}."
                )
            if not model.built:
                raise ValueError(
                    f"`{argument}` must be built, and trained: a teacher. "
                    f"Received: {model.name!r}, which is not built."
                )
        self.argument = argument
        self.frozen = Frozen(models)

    def models(self) -> list[keras.Model]:
        """Return the networks.

        Not a property: Keras would find them there, and save their weights.
        """
        return list(self.frozen.models)

    def check_apart(self, peers: Sequence[keras.Model]) -> None:
        """Raise `ValueError` if a network shares weights with a peer."""
        own = {id(variable) for peer in peers for variable in peer.variables}
        for model in self.models():
            if any(id(variable) in own for variable in model.variables):
                raise ValueError(
                    f"`{self.argument}` of a {type(self).__name__} must share "
                    f"no weights with the peers. Received: {model.name!r}, "
                    "which is a peer or shares layers with one. Give a copy: "
                    "`keras.models.clone_model` and `set_weights`."
                )

    def check_inputs(self, peers: Sequence[keras.Model]) -> None:
        """Raise `ValueError` if a network's inputs are not the peers'."""
        wanted = known(peers[0], "input_shape")
        for model in self.models():
            given = known(model, "input_shape")
            if given is not None and wanted is not None and given != wanted:
                raise ValueError(
                    f"`{self.argument}` of a {type(self).__name__} must take "
                    f"the peers' inputs. Received: {model.name!r} with "
                    f"input_shape={given}, for peers with {wanted}."
                )

    def digest(self) -> Any:
        """Return the SHA-256 digest of the networks' weights, 32 bytes."""
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
            ValueError: if the file was saved with other networks.
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


def known(model: keras.Model, attribute: str) -> Any:
    """Return a shape that a model tells of itself, `None` if it does not."""
    try:
        return getattr(model, attribute)
    except (AttributeError, ValueError):
        return None
