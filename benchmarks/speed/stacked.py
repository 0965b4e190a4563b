"""What it would save to run identical peers as one stacked model.

    KERAS_BACKEND=jax python benchmarks/speed/stacked.py
    KERAS_BACKEND=torch python benchmarks/speed/stacked.py --networks mlp

One step of deep mutual learning with SGD, without the package and compiled by
the backend's own means (none on torch), once with the peers one after the other
and once vectorised over stacked weights: `jax.vmap`, `torch.func.vmap`. Shown
are milliseconds of a step, medians over rounds in turn, and `stacked / one by
one`.
"""

import os
import statistics
import time

os.environ.setdefault("KERAS_BACKEND", "jax")

import gpu
import keras
import measuring
import numpy as np
import step_time

BACKEND = keras.backend.backend()
NETWORKS = {**step_time.NETWORKS, "resnet18": gpu.resnet18}
LEARNING_RATE = 0.05


def read(variables):
    return [variable.value for variable in variables]


def jax_steps(models, x, y):
    """Return functions of no argument that do so many steps, by their names."""
    import jax
    from jax import numpy as jnp

    def apply(weights, state, x):
        logits, state = models[0].stateless_call(
            weights, state, x, training=True
        )
        return logits.astype("float32"), state

    def one_by_one(weights, states, x):
        results = [
            apply(own, state, x)
            for own, state in zip(weights, states, strict=True)
        ]
        logits, states = zip(*results, strict=True)
        return jnp.stack(logits), list(states)

    stacked = jax.vmap(apply, (0, 0, None))

    def step_of(call):
        def loss(weights, states, x, y):
            logits, states = call(weights, states, x)
            log_probs = jax.nn.log_softmax(logits)
            own = jnp.take_along_axis(log_probs, y[None, :, None], 2)
            # The gradient of the divergences is that of the cross entropies.
            probs = jax.lax.stop_gradient(jnp.exp(log_probs))
            others = (probs.sum(0) - probs) / (len(models) - 1)
            crossed = (others * log_probs).sum(-1)
            return -(own.mean((1, 2)) + crossed.mean(1)).sum(), states

        def step(weights, states):
            gradients, states = jax.grad(loss, has_aux=True)(
                weights, states, x, y
            )
            weights = jax.tree.map(
                lambda w, g: w - LEARNING_RATE * g, weights, gradients
            )
            return weights, states

        return jax.jit(step, donate_argnums=(0, 1))

    def runner(call, weights, states):
        held = [jax.tree.map(jnp.copy, (weights, states))]
        step = step_of(call)

        def run(steps):
            for _ in range(steps):
                held[0] = step(*held[0])
            jax.block_until_ready(held[0])

        return run

    x, y = jnp.asarray(x), jnp.asarray(y)
    weights = [read(model.trainable_variables) for model in models]
    states = [read(model.non_trainable_variables) for model in models]

    def stack(lists):
        return [jnp.stack(values) for values in zip(*lists, strict=True)]

    return {
        "one by one": runner(one_by_one, weights, states),
        "stacked": runner(stacked, stack(weights), stack(states)),
    }


def torch_steps(models, x, y):
    """Return the same functions for torch."""
    import torch
    from torch.nn import functional

    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.from_numpy(x).to(device)
    y = torch.from_numpy(y).long().to(device)

    def apply(weights, state, x):
        logits, state = models[0].stateless_call(
            weights, state, x, training=True
        )
        return logits.float(), state

    def one_by_one(weights, states, x):
        results = [
            apply(own, state, x)
            for own, state in zip(weights, states, strict=True)
        ]
        return torch.stack([logits for logits, _ in results]), [
            state for _, state in results
        ]

    stacked = torch.func.vmap(apply, (0, 0, None), randomness="different")

    def runner(call, weights, states):
        held = [states]
        flat = [v for w in weights for v in (w if isinstance(w, list) else [w])]
        optimizer = torch.optim.SGD(flat, LEARNING_RATE)

        def step():
            logits, found = call(weights, held[0], x)
            log_probs = functional.log_softmax(logits, dim=-1)
            probs = log_probs.detach().exp()
            others = (probs.sum(0) - probs) / (len(models) - 1)
            own = log_probs[:, torch.arange(len(y), device=device), y]
            crossed = (others * log_probs).sum(-1)
            loss = -(own.mean(1) + crossed.mean(1)).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            held[0] = [
                [v.detach() for v in s] if isinstance(s, list) else s.detach()
                for s in found
            ]

        def run(steps):
            for _ in range(steps):
                step()
            if device == "cuda":
                torch.cuda.synchronize()

        return run

    def leaf(value):
        return value.detach().clone().requires_grad_()

    weights = [
        [leaf(v) for v in read(model.trainable_variables)] for model in models
    ]
    states = [
        [v.detach().clone() for v in read(model.non_trainable_variables)]
        for model in models
    ]
    return {
        "one by one": runner(one_by_one, weights, states),
        "stacked": runner(
            stacked,
            [leaf(torch.stack(v)) for v in zip(*weights, strict=True)],
            [torch.stack(v) for v in zip(*states, strict=True)],
        ),
    }


def timer(run, steps):
    run(3)  # Compiles.

    def seconds():
        start = time.perf_counter()
        run(steps)
        return time.perf_counter() - start

    return seconds


def main():
    parser = measuring.parser(__doc__, rounds=7)
    parser.add_argument("--networks", nargs="+", default=["mlp", "conv"])
    parser.add_argument("--peers", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=30, help="a round")
    parser.add_argument("--policy", default="float32")
    arguments = parser.parse_args()
    gpu.begin(arguments.policy)
    table = measuring.Table(
        {
            "network": ("network", 12, "s"),
            "peers": ("peers", 6, "d"),
            "one by one": ("one by one", 12, ".3f"),
            "stacked": ("stacked", 10, ".3f"),
            "ratio": ("stacked / one by one", 22, ".3f"),
        }
    )
    steps_of = {"jax": jax_steps, "torch": torch_steps}[BACKEND]
    generator = np.random.default_rng(0)
    for name in arguments.networks:
        for num_peers in arguments.peers:
            models = [NETWORKS[name]() for _ in range(num_peers)]
            shape = (arguments.batch, *models[0].input_shape[1:])
            x = generator.normal(size=shape).astype("float32")
            y = generator.integers(0, 10, arguments.batch).astype("int32")
            seconds = measuring.time_in_rounds(
                {
                    part: timer(run, arguments.steps)
                    for part, run in steps_of(models, x, y).items()
                },
                arguments.rounds,
            )
            table.add(
                network=name,
                peers=num_peers,
                ratio=measuring.ratio(
                    seconds["stacked"], seconds["one by one"]
                ),
                **{
                    part: 1000 * statistics.median(values) / arguments.steps
                    for part, values in seconds.items()
                },
            )
    gpu.write(table, arguments)


if __name__ == "__main__":
    main()
