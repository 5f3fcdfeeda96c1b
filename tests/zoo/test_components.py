"""Original checkpoints: found, downloaded, checked, converted once, whatever interrupts."""

import errno
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from huggingface_hub import constants
from published_composites import PUBLISHED, reduced, robustbench_composite, write_robustbench_cache

from adaptive_smoothing_zoo.errors import WeightsError
from adaptive_smoothing_zoo.zoo import components
from adaptive_smoothing_zoo.zoo.components import download_url, load_components, pinned_source
from adaptive_smoothing_zoo.zoo.entry import Component, RobustBenchFile, UrlFile, Weights, entry_to_text
from adaptive_smoothing_zoo.zoo.loading import load_model
from adaptive_smoothing_zoo.zoo.registry import list_models
from adaptive_smoothing_zoo.zoo.robustbench import autoattack_stood_in
from adaptive_smoothing_zoo.zoo.triplet import Triplet, meta_triplet

PARTS = ("std_model", "rob_model", "alpha")
EDM = next(e for e in list_models("cifar100", "Linf") if e.name == "Bai2023Improving_edm")
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of this test's own."""
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    return tmp_path / "assets" / "adaptive-smoothing-zoo"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """RobustBench's reduced composite and the folder with its files."""
    with pytest.MonkeyPatch.context() as patch:
        composite = robustbench_composite(PUBLISHED[0], patch, small=True)
        folder = tmp_path_factory.mktemp("models")
        files = write_robustbench_cache(folder, "Bai2023Improving_edm", "cifar100", composite)
        with torch.no_grad():
            logits = composite(IMAGES)[0]
    return SimpleNamespace(folder=folder, files=files, logits=logits)


@pytest.fixture
def tiny(tmp_path):
    """Three small nets, as an entry without sources and as files to serve."""
    arguments = {"depth": 10, "width": 1, "activation": "silu", "mean": [0.0] * 3, "std": [1.0] * 3}
    net = replace(EDM.rob_model, arguments=arguments)
    alpha = replace(EDM.alpha, planes=(4, 6, 8))
    entry = replace(EDM, std_model=net, rob_model=net, alpha=alpha, num_classes=10, weights=Weights())
    torch.manual_seed(0)
    model = Triplet(entry).eval()
    files = {}
    for part in PARTS:
        path = tmp_path / f"{part}.pt"
        state = model.get_submodule(part).state_dict()
        torch.save(state, path)
        files[part] = path.read_bytes()
    return SimpleNamespace(entry=entry, model=model, files=files)


def with_sources(entry, sources):
    weights = Weights(components={part: Component(sources=tuple(found)) for part, found in sources.items()})
    return replace(entry, weights=weights)


def served(tiny, server, **known):
    """The entry whose parts are on the server."""
    server.files.update(tiny.files)
    return with_sources(tiny.entry, {part: [UrlFile(url=server.url(part), **known.get(part, {}))] for part in PARTS})


def load(entry, model_dir=None):
    return load_components(entry, meta_triplet(entry), model_dir=model_dir)


def assert_weights_of(state, model):
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in state.items())


