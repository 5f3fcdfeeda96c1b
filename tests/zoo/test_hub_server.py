"""The Hub of the tests, seen through the real client: what the other tests of uploads and downloads rest on."""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest
from hub_server import OWNER, STRANGER, HubServer
from huggingface_hub import CommitOperationDelete, HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    FileMetadataError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx

WEIGHTS = bytes(range(256)) * 4000
REPO, FILE = "org/model", "model.safetensors"


@pytest.fixture
def repo(hub):
    """A repository with two commits, and the hashes of both."""
    old = hub.commit(REPO, {"config.json": b'{"version": 1}', FILE: b"old weights"})
    new = hub.commit(REPO, {"config.json": b'{"version": 2}', FILE: WEIGHTS})
    return old, new


def download(filename=FILE, repo=REPO, **options):
    return Path(hf_hub_download(repo, filename, **options)).read_bytes()


class TestUpload:
    @pytest.fixture
    def folder(self, tmp_path):
        folder = tmp_path / "folder"
        (folder / "sub").mkdir(parents=True)
        (folder / FILE).write_bytes(WEIGHTS)
        (folder / "config.json").write_text("{}")
        (folder / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
        (folder / "sub" / "notes.txt").write_text("below")
        return folder

    def push(self, folder, **options):
        api = HfApi(token=OWNER)
        api.create_repo(REPO, exist_ok=True)
        return api.upload_folder(repo_id=REPO, folder_path=folder, **options).oid

    def test_what_is_uploaded_comes_back_and_large_files_go_through_the_large_file_storage(self, hub, folder):
        commit = self.push(folder)
        assert hub.paths(REPO) == ["README.md", "config.json", FILE, "sub/notes.txt"]
        assert download(revision=commit) == WEIGHTS
        assert download("sub/notes.txt", revision=commit) == b"below"
        files = hub.repositories[REPO].commits[commit].files
        assert [path for path, blob in files.items() if blob.lfs] == [FILE]
        assert hub.count("/storage/", "PUT") == 1

    def test_the_client_s_other_way_of_uploading_works_when_nothing_is_a_large_file(self, hub, folder, monkeypatch):
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
        hub.lfs = False
        assert download(revision=self.push(folder)) == WEIGHTS
        assert hub.count("/storage/") == 0

    def test_history_keeps_every_commit_and_only_what_changed_is_sent(self, hub, folder):
        first = self.push(folder)
        assert self.push(folder) == first
        (folder / "config.json").write_text('{"new": 1}')
        second = self.push(folder)
        assert hub.count("/storage/", "PUT") == 1
        api = HfApi(token=OWNER)
        third = api.create_commit(REPO, [CommitOperationDelete("config.json")], commit_message="away").oid
        with pytest.raises(RemoteEntryNotFoundError):
            download("config.json")
        assert [download("config.json", revision=commit) for commit in (first, second)] == [b"{}", b'{"new": 1}']
        history = api.list_repo_commits(REPO)
        assert [commit.commit_id for commit in history[:3]] == [third, second, first]
        assert history[0].title == "away"

    def test_branches_and_tags_name_commits(self, hub, folder):
        first = self.push(folder)
        api = HfApi(token=OWNER)
        api.create_branch(REPO, branch="next")
        api.create_tag(REPO, tag="v1")
        (folder / "config.json").write_text("[]")
        assert self.push(folder, revision="next") != first
        assert download("config.json", revision="next") == b"[]"
        assert download("config.json", revision="v1") == download("config.json") == b"{}"
        refs = api.list_repo_refs(REPO)
        assert {ref.name for ref in refs.branches} == {"main", "next"}
        assert [(ref.name, ref.target_commit) for ref in refs.tags] == [("v1", first)]

    def test_what_makes_no_sense_is_refused(self, hub, folder, repo):
        with pytest.raises(RevisionNotFoundError):
            self.push(folder, revision="nowhere")
        with pytest.raises(HfHubHTTPError, match="moved on"):
            self.push(folder, parent_commit=repo[0])
        (folder / "README.md").write_text("---\n[\n---\n")
        with pytest.raises(ValueError, match="Invalid metadata"):
            self.push(folder)

    def test_content_with_another_hash_than_announced_or_none_at_all_is_refused(self, hub, repo):
        storage = urllib.request.Request(f"{hub.endpoint}/storage/{'0' * 64}", b"something", method="PUT")
        value = {"path": FILE, "algo": "sha256", "oid": "0" * 64, "size": 1}
        lines = [{"key": "header", "value": {"summary": "s"}}, {"key": "lfsFile", "value": value}]
        commit = urllib.request.Request(
            f"{hub.endpoint}/api/models/{REPO}/commit/main",
            b"\n".join(json.dumps(line).encode() for line in lines),
            {"Authorization": f"Bearer {OWNER}"},
        )
        for request in (storage, commit):
            with pytest.raises(urllib.error.HTTPError, match="400"):
                urllib.request.urlopen(request)
        assert not (hub.store / ("0" * 64)).exists()
        assert hub.repositories[REPO].branches["main"] == repo[1]


class TestDownload:
    def test_a_snapshot_is_all_files_of_one_commit(self, repo):
        for commit, version in zip(repo, (1, 2), strict=True):
            folder = Path(snapshot_download(REPO, revision=commit))
            assert folder.name == commit
            assert sorted(path.name for path in folder.iterdir()) == [".gitattributes", "config.json", FILE]
            assert json.loads((folder / "config.json").read_text()) == {"version": version}
        assert Path(snapshot_download(REPO)).name == repo[1]

    def test_what_is_in_the_cache_under_a_full_hash_costs_no_request(self, hub, repo):
        download(revision=repo[0])
        before = len(hub.requests)
        assert download(revision=repo[0]) == b"old weights"
        assert len(hub.requests) == before
        assert Path(hf_hub_download(REPO, FILE)).resolve().name == sha256(WEIGHTS).hexdigest()
        assert len(hub.requests) > before  # a branch may have moved on, so the Hub is asked

    def test_offline_or_without_a_server_the_cache_serves(self, hub, repo, monkeypatch):
        download()
        before = len(hub.requests)
        with monkeypatch.context() as patch:
            patch.setattr(constants, "HF_HUB_OFFLINE", True)
            assert download() == download(revision=repo[1]) == WEIGHTS
            with pytest.raises(LocalEntryNotFoundError) as error:
                download(revision=repo[0])
            assert isinstance(error.value.__cause__, OfflineModeIsEnabled)
        assert len(hub.requests) == before
        hub.stop()
        assert download() == WEIGHTS
        with pytest.raises(LocalEntryNotFoundError):
            download("config.json")

    def test_a_part_can_be_asked_for(self, hub, repo):
        url = f"{hub.endpoint}/{REPO}/resolve/main/{FILE}"
        for header, part in (("bytes=10-19", WEIGHTS[10:20]), ("bytes=1023990-", WEIGHTS[1023990:])):
            with urllib.request.urlopen(urllib.request.Request(url, headers={"Range": header})) as answer:
                assert (answer.status, answer.read()) == (206, part)
        beyond = urllib.request.Request(url, headers={"Range": "bytes=1024000-"})
        with pytest.raises(urllib.error.HTTPError, match="416"):
            urllib.request.urlopen(beyond)

    def test_many_at_once_and_another_process(self, hub, repo):
        for number in range(20):
            hub.commit(REPO, {f"{number}.txt": str(number).encode()})
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda number: download(f"{number}.txt"), range(20)))
        assert found == [str(number).encode() for number in range(20)]
        program = f"from huggingface_hub import hf_hub_download; print(hf_hub_download({REPO!r}, {FILE!r}))"
        run = subprocess.run([sys.executable, "-c", program], env=hub.environment, capture_output=True, text=True)
        path = Path(run.stdout.strip())
        assert path.read_bytes() == WEIGHTS, run.stderr
        assert path.is_relative_to(constants.HF_HUB_CACHE)


