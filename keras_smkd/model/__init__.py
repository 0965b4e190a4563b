"""The model that holds the peers and trains them together."""

from keras_smkd.model.distillation import SelectiveMutualDistillation

__all__ = ["SelectiveMutualDistillation"]