class TestRobustBenchsCache:
    @pytest.fixture(autouse=True)
    def small(self, zoo_of):
        zoo_of(reduced(EDM), replace(reduced(EDM), name="Bai2023Improving_other", aliases=()))

    @pytest.fixture
    def folder(self, tmp_path):
        folder = tmp_path / "models" / "cifar100" / "Linf"
        folder.mkdir(parents=True)
        return folder

    @staticmethod
    def check(published, folder, name="Bai2023Improving"):
        model = load_model(name, folder, dataset="cifar100", threat_model="Linf")
        with torch.no_grad():
            # Rounding of float32 through some twenty layers; a wrong constant shows as 0.01 or more.
            torch.testing.assert_close(model(IMAGES), published.logits, rtol=0, atol=1e-4)

    @pytest.mark.parametrize("name", ["Bai2023Improving_edm", "Bai2023Improving"])
    def test_its_files_give_its_logits_and_are_not_copied(self, published, name, cache):
        self.check(published, published.folder, name)
        assert not cache.exists()

    def test_a_file_of_the_single_net_serves_as_well(self, published, folder):
        for file, name in zip(published.files, ("edm.pt_m0", "Wang2023Better_WRN-70-16", "edm.pt_m2"), strict=True):
            (folder / f"{name.replace('edm', 'Bai2023Improving_edm')}.pt").symlink_to(file)
        self.check(published, folder.parents[1])

    def test_a_damaged_file_is_named_and_not_replaced_behind_the_users_back(self, published, folder):
        for i, file in enumerate(published.files):
            (folder / file.name).write_bytes(file.read_bytes() if i != 1 else file.read_bytes()[:-1000])
        with pytest.raises(WeightsError, match=r"Bai2023Improving_edm\.pt_m1\.pt is truncated"):
            load_model("Bai2023Improving", folder.parents[1], dataset="cifar100")

    def test_files_in_the_wrong_order_are_refused(self, published, folder):
        for i, j in enumerate((1, 0, 2)):
            (folder / published.files[i].name).symlink_to(published.files[j])
        with pytest.raises(WeightsError, match=r"not one of BiT's ResNet.*unknown"):
            load_model("Bai2023Improving", folder.parents[1], dataset="cifar100")

    def test_a_missing_part_is_looked_for_in_its_sources(self, published, folder, monkeypatch):
        for file in published.files[:2]:
            (folder / file.name).symlink_to(file)
        asked = []

        def drive(drive_id, path):
            asked.append(drive_id)
            path.write_bytes(published.files[2].read_bytes())

        monkeypatch.setattr(components, "download_from_drive", drive)
        self.check(published, folder.parents[1])
        # RobustBench's own list, third file of the model.
        from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel
        from robustbench.model_zoo.models import model_dicts

        ids = model_dicts[BenchmarkDataset.cifar_100][ThreatModel.Linf]["Bai2023Improving_edm"]["gdrive_id"]
        assert asked == [ids[2]]


class TestConversion:
    def test_it_happens_once_and_says_what_was_converted(self, tiny, file_server, cache):
        entry = served(tiny, file_server)
        state, made_of = load(entry)
        assert_weights_of(state, tiny.model)
        for part in PARTS:
            known = {"sha256": sha256(tiny.files[part]).hexdigest(), "size": len(tiny.files[part])}
            assert pinned_source(*made_of[part]) == UrlFile(url=file_server.url(part), **known)
        assert len(file_server.requests) == 3
        state, again = load(entry)
        assert_weights_of(state, tiny.model)
        assert again == made_of
        assert len(file_server.requests) == 3
        assert not list((cache / "downloads").iterdir())

    def test_a_part_of_two_triplets_is_got_once(self, tiny, file_server):
        entry = served(tiny, file_server)
        load(entry)
        load(replace(entry, name="Other", rob_map=replace(entry.rob_map, factor=0.7)))
        assert len(file_server.requests) == 3

    def test_another_entry_on_another_data_set_is_another_part(self, tiny, file_server):
        entry = served(tiny, file_server)
        load(entry)
        load(replace(entry, dataset="cifar10"))
        assert len(file_server.requests) == 6

    @pytest.mark.parametrize(
        ("known", "message"),
        [
            ({"sha256": "0" * 64}, f"has SHA-256 [0-9a-f]{{64}}, not {'0' * 64}: it is another file"),
            ({"size": 17}, r"has \d+ bytes, not 17: it is truncated or another file"),
        ],
    )
    def test_what_is_known_of_a_file_is_checked(self, tiny, file_server, cache, known, message):
        entry = served(tiny, file_server, rob_model=known)
        with pytest.raises(WeightsError, match=rf"cannot get rob_model of [^\n]*:\n- [^\n]*{message}"):
            load(entry)
        assert not list((cache / "downloads").iterdir())  # a bad file is not kept

    def test_the_right_hash_passes(self, tiny, file_server):
        known = {"sha256": sha256(tiny.files["alpha"]).hexdigest(), "size": len(tiny.files["alpha"])}
        assert_weights_of(load(served(tiny, file_server, alpha=known))[0], tiny.model)

    def test_the_next_source_is_tried_and_all_answers_are_told(self, tiny, file_server):
        file_server.files.update(tiny.files, page=b"<!doctype html><p>quota exceeded</p>")
        first, second = UrlFile(url=file_server.url("absent")), UrlFile(url=file_server.url("page"))
        good = {part: [UrlFile(url=file_server.url(part))] for part in PARTS}
        state, made_of = load(with_sources(tiny.entry, {**good, "alpha": [first, second, *good["alpha"]]}))
        assert_weights_of(state, tiny.model)
        assert pinned_source(*made_of["alpha"]).url == file_server.url("alpha")
        with pytest.raises(WeightsError, match=r"- cannot get .*404.*\n- .*is a web page.*\nRun it again"):
            load(with_sources(tiny.entry, {**good, "alpha": [first, second]}))

    def test_a_file_of_another_net_is_refused_before_it_is_cached(self, tiny, file_server, cache):
        file_server.files.update({**tiny.files, "alpha": tiny.files["std_model"]})
        entry = with_sources(tiny.entry, {part: [UrlFile(url=file_server.url(part))] for part in PARTS})
        with pytest.raises(WeightsError, match="not a mixing network's checkpoint"):
            load(entry)
        assert not list((cache / "components").glob("mixing_network*.safetensors"))

    def test_offline_nothing_is_asked_and_the_message_says_so(self, tiny, file_server, monkeypatch):
        entry = served(tiny, file_server)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(WeightsError, match=r"std_model is not in the cache, and downloads are switched off"):
            load(entry)
        assert not file_server.requests
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        load(entry)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert_weights_of(load(entry)[0], tiny.model)


