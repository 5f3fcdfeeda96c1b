"""What mkdocs gets besides the pages: the home page, files outside docs/ that pages link to, the API reference.

Pages link to records, cards and code of the repository, as ``../eval/results/...``. The site holds copies of these
files under ``repository/``, in the same folders. The reference has one page for each room of the package.
"""

import re
from pathlib import Path
from posixpath import dirname, normpath, relpath

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "adaptive_smoothing_zoo"
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")
COPIED = (
    *("*.md", "*.cff", "model_cards/*.*", "eval/**/*.md", "eval/**/*.png", "eval/**/*.svg", "eval/**/*.html"),
    *("eval/pairs/**/*.json", "eval/results/**/*.certified*.json"),
)


def on_files(files, config):
    """Add the home page, the copies and the reference to what is in docs/."""
    pages = {"index.md": (ROOT / "README.md").read_text(), **api_pages()}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    for path in sorted(path for pattern in COPIED for path in ROOT.glob(pattern)):
        name = path.relative_to(ROOT).as_posix()
        if name != "README.md":
            files.append(File.generated(config, f"repository/{name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Lead a page's links to where things are on the site."""
    name = page.file.src_uri
    if name.startswith("api/"):
        return markdown
    copied = name.startswith("repository/")
    place = "README.md" if name == "index.md" else name.removeprefix("repository/") if copied else f"docs/{name}"
    return LINK.sub(lambda match: link_on_site(normpath(f"{dirname(place)}/{match[1]}").lstrip("/"), name), markdown)


def link_on_site(path, page):
    """A link from a page of the site to what stands at ``path`` in the repository."""
    if path == "README.md":
        target = "index.md"
    else:
        target = path.removeprefix("docs/") if path.startswith("docs/") else f"repository/{path}"
    return relpath(target, dirname(page) or ".")


def api_pages():
    """The reference: an index with the modules that stand in no room, and a page for each room."""
    rooms = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))
    links = "".join(f"- [{room.name}]({room.name}.md)\n" for room in rooms)
    index = f"# API\n\n{links}\n" + reference([PACKAGE / "__init__.py", *sorted(PACKAGE.glob("[a-z]*.py"))])
    pages = {f"api/{room.name}.md": f"# {room.name}\n\n" + reference(sorted(room.rglob("*.py"))) for room in rooms}
    return {"api/index.md": index, **pages}


def reference(files):
    """What mkdocstrings turns into the documentation of modules, each under a heading."""
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    return "\n".join(f"## `{name}`\n\n::: {name}\n    options:\n      heading_level: 3\n" for name in names)