def test_what_is_missing_is_told_apart(repo):
    for options, error, words in (
        ({"repo": "org/none"}, RepositoryNotFoundError, "401"),
        ({"repo": "org/none", "token": OWNER}, RepositoryNotFoundError, "404"),
        ({"filename": "none.txt"}, RemoteEntryNotFoundError, "404"),
        ({"revision": "none"}, RevisionNotFoundError, "404"),
        ({"revision": "0" * 40}, RevisionNotFoundError, "404"),
    ):
        with pytest.raises(error, match=words):
            download(**options)
    assert list(Path(constants.HF_HUB_CACHE).glob(f"*/.no_exist/{repo[1]}/none.txt"))  # the client remembers it


class TestPermission:
    def test_a_private_repository_is_there_only_for_those_who_may_read_it(self, hub, monkeypatch):
        HfApi(token=OWNER).create_repo(REPO, private=True)
        assert hub.repositories[REPO].private
        hub.commit(REPO, {FILE: WEIGHTS})
        with pytest.raises(RepositoryNotFoundError, match="401"):
            download()
        with pytest.raises(RepositoryNotFoundError, match="404"):
            download(token=STRANGER)
        assert download(token=OWNER) == WEIGHTS
        monkeypatch.setenv("HF_TOKEN", OWNER)
        assert download() == WEIGHTS

    def test_strangers_may_read_what_is_public_and_write_nothing(self, hub, repo):
        with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
            download(token="hf_none")
        assert download(token=STRANGER) == WEIGHTS
        for token in (STRANGER, False):
            api = HfApi(token=token)
            with pytest.raises(HfHubHTTPError, match=r"403|401"):
                api.create_repo("org/other")
            with pytest.raises(HfHubHTTPError, match=r"403|401"):
                api.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id=REPO)
        assert hub.repositories.keys() == {REPO}
        assert hub.paths(REPO) == ["config.json", FILE]