class TestTroubleWithTheCache:
    """What the file system refuses is told with the folder and what to do, and the next try goes on."""

    MESSAGE = "cannot keep weights in {}: .*{}.*; make room there, or set HF_HOME to a folder"

    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (OSError(errno.ENOLCK, "No locks available"), "No locks available"),
            (OSError(errno.EROFS, "Read-only file system"), "Read-only file system"),
            (NotImplementedError("FileSystem does not appear to support flock"), "support flock"),
        ],
    )
    def test_a_folder_without_locks_or_the_right_to_write(self, tiny, file_server, cache, monkeypatch, error, words):
        entry = served(tiny, file_server)
        monkeypatch.setattr(components.FileLock, "acquire", Mock(side_effect=error))
        with pytest.raises(WeightsError, match=self.MESSAGE.format(cache, words)):
            load(entry)
        monkeypatch.undo()

    def test_a_cache_that_cannot_be_made(self, tiny, file_server, monkeypatch, tmp_path):
        (tmp_path / "file").write_text("")
        monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "file"))
        where = tmp_path / "file" / "adaptive-smoothing-zoo"
        with pytest.raises(WeightsError, match=self.MESSAGE.format(where, "Not a directory")):
            load(served(tiny, file_server))

    def test_a_full_disk_while_downloading(self, tiny, file_server, cache):
        entry = served(tiny, file_server)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            with pytest.raises(WeightsError, match=self.MESSAGE.format(cache, "File too large")):
                load(entry)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert_weights_of(load(entry)[0], tiny.model)
        assert file_server.requests[1] == ("/std_model", "bytes=1000-")  # what had arrived is kept

    def test_a_full_disk_while_converting(self, tiny, file_server, cache, monkeypatch):
        entry = served(tiny, file_server)
        full = Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
        with monkeypatch.context() as patch:
            patch.setattr("adaptive_smoothing_zoo.zoo.weights.save_file", full)
            with pytest.raises(WeightsError, match=self.MESSAGE.format(cache, "No space left on device")):
                load(entry)
        assert not list((cache / "components").glob("*.safetensors"))
        assert_weights_of(load(entry)[0], tiny.model)

    def test_a_full_disk_below_gdown_is_no_answer_of_google(self, tiny, monkeypatch, cache):
        with autoattack_stood_in():
            pytest.importorskip("robustbench")
        full = Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
        monkeypatch.setitem(sys.modules, "gdown", SimpleNamespace(download=full))
        entry = with_sources(tiny.entry, {"std_model": [RobustBenchFile(model="Bai2023Improving_edm", index=0)]})
        with pytest.raises(WeightsError, match=self.MESSAGE.format(cache, "No space left on device")):
            load(entry)


