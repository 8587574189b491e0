"""Grey images from folders or from one .npz, as float32 in [0, 1]."""

import zipfile
from collections.abc import Sequence
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from qmtl.errors import InvalidInputError

__all__ = ["load_images"]


def load_images(
    path: str | PathLike[str],
    paths: Sequence[str],
    *,
    images: str | PathLike[str] | None = None,
    image_size: int | None = None,
) -> np.ndarray:
    """The images of these paths.

    Args:
        path: the folder of the data set.
        paths: as in the label file's column Path.
        images: a .npz with `images` (N, H, W) and `paths` (N,), or the folder that the paths start
            from. None: ``images.npz`` in `path` if there is one, else `path` or its parent, with or
            without the first folders of the paths.
        image_size: side in pixels; larger images are cropped to the central square and averaged
            down. None: 64 for files, the stored size for a .npz.

    Returns:
        float32 (N, 1, H, W) in [0, 1].

    Raises:
        InvalidInputError: images are missing (how many, and the first), or cannot be read.
    """
    source = Path(path) / "images.npz" if images is None else Path(images)
    if images is not None and not source.exists():
        raise InvalidInputError(f"images: there is no file or folder {source}")
    if source.is_file():
        grey = _from_npz(source, paths)
        if image_size is not None and grey.shape[1:] != (image_size, image_size):
            grey = np.stack([_resize_array(image, image_size) for image in grey])
    else:
        roots = [Path(path), Path(path).parent] if images is None else [source]
        files = _find_files(roots, paths)
        grey = np.stack([_read_file(file, image_size or 64) for file in files])
    return grey[:, None]


def _from_npz(file: Path, paths: Sequence[str]) -> np.ndarray:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            stored = {name: arrays[name] for name in ("images", "paths") if name in arrays.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise InvalidInputError(f"{file}: cannot be read as .npz: {error}") from error
    if len(stored) != 2:
        raise InvalidInputError(f"{file}: expected the arrays 'images' and 'paths'")
    pixels, names = stored["images"], stored["paths"]
    if pixels.ndim != 3 or names.shape != (len(pixels),):
        raise InvalidInputError(
            f"{file}: expected images (N, H, W) and paths (N,), got {pixels.shape} and "
            f"{names.shape}"
        )
    place = {str(name): row for row, name in enumerate(names)}
    missing = [name for name in paths if name not in place]
    if missing:
        raise _missing(missing, len(paths), str(file))
    return _unit_interval(pixels[[place[name] for name in paths]], str(file))


def _unit_interval(pixels: np.ndarray, where: str) -> np.ndarray:
    if pixels.dtype in (np.uint8, np.uint16):
        return np.asarray(pixels, dtype=np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    if pixels.dtype.kind != "f" or not ((pixels >= 0) & (pixels <= 1)).all():
        raise InvalidInputError(
            f"{where}: expected pixels as uint8, uint16, or floats in [0, 1], got {pixels.dtype}"
        )
    return np.asarray(pixels, dtype=np.float32)


def _missing(missing: Sequence[str], n: int, where: str) -> InvalidInputError:
    shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
    return InvalidInputError(f"{len(missing)} of {n} images are not in {where}: {shown}")


def _find_files(roots: Sequence[Path], paths: Sequence[str]) -> list[Path]:
    parts = [PurePosixPath(name.replace("\\", "/")).parts for name in paths]
    # CheXpert's paths begin with the name of the folder itself (CheXpert-v1.0-small/train/...).
    for root in roots:
        for dropped in range(len(parts[0])):
            if root.joinpath(*parts[0][dropped:]).is_file():
                files = [root.joinpath(*part[dropped:]) for part in parts]
                there = [file.is_file() for file in files]
                if not all(there):
                    missing = [p for p, is_there in zip(paths, there, strict=True) if not is_there]
                    raise _missing(missing, len(paths), f"the folder {root}")
                return files
    tried = " or ".join(str(root) for root in roots)
    raise InvalidInputError(
        f"images: {paths[0]!r} is not under {tried}, and there is no images.npz; pass the folder "
        f"that the column Path starts from, or a .npz, as images"
    )


def _read_file(file: Path, size: int) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(file) as image:
            # JPEG only: decode at a lower resolution that is still large enough.
            image.draft("L", (size, size))
            deep = image.mode.startswith("I")
            pixels = np.asarray(image if deep else image.convert("L"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise InvalidInputError(f"{file}: cannot be read as an image: {error}") from error
    return _resize_array(_unit_interval(pixels.astype(np.uint16) if deep else pixels, str(file)),
                         size)  # fmt: skip


def _resize_array(pixels: np.ndarray, size: int) -> np.ndarray:
    from PIL import Image, ImageOps

    image: Any = Image.fromarray(pixels)  # float32: one channel of 32 bits
    fitted = ImageOps.fit(image, (size, size), method=Image.Resampling.BOX)
    return np.asarray(fitted, dtype=np.float32)
