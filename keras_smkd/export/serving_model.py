"""What is served: from raw inputs to class probabilities, one Keras model."""

import pathlib
import tempfile
import types
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_smkd import functional
from keras_smkd.export import backends
from keras_smkd.features import names_for_peers
from keras_smkd.features import recorder


@keras.saving.register_keras_serializable(package="keras_smkd")
class ServingModel(keras.Model):
    """The mean of some peers' probabilities, or a head's, for inference only.

    `inputs -> preprocessing -> every peer -> {"probabilities": mean}`, or
    `... -> every peer's features -> head -> {"probabilities": ...}`

    Args:
        peers: One or more built `keras.Model`s.
        from_logits: Whether they put out logits, or probabilities.
        serving_inputs: Structure of `keras.InputSpec`s with names: the raw
            inputs.
        preprocessing: Layer from the raw inputs to the peers' inputs, or
            `None`. It is applied once, whatever the number of peers.
        head: Head on the features of all peers, whose probabilities are
            served in place of the peers', or `None`.

    Raises:
        ValueError: if `preprocessing` does not fit the inputs or the peers.
    """

    def __init__(
        self,
        peers: Sequence[keras.Model],
        from_logits: bool,
        serving_inputs: Any,
        preprocessing: keras.Layer | None = None,
        head: Any = None,
        **kwargs: Any,
    ) -> None:
        # The peers cast their inputs themselves; raw inputs stay as they are.
        super().__init__(**{**kwargs, "dtype": "float32", "autocast": False})
        self.peers = list(peers)
        self.from_logits = from_logits
        # Keras would make another kind of dictionary of it.
        self._raw = types.MappingProxyType({"inputs": serving_inputs})
        self.preprocessing = preprocessing
        self.head = head
        # In a closure, or the peers' weights would be saved twice.
        names = names_for_peers(head.taps, len(peers)) if head else []
        recorders = [
            recorder(peer, [name])
            for peer, name in zip(peers, names, strict=bool(head))
        ]
        self._recorders = lambda: recorders
        if takes_texts(serving_inputs) and not backends.knows_texts():
            # Another process checks it.
            self.built = True
            return
        try:
            # Builds the preprocessing, and checks that all fits. By itself
            # first: within a call of this model TensorFlow builds in a graph,
            # where tensors made by `build` (`Normalization`'s) would stay.
            inputs = keras.tree.map_structure(_symbolic, serving_inputs)
            if preprocessing is not None:
                preprocessing(inputs, training=False)
            self(inputs)
        except Exception as error:
            if preprocessing is None:
                raise
            raise ValueError(
                "`preprocessing` must turn the raw inputs into what the peers "
                f"take. Received: preprocessing={preprocessing!r}, for raw "
                f"inputs {described(serving_inputs)}. Keras said: {error}"
            ) from error

    @property
    def serving_inputs(self) -> Any:
        """The structure of the raw inputs."""
        return self._raw["inputs"]

    def call(self, inputs: Any, training: bool = False) -> dict[str, Any]:
        del training  # It is always inference.
        if self.preprocessing is not None:
            inputs = self.preprocessing(inputs, training=False)
        if self.head is None:
            raw = [peer(inputs, training=False) for peer in self.peers]
        else:
            found = [run(inputs, training=False) for run in self._recorders()]
            features = [feature for _, (feature,) in found]
            raw = [self.head(features, training=False)]
        outputs = [functional.at_least_float32(output) for output in raw]
        log_probs = functional.log_probabilities(
            ops.stack(outputs, axis=1), self.from_logits
        )
        return {"probabilities": ops.mean(ops.exp(log_probs), axis=1)}

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        inputs = keras.tree.flatten(self.serving_inputs)
        return {
            "name": self.name,
            "peers": [serialize(peer) for peer in self.peers],
            "from_logits": self.from_logits,
            "serving_inputs": serialize(self.serving_inputs),
            # Keras leaves the names out.
            "input_names": [spec.name for spec in inputs],
            "preprocessing": serialize(self.preprocessing),
            "head": serialize(self.head),
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> "ServingModel":
        config = dict(config)
        for part in ("peers", "serving_inputs", "preprocessing", "head"):
            config[part] = keras.saving.deserialize_keras_object(
                config[part], custom_objects=custom_objects
            )
        inputs = keras.tree.flatten(config["serving_inputs"])
        for spec, name in zip(inputs, config.pop("input_names"), strict=True):
            spec.name = name
        return cls(**config)


def averaged(
    model: ServingModel, values: Sequence[Sequence[Any]]
) -> ServingModel:
    """Return a copy of a serving model with other weights in its peers.

    Args:
        model: What is to be copied.
        values: For each peer, what to set its weights to.

    Raises:
        ValueError: if a peer has no configuration to copy it by.
    """
    try:
        config = model.get_config()
    except NotImplementedError as error:
        raise ValueError(
            "`model` must have peers with a `get_config` for what='averaged', "
            f"since they are copied. Keras said: {error}"
        ) from error
    copy = _copy(model, config)
    for peer, own in zip(copy.peers, values, strict=True):
        peer.set_weights(own)
    return copy


def in_float32(model: ServingModel) -> ServingModel:
    """Return the model, or a copy in float32 if a part is of mixed precision.

    The weights of mixed precision are float32, so nothing is lost.
    """
    try:
        config = model.get_config()
    except NotImplementedError:
        return model  # It can be served, not copied.
    renamed = _with_float32_policies(config)
    if renamed == config:
        return model
    return _copy(model, renamed)


def _copy(model: ServingModel, config: dict[str, Any]) -> ServingModel:
    """Return the model that a configuration describes, with its weights."""
    copy = ServingModel.from_config(config)
    with tempfile.TemporaryDirectory() as scratch:
        # Unlike `set_weights`, it tells layers that they have new ones.
        path = pathlib.Path(scratch, "served.weights.h5")
        model.save_weights(path)
        copy.load_weights(path)
    return copy


def raw_inputs(
    peers: Sequence[keras.Model], preprocessing: keras.Layer | None = None
) -> Any:
    """Return the structure of named `keras.InputSpec`s that is fed.

    Args:
        peers: The peers, of which one at least knows its input.
        preprocessing: What comes before them. If it knows its own input, that
            is the answer; otherwise it takes what the peers take.

    Raises:
        ValueError: if nothing knows its input.
    """
    for model in (preprocessing, *peers):
        inputs = _known_inputs(model)
        if inputs is None:
            continue
        if keras.tree.is_nested(inputs):
            return keras.tree.map_structure(
                lambda tensor: _spec(tensor, tensor.name), inputs
            )
        return _spec(inputs, "inputs")
    raise ValueError(
        "`model` must have a peer that knows its input shape: a functional "
        "model, or a sequential one with an input. Received: peers "
        f"{[type(peer).__name__ for peer in peers]}."
    )


def takes_texts(inputs: Any) -> bool:
    """Return whether an input is of strings."""
    return any(spec.dtype == "string" for spec in keras.tree.flatten(inputs))


def described(inputs: Any) -> list[dict[str, Any]]:
    """Return name, shape and dtype of each input, in values of JSON."""
    return [
        {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype}
        for spec in keras.tree.flatten(inputs)
    ]


def _known_inputs(model: keras.Layer | None) -> Any:
    if not isinstance(model, keras.Model):
        return None
    try:
        # A sequential model is functional inside, and has one input.
        sequential = isinstance(model, keras.Sequential)
        return model.inputs[0] if sequential else model.input
    except (AttributeError, ValueError):
        return None


def _spec(tensor: Any, name: str) -> keras.InputSpec:
    return keras.InputSpec(
        shape=(None, *tensor.shape[1:]),
        dtype=keras.backend.standardize_dtype(tensor.dtype),
        name=name,
    )


def _symbolic(spec: keras.InputSpec) -> keras.KerasTensor:
    return keras.KerasTensor(spec.shape, spec.dtype)


def _with_float32_policies(config: Any) -> Any:
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            name = config["config"]["name"]
            if name.startswith("mixed_"):
                return {**config, "config": {"name": "float32"}}
        return {
            key: _with_float32_policies(value) for key, value in config.items()
        }
    if isinstance(config, (list, tuple)):
        return type(config)(_with_float32_policies(value) for value in config)
    return config
