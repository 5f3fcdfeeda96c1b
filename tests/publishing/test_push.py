"""From a model to a folder, from a folder to the Hub, and back from there; and what a user reads when that fails."""

import json
import logging
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hub_server import OWNER, STRANGER
from huggingface_hub import ModelCard, constants, load_torch_model

import adaptive_smoothing_zoo.cli as cli
from adaptive_smoothing_zoo import load_model
from adaptive_smoothing_zoo.errors import ConfigError, HubError, ResultsError, WeightsError
from adaptive_smoothing_zoo.publishing.export import PICTURE_FILE, card_of, export, license_text, picture_of
from adaptive_smoothing_zoo.publishing.push import check_export, push, push_model
from adaptive_smoothing_zoo.storage.files import file_sha256
from adaptive_smoothing_zoo.storage.schema import parse
from adaptive_smoothing_zoo.zoo.entry import Weights
from adaptive_smoothing_zoo.zoo.triplet import Triplet

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "eval" / "results"
MODEL = load_model("Demo2026Adaptive", dataset="digits")
IMAGES = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(3))
REPO, FILE = "org/demo", "model.safetensors"
FILES = ["LICENSE", "README.md", "config.json", FILE]
SHARDED = [
    "LICENSE",
    "README.md",
    "config.json",
    *(f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)),
    "model.safetensors.index.json",
]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def changed(amount=1e-3):
    """Another model under the same name."""
    model = load_model("Demo2026Adaptive", dataset="digits")
    model.rob_model.head.bias.add_(amount)
    return model


def assert_same(loaded, model=MODEL):
    assert loaded.entry.key == model.entry.key
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    assert torch.equal(loaded(IMAGES), model(IMAGES))


def exported(folder, model=MODEL, **options):
    return export(model, folder, card=card_of(model, folder / "no results")[0], **options)


@pytest.fixture
def folder(tmp_path):
    return exported(tmp_path / "export")


