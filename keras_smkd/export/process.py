"""Writing in another Python process, under a backend that can."""

import importlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import keras

from keras_smkd.export import writers
from keras_smkd.export.serving_model import ServingModel

_SCRIPT = """
import sys
from keras_smkd.export.process import run_job
run_job(sys.argv[1])
"""


def write_elsewhere(
    models: dict[str, ServingModel],
    format: str,
    folder: pathlib.Path,
    class_names: list[str] | None,
    backend: str,
) -> None:
    """Write artefacts by saving the models and loading them elsewhere.

    The other process sees no accelerator, so that what it writes runs on any
    machine, and does not ask for memory that this one holds.

    Args:
        models: From the artefact's name to its model.
        format: A key of `FORMATS`.
        folder: Where each artefact's folder is made.
        class_names: As for `writers.write`.
        backend: The Keras backend of the other process.

    Raises:
        ValueError: if an object of the models is defined in the running
            script.
        RuntimeError: if the other process fails.
    """
    modules = custom_modules(models.values())
    with tempfile.TemporaryDirectory() as scratch:
        for name, model in models.items():
            model.save(pathlib.Path(scratch, f"{name}.keras"))
        job = {
            "names": list(models),
            "format": format,
            "folder": str(folder),
            "class_names": class_names,
            "modules": modules,
        }
        pathlib.Path(scratch, "job.json").write_text(
            json.dumps(job), encoding="utf-8"
        )
        environment = {
            **os.environ,
            "KERAS_BACKEND": backend,
            "KERAS_TORCH_DEVICE": "cpu",
            "CUDA_VISIBLE_DEVICES": "-1",
            "TF_CPP_MIN_LOG_LEVEL": "2",
            # The other process must find what this one has imported.
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        }
        done = subprocess.run(
            [sys.executable, "-c", _SCRIPT, scratch],
            env=environment,
            capture_output=True,
            text=True,
        )
    if done.returncode != 0:
        raise RuntimeError(
            f"the process under {backend} failed. Custom layers must be "
            "registered with Keras, in a module that can be imported. It "
            f"said:\n{done.stderr[-2000:]}"
        )


def run_job(scratch: str) -> None:
    """Do in this process what `write_elsewhere` has put into a folder."""
    place = pathlib.Path(scratch)
    job = json.loads((place / "job.json").read_text(encoding="utf-8"))
    for module in job["modules"]:
        importlib.import_module(module)
    for name in job["names"]:
        model = keras.saving.load_model(place / f"{name}.keras", compile=False)
        writers.write(
            model,
            job["format"],
            pathlib.Path(job["folder"], name),
            job["class_names"],
        )


def custom_modules(models: Any) -> list[str]:
    """Return the modules whose import registers the models' own objects.

    Raises:
        ValueError: if one is the running script, which must not run twice.
    """
    found = {
        module
        for model in models
        for module in _modules(keras.saving.serialize_keras_object(model))
        if module.split(".")[0] not in ("keras", "keras_smkd", "builtins")
    }
    if "__main__" in found:
        raise ValueError(
            "`model` must have no custom objects that are defined in the "
            "running script or notebook, for another process has to find "
            "them: move them into a module, and import that. Received: "
            "objects of the module '__main__'."
        )
    return sorted(found)


def _modules(config: Any) -> Iterator[str]:
    """Yield the modules that a serialised object names, at any depth."""
    if isinstance(config, dict):
        if "module" in config and "class_name" in config:
            # Keras leaves out the name of the running script.
            yield config["module"] or "__main__"
        for value in config.values():
            yield from _modules(value)
    elif isinstance(config, (list, tuple)):
        for value in config:
            yield from _modules(value)
