"""Read an .npz file of plain arrays, such as others publish to be compared with."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ldru_study.errors import NotFoundError, StudyError

Array: TypeAlias = npt.NDArray[Any]

# a RuntimeError: encrypted, or of a compression that is not supported
_UNREAD = (
    OSError,
    ValueError,
    EOFError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
_ADVICE = "Save it with numpy.savez."


def read_npz(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Return all plain arrays of a file, and why its other entries are none, by their keys.

    Nothing pickled is read.

    Raises:
        NotFoundError: there is no such file.
        StudyError: it is no .npz, or holds nothing.
    """
    arrays: dict[str, Array] = {}
    unread: dict[str, str] = {}
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise StudyError(f"{path}: holds one array without a name. Save with numpy.savez.")
        with file:
            for key in file.files:
                try:
                    array = file[key]
                except _UNREAD as error:
                    reason = str(error).removesuffix(".")
                    unread[key] = f"'{key}': not read as a plain array: {reason}. {_ADVICE}"
                    continue
                # an entry that is no .npy comes as bytes
                if isinstance(array, np.ndarray):
                    arrays[key] = array
                else:
                    unread[key] = f"'{key}' is no array. Save with numpy.savez."
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such file. Give the path of an .npz file.") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise StudyError(f"{path}: not read as an .npz of plain arrays: {error}") from None
    if not arrays and not unread:
        raise StudyError(f"{path}: holds no arrays. Nothing would be compared.")
    return arrays, unread
