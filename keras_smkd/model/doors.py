"""What is checked, and set right for Keras, before data enter the model."""

import functools
import inspect
from typing import Any

import keras

from keras_smkd.model import labels as labels_module
from keras_smkd.model import memory
from keras_smkd.model.progress import FIT_SIGNATURE
from keras_smkd.model.progress import ProgressModel

TRAIN_SIGNATURE = inspect.signature(keras.Model.train_on_batch)


class CheckedModel(ProgressModel):
    """A model that looks at labels in memory before it trains on them."""

    # Known once the model is built; nothing is checked before.
    num_classes: Any = None

    @functools.wraps(keras.Model.fit)
    def fit(self, *args: Any, **kwargs: Any) -> Any:
        given = FIT_SIGNATURE.bind(self, *args, **kwargs).arguments
        self._check_training_labels(given.get("y"))
        validation_data = given.get("validation_data")
        if isinstance(validation_data, (list, tuple)):
            self._check_label_values(*validation_data[1:2])
        given.pop("self")
        return super().fit(**labels_module.with_class_weight(given))

    @functools.wraps(keras.Model.evaluate)
    def evaluate(
        self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        self._check_label_values(y)
        try:
            return super().evaluate(x, y, *args, **kwargs)
        finally:
            self._put_weights_back()

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: Any = "auto",
        steps: int | None = None,
        callbacks: Any = None,
    ) -> Any:
        """Return the model's outputs; as `keras.Model.predict`."""
        try:
            return super().predict(x, batch_size, verbose, steps, callbacks)
        finally:
            self._put_weights_back()

    @functools.wraps(keras.Model.train_on_batch)
    def train_on_batch(
        self, x: Any, y: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        self._check_training_labels(y)
        self.settle_step()
        given = TRAIN_SIGNATURE.bind(self, x, y, *args, **kwargs).arguments
        given.pop("self")
        return super().train_on_batch(**labels_module.with_class_weight(given))

    @functools.wraps(keras.Model.test_on_batch)
    def test_on_batch(
        self, x: Any, y: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        self._check_label_values(y)
        return super().test_on_batch(x, y, *args, **kwargs)

    def _put_weights_back(self) -> None:
        # On JAX, an error can leave the model without. `fit` does it itself.
        if keras.backend.backend() == "jax":
            self.jax_state_sync()

    def _check_training_labels(self, y: Any = None) -> None:
        self._check_label_values(y)
        if memory.remembers(self.target):
            memory.check_index_values(y, self.target.num_examples)

    def _check_label_values(self, y: Any = None) -> None:
        labels_module.check_label_values(y, self.num_classes)
