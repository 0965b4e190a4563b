"""Export under every backend in every format, and run what was exported.

    python benchmarks/export_matrix.py --json matrix.json

For each backend a process of its own trains two small peers for an epoch
and exports them in each format: every peer and the ensemble with what="all",
then the best peer. Raw inputs are uint8 images, scaled inside the artefact.
Each artefact is loaded by the runtime of its format and run on batches of
1, 2 and 7; the table gives the largest difference from `model.predict`, and
the seconds that the exports took. Needs `pip install -e ".[serving,torch]"`,
and jax for its column. Four to eight minutes on two cores.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
BACKENDS = ("tensorflow", "jax", "torch")
FORMATS = ("tf_saved_model", "onnx", "openvino", "litert", "torch")
BATCH_SIZES = (1, 2, 7)
CLASS_NAMES = ["zero", "one", "two", "three"]


def run_artefact(format, folder, batches):
    """Return the probabilities that an artefact gives for some batches.

    Args:
        format: As for `keras_smkd.export`.
        folder: The artefact's folder.
        batches: List of dicts from the inputs' names to arrays.
    """
    runner = {
        "tf_saved_model": _saved_model,
        "onnx": _onnx,
        "openvino": _openvino,
        "litert": _litert,
        "torch": _torch,
    }[format](pathlib.Path(folder))
    return [np.asarray(runner(batch)) for batch in batches]


def _saved_model(folder):
    import tensorflow as tf

    served = tf.saved_model.load(str(folder))
    signature = served.signatures["serving_default"]

    def run(batch):
        inputs = {name: tf.constant(value) for name, value in batch.items()}
        run.outputs = signature(**inputs)
        return run.outputs["probabilities"]

    # What else it returns stays within reach, and so does the model.
    run.served = served
    return run


def _onnx(folder):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    return lambda batch: session.run(["probabilities"], batch)[0]


def _openvino(folder):
    import openvino

    compiled = openvino.Core().compile_model(
        str(folder / "model.xml"),
        "CPU",
        # Its own choice is bfloat16 where the processor has it.
        {"INFERENCE_PRECISION_HINT": "f32"},
    )
    return lambda batch: compiled(batch)["probabilities"]


def _litert(folder):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(folder / "model.tflite"))
    runner = interpreter.get_signature_runner("serving_default")
    return lambda batch: runner(**batch)["probabilities"]


def _torch(folder):
    import torch

    module = torch.export.load(folder / "model.pt2").module()

    def run(batch):
        inputs = {name: torch.tensor(value) for name, value in batch.items()}
        (value,) = inputs.values() if len(inputs) == 1 else (inputs,)
        with torch.no_grad():
            return module(value)["probabilities"].numpy()

    return run


def worker(formats, result_path):
    """Export and run in all formats under the backend in force."""
    import contextlib

    # Torch imported after TensorFlow can crash on a clash of their libraries.
    with contextlib.suppress(ImportError):
        import torch  # noqa: F401

    import keras

    import keras_smkd

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(64, 8, 8, 1)).astype("uint8")
    labels = rng.integers(0, 4, size=64)
    model = keras_smkd.SelectiveMutualDistillation([_convolving(), _dense()])
    model.compile(
        "adam", "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    scaled = images.astype("float32") / 255
    model.fit(scaled, labels, verbose=0)
    metrics = model.evaluate(scaled, labels, verbose=0, return_dict=True)
    expected = model.predict(scaled, verbose=0, output="all")
    expected["ensemble"] = model.predict(scaled, verbose=0)
    best = max(range(2), key=lambda i: metrics[f"peer_{i}_accuracy"])
    expected["best_peer"] = expected[f"peer_{best}"]
    batches = [{"inputs": images[:size]} for size in BATCH_SIZES]
    preprocessing = keras.Sequential(
        [
            keras.Input((8, 8, 1), dtype="uint8"),
            keras.layers.Rescaling(1 / 255),
        ]
    )
    cells = []
    for format in formats:
        for what in ("all", "best_peer"):
            cell = {"format": format, "what": what}
            cells.append(cell)
            with tempfile.TemporaryDirectory() as scratch:
                folder = pathlib.Path(scratch, "serving")
                start = time.perf_counter()
                try:
                    keras_smkd.export(
                        model,
                        folder,
                        what=what,
                        format=format,
                        preprocessing=preprocessing,
                        class_names=CLASS_NAMES,
                        metrics=metrics,
                    )
                except (ImportError, RuntimeError) as error:
                    cell["error"] = str(error)
                    continue
                cell["seconds"] = round(time.perf_counter() - start, 1)
                card = json.loads((folder / "model_card.json").read_text())
                cell["written_by"] = card["written_by"]
                cell["differences"] = {
                    artefact["name"]: _difference(
                        format, folder, artefact["name"], batches, expected
                    )
                    for artefact in card["artefacts"]
                }
    pathlib.Path(result_path).write_text(json.dumps(cells))


def _difference(format, folder, name, batches, expected):
    outputs = run_artefact(format, folder / name, batches)
    for output, size in zip(outputs, BATCH_SIZES, strict=True):
        if output.shape != (size, 4):
            raise RuntimeError(f"{name}: shape {output.shape} for {size}.")
    return max(
        float(np.abs(output - expected[name][: len(output)]).max())
        for output in outputs
    )


def _convolving():
    import keras

    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(8, 3, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(4),
        ]
    )


def _dense():
    import keras

    inputs = keras.Input((8, 8, 1))
    hidden = keras.layers.Flatten()(inputs)
    hidden = keras.layers.Dense(16, activation="gelu")(hidden)
    hidden = keras.layers.LayerNormalization()(hidden)
    return keras.Model(inputs, keras.layers.Dense(4)(hidden))


def table(results):
    """Return the matrix as Markdown: formats by backends."""
    backends = list(results)
    rows = [
        "| format | " + " | ".join(backends) + " |",
        "|---" * (len(backends) + 1) + "|",
    ]
    formats = dict.fromkeys(
        cell["format"] for cells in results.values() for cell in cells
    )
    for format in formats:
        row = [f"`{format}`"]
        for backend in backends:
            cells = [c for c in results[backend] if c["format"] == format]
            row.append(_summary(cells, backend))
        rows.append("| " + " | ".join(row) + " |")
    return "\n".join(rows)


def _summary(cells, backend):
    if any("error" in cell for cell in cells):
        return "no"
    largest = max(max(cell["differences"].values()) for cell in cells)
    count = sum(len(cell["differences"]) for cell in cells)
    seconds = " + ".join(f"{cell['seconds']:.0f}" for cell in cells)
    writer = cells[0]["written_by"]
    under = "" if writer == backend else f", by {writer}"
    return f"{largest:.1e} ({count} artefacts, {seconds} s{under})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backends", nargs="+", default=BACKENDS)
    parser.add_argument("--formats", nargs="+", default=FORMATS)
    parser.add_argument("--json", help="File for all that was measured.")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.formats, arguments.worker)
        return
    results = {}
    for backend in arguments.backends:
        with tempfile.TemporaryDirectory() as scratch:
            result = pathlib.Path(scratch, "result.json")
            command = [sys.executable, __file__, "--worker", str(result)]
            done = subprocess.run(
                [*command, "--formats", *arguments.formats],
                env={
                    **os.environ,
                    "KERAS_BACKEND": backend,
                    "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
                    "TF_CPP_MIN_LOG_LEVEL": "3",
                },
                stderr=subprocess.PIPE,
                text=True,
            )
            if done.returncode != 0:
                sys.exit(f"{backend}: {done.stderr[-3000:]}")
            results[backend] = json.loads(result.read_text())
    print(table(results))
    for backend, cells in results.items():
        for cell in cells:
            if "error" in cell:
                print(f"\n{backend}, {cell['format']}: {cell['error']}")
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