class TestFailure:
    def test_a_cut_transfer_is_gone_on_with_where_it_stopped(self, hub, repo, monkeypatch):
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
        hub.fail("cut", times=3)
        assert download() == WEIGHTS
        assert hub.count(f"/resolve/main/{FILE}", "GET") == 4

    @pytest.mark.parametrize(
        ("kind", "error"), [("reset", httpx.ReadError), ("truncate", OSError), ("cut", httpx.RemoteProtocolError)]
    )
    def test_a_broken_transfer_fails_leaves_nothing_and_works_the_next_time(self, hub, repo, kind, error):
        hub.fail(kind, times=None)
        with pytest.raises(error):
            download()
        assert not [path for path in Path(constants.HF_HUB_CACHE).glob("*/blobs/*") if path.is_file()]
        hub.heal()
        assert download() == WEIGHTS

    def test_a_failure_happens_as_often_as_was_asked_and_to_that_file_alone(self, hub, repo):
        hub.fail("reset")
        assert download("config.json") == b'{"version": 2}'
        with pytest.raises(httpx.ReadError):
            download()
        assert download() == WEIGHTS

    def test_swapped_bytes_are_as_many_and_the_client_does_not_notice(self, hub, repo):
        hub.fail("swap")
        content = download()
        assert len(content) == len(WEIGHTS)
        assert content != WEIGHTS

    def test_a_server_error_is_tried_again_and_then_told(self, hub, repo):
        hub.fail("status", methods=("HEAD", "GET"), status=500, times=2)
        assert download() == WEIGHTS
        hub.fail("status", "config.json", methods=("HEAD",), status=502, times=None)
        with pytest.raises(LocalEntryNotFoundError) as error:
            download("config.json")
        assert error.value.__cause__.response.status_code == 502

    def test_a_web_page_is_no_hub_s_answer_and_as_a_file_has_the_wrong_size(self, hub, repo):
        hub.fail("html")
        with pytest.raises(OSError, match="Consistency check failed"):
            download()
        assert download() == WEIGHTS
        hub.fail("html", "config.json", methods=("HEAD", "GET"), times=None)
        with pytest.raises(LocalEntryNotFoundError) as error:
            download("config.json")
        assert isinstance(error.value.__cause__, FileMetadataError)

    def test_the_storage_may_fail_in_an_upload(self, hub, repo):
        hub.fail("status", sha256(b"new").hexdigest(), methods=("PUT",), status=507)
        upload = {"path_or_fileobj": b"new", "path_in_repo": FILE, "repo_id": REPO, "token": OWNER}
        with pytest.raises(RuntimeError, match="Error while uploading"):
            HfApi().upload_file(**upload)
        assert hub.repositories[REPO].branches["main"] == repo[1]
        HfApi().upload_file(**upload)
        assert download() == b"new"


def test_the_server_of_a_test_is_gone_after_it(tmp_path):
    with HubServer(tmp_path) as server:
        server.commit(REPO, {"a.txt": b"a"})
        url = f"{server.endpoint}/{REPO}/resolve/main/a.txt"
        assert urllib.request.urlopen(url).read() == b"a"
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url)
