"""README and docs: short sentences, links that lead somewhere, papers by keys that REFERENCES.md defines."""

import re
from pathlib import Path
from statistics import mean

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
REFERENCES = ROOT / "REFERENCES.md"
FENCE = re.compile(r"```.*?```", re.DOTALL)
LINK = re.compile(r"!?\[([^\]]*)\]\(([^)\s]+)\)")
KEY = re.compile(r"\[(?!CIFAR)([A-Z]{2,}\d{2}[a-z]?)(?=[\],; ])")
PAPER_BY_NUMBER = re.compile(r"(?<![\d.,\-_])00[0134](?!\d|[.,]\d)")
# What no sentence ends with.
ABBREVIATION = re.compile(r"\b(Fig|Figs|eq|supp|vs|al|e\.g|i\.e|Inc|Math|Sci)\.")


def by_path(page):
    return str(page.relative_to(ROOT))


def sentences(text):
    """The sentences of a page's paragraphs and list items; code, tables and headings have none."""
    text = re.sub(r"<!--.*?-->", "", FENCE.sub("", text), flags=re.DOTALL)
    text = re.sub(r"`[^`]*`", "code", LINK.sub(r"\1", text))
    text = ABBREVIATION.sub(r"\1", text)
    lines = [line for line in text.splitlines() if not re.match(r"\s*\||#|:::| {4}\S", line)]
    paragraphs = re.split(r"\n\s*\n|^\s*(?:[-*]|\d+\.) ", "\n".join(lines), flags=re.MULTILINE)
    found = [
        part for paragraph in paragraphs for part in re.split(r"(?<=[.?!])[)*\"]*\s+", " ".join(paragraph.split()))
    ]
    return [sentence for sentence in found if re.search(r"\w", sentence)]


def length(sentence):
    return len([word for word in sentence.split() if re.search(r"\w", word)])


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", LINK.sub(r"\1", heading).lower()).replace(" ", "-") for heading in headings]
    return {
        name if plain[:place].count(name) == 0 else f"{name}-{plain[:place].count(name)}"
        for place, name in enumerate(plain)
    }


def broken_links(page):
    """The links of a page to files or headings that do not exist; the site has no pages of folders."""
    broken = []
    for _, target in LINK.findall(FENCE.sub("", page.read_text())):
        if re.match(r"https?:|mailto:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.is_file() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    return broken


def texts():
    """Every text that the project writes by hand."""
    for pattern in ("*.md", "*.cff", "docs/**/*.md", "docs/**/*.py"):
        yield from ROOT.glob(pattern)
    for folder in ("adaptive_smoothing_zoo", "eval", "tests"):
        for kind in ("*.py", "*.toml", "*.jinja", "*.md"):
            yield from (ROOT / folder).rglob(kind)


def test_sentences_are_told_apart():
    text = """# A heading. Not a sentence

See [the page](x.md#y), `a.b.c(d)` and [BAKS24, Fig. 1]. Is it? It is:

- one item
- another. And a third

| a | table. Not one |

```python
x = 1.  # no
```
"""
    assert sentences(text) == [
        "See the page, code and [BAKS24, Fig 1].", "Is it?", "It is:", "one item", "another.", "And a third"
    ]  # fmt: skip
    assert length("one - two (three)") == 3


def test_the_mean_sentence_is_short():
    lengths = [length(sentence) for page in PAGES for sentence in sentences(page.read_text())]
    assert len(lengths) > 500
    assert mean(lengths) < 20


@pytest.mark.parametrize("page", PAGES, ids=by_path)
def test_no_sentence_is_long(page):
    assert [sentence for sentence in sentences(page.read_text()) if length(sentence) > 40] == []


def test_the_readme_is_short_and_opens_with_the_figure():
    text = README.read_text()
    assert len(text.splitlines()) <= 160
    assert text.index("](docs/figures/trade-off.png)") < text.index("\n## ")


@pytest.mark.parametrize("page", [page for page in PAGES if page != README], ids=by_path)
def test_a_page_opens_with_what_the_reader_can_do_after_it(page):
    heading, opening, *_ = page.read_text().split("\n\n")
    assert heading.startswith("# ")
    assert opening.startswith("After this page ")


@pytest.mark.parametrize("page", [*PAGES, REFERENCES], ids=by_path)
def test_no_link_is_broken(page):
    assert broken_links(page) == []


def test_broken_links_are_found(tmp_path):
    (tmp_path / "other.md").write_text("# A heading\n\n## It's `code`: two\n\n## A heading\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md) [b](other.md#its-code-two) [c](other.md#a-heading-1) [d](https://example.org/none) [e](#here)\n"
        "[f](none.md) ![g](none.png) [h](other.md#none) [i](#none)\n\n# Here\n"
    )
    assert broken_links(page) == ["none.md", "none.png", "other.md#none", "#none"]


def test_every_page_of_docs_is_linked_from_another_page():
    linked = {
        (page.parent / target.partition("#")[0]).resolve()
        for page in PAGES
        for _, target in LINK.findall(page.read_text())
    }
    assert [page for page in PAGES[1:] if page not in linked] == []


def test_papers_are_cited_by_keys_that_are_defined_once():
    defined = re.findall(r"^\| \[(\w+)\] \|", REFERENCES.read_text(), re.MULTILINE)
    assert sorted(set(defined)) == sorted(defined)
    used = {path: set(KEY.findall(path.read_text())) for path in texts()}
    assert {by_path(path): keys - set(defined) for path, keys in used.items() if keys - set(defined)} == {}
    cited = set().union(*(keys for path, keys in used.items() if path != REFERENCES))
    assert set(defined) - cited == set(), "defined and never cited"


def test_no_paper_is_cited_by_a_number():
    wrong = ["003, Fig. 1", "(000)", "the papers: 001", "paper 004 says", "[000, eq. (3)]"]
    right = ["0.001", "1,000", "5,000 to 9,999", "10,000", "-0.004", "1.000"]
    assert all(PAPER_BY_NUMBER.search(text) for text in wrong)
    assert not any(PAPER_BY_NUMBER.search(text) for text in right)
    found = {by_path(path): PAPER_BY_NUMBER.search(path.read_text()) for path in texts() if path != Path(__file__)}
    assert {path: match[0] for path, match in found.items() if match} == {}


def test_no_citation_follows_brackets_since_markdown_would_link_them():
    link = re.compile(r"\w\]\s*\[[A-Z]{2,}\d{2}[a-z]?[\],]")
    assert link.search("a decay in [0, 1]\n        [DLP18]; a number")
    assert not link.search("in [0, 1], as [DLP18] says, and in eq. (3) of [JS21]")
    here = (path for path in texts() if path != Path(__file__))
    assert {by_path(path): match[0] for path in here if (match := link.search(path.read_text()))} == {}
