"""Trained peers and their ensemble as TensorFlow SavedModels."""

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import Any

import keras
from keras import ops

from keras_smkd import functional
from keras_smkd.model import SelectiveMutualDistillation

# Run by a fresh interpreter under TensorFlow, for backends that cannot write
# a SavedModel themselves.
_EXPORT_SCRIPT = """
import sys, keras, keras_smkd
model = keras.saving.load_model(sys.argv[1], compile=False)
keras_smkd.export(model, sys.argv[2])
"""


def export(
    model: SelectiveMutualDistillation,
    path: str | os.PathLike,
    *,
    overwrite: bool = False,
) -> None:
    """Write every peer and the ensemble as SavedModels, from any backend.

    `path` becomes a folder of `peer_0/`, `peer_1/`, ... and `ensemble/`. Each
    is a SavedModel with one signature, `serving_default`, and the function
    `serve`; it takes a batch of any size and returns
    `{"probabilities": (batch, classes)}`. A single input is named `inputs`;
    several keep the names that the peers give them. Keras is not needed to
    load them:

    ```python
    keras_smkd.export(model, "serving")
    served = tf.saved_model.load("serving/ensemble")
    served.signatures["serving_default"](inputs=x)["probabilities"]
    ```

    On TensorFlow and JAX the files are written by this process. On torch the
    model is saved, and loaded and exported by another Python process under
    TensorFlow; custom layers must be importable there.

    Args:
        model: Built, with peers that know their input shape (functional, or
            sequential with an input).
        path: Folder to make. It appears whole or not at all.
        overwrite: Whether to replace a folder that is there.

    Raises:
        TypeError: if `model` is no `SelectiveMutualDistillation`.
        ValueError: if the peers do not know their input shape.
        FileExistsError: if `path` is there and `overwrite` is `False`.
        ImportError: if TensorFlow is not installed.
        RuntimeError: if the export under TensorFlow fails (torch only).
    """
    if not isinstance(model, SelectiveMutualDistillation):
        raise TypeError(
            "`model` must be a `keras_smkd.SelectiveMutualDistillation`. "
            f"Received: model={model!r} of type {type(model).__name__}."
        )
    target = pathlib.Path(path)
    if target.exists() and not overwrite:
        raise FileExistsError(
            f"`path` must not exist yet. Received: path={str(path)!r}. "
            "Choose another, or give `overwrite=True`."
        )
    if importlib.util.find_spec("tensorflow") is None:
        raise ImportError(
            "Writing a SavedModel needs TensorFlow. Install it with "
            '`pip install "keras-smkd[tensorflow]"`.'
        )
    spec = _input_spec(model)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the last step is a rename and nothing half
    # written is ever found under the path.
    with tempfile.TemporaryDirectory(
        dir=target.parent, prefix=".export-"
    ) as folder:
        whole = pathlib.Path(folder, "whole")
        if keras.backend.backend() == "torch":
            _export_under_tensorflow(model, whole)
        else:
            _export_here(model, spec, whole)
        if target.exists():
            shutil.rmtree(target)
        whole.rename(target)


def _export_here(
    model: SelectiveMutualDistillation, spec: Any, folder: pathlib.Path
) -> None:
    for name, peer in zip(model.peer_names, model.peers, strict=True):
        _write([peer], model.from_logits, spec, folder / name)
    _write(model.peers, model.from_logits, spec, folder / "ensemble")


def _write(
    peers: list[keras.Model],
    from_logits: bool,
    spec: Any,
    folder: pathlib.Path,
) -> None:
    """Write the mean of the peers' probabilities as a SavedModel."""

    def serve(inputs: Any) -> dict[str, Any]:
        outputs = [
            functional.at_least_float32(peer(inputs, training=False))
            for peer in peers
        ]
        log_probs = functional.log_probabilities(
            ops.stack(outputs, axis=1), from_logits
        )
        return {"probabilities": ops.mean(ops.exp(log_probs), axis=1)}

    archive = keras.export.ExportArchive()
    for peer in peers:
        archive.track(peer)
    archive.add_endpoint("serve", serve, input_signature=[spec])
    archive.write_out(str(folder), verbose=False)


def _input_spec(model: SelectiveMutualDistillation) -> Any:
    """Return the structure of `keras.InputSpec`s that the peers take."""
    for peer in model.peers:
        try:
            # A sequential model is functional inside, and has one input.
            sequential = isinstance(peer, keras.Sequential)
            inputs = peer.inputs[0] if sequential else peer.input
        except (AttributeError, ValueError):
            continue
        if keras.tree.is_nested(inputs):
            return keras.tree.map_structure(
                lambda tensor: _spec(tensor, tensor.name), inputs
            )
        return _spec(inputs, "inputs")
    raise ValueError(
        "`model` must have a peer that knows its input shape: a functional "
        "model, or a sequential one with an input. Received: peers "
        f"{[type(peer).__name__ for peer in model.peers]}."
    )


def _spec(tensor: Any, name: str) -> keras.InputSpec:
    return keras.InputSpec(
        shape=(None, *tensor.shape[1:]), dtype=tensor.dtype, name=name
    )


def _export_under_tensorflow(
    model: SelectiveMutualDistillation, folder: pathlib.Path
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        saved = str(pathlib.Path(scratch, "model.keras"))
        model.save(saved)
        environment = {
            **os.environ,
            "KERAS_BACKEND": "tensorflow",
            "TF_CPP_MIN_LOG_LEVEL": "2",
            # The other process must find what this one has imported.
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        }
        done = subprocess.run(
            [sys.executable, "-c", _EXPORT_SCRIPT, saved, str(folder)],
            env=environment,
            capture_output=True,
            text=True,
        )
    if done.returncode != 0:
        raise RuntimeError(
            "The export under TensorFlow failed. Custom layers must be "
            "registered with Keras and importable without the training "
            f"script. It said:\n{done.stderr[-2000:]}"
        )
