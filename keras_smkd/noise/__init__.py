"""Label noise: transition matrices, and labels drawn from them.

Everything here is NumPy, draws from a generator of its own, and never touches
a global random state.
"""

from keras_smkd.noise.labels import corrupt_labels
from keras_smkd.noise.labels import realized_noise_rate
from keras_smkd.noise.labels import realized_transition_matrix
from keras_smkd.noise.matrices import asymmetric_cifar10
from keras_smkd.noise.matrices import check_transition_matrix
from keras_smkd.noise.matrices import pair_flip
from keras_smkd.noise.matrices import symmetric_excluding_true
from keras_smkd.noise.matrices import symmetric_including_true

__all__ = [
    "asymmetric_cifar10",
    "check_transition_matrix",
    "corrupt_labels",
    "pair_flip",
    "realized_noise_rate",
    "realized_transition_matrix",
    "symmetric_excluding_true",
    "symmetric_including_true",
]
