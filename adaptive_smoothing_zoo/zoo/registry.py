"""The triplets of the zoo: one JSON file each under ``zoo/entries/<dataset>/<threat model>/``."""

import difflib
import logging
from functools import cache
from importlib import resources
from pathlib import Path

from adaptive_smoothing_zoo.errors import ConfigError, UnknownModelError, shown
from adaptive_smoothing_zoo.zoo.entry import Entry, read_entry
from adaptive_smoothing_zoo.zoo.place import CONFIG_FILE, place_of

logger = logging.getLogger(__name__)

ENTRIES = Path(str(resources.files("adaptive_smoothing_zoo"))) / "zoo" / "entries"


@cache
def _all_entries() -> tuple[Entry, ...]:
    entries = []
    for path in sorted(ENTRIES.glob("*/*/*.json")):
        entry = read_entry(path)
        if (entry.dataset, entry.threat_model, entry.name) != (path.parts[-3], path.parts[-2], path.stem):
            raise ConfigError(f"{path} holds the entry of {entry.key}; name and folder must agree with its content")
        entries.append(entry)
    return tuple(entries)


def list_models(dataset: str | None = None, threat_model: str | None = None) -> list[Entry]:
    """The entries of the zoo, sorted by data set, threat model and name; of all or of one data set or threat model.

    Raises:
        UnknownModelError: the zoo has no such data set or threat model.
    """
    entries = list(_all_entries())
    for field, wanted in (("dataset", dataset), ("threat_model", threat_model)):
        if wanted is None:
            continue
        known = sorted({str(getattr(entry, field)) for entry in _all_entries()})
        if wanted not in known:
            what = field.replace("_", " ")
            raise UnknownModelError(f"no models for {what} {shown(wanted)}; the zoo has {', '.join(known)}")
        entries = [entry for entry in entries if getattr(entry, field) == wanted]
    return entries


def entries_named(name: str) -> list[Entry]:
    """The entries of a name or alias, for any data set and threat model."""
    return [entry for entry in _all_entries() if name in (entry.name, *entry.aliases)]


def find_entry(name: str, dataset: str, threat_model: str) -> Entry:
    """The entry of one triplet.

    Args:
        name: in the zoo; or "hf-hub:org/name", "local-dir:folder" or a folder that ``save_pretrained`` wrote, whose
            own data set and threat model count.

    Raises:
        UnknownModelError: there is none; the message says what exists, near matches first.
        ConfigError, WeightsError: the place that is named holds no entry.
    """
    if not isinstance(name, str):
        raise UnknownModelError(f"the name of a model must be a string, got {shown(name)}")
    named = entries_named(name)
    if not named and (place := place_of(name)) is not None:
        return read_entry(place.file(CONFIG_FILE))
    candidates = list_models(dataset, threat_model)
    for entry in candidates:
        if entry in named:
            if entry.name != name:
                logger.warning("%s on %s %s is another name of %s", name, dataset, threat_model, entry.name)
            return entry
    names = [entry.name for entry in candidates]
    message = f"no model {shown(name)} for {dataset} {threat_model}"
    if named:
        message += f"; it exists for {', '.join(f'{entry.dataset}/{entry.threat_model}' for entry in named)}"
    elif near := difflib.get_close_matches(name, names, n=3, cutoff=0.4):
        message += f"; did you mean {' or '.join(near)}?"
    elif Path(name).is_dir():
        message += f"; the folder has no {CONFIG_FILE}, which save_pretrained and asz tune (with a target) write"
    elif Path(name).is_file():
        said = (
            f"write {name}:FUNCTION, a function in it that returns the net"
            if name.endswith(".py")
            else "name its folder"
        )
        message += f"; it is a file: {said}"
    elif "/" in name:
        message += f'; there is no such folder; for a Hub repository write "hf-hub:{name.rstrip("/")}"'
    raise UnknownModelError(f"{message}; models there: {', '.join(names) or 'none'}")
