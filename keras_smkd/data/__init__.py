"""Data sets, human labels, and pipelines for `fit` and for torch.

The only room that touches TensorFlow and TensorFlow Datasets, and only inside
its functions: importing it loads neither. `make_pipeline` is for `tf.data`,
which feeds `fit` on every backend; `PipelineSequence` and
`make_torch_dataset` do without TensorFlow. Labels come in already noisy:
noise is drawn once per data set, by `keras_smkd.noise`, never once per batch.
"""

from keras_smkd.data.examples import Examples
from keras_smkd.data.examples import from_arrays
from keras_smkd.data.folders import load_folder
from keras_smkd.data.human import load_human_labels
from keras_smkd.data.loaders import make_torch_dataset
from keras_smkd.data.pipeline import make_pipeline
from keras_smkd.data.pydataset import PipelineSequence
from keras_smkd.data.rand_augment import RAND_AUGMENT_OPS
from keras_smkd.data.recipes import RECIPES
from keras_smkd.data.recipes import Augmentation
from keras_smkd.data.sets import load_tfds
from keras_smkd.data.splits import split
from keras_smkd.data.tables import load_csv

__all__ = [
    "RAND_AUGMENT_OPS",
    "RECIPES",
    "Augmentation",
    "Examples",
    "PipelineSequence",
    "from_arrays",
    "load_csv",
    "load_folder",
    "load_human_labels",
    "load_tfds",
    "make_pipeline",
    "make_torch_dataset",
    "split",
]
