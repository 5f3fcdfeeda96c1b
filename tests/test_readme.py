"""The snippets of the README and of docs/ run as they stand, and their links lead somewhere."""

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


def test_every_door_is_on_the_page_of_contributors():
    text = (ROOT / "docs" / "contributing.md").read_text()
    assert all(f"doors/{page.name}" in text for page in (ROOT / "docs" / "doors").glob("*.md"))
