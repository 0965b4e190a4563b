"""What all parts share: their configuration, equality, names and errors."""

import inspect
import json
import re

import keras
import numpy as np
import pytest
from keras import ops
from peers import linear
from peers import mlp

import keras_smkd
from keras_smkd import divergences
from keras_smkd import features
from keras_smkd import functional
from keras_smkd import gates
from keras_smkd import knowledge
from keras_smkd import observers
from keras_smkd import schedules
from keras_smkd import selection
from keras_smkd import targets
from keras_smkd._config import Configured
from keras_smkd._config import argument_names
from keras_smkd._frozen import FrozenPart

ROOMS = {
    "divergence": divergences,
    "gate": gates,
    "knowledge": knowledge,
    "selection": selection,
    "target": targets,
}


@keras.saving.register_keras_serializable(package="tests")
def half_as_unsure(log_probs):
    return 0.5 * functional.uncertainty(log_probs)


@keras.saving.register_keras_serializable(package="tests")
def squared(progress):
    return progress * progress


@keras.saving.register_keras_serializable(package="tests")
def own_knowledge(batch):
    return knowledge.Knowledge(log_probs=batch.log_probs)


def teacher():
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(16, name="hidden"),
            keras.layers.Dense(4),
        ]
    )


# From a class to ways of making it, each another configuration.
MADE = {
    divergences.KullbackLeibler: [
        lambda: divergences.KullbackLeibler(),
        lambda: divergences.KullbackLeibler(4.0),
        lambda: divergences.KullbackLeibler(4.0, scaled=False),
    ],
    divergences.EarlyLearning: [divergences.EarlyLearning],
    divergences.LogitSquaredError: [divergences.LogitSquaredError],
    divergences.SquaredError: [divergences.SquaredError],
    features.FeatureAdversaries: [
        lambda: features.FeatureAdversaries("hidden"),
        lambda: features.FeatureAdversaries(["a", "b"], filters=3),
    ],
    features.Hint: [
        lambda: features.Hint("hidden", teacher(), "hidden"),
        lambda: features.Hint(
            ["a", "b"], teacher(), "hidden", reduction="mean"
        ),
        lambda: features.Hint(
            "hidden",
            teacher(),
            "hidden",
            keras.layers.Dense(16, use_bias=False),
        ),
    ],
    gates.Curriculum: [
        gates.Curriculum,
        lambda: gates.Curriculum("linear", 0.5, 0.9, gamma=2.0),
        lambda: gates.Curriculum("focal", exponent=1.0),
    ],
    gates.LabelGate: [
        gates.LabelGate,
        lambda: gates.LabelGate(0.5),
        lambda: gates.LabelGate(0.5, agreement=True),
    ],
    gates.LearnedCurriculum: [
        lambda: gates.LearnedCurriculum(gates.mentor_network()),
        lambda: gates.LearnedCurriculum(linear(4, 1), 0.5, 0.9),
    ],
    gates.Product: [
        lambda: gates.Product([gates.LabelGate(), gates.Curriculum()]),
        lambda: gates.Product([gates.SmallLoss(0.4), gates.LabelGate()]),
    ],
    gates.SmallLoss: [
        lambda: gates.SmallLoss(0.4),
        lambda: gates.SmallLoss(schedules.ForgetRate(0.4)),
        lambda: gates.SmallLoss(0.4, disagreement=True, start=0.1),
    ],
    gates.TeacherConfidence: [gates.TeacherConfidence],
    knowledge.AveragedPeers: [
        knowledge.AveragedPeers,
        lambda: knowledge.AveragedPeers(0.9, routes="others"),
        lambda: knowledge.AveragedPeers(0.9, routes=[[0.0, 1.0], [0.5, 0.0]]),
    ],
    knowledge.FusedClassifier: [
        knowledge.FusedClassifier,
        lambda: knowledge.FusedClassifier(to_head=False),
        lambda: knowledge.FusedClassifier(to_peers=False),
    ],
    knowledge.GeneralEnsemble: [knowledge.GeneralEnsemble],
    knowledge.LinearEnsemble: [
        knowledge.LinearEnsemble,
        lambda: knowledge.LinearEnsemble(steps=5),
    ],
    knowledge.MinLogitEnsemble: [knowledge.MinLogitEnsemble],
    knowledge.NaiveEnsemble: [knowledge.NaiveEnsemble],
    knowledge.DropoutPasses: [
        knowledge.DropoutPasses,
        lambda: knowledge.DropoutPasses(2, "itself"),
        lambda: knowledge.DropoutPasses(2, [[0.0, 1.0], [0.5, 0.0]]),
    ],
    knowledge.EarlyPredictions: [
        lambda: knowledge.EarlyPredictions(7),
        lambda: knowledge.EarlyPredictions(8, 0.5, "others", dtype="float16"),
    ],
    knowledge.PastPredictions: [
        lambda: knowledge.PastPredictions(7),
        lambda: knowledge.PastPredictions(8, 0.5, "others", dtype="float16"),
        lambda: knowledge.PastPredictions(8, routes=np.ones((2, 2)), top=2),
    ],
    knowledge.PeerPredictions: [
        knowledge.PeerPredictions,
        lambda: knowledge.PeerPredictions([[0.0, 2.0], [1.0, 0.0]]),
        lambda: knowledge.PeerPredictions(np.array([[0.0, 3.0], [1.0, 0.0]])),
    ],
    knowledge.PermutedKnowledge: [
        lambda: knowledge.PermutedKnowledge(own_knowledge, seed=1),
        lambda: knowledge.PermutedKnowledge(knowledge.PeerPredictions(), 2),
        lambda: knowledge.PermutedKnowledge(knowledge.Teacher(linear())),
    ],
    knowledge.Several: [
        lambda: knowledge.Several(
            [knowledge.PeerPredictions(), knowledge.AveragedPeers(0.9)]
        ),
        lambda: knowledge.Several(
            [knowledge.PastPredictions(8), own_knowledge, own_knowledge]
        ),
    ],
    knowledge.Teacher: [
        lambda: knowledge.Teacher(linear()),
        lambda: knowledge.Teacher([linear(), mlp()], combine="mean_logits"),
        lambda: knowledge.Teacher(linear(activation="softmax"), None, False),
    ],
    observers.ExampleDynamics: [
        lambda: observers.ExampleDynamics(7),
        lambda: observers.ExampleDynamics(7, "passes"),
        lambda: observers.ExampleDynamics(8, dtype="float16"),
    ],
    schedules.Constant: [
        lambda: schedules.Constant(0.5),
        lambda: schedules.Constant(0.25),
    ],
    schedules.ForgetRate: [
        lambda: schedules.ForgetRate(0.4),
        lambda: schedules.ForgetRate(0.4, 0.1, 2.0, "code", epochs=50),
    ],
    schedules.Linear: [
        lambda: schedules.Linear(0.0, 1.0),
        lambda: schedules.Linear(1.0, 0.0),
    ],
    schedules.Piecewise: [
        lambda: schedules.Piecewise([0.5], [1.0, 0.1]),
        lambda: schedules.Piecewise([], [1.0]),
    ],
    schedules.RampUp: [
        lambda: schedules.RampUp(1.0, 0.5),
        lambda: schedules.RampUp(1.0, 0.25),
    ],
    schedules.Sigmoid: [
        lambda: schedules.Sigmoid(0.5, 8.0),
        lambda: schedules.Sigmoid(0.5, 8.0, 0.25),
    ],
    selection.ConfidentKnowledge: [
        selection.ConfidentKnowledge,
        lambda: selection.ConfidentKnowledge("margin", 0.25),
        lambda: selection.ConfidentKnowledge(half_as_unsure),
        lambda: selection.ConfidentKnowledge(
            threshold=schedules.Linear(0.0, 0.5)
        ),
    ],
    selection.MostConfidentShare: [
        selection.MostConfidentShare,
        lambda: selection.MostConfidentShare("margin", 0.25, per_class=False),
        lambda: selection.MostConfidentShare(half_as_unsure),
        lambda: selection.MostConfidentShare(threshold=squared),
    ],
    targets.HardBootstrapping: [
        targets.HardBootstrapping,
        lambda: targets.HardBootstrapping(0.5),
    ],
    targets.JointOptimizationLabels: [
        lambda: targets.JointOptimizationLabels(7),
        lambda: targets.JointOptimizationLabels(7, 0.5, 3, dtype="float16"),
    ],
    targets.LabelSmoothing: [
        targets.LabelSmoothing,
        lambda: targets.LabelSmoothing(0.1, over="others"),
        lambda: targets.LabelSmoothing(0.2),
    ],
    targets.MixtureBootstrapping: [
        lambda: targets.MixtureBootstrapping(7),
        lambda: targets.MixtureBootstrapping(7, hard=False),
    ],
    targets.PosteriorLabels: [
        lambda: targets.PosteriorLabels(7),
        lambda: targets.PosteriorLabels(7, [0.25, 0.75], 2.0, 3, 0.9),
        lambda: targets.PosteriorLabels(
            7, gamma=squared, selection=selection.ConfidentKnowledge("margin")
        ),
    ],
    targets.ProSelfLC: [
        targets.ProSelfLC,
        lambda: targets.ProSelfLC(4.0, 0.25, "probability", True),
    ],
    targets.SoftBootstrapping: [
        targets.SoftBootstrapping,
        lambda: targets.SoftBootstrapping(0.5, target_gradient=False),
    ],
    targets.CoRefinement: [
        lambda: targets.CoRefinement(7),
        lambda: targets.CoRefinement(7, 0.25, 0.75),
    ],
    targets.TemporalEnsembling: [
        lambda: targets.TemporalEnsembling(7),
        lambda: targets.TemporalEnsembling(7, 0.5, 0.25, dtype="float16"),
        lambda: targets.TemporalEnsembling(7, trust=schedules.Linear(0, 1)),
        lambda: targets.TemporalEnsembling(7, trust=squared),
    ],
    targets.VirtualTeacher: [
        targets.VirtualTeacher,
        lambda: targets.VirtualTeacher(0.5, 10.0, 0.9, multiplier=50.0),
    ],
}
EACH = [
    pytest.param(make, id=f"{kind.__name__}-{i}")
    for kind, makes in MADE.items()
    for i, make in enumerate(makes)
]
each = pytest.mark.parametrize("make", EACH)


