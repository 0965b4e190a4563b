"""Small networks by name, of logits: `mlp_256`, `conv_32`, `resnet_16`."""

import keras
from keras import layers


def make_network(
    name: str, input_shape: tuple[int, ...], num_classes: int
) -> keras.Model:
    """Return a new network.

    | name | what it is |
    |---|---|
    | `mlp_256`, `mlp_512_256` | dense layers of so many units, ReLU |
    | `conv_32` | three 3 x 3 convolutions of stride 2 with 32, 64 and 128 |
    | | filters, their mean, a dense layer |
    | `patch_32` | 32 filters of 4 x 4 patches, 64 of 3 x 3 of them and stride |
    | | 2, a dense layer: half the time of `conv_16` |
    | `resnet_16` | three stages of one block, 16, 32 and 64 filters |
    | `resnet18` | four stages of two blocks, 64 to 512 filters: ResNet-18 |
    | | with a 3 x 3 stem of stride 1, as is usual for CIFAR |

    Args:
        name: One of these, with any numbers.
        input_shape: Without the batch.
        num_classes: Number of logits.
    """
    kind, *numbers = name.split("_")
    if not all(number.isdigit() for number in numbers):
        numbers = [""]
    sizes = [int(number) for number in numbers if number]
    inputs = keras.Input(input_shape)
    if kind == "mlp" and sizes:
        x = inputs if len(input_shape) == 1 else layers.Flatten()(inputs)
        for units in sizes:
            x = layers.Dense(units, activation="relu")(x)
    elif kind == "conv" and len(sizes) == 1:
        x = inputs
        for factor in (1, 2, 4):
            x = layers.Conv2D(
                factor * sizes[0], 3, 2, padding="same", activation="relu"
            )(x)
        x = layers.GlobalAveragePooling2D()(x)
    elif kind == "patch" and len(sizes) == 1:
        x = layers.Conv2D(sizes[0], 4, 4, activation="relu")(inputs)
        x = layers.Conv2D(
            2 * sizes[0], 3, 2, padding="same", activation="relu"
        )(x)
        x = layers.Flatten()(x)
    elif kind == "resnet" and len(sizes) == 1:
        x = _residual_stages(inputs, sizes[0], stages=3, blocks=1)
    elif name == "resnet18":
        x = _residual_stages(inputs, 64, stages=4, blocks=2)
    else:
        raise ValueError(
            "`net` must be such as mlp_256, conv_32, patch_32, resnet_16 or "
            "resnet18. "
            f"Received: net={name!r}."
        )
    # The softmax is taken in float32, whatever the policy.
    return keras.Model(inputs, layers.Dense(num_classes, dtype="float32")(x))


def _residual_stages(x, filters, stages, blocks):
    x = _convolution(x, filters, 3, 1)
    x = layers.ReLU()(x)
    for stage in range(stages):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            x = _residual_block(x, filters * 2**stage, stride)
    return layers.GlobalAveragePooling2D()(x)


def _residual_block(x, filters, stride):
    shortcut = x
    if stride > 1 or x.shape[-1] != filters:
        shortcut = _convolution(x, filters, 1, stride)
    x = layers.ReLU()(_convolution(x, filters, 3, stride))
    x = _convolution(x, filters, 3, 1)
    return layers.ReLU()(layers.Add()([x, shortcut]))


def _convolution(x, filters, size, stride):
    x = layers.Conv2D(filters, size, stride, padding="same", use_bias=False)(x)
    # The default averages over hundreds of steps, long for short runs.
    return layers.BatchNormalization(momentum=0.9)(x)
