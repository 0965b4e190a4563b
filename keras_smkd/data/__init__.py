"""Data sets in memory, human labels, and `tf.data` pipelines for `fit`.

The only room that touches TensorFlow and TensorFlow Datasets, and only inside
its functions: importing it loads neither. The pipelines feed `fit` on every
backend. Labels come in already noisy: noise is drawn once per data set, by
`keras_smkd.noise`, never once per batch.
"""

from keras_smkd.data.pipeline import NoisyPipeline
from keras_smkd.data.pipeline import make_pipeline
from keras_smkd.data.pipeline import noisy_pipeline
from keras_smkd.data.sets import Examples
from keras_smkd.data.sets import load_human_labels
from keras_smkd.data.sets import load_tfds

__all__ = [
    "Examples",
    "NoisyPipeline",
    "load_human_labels",
    "load_tfds",
    "make_pipeline",
    "noisy_pipeline",
]
