"""Read an .npz file of plain arrays, such as others publish to be compared with."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ldru_study.errors import NotFoundError, StudyError


def read_npz(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    """Return all arrays of a file by their keys; nothing pickled is read.

    Raises:
        NotFoundError: there is no such file.
        StudyError: it is no .npz of plain arrays, or holds none.
    """
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise StudyError(f"{path}: holds one array without a name. Save with numpy.savez.")
        with file:
            arrays = {key: file[key] for key in file.files}
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such file. Give the path of an .npz file.") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise StudyError(f"{path}: not read as an .npz of plain arrays: {error}") from None
    if not arrays:
        raise StudyError(f"{path}: holds no arrays. Nothing would be compared.")
    return arrays
