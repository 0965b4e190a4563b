"""Small peers for tests, and their plain counterparts."""

import keras


def linear(features=6, classes=4, **kwargs):
    """One dense layer without bias: logits are `x @ kernel`."""
    return keras.Sequential(
        [
            keras.Input((features,)),
            keras.layers.Dense(classes, use_bias=False, **kwargs),
        ]
    )


def mlp(width=8, features=6, classes=4, dropout=0.0, activation=None):
    """A hidden layer with batch normalisation."""
    layers = [
        keras.Input((features,)),
        keras.layers.Dense(width, activation="relu"),
        keras.layers.BatchNormalization(),
    ]
    if dropout:
        layers.append(keras.layers.Dropout(dropout, seed=11))
    layers.append(keras.layers.Dense(classes, activation=activation))
    return keras.Sequential(layers)


def functional_net(features=6, classes=4):
    """A functional model with a skip connection."""
    inputs = keras.Input((features,))
    hidden = keras.layers.Dense(features, activation="tanh")(inputs)
    outputs = keras.layers.Dense(classes)(keras.layers.add([inputs, hidden]))
    return keras.Model(inputs, outputs)


def copies(models):
    """Models with the same architectures and weights, sharing nothing."""
    result = []
    for model in models:
        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
        result.append(copy)
    return result


class Slice(keras.layers.Layer):
    """Gives a part of its input, so that data can be a peer's logits."""

    def __init__(self, start, stop, **kwargs):
        super().__init__(**kwargs)
        self.start = start
        self.stop = stop

    def call(self, inputs):
        return inputs[:, self.start : self.stop]


def given_logits(position, num_peers, classes):
    """A peer that puts out its share of `(batch, num_peers * classes)`."""
    return keras.Sequential(
        [
            keras.Input((num_peers * classes,)),
            Slice(position * classes, (position + 1) * classes),
        ]
    )


def compiled(model, optimizer="adam"):
    """The model, compiled with the cross entropy."""
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return model


def fit_in_order(model, x, y, **kwargs):
    """The logs of a training whose batches come in the order of the data."""
    return model.fit(x, y, **{"shuffle": False, "verbose": 0, **kwargs}).history
