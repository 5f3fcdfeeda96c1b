"""The snippets of the README and of docs/ run as they stand, and their links lead somewhere."""

import ast
import importlib.util
import multiprocessing
import os
import re
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").rglob("*.md"))
BLOCK = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)


def snippets(page):
    return [code for language, code in BLOCK.findall(page.read_text()) if language == "python"]


def run(page, codes, folder):
    """Run snippets one after the other, as in one session, next to the files that the page shows."""
    os.chdir(folder)
    text = page.read_text()
    for match in BLOCK.finditer(text):
        names = re.findall(r"`([\w-]+\.json)`", text[: match.start()])
        if match[1] == "json" and names:
            Path(names[-1]).write_text(match[2])
    session = {"__name__": "__page__"}
    for code in codes:
        exec(compile(code, page.name, "exec"), session)


def run_apart(page, codes, folder):
    """The same in a process of its own: what a page adds to the package is gone afterwards."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        pool.submit(run, page, codes, folder).result()


def test_the_readme_shows_the_three_uses():
    assert len(snippets(README)) >= 3


@pytest.mark.parametrize("code", snippets(README), ids=lambda code: code.strip().splitlines()[0][:60])
def test_a_snippet_of_the_readme_runs(code, tmp_path):
    if "robustbench" in code and importlib.util.find_spec("robustbench") is None:
        pytest.skip("robustbench is not installed")
    run_apart(README, [code], tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_snippets_of_a_page_run(page, tmp_path):
    codes = snippets(page)
    assert page.parent.name != "doors" or 0 < max(code.count("\n") for code in codes) < 40
    run_apart(page, codes, tmp_path)


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.stem)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", BLOCK.sub("", page.read_text()))
    assert not [link for link in links if not (page.parent / link).exists()]


def test_every_door_is_linked_from_the_page_of_contributors_and_that_from_the_readme():
    text = (ROOT / "docs" / "contributing.md").read_text()
    doors = sorted(f"doors/{page.name}" for page in (ROOT / "docs" / "doors").glob("*.md"))
    assert sorted(re.findall(r"\]\((doors/[^)]*)\)", text)) == doors
    assert "](docs/contributing.md)" in README.read_text()


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name == "doors"], ids=lambda page: page.stem)
def test_the_examples_of_a_door_are_annotated_as_mypy_asks_of_the_package(page):
    for code in snippets(page):
        functions = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef)]
        for function in functions:
            arguments = [a for a in (*function.args.args, *function.args.kwonlyargs) if a.arg != "self"]
            assert function.returns is not None, function.name
            assert all(argument.annotation for argument in arguments), function.name


def test_the_folders_that_the_readme_names_exist_and_every_room_is_among_them():
    table = README.read_text().partition("## Where things are")[2]
    cells = re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
    names = {name for cell in cells for name in re.findall("`(.*?)`", cell)}
    package = "adaptive_smoothing_zoo"
    assert not [name for name in names if not ((ROOT / name).exists() or (ROOT / package / name).exists())]
    rooms = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
    assert rooms <= {name.removeprefix(f"{package}/").rstrip("/") for name in names}
