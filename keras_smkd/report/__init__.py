"""Which labels are wrong, what they should be, and how noisy the data are."""

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
    "suspicious_labels",
    "to_cleanlab",
    "transition_matrix",
]
