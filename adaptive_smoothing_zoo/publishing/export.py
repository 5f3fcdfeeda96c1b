"""The folder of a triplet as the Hugging Face Hub shows it: configuration, weights, model card, license."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from adaptive_smoothing_zoo.errors import ConfigError, ResultsError
from adaptive_smoothing_zoo.publishing.card import how_to_load, model_card, net_card, trade_off
from adaptive_smoothing_zoo.publishing.certification_record import certification_path, read_certification
from adaptive_smoothing_zoo.publishing.constant_curve import ConstantCurve
from adaptive_smoothing_zoo.publishing.evidence import Evidence, read_evidence
from adaptive_smoothing_zoo.publishing.pages import page
from adaptive_smoothing_zoo.publishing.run_record import RunRecord
from adaptive_smoothing_zoo.publishing.trade_off_plot import TradeOff
from adaptive_smoothing_zoo.storage.files import write_text
from adaptive_smoothing_zoo.storage.identity import identity_of
from adaptive_smoothing_zoo.tuning.plot import FRONT_FILE
from adaptive_smoothing_zoo.tuning.tune import RECORD_FILE
from adaptive_smoothing_zoo.zoo.entry import Entry, ModelEntry, NetEntry, read_entry
from adaptive_smoothing_zoo.zoo.place import CONFIG_FILE
from adaptive_smoothing_zoo.zoo.registry import entries_named
from adaptive_smoothing_zoo.zoo.triplet import Triplet
from adaptive_smoothing_zoo.zoo.weights import INDEX_FILE, WEIGHTS_FILE

CARD_FILE, LICENSE_FILE = "README.md", "LICENSE"
PICTURE_FILE = "trade_off.svg"
OPTIONAL_FILES = (RECORD_FILE, FRONT_FILE, PICTURE_FILE)  # what may come with an export, and is uploaded with it
HERE = "local-dir:."  # how the card in a folder refers to the folder
CARD_OF = "<!-- card of "  # how the last line of an export's card begins; readers do not see it


def export(
    model: Triplet,
    folder: str | Path,
    *,
    card: str,
    picture: TradeOff | None = None,
    max_shard_size: str | int | None = None,
) -> Path:
    """Write the folder that ``push`` uploads and ``Triplet.from_pretrained`` loads.

    The folder appears whole or not at all. An earlier export of the same triplet is replaced.

    Args:
        card: the text of the model card, as ``card_of`` makes it.
        picture: the card's picture, if it shows one, as ``picture_of`` makes it; written to ``trade_off.svg``.
        max_shard_size: in bytes or like "1GB"; larger weights are split into several files.

    Returns:
        The folder.

    Raises:
        ResultsError: the folder holds anything but an export of this triplet, or cannot be written.
    """
    folder = Path(os.path.realpath(folder))  # unlike resolve(), leaves a loop of links to whoever opens it
    _check_replaceable(folder, model.entry)
    with _complete_folder(folder) as temporary:
        model.save_pretrained(temporary, max_shard_size=max_shard_size)
        by_name, here = how_to_load(model.entry), how_to_load(model.entry, HERE)
        mark = mark_of(read_entry(temporary / CONFIG_FILE))
        write_text(temporary / CARD_FILE, f"{card.replace(by_name, here)}\n{mark}\n")
        write_text(temporary / LICENSE_FILE, license_text(model.entry))
        if picture is not None:
            write_text(temporary / PICTURE_FILE, picture.svg())
    return folder


def mark_of(entry: Entry) -> str:
    """The last line of an export's card: the model, name and radius that the card is about."""
    return f"{CARD_OF}{entry.key}, eps {entry.eps}, model {entry.weights.model_sha256} -->"


def card_of(
    model: Triplet, results: str | Path, front: str | None = None, picture: str | None = None
) -> tuple[str, Evidence | None]:
    """A triplet's model card and its evidence, None if ``results`` has no run.

    Args:
        results: a folder of records.
        front, picture: see ``model_card``.

    Raises:
        ResultsError: a record there is of another model, or damaged.
    """
    results, entry = Path(results), model.described()
    certification, identity = read_certification(results, entry), identity_of(model, entry.image_shape)
    if certification is not None and certification.identity != identity:
        raise ResultsError(
            f"the certificates of {entry.key} in {results} are of another model; run asz certify again, or name a "
            "folder without results for it"
        )
    evidence = read_evidence(results, entry, identity) if RunRecord.path(results, entry).exists() else None
    return model_card(entry, evidence, _curve_of(model, results), certification, front, picture), evidence


def picture_of(model: Triplet, results: str | Path, evidence: Evidence | None) -> TradeOff | None:
    """The picture of a triplet's card; None where constant alphas were not measured with its g and h."""
    return trade_off(model.described(), evidence, _curve_of(model, Path(results)))