class TestDownload:
    content = os.urandom(3 << 20)

    def test_what_arrived_is_kept_and_gone_on_with(self, file_server, tmp_path):
        file_server.files["f"] = self.content
        file_server.cut_after = 1 << 20
        with pytest.raises(WeightsError, match="run it again to resume"):
            download_url(file_server.url("f"), tmp_path / "f")
        assert not (tmp_path / "f").exists()
        download_url(file_server.url("f"), tmp_path / "f")
        assert (tmp_path / "f").read_bytes() == self.content
        assert file_server.requests[1][1].startswith("bytes=")
        assert int(file_server.requests[1][1][6:-1]) > 0

    def test_a_rest_of_untold_length_completes_a_file(self, file_server, tmp_path):
        file_server.files["f"] = self.content
        file_server.cut_after = 1 << 20
        with pytest.raises(WeightsError, match="run it again to resume"):
            download_url(file_server.url("f"), tmp_path / "f")
        file_server.tells_length = False
        download_url(file_server.url("f"), tmp_path / "f")
        assert (tmp_path / "f").read_bytes() == self.content
        assert file_server.requests[1][1].startswith("bytes=")

    def test_a_file_that_changed_meanwhile_is_begun_anew(self, file_server, tmp_path):
        file_server.files["f"] = self.content
        file_server.cut_after = 1 << 20
        with pytest.raises(WeightsError):
            download_url(file_server.url("f"), tmp_path / "f")
        file_server.files["f"] = self.content[::-1]
        download_url(file_server.url("f"), tmp_path / "f")
        assert (tmp_path / "f").read_bytes() == self.content[::-1]

    def test_a_download_that_was_killed_before_its_last_step_is_completed(self, file_server, tmp_path):
        file_server.files["f"] = self.content
        (tmp_path / "f.part").write_bytes(self.content)
        (tmp_path / "f.etag").write_text(f'"{sha256(self.content).hexdigest()}"')
        download_url(file_server.url("f"), tmp_path / "f")
        assert (tmp_path / "f").read_bytes() == self.content

    def test_a_server_that_compresses_is_asked_not_to(self, file_server, tmp_path):
        file_server.files["f"], file_server.compresses = bytes(3000), True
        download_url(file_server.url("f"), tmp_path / "f")
        assert (tmp_path / "f").read_bytes() == bytes(3000)

    def test_a_server_that_is_not_there_is_named(self, tmp_path):
        with pytest.raises(WeightsError, match=r"cannot get http://127\.0\.0\.1:9/f"):
            download_url("http://127.0.0.1:9/f", tmp_path / "f")


