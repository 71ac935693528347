"""The data root: the folder of real data sets that are not part of the package."""

from __future__ import annotations

import os
from pathlib import Path


def data_folder(name: str, contents: str, source: str) -> Path:
    """The folder `name` under the data root, which is what the environment variable TINYCONV_DATA says.

    contents, source: what belongs into the folder and where it comes from, for the message of the FileNotFoundError.
    """
    root = os.environ.get("TINYCONV_DATA")
    if root and (Path(root) / name).is_dir():
        return Path(root) / name
    found = f"it is {root!r}, which has no folder {name}" if root else "it is not set"
    raise FileNotFoundError(
        f"data: TINYCONV_DATA must name a folder that contains {name} with {contents}, but {found}. "
        f"Public source: {source}. Then set TINYCONV_DATA to the folder that contains {name}."
    )