def _curve_of(model: Triplet, results: Path) -> ConstantCurve | None:
    """The recorded curve of constant alphas, if it was measured with the model's own g and h."""
    curve = ConstantCurve.find(results, model.entry)
    return curve if curve is not None and curve.is_with(model.std_model, model.rob_model) else None


def card_from(
    entry: ModelEntry, results: Path, load: Callable[[], nn.Module], reference: str
) -> tuple[str, Evidence | None, TradeOff | None]:
    """The card of any model, its evidence, and the card's picture, ``<key>.svg`` next to it.

    Args:
        load: loads the model; called only if there are records of it.
        reference: what ``load_model`` takes for a triplet that is not in the zoo.

    Raises:
        ResultsError: as ``card_of``.
    """
    has_run = RunRecord.path(results, entry).exists()
    if isinstance(entry, NetEntry):
        evidence = read_evidence(results, entry, identity_of(load(), entry.image_shape)) if has_run else None
        return net_card(entry, evidence), evidence, None
    assert isinstance(entry, Entry)
    text, evidence, picture = model_card(entry, None), None, None
    if has_run or certification_path(results, entry, "certified.json").exists():
        triplet = load()
        assert isinstance(triplet, Triplet)
        text, evidence = card_of(triplet, results, picture=f"{entry.key}.svg")
        picture = picture_of(triplet, results, evidence)
    if entry not in entries_named(entry.name):  # not the zoo's own, whatever its name
        text = text.replace(how_to_load(entry), how_to_load(entry, reference))
    return text, evidence, picture


def is_own(folder: Path) -> bool:
    """Whether a folder holds a triplet as ``save_pretrained`` or ``asz tune`` writes it, with no card or a bare one."""
    bare = not any((folder / name).exists() for name in (CARD_FILE, LICENSE_FILE))
    return (folder / CONFIG_FILE).is_file() and (bare or (folder / RECORD_FILE).is_file())


def front_of(folder: Path) -> str | None:
    """Name of the figure of the mixes among which ``asz tune`` chose, if it is in the folder."""
    return FRONT_FILE if (folder / FRONT_FILE).is_file() else None


def write_card(folder: Path) -> None:
    """Write card and license of a triplet, without results, into its folder, next to what ``asz tune`` wrote."""
    entry = read_entry(folder / CONFIG_FILE)
    card = model_card(entry, None, front=front_of(folder))
    write_text(folder / CARD_FILE, card.replace(how_to_load(entry), how_to_load(entry, HERE)))
    write_text(folder / LICENSE_FILE, license_text(entry))


def export_files(entry: Entry) -> set[str]:
    """Names of the files in a folder whose ``config.json`` says ``entry``."""
    weights = {*entry.weights.shards, INDEX_FILE} if entry.weights.shards else {WEIGHTS_FILE}
    return {CONFIG_FILE, CARD_FILE, LICENSE_FILE, *weights}


def license_text(entry: Entry) -> str:
    """The full text of the MIT license; of another license its name and, where known, the link to its text."""
    year = re.search(r"(?:19|20)\d\d", entry.name)
    return page("license.txt", entry=entry, year=year[0] if year else None, spdx=_SPDX.get(entry.license))


_SPDX_NAMES = "Apache-2.0 BSD-2-Clause BSD-3-Clause CC0-1.0 CC-BY-4.0 CC-BY-SA-4.0 CC-BY-NC-4.0 CC-BY-NC-SA-4.0"
_SPDX = {name.lower(): name for name in _SPDX_NAMES.split()}  # the Hub's identifiers to SPDX's


def _check_replaceable(folder: Path, entry: Entry) -> None:
    """Raise ResultsError unless the folder is absent, empty, or an export of the same triplet: replacing deletes it."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ResultsError(f"{folder} is a file; choose another name for the export")
    names = {path.name for path in folder.iterdir()}
    if not names:
        return
    try:
        earlier = read_entry(folder / CONFIG_FILE)
    except ConfigError:
        raise ResultsError(f"{folder} is neither empty nor an earlier export; choose another folder") from None
    if earlier.key != entry.key:
        raise ResultsError(f"{folder} holds an export of {earlier.key}, not of {entry.key}; choose another folder")
    if foreign := sorted(names - export_files(earlier) - {PICTURE_FILE}):
        raise ResultsError(
            f"{folder} holds an earlier export, but also {', '.join(foreign[:5])}, which would be lost; move that "
            "elsewhere, or choose another folder"
        )


@contextmanager
def _complete_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary sibling of ``folder`` to fill; it takes ``folder``'s place if no error occurred."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as error:
        raise ResultsError(f"cannot write {folder}: {error.strerror or error}; choose another folder") from error
    filled, old = temporary / "new", temporary / "old"
    try:
        filled.mkdir()  # unlike mkdtemp's, with the permissions the user wants for folders
        yield filled
        if folder.exists():
            folder.rename(old)
        try:
            filled.rename(folder)
        finally:
            if old.exists() and not folder.exists():
                old.rename(folder)
    except OSError as error:
        raise ResultsError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