def public_parts(room):
    names = getattr(room, "__all__", None) or [
        name
        for name, value in vars(room).items()
        if getattr(value, "__module__", None) == room.__name__
    ]
    found = (getattr(room, name) for name in names if name[0] != "_")
    return {
        kind
        for kind in found
        if inspect.isclass(kind) and kind is not knowledge.Knowledge
    }


def as_json(part):
    return json.dumps(part.get_config())


def through_json(part):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(part)))
    return keras.saving.deserialize_keras_object(config)


def test_every_part_is_in_the_table():
    rooms = (*ROOMS.values(), features, observers, schedules)
    found = set().union(*map(public_parts, rooms))
    # Heads are plain layers.
    found -= {kind for kind in found if not issubclass(kind, Configured)}
    assert found == MADE.keys()


@each
def test_a_part_comes_back_from_its_configuration(make):
    part = make()
    again = through_json(part)
    assert type(again) is type(part)
    assert as_json(again) == as_json(part)
    again = type(part).from_config(part.get_config())
    assert as_json(again) == as_json(part)


@each
def test_the_configuration_is_that_of_the_arguments(make):
    part = make()
    assert isinstance(part, Configured)
    names = argument_names(type(part))
    assert list(part.get_config()) == names
    for name in names:
        # A trained network is kept out of the sight of Keras.
        assert hasattr(part, name) or isinstance(part, FrozenPart)


