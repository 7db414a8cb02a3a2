"""Read images: folders of classes, columns of a table, IDX files and scikit-learn's digits."""

from __future__ import annotations

import gzip
import io
import os
import struct
import warnings
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attar.errors import AttarError
from attar.optional import lazy

pil: Any = lazy("PIL.Image")
ops: Any = lazy("PIL.ImageOps")
sklearn_datasets: Any = lazy("sklearn.datasets")

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
GRAY = ("1", "L")
IDX_NAMES = {"source": ("*train*images*", "*train*labels*"), "test": ("*t10k*images*", "*t10k*labels*")}


def decode(data: bytes | Path, name: str, size: int | None) -> np.ndarray:
    """Return one image as uint8 ``(channels, height, width)``, with 1 channel if it is gray, else 3.

    Args:
        data: the encoded image, or the file that holds it.
        name: what to call it in a message.
        size: resize both sides to this many pixels; None leaves the image as it is.

    Raises:
        AttarError: it cannot be read as an image of 8 bits a channel.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pil.DecompressionBombWarning)
            with pil.open(data if isinstance(data, Path) else io.BytesIO(data)) as opened:
                image = ops.exif_transpose(opened)
                if image.mode in ("I", "F") or image.mode.startswith("I;"):
                    raise AttarError(f"{name} has more than 8 bits a channel (mode {image.mode}). Convert it.")
                image = image.convert("L" if image.mode in GRAY else "RGB")
    except (OSError, ValueError, SyntaxError, pil.DecompressionBombError, pil.DecompressionBombWarning) as error:
        raise AttarError(f"{name} cannot be read as an image: {error}. Remove it or save it again.") from error
    if size is not None and image.size != (size, size):
        image = image.resize((size, size), pil.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def stack(images: Sequence[np.ndarray], names: Sequence[str], channels: int | None) -> np.ndarray:
    """Return images of one size as uint8 ``(images, channels, height, width)``.

    Args:
        images: each ``(1 or 3, height, width)``.
        names: what to call each in a message.
        channels: 1 for gray, 3 for color; None is 1 if all are gray, else 3.

    Raises:
        AttarError: two images differ in height or width.
    """
    first = images[0].shape[1:]
    for image, name in zip(images, names, strict=True):
        if image.shape[1:] != first:
            raise AttarError(
                f"images differ in size: {names[0]} is {first[1]}x{first[0]}, {name} is "
                f"{image.shape[2]}x{image.shape[1]}. Set image_size to resize all of them."
            )
    wanted = channels or max(image.shape[0] for image in images)
    return np.stack([_with_channels(image, wanted) for image in images])


def _with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    if image.shape[0] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=0)
    return np.asarray(pil.fromarray(image.transpose(1, 2, 0)).convert("L"))[None]


def fit(pixels: np.ndarray, size: int | None, channels: int | None) -> np.ndarray:
    """Return gray images ``(images, 1, height, width)`` resized and with the wanted channels."""
    if size is not None and pixels.shape[2:] != (size, size):
        resized = (pil.fromarray(image[0]).resize((size, size), pil.Resampling.BILINEAR) for image in pixels)
        pixels = np.stack([np.asarray(image, dtype=np.uint8)[None] for image in resized])
    return np.repeat(pixels, 3, axis=1) if channels == 3 else pixels


def class_folders(folder: Path) -> list[tuple[Path, str]]:
    """Return every image below a folder with its class: the name of the folder's subfolder it lies in.

    Args:
        folder: holds one folder for each class.

    Raises:
        AttarError: no image is there.
    """
    found = []
    for group in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        files = sorted(p for p in group.rglob("*") if p.suffix.lower() in ENDINGS and not p.name.startswith("."))
        found += [(path, group.name) for path in files if path.is_file()]
    if not found:
        raise AttarError(
            f"{folder} has no images: it must hold a folder for each class, with {', '.join(ENDINGS[:3])} or similar "
            "in them. Give the folder above the classes."
        )
    return found


def read_idx(folder: Path, part: str) -> tuple[np.ndarray, list[Any]] | None:
    """Return the images and labels of MNIST's IDX files, plain or compressed with gzip.

    Args:
        folder: holds the ``*-ubyte`` files.
        part: ``"source"`` (train) or ``"test"``.

    Returns:
        Images uint8 ``(images, 1, height, width)`` and their labels, or None if the folder has no such files.

    Raises:
        AttarError: a file is damaged, or the counts differ.
    """
    images, labels = (sorted(folder.glob(pattern)) for pattern in IDX_NAMES[part])
    if not images or not labels:
        return None
    pixels, values = _idx_array(images[0], 3), _idx_array(labels[0], 1)
    if len(pixels) != len(values):
        raise AttarError(f"{images[0]} holds {len(pixels)} images, {labels[0].name} {len(values)} labels. Get both.")
    return pixels[:, None], values.tolist()


def _idx_array(path: Path, dimensions: int) -> np.ndarray:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as handle:
            data = handle.read()
    except (OSError, EOFError, zlib.error) as error:
        raise AttarError(f"{path} cannot be read: {error}. Download it again.") from error
    begin = 4 + 4 * dimensions
    if len(data) < begin or data[:4] != bytes([0, 0, 8, dimensions]):
        raise AttarError(f"{path} is no IDX file of bytes in {dimensions} dimensions. Download it again.")
    shape = struct.unpack(f">{dimensions}I", data[4:begin])
    pixels = np.frombuffer(data, np.uint8, offset=begin)
    if pixels.size != int(np.prod(shape, dtype=np.int64)):
        raise AttarError(f"{path} is truncated or damaged: {pixels.size} bytes for the shape {shape}. Get it again.")
    return pixels.reshape(shape).copy()


def is_idx(folder: Path) -> bool:
    """Tell whether a folder holds MNIST's IDX files."""
    return any("ubyte" in name for name in os.listdir(folder))


def read_digits() -> tuple[np.ndarray, list[Any]]:
    """Return scikit-learn's digits: uint8 ``(1797, 1, 8, 8)``, values 0 to 16 scaled to 0 to 255, and labels 0 to 9."""
    found = sklearn_datasets.load_digits()
    pixels = np.rint(found.images * (255.0 / 16.0)).astype(np.uint8)
    return pixels[:, None], found.target.tolist()


def column_images(values: Iterable[Any], folder: Path, size: int | None) -> tuple[list[np.ndarray], list[str]]:
    """Return the images of a table's column and what to call each.

    Args:
        values: bytes, paths from ``folder``, or mappings with ``bytes`` and ``path`` as `datasets` writes.
        folder: the table's.
        size: resize both sides to this many pixels.

    Raises:
        AttarError: a value is none of these, or is no readable image.
    """
    images, names = [], []
    for row, value in enumerate(values, 1):
        content = value
        if isinstance(value, dict):
            content = value.get("bytes") or value.get("path")
        name = f"the image of row {row}" if isinstance(content, bytes) else f"{folder / str(content)} (row {row})"
        if not content or not isinstance(content, str | bytes):
            raise AttarError(f"the image of row {row} is a {type(value).__name__}. Give its bytes, or a path.")
        images.append(decode(content if isinstance(content, bytes) else folder / content, name, size))
        names.append(name)
    return images, names
