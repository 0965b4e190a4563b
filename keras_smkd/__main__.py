"""Finds the wrong labels of a data set, from one command.

    python -m keras_smkd train --folder photographs --out results
    python -m keras_smkd train --csv labels.csv --out results
    python -m keras_smkd train --npz arrays.npz --out results
    python -m keras_smkd export --model results/model.keras --out serving

`train` trains peers on images with labels of which some may be wrong, and
writes to `--out`:

| file | what is in it |
|---|---|
| `report.csv` | every label, the most suspicious first |
| `corrected_labels.csv` | every label, corrected where it is selected |
| `suspects.png` | the most suspicious images |
| `noise_matrix.png` | which class is labelled as which |
| `history.png` | the course of the training |
| `model.keras` | the peers, to go on with or to export |
| `class_names.txt` | the names of the classes, a line each |

A folder has a subfolder of images for each class; a CSV file the columns `path`
and `label`; an `.npz` file the arrays `images` (uint8, or floats in [0, 1]) and
`labels` (class ids), or `x` and `y`.

`export` writes the peers of such a model and their ensemble for serving; they
take images of 8 bits.

`KERAS_BACKEND` chooses the backend.
"""

import csv
import os
import pathlib
import sys
import time
from typing import Any

import keras
import numpy as np
from absl import app
from absl import flags

import keras_smkd
from keras_smkd import data
from keras_smkd import methods
from keras_smkd import report
from keras_smkd._files import written_whole
from keras_smkd.data.optional import import_optional
from keras_smkd.noise.archives import read_archive

COMMANDS = ("train", "export")
_SOURCES = ("folder", "csv", "npz")


def define_flags(options: flags.FlagValues) -> None:
    """Define the flags of both commands.

    Not when it is imported: whoever does that may have flags of these names.

    Args:
        options: Where to.
    """
    flags.DEFINE_string(
        "folder",
        None,
        "Folder with a subfolder for each class.",
        flag_values=options,
    )
    flags.DEFINE_string(
        "csv",
        None,
        "CSV file with the columns path and label.",
        flag_values=options,
    )
    flags.DEFINE_string(
        "root",
        None,
        "Folder of the CSV file's paths; its own.",
        flag_values=options,
    )
    flags.DEFINE_string(
        "npz",
        None,
        "File with the arrays images and labels.",
        flag_values=options,
    )
    flags.DEFINE_string("out", None, "Folder to write to.", flag_values=options)
    flags.DEFINE_bool(
        "overwrite",
        False,
        "Whether to replace files there.",
        flag_values=options,
    )
    flags.DEFINE_integer(
        "image_size",
        64,
        "Height and width to which files are resized.",
        8,
        flag_values=options,
    )
    flags.DEFINE_enum(
        "channels",
        "3",
        ["1", "3"],
        "Grey or RGB, of files.",
        flag_values=options,
    )
    flags.DEFINE_enum(
        "net",
        "small",
        ["small", "resnet18"],
        "What peers are: three convolutions, or keras-cv's ResNet-18.",
        flag_values=options,
    )
    flags.DEFINE_integer("peers", 2, "How many peers.", 2, flag_values=options)
    flags.DEFINE_integer(
        "epochs", 30, "Passes over the data.", 1, flag_values=options
    )
    flags.DEFINE_integer(
        "batch_size", 64, "Examples per step.", 1, flag_values=options
    )
    flags.DEFINE_float(
        "learning_rate", 1e-3, "Of Adam.", 0.0, flag_values=options
    )
    flags.DEFINE_enum(
        "augment",
        "none",
        ["none", "flip_crop", "randaugment"],
        "How images are changed at random; the report sees them unchanged.",
        flag_values=options,
    )
    flags.DEFINE_integer(
        "seed", 0, "Of all that is random.", 0, flag_values=options
    )
    flags.DEFINE_bool(
        "progress_bar",
        True,
        "Whether each epoch has a bar.",
        flag_values=options,
    )
    flags.DEFINE_string("model", None, "Model to export.", flag_values=options)
    flags.DEFINE_enum(
        "format",
        "tf_saved_model",
        ["tf_saved_model", "onnx", "openvino", "litert", "torch"],
        "What to export to.",
        flag_values=options,
    )
    flags.DEFINE_string(
        "what",
        "all",
        "all, peers, ensemble, or one by its name, such as peer_0.",
        flag_values=options,
    )


