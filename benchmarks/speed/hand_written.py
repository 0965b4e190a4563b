"""What the package adds to a deep mutual learning loop written by hand.

    python benchmarks/speed/hand_written.py [--json FILE]

The loop is what a skilled user of PyTorch would write: one forward pass per
peer, knowledge detached, one fused optimizer for all peers, all of the data in
memory. The same network and data are trained five ways, on as many threads:

- PyTorch, the loop, and as many plain loops as there are peers;
- Keras on each backend, peers of one model (threshold above 1, all knowledge)
  and as many plain models.

Of each, `together / apart` says what distillation costs there, apart from what
Keras costs. `/ PyTorch` is the same training against that of PyTorch, which is
first checked to come to the same losses as ours on torch. Every way has a
process of its own, and these are told in turn to train an epoch.
"""

import functools
import json
import os
import statistics
import subprocess
import sys
import time

BACKENDS = ("torch", "jax", "tensorflow")
BATCH = 128
LEARNING_RATE, MOMENTUM = 0.05, 0.9


def make_data(steps):
    import numpy as np

    generator = np.random.default_rng(0)
    x = generator.normal(size=(steps * BATCH, 1, 28, 28)).astype("float32")
    return x, generator.integers(0, 10, len(x))


# By hand.


def torch_network(kind):
    from torch import nn

    if kind == "mlp":
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(784, 512),
            nn.ReLU(),
            nn.Linear(512, 512),
            nn.ReLU(),
            nn.Linear(512, 10),
        )
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding="same"),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding="same"),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def torch_sgd(networks):
    import torch

    parameters = [p for network in networks for p in network.parameters()]
    return torch.optim.SGD(
        parameters, LEARNING_RATE, momentum=MOMENTUM, fused=True
    )


def mutual_loss(networks, x, y):
    """Return deep mutual learning's loss and the correct predictions."""
    from torch.nn import functional

    logits = [network(x) for network in networks]
    log_probs = [functional.log_softmax(z, dim=1) for z in logits]
    knowledge = [values.detach() for values in log_probs]
    loss = 0.0
    for i, learner in enumerate(log_probs):
        loss = loss + functional.nll_loss(learner, y)
        for j, teacher in enumerate(knowledge):
            if i != j:
                loss = loss + functional.kl_div(
                    learner, teacher, reduction="batchmean", log_target=True
                ) / (len(networks) - 1)
    correct = sum((z.detach().argmax(1) == y).sum() for z in logits)
    return loss, correct


def plain_loss(networks, x, y):
    from torch.nn import functional

    logits = networks[0](x)
    correct = (logits.detach().argmax(1) == y).sum()
    return functional.cross_entropy(logits, y), correct


def torch_epoch(networks, optimizer, loss_of, x, y, shuffle=True):
    """Train an epoch; return its mean loss and the correct predictions."""
    import torch

    order = torch.randperm(len(x)) if shuffle else torch.arange(len(x))
    total, correct = torch.zeros(()), torch.zeros(())
    for batch in order.split(BATCH):
        loss, right = loss_of(networks, x[batch], y[batch])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.detach()
        correct += right
    return float(total) * BATCH / len(x), float(correct)


def by_hand(kind, num_peers, steps):
    """Return `{"together": ..., "apart": ...}`, each trains an epoch."""
    import torch

    x, y = map(torch.from_numpy, make_data(steps))

    def trainings(sets, loss_of):
        made = [(networks, torch_sgd(networks)) for networks in sets]
        return lambda: [
            torch_epoch(networks, optimizer, loss_of, x, y)
            for networks, optimizer in made
        ]

    peers = [torch_network(kind) for _ in range(num_peers)]
    return {
        "together": trainings([peers], mutual_loss),
        "apart": trainings(
            [[torch_network(kind)] for _ in range(num_peers)], plain_loss
        ),
    }


# Keras.


def keras_network(kind):
    import keras
    from keras import layers

    if kind == "mlp":
        return keras.Sequential(
            [
                keras.Input((1, 28, 28)),
                layers.Flatten(),
                layers.Dense(512, activation="relu"),
                layers.Dense(512, activation="relu"),
                layers.Dense(10),
            ]
        )
    return keras.Sequential(
        [
            keras.Input((1, 28, 28)),
            layers.Reshape((28, 28, 1)),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10),
        ]
    )


def keras_sgd():
    import keras

    return keras.optimizers.SGD(LEARNING_RATE, MOMENTUM)


