"""Methods: one function for each system of the field, from the same parts.

What their papers fix is the default; departures are said with each. There are
four kinds:

- Most return the uncompiled model, so that optimizer, loss and metrics stay
  the user's.
- A system that is its loss or its optimizer takes the optimizer, and returns
  the model compiled: `gce`, `sce`, `active_passive`, `confidence_penalty`,
  `cdr`.
- One of several stages takes data and the arguments of `fit`, and returns the
  trained model: `forward_correction`, `dual_t`, `t_revision`, `dmi`,
  `joint_optimization`, `fitnets`.
- Where a training is repeated, the user gives it as a function: `born_again`,
  `iterative_cross_validation`, `incv`.
"""

from keras_smkd.methods.compiled import active_passive
from keras_smkd.methods.compiled import cdr
from keras_smkd.methods.compiled import confidence_penalty
from keras_smkd.methods.compiled import gce
from keras_smkd.methods.compiled import sce
from keras_smkd.methods.consistency import mean_teacher
from keras_smkd.methods.consistency import temporal_ensembling
from keras_smkd.methods.corrections import bootstrapping
from keras_smkd.methods.corrections import label_smoothing
from keras_smkd.methods.corrections import posterior_smkd
from keras_smkd.methods.corrections import proselflc
from keras_smkd.methods.cross_validation import CrossValidation
from keras_smkd.methods.cross_validation import iterative_cross_validation
from keras_smkd.methods.examples import co_teaching
from keras_smkd.methods.examples import co_teaching_plus
from keras_smkd.methods.examples import incv
from keras_smkd.methods.examples import mentornet
from keras_smkd.methods.features import afd
from keras_smkd.methods.features import fitnets
from keras_smkd.methods.offline import born_again
from keras_smkd.methods.offline import distillation
from keras_smkd.methods.offline import logit_matching
from keras_smkd.methods.offline import model_compression
from keras_smkd.methods.offline import teacher_free
from keras_smkd.methods.online import dml
from keras_smkd.methods.online import ffl
from keras_smkd.methods.online import kdcl
from keras_smkd.methods.online import mc_dropout
from keras_smkd.methods.online import pcl
from keras_smkd.methods.online import smkd_progressive
from keras_smkd.methods.online import smkd_static
from keras_smkd.methods.selection import divide_mix
from keras_smkd.methods.selection import early_learning
from keras_smkd.methods.selection import m_correction
from keras_smkd.methods.stages import dmi
from keras_smkd.methods.stages import dual_t
from keras_smkd.methods.stages import forward_correction
from keras_smkd.methods.stages import joint_optimization
from keras_smkd.methods.stages import t_revision

__all__ = [
    "CrossValidation",
    "active_passive",
    "afd",
    "bootstrapping",
    "born_again",
    "cdr",
    "co_teaching",
    "co_teaching_plus",
    "confidence_penalty",
    "distillation",
    "divide_mix",
    "dmi",
    "dml",
    "dual_t",
    "early_learning",
    "ffl",
    "fitnets",
    "forward_correction",
    "gce",
    "incv",
    "iterative_cross_validation",
    "joint_optimization",
    "kdcl",
    "label_smoothing",
    "logit_matching",
    "m_correction",
    "mc_dropout",
    "mean_teacher",
    "mentornet",
    "model_compression",
    "pcl",
    "posterior_smkd",
    "proselflc",
    "sce",
    "smkd_progressive",
    "smkd_static",
    "t_revision",
    "teacher_free",
    "temporal_ensembling",
]
