"""The snippets of the README and of docs/ run as they stand and print what they say; tables say what records say."""

import ast
import importlib.util
import io
import multiprocessing
import os
import re
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from adaptive_smoothing_zoo.data import load_data
from adaptive_smoothing_zoo.zoo.registry import find_entry

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").rglob("*.md"))
BLOCK = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)


def snippets(page):
    return [code for language, code in BLOCK.findall(page.read_text()) if language == "python"]


def outputs(page):
    """What the page shows as printed: the ```text block right after a snippet, by the snippet."""
    pair = r"```python\n((?:(?!```).)*)```\n\n```text\n(.*?)```"
    return dict(re.findall(pair, page.read_text(), re.DOTALL))


def run(page, codes, folder):
    """Run snippets one after the other, as in one session, next to the files that the page shows."""
    os.chdir(folder)
    text = page.read_text()
    for match in BLOCK.finditer(text):
        names = re.findall(r"`([\w-]+\.json)`", text[: match.start()])
        if match[1] == "json" and names:
            Path(names[-1]).write_text(match[2])
    session, shown = {"__name__": "__page__"}, outputs(page)
    for code in codes:
        with redirect_stdout(io.StringIO()) as printed:
            exec(compile(code, page.name, "exec"), session)
        assert code not in shown or printed.getvalue() == shown[code]


def run_apart(page, codes, folder):
    """The same in a process of its own: what a page adds to the package is gone afterwards."""
    import torch._dynamo  # noqa: F401  # which an evaluation loads: here once for all pages, as what reads the digits

    load_data("digits")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        pool.submit(run, page, codes, folder).result()


def test_the_readme_shows_the_three_uses_and_what_they_print():
    assert len(snippets(README)) >= 3
    assert snippets(README)[0] in outputs(README)


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


def test_the_folders_that_the_page_of_the_architecture_names_exist_and_every_room_is_among_them():
    table = (ROOT / "docs" / "architecture.md").read_text().partition("## The rooms")[2].partition("## Six nouns")[0]
    cells = re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
    names = {name for cell in cells for name in re.findall("`(.*?)`", cell)}
    package = ROOT / "adaptive_smoothing_zoo"
    assert not [
        name
        for name in names
        if not any((at / name).exists() for at in (ROOT, package)) and not (package / f"{name}.py").exists()
    ]
    rooms = {path.parent.name for path in package.glob("*/__init__.py")}
    assert rooms <= {name.rstrip("/") for name in names}


def test_the_readme_names_the_commands_of_the_makefile_and_what_continuous_integration_runs():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"(?:^|`)make ([\w-]+)", README.read_text(), re.MULTILINE)
    assert {"demo", "test"} <= set(named) <= set(targets)
    runs = ROOT / ".ci" / "run"
    assert not runs.exists() or "make test" in runs.read_text()


@pytest.fixture(scope="module")
def front_page():
    spec = importlib.util.spec_from_file_location("front_page", ROOT / "eval" / "front_page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_and_figure_say_what_the_records_say(front_page):
    assert front_page.stale(ROOT) == []


def test_an_l_2_certificate_says_nothing_of_another_norm_or_an_unlisted_radius(front_page, monkeypatch):
    entry = find_entry("Demo2026Lipschitz", "digits", "L2")
    record = front_page.certification_of(entry)
    monkeypatch.setattr(front_page, "certification_of", lambda entry: record)
    assert float(front_page.certified_at_eps(entry)) > 0
    assert front_page.certified_at_eps(replace(entry, threat_model="Linf")) == ""
    assert front_page.certified_at_eps(replace(entry, eps="0.3")) == ""


def test_what_does_not_say_it_is_found_and_made_again(front_page, tmp_path):
    for name in [*front_page.PAGES, front_page.FIGURE]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "README.md").write_text(README.read_text().replace("56.82", "66.82"))
    front_page.draw({**front_page.shown_in_figure(), "data": "other data"}, tmp_path / front_page.FIGURE)
    arguments = ["--root", str(tmp_path)]
    checked = CliRunner().invoke(front_page.main, [*arguments, "--check"])
    assert checked.exit_code == 1
    assert "not as recorded: README.md, docs/figures/trade-off.png; run make readme" in checked.output
    assert CliRunner().invoke(front_page.main, arguments).exit_code == 0
    assert (tmp_path / "README.md").read_text() == README.read_text()
    assert CliRunner().invoke(front_page.main, [*arguments, "--check"]).exit_code == 0
