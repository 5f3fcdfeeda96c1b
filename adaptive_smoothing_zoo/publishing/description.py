"""What only its makers can say of a model, asked for once: a triplet keeps it in its folder, a net by its records.

Leaderboard entry, card and claim take it from there.
"""

from __future__ import annotations

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
    """Words for an entry; None leaves what is there.

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
        results: where the triplet may have records.

    Raises:
        ConfigError: there is no entry in the folder.
        ResultsError: it has records under its old name.
    """
    path = folder / CONFIG_FILE
    entry = description.applied(renamed(results, read_entry(path), name))
    write_text(path, config_to_text(entry))
    return entry


def describe_net(entry: ModelEntry, results: Path, description: Description, name: str | None = None) -> ModelEntry:
    """The same of a net's entry, which is kept below ``results``; ResultsError as there."""
    new = description.applied(renamed(results, entry, name))
    keep_entry(results, new)
    if new.name != entry.name:
        kept_path(results, entry).unlink(missing_ok=True)
    return new


def renamed(results: Path, entry: E, name: str | None) -> E:
    """The entry under another name; ResultsError if there are records that would lose their model."""
    if name in (None, entry.name):
        return entry
    path = results_path(results, entry)
    there = [*path.parent.glob("*"), *(path.parent / "certificates").glob("*")]
    own = [file.name for file in there if file.name.startswith(f"{entry.name}.") and file != kept_path(results, entry)]
    if own:
        raise ResultsError(
            f"{path.parent} has records of {entry.name} ({', '.join(sorted(own)[:3])}), which would lose their model; "
            "keep the name, or move these elsewhere and measure it again"
        )
    return replace(entry, name=checked_name(name))
