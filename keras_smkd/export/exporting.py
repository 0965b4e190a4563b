"""The one public function: a model's peers and ensemble, ready to serve."""

import os
from collections.abc import Sequence
from typing import Any

import keras

from keras_smkd import _checks
from keras_smkd.export import arguments
from keras_smkd.export import backends
from keras_smkd.export import card
from keras_smkd.export import formats
from keras_smkd.export import process
from keras_smkd.export import writers
from keras_smkd.export.folder import target_of
from keras_smkd.export.folder import whole_folder
from keras_smkd.export.serving_model import ServingModel
from keras_smkd.export.serving_model import averaged
from keras_smkd.export.serving_model import in_float32
from keras_smkd.export.serving_model import raw_inputs
from keras_smkd.export.serving_model import takes_texts
from keras_smkd.model import PeerLearning


def export(
    model: PeerLearning,
    path: str | os.PathLike,
    *,
    what: str = "all",
    format: str = "tf_saved_model",
    preprocessing: keras.Layer | None = None,
    class_names: Sequence[str] | None = None,
    metrics: dict[str, float] | None = None,
    noise: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write peers and their ensemble for serving, in any format and backend.

    `path` becomes a folder with a folder for each artefact, `model_card.json`,
    the same card as a page, `README.md`, with the front matter of Hugging
    Face, and, with class names, `labels.txt`. Every artefact takes a batch of
    any size and gives `probabilities` of shape `(batch, classes)`. A single
    input is named `inputs`; several keep the names that the peers give them.

    | `format` | file in the artefact's folder | runs in |
    |---|---|---|
    | `"tf_saved_model"` | `saved_model.pb` and others | TensorFlow Serving |
    | `"onnx"` | `model.onnx` | ONNX Runtime |
    | `"openvino"` | `model.xml`, `model.bin` | OpenVINO |
    | `"litert"` | `model.tflite` | LiteRT, without TensorFlow's operations |
    | `"torch"` | `model.pt2` | `torch.export.load` |

    TensorFlow writes the first four, JAX the first, torch the last; what the
    running backend does not write, another Python process writes under one
    that does, which must be installed. Custom layers must be registered with
    Keras, in a module that this process can import.

    Args:
        model: Built, with peers that know their input shape (functional, or
            sequential with an input).
        path: Folder to make. It appears whole or not at all.
        what: `"all"` for `peer_0/`, `peer_1/`, ..., `head/` if there is one
            and `ensemble/`; `"peers"`, `"head"` or `"ensemble"` for a part of
            these; `"peer_0"` and so on, or the name that it was given, for
            one peer; `"best_peer"` for the peer that is most accurate by
            `metrics`; `"averaged"` for the ensemble of the peers' averaged
            weights.
        format: One of the above.
        preprocessing: Layer or model from the raw inputs to what the peers
            take, in the artefact once. A model with an input decides what is
            fed, such as `keras.Input((32, 32, 3), dtype="uint8")`; a layer
            takes the peers' shape and type. Adapted, if it needs to be.
        class_names: One for each class, in order. A SavedModel then gives
            `class_name` of shape `(batch,)`, too: the likeliest class.
        metrics: What `model.evaluate(..., return_dict=True)` gives, for the
            model card and for `"best_peer"`.
        noise: How the labels were made noisy, for the model card: such as
            the `recipe` of `keras_smkd.noise.NoisyLabels`.
        overwrite: Whether to replace an earlier export at `path`. Its card
            lists what it wrote; a folder that has anything else in it is
            left as it is.

    Raises:
        TypeError: if `model` is no `PeerLearning`, or another
            argument is of the wrong kind.
        ValueError: if an argument has a wrong value, the peers do not know
            their input shape, or the best peer cannot be told.
        FileExistsError: if `path` is there and `overwrite` is `False`, or
            what is there is no export, or has a file that is not of it.
        ImportError: if the format's packages are not installed; it names
            the formats that can be written.
        RuntimeError: if the artefact cannot be written.

    Example:

    ```python
    keras_smkd.export(
        model,
        "serving",
        what="ensemble",
        preprocessing=keras.Sequential(
            [
                keras.Input((32, 32, 3), dtype="uint8"),
                keras.layers.Rescaling(1 / 255),
            ]
        ),
        class_names=["cat", "dog"],
    )
    served = tf.saved_model.load("serving/ensemble")
    served.signatures["serving_default"](inputs=images)["class_name"]
    ```
    """
    if not isinstance(model, PeerLearning):
        raise TypeError(
            "`model` must be a `keras_smkd.PeerLearning`. "
            f"Received: model={model!r} of type {type(model).__name__}."
        )
    _checks.one_of("format", format, formats.FORMATS)
    metrics = arguments.checked_metrics(metrics)
    noise = arguments.checked_noise(noise)
    artefacts = arguments.chosen_artefacts(
        what, model.peer_names, metrics, model.head is not None
    )
    target = target_of(path, overwrite)
    formats.check_installed(format)
    models = _serving_models(model, artefacts, preprocessing)
    if format in formats.FLOAT32_ONLY:
        models = {name: in_float32(served) for name, served in models.items()}
    names = arguments.checked_class_names(class_names, model.num_classes)
    first = next(iter(models.values()))
    backend = backends.other_backend(
        format, takes_texts(first.serving_inputs), first.variables
    )
    with whole_folder(target) as folder:
        try:
            if backend is None:
                for name, served in models.items():
                    writers.write(served, format, folder / name, names)
            else:
                process.write_elsewhere(models, format, folder, names, backend)
        except Exception as error:
            raise RuntimeError(
                f"`model` could not be written in the format {format!r}. "
                "Formats whose packages are installed here: "
                f"{formats.formats_here()}. Reason: {str(error)[-2500:]}"
            ) from error
        card.write_card(
            folder,
            model,
            artefacts,
            first,
            format,
            backend or keras.backend.backend(),
            names,
            metrics,
            noise,
        )


def _serving_models(
    model: PeerLearning,
    artefacts: dict[str, list[int]],
    preprocessing: Any,
) -> dict[str, ServingModel]:
    if preprocessing is not None and not isinstance(preprocessing, keras.Layer):
        raise TypeError(
            "`preprocessing` must be a Keras layer or model. Received: "
            f"preprocessing={preprocessing!r} of type "
            f"{type(preprocessing).__name__}."
        )
    inputs = raw_inputs(model.peers, preprocessing)
    models = {
        name: ServingModel(
            [model.peers[position] for position in positions],
            model.from_logits,
            inputs,
            preprocessing,
            model.head if name == "head" else None,
        )
        for name, positions in artefacts.items()
    }
    if "averaged" in models:
        averages = model.averaged_peers()
        models["averaged"] = averaged(
            models["averaged"], [averages.values_of(p) for p in model.peers]
        )
    return models
