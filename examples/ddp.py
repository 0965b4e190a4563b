"""Digits with wrong labels, on several processes of torch.

Every process trains on its own part of each epoch; torch's
DistributedDataParallel averages the gradients, so that all of them hold the
same peers. It also works over several machines. The data are scikit-learn's
1,797 real digits. Half a minute on two CPU cores:

    torchrun --nproc_per_node 2 examples/ddp.py
"""

import os

os.environ["KERAS_BACKEND"] = "torch"
# On a busy machine more threads make torch slower, not faster.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import keras
import numpy as np
import torch
from absl import app
from absl import flags
from sklearn import datasets
from sklearn import model_selection
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

import keras_smkd
from keras_smkd import callbacks
from keras_smkd import noise

FLAGS = flags.FLAGS
flags.DEFINE_integer("epochs", 20, "Epochs.", lower_bound=1)
flags.DEFINE_integer("batch_size", 64, "Examples in all processes together.")
flags.DEFINE_integer("seed", 0, "Seed of the split, noise and weights.")


class DistributedPeers(keras_smkd.SelectiveMutualDistillation):
    """Peers that `fit` trains through torch's DistributedDataParallel."""

    _replica = None

    def distribute(self, **kwargs):
        """Let training go through the other processes from now on."""
        replica = DistributedDataParallel(self, **kwargs)
        # In a list: a module cannot be a part of itself.
        self.__dict__["_replica"] = [replica]

    def __call__(self, *args, training=None, **kwargs):
        if not training or self._replica is None:
            return super().__call__(*args, training=training, **kwargs)
        (replica,), self.__dict__["_replica"] = self._replica, None
        try:
            # It calls the model, and sees to the gradients of what comes out.
            return replica(*args, training=training, **kwargs)
        finally:
            self.__dict__["_replica"] = [replica]


def make_peer():
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(256, activation="relu"),
            keras.layers.Dense(10),
        ]
    )


def main(argv):
    del argv
    # Where torchrun has not started it, one process is all there is.
    os.environ.setdefault("MASTER_ADDR", "localhost")
    os.environ.setdefault("MASTER_PORT", "29500")
    rank = int(os.environ.setdefault("RANK", "0"))
    world = int(os.environ.setdefault("WORLD_SIZE", "1"))
    distributed.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo"
    )
    keras.utils.set_random_seed(FLAGS.seed)

    digits = datasets.load_digits()
    x_train, x_test, y_train, y_test = model_selection.train_test_split(
        digits.data.astype("float32") / 16.0,
        digits.target,
        test_size=500,
        stratify=digits.target,
        random_state=FLAGS.seed,
    )
    noisy = noise.make_noisy(
        y_train,
        "symmetric_excluding_true",
        0.4,
        num_classes=10,
        seed=FLAGS.seed,
    )
    train = keras_smkd.data.PipelineSequence(
        x_train,
        noisy.noisy_labels,
        batch_size=FLAGS.batch_size // world,
        shuffle=True,
        seed=FLAGS.seed,
        shard=(rank, world),
        drop_remainder=True,
    )
    model = DistributedPeers([make_peer(), make_peer()], distillation_weight=4)
    model.compile(
        keras.optimizers.Adam(0.002),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.distribute()
    model.fit(
        train,
        epochs=FLAGS.epochs,
        verbose=0,
        callbacks=[callbacks.ProgressiveThreshold(0.5, sharpness=-8.0)],
    )
    if rank == 0:
        accuracy = np.mean(model.predict(x_test, verbose=0).argmax(1) == y_test)
        print(repr(noisy))
        print(f"{world} processes, test accuracy {100 * accuracy:.1f} %")
    distributed.destroy_process_group()


if __name__ == "__main__":
    app.run(main)