class TestExport:
    def test_a_folder_holds_all_that_the_hub_shows_and_loads_bit_by_bit(self, folder):
        assert names(folder) == FILES
        assert_same(Triplet.from_pretrained(folder))
        assert check_export(folder) == MODEL.entry.self_contained(file_sha256(folder / FILE))
        assert ModelCard.load(folder / "README.md").data.eval_results is None  # there are no results

    def test_the_card_tells_the_recorded_results_to_the_hub(self, tmp_path):
        card, evidence = card_of(MODEL, RESULTS)
        data = ModelCard.load(export(MODEL, tmp_path / "export", card=card) / "README.md").data
        assert (data.license, data.library_name, data.datasets) == ("mit", "adaptive-smoothing-zoo", ["digits"])
        assert data.model_name == "Demo2026Adaptive"
        results = {result.metric_name: result.metric_value for result in data.eval_results}
        assert results == {
            "clean accuracy (%)": pytest.approx(100 * evidence.run.clean_accuracy, abs=0.005),
            "AutoAttack accuracy (%), Linf 1/5": pytest.approx(100 * evidence.run.robust_accuracy, abs=0.005),
            "accuracy after all recorded attacks (%), Linf 1/5": pytest.approx(100 * evidence.best_known, abs=0.005),
        }
        assert evidence.best_known < evidence.run.robust_accuracy
        assert {(result.task_type, result.dataset_type, result.dataset_split) for result in data.eval_results} == {
            ("image-classification", "digits", "test")
        }

    def test_the_card_s_picture_comes_along_and_is_replaced_with_it(self, tmp_path, caplog):
        folder = tmp_path / "export"
        card, evidence = card_of(MODEL, RESULTS, picture=PICTURE_FILE)
        export(MODEL, folder, card=card, picture=picture_of(MODEL, RESULTS, evidence))
        assert f"]({PICTURE_FILE})" in (folder / "README.md").read_text()
        assert (folder / PICTURE_FILE).read_text().startswith("<svg")
        assert check_export(folder).key == MODEL.entry.key
        assert not caplog.records  # it belongs to the export
        assert names(exported(folder)) == FILES  # without results there is no picture

    @pytest.mark.parametrize("net", ["std_sha256", "rob_sha256"])
    def test_constant_alphas_of_other_base_nets_are_not_compared_with(self, net, tmp_path):
        shutil.copytree(RESULTS / "digits", tmp_path / "digits")
        assert "Compared with constant alphas" in card_of(MODEL, tmp_path)[0]
        path = tmp_path / "digits/Linf/constant_alpha.curve.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {net: "0" * 64}))
        card, evidence = card_of(MODEL, tmp_path, picture=PICTURE_FILE)
        assert "constant alphas" not in card
        assert picture_of(MODEL, tmp_path, evidence) is None

    def test_results_of_other_weights_are_refused(self):
        with pytest.raises(ResultsError, match=r"Demo2026Adaptive\.run\.json was made with another model"):
            card_of(changed(), RESULTS)

    def test_weights_in_several_files_are_the_same_weights(self, tmp_path):
        folder = exported(tmp_path / "export", max_shard_size="500KB")
        assert names(folder) == SHARDED
        assert_same(Triplet.from_pretrained(folder))
        fresh = Triplet(MODEL.entry).eval()  # the Hub client's own loader reads the index, ours the hashes
        load_torch_model(fresh, folder, strict=True, safe=True)
        assert_same(fresh)

    def test_an_earlier_export_is_replaced_with_all_its_files(self, tmp_path):
        folder = exported(tmp_path / "export", max_shard_size="500KB")
        other = changed()
        exported(folder, other)
        assert names(folder) == FILES
        assert_same(Triplet.from_pretrained(folder), other)
        assert names(tmp_path) == ["export"]

    def test_an_empty_folder_and_folders_to_be_made_are_filled(self, tmp_path):
        (tmp_path / "empty").mkdir()
        for target in (tmp_path / "empty", tmp_path / "deep" / "down"):
            assert names(exported(target)) == FILES

    @pytest.mark.parametrize("file", ["thesis.tex", "config.json"])
    def test_a_folder_with_something_else_is_left_alone(self, tmp_path, file):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / file).write_text("{}")
        with pytest.raises(ResultsError, match="is neither empty nor an earlier export; choose another folder"):
            exported(tmp_path / "mine")
        assert names(tmp_path / "mine") == [file]
        assert names(tmp_path) == ["mine"]

    def test_an_earlier_export_with_files_of_the_user_s_or_of_another_triplet_is_left_alone(self, folder):
        other = load_model("Demo2026Constant", dataset="digits")
        with pytest.raises(ResultsError, match=r"holds an export of Demo2026Adaptive-.*, not of Demo2026Constant-"):
            exported(folder, other)
        (folder / "notes.txt").write_text("mine")
        with pytest.raises(ResultsError, match=r"also notes\.txt, which would be lost; move that elsewhere"):
            exported(folder, changed())
        assert_same(Triplet.from_pretrained(folder))

    def test_a_file_in_the_way_is_named(self, tmp_path):
        (tmp_path / "file").write_text("")
        for target, message in (("file", "file is a file"), ("file/below", r"cannot write .*below")):
            with pytest.raises(ResultsError, match=message):
                exported(tmp_path / target)

    @pytest.mark.parametrize("error", [ResultsError("disk full"), KeyboardInterrupt()])
    def test_an_interrupted_export_leaves_what_was_there(self, folder, monkeypatch, error):
        def fail(self, target, max_shard_size=None):
            (target / FILE).write_bytes(b"half")
            raise error

        monkeypatch.setattr(Triplet, "save_pretrained", fail)
        for target in (folder, folder.with_name("new")):
            with pytest.raises(type(error)):
                exported(target, changed())
        monkeypatch.undo()
        assert names(folder.parent) == ["export"]
        assert_same(Triplet.from_pretrained(folder))

    def test_an_export_that_is_interrupted_at_its_last_step_leaves_the_earlier_one(self, monkeypatch, tmp_path):
        card = "---\nlicense: mit\n---\n"
        export(MODEL, tmp_path / "export", card=card)
        rename, left = Path.rename, [2]

        def interrupted(path, target):
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
            return rename(path, target)

        monkeypatch.setattr(Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            export(MODEL, tmp_path / "export", card=f"{card}new\n")
        assert check_export(tmp_path / "export").key == MODEL.entry.key
        assert (tmp_path / "export" / "README.md").read_text().startswith(f"{card}\n<!-- card of ")
        assert [path.name for path in tmp_path.iterdir()] == ["export"]


class TestLicense:
    def test_the_mit_license_is_the_text_of_this_package_s_with_the_authors_as_holders(self):
        ours = (ROOT / "LICENSE").read_text()
        assert license_text(MODEL.entry) == ours  # whose holders are the demo's authors
        entry = replace(MODEL.entry, name="Bai2023Improving", paper=replace(MODEL.entry.paper, authors="Ann, Bob"))
        expected = re.sub(r"\(c\) .*", "(c) 2023 Ann, Bob", ours)
        assert license_text(entry) == expected
        assert license_text(replace(entry, name="NoYear")) == expected.replace("2023 ", "")

    def test_another_license_is_named_and_never_made_up(self):
        text = license_text(replace(MODEL.entry, license="cc-by-nc-4.0"))
        assert "SPDX-License-Identifier: CC-BY-NC-4.0\nText: https://spdx.org/licenses/CC-BY-NC-4.0.html\n" in text
        assert MODEL.entry.paper.link in text
        text = license_text(replace(MODEL.entry, license="our-own"))
        assert text.startswith("License: our-own")
        assert "spdx.org" not in text


class TestPush:
    def test_what_was_pushed_comes_back_bit_by_bit_and_the_entry_gets_what_it_needs(self, hub, folder):
        pushed = push(folder, REPO, token=OWNER, commit_message="first")
        assert hub.paths(REPO) == FILES
        for name in FILES:
            there = hub.content(REPO, name, pushed.commit).replace(b"hf-hub:org/demo", b"local-dir:.")  # in the card
            assert there == (folder / name).read_bytes()
        assert_same(Triplet.from_pretrained(REPO, revision=pushed.commit))
        assert_same(load_model("Demo2026Adaptive", dataset="digits", hub_repo=REPO, revision=pushed.commit))
        assert re.fullmatch("[0-9a-f]{40}", pushed.commit)
        assert pushed.url == f"{hub.endpoint}/org/demo/tree/{pushed.commit}"
        weights = parse(Weights, json.loads(pushed.entry_text), "the text")
        assert weights == Weights(hub_repo=REPO, revision=pushed.commit, sha256=file_sha256(folder / FILE))
        assert hub.repositories[REPO].commits[pushed.commit].message == "first"
        assert push(folder, REPO, token=OWNER).commit == pushed.commit  # nothing new makes no commit

    def test_an_older_revision_stays_loadable_and_replaced_weights_are_not_left_beside_the_new(self, hub, tmp_path):
        other = changed()
        folder = exported(tmp_path / "export", max_shard_size="500KB")
        hashes = {name: file_sha256(folder / name) for name in SHARDED if "-of-" in name}
        sharded = push(folder, REPO, token=OWNER)
        assert hub.paths(REPO) == SHARDED
        assert parse(Weights, json.loads(sharded.entry_text), "the text").shards == hashes
        single = push(exported(tmp_path / "export", other), REPO, token=OWNER)
        assert hub.paths(REPO) == FILES
        assert_same(Triplet.from_pretrained(REPO), other)
        assert_same(Triplet.from_pretrained(REPO, revision=sharded.commit))
        assert_same(Triplet.from_pretrained(REPO, revision=single.commit), other)
        third = push(exported(tmp_path / "export", max_shard_size="500KB"), REPO, token=OWNER)
        assert hub.paths(REPO, third.commit) == SHARDED

    def test_a_card_is_uploaded_with_its_picture(self, hub):
        push_model(MODEL, REPO, results=RESULTS, token=OWNER)
        assert hub.paths(REPO) == sorted([*FILES, PICTURE_FILE])

    def test_a_branch_is_made_and_main_stays(self, hub, tmp_path, folder):
        first = push(folder, REPO, token=OWNER)
        other = changed()
        second = push(exported(tmp_path / "other", other), REPO, token=OWNER, revision="next")
        assert_same(Triplet.from_pretrained(REPO, revision="next"), other)
        assert_same(Triplet.from_pretrained(REPO))
        assert hub.repositories[REPO].branches == {"main": first.commit, "next": second.commit}

    def test_offline_the_cache_is_enough_and_the_hub_is_not_asked(self, hub, folder, monkeypatch):
        pushed = push(folder, REPO, token=OWNER)
        assert_same(Triplet.from_pretrained(REPO, revision=pushed.commit))
        Triplet.from_pretrained(REPO)
        before = len(hub.requests)
        assert_same(Triplet.from_pretrained(REPO, revision=pushed.commit))  # a full hash in the cache
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert_same(Triplet.from_pretrained(REPO))
        assert_same(Triplet.from_pretrained(REPO, local_files_only=True))
        assert len(hub.requests) == before

    def test_a_private_repository_is_read_with_a_token_only(self, hub, folder, monkeypatch):
        push(folder, REPO, token=OWNER, private=True)
        assert hub.repositories[REPO].private
        for token in (None, STRANGER):
            with pytest.raises(WeightsError, match="no such repository, or it is private and no token that may read"):
                Triplet.from_pretrained(REPO, token=token)
        assert_same(Triplet.from_pretrained(REPO, token=OWNER))
        monkeypatch.setenv("HF_TOKEN", OWNER)
        push(folder, REPO, private=True)

    def test_what_is_to_be_private_does_not_go_to_a_public_repository(self, hub, folder):
        hub.create_repo(REPO)
        with pytest.raises(HubError, match="'org/demo': it exists and is public; choose another name"):
            push(folder, REPO, token=OWNER, private=True)
        assert hub.paths(REPO) == []

    def test_other_files_in_the_folder_stay_at_home(self, hub, folder, caplog):
        (folder / "secret.env").write_text("HF_TOKEN=hf_owner")
        with caplog.at_level(logging.WARNING):
            push(folder, REPO, token=OWNER)
        assert hub.paths(REPO) == FILES
        assert "not part of the export, and not uploaded: secret.env" in caplog.text

    def test_an_interrupted_upload_is_simply_run_again(self, hub, folder):
        hub.fail("status", file_sha256(folder / FILE), methods=("PUT",), times=None)
        with pytest.raises(HubError, match=r"cannot push to 'org/demo': the Hub answered 503 .*; try again later"):
            push(folder, REPO, token=OWNER)
        assert hub.paths(REPO) == []
        hub.heal()
        assert_same(Triplet.from_pretrained(REPO, revision=push(folder, REPO, token=OWNER).commit))


class TestPushRefuses:
    @pytest.mark.parametrize(
        ("file", "old", "new", "error", "message"),
        [
            ("config.json", "", None, ConfigError, r"there is no file .*config\.json"),
            (
                "README.md",
                "",
                None,
                WeightsError,
                r"is not a complete export: README\.md is missing; run asz export again",
            ),
            (FILE, "", None, WeightsError, r"is not a complete export: model\.safetensors is missing"),
            (FILE, r"(?s).$", "?", WeightsError, r"has SHA-256 [0-9a-f]{64}, but config\.json says"),
            ("config.json", '"dataset"', '"data_set"', ConfigError, r"config\.json: .*unknown key 'data_set'"),
            ("config.json", '"[0-9a-f]{64}"', "null", ConfigError, r"config\.json has no SHA-256 of the weights"),
            ("README.md", "(?s).*", "---\n[\n---\n", ConfigError, r"the front matter of .*README\.md cannot be read"),
            ("README.md", "(?s).*", "# A card\n", ConfigError, r"the front matter of .*README\.md names no license"),
        ],
    )
    def test_a_folder_that_is_not_as_it_was_written(self, hub, folder, file, old, new, error, message):
        """Before anything is sent. ``new`` is what stands in the place of ``old``; without, the file is gone."""
        content = (folder / file).read_bytes()
        (folder / file).unlink()
        if new is not None:
            (folder / file).write_bytes(re.sub(old.encode(), new.encode(), content, count=1))
        with pytest.raises(error, match=message):
            push(folder, REPO, token=OWNER)
        with pytest.raises(ConfigError, match=r"there is no folder .*missing; asz export makes one"):
            push(folder / "missing", REPO, token=OWNER)
        assert hub.requests == []

    @pytest.mark.parametrize(
        ("model", "words"), [(changed(), {}), (MODEL, {"eps": "0.1"}), (MODEL, {"name": "Doe2026Mine"})]
    )
    def test_the_card_of_what_was_there_before_another_save(self, hub, folder, model, words):
        model.save_pretrained(folder, **words)
        with pytest.raises(ConfigError, match=r"README\.md was exported for another model, name or radius than config"):
            push(folder, REPO, token=OWNER)
        assert hub.requests == []
        saved = Triplet.from_pretrained(folder)
        push(exported(folder, saved), REPO, token=OWNER)
        (folder / "README.md").write_text("---\nlicense: mit\n---\nA card of the user's own.\n")
        assert check_export(folder) == saved.entry

    def test_the_same_model_saved_again_in_other_shards_keeps_its_card(self, hub, folder):
        Triplet.from_pretrained(folder).save_pretrained(folder, "500KB")
        push(folder, REPO, token=OWNER)
        assert hub.paths(REPO) == SHARDED

    @pytest.mark.parametrize(
        ("index", "message"),
        [
            ("{}", r"index\.json is not an index of shards: KeyError"),
            ('{"weight_map": {"a": "model-00001-of-00003.safetensors"}}', "name different shards"),
        ],
    )
    def test_an_index_that_does_not_fit_the_shards(self, hub, tmp_path, index, message):
        folder = exported(tmp_path / "export", max_shard_size="500KB")
        (folder / "model.safetensors.index.json").write_text(index)
        with pytest.raises(ConfigError, match=message):
            push(folder, REPO, token=OWNER)
        assert hub.requests == []

    def test_to_work_offline_without_a_token_or_without_a_name(self, hub, folder, monkeypatch):
        with pytest.raises(HubError, match="'org/demo': there is no token; run `hf auth login`, set HF_TOKEN"):
            push(folder, REPO)
        for repo in ("a/b/c", "org/a b"):
            with pytest.raises(HubError, match="not a repository name; it must be like org/name"):
                push(folder, repo, token=OWNER)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(HubError, match="offline mode is on; unset HF_HUB_OFFLINE"):
            push(folder, REPO, token=OWNER)
        assert hub.requests == []

    @pytest.mark.parametrize(
        ("token", "message"),
        [
            ("hf_old", r"the Hub answered 401 \(Invalid credentials .*\): the token is not valid; run `hf auth login`"),
            (STRANGER, r"the Hub answered 403 \(You don't have the rights .*\): the token has no right to write there"),
        ],
    )
    def test_a_token_that_is_not_enough(self, hub, folder, token, message):
        with pytest.raises(HubError, match=message):
            push(folder, REPO, token=token)
        hub.create_repo(REPO)
        with pytest.raises(HubError, match=message):
            push(folder, REPO, token=token)
        assert hub.paths(REPO) == []

    def test_a_server_that_is_gone_fails_or_is_none(self, hub, folder):
        hub.fail("html", "/api/repos/create", methods=("POST",))
        with pytest.raises(HubError, match="the answer is not a Hub's; a sign-in page may stand in between"):
            push(folder, REPO, token=OWNER)
        hub.fail("status", "/commit/main", methods=("POST",), status=500)
        with pytest.raises(HubError, match=r"the Hub answered 500 .*; try again later"):
            push(folder, REPO, token=OWNER)
        hub.stop()
        with pytest.raises(HubError, match=r"the Hub cannot be reached \(.*\); check the connection, or HF_ENDPOINT"):
            push(folder, REPO, token=OWNER)


@pytest.fixture
def commit(hub, folder):
    """The commit of the model in the repository; the cache is empty, and requests are counted from here."""
    commit = hub.commit(REPO, {path.name: path.read_bytes() for path in folder.iterdir()})
    hub.requests.clear()
    return commit


class TestDownload:
    """Messages of ``Triplet.from_pretrained`` when a repository cannot be had."""

    @pytest.mark.parametrize(
        ("repo", "options", "message"),
        [
            ("org/other", {}, r"config\.json from 'org/other'.*there is no such repository"),
            (REPO, {"revision": "next"}, "from 'org/demo' .*next.* no such revision"),
            (REPO, {"revision": "0" * 40}, "from 'org/demo' .*0000.* no such revision"),
            (REPO, {"token": "hf_old"}, "401"),
            (REPO, {"local_files_only": True}, r"config\.json from 'org/demo'.*not in the cache.*offline"),
        ],
    )
    def test_what_is_not_there_for_us(self, commit, repo, options, message):
        with pytest.raises(WeightsError, match=message):
            Triplet.from_pretrained(repo, **options)

    @pytest.mark.parametrize("name", ["config.json", FILE])
    def test_no_such_file(self, hub, commit, name):
        without = hub.commit(REPO, {name: None})
        with pytest.raises(WeightsError, match=f"cannot get {re.escape(name)} from 'org/demo'.* no such file"):
            Triplet.from_pretrained(REPO)
        with pytest.raises(WeightsError, match=f"at revision {without}"):
            Triplet.from_pretrained(REPO, revision=without)
        assert_same(Triplet.from_pretrained(REPO, revision=commit))

    def test_other_bytes_are_refused_and_gone_once_the_named_file_is_deleted(self, hub, commit):
        hub.fail("swap")
        for _ in range(2):  # the second time from the cache
            with pytest.raises(WeightsError, match=r"has SHA-256 [0-9a-f]{64}, but [0-9a-f]{64} was expected") as error:
                Triplet.from_pretrained(REPO, revision=commit)
        assert hub.count(FILE, "GET") == 1
        Path(re.match(r"(\S+) has SHA-256", str(error.value))[1]).unlink()
        assert_same(Triplet.from_pretrained(REPO, revision=commit))

    @pytest.mark.parametrize("name", ["config.json", FILE])
    @pytest.mark.parametrize("kind", ["reset", "cut", "truncate", "html"])
    def test_an_interrupted_transfer_says_so_and_running_again_works(self, hub, commit, kind, name):
        hub.fail(kind, name, times=None)
        with pytest.raises(WeightsError, match=f"cannot get {re.escape(name)} from 'org/demo'.*run it again"):
            Triplet.from_pretrained(REPO, revision=commit)
        hub.heal()
        assert_same(Triplet.from_pretrained(REPO, revision=commit))

    def test_a_server_error_and_a_config_that_is_no_entry(self, hub, commit):
        hub.fail("status", methods=("HEAD",), times=None)
        with pytest.raises(WeightsError, match=r"cannot get model\.safetensors from 'org/demo'.*503"):
            Triplet.from_pretrained(REPO)
        hub.heal()
        hub.commit(REPO, {"config.json": b"<html>"})
        with pytest.raises(ConfigError, match=r"config\.json is not a JSON file"):
            Triplet.from_pretrained(REPO)

    LOAD = (
        "import sys, torch; from adaptive_smoothing_zoo.zoo.triplet import Triplet; "
        f"m = Triplet.from_pretrained({REPO!r}, revision=sys.argv[1]); "
        "print(m(torch.full((1, 1, 8, 8), 0.5)).tolist())"
    )

    def start(self, hub, commit):
        program = [sys.executable, "-c", self.LOAD, commit]
        return subprocess.Popen(program, env=hub.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    @property
    def expected(self):
        return MODEL(torch.full((1, 1, 8, 8), 0.5)).tolist()

    @pytest.mark.slow
    def test_two_processes_at_once_share_a_cache(self, hub, commit):
        processes = [self.start(hub, commit) for _ in range(2)]
        with ThreadPoolExecutor(2) as pool:
            outputs = list(pool.map(lambda process: process.communicate(timeout=120), processes))
        assert [json.loads(out) for out, _ in outputs] == [self.expected] * 2, outputs
        blobs = [path.name for path in Path(constants.HF_HUB_CACHE).glob("*/blobs/*")]
        assert len(blobs) == 2, blobs  # config and weights, and nothing half done

    def test_a_process_killed_in_the_middle_of_a_transfer_is_simply_started_again(self, hub, commit):
        hub.fail("stall")
        process = self.start(hub, commit)
        deadline = time.monotonic() + 120
        while not hub.count(FILE, "GET"):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert_same(Triplet.from_pretrained(REPO, revision=commit))


class TestCommands:
    @pytest.fixture
    def asz(self, capsys, monkeypatch):
        """A function that runs the command and gives exit code, output and errors."""

        def run(*arguments):
            monkeypatch.setattr(sys, "argv", ["asz", *map(str, arguments)])
            try:
                cli.main()
                code = 0
            except SystemExit as error:
                code = error.code
            captured = capsys.readouterr()
            assert "Traceback" not in captured.err
            return code, captured.out, captured.err

        return run

    EXPORT = ("export", "Demo2026Adaptive", "--dataset", "digits")

    def test_export_and_push(self, hub, asz, tmp_path, monkeypatch):
        monkeypatch.setenv("HF_TOKEN", OWNER)
        folder = tmp_path / "export"
        code, out, _ = asz(*self.EXPORT, folder, "--results", RESULTS, "--shard-size", "500KB")
        assert (code, out) == (0, f"wrote {folder}\n")
        code, out, _ = asz("push", folder, REPO, "--private", "--revision", "next", "--message", "hello")
        assert code == 0
        commit = hub.repositories[REPO].branches["next"]
        assert out.startswith(f"uploaded {hub.endpoint}/{REPO}/tree/{commit}\n")
        weights = json.loads(out[out.index("{") :])
        assert (weights["hub_repo"], weights["revision"], len(weights["shards"])) == (REPO, commit, 3)
        assert hub.repositories[REPO].commits[commit].message == "hello"
        assert hub.repositories[REPO].private
        assert ModelCard(hub.content(REPO, "README.md", commit).decode()).data.model_name == "Demo2026Adaptive"
        assert_same(Triplet.from_pretrained(REPO, revision=commit))

    def test_export_from_a_folder_with_other_weights(self, asz, tmp_path):
        other = changed()
        other.save_pretrained(tmp_path / "mine")
        where = (tmp_path / "export", "--model-dir", tmp_path / "mine")
        code, _, err = asz(*self.EXPORT, *where, "--results", RESULTS)
        assert code == 2
        assert "other weights" in err
        code, out, _ = asz(*self.EXPORT, *where, "--results", tmp_path / "none")
        assert code == 0
        assert f"no results for Demo2026Adaptive-digits-Linf in {tmp_path / 'none'}" in out
        assert_same(Triplet.from_pretrained(tmp_path / "export"), other)

    def test_what_a_user_gets_wrong_ends_with_one_sentence_and_code_2(self, hub, asz, tmp_path, folder, monkeypatch):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.tex").write_text("")
        for arguments, message in [
            ((*self.EXPORT, tmp_path / "mine"), "is neither empty nor an earlier export"),
            ((*self.EXPORT, tmp_path / "x", "--model-dir", tmp_path / "mine"), "there is no config.json of Demo2026"),
            ((*self.EXPORT, tmp_path / "x", "--shard-size", "much"), "much"),
            (("export", "Demo2026Adaptve", tmp_path / "x", "--dataset", "digits"), "did you mean Demo2026Adaptive"),
            (("push", tmp_path / "none", REPO), "there is no folder"),
            (("push", folder, REPO), "there is no token"),
        ]:
            code, _, err = asz(*arguments)
            assert code == 2, arguments
            assert message in err
            assert len(err.strip().splitlines()) == 1, err
        monkeypatch.setenv("HF_TOKEN", STRANGER)
        assert "no right to write there" in asz("push", folder, REPO)[2]
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert "offline mode is on" in asz("push", folder, REPO)[2]
        assert hub.repositories == {}
