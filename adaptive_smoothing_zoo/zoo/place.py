"""Where a triplet in our format is: a folder, or a repository of the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from adaptive_smoothing_zoo.errors import WeightsError
from adaptive_smoothing_zoo.zoo.hub_files import HubOptions, hub_file

CONFIG_FILE = "config.json"


@dataclass(frozen=True, kw_only=True)
class Place:
    """A folder, or a Hub repository at a revision (branch, tag or full commit hash; its newest if None)."""

    folder: Path | None = None
    repo: str = ""
    revision: str | None = None

    def file(self, name: str, options: HubOptions | None = None) -> Path:
        """The local path of a file there; downloaded unless it is in the Hub client's cache.

        Raises:
            WeightsError: the Hub does not give it. Whether a folder has the file is not checked.
        """
        if self.folder is not None:
            return self.folder / name
        return hub_file(self.repo, name, self.revision, options)


def place_of(reference: str) -> Place | None:
    """The place of "hf-hub:org/name", "hf-hub:org/name@revision", "local-dir:folder" or a folder with ``config.json``.

    Returns:
        None if the reference is none of these.

    Raises:
        WeightsError: "local-dir:" names no folder.
    """
    if not isinstance(reference, str):  # find_entry refuses it
        return None
    scheme, _, rest = reference.partition(":")
    if scheme in ("hf-hub", "hf_hub"):  # timm knows both spellings
        repo, _, revision = rest.partition("@")
        return Place(repo=repo, revision=revision or None)
    if scheme == "local-dir":
        if not Path(rest).is_dir():
            raise WeightsError(f"{reference!r}: there is no folder {rest!r}")
        return Place(folder=Path(rest))
    return Place(folder=Path(reference)) if (Path(reference) / CONFIG_FILE).is_file() else None


def place_at(folder_or_repo: str | Path, revision: str | None = None) -> Place:
    """As ``place_of``; any other text is an existing folder, or else a repository.

    Raises:
        WeightsError: as ``place_of``; or the text and ``revision`` name two revisions.
    """
    place = place_of(str(folder_or_repo))
    if place is None:
        is_folder = Path(folder_or_repo).is_dir()
        place = Place(folder=Path(folder_or_repo)) if is_folder else Place(repo=str(folder_or_repo))
    if revision is None:
        return place
    if place.revision not in (None, revision):
        raise WeightsError(f"{folder_or_repo} names a revision, and {revision!r} is another one; give only one")
    return replace(place, revision=revision)
