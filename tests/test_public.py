"""The contract of every public name: documented, configurable, light."""

import ast
import doctest
import inspect
import os
import pathlib
import re
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
from keras import ops

import keras_smkd

# Constructor arguments of the public classes that cannot do without.
ARGUMENTS = {
    "Constant": {"value": 0.3},
    "Linear": {"start": 0.1, "end": 0.9},
    "Piecewise": {"boundaries": [0.5], "values": [1.0, 0.1]},
    "RampUp": {"end": 2.0, "length": 0.25},
    "Sigmoid": {"scale": 0.4, "sharpness": 8.0, "midpoint": 0.25},
    "ForgetRate": {"rate": 0.4, "ramp": 0.1, "form": "code", "epochs": 50},
    "SmallLoss": {"rate": 0.4, "disagreement": True, "start": 0.25},
    "Curriculum": {"rule": "linear", "percentile": 0.5, "gamma": 2.0},
    "ConfidentKnowledge": {"measure": "margin", "threshold": 0.25},
    "ProSelfLC": {"sharpness": 4.0, "trust": "global", "target_gradient": True},
    "TemporalEnsembling": {"num_examples": 7, "momentum": 0.9, "trust": 0.25},
    "CoRefinement": {"num_examples": 7, "temperature": 0.3, "threshold": 0.6},
    "PosteriorLabels": {"num_examples": 7, "gamma": 2.0, "start": 3},
    "EarlyPredictions": {"num_examples": 7, "momentum": 0.9},
    "MixtureBootstrapping": {"num_examples": 7, "hard": False},
    "JointOptimizationLabels": {"num_examples": 7, "start": 0.5, "window": 3},
    "PastPredictions": {"num_examples": 7, "routes": "others"},
    "DropoutPasses": {"passes": 3, "routes": "itself"},
    "ExampleDynamics": {"num_examples": 7, "source": "passes"},
    "FeatureAdversaries": {"tap": "maps", "filters": 3},
    "FeatureConcatenation": {"tap": "maps"},
    "FeatureFusion": {"tap": "maps", "filters": 3},
    "SelectionRate": {"threshold": 0.2},
    "ExpectedCalibrationError": {"num_bins": 7},
    **{
        name: {"transition_matrix": [[0.9, 0.1], [0.2, 0.8]]}
        for name in (
            "BackwardCorrection",
            "ForwardCorrection",
            "ImportanceReweighting",
            "TransitionRevision",
        )
    },
}
# These need peers, losses, optimizers or sources: tested where those are.
CONFIGURED_ELSEWHERE = {
    "ActivePassive",
    "CriticalGradients",
    "GradientRule",
    "Hint",
    "LearnedCurriculum",
    "PeerLearning",
    "PermutedKnowledge",
    "Product",
    "SelectiveMutualDistillation",
    "Several",
    "Teacher",
}

FRAMEWORKS = {
    "tensorflow",
    "jax",
    "torch",
    "keras_cv",
    "tensorflow_datasets",
    "sklearn",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "openvino",
    "tf2onnx",
    "ai_edge_litert",
}


def public_modules():
    values = [getattr(keras_smkd, name) for name in keras_smkd.__all__]
    return [value for value in values if isinstance(value, types.ModuleType)]


def public_objects():
    """Return `{dotted name: function or class}` of all that is public."""
    found = {
        name: getattr(keras_smkd, name)
        for name in keras_smkd.__all__
        if not isinstance(getattr(keras_smkd, name), types.ModuleType)
    }
    for module in public_modules():
        for name, value in vars(module).items():
            home = getattr(value, "__module__", None) or ""
            # A room that is a folder hands on what its files define.
            is_ours = home == module.__name__ or (
                name in getattr(module, "__all__", ())
                and home.startswith(module.__name__ + ".")
            )
            if (
                is_ours
                and not name.startswith("_")
                and (inspect.isfunction(value) or inspect.isclass(value))
            ):
                found[f"{module.__name__.split('.', 1)[1]}.{name}"] = value
    return found


OBJECTS = public_objects()
CLASSES = {
    name: value
    for name, value in OBJECTS.items()
    if inspect.isclass(value)
    and hasattr(value, "get_config")
    and value.__name__ not in CONFIGURED_ELSEWHERE
}
DOCUMENTED = {
    **OBJECTS,
    **{module.__name__: module for module in public_modules()},
}


def each(objects):
    return pytest.mark.parametrize("name", sorted(objects))


def argument_names(value):
    parameters = inspect.signature(value).parameters.values()
    return {
        parameter.name
        for parameter in parameters
        if parameter.name != "self"
        # Python 3.11.2 shows those of Keras's `__new__` for some classes.
        and parameter.kind
        not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }


def documented_arguments(docstring):
    """Return the names before the colons of the section `Args`."""
    section = re.search(
        r"^Args:\n((?:(?: {4}.*)?\n)*)", docstring + "\n", re.MULTILINE
    )
    names = set()
    for line in section.group(1).splitlines() if section else ():
        entry = re.match(r" {4}(\*{0,2}\w+(?:, \*{0,2}\w+)*):", line)
        if entry:
            names |= {n.lstrip("*") for n in entry.group(1).split(", ")}
    return names


def test_all_names_exist_and_are_sorted():
    names = [name for name in keras_smkd.__all__ if name[0].islower()]
    assert names == sorted(names)
    assert len(OBJECTS) > 15
    assert len(CLASSES) > 8
    for name in keras_smkd.__all__:
        assert hasattr(keras_smkd, name)