@each
def test_parts_are_equal_if_they_say_the_same(make):
    part, other = make(), make()
    if isinstance(part, keras.Layer):
        # Each has weights of its own.
        assert part == part
        assert part != other
        assert len({part, part, other}) == 2
        return
    for again in (other, through_json(part)):
        assert again == part
        assert hash(again) == hash(part)
    assert part != 0.5
    assert part != part.get_config()


@pytest.mark.parametrize("kind", MADE, ids=lambda kind: kind.__name__)
def test_parts_that_differ_are_not_equal(kind):
    parts = [make() for make in MADE[kind]]
    assert len({as_json(part) for part in parts}) == len(parts)
    for i, part in enumerate(parts):
        assert all(part != other for other in parts[i + 1 :])


@each
def test_a_part_says_what_it_is(make):
    part = make()
    text = repr(part)
    assert text.startswith(f"{type(part).__name__}(")
    assert text.endswith(")")
    if not isinstance(part, (FrozenPart, knowledge.PermutedKnowledge)):
        for name in argument_names(type(part)):
            assert f"{name}={getattr(part, name)!r}" in text


@each
def test_a_part_says_what_it_needs(make):
    part = make()
    for need in ("needs_progress", "needs_index"):
        assert getattr(part, need) in (True, False)


@pytest.mark.parametrize(
    ("part", "needs_progress"),
    [
        (targets.ProSelfLC(), True),
        (targets.JointOptimizationLabels(2), True),
        (targets.TemporalEnsembling(2), True),
        (targets.TemporalEnsembling(2, trust=0.5), False),
        (targets.LabelSmoothing(), False),
        (targets.HardBootstrapping(), False),
        (targets.SoftBootstrapping(), False),
        (targets.VirtualTeacher(), False),
        (selection.ConfidentKnowledge(), False),
        (selection.ConfidentKnowledge(threshold=squared), True),
        (
            selection.ConfidentKnowledge(threshold=schedules.Constant(0.5)),
            False,
        ),
        (selection.MostConfidentShare(threshold=schedules.Linear(0, 1)), True),
        (gates.LabelGate(), False),
        (divergences.KullbackLeibler(), False),
        (knowledge.PeerPredictions(), False),
        (knowledge.AveragedPeers(), False),
        (knowledge.PastPredictions(2), False),
    ],
    # Without the addresses of functions, which differ between processes.
    ids=lambda value: re.sub(" at 0x[0-9a-f]+", "", repr(value)),
)
def test_who_follows_the_progress(part, needs_progress):
    assert part.needs_progress is needs_progress