class TestGoogleDrive:
    @pytest.fixture
    def entry(self, tiny):
        return with_sources(tiny.entry, {"std_model": [RobustBenchFile(model="Bai2023Improving_edm", index=0)]})

    @pytest.fixture(autouse=True)
    def robustbench(self):
        with autoattack_stood_in():
            pytest.importorskip("robustbench")

    def gdown(self, monkeypatch, download):
        monkeypatch.setitem(sys.modules, "gdown", SimpleNamespace(download=download))

    def test_the_file_with_robustbenchs_id_is_got_by_gdown(self, tiny, entry, monkeypatch):
        def download(id, output, resume=False):
            assert id == "12Z63xr4bQwdIvR2w8xvpUnXG1fnUpy5B"
            Path(output).write_bytes(tiny.files["std_model"])
            return output

        self.gdown(monkeypatch, download)
        _, made_of = load(entry)
        pinned = pinned_source(*made_of["std_model"])
        assert replace(pinned, sha256=None, size=None) == RobustBenchFile(model="Bai2023Improving_edm", index=0)
        assert pinned.sha256 == sha256(tiny.files["std_model"]).hexdigest()

    def test_a_web_page_in_place_of_the_file_is_named_and_not_kept(self, entry, monkeypatch, cache):
        def download(id, output, resume=False):
            Path(output).write_bytes(b"<!DOCTYPE html><html>Too many users have viewed or downloaded this file</html>")
            return output

        self.gdown(monkeypatch, download)
        with pytest.raises(WeightsError, match="is a web page, not a checkpoint; servers send one"):
            load(entry)
        assert not list((cache / "downloads").iterdir())

    def test_a_refusal_is_passed_on_in_one_line(self, entry, monkeypatch):
        error = RuntimeError("Failed to retrieve file url:\n\n\tCannot retrieve the public link")
        self.gdown(monkeypatch, Mock(side_effect=error))
        with pytest.raises(WeightsError, match=r"Drive file 12Z6.*: Failed to retrieve file url: Cannot retrieve the"):
            load(entry)

    def test_leftovers_of_several_interrupted_downloads_are_cleared(self, tiny, entry, monkeypatch):
        calls = []

        def download(id, output, resume=False):
            calls.append(resume)
            if resume:
                for suffix in ("a", "b"):
                    Path(output + suffix).write_bytes(b"part")
                return None
            assert not list(Path(output).parent.iterdir())
            Path(output).write_bytes(tiny.files["std_model"])
            return output

        self.gdown(monkeypatch, download)
        load(entry)
        assert calls == [True, False]

    @pytest.mark.parametrize("missing", [("gdown",), ("robustbench", "robustbench.model_zoo.enums")])
    def test_without_a_dependency_the_message_says_what_to_install(self, entry, monkeypatch, missing):
        for module in missing:
            monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(WeightsError, match=r"pip install 'adaptive-smoothing-zoo\[robustbench\]'"):
            load(entry)

    def test_a_model_that_robustbench_does_not_know_is_named(self, tiny):
        for model, index, message in (
            ("Nobody2099None", None, "has no model 'Nobody2099None' for cifar100 Linf on Google Drive"),
            ("Bai2023Improving_edm", 3, "knows 3 files of Bai2023Improving_edm"),
        ):
            entry = with_sources(tiny.entry, {"std_model": [RobustBenchFile(model=model, index=index)]})
            with pytest.raises(WeightsError, match=message):
                load(entry)


PROGRAM = """
    import sys
    from pathlib import Path
    from adaptive_smoothing_zoo.zoo.components import load_components
    from adaptive_smoothing_zoo.zoo.entry import read_entry
    from adaptive_smoothing_zoo.zoo.triplet import meta_triplet
    entry = read_entry(Path(sys.argv[1]))
    skeleton = meta_triplet(entry)
    print("ready", flush=True)
    state, _ = load_components(entry, skeleton)
    print(float(sum(value.double().sum() for value in state.values())))
"""


class TestProcesses:
    @pytest.fixture
    def start(self, tiny, file_server, tmp_path):
        entry = served(tiny, file_server)
        (tmp_path / "entry.json").write_text(entry_to_text(entry))
        environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
        environment.pop("HF_ASSETS_CACHE", None)
        command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path / "entry.json")]
        return lambda: subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    @staticmethod
    def expected(tiny):
        return float(sum(value.double().sum() for value in tiny.model.state_dict().values()))

    @pytest.mark.slow
    def test_several_at_once_get_every_file_once(self, tiny, file_server, start):
        processes = [start() for _ in range(3)]
        for process in processes:
            out, _ = process.communicate(timeout=120)
            assert process.returncode == 0
            assert float(out.split()[-1]) == pytest.approx(self.expected(tiny))
        assert sorted(path for path, _ in file_server.requests) == ["/alpha", "/rob_model", "/std_model"]

    @pytest.mark.slow
    def test_killed_at_any_moment_it_is_simply_run_again(self, tiny, file_server, start):
        for delay in (0.0, 0.01, 0.03, 0.06):
            process = start()
            assert process.stdout.readline() == "ready\n"
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            process.communicate()
        process = start()
        out, _ = process.communicate(timeout=120)
        assert float(out.split()[-1]) == pytest.approx(self.expected(tiny))
