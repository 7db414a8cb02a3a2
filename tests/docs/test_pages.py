"""Pages hold together: links lead somewhere, recipes are valid, Python compiles, nothing is left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from attar.pipeline.load import ready_recipes, validate
from markdown_blocks import PAGES, ROOT, Block, blocks

LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives a page's headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            wrong.append(target)
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_recipes_on_pages_are_valid(page: Path) -> None:
    recipes = [block for block in blocks(page) if block.language == "yaml"]
    seen = [validate(yaml.safe_load(block.text), page.name).task for block in recipes]
    assert len(seen) == len(recipes)
    for block in blocks(page):
        if block.language == "python":
            compile(block.text, str(page), "exec")


def test_readme_commands_are_as_promised() -> None:
    found = {block.mark: block.text.strip() for block in blocks(ROOT / "README.md") if block.mark}
    venv = "python3 -m venv .venv && .venv/bin/pip install"
    assert found["command:run"] == f"{venv} . && .venv/bin/attar run reviews"
    assert found["command:test"] == f"{venv} '.[test]' && .venv/bin/pytest"


def test_every_verb_is_in_the_readme() -> None:
    from attar.cli.app import app

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [one.name for one in app.registered_commands if f"`attar {one.name}" not in readme] == []


def test_every_page_is_reached_from_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / target).resolve() for target in LINK.findall(index.read_text(encoding="utf-8"))}
    assert [page.name for page in PAGES if page.parent != ROOT and page not in linked and page != index] == []


def test_pages_name_ready_recipes_that_exist() -> None:
    named = {name for page in PAGES for name in re.findall(r"attar run ([a-z]+)\b(?![./])", page.read_text("utf-8"))}
    assert named <= {*ready_recipes(), "mine"}


def test_summary_page_names_every_key(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "reference" / "summary.md").read_text(encoding="utf-8")
    source = (ROOT / "src" / "attar" / "pipeline" / "summary.py").read_text(encoding="utf-8")
    body = source.partition("def summarize")[2].partition("\ndef ")[0]
    keys = re.findall(r'^        "(\w+)":', body, re.MULTILINE)
    assert len(keys) > 15
    assert [key for key in keys if f"`{key}`" not in page] == []


def test_page_on_adding_an_objective_works() -> None:
    import torch

    from attar.core.rows import example_rows

    page = ROOT / "docs" / "how-to" / "add-an-algorithm.md"
    block: Block = next(block for block in blocks(page) if block.mark == "objective")
    space: dict[str, object] = {"__name__": "pearson"}
    exec(block.text, space)
    kind: object = space["Pearson"]
    teacher = example_rows(torch.tensor([1]), torch.log(torch.tensor([[0.25, 0.75]])))
    student = example_rows(torch.tensor([1]), torch.zeros(1, 2))
    loss = kind(kind.Settings(temperature=1.0))(student, teacher, torch.tensor([0]))  # type: ignore[operator, attr-defined]
    assert float(loss.total) == pytest.approx(0.0625 / 0.5 + 0.0625 / 0.5, abs=1e-6)  # by hand: (1/4)² over 1/2, twice
    equal = kind(kind.Settings())(teacher, teacher, torch.tensor([0]))  # type: ignore[operator, attr-defined]
    assert float(equal.total) == pytest.approx(0.0, abs=1e-7)