def test_who_remembers_examples_needs_their_places():
    remembering = {
        kind for kind in MADE if hasattr(MADE[kind][0](), "num_examples")
    } - {targets.PosteriorLabels}  # It counts them, and remembers none.
    assert len(remembering) >= 3
    holding = {
        through_json(make()).needs_index for make in MADE[knowledge.Several]
    }
    assert holding == {True, False}
    for kind in MADE.keys() - {knowledge.Several, knowledge.PermutedKnowledge}:
        assert MADE[kind][0]().needs_index is (kind in remembering)


# By name.


@pytest.mark.parametrize("room", ROOMS)
def test_a_part_by_its_name(room):
    module = ROOMS[room]
    assert module.KNOWN
    for name, kind in module.KNOWN.items():
        part = module.get(name)
        assert callable(part)
        assert type(part) in public_parts(module)
        if not isinstance(part, keras.Layer):
            assert part == kind() == module.get(name)


def test_names_are_those_of_the_defaults():
    for measure in functional.MEASURES:
        assert selection.get(measure) == selection.ConfidentKnowledge(measure)
    assert selection.get("most_confident_share") == (
        selection.MostConfidentShare()
    )
    assert gates.get("label") == gates.LabelGate()
    assert knowledge.get("peers") == knowledge.PeerPredictions()
    assert type(knowledge.get("averaged_peers")) is knowledge.AveragedPeers
    for name, kind in (
        ("hard_bootstrapping", targets.HardBootstrapping),
        ("label_smoothing", targets.LabelSmoothing),
        ("proselflc", targets.ProSelfLC),
        ("soft_bootstrapping", targets.SoftBootstrapping),
        ("virtual_teacher", targets.VirtualTeacher),
    ):
        assert targets.get(name) == kind()