def keras_peers(networks):
    import keras_smkd

    model = keras_smkd.SelectiveMutualDistillation(
        networks,
        selection=keras_smkd.selection.ConfidentKnowledge(threshold=1.1),
        gate=None,
    )
    model.compile(
        keras_sgd(), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


def with_keras(kind, num_peers, steps):
    """Return `{"together": ..., "apart": ...}`, each trains an epoch."""
    import keras

    x, y = make_data(steps)
    models = []
    for _ in range(num_peers):
        model = keras_network(kind)
        model.compile(
            keras_sgd(),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        models.append(model)
    peers = keras_peers([keras_network(kind) for _ in range(num_peers)])

    def training(models):
        return lambda: [
            model.fit(x, y, batch_size=BATCH, verbose=0) for model in models
        ]

    return {"together": training([peers]), "apart": training(models)}


def check_equal_losses(kind, steps=5):
    """Raise unless the loop and our model on torch train alike."""
    import numpy as np
    import torch

    torch.manual_seed(0)
    networks = [torch_network(kind) for _ in range(2)]
    peers = [keras_network(kind) for _ in range(2)]
    for network, peer in zip(networks, peers, strict=True):
        values = [p.detach().numpy() for p in network.parameters()]
        peer.set_weights(
            [
                v.transpose(2, 3, 1, 0) if v.ndim == 4 else v.T.copy()
                for v in values
            ]
        )
    x, y = make_data(steps)
    model = keras_peers(peers)
    optimizer = torch_sgd(networks)
    tensors = torch.from_numpy(x), torch.from_numpy(y)
    for _ in range(2):
        loss, _ = torch_epoch(
            networks, optimizer, mutual_loss, *tensors, shuffle=False
        )
        history = model.fit(
            x, y, batch_size=BATCH, shuffle=False, verbose=0
        ).history
        np.testing.assert_allclose(history["loss"][0], loss, rtol=1e-5)


# The processes.


class Way:
    """A process that trains an epoch when it is told to."""

    def __init__(self, way, kind, num_peers, steps):
        environment = {
            **os.environ,
            "KERAS_BACKEND": "torch" if way == "by hand" else way,
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        self.process = subprocess.Popen(
            [
                *[sys.executable, __file__, "--serve", way, kind],
                *[str(num_peers), str(steps)],
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def seconds(self, task):
        self.process.stdin.write(f"{task}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def serve(way, kind, num_peers, steps):
    """Do what comes on standard input, and tell the seconds that it took."""
    if way in ("by hand", "torch"):
        import torch

        torch.set_num_threads(len(os.sched_getaffinity(0)))
    make = by_hand if way == "by hand" else with_keras
    tasks = make(kind, int(num_peers), int(steps))
    if way == "torch":
        check_equal_losses(kind)
    for task in tasks.values():
        task()
    for line in sys.stdin:
        start = time.perf_counter()
        tasks[line.strip()]()
        print(json.dumps(time.perf_counter() - start), flush=True)


def main():
    if sys.argv[1:2] == ["--serve"]:
        return serve(*sys.argv[2:])
    import measuring

    parser = measuring.parser(__doc__, rounds=9)
    parser.add_argument("--steps", type=int, default=32, help="per epoch")
    parser.add_argument("--peers", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--networks", nargs="+", default=["mlp", "conv"])
    parser.add_argument("--backends", nargs="+", default=list(BACKENDS))
    arguments = parser.parse_args()
    table = measuring.Table(
        {
            "network": ("network", 9, "s"),
            "peers": ("peers", 6, "d"),
            "way": ("  way", 14, "s"),
            "distillation": ("together / apart", 18, ".3f"),
            "apart": ("apart / PyTorch", 17, ".2f"),
            "together": ("together / PyTorch", 20, ".2f"),
            "step_ms": ("ms/step", 9, ".2f"),
        }
    )
    for kind in arguments.networks:
        for num_peers in arguments.peers:
            ways = {
                way: Way(way, kind, num_peers, arguments.steps)
                for way in ("by hand", *arguments.backends)
            }
            parts = {
                (way, task): functools.partial(process.seconds, task)
                for way, process in ways.items()
                for task in ("together", "apart")
            }
            seconds = measuring.time_in_rounds(parts, arguments.rounds)
            for way in ways:
                table.add(
                    network=kind,
                    peers=num_peers,
                    way=f"  {way}",
                    distillation=measuring.ratio(
                        seconds[way, "together"], seconds[way, "apart"]
                    ),
                    **{
                        task: measuring.ratio(
                            seconds[way, task], seconds["by hand", task]
                        )
                        for task in ("apart", "together")
                    },
                    step_ms=1000
                    * statistics.median(seconds[way, "together"])
                    / arguments.steps,
                )
                ways[way].end()
    table.write(arguments.json, steps=arguments.steps, rounds=arguments.rounds)


if __name__ == "__main__":
    main()
