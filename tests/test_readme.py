"""The README's snippets run as they stand."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if README.exists() else []


def test_the_readme_shows_the_three_uses():
    assert len(SNIPPETS) >= 3


@pytest.mark.parametrize("snippet", SNIPPETS, ids=[snippet.strip().splitlines()[0][:60] for snippet in SNIPPETS])
def test_a_snippet_runs(snippet, tmp_path, monkeypatch):
    if "robustbench" in snippet:
        import importlib.util

        if importlib.util.find_spec("robustbench") is None:
            pytest.skip("robustbench is not installed")
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, "README.md", "exec"), {"__name__": "readme"})
