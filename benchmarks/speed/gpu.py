"""On one GPU: N peers against N models, and against a loop written by hand.

    KERAS_BACKEND=jax python benchmarks/speed/gpu.py --policy mixed_bfloat16
    KERAS_BACKEND=torch python benchmarks/speed/gpu.py --profile trace/

ResNet-18 peers for images of 32x32, synthetic data, batch 128. Needs Keras, one
of JAX and PyTorch, and this package; nothing else. Shown, in milliseconds of a
warm step, as medians over rounds in turn:

- `apart`: so many plain `keras.Model`s, one after the other;
- `together`: peers of one model, `together / apart` the ratio;
- `by hand` (torch only): the loop of deep mutual learning in PyTorch, same
  network, optimizer and autocast, and `together / by hand`.

`--profile DIR` writes a trace of three warm steps of `together`: open it with
Perfetto or TensorBoard. `--allow_cpu` tries the script without a GPU.
"""

import contextlib
import os
import pathlib
import statistics
import sys
import time

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import measuring
import numpy as np
from keras import layers

import keras_smkd

BACKEND = keras.backend.backend()
NUM_CLASSES = 10


def resnet18(width=64):
    """ResNet-18 whose first layer keeps the size of small images."""

    def convolution(x, filters, size, strides=1):
        x = layers.Conv2D(
            filters, size, strides, padding="same", use_bias=False
        )(x)
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)

    inputs = keras.Input((32, 32, 3))
    x = layers.ReLU()(convolution(inputs, width, 3))
    for stage in range(4):
        filters = width * 2**stage
        for block in range(2):
            strides = 2 if stage and not block else 1
            y = layers.ReLU()(convolution(x, filters, 3, strides))
            y = convolution(y, filters, 3)
            if strides != 1:
                x = convolution(x, filters, 1, strides)
            x = layers.ReLU()(x + y)
    x = layers.GlobalAveragePooling2D()(x)
    # The softmax is taken in float32, whatever the policy.
    return keras.Model(inputs, layers.Dense(NUM_CLASSES, dtype="float32")(x))


def torch_resnet18(width=64):
    from torch import nn

    def convolution(inputs, filters, size, strides=1):
        return nn.Sequential(
            nn.Conv2d(
                inputs, filters, size, strides, padding=size // 2, bias=False
            ),
            nn.BatchNorm2d(filters),
        )

    class Block(nn.Module):
        def __init__(self, inputs, filters, strides):
            super().__init__()
            self.first = convolution(inputs, filters, 3, strides)
            self.second = convolution(filters, filters, 3)
            self.shortcut = (
                nn.Identity()
                if strides == 1
                else convolution(inputs, filters, 1, strides)
            )

        def forward(self, x):
            y = self.second(self.first(x).relu())
            return (y + self.shortcut(x)).relu()

    blocks = [
        Block(
            width * 2 ** (stage - 1) if stage and not block else filters,
            filters,
            2 if stage and not block else 1,
        )
        for stage in range(4)
        for filters in [width * 2**stage]
        for block in range(2)
    ]
    return nn.Sequential(
        convolution(3, width, 3),
        nn.ReLU(),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8 * width, NUM_CLASSES),
    )


def make_batches(steps, batch):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(steps * batch, 32, 32, 3)).astype("float32")
    return x, generator.integers(0, NUM_CLASSES, len(x)).astype("int32")


def compiled(model):
    loss = "sparse_categorical_crossentropy"
    if not isinstance(model, keras_smkd.SelectiveMutualDistillation):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss)
    return model


class WarmSteps(keras.callbacks.Callback):
    """Times the second epoch: what comes first is in the first."""

    def on_epoch_end(self, epoch, logs=None):
        for value in logs.values():
            float(value)  # Waits for the device.
        now = time.perf_counter()
        if epoch == 1:
            self.seconds = now - self.last
        self.last = now


def keras_part(models, data, batch):
    def seconds():
        total = 0.0
        for model in models:
            timer = WarmSteps()
            model.fit(
                *data, batch_size=batch, epochs=2, verbose=0, callbacks=[timer]
            )
            total += timer.seconds
        return total

    return seconds


