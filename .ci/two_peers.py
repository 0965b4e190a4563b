"""What the wheel must do with a backend and nothing else installed."""

import importlib.util
import pathlib
import sys
import tempfile

import keras
import numpy as np

import keras_smkd

assert "site-packages" in keras_smkd.__file__, keras_smkd.__file__
for extra in ("tensorflow_datasets", "keras_cv", "sklearn", "PIL", "pandas"):
    assert importlib.util.find_spec(extra) is None, extra
assert (pathlib.Path(keras_smkd.__file__).parent / "py.typed").is_file()

rng = np.random.default_rng(0)
x = rng.normal(size=(256, 8)).astype("float32")
clean_labels = (x[:, 0] > 0).astype("int64")
noisy = keras_smkd.noise.make_noisy(
    clean_labels, "symmetric_excluding_true", 0.2, num_classes=2, seed=0
)
model = keras_smkd.SelectiveMutualDistillation(
    [
        keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
        for _ in range(2)
    ]
)
model.compile(
    keras.optimizers.Adam(0.05),
    "sparse_categorical_crossentropy",
    metrics=["accuracy"],
)
model.fit(x, noisy.noisy_labels, epochs=10, verbose=0)
with tempfile.TemporaryDirectory() as folder:
    model.save(f"{folder}/model.keras")
    model = keras.saving.load_model(f"{folder}/model.keras")
predicted = model.predict(x, verbose=0).argmax(axis=-1)
accuracy = float((predicted == clean_labels).mean())
assert accuracy > 0.9, accuracy
suspects = keras_smkd.report.suspicious_labels(model, x, noisy.noisy_labels)
found = len(suspects.selected.nonzero()[0])
print(
    f"Python {sys.version.split()[0]}, Keras {keras.__version__}, "
    f"{keras.backend.backend()}: accuracy {accuracy:.3f}, {found} suspects of "
    f"{int(noisy.is_noisy.sum())} wrong labels."
)
