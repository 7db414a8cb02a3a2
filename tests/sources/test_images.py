"""Images: class folders, columns, IDX files and digits; what is no image is named."""

from __future__ import annotations

import gzip
import io
import struct
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from attar.errors import AttarError
from attar.sources import data
from attar.sources.data import DataSettings


def picture(value: int, size: tuple[int, int] = (4, 4), mode: str = "RGB") -> bytes:
    sink = io.BytesIO()
    color = value if mode == "L" else (value, 0, 255 - value)
    Image.new(mode, size, color).save(sink, "png")
    return sink.getvalue()


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    for group, begin in (("cat", 0), ("dog", 100)):
        folder = tmp_path / "pets" / group
        folder.mkdir(parents=True)
        for i in range(10):
            (folder / f"{i}.png").write_bytes(picture(begin + i))
        (folder / "notes.txt").write_text("not an image")
    return tmp_path


def read(base: Path, **keys: object) -> data.DataSet:
    return data.read(DataSettings(**keys), base, base / "cache", 0)  # type: ignore[arg-type]


def test_class_folders_are_read(classes: Path) -> None:
    assert data.quick_check(DataSettings(source="pets"), classes) == []
    found = read(classes, source="pets")
    assert found.labels == ("cat", "dog")
    assert found.train.inputs.shape == (13, 3, 4, 4)  # type: ignore[union-attr]
    assert found.train.inputs.dtype == np.uint8  # type: ignore[union-attr]
    for part in (found.train, found.validation, found.test):
        reds = np.asarray(part.inputs)[:, 0, 0, 0]
        assert ((reds >= 100) == (part.labels == 1)).all()


def test_sizes_must_agree_unless_they_are_set(classes: Path) -> None:
    (classes / "pets" / "dog" / "9.png").write_bytes(picture(1, (5, 6)))
    with pytest.raises(AttarError, match=r"images differ in size: .*0\.png is 4x4, .*9\.png is 5x6"):
        read(classes, source="pets")
    assert read(classes, source="pets", image_size=2).test.inputs.shape[1:] == (3, 2, 2)  # type: ignore[union-attr]
    assert read(classes, source="pets", image_size=2, channels=1).test.inputs.shape[1:] == (1, 2, 2)  # type: ignore[union-attr]


def test_gray_images_keep_one_channel_until_one_has_color(tmp_path: Path) -> None:
    for group in ("a", "b"):
        (tmp_path / "g" / group).mkdir(parents=True)
        for i in range(6):
            (tmp_path / "g" / group / f"{i}.png").write_bytes(picture(i + 10 * (group == "a"), mode="L"))
    assert read(tmp_path, source="g").train.inputs.shape[1] == 1  # type: ignore[union-attr]
    assert read(tmp_path, source="g", channels=3).train.inputs.shape[1] == 3  # type: ignore[union-attr]
    (tmp_path / "g" / "a" / "0.png").write_bytes(picture(1))
    assert read(tmp_path, source="g").train.inputs.shape[1] == 3  # type: ignore[union-attr]


def test_the_same_image_twice_counts_once(classes: Path) -> None:
    (classes / "pets" / "dog" / "copy.png").write_bytes(picture(0))
    facts = read(classes, source="pets").facts
    assert (facts["dropped"]["duplicate"], facts["conflicting_labels"]) == (1, 1)


def test_what_is_no_image_is_named(classes: Path) -> None:
    (classes / "pets" / "dog" / "3.png").write_bytes(picture(3)[:40])
    with pytest.raises(AttarError, match=r"3\.png cannot be read as an image"):
        read(classes, source="pets")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(classes / "pets" / "dog" / "3.png")
    with pytest.raises(AttarError, match="more than 8 bits a channel"):
        read(classes, source="pets")
    (classes / "none" / "a").mkdir(parents=True)
    with pytest.raises(AttarError, match="has no images"):
        read(classes, source="none", format="images")


def test_columns_give_bytes_or_paths(classes: Path) -> None:
    paths = [f"pets/{group}/{i}.png" for i in range(10) for group in ("cat", "dog")]
    (classes / "list.csv").write_text("file,kind\n" + "\n".join(f"{p},{p[5:8]}" for p in paths))
    images = [{"bytes": (classes / p).read_bytes(), "path": p} for p in paths]
    table = pyarrow.table({"file": images, "kind": [p[5:8] for p in paths]})
    pyarrow.parquet.write_table(table, classes / "list.parquet")
    keys = {"image": "file", "label": "kind"}
    by_folder, by_path, by_bytes = (
        read(classes, source="pets"),
        read(classes, source="list.csv", **keys),
        read(classes, source="list.parquet", **keys),
    )
    for found in (by_path, by_bytes):
        assert found.test.keys.tolist() == by_folder.test.keys.tolist()
        assert (np.asarray(found.test.inputs) == by_folder.test.inputs).all()
    settings = DataSettings(source="list.csv", **keys)  # type: ignore[arg-type]
    before = data.fingerprint(settings, classes)
    (classes / paths[0]).write_bytes(picture(77))
    assert data.fingerprint(settings, classes) != before
    (classes / paths[0]).unlink()
    with pytest.raises(AttarError, match=r"0\.png \(row 1\) cannot be read as an image"):
        read(classes, source="list.csv", **keys)


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def test_idx_files_are_read_with_their_test_set(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for part, count in (("train", 20), ("t10k", 6)):
        images = random.integers(0, 256, (count, 5, 5)).astype(np.uint8)
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx((np.arange(count) % 2).astype(np.uint8)))
    found = read(tmp_path, source=str(tmp_path))
    assert found.labels == ("0", "1")
    assert (len(found.train), len(found.validation), len(found.test)) == (17, 3, 6)
    assert found.test.inputs.shape == (6, 1, 5, 5)  # type: ignore[union-attr]
    labels = tmp_path / "train-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1])
    with pytest.raises(AttarError, match="is truncated or damaged"):
        read(tmp_path, source=str(tmp_path))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8b\x08")
    with pytest.raises(AttarError, match="cannot be read"):
        read(tmp_path, source=str(tmp_path))


def test_digits_are_scaled_to_bytes(tmp_path: Path) -> None:
    found = read(tmp_path, source="sklearn:digits")
    assert found.labels == tuple("0123456789")
    assert found.facts["rows"] == 1797
    pixels = np.concatenate([np.asarray(getattr(found, part).inputs) for part in ("train", "validation", "test")])
    assert pixels.shape == (1797, 1, 8, 8)
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert read(tmp_path, source="sklearn:digits", channels=3, image_size=16).test.inputs.shape[1:] == (3, 16, 16)  # type: ignore[union-attr]
    with pytest.raises(AttarError, match="has no columns"):
        read(tmp_path, source="sklearn:digits", label="target")
