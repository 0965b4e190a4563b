"""Configuration of a part, from the arguments that made it."""

import functools
import inspect
from collections.abc import Callable
from typing import Any
from typing import TypeVar

import keras

_Self = TypeVar("_Self", bound="Configured")


class Configured:
    """Configuration, equality and representation from `__init__`'s arguments.

    A subclass keeps each argument in the attribute of the same name, and
    writes none of these methods.
    """

    # What a part may say of itself, all of it false unless it says so: whether
    # it follows the progress of training, and whether it needs the examples'
    # places in the data set.
    needs_progress: Any = False
    needs_index: Any = False

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, as Keras writes them down."""
        return serialized_arguments(self)

    @classmethod
    def from_config(cls: type[_Self], config: dict[str, Any]) -> _Self:
        """Return the part that `get_config` described."""
        return cls(
            **{
                name: keras.saving.deserialize_keras_object(value)
                for name, value in config.items()
            }
        )

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and (
            other.get_config() == self.get_config()
        )

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        arguments = ", ".join(
            f"{name}={getattr(self, name)!r}"
            for name in argument_names(type(self))
        )
        return f"{type(self).__name__}({arguments})"


class StatefulPart(Configured, keras.layers.Layer):
    """A part with weights, which Keras tracks, saves and restores.

    It is called with a batch and not with a tensor, so that a subclass
    overrides `__call__`. It makes its weights in `prepare`, if they depend on
    the peers. Two of them are equal if they are the same, since each has
    weights of its own.

    Args:
        dtype: Of the weights, as for `keras.layers.Layer`.
    """

    def __init__(self, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        # Nothing of Keras's own building: `prepare` does it.
        self.built = True

    def prepare(self, peers: Any, num_classes: int) -> None:
        """Make the weights, once, when the model is built.

        Args:
            peers: The model's peers, built. Not to be kept as an attribute,
                or their weights are saved as this part's.
            num_classes: Number of classes.
        """

    def add_state(
        self, name: str, shape: Any, dtype: Any, initializer: Any = "zeros"
    ) -> Any:
        """Return a new weight that no gradient changes."""
        return self.add_weight(
            name=name,
            shape=shape,
            dtype=dtype,
            initializer=initializer,
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
        )

    __eq__ = keras.layers.Layer.__eq__
    __hash__ = keras.layers.Layer.__hash__


class Holder(StatefulPart):
    """A part that holds others: it prepares and moves them, needs what they do.

    A subclass writes `held`.
    """

    def held(self) -> list[Any]:
        """Return the parts.

        Not a property: Keras would find them there, and save them twice.
        """
        raise TypeError("`held` must be written by the subclass.")

    @property
    def needs_index(self) -> bool:
        """Whether one of the parts does."""
        return any(getattr(part, "needs_index", False) for part in self.held())

    @property
    def needs_progress(self) -> bool:
        """Whether one of the parts does, or is a function, which may."""
        return any(
            getattr(part, "needs_progress", True) for part in self.held()
        )

    def prepare(self, peers: Any, num_classes: int) -> None:
        """Prepare every part."""
        for part in self.held():
            if hasattr(part, "prepare"):
                part.prepare(peers, num_classes)

    def after_step(self, taken: Any, step: Any) -> None:
        """Let every part that wants to move do so."""
        for part in self.held():
            if hasattr(part, "after_step"):
                part.after_step(taken, step)


def checked_parts(argument: str, parts: Any) -> list[Any]:
    """Return several parts as a list.

    Args:
        argument: The argument's name, for the messages.
        parts: List of callables of the batch, two or more.

    Raises:
        TypeError: if one is no callable.
        ValueError: if it is no list of two or more.
    """
    if not isinstance(parts, (list, tuple)) or len(parts) < 2:
        raise ValueError(
            f"`{argument}` must be a list of two parts or more. "
            f"Received: {argument}={parts!r}."
        )
    for i, part in enumerate(parts):
        if not callable(part) or isinstance(part, type):
            raise TypeError(
                f"`{argument}` must be callables of the batch. "
                f"Received: {argument}[{i}]={part!r}."
            )
    return list(parts)


def parts_of(part: Any) -> list[Any]:
    """Return a part and those that it holds, at any depth.

    Args:
        part: Part, or `None`.
    """
    if part is None:
        return []
    held: list[Any] = part.held() if isinstance(part, Holder) else []
    return [part, *(inner for own in held for inner in parts_of(own))]


def argument_names(kind: type) -> list[str]:
    """Return the names of the arguments that make an object of a class."""
    parameters = list(inspect.signature(kind.__init__).parameters.values())  # type: ignore[misc]
    return [
        parameter.name
        for parameter in parameters[1:]
        if parameter.kind
        not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]


def arguments_of(
    method: Callable[..., Any], *args: Any, **kwargs: Any
) -> dict[str, Any]:
    """Return what a method's call would give it, by its arguments' names.

    Args:
        method: A method of a class, unbound.
        *args, **kwargs: Of the call, with the object that is left out.
    """
    given = _signature(method).bind(*args, **kwargs).arguments
    given.pop("self")
    more = given.pop("kwargs", {})
    return {**given, **more}


# Kept, since a training of a user's own calls methods once a batch.
_signature = functools.cache(inspect.signature)


def serialized_arguments(made: Any, without: Any = ()) -> dict[str, Any]:
    """Return the arguments that made an object, as Keras writes them down.

    Args:
        made: It keeps each argument in the attribute of the same name.
        without: Names of arguments to leave out.
    """
    return {
        name: keras.saving.serialize_keras_object(getattr(made, name))
        for name in argument_names(type(made))
        if name not in without
    }


def part_of(
    argument: str, value: Any, known: dict[str, Any], allow_none: bool = True
) -> Any:
    """Return a part from what a user may give for it.

    Args:
        argument: The argument's name, for the message.
        value: A name among the `known`, a callable, or `None`.
        known: From names to classes (or functions) that make the part.
        allow_none: Whether `None` is an answer.

    Raises:
        ValueError: if a name is not among the known ones.
        TypeError: if `value` is none of these.
    """
    if value is None and allow_none:
        return None
    if isinstance(value, str):
        if value in known:
            return known[value]()
        names = ", ".join(repr(name) for name in known)
        raise ValueError(
            f"`{argument}` must be one of {names}, or a callable. "
            f"Received: {argument}={value!r}."
        )
    if callable(value) and not isinstance(value, type):
        return value
    received = "a class, not an object of it" if callable(value) else "that"
    raise TypeError(
        f"`{argument}` must be a callable of the batch"
        f"{', a name or None' if allow_none else ' or a name'}. "
        f"Received: {argument}={value!r}, {received}."
    )
