"""The entry of a net, stored in ``<NAME>.model.json`` next to its records, so that its words are asked for once.

A triplet's entry is in its own folder or in the zoo, and is not stored here.
"""

from __future__ import annotations

from pathlib import Path

from adaptive_smoothing_zoo.errors import ConfigError, ResultsError
from adaptive_smoothing_zoo.publishing.record import results_path
from adaptive_smoothing_zoo.storage.files import write_text
from adaptive_smoothing_zoo.storage.schema import parse, read_json
from adaptive_smoothing_zoo.zoo.entry import ModelEntry, NetEntry, entry_to_text

ENDING = ".model.json"


def kept_path(out: Path, entry: ModelEntry) -> Path:
    """Where the entry of a net is kept below ``out``."""
    return results_path(out, entry).with_suffix(ENDING)


def keep_entry(out: Path, entry: ModelEntry) -> None:
    """Store the entry of a net for later commands; does nothing for a triplet."""
    if isinstance(entry, NetEntry):
        write_text(kept_path(out, entry), entry_to_text(entry))


def kept_entries(folder: Path) -> list[NetEntry]:
    """The entries of nets that are kept in ``OUT/<dataset>/<threat model>``.

    Raises:
        ResultsError: one cannot be read.
    """
    try:
        return [parse(NetEntry, read_json(path), str(path)) for path in sorted(folder.glob(f"*{ENDING}"))]
    except ConfigError as error:
        raise ResultsError(str(error)) from error


def find_kept(folder: Path, reference: str, name: str | None) -> NetEntry | None:
    """The kept entry of a reference, with that name if one is given; None if there is none.

    Raises:
        ResultsError: several entries of the reference are kept and no name is given; or the name is another model's.
    """
    kept = kept_entries(folder)
    for entry in kept:
        if entry.name == name and entry.reference != reference:
            raise ResultsError(f"{name} is what records in {folder} call {entry.reference}; choose another --name")
    of_it = [entry for entry in kept if entry.reference == reference and name in (None, entry.name)]
    if len(of_it) > 1:
        names = " and ".join(entry.name for entry in of_it)
        raise ResultsError(f"{folder} has records of {reference} under the names {names}; choose one with --name")
    return of_it[0] if of_it else None
