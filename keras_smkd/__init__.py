"""Selective mutual knowledge distillation for noisy labels, in Keras 3."""

__version__ = "0.1.0"
