"""Estimates of label noise: matrices, rates, posteriors.

Everything here is NumPy in and NumPy out, float64, and never touches a global
random state.
"""

from keras_smkd.estimators.beta import beta_mixture_posterior
from keras_smkd.estimators.beta import fit_beta_mixture
from keras_smkd.estimators.gaussian import gaussian_mixture_posterior
from keras_smkd.estimators.matrices import anchor_transition_matrix
from keras_smkd.estimators.matrices import clean_set_transition_matrix
from keras_smkd.estimators.matrices import dual_t_transition_matrix
from keras_smkd.estimators.matrices import intermediate_transition_matrix
from keras_smkd.estimators.mixture import BetaMixture
from keras_smkd.estimators.rates import agreement_noise_rate
from keras_smkd.estimators.rates import discard_ratio
from keras_smkd.estimators.rates import matrix_noise_rate

__all__ = [
    "BetaMixture",
    "agreement_noise_rate",
    "anchor_transition_matrix",
    "beta_mixture_posterior",
    "clean_set_transition_matrix",
    "discard_ratio",
    "dual_t_transition_matrix",
    "fit_beta_mixture",
    "gaussian_mixture_posterior",
    "intermediate_transition_matrix",
    "matrix_noise_rate",
]
