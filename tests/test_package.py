"""What is published: the two files, what they say, and what they never do."""

import ast
import email
import importlib.util
import pathlib
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import pytest
from test_readme import ROOT
from thrift import with_torch

import keras_smkd

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REPOSITORY = "https://github.com/keras-smkd/keras-smkd"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist and the wheel, built without a network."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("needs hatchling")
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (sdist,) = folder.glob("*.tar.gz")
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


@with_torch
def test_the_sdist_has_the_sources_and_no_results(built):
    sdist, _ = built
    with tarfile.open(sdist) as archive:
        names = {pathlib.PurePosixPath(name) for name in archive.getnames()}
    names = {name.relative_to(name.parts[0]).as_posix() for name in names}
    assert not [name for name in names if "/results/" in name]
    assert sdist.stat().st_size < 1.5e6
    expected = {
        "keras_smkd/__init__.py",
        "keras_smkd/py.typed",
        "benchmarks/robustness/report.py",
        "docs/design.md",
        "docs/_site/pages.py",
        "examples/quickstart.py",
        "tests/conftest.py",
        "CITATION.cff",
        "LICENSE",
        "README.md",
        "SECURITY.md",
        "hatch_build.py",
        "mkdocs.yml",
        "pyproject.toml",
    }
    assert expected - names == set()


@with_torch
def test_the_wheel_has_the_package_alone(built):
    with zipfile.ZipFile(built[1]) as archive:
        names = archive.namelist()
    top = {name.split("/")[0] for name in names}
    version = keras_smkd.__version__
    assert top == {"keras_smkd", f"keras_smkd-{version}.dist-info"}
    assert "keras_smkd/py.typed" in names


@with_torch
def test_a_package_index_shows_readme_with_links_that_lead_somewhere(built):
    with zipfile.ZipFile(built[1]) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("/METADATA")]
        metadata = email.message_from_bytes(archive.read(name))
    shown = metadata.get_payload(decode=True).decode()
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_all("Author") == ["The keras_smkd developers"]
    readme = (ROOT / "README.md").read_text()
    assert shown.splitlines()[0] == readme.splitlines()[0]
    links = re.findall(r"\]\(([^)]+)\)", shown)
    assert len(links) == len(re.findall(r"\]\(([^)]+)\)", readme)) > 15
    assert [link for link in links if not re.match(r"https://|#", link)] == []
    ours = [link for link in links if link.startswith(REPOSITORY)]
    assert f"{REPOSITORY}/raw/main/docs/suspects.png" in ours
    assert f"{REPOSITORY}/blob/main/docs/choosing.md" in ours
    for link in ours:
        assert (ROOT / link.split("/main/")[1].split("#")[0]).exists(), link


def test_all_files_name_the_same_version_authors_and_repository():
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"version: {keras_smkd.__version__}\n" in citation
    (author,) = PROJECT["authors"]
    assert f"authors:\n  - name: {author['name']}\n" in citation
    assert PROJECT["urls"]["Homepage"] == REPOSITORY
    for name in (
        "CITATION.cff",
        "SECURITY.md",
        "hatch_build.py",
        "mkdocs.yml",
        ".github/ISSUE_TEMPLATE/config.yml",
    ):
        addresses = re.findall(
            r"https://github\.com/[\w-]+/[\w-]+", (ROOT / name).read_text()
        )
        assert set(addresses) == {REPOSITORY}, name


def test_each_classified_python_is_in_the_workflow_with_each_backend():
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    tests, _, wheel = re.split(r"\n  (?:docs|wheel):\n", workflow)
    versions = {
        line.rsplit(" ", 1)[1]
        for line in PROJECT["classifiers"]
        if re.search(r":: 3\.\d+$", line)
    }
    assert len(versions) == 3
    assert set(re.findall(r'"(3\.\d+)"', tests)) == versions
    assert set(re.findall(r"python: \[(.*)\]", wheel)[0].split(", ")) == {
        f'"{version}"' for version in versions
    }
    assert "backend: [tensorflow, jax, torch]" in tests
    assert "bash .ci/run ${{ matrix.backend }}" in tests
    assert "bash .ci/wheel" in wheel


def called(node):
    """Return the dotted name that a call calls."""
    return ast.unparse(node.func)


def test_nothing_is_evaluated_or_unpickled():
    """As SECURITY.md says."""
    wrong, loads = [], 0
    for path in sorted((ROOT / "keras_smkd").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            where = f"{path.name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names]
                names.append(getattr(node, "module", None) or "")
                never = {"pickle", "cloudpickle", "dill", "marshal", "shelve"}
                wrong += [where for name in names if name in never]
            if not isinstance(node, ast.Call):
                continue
            given = {
                keyword.arg: ast.unparse(keyword.value)
                for keyword in node.keywords
            }
            if called(node) == "np.load":
                loads += 1
                if given.get("allow_pickle") != "False":
                    wrong.append(where)
            if (
                called(node) in ("eval", "exec", "torch.load", "joblib.load")
                or given.get("safe_mode") == "False"
                or called(node).endswith("enable_unsafe_deserialization")
            ):
                wrong.append(where)
    assert wrong == []
    assert loads
