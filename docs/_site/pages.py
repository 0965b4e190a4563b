"""Pages of the site that are no files of docs/, and links between all pages.

A hook of MkDocs. It adds README and its like, each notebook of examples/, and
one page for each public room of the package. A link that leads out of docs/
becomes one to a page of the site, if the file is one, or to the repository.
"""

import ast
import pathlib
import posixpath
import re

from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "keras_smkd"
# Files elsewhere that are pages: where they are, and where they go.
OTHER_PAGES = {
    "README.md": "index.md",
    "BUILD_NOTES.md": "build_notes.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/RESULTS.md": "results.md",
}
LINK = re.compile(r"(\]\()([^)#\s]+)(#[^)\s]*)?(\))")
# What must not be read as a link: code, in blocks and in lines.
CODE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.DOTALL | re.MULTILINE)


def notebooks():
    """Return the paths of the notebooks, from the root."""
    found = sorted((ROOT / "examples").glob("*.ipynb"))
    return [path.relative_to(ROOT).as_posix() for path in found]


def sources():
    """Return `{file of the repository: page of the site}`, without the API."""
    return {**OTHER_PAGES, **{path: path for path in notebooks()}}


def public_names(path):
    """Return the public names of a file, and whence those that it imports.

    Read from the source: the site is built without Keras.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    homes, own, listed = {}, [], None
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            homes.update({item.name: node.module for item in node.names})
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            own.append(node.name)
        elif isinstance(node, ast.Assign):
            if node.targets[0].id == "__all__":
                listed = ast.literal_eval(node.value)
    if listed is None:
        listed = [name for name in own if not name.startswith("_")]
    return {name: homes.get(name) for name in listed}


def api_pages():
    """Return `{page: Markdown}` of the API, the rooms by name."""
    names = public_names(PACKAGE / "__init__.py")
    top, rooms = [], []
    for name in names:
        home = names[name]
        folder, file = PACKAGE / name / "__init__.py", PACKAGE / f"{name}.py"
        if home in (None, "keras_smkd"):
            rooms.append((name, folder if folder.is_file() else file))
        else:
            # `export` is a function here, and the room that it comes from.
            where = home if folder.is_file() else "keras_smkd"
            top.append(f"::: {where}.{name}\n")
    intro = (
        "# keras_smkd\n\nThe names of the package itself; each room has a "
        "page. A part is a callable of one `Batch`.\n\n"
    )
    pages = {"api/keras_smkd.md": intro + "\n".join(top)}
    for name, path in rooms:
        room = f"keras_smkd.{name}"
        doc = f"# {room}\n\n::: {room}\n    options:\n      members: false\n"
        doc += (
            "      show_root_heading: false\n      show_root_toc_entry: false\n"
        )
        for member in public_names(path):
            doc += f"\n::: {room}.{member}\n"
        pages[f"api/{name}.md"] = doc
    return pages


def on_config(config):
    """Put the notebooks and the API into the navigation."""
    lists = {
        "Notebooks": notebooks(),
        "API": [
            {posixpath.basename(page).removesuffix(".md"): page}
            for page in api_pages()
        ],
    }
    for entry in config.nav:
        if isinstance(entry, dict):
            for title, pages in lists.items():
                if title in entry:
                    entry[title] = pages
    return config


# Before the plugin that makes pages of notebooks.
@event_priority(100)
def on_files(files, config):
    """Add the pages that are not in docs/."""
    for source, page in OTHER_PAGES.items():
        files.append(
            File.generated(config, page, abs_src_path=str(ROOT / source))
        )
    for path in notebooks():
        # Not `generated`: the plugin looks for a folder.
        files.append(
            File(path, str(ROOT), config.site_dir, config.use_directory_urls)
        )
    for page, text in api_pages().items():
        files.append(File.generated(config, page, content=text))
    return files


def file_at(link, place):
    """Return the path, from the root, that a link on the file `place` names."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(place), link))


def in_repository(path, config):
    """Return the address of a file or folder of the repository."""
    kind = "tree" if (ROOT / path).is_dir() else "blob"
    return f"{config.repo_url}/{kind}/main/{path}"


def page_of(path):
    """Return the page of the site that a file of the repository is, or None."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return sources().get(path)


def on_page_markdown(markdown, page, config, files):
    """Turn links to files of the repository into links that work here."""
    uri = page.file.src_uri
    if uri.endswith(".ipynb") or uri.startswith("api/"):
        return markdown
    places = {page: source for source, page in sources().items()}
    place = places.get(uri, f"docs/{uri}")

    def moved(found):
        before, link, anchor, after = found.groups("")
        path = file_at(link, place)
        if re.match(r"\w+:", link) or not (ROOT / path).exists():
            return found[0]  # What leads nowhere MkDocs reports.
        here = page_of(path)
        if here is None:
            here = in_repository(path, config)
        else:
            here = posixpath.relpath(here, posixpath.dirname(uri) or ".")
        return f"{before}{here}{anchor}{after}"

    # A link around code, [`file`](file), is cut in two by it.
    return "".join(
        part if i % 2 else LINK.sub(moved, part)
        for i, part in enumerate(CODE.split(markdown))
    )


def on_page_content(html, page, config, files):
    """Do the same in a notebook, which comes as HTML."""
    uri = page.file.src_uri
    if not uri.endswith(".ipynb"):
        return html

    def moved(found):
        path = file_at(found[1], uri)
        if not (ROOT / path).exists():
            raise PluginError(f"{uri} links to {found[1]}, which is not there")
        here = page_of(path)
        if here is None:
            return f'href="{in_repository(path, config)}{found[2] or ""}"'
        url = files.get_file_from_path(here).url_relative_to(page.file)
        return f'href="{url}{found[2] or ""}"'

    return re.sub(r'href="(?!\w+:|#|/)([^"#]+)(#[^"]*)?"', moved, html)
