"""The package's rooms: how long, who imports whom, where backends differ.

Most is read from the source, so that a rule holds for code that no test runs.
"""

import ast
import functools
import importlib
import pathlib

import keras

import keras_smkd
from keras_smkd._config import Configured
from keras_smkd.model.distillation import SelectiveMutualDistillation
from keras_smkd.model.learning import PeerLearning
from keras_smkd.model.peer_model import PeerModel

PACKAGE = pathlib.Path(keras_smkd.__file__).parent
MOST_LINES = 450

# Who may import whom: each room those above it, and itself. Rooms of one line
# know nothing of each other.
ROOMS = (
    ("_checks", "_config", "_files", "backends"),
    ("_frozen",),
    ("_labels", "functional", "optimizers", "schedules"),
    ("batch",),
    ("memory",),
    ("selection",),
    ("targets", "losses", "divergences", "gates", "features", "observers"),
    ("knowledge",),
    ("model", "metrics", "noise"),
    ("data", "estimators"),
    ("callbacks", "report", "export"),
    ("methods",),
    ("sklearn",),
    ("__init__",),
    ("__main__",),
)
PARTS = (*ROOMS[5], *ROOMS[6], *ROOMS[7])
# The one name of the package itself that a room may read.
VERSION = "__version__"
# These write the backend's name down, and do nothing else with it.
RECORD_BACKEND = {"export/card.py", "export/exporting.py"}

# Hooks of our own that a subclass fills in.
OWN_HOOKS = {"check_thresholds", "averaged_outputs"}

# Who writes its configuration by hand, since an argument is no attribute of
# the same name, or Keras's class has arguments of its own. Another class is
# `Configured`, and needs none.
HAND_WRITTEN = {
    "export/serving_model.py": {"ServingModel"},
    "features/hints.py": {"Hint"},
    "features/fusion.py": {"FeatureHead", "FeatureFusion"},
    "knowledge/teachers.py": {"Teacher"},
    "losses/base.py": {"ClassificationLoss"},
    "losses/corrections.py": {"_MatrixLoss"},
    "losses/information.py": {"DeterminantMutualInformation"},
    "losses/normalized.py": {"NormalizedFocal", "ActivePassive"},
    "losses/penalties.py": {"ConfidencePenalty", "JointOptimization"},
    "losses/revision.py": {"TransitionRevision"},
    "losses/robust.py": {
        "GeneralizedCrossEntropy",
        "TruncatedGeneralizedCrossEntropy",
    },
    "losses/symmetric.py": {"ReverseCrossEntropy", "SymmetricCrossEntropy"},
    "metrics.py": {"SelectionRate", "ExpectedCalibrationError"},
    "model/learning.py": {"PeerLearning"},
    "optimizers.py": {"GradientRule", "CriticalGradients"},
    "_config.py": {"Configured"},
}
KERAS_BASES = (
    keras.losses.Loss,
    keras.metrics.Metric,
    keras.layers.Layer,
    keras.optimizers.Optimizer,
)
# A part that is `Configured` and yet has to: its models are in no attribute,
# or Keras would save their weights once more.
PARTS_BY_HAND = {"Hint", "Teacher"}


@functools.cache
def files(under=""):
    """Return `{path in the package: path}`, of Python files."""
    found = sorted((PACKAGE / under).rglob("*.py"))
    return {path.relative_to(PACKAGE).as_posix(): path for path in found}


def nodes_of(path, *kinds):
    """Return the nodes of these kinds in a file, in its functions too."""
    return [node for node in all_nodes(path) if isinstance(node, kinds)]


@functools.cache
def all_nodes(path):
    """Return all nodes of a file, which is read once."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def room_of(name):
    """Return the room of a file: its folder, or its own name."""
    return name.split("/")[0].removesuffix(".py")


def imported_rooms(path):
    """Return the rooms of the package that a file imports anywhere."""
    known, rooms = {room_of(name) for name in files()}, set()
    for node in nodes_of(path, ast.Import, ast.ImportFrom):
        names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"a relative import in {path}"
            names = [f"{node.module}.{name}" for name in names]
        for name in names:
            package, _, rest = name.partition(".")
            if package == PACKAGE.name and rest != VERSION:
                room = rest.split(".")[0]
                rooms.add(room if room in known else "__init__")
    return rooms


def calls_backend(node):
    """Whether a call of `keras.backend.backend`, or of `keras.config`'s."""
    return isinstance(node, ast.Call) and (
        getattr(node.func, "attr", getattr(node.func, "id", "")) == "backend"
    )


