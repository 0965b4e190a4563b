"""Which labels are wrong, what they should be, and how noisy the data are."""

from keras_smkd.report.pictures import plot_dynamics
from keras_smkd.report.pictures import plot_history
from keras_smkd.report.pictures import plot_noise_matrix
from keras_smkd.report.pictures import plot_suspects
from keras_smkd.report.summaries import corrected_labels
from keras_smkd.report.summaries import noise_rate
from keras_smkd.report.summaries import to_cleanlab
from keras_smkd.report.summaries import transition_matrix
from keras_smkd.report.suspicion import suspicious_labels
from keras_smkd.report.table import SuspiciousLabels

__all__ = [
    "SuspiciousLabels",
    "corrected_labels",
    "noise_rate",
    "plot_dynamics",
    "plot_history",
    "plot_noise_matrix",
    "plot_suspects",
    "suspicious_labels",
    "to_cleanlab",
    "transition_matrix",
]
