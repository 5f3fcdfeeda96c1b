"""Checks the file of an entry before it is added to the zoo."""

import json
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from adaptive_smoothing_zoo.attacks.surrogates import SURROGATES
from adaptive_smoothing_zoo.data import DATA_SETS
from adaptive_smoothing_zoo.errors import ConfigError, WeightsError, shown
from adaptive_smoothing_zoo.storage.schema import json_schema
from adaptive_smoothing_zoo.zoo.entry import PARTS, Entry, read_entry
from adaptive_smoothing_zoo.zoo.triplet import Triplet, load_triplet, meta_triplet
from adaptive_smoothing_zoo.zoo.weights import EMBEDDED, read_safetensors

SCHEMA = Path(str(resources.files("adaptive_smoothing_zoo"))) / "zoo" / "entry.schema.json"


def schema_text() -> str:
    """The text of ``entry.schema.json``: the JSON schema of entries."""
    return json.dumps(json_schema(Entry), indent=2) + "\n"


def problems_of(path: Path) -> list[str]:
    """The problems of an entry file, one sentence each; an empty list if there are none. Downloads nothing."""
    try:
        entry = read_entry(path)
        skeleton = meta_triplet(entry)
    except ConfigError as error:
        return [str(error)]
    return [f"{path}: {problem}" for problem in (*_of_words(entry, path), *_of_weights(entry, skeleton))]


def _of_words(entry: Entry, path: Path) -> Iterator[str]:
    if path.name != f"{entry.name}.json":
        yield f"name: the file must be called {entry.name}.json"
    if entry.surrogate is not None and entry.surrogate.name not in SURROGATES:
        yield f"surrogate: no surrogate {shown(entry.surrogate.name)}; known: {', '.join(SURROGATES)}"
    if entry.dataset in DATA_SETS:
        try:
            DATA_SETS[entry.dataset].prepared(entry.preprocessing)
        except ValueError as error:
            yield f"preprocessing: {error}"


def _of_weights(entry: Entry, skeleton: Triplet) -> Iterator[str]:
    weights = entry.weights
    if weights.embedded is not None:
        if weights.sha256 is None:
            yield "weights: 'sha256' must be that of the embedded file"
        try:
            load_triplet(entry, read_safetensors(EMBEDDED / weights.embedded, weights.sha256))
        except WeightsError as error:
            yield f"weights: {error}"
    elif entry.comes_along:
        return
    elif weights.hub_repo is not None:
        if re.fullmatch("[0-9a-f]{40}", weights.revision or "") is None:
            yield "weights: 'revision' must be the full hash of a commit in hub_repo; asz push prints it"
        if weights.sha256 is None and not weights.shards:
            yield "weights: 'sha256' or 'shards' must be those of the files in hub_repo; asz push prints them"
    elif not weights.components:
        yield "weights: name 'hub_repo' (asz push prints what to write), 'embedded', or 'components'"
    else:
        for part in PARTS:
            yield from _of_component(entry, part, bool(skeleton.get_submodule(part).state_dict()))


def _of_component(entry: Entry, part: str, has_weights: bool) -> Iterator[str]:
    component = entry.weights.components.get(part)
    if has_weights and (component is None or not component.sources):
        yield f"weights.components.{part}: no source"
    for i, source in enumerate(component.sources if component is not None else ()):
        if source.sha256 is None:
            yield f"weights.components.{part}.sources[{i}]: no 'sha256'; asz verify tells that of the file it used"