def test_no_file_is_long():
    lengths = {
        name: len(path.read_text(encoding="utf-8").splitlines())
        for name, path in files().items()
    }
    assert {n: k for n, k in lengths.items() if k > MOST_LINES} == {}


def test_every_room_has_a_place():
    known = {room for level in ROOMS for room in level}
    assert {room_of(name) for name in files()} - known == set()


def test_rooms_import_only_rooms_above_them_in_the_table():
    level_of = {room: i for i, level in enumerate(ROOMS) for room in level}
    wrong = [
        f"{name} imports {room}"
        for name, path in files().items()
        for room in sorted(imported_rooms(path) - {room_of(name)})
        if level_of[room] >= level_of[room_of(name)]
    ]
    assert wrong == []


def test_no_part_imports_the_model():
    wrong = [
        name
        for name, path in files().items()
        if room_of(name) in PARTS and "model" in imported_rooms(path)
    ]
    assert wrong == []


def test_only_the_rooms_files_of_backends_ask_for_the_backend():
    wrong = [
        f"{name}:{call.lineno}"
        for name, path in files().items()
        if path.name != "backends.py" and name not in RECORD_BACKEND
        for call in nodes_of(path, ast.Call)
        if calls_backend(call)
    ]
    assert wrong == []


def test_who_records_the_backend_does_not_branch_on_it():
    branches = (ast.Compare, ast.Match, ast.If, ast.IfExp, ast.Subscript)
    wrong = []
    for name in sorted(RECORD_BACKEND):
        path = PACKAGE / name
        # What is looked at: the test of an `if`, and not what it leads to.
        looked_at = [
            getattr(node, "test", getattr(node, "subject", node))
            for node in nodes_of(path, *branches)
        ]
        calls = [call for node in looked_at for call in ast.walk(node)]
        # A name for it could be looked at later.
        calls += [
            node.value
            for node in nodes_of(path, ast.Assign, ast.AnnAssign, ast.NamedExpr)
        ]
        wrong += [
            f"{name}:{call.lineno}" for call in calls if calls_backend(call)
        ]
    assert wrong == []


def test_the_model_does_not_ask_itself_what_it_has():
    wrong = [
        f"{name}:{call.lineno}"
        for name, path in files("model").items()
        for call in nodes_of(path, ast.Call)
        if getattr(call.func, "id", "") in ("hasattr", "getattr")
        and getattr(call.args[0], "id", "") == "self"
    ]
    assert wrong == []


def test_each_hook_of_keras_is_in_one_class_of_the_model():
    class Empty(keras.Model):
        """What every class has."""

    kinds = (PeerModel, PeerLearning, SelectiveMutualDistillation)
    ignored = {*vars(Empty), *OWN_HOOKS, "__init__", "__annotations__"}
    homes = {}
    for kind in kinds:
        for name in vars(kind):
            if hasattr(keras.Model, name) and name not in ignored:
                homes.setdefault(name, []).append(kind.__name__)
    assert {n: found for n, found in homes.items() if len(found) > 1} == {}
    assert {"fit", "call", "train_step", "compute_loss"} <= set(homes)


def test_own_hooks_are_no_hooks_of_keras():
    assert not [name for name in OWN_HOOKS if hasattr(keras.Model, name)]


def test_configuration_is_written_by_hand_only_where_it_must_be():
    found = {}
    for name, path in files().items():
        for node in nodes_of(path, ast.ClassDef):
            methods = {getattr(item, "name", None) for item in node.body}
            if "get_config" in methods:
                found.setdefault(name, set()).add(node.name)
    assert found == HAND_WRITTEN


def test_only_classes_of_keras_write_their_configuration_by_hand():
    wrong = []
    for name, kinds in HAND_WRITTEN.items():
        path = name.removesuffix(".py").replace("/", ".")
        module = importlib.import_module(f"{PACKAGE.name}.{path}")
        for kind in (getattr(module, kind) for kind in sorted(kinds)):
            derives = issubclass(kind, Configured) and kind is not Configured
            if kind is not Configured and (
                not issubclass(kind, KERAS_BASES)
                or (derives and kind.__name__ not in PARTS_BY_HAND)
            ):
                wrong.append(f"{name}: {kind.__name__}")
    assert wrong == []
