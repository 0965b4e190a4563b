"""Packages that not everybody needs."""

import importlib
from typing import Any


def import_optional(module: str, user: str, install: str = "data") -> Any:
    """Return a module, or raise and say how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"`{user}` needs {module}, which could not be imported. Install "
            f'with: pip install "keras-smkd[{install}]"'
        ) from error
