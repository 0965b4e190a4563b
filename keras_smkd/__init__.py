"""Selective mutual knowledge distillation for noisy labels, in Keras 3."""

import importlib
from typing import TYPE_CHECKING
from typing import Any

from keras_smkd import callbacks
from keras_smkd import divergences
from keras_smkd import features
from keras_smkd import functional
from keras_smkd import gates
from keras_smkd import knowledge
from keras_smkd import losses
from keras_smkd import methods
from keras_smkd import metrics
from keras_smkd import observers
from keras_smkd import optimizers
from keras_smkd import schedules
from keras_smkd import selection
from keras_smkd import targets
from keras_smkd.batch import Batch
from keras_smkd.export import export
from keras_smkd.model import PeerLearning
from keras_smkd.model import SelectiveMutualDistillation

if TYPE_CHECKING:
    from keras_smkd import data
    from keras_smkd import estimators
    from keras_smkd import noise
    from keras_smkd import report
    from keras_smkd import sklearn

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "PeerLearning",
    "SelectiveMutualDistillation",
    "callbacks",
    "data",
    "divergences",
    "estimators",
    "export",
    "features",
    "functional",
    "gates",
    "knowledge",
    "losses",
    "methods",
    "metrics",
    "noise",
    "observers",
    "optimizers",
    "report",
    "schedules",
    "selection",
    "sklearn",
    "targets",
]

# Training needs none of them, and half of the modules are theirs.
_IMPORTED_WHEN_USED = ("data", "estimators", "noise", "report", "sklearn")


def __getattr__(name: str) -> Any:
    if name in _IMPORTED_WHEN_USED:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