def load_examples(options: Any) -> data.Examples:
    """Return the examples that the flags name.

    Raises:
        ValueError: if none or several are named, or they are wrong.
        OSError: if a file cannot be read.
    """
    given = [name for name in _SOURCES if getattr(options, name) is not None]
    if len(given) != 1:
        raise ValueError(
            "The data must be one of --folder, --csv and --npz. Received: "
            f"{', '.join(f'--{name}' for name in given) or 'none'}."
        )
    settings: Any = {
        "image_size": (options.image_size, options.image_size),
        "channels": int(options.channels),
        "verify": True,
    }
    if options.folder is not None:
        return data.load_folder(options.folder, **settings)
    if options.csv is not None:
        return data.load_csv(options.csv, root=options.root, **settings)
    return _load_arrays(options.npz)


def _load_arrays(path: str) -> data.Examples:
    if not pathlib.Path(path).is_file():
        raise ValueError(f"`--npz` must be a file. Received: {path}.")
    names, found = read_archive(
        pathlib.Path(path), ("images", "x", "labels", "y")
    )
    images = found.get("images", found.get("x"))
    labels = found.get("labels", found.get("y"))
    if images is None or labels is None:
        raise ValueError(
            "`--npz` must have the arrays images and labels, or x and y. "
            f"Received: {', '.join(sorted(names)) or 'none'}."
        )
    if images.ndim == 3:
        images = images[..., np.newaxis]
    return data.from_arrays(images, labels)


def make_peer(
    net: str, shape: tuple[int, ...], num_classes: int
) -> keras.Model:
    """Return a new peer that puts out logits."""
    inputs = keras.Input(shape)
    if net == "resnet18":
        cv = import_optional("keras_cv", "--net=resnet18")
        # By its sizes: by its name, keras-cv would download them.
        backbone = cv.models.ResNetV2Backbone(
            stackwise_filters=[64, 128, 256, 512],
            stackwise_blocks=[2, 2, 2, 2],
            stackwise_strides=[1, 2, 2, 2],
            block_type="basic_block",
            include_rescaling=False,
            input_shape=shape,
        )
        # Layers of Keras only, so that the saved file needs no keras-cv.
        x = keras.Model(backbone.input, backbone.output)(inputs)
    else:
        x = inputs
        for filters in (32, 64, 128):
            x = keras.layers.Conv2D(
                filters, 3, strides=2, padding="same", use_bias=False
            )(x)
            x = keras.layers.BatchNormalization(momentum=0.9)(x)
            x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(num_classes)(x))


def remaining(seconds: float) -> str:
    """Return how long is left, in words.

    >>> remaining(3700), remaining(125), remaining(40)
    ('about 1 h 2 min left', 'about 2 min left', 'less than a minute left')
    """
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute left"
    if minutes < 60:
        return f"about {minutes} min left"
    return f"about {minutes // 60} h {minutes % 60} min left"


