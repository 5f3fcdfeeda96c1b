"""The words that only its makers can say of a model: its paper, its training data, its license.

They are asked for once and stored: a triplet's in its folder, a net's next to its records. Leaderboard entry, card and
claim use them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TypeVar

from adaptive_smoothing_zoo.errors import ConfigError, ResultsError
from adaptive_smoothing_zoo.publishing.kept_entry import keep_entry, kept_path
from adaptive_smoothing_zoo.publishing.record import results_path
from adaptive_smoothing_zoo.storage.files import write_text
from adaptive_smoothing_zoo.zoo.entry import ModelEntry, Paper, read_entry
from adaptive_smoothing_zoo.zoo.named import checked_name
from adaptive_smoothing_zoo.zoo.place import CONFIG_FILE, place_of
from adaptive_smoothing_zoo.zoo.triplet import config_to_text

E = TypeVar("E", bound=ModelEntry)

_OF_PAPER = tuple(field.name for field in fields(Paper))


@dataclass(frozen=True, kw_only=True)
class Description:
    """Words for an entry; None leaves the entry's own.

    Attributes:
        title, authors, venue, link: of the paper; authors are comma separated.
        additional_data: whether training used more than the data set's own training images.
        architecture: as a leaderboard shows it.
        license: of the weights, as the Hub names licenses.
        chosen_on: images of the data set that chose or trained it, as in entries.
    """

    title: str | None = None
    authors: str | None = None
    venue: str | None = None
    link: str | None = None
    additional_data: bool | None = None
    architecture: str | None = None
    license: str | None = None
    chosen_on: str | None = None

    def applied(self, entry: E) -> E:
        """The entry with these words."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        paper = replace(entry.paper, **{name: given.pop(name) for name in _OF_PAPER if name in given})
        return replace(entry, paper=paper, **given)


def folder_of(reference: str) -> Path:
    """The folder of a triplet that a reference names; ConfigError if it names no local folder."""
    place = place_of(reference)
    if place is None or place.folder is None:
        raise ConfigError(f"{reference} is not a folder; name one that asz tune, asz export or save_pretrained wrote")
    return place.folder


def describe_folder(folder: Path, results: Path, description: Description, name: str | None = None) -> ModelEntry:
    """Write words, and a new name if one is given, into the ``config.json`` of a triplet's folder.

    Args:
        results: the folder where the triplet may have records.

    Raises:
        ConfigError: there is no entry in the folder.
        ResultsError: as ``renamed``.
    """
    path = folder / CONFIG_FILE
    entry = description.applied(renamed(results, read_entry(path), name))
    write_text(path, config_to_text(entry))
    return entry


def describe_net(entry: ModelEntry, results: Path, description: Description, name: str | None = None) -> ModelEntry:
    """As ``describe_folder``, for the entry of a net, which is stored below ``results``."""
    new = description.applied(renamed(results, entry, name))
    keep_entry(results, new)
    if new.name != entry.name:
        kept_path(results, entry).unlink(missing_ok=True)
    return new


def renamed(results: Path, entry: E, name: str | None) -> E:
    """The entry under another name; the same entry if that is None or its own.

    Raises:
        ResultsError: there are records of the old name, which would lose their model, or of the new name, which are
            another model's.
    """
    if name in (None, entry.name):
        return entry
    new = replace(entry, name=checked_name(name))
    if own := _files_of(results, entry):
        raise ResultsError(
            f"{own[0].parent} has records of {entry.name} ({_listed(own)}), which would lose their model; keep the "
            "name, or move these elsewhere and measure it again"
        )
    if others := _files_of(results, new):
        raise ResultsError(
            f"{others[0].parent} has records of another model called {name} ({_listed(others)}); choose another name, "
            "or move these elsewhere"
        )
    return new


def _files_of(results: Path, entry: ModelEntry) -> list[Path]:
    """The recorded files of a name, without its kept entry."""
    folder = results_path(results, entry).parent
    runs = (path.name.removesuffix(".run.json") for path in folder.glob(f"{entry.name}.*.run.json"))
    others = tuple(f"{name}." for name in runs if not re.search(r"\.(custom|eps-[^.]*)$", name))
    there = sorted([*folder.glob(f"{entry.name}.*"), *(folder / "certificates").glob(f"{entry.name}.*")])
    return [path for path in there if not path.name.startswith(others) and path != kept_path(results, entry)]


def _listed(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths[:3])
