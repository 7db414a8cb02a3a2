"""The resolver: what a source's text refers to, its identity, and what is wrong with it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from attar.errors import AttarError
from attar.sources.reference import check, fetch, fingerprint, parse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "kind", "name", "revision", "inside"),
    [
        ("owner/name", "hf", "owner/name", None, None),
        ("owner/name@v1.0", "hf", "owner/name", "v1.0", None),
        ("BAAI/bge-small-en-v1.5", "hf", "BAAI/bge-small-en-v1.5", None, None),
        ("hf:owner/name", "hf", "owner/name", None, None),
        ("hf:imdb@main", "hf", "imdb", "main", None),
        ("hf:owner/name@refs/pr/1#q4/file.gguf", "hf", "owner/name", "refs/pr/1", "q4/file.gguf"),
        ("pypi:some-data==1.2.post1#some_data/a.csv", "pypi", "some-data", "1.2.post1", "some_data/a.csv"),
        ("pypi:a==1#folder/", "pypi", "a", "1", "folder"),
        ("sklearn:digits", "sklearn", "digits", None, None),
        ("timm:resnet18.a1_in1k", "timm", "resnet18.a1_in1k", None, None),
        ("torchvision:resnet18", "torchvision", "resnet18", None, None),
    ],
)
def test_every_form_is_parsed(
    tmp_path: Path, text: str, kind: str, name: str, revision: str | None, inside: str | None
) -> None:
    ref = parse(text, tmp_path)
    assert (ref.kind, ref.name, ref.revision, ref.inside) == (kind, name, revision, inside)


def test_paths_start_from_the_recipes_folder(tmp_path: Path) -> None:
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "name").write_text("x")
    (tmp_path / "data:v1.csv").write_text("x")
    assert parse("owner/name", tmp_path).name == str(tmp_path / "owner" / "name")
    assert parse("data:v1.csv", tmp_path).kind == "path"
    assert parse("./a/b", tmp_path).name == str(tmp_path / "a" / "b")
    assert parse("~/x", tmp_path).name == str(Path.home() / "x")
    assert parse("x.gguf", tmp_path).kind == "path"


def test_a_missing_file_is_no_hub_repository(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert parse("data/rewiews", tmp_path).kind == "path"
    assert parse("folder/reviews.csv", tmp_path).kind == "path"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "give a path"),
        ("sklean:digits", "Did you mean 'sklearn'?"),
        ("https://example.com/a.csv", "is a link"),
        ("pypi:a#x", "must pin one version"),
        ("pypi:a>=1#x", "must pin one version"),
        ("pypi:a==1.*#x", "must pin one version"),
        ("pypi:-r evil==1#x", "does not name a package"),
        ("pypi:a==1", "what to take from the wheel"),
        ("pypi:a==1#", "must name after #"),
        ("pypi:a==1#../x", "without '..'"),
        ("pypi:a==1#/x", "without a leading /"),
        ("hf:a/b/c", "must read hf:owner/name"),
        ("hf:a/b@", "must read hf:owner/name"),
        ("sklearn:", "must name something of sklearn"),
    ],
)
def test_a_wrong_form_says_what_is_right(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(AttarError, match=said.replace("?", r"\?").replace(".", r"\.")):
        parse(text, tmp_path)


def test_fingerprint_follows_content(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("x")
    assert fingerprint(parse("a.csv", tmp_path), None) == hashlib.sha256(b"x").hexdigest()
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    before = fingerprint(parse("./model", tmp_path), None)
    (folder / "config.json").write_text("{ }")
    assert fingerprint(parse("./model", tmp_path), None) != before
    assert fingerprint(parse(f"hf:o/n@{COMMIT}#a.gguf", tmp_path), None) == f"hf:o/n@{COMMIT}#a.gguf"
    assert fingerprint(parse("sklearn:digits", tmp_path), None).startswith("sklearn:digits@")
    wheel = parse("pypi:a==1#x", tmp_path)
    assert fingerprint(wheel, "A" * 64) == fingerprint(wheel, "a" * 64) == f"pypi:{'a' * 64}#x"


def test_fingerprint_compares_a_paths_checksum(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(AttarError, match="but the recipe says 0000"):
        fingerprint(parse("a.csv", tmp_path), "0" * 64)
    with pytest.raises(AttarError, match="but the recipe says 0000"):
        fetch(parse("a.csv", tmp_path), "0" * 64, tmp_path)


def test_check_names_each_mistake(tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").write_text("x")
    (tmp_path / "empty.csv").touch()
    (tmp_path / "hollow").mkdir()

    def said(text: str, sha256: str | None = None) -> str:
        return " ".join(check(parse(text, tmp_path), sha256))

    assert "Did you mean 'reviews.csv'?" in said("rewiews.csv")
    assert "nor does its folder" in said("./nowhere/a.csv")
    assert "is empty" in said("empty.csv")
    assert "is an empty folder" in said("hollow")
    assert "sha256 is required" in said("pypi:a==1#x")
    assert "must be 64 hex digits" in said("pypi:a==1#x", "abc")
    assert "digits" in said("sklearn:iris")
    assert said("reviews.csv") == said("sklearn:digits") == said("owner/name") == ""
    with pytest.raises(AttarError, match="Did you mean"):
        fetch(parse("rewiews.csv", tmp_path), None, tmp_path)


def test_fetch_returns_a_path_itself_and_refuses_what_has_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x")
    assert fetch(parse("a.csv", tmp_path), None, tmp_path / "cache") == tmp_path / "a.csv"
    with pytest.raises(ValueError, match="no file to fetch"):
        fetch(parse("timm:resnet18", tmp_path), None, tmp_path)
