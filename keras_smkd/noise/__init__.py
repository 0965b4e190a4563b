"""Label noise: how labels go wrong, and labels drawn accordingly.

Everything here is NumPy, draws from a generator of its own, and never touches
a global random state. `make_noisy` is the short way to noisy labels.
"""

from keras_smkd.noise.cifar import CIFAR100_COARSE_LABELS
from keras_smkd.noise.cifar import asymmetric_cifar10
from keras_smkd.noise.cifar import asymmetric_cifar100
from keras_smkd.noise.cifar import asymmetric_cifar100_blocks
from keras_smkd.noise.injectors import KINDS
from keras_smkd.noise.injectors import make_noisy
from keras_smkd.noise.injectors import make_noisy_by_instance
from keras_smkd.noise.injectors import make_noisy_by_matrix
from keras_smkd.noise.instance import draw_instance_dependent_probabilities
from keras_smkd.noise.instance import instance_dependent_probabilities
from keras_smkd.noise.labels import corrupt_labels
from keras_smkd.noise.labels import draw_labels
from keras_smkd.noise.labels import realized_noise_rate
from keras_smkd.noise.labels import realized_transition_matrix
from keras_smkd.noise.matrices import check_transition_matrix
from keras_smkd.noise.matrices import pair_flip
from keras_smkd.noise.matrices import symmetric_excluding_true
from keras_smkd.noise.matrices import symmetric_including_true
from keras_smkd.noise.open_set import OpenSetImages
from keras_smkd.noise.open_set import replace_images
from keras_smkd.noise.result import NoisyLabels

__all__ = [
    "CIFAR100_COARSE_LABELS",
    "KINDS",
    "NoisyLabels",
    "OpenSetImages",
    "asymmetric_cifar10",
    "asymmetric_cifar100",
    "asymmetric_cifar100_blocks",
    "check_transition_matrix",
    "corrupt_labels",
    "draw_instance_dependent_probabilities",
    "draw_labels",
    "instance_dependent_probabilities",
    "make_noisy",
    "make_noisy_by_instance",
    "make_noisy_by_matrix",
    "pair_flip",
    "realized_noise_rate",
    "realized_transition_matrix",
    "replace_images",
    "symmetric_excluding_true",
    "symmetric_including_true",
]
