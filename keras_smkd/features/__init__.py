"""Features: what inner layers put out, and what is made of it.

Features are named by the layers of the peers that put them out, their *taps*.
A recorder calls a peer once and returns its prediction and its features; a
head is one more classifier, on the features of all peers.

A head is a `keras.layers.Layer` with an attribute `taps`, the names of the
layers (one name for all peers, or one for each), a method
`prepare(peers, num_classes)` that makes its weights, and a call
`(features, training) -> (batch, classes)`, logits, of a list of one tensor for
each peer.
"""

from keras_smkd.features.fusion import FeatureConcatenation
from keras_smkd.features.fusion import FeatureFusion
from keras_smkd.features.recording import names_for_peers
from keras_smkd.features.recording import recorder

__all__ = [
    "FeatureConcatenation",
    "FeatureFusion",
    "names_for_peers",
    "recorder",
]
