"""Files are complete or not there."""

import os
import stat
from hashlib import sha256

import pytest

from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.storage.files import complete_file, file_sha256, write_text, write_with


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_text_is_written_as_utf_8_into_folders_that_are_made(tmp_path):
    path = tmp_path / "new" / "folders" / "note.txt"
    write_text(path, "γ → α\n")
    assert path.read_bytes() == "γ → α\n".encode()
    assert names_in(path.parent) == ["note.txt"]


def test_the_old_content_stands_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "note.txt"
    path.write_text("old")
    with complete_file(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "old"
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert names_in(tmp_path) == ["note.txt"]


@pytest.mark.parametrize("existing", [None, "old"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_while_writing_leaves_everything_as_it_was(tmp_path, existing, error):
    path = tmp_path / "note.txt"
    if existing is not None:
        path.write_text(existing)

    def write(temporary):
        temporary.write_text("half")
        raise error("the power went")

    with pytest.raises(error, match="the power went"):
        write_with(path, write)
    assert names_in(tmp_path) == ([] if existing is None else ["note.txt"])
    assert existing is None or path.read_text() == existing


def test_a_full_disk_is_reported_with_the_file_s_name(tmp_path):
    def write(temporary):
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(ResultsError, match=r"note\.txt: No space left on device"):
        write_with(tmp_path / "note.txt", write)
    assert names_in(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_reported_with_the_file_s_name(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ResultsError, match=r"cannot write .*note\.txt: .*choose another folder"):
        write_text(tmp_path / "file" / "note.txt", "text")


def test_a_folder_in_the_file_s_place_is_reported_and_kept(tmp_path):
    (tmp_path / "note.txt").mkdir()
    with pytest.raises(ResultsError, match=r"cannot write .*note\.txt"):
        write_text(tmp_path / "note.txt", "text")
    assert names_in(tmp_path) == ["note.txt"]


def test_the_file_has_the_permissions_that_the_user_s_mask_allows(tmp_path):
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "note.txt", "text")
        assert os.umask(0o027) == 0o027  # the mask is as it was
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "note.txt").stat().st_mode) == 0o640


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_the_hash_is_that_of_the_whole_content(tmp_path, size):
    content = bytes(i % 251 for i in range(997)) * (size // 997 + 1)
    (tmp_path / "data").write_bytes(content[:size])
    assert file_sha256(tmp_path / "data") == sha256(content[:size]).hexdigest()
