"""The documentation site is built, without a warning, from what there is.

Built once a run of all backends: nothing in it depends on the backend.
"""

import ast
import html
import importlib.util
import inspect
import os
import re
import subprocess
import sys
import types
import urllib.parse

import pytest
from test_readme import ROOT
from thrift import with_torch

import keras_smkd

NEEDED = ("mkdocs", "material", "mkdocstrings", "mkdocs_jupyter")
MISSING = [name for name in NEEDED if not importlib.util.find_spec(name)]
pytestmark = [
    with_torch,
    pytest.mark.skipif(
        bool(MISSING), reason=f'needs the extra "docs"; missing: {MISSING}'
    ),
]
REPOSITORY = "https://github.com/keras-smkd/keras-smkd"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, with what the building printed."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", folder],
        cwd=ROOT,
        # Not the deprecations of what builds it.
        env={
            **os.environ,
            "NO_MKDOCS_2_WARNING": "1",
            "DISABLE_MKDOCS_2_WARNING": "true",
            "PYTHONWARNINGS": "ignore",
        },
        capture_output=True,
        text=True,
    )
    log = done.stdout + done.stderr
    assert done.returncode == 0, log[-3000:]
    assert not re.search("warning|error", log, re.IGNORECASE), log[-3000:]
    return folder


def content(site, page):
    """Return the article of a page, without the navigation around it."""
    text = (site / page / "index.html").read_text(encoding="utf-8")
    return re.search("<article.*?</article>", text, re.DOTALL)[0]


def test_each_room_has_a_page_with_each_of_its_public_names(site):
    missing = []
    for name in keras_smkd.__all__:
        value = getattr(keras_smkd, name)
        if not isinstance(value, types.ModuleType):
            text = content(site, "api/keras_smkd")
            if not re.search(rf'<h2 id="keras_smkd\.(\w+\.)?{name}"', text):
                missing.append(name)
            continue
        text = content(site, f"api/{name}")
        words = html.unescape(re.sub("<.*?>", "", text))
        first_line = value.__doc__.splitlines()[0].replace("`", "")
        assert first_line in words, name
        public = getattr(value, "__all__", None) or [
            member
            for member, found in inspect.getmembers(value)
            if getattr(found, "__module__", None) == value.__name__
            and not member.startswith("_")
            and (inspect.isclass(found) or inspect.isfunction(found))
        ]
        assert public
        missing += [
            f"{name}.{member}"
            for member in public
            if f'id="keras_smkd.{name}.{member}"' not in text
        ]
    assert missing == []


def test_formulas_and_examples_of_docstrings_are_set(site):
    formulas, wrong = [], []
    for page in sorted((site / "api").iterdir()):
        text = content(site, f"api/{page.name}")
        formulas += re.findall(r'<pre class="formula.*?</pre>', text, re.DOTALL)
        # A doctest that is no block is a quotation of quotations.
        wrong += re.findall(r"<blockquote>.*?</blockquote>", text, re.DOTALL)
    assert wrong == []
    assert len(formulas) >= 90
    found = "\n".join(formulas)
    for line in (
        # An indented block of `PeerLearning`.
        "L<sub>i</sub> = supervised_weight · g<sub>i</sub>"
        " · l(target<sub>i</sub>, p<sub>i</sub>)\n    + distillation_weight(t)",
        # Code at the beginning of a paragraph, of a loss.
        '<pre class="formula">(1 - p<sub>y</sub><sup>q</sup>) / q</pre>',
        "∑<sub>j ≠ i</sub>",
    ):
        assert line in found, line


def test_guides_notebooks_and_the_files_of_the_root_are_pages(site):
    pages = [path.stem for path in (ROOT / "docs").glob("*.md")]
    assert len(pages) >= 8
    pages += ["changelog", "contributing", "build_notes", "results"]
    notebooks = sorted((ROOT / "examples").glob("*.ipynb"))
    assert notebooks
    pages += [f"examples/{path.stem}" for path in notebooks]
    for page in pages:
        assert "<h1" in content(site, page), page
    home = (site / "index.html").read_text(encoding="utf-8")
    for page in pages:
        assert f'href="{page}/"' in home, f"{page} is not in the navigation"


def test_links_lead_to_pages_and_files_that_there_are(site):
    wrong = []
    for path in sorted(site.rglob("*.html")):
        if path.name == "404.html":
            continue
        text = path.read_text(encoding="utf-8")
        for link in re.findall(r'(?:href|src)="([^"#]+)', text):
            link = urllib.parse.unquote(html.unescape(link))
            if link.startswith(f"{REPOSITORY}/"):
                there = (ROOT / link.split("/main/")[-1]).exists()
            elif re.match(r"\w+:|//", link):
                continue
            else:
                there = (path.parent / link).exists()
            if not there:
                wrong.append(f"{path.relative_to(site)}: {link}")
    assert wrong == []


def test_the_site_is_built_without_the_package_or_keras():
    for path in sorted((ROOT / "docs" / "_site").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in getattr(node, "names", [])]
            names.append(getattr(node, "module", None) or "")
            assert not [n for n in names if str(n).startswith("keras")], path