def torch_part(num_peers, data, batch, width, policy):
    """Return the loop written by hand, as a function that times itself."""
    import torch
    from torch.nn import functional

    device = "cuda" if torch.cuda.is_available() else "cpu"
    networks = [
        torch_resnet18(width).to(device, memory_format=torch.channels_last)
        for _ in range(num_peers)
    ]
    parameters = [p for network in networks for p in network.parameters()]
    optimizer = torch.optim.SGD(parameters, 0.05, momentum=0.9, fused=True)
    half = {"mixed_bfloat16": torch.bfloat16, "mixed_float16": torch.float16}
    scaler = torch.amp.GradScaler(device, enabled=policy == "mixed_float16")
    x = torch.from_numpy(data[0].transpose(0, 3, 1, 2).copy()).to(
        device, memory_format=torch.channels_last
    )
    y = torch.from_numpy(data[1]).long().to(device)

    def step(places):
        with torch.autocast(
            device, dtype=half.get(policy), enabled=policy in half
        ):
            logits = [network(x[places]).float() for network in networks]
        log_probs = [functional.log_softmax(z, dim=1) for z in logits]
        loss = 0.0
        for i, learner in enumerate(log_probs):
            loss = loss + functional.nll_loss(learner, y[places])
            for j, teacher in enumerate(log_probs):
                if i != j:
                    loss = loss + functional.kl_div(
                        learner,
                        teacher.detach(),
                        reduction="batchmean",
                        log_target=True,
                    ) / (num_peers - 1)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    def epoch():
        start = time.perf_counter()
        losses = [
            step(places)
            for places in torch.randperm(len(y), device=device).split(batch)
        ]
        float(sum(losses))  # Waits for the device.
        return time.perf_counter() - start

    def seconds():
        epoch()
        return epoch()

    return seconds


@contextlib.contextmanager
def traced(folder):
    """Write a trace of what runs inside."""
    if BACKEND == "jax":
        import jax

        with jax.profiler.trace(str(folder)):
            yield
    else:
        import torch

        with torch.profiler.profile() as profile:
            yield
        folder.mkdir(parents=True, exist_ok=True)
        profile.export_chrome_trace(str(folder / "trace.json"))


def device_name():
    """Return the name of the GPU, `None` without one."""
    if BACKEND == "jax":
        import jax

        device = jax.devices()[0]
        return None if device.platform == "cpu" else device.device_kind
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def begin(policy):
    """Set the dtype policy, and print what is timed on."""
    if BACKEND not in ("jax", "torch"):
        sys.exit("KERAS_BACKEND must be jax or torch.")
    keras.config.set_dtype_policy(policy)
    print(f"{device_name() or 'CPU'}, {BACKEND}, {policy}")


def write(table, arguments):
    """Write a table and what it depends on, if there is a file to write."""
    table.write(
        arguments.json,
        device=device_name(),
        backend=BACKEND,
        policy=arguments.policy,
        batch=arguments.batch,
        rounds=arguments.rounds,
    )


def main():
    parser = measuring.parser(__doc__, rounds=5)
    parser.add_argument("--peers", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=50, help="per epoch")
    parser.add_argument("--width", type=int, default=64, help="first filters")
    parser.add_argument("--policy", default="float32")
    parser.add_argument("--profile", type=pathlib.Path, help="trace's folder")
    parser.add_argument("--allow_cpu", action="store_true")
    arguments = parser.parse_args()
    begin(arguments.policy)
    if device_name() is None and not arguments.allow_cpu:
        sys.exit("There is no GPU. Give --allow_cpu to try the script.")
    data = make_batches(arguments.steps, arguments.batch)
    table = measuring.Table(
        {
            "peers": ("peers", 6, "d"),
            "apart": ("apart", 10, ".3f"),
            "together": ("together", 10, ".3f"),
            "by hand": ("by hand", 10, ".3f"),
            "to_apart": ("together / apart", 18, ".3f"),
            "to_by hand": ("together / by hand", 20, ".3f"),
        }
    )
    for num_peers in arguments.peers:
        models = [compiled(resnet18(arguments.width)) for _ in range(num_peers)]
        together = compiled(
            keras_smkd.SelectiveMutualDistillation(
                [resnet18(arguments.width) for _ in range(num_peers)],
                selection=keras_smkd.selection.ConfidentKnowledge(
                    threshold=1.1
                ),
                gate=None,
            )
        )
        parts = {
            "apart": keras_part(models, data, arguments.batch),
            "together": keras_part([together], data, arguments.batch),
        }
        if BACKEND == "torch":
            parts["by hand"] = torch_part(
                num_peers,
                data,
                arguments.batch,
                arguments.width,
                arguments.policy,
            )
        seconds = measuring.time_in_rounds(parts, arguments.rounds)
        table.add(
            peers=num_peers,
            **{
                name: 1000 * statistics.median(values) / arguments.steps
                for name, values in seconds.items()
            },
            **{
                f"to_{name}": measuring.ratio(seconds["together"], values)
                for name, values in seconds.items()
                if name != "together"
            },
        )
        if arguments.profile:
            three = 3 * arguments.batch
            with traced(arguments.profile / f"{num_peers}_peers"):
                together.fit(
                    data[0][:three],
                    data[1][:three],
                    batch_size=arguments.batch,
                    verbose=0,
                )
    write(table, arguments)


if __name__ == "__main__":
    main()
