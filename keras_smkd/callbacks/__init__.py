"""Callbacks: what acts on the model around its steps."""

from keras_smkd.callbacks.dynamics import TrainingDynamics
from keras_smkd.callbacks.ensembles import MeasureEnsemble
from keras_smkd.callbacks.mixtures import FitMixture
from keras_smkd.callbacks.monitors import NoiseMonitor
from keras_smkd.callbacks.thresholds import ProgressiveThreshold
from keras_smkd.callbacks.thresholds import StaticThreshold
from keras_smkd.callbacks.thresholds import ThresholdSchedule

__all__ = [
    "FitMixture",
    "MeasureEnsemble",
    "NoiseMonitor",
    "ProgressiveThreshold",
    "StaticThreshold",
    "ThresholdSchedule",
    "TrainingDynamics",
]
