"""Selective mutual distillation as an estimator of scikit-learn."""

from keras_smkd.sklearn.classifier import SelectiveMutualClassifier

__all__ = ["SelectiveMutualClassifier"]