def train(options: Any) -> None:
    """Train peers on the data, and write what they think of its labels."""
    out = _checked_out(
        options,
        "report.csv",
        "corrected_labels.csv",
        "suspects.png",
        "noise_matrix.png",
        "history.png",
        "model.keras",
        "class_names.txt",
    )
    # Or its absence would be noticed when all is trained.
    import_optional("matplotlib.figure", "train", "pictures")
    examples = load_examples(options)
    print(examples)
    keras.utils.set_random_seed(options.seed)
    model = methods.posterior_smkd(
        [
            make_peer(
                options.net, examples.image_shape or (), examples.num_classes
            )
            for _ in range(options.peers)
        ],
        len(examples),
    )
    model.compile(
        keras.optimizers.Adam(options.learning_rate),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    start = time.monotonic()

    def say_what_remains(epoch: int, logs: Any) -> None:
        seconds = (time.monotonic() - start) / (epoch + 1)
        left = options.epochs - epoch - 1
        if left:
            print(
                f"epoch {epoch + 1} of {options.epochs} done, "
                f"{remaining(seconds * left)}",
                flush=True,
            )

    history = model.fit(
        data.PipelineSequence(
            examples,
            batch_size=options.batch_size,
            shuffle=True,
            seed=options.seed,
            augment=options.augment,
            with_index=True,
        ),
        epochs=options.epochs,
        verbose=1 if options.progress_bar else 0,
        callbacks=[
            keras.callbacks.LambdaCallback(on_epoch_end=say_what_remains),
        ],
    )
    suspects = report.suspicious_labels(model, examples)
    out.mkdir(parents=True, exist_ok=True)
    model.save(out / "model.keras")
    suspects.to_csv(out / "report.csv")
    _write_labels(out / "corrected_labels.csv", suspects)
    _write_text(out / "class_names.txt", _names(examples))
    for name, figure in (
        ("suspects.png", report.plot_suspects(suspects)),
        ("noise_matrix.png", report.plot_noise_matrix(suspects)),
        ("history.png", report.plot_history(history)),
    ):
        with written_whole(out / name) as path:
            figure.savefig(path, format="png")
    print(suspects)
    _say_written(out)


def _say_written(folder: str | pathlib.Path) -> None:
    print(f"Written to {folder}: {', '.join(sorted(os.listdir(folder)))}")


def _names(examples: data.Examples) -> list[str]:
    return list(examples.class_names) or [
        str(k) for k in range(examples.num_classes)
    ]


def _checked_out(options: Any, *names: str) -> pathlib.Path:
    """Return the folder to write to, or raise if files there would go."""
    if options.out is None:
        raise ValueError("`--out` must be given. Received: none.")
    out = pathlib.Path(options.out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"`--out` must be a folder. Received: {out}, a file.")
    there = [name for name in names if (out / name).exists()]
    if there and not options.overwrite:
        raise ValueError(
            "`--out` must be a folder without results, or --overwrite given. "
            f"Received: {out}, where there is {there[0]}."
        )
    return out


def _write_labels(
    path: pathlib.Path, suspects: report.SuspiciousLabels
) -> None:
    """Write every example's label, corrected, in the order of the data."""
    in_order = suspects[np.argsort(suspects.index)]
    corrected = report.corrected_labels(suspects)
    with (
        written_whole(path) as partial,
        open(partial, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        files = suspects.paths is not None
        writer.writerow(["path" if files else "index", "label", "was"])
        for k, label in enumerate(corrected.tolist()):
            writer.writerow(
                [
                    in_order.paths[k] if files else in_order.index[k],
                    suspects.name_of(label),
                    suspects.name_of(int(in_order.label[k])),
                ]
            )


def _write_text(path: pathlib.Path, lines: list[str]) -> None:
    with written_whole(path) as partial:
        pathlib.Path(partial).write_text(
            "".join(f"{line}\n" for line in lines), encoding="utf-8"
        )


def export(options: Any) -> None:
    """Write the peers of a model that `train` wrote, for serving."""
    if options.model is None or options.out is None:
        raise ValueError(
            "`--model` and `--out` must be given. Received: "
            f"--model={options.model}, --out={options.out}."
        )
    path = pathlib.Path(options.model)
    if not path.is_file():
        raise ValueError(
            f"`--model` must be a file of `train`. Received: {path}."
        )
    names = path.with_name("class_names.txt")
    model = keras.saving.load_model(path)
    raw = keras.Input(model.peers[0].input_shape[1:], dtype="uint8")
    keras_smkd.export(
        model,
        options.out,
        format=options.format,
        what=options.what,
        preprocessing=keras.Sequential(
            [raw, keras.layers.Rescaling(1.0 / 255.0)]
        ),
        class_names=(
            names.read_text(encoding="utf-8").splitlines()
            if names.is_file()
            else None
        ),
        overwrite=options.overwrite,
    )
    _say_written(options.out)


def main(argv: list[str], options: Any = flags.FLAGS) -> None:
    """Run the command that is named first."""
    if len(argv) != 2 or argv[1] not in COMMANDS:
        raise app.UsageError(
            f"The command must be one of {', '.join(COMMANDS)}. "
            f"Received: {' '.join(argv[1:]) or 'none'}."
        )
    try:
        train(options) if argv[1] == "train" else export(options)
    except (ImportError, OSError, TypeError, ValueError) as error:
        # What is wrong is in the data or the flags, not in the program.
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main)
