"""Selective mutual knowledge distillation for noisy labels, in Keras 3."""

from keras_smkd import callbacks
from keras_smkd import data
from keras_smkd import estimators
from keras_smkd import functional
from keras_smkd import losses
from keras_smkd import metrics
from keras_smkd import noise
from keras_smkd import schedules
from keras_smkd import selection
from keras_smkd import targets
from keras_smkd.export import export
from keras_smkd.model import SelectiveMutualDistillation

__version__ = "0.1.0"

__all__ = [
    "SelectiveMutualDistillation",
    "callbacks",
    "data",
    "estimators",
    "export",
    "functional",
    "losses",
    "metrics",
    "noise",
    "schedules",
    "selection",
    "targets",
]
