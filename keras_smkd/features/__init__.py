"""Features: what inner layers put out, and what is made of it.

Features are named by the layers of the peers that put them out, their *taps*.
A recorder calls a peer once and returns its prediction and its features; a
head is one more classifier, on the features of all peers; a feature loss
compares features with a teacher's, or peers' with each other.

A head is a `keras.layers.Layer` with an attribute `taps`, the names of the
layers (one name for all peers, or one for each), a method
`prepare(peers, num_classes)` that makes its weights, and a call
`(features, training) -> (batch, classes)`, logits, of a list of one tensor for
each peer. A feature loss has `taps` and `prepare`, too, and is called with the
`keras_smkd.batch.Batch`, `-> (batch,)`.
"""

from keras_smkd.features.adversaries import FeatureAdversaries
from keras_smkd.features.adversaries import discriminator_loss
from keras_smkd.features.adversaries import fooling_loss
from keras_smkd.features.fusion import FeatureConcatenation
from keras_smkd.features.fusion import FeatureFusion
from keras_smkd.features.hints import Hint
from keras_smkd.features.hints import hint_loss
from keras_smkd.features.recording import names_for_peers
from keras_smkd.features.recording import recorder

__all__ = [
    "FeatureAdversaries",
    "FeatureConcatenation",
    "FeatureFusion",
    "Hint",
    "discriminator_loss",
    "fooling_loss",
    "hint_loss",
    "names_for_peers",
    "recorder",
]
