"""Methods: one function for each system of the field, from the same parts.

Each returns the uncompiled model, so that optimizer, loss and metrics stay the
user's, or runs the method's outer loop. What their papers fix is the default;
departures are said with each.
"""

from keras_smkd.methods.consistency import mean_teacher
from keras_smkd.methods.consistency import temporal_ensembling
from keras_smkd.methods.cross_validation import CrossValidation
from keras_smkd.methods.cross_validation import iterative_cross_validation
from keras_smkd.methods.offline import born_again
from keras_smkd.methods.offline import distillation
from keras_smkd.methods.offline import logit_matching
from keras_smkd.methods.offline import model_compression
from keras_smkd.methods.offline import teacher_free
from keras_smkd.methods.online import dml
from keras_smkd.methods.online import ffl
from keras_smkd.methods.online import kdcl
from keras_smkd.methods.online import pcl
from keras_smkd.methods.online import smkd_progressive
from keras_smkd.methods.online import smkd_static
from keras_smkd.methods.selection import divide_mix
from keras_smkd.methods.selection import early_learning
from keras_smkd.methods.selection import m_correction

__all__ = [
    "CrossValidation",
    "born_again",
    "distillation",
    "divide_mix",
    "dml",
    "early_learning",
    "ffl",
    "iterative_cross_validation",
    "kdcl",
    "logit_matching",
    "m_correction",
    "mean_teacher",
    "model_compression",
    "pcl",
    "smkd_progressive",
    "smkd_static",
    "teacher_free",
    "temporal_ensembling",
]
