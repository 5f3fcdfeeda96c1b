"""Downloads from plain URLs and Google Drive; the same call resumes an interrupted download."""

from pathlib import Path
from typing import Any

import requests
from tqdm import tqdm

from adaptive_smoothing_zoo.errors import WeightsError, reason
from adaptive_smoothing_zoo.storage.files import write_text
from adaptive_smoothing_zoo.zoo.hub_files import is_local
from adaptive_smoothing_zoo.zoo.robustbench import INSTALL

_TIMEOUT = 30  # seconds without an answer after which a server counts as gone


def download_url(url: str, path: Path) -> None:
    """Download a file unless ``path`` exists. A partial download is resumed if the server's file has not changed.

    Raises:
        WeightsError: the server cannot be reached, refuses, or closes the connection early.
        OSError: the file cannot be written.
    """
    if path.is_file():
        return
    part, tag = path.with_name(path.name + ".part"), path.with_name(path.name + ".etag")
    have = part.stat().st_size if part.is_file() and tag.is_file() else 0
    headers = {"Accept-Encoding": "identity"}  # or lengths and ranges could be those of compressed bytes
    headers |= {"Range": f"bytes={have}-", "If-Range": tag.read_text()} if have else {}
    try:
        with requests.get(url, stream=True, timeout=_TIMEOUT, headers=headers) as response:
            if response.status_code == 416:  # nothing is left to send, which cannot be told from another length
                part.unlink()
                return download_url(url, path)
            response.raise_for_status()
            have = have if response.status_code == 206 else 0
            if etag := response.headers.get("ETag"):
                write_text(tag, etag)
            length = response.headers.get("Content-Length")
            total = have + int(length) if length else 0  # 0: not known
            with part.open("ab" if have else "wb") as file, _bar(total, url.rsplit("/", 1)[-1], have) as bar:
                for block in response.iter_content(1 << 20):
                    file.write(block)
                    bar.update(len(block))
    except requests.RequestException as error:
        raise WeightsError(f"cannot get {url}: {error}; run it again to resume") from error
    if total and part.stat().st_size != total:
        raise WeightsError(f"{url} ended after {part.stat().st_size} of {total} bytes; run it again to resume")
    part.replace(path)


def _bar(total: int, what: str, done: int) -> "tqdm[Any]":
    """A progress bar on a terminal, unless the Hub client's bars are switched off."""
    from huggingface_hub.utils import are_progress_bars_disabled  # type: ignore[attr-defined]

    disable = True if are_progress_bars_disabled() else None
    return tqdm(total=total or None, initial=done, unit="B", unit_scale=True, desc=what, disable=disable)


def download_from_drive(drive_id: str, path: Path) -> None:
    """Download a file from Google Drive by gdown, unless ``path`` exists.

    Raises:
        WeightsError: gdown is not installed, or Drive refuses or cannot be reached.
    """
    if path.is_file():
        return
    try:
        import gdown
    except ModuleNotFoundError:
        raise WeightsError(f"files on Google Drive are downloaded by gdown: {INSTALL}") from None
    try:
        done = gdown.download(id=drive_id, output=str(path), resume=True)
        if done is None:  # it found leftovers of several interrupted downloads and does not choose among them
            for leftover in path.parent.glob(path.name + "*"):
                leftover.unlink()
            done = gdown.download(id=drive_id, output=str(path))
    except Exception as error:  # gdown raises requests' errors, its own, and plain ones
        if is_local(error):
            raise
        raise WeightsError(f"cannot get the Google Drive file {drive_id}: {reason(error)}") from error
    if done is None or not path.is_file():
        raise WeightsError(f"cannot get the Google Drive file {drive_id}: gdown gave up; run it again to try again")