@each(DOCUMENTED)
def test_the_first_line_of_the_docstring_is_a_sentence(name):
    docstring = inspect.cleandoc(DOCUMENTED[name].__doc__ or "")
    assert re.match(r"[A-Z].*\.(\n\n|$)", docstring), docstring[:90]


@each(OBJECTS)
def test_the_docstring_names_every_argument(name):
    value = OBJECTS[name]
    if "__init__" not in vars(value) and inspect.isclass(value):
        pytest.skip("has the constructor of its base class")
    documented = documented_arguments(inspect.cleandoc(value.__doc__))
    missing = argument_names(value) - documented
    assert not missing, f"not in Args: {missing}"
    unknown = documented - set(inspect.signature(value).parameters)
    assert not unknown, f"in Args, not in the signature: {unknown}"


@each(CLASSES)
def test_config_round_trip(name):
    kind = CLASSES[name]
    arguments = ARGUMENTS.get(kind.__name__, {})
    value = kind(**arguments)
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(value)
    )
    assert type(again) is kind
    config = again.get_config()
    assert config == value.get_config()
    # Every argument is in the configuration, under its own name.
    assert argument_names(kind) <= config.keys()
    assert {key: config[key] for key in arguments} == arguments


def numbers_in(text):
    """Return the literal as nested lists and numbers, or raise."""
    return np.asarray(ast.literal_eval(text.strip()), "float64")


def failed_examples(docstring, names):
    """Return what the `>>>` lines of a docstring got wrong, and their count.

    Numbers are compared with a tolerance of 1e-4 and without the form in
    which the backend prints them; all else as text.
    """
    failures = []
    names = dict(names)
    examples = doctest.DocTestParser().get_examples(docstring)
    for example in examples:
        if not example.want:
            exec(example.source, names)
            continue
        got = eval(example.source.strip(), names)
        try:
            want = numbers_in(example.want)
        except (ValueError, SyntaxError):
            agree = repr(got).strip() == example.want.strip()
        else:
            got = np.asarray(
                ops.convert_to_numpy(got) if ops.is_tensor(got) else got,
                "float64",
            )
            agree = got.shape == want.shape and np.allclose(
                got, want, rtol=0, atol=1e-4
            )
        if not agree:
            failures.append(f"{example.source.strip()} gave {got}")
    return failures, len(examples)


WITH_EXAMPLES = {
    name: value for name, value in OBJECTS.items() if ">>>" in value.__doc__
}


@each(WITH_EXAMPLES)
def test_the_examples_of_the_docstring_are_right(name):
    value = WITH_EXAMPLES[name]
    module = sys.modules[value.__module__]
    room = sys.modules[".".join(value.__module__.split(".")[:2])]
    names = {"ops": ops, "np": np, **vars(room), **vars(module)}
    failures, _ = failed_examples(value.__doc__, names)
    assert not failures


def test_wrong_examples_are_found():
    names = {"ops": ops}
    right = ">>> x = 1.0\n>>> x + 1\n2.00001\n>>> ops.ones((1, 2))\n[[1, 1]]\n"
    assert failed_examples(right, names) == ([], 3)
    for wrong in (
        ">>> 1 + 1\n2.001\n",
        ">>> ops.ones((1, 2))\n[[1, 2]]\n",
        ">>> ops.ones((1, 2))\n[1, 1]\n",
        ">>> 'a'\n'b'\n",
    ):
        failures, count = failed_examples(wrong, names)
        assert (len(failures), count) == (1, 1)


IMPORT = """
import sys
import keras
before = set(sys.modules)
{statement}
print(*sorted({{name.split(".")[0] for name in set(sys.modules) - before}}))
"""


def newly_loaded(statement):
    """Return the frameworks that `statement` loads and `keras` did not."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT.format(statement=statement)],
        cwd=pathlib.Path(keras_smkd.__file__).parents[1],
        env={**os.environ, "KERAS_BACKEND": keras.backend.backend()},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.splitlines()[-1].split())
    return loaded & FRAMEWORKS, loaded


def test_import_loads_no_framework_that_keras_had_not():
    names = {module.__name__ for module in public_modules()}
    everything = ", ".join(sorted(names - {"keras_smkd.sklearn"}))
    frameworks, loaded = newly_loaded(f"import keras_smkd, {everything}")
    assert "keras_smkd" in loaded
    assert not frameworks


def test_the_estimator_of_scikit_learn_loads_no_other_framework():
    # And only it loads scikit-learn.
    frameworks, _ = newly_loaded("import keras_smkd.sklearn")
    assert frameworks == {"sklearn"}


def test_what_training_needs_not_is_imported_when_it_is_used():
    later = ("data", "estimators", "noise", "report", "sklearn")
    newly_loaded(
        "import keras_smkd; "
        f"names = ['keras_smkd.' + name for name in {later}]; "
        "assert not set(names) & set(sys.modules); "
        f"assert {{*{later}}} < set(dir(keras_smkd)); "
        "assert keras_smkd.noise is sys.modules['keras_smkd.noise']; "
        "from keras_smkd import data; "
        "assert not hasattr(keras_smkd, 'nothing')"
    )


def test_a_loaded_framework_is_found(tmp_path):
    (tmp_path / "keras_cv.py").write_text("stand_in = True\n")
    frameworks, _ = newly_loaded(
        f"sys.path.insert(0, {str(tmp_path)!r}); import keras_smkd, keras_cv",
    )
    assert frameworks == {"keras_cv"}
