"""Weights to a file and back: safetensors, NumPy's npz, and the zip that torch.save writes.

    io.save(model.state_dict(), "model.safetensors")       # or model.npz, or model.pt for torch.load
    model.load_state_dict(io.load("model.safetensors"))

Nothing in a file is ever executed, and nothing is allocated because a file claims to be large.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tinyconv.io import archive, torchfile, tree


def save(state: Any, path: str | os.PathLike[str]) -> None:
    """Write ``state`` to ``path``, all or nothing; the name's ending says how.

    - ``.npz``: name -> Tensor or array, for np.load.
    - ``.pt``, ``.pth``: the same, for torch.load.
    - anything else: safetensors, which also keeps nested dicts, lists, numbers and strings, for example a training's
      state; torch reads a state dict in it by safetensors.torch.load_file.

    TypeError: a value that the file cannot keep, or a dict key that is no string. ImportError: no safetensors.
    """
    path = Path(path)
    encode = {".npz": archive.encode_npz, ".pt": torchfile.encode, ".pth": torchfile.encode}
    data = encode.get(path.suffix.lower(), tree.encode)(state)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # on the disk before the rename makes it the file
        os.replace(aside, path)  # a process that dies before leaves the old file whole
    finally:
        aside.unlink(missing_ok=True)


def load(path: str | os.PathLike[str]) -> Any:
    """What a file of any of these kinds holds, its arrays as NumPy arrays; the content says which kind it is.

    A ``.pt`` is read without torch and without running the pickle in it, see :mod:`tinyconv.io.torchfile`.
    FileNotFoundError: no such file. ValueError: it is broken, or none of these. ImportError: no safetensors.
    """
    path = Path(path)
    data = path.read_bytes()
    try:
        if not data.startswith((b"PK\x03\x04", b"PK\x05\x06")):  # the latter begins a zip file without members
            if data.startswith(b"\x80"):  # \x80 begins a pickle; as safetensors it would be a header of no size
                torchfile.refuse_bare_pickle(data)
            return tree.decode(data)
        members = archive.members(data)
        del data  # so that a large file is in memory twice, not three times
        pickles = [name for name in members if name.rpartition("/")[2] == "data.pkl"]
        if len(pickles) > 1:
            raise ValueError("it has several members data.pkl")
        return torchfile.decode(members, pickles[0]) if pickles else archive.decode_npz(members)
    except ImportError:
        raise
    except Exception as error:  # whatever a damaged file makes the readers raise
        reason = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise ValueError(f"load: {path} is broken, or no file of weights: {reason}.") from None
