"""The model card: what was exported, from what, and how it was trained."""

import json
import pathlib
import warnings
from typing import Any

import keras

from keras_smkd.export.folder import CARD
from keras_smkd.export.folder import PACKAGE
from keras_smkd.export.folder import names_in
from keras_smkd.export.formats import FORMATS
from keras_smkd.export.readme import README
from keras_smkd.export.readme import readme_of
from keras_smkd.export.serving_model import ServingModel
from keras_smkd.export.serving_model import described
from keras_smkd.model import PeerLearning

LABELS = "labels.txt"
# Of the configuration, what is elsewhere in the card, or says nothing there.
_NO_SETTINGS = ("peers", "name", "trainable", "dtype", "format", "version")


def write_card(
    folder: pathlib.Path,
    model: PeerLearning,
    artefacts: dict[str, list[int]],
    served: ServingModel,
    format: str,
    written_by: str,
    class_names: list[str] | None,
    metrics: dict[str, float] | None,
    noise: dict[str, Any] | None,
) -> None:
    """Write `model_card.json`, `README.md`, and `labels.txt` for class names.

    The card lists what is in the folder, so it is written last.

    Args:
        folder: Where to, with the artefacts in it.
        model: What was exported.
        artefacts: From each artefact's name to the positions of its peers.
        served: One of the artefacts' models, for its inputs.
        format: A key of `FORMATS`.
        written_by: The backend that wrote the artefacts.
        class_names: One for each class, or `None`.
        metrics: What the user gives, finite numbers.
        noise: What the user gives, in values of JSON.
    """
    # Imported here: it is the package that imports this room.
    from keras_smkd import __version__

    if class_names is not None:
        (folder / LABELS).write_text(
            "".join(f"{name}\n" for name in class_names),
            encoding="utf-8",
            newline="\n",
        )
    preprocessing = served.preprocessing
    card = {
        "package": PACKAGE,
        "package_version": __version__,
        "keras_version": keras.__version__,
        "backend": keras.backend.backend(),
        "written_by": written_by,
        "format": format,
        "artefacts": [
            {
                "name": name,
                "file": f"{name}/{FORMATS[format].file}",
                "peers": [model.peer_names[position] for position in positions],
            }
            for name, positions in artefacts.items()
        ],
        "inputs": described(served.serving_inputs),
        "outputs": _outputs(model, format, class_names),
        "preprocessing": preprocessing and type(preprocessing).__name__,
        "num_classes": model.num_classes,
        "class_names": class_names,
        "peers": [
            {
                "peer": name,
                "name": peer.name,
                "class": type(peer).__name__,
                "parameters": int(peer.count_params()),
            }
            for name, peer in zip(model.peer_names, model.peers, strict=True)
        ],
        "distillation": distillation_settings(model),
        "steps": model.step,
        "threshold": model.threshold,
        "noise": noise,
        "metrics": metrics,
    }
    (folder / README).write_text(
        readme_of(card), encoding="utf-8", newline="\n"
    )
    card["files"] = sorted([*names_in(folder), CARD])
    text = json.dumps(card, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / CARD).write_text(text + "\n", encoding="utf-8", newline="\n")


def distillation_settings(
    model: PeerLearning,
) -> dict[str, Any] | None:
    """Return the model's configuration but for the peers, where it is JSON.

    Returns:
        `None` if the peers have no configuration, and thus the model none.
    """
    try:
        with warnings.catch_warnings():
            # A lambda does no harm here.
            warnings.simplefilter("ignore")
            config = model.get_config()
    except NotImplementedError:
        return None
    return {
        name: value
        for name, value in config.items()
        if name not in _NO_SETTINGS and _is_plain(value)
    }


def _outputs(
    model: PeerLearning,
    format: str,
    class_names: list[str] | None,
) -> list[dict[str, Any]]:
    outputs = [
        {
            "name": "probabilities",
            "shape": [None, model.num_classes],
            "dtype": "float32",
        }
    ]
    if class_names is not None and format == "tf_saved_model":
        outputs.append(
            {"name": "class_name", "shape": [None], "dtype": "string"}
        )
    return outputs


def _is_plain(value: Any) -> bool:
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    # Keras writes the code of a lambda.
    return "__lambda__" not in text