@pytest.mark.parametrize("room", ROOMS)
def test_a_name_that_is_not_known_is_answered_with_those_that_are(room):
    module = ROOMS[room]
    with pytest.raises(ValueError) as caught:
        module.get("none_such")
    message = str(caught.value)
    assert message.startswith(f"`{room}` must be one of ")
    assert message.endswith(f"Received: {room}='none_such'.")
    for name in module.KNOWN:
        assert repr(name) in message


@pytest.mark.parametrize("room", ROOMS)
def test_a_part_itself_or_none(room):
    module = ROOMS[room]

    def function(batch):
        return batch.labels

    assert module.get(function) is function
    for kind in public_parts(module):
        part = MADE[kind][0]()
        assert module.get(part) is part
    if room == "divergence":
        with pytest.raises(TypeError, match=r"`divergence` must be .* a name"):
            module.get(None)
    else:
        assert module.get(None) is None


@pytest.mark.parametrize("room", ROOMS)
def test_a_class_in_place_of_a_part_is_an_error(room):
    module = ROOMS[room]
    for kind in public_parts(module):
        with pytest.raises(TypeError) as caught:
            module.get(kind)
        message = str(caught.value)
        assert message.startswith(f"`{room}` must be a callable of the batch")
        assert message.endswith("a class, not an object of it.")
    for wrong in (0.5, True, [], {"a": 1}):
        with pytest.raises(
            TypeError, match=rf"`{room}` must be a callable.*Received: {room}="
        ):
            module.get(wrong)


CLASSES = {
    "divergence": divergences.SquaredError,
    "gate": gates.LabelGate,
    "knowledge": knowledge.PeerPredictions,
    "selection": selection.ConfidentKnowledge,
    "target": targets.ProSelfLC,
}


@pytest.mark.parametrize("room", ROOMS)
def test_a_model_takes_names_and_refuses_what_is_no_part(room):
    def model_with(part):
        arguments = {"knowledge": "peers", "selection": "entropy", room: part}
        peers = [mlp(dropout=0.5), mlp(dropout=0.5)]
        return keras_smkd.PeerLearning(peers, **arguments)

    for name in list(ROOMS[room].KNOWN)[:2]:
        part = getattr(model_with(name), room)
        assert type(part) is type(ROOMS[room].get(name))
    with pytest.raises(ValueError, match=f"`{room}` must be one of"):
        model_with("none_such")
    with pytest.raises(TypeError, match=r"a class, not an object of it\."):
        model_with(CLASSES[room])
    with pytest.raises(TypeError, match=f"`{room}` must be a callable"):
        model_with(0.5)


def test_a_function_of_the_batch_is_a_part(rng):
    def labels_of_all(batch):
        labels = ops.expand_dims(batch.labels, axis=1)
        return ops.repeat(labels, batch.num_learners, axis=1)

    model = keras_smkd.PeerLearning(
        [linear(), linear()],
        knowledge=lambda batch: knowledge.Knowledge(logits=batch.logits),
        selection=lambda batch: ops.ones_like(batch.knowledge[..., 0]),
        divergence=lambda batch: ops.zeros_like(batch.logits[..., 0]),
        target=labels_of_all,
        gate=lambda batch: ops.ones_like(batch.losses),
        total_steps=1,
    )
    plain = keras_smkd.PeerLearning(
        [keras.models.clone_model(peer) for peer in model.peers]
    )
    plain.set_weights(model.get_weights())
    x = rng.normal(size=(8, 6)).astype("float32")
    y = rng.integers(0, 4, 8)
    losses = []
    for each_model in (model, plain):
        each_model.compile("sgd", "sparse_categorical_crossentropy")
        logs = each_model.train_on_batch(x, y, return_dict=True)
        losses.append(logs["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
