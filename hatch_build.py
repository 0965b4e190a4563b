"""README as a package index shows it: its links lead to the repository."""

import pathlib
import re

from hatchling.metadata.plugin.interface import MetadataHookInterface

REPOSITORY = "https://github.com/keras-smkd/keras-smkd"


def with_whole_links(text):
    """Return Markdown whose links to files, and images, are whole URLs."""
    relative = r"\]\((?!\w+:|#)"
    text = re.sub(
        rf"(!\[[^]]*){relative}", rf"\1]({REPOSITORY}/raw/main/", text
    )
    return re.sub(relative, f"]({REPOSITORY}/blob/main/", text)


class CustomMetadataHook(MetadataHookInterface):
    """Found by hatchling by its name."""

    def update(self, metadata):
        """Give the package its long description."""
        readme = pathlib.Path(self.root, "README.md")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": with_whole_links(readme.read_text(encoding="utf-8")),
        }
