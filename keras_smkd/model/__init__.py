"""The models that hold the peers and train them together."""

from keras_smkd.model.distillation import SelectiveMutualDistillation
from keras_smkd.model.learning import PeerLearning

__all__ = ["PeerLearning", "SelectiveMutualDistillation"]
