"""A model that holds peers: its forward pass and its predictions."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_smkd import _checks
from keras_smkd import functional
from keras_smkd.model import peers as peers_module
from keras_smkd.model.doors import CheckedModel

OUTPUTS = ("ensemble", "all")


class PeerEnsemble(CheckedModel):
    """Several classifiers of the same inputs, as one model.

    Args:
        peers: Two or more `keras.Model`s.
        from_logits: Whether they put out logits, or probabilities.
        **kwargs: As for `ProgressModel`.
    """

    # Keras sets it when `predict` compiles.
    predict_function: Any

    def __init__(
        self, peers: Sequence[keras.Model], from_logits: bool, **kwargs: Any
    ) -> None:
        peers_module.check_peers(peers)
        _checks.boolean("from_logits", from_logits)
        super().__init__(**kwargs)
        self.from_logits = from_logits
        self.peers = list(peers)
        self._predict_output = "ensemble"
        self._predict_all_function: Any = None

    @property
    def num_peers(self) -> int:
        """The number of peers."""
        return len(self.peers)

    @property
    def peer_names(self) -> list[str]:
        """The names of the peers in outputs, logs and exports."""
        return [f"peer_{i}" for i in range(self.num_peers)]

    # Forward pass.

    def build(self, input_shape: Any) -> None:
        """Build the peers that are not built yet, and check that they fit."""
        for peer in self.peers:
            if not peer.built:
                peer.build_from_config({"input_shape": input_shape})
        self.num_classes = peers_module.known_num_classes(self.peers)
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> dict[str, Any]:
        outputs = {
            name: peer(inputs, training=training)
            for name, peer in zip(self.peer_names, self.peers, strict=True)
        }
        # A subclassed peer tells the shape of its output only here.
        self.num_classes = peers_module.common_num_classes(
            {
                name: tuple(getattr(output, "shape", ()))
                for name, output in outputs.items()
            }
        )
        return outputs

    def _log_probabilities(
        self, y_pred: dict[str, Any], temperature: float = 1.0
    ) -> Any:
        """Return `(batch, peers, classes)` from the peers' outputs."""
        return functional.log_probabilities(
            ops.stack(self._outputs(y_pred), axis=1),
            self.from_logits,
            temperature,
        )

    def _outputs(self, y_pred: dict[str, Any]) -> list[Any]:
        return [
            functional.at_least_float32(y_pred[name])
            for name in self.peer_names
        ]

    # Prediction.

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: Any = "auto",
        steps: int | None = None,
        callbacks: Any = None,
        *,
        output: str = "ensemble",
    ) -> Any:
        """Return class probabilities; as `keras.Model.predict` otherwise.

        Args:
            output: `"ensemble"` for the mean of the peers' probabilities,
                `"all"` for each peer's own.

        Returns:
            `(examples, classes)`, or a dictionary of these with the keys
            `"peer_0"`, `"peer_1"`, ...
        """
        _checks.one_of("output", output, OUTPUTS)
        if output == "ensemble":
            return super().predict(x, batch_size, verbose, steps, callbacks)
        # Each of the two outputs has a compiled function of its own.
        ensemble = self.predict_function
        self.predict_function = self._predict_all_function
        self._predict_output = output
        try:
            return super().predict(x, batch_size, verbose, steps, callbacks)
        finally:
            self._predict_all_function = self.predict_function
            self._predict_output = "ensemble"
            self.predict_function = ensemble

    def predict_step(self, *args: Any) -> Any:
        result = super().predict_step(*args)
        if keras.backend.backend() == "jax":
            outputs, state = result
            return self._readout(outputs), state
        return self._readout(result)

    def _readout(self, y_pred: Any) -> Any:
        probs = ops.exp(self._log_probabilities(y_pred))
        if self._predict_output == "ensemble":
            return ops.mean(probs, axis=1)
        return {name: probs[:, i] for i, name in enumerate(self.peer_names)}
