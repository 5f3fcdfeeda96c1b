"""The script that gives older records an identity: only where the model of then can be shown to be today's."""

import importlib.util
import json
import subprocess
from pathlib import Path

import pytest

from adaptive_smoothing_zoo import load_model
from adaptive_smoothing_zoo.storage.identity import identity_of
from adaptive_smoothing_zoo.storage.provenance import tensors_sha256
from adaptive_smoothing_zoo.storage.schema import to_json

SCRIPT = Path(__file__).parents[2] / "eval" / "migrate_identity.py"
NAME = "Demo2026Constant"
RECORD = Path("results") / "digits" / "Linf" / f"{NAME}.run.json"
ENTRY = Path("adaptive_smoothing_zoo") / "zoo" / "entries" / "digits" / "Linf" / f"{NAME}.json"
MODEL = load_model(NAME, dataset="digits")
LOCAL = " with local changes"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("migrate_identity", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def commit(tmp_path, monkeypatch):
    """A function that commits JSON files to a new repository and returns the commit's hash."""
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)

    def add(files):
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content))
            subprocess.run(["git", "add", str(path)], check=True)
        names = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *names, "commit", "-q", "--allow-empty", "-m", "."], check=True)
        return subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()

    return add


def an_entry(**changes):
    return to_json(MODEL.entry) | changes


def a_record(commit, **changes):
    measured = {"model": NAME, "dataset": "digits", "threat_model": "Linf", "commit": commit, "n": 3}
    return measured | {"weights_sha256": tensors_sha256(MODEL.state_dict())} | changes


def without(values, *keys):
    return {key: value for key, value in values.items() if key not in keys}


OTHER_ALPHA = {"alpha": {"kind": "constant", "value": 0.125}}
OTHER_MAP = {"std_map": {"kind": "scale", "factor": 2.0}}


@pytest.mark.parametrize("local", ["", LOCAL])
@pytest.mark.parametrize(
    "then",
    [
        an_entry(),
        without(an_entry(), "std_map", "rob_map", "surrogate", "head", "aliases"),
        an_entry(a_key_of_then=1),
        an_entry(std_model=without(an_entry()["std_model"], "pretrained")),
        an_entry(description="other words", weights={}),
    ],
)
def test_a_record_of_today_s_model_gets_its_identity_and_keeps_the_rest(script, commit, then, local):
    measured = commit({ENTRY: then})
    record = a_record(measured + local)
    commit({ENTRY: an_entry(), RECORD: record})
    migrated = script.migrate(RECORD)
    assert migrated == without(record, "weights_sha256") | {"identity": to_json(identity_of(MODEL))}
    RECORD.write_text(json.dumps(migrated))
    assert script.migrate(RECORD) is None


@pytest.mark.parametrize("local", ["", LOCAL])
@pytest.mark.parametrize("change", [OTHER_ALPHA, OTHER_MAP, {"num_classes": 11}])
def test_one_whose_entry_was_another_when_it_was_measured_is_refused(script, commit, change, local):
    """Though the entry was today's when the record was committed."""
    measured = commit({ENTRY: an_entry(**change)})
    commit({ENTRY: an_entry(), RECORD: a_record(measured + local)})
    commit({RECORD: a_record(measured + local, n=4)})
    with pytest.raises(script.Refused, match=f"had another {next(iter(change))} in commit {measured[:12]}"):
        script.migrate(RECORD)


def test_keys_that_the_entry_of_then_lacked_had_their_defaults(script, commit, monkeypatch):
    """So an older entry without logit maps is not today's if that has some."""
    monkeypatch.setattr(MODEL, "entry", script.parse(type(MODEL.entry), an_entry(**OTHER_MAP), "here"))
    monkeypatch.setattr(script, "loaded", lambda *_: MODEL)
    measured = commit({ENTRY: without(an_entry(), "std_map")})
    commit({ENTRY: an_entry(), RECORD: a_record(measured)})
    with pytest.raises(script.Refused, match="had another std_map"):
        script.migrate(RECORD)


@pytest.mark.parametrize("unknown", ["0" * 40, None, "--version", "HEAD"])
def test_where_the_commit_is_unknown_the_first_with_both_counts(script, commit, unknown):
    commit({ENTRY: an_entry(**OTHER_MAP)})
    first = commit({ENTRY: an_entry(**OTHER_ALPHA), RECORD: a_record(unknown)})
    commit({ENTRY: an_entry(), RECORD: a_record(unknown, n=4)})
    with pytest.raises(script.Refused, match=f"had another alpha in commit {first[:12]}"):
        script.migrate(RECORD)


def test_where_the_commit_has_no_entry_the_first_with_both_counts(script, commit):
    measured = commit({})
    commit({RECORD: a_record(measured)})
    with pytest.raises(script.Refused, match="no commit has both"):
        script.migrate(RECORD)
    commit({ENTRY: an_entry()})
    assert "identity" in script.migrate(RECORD.resolve())
    commit({ENTRY: an_entry(**OTHER_ALPHA)})
    assert "identity" in script.migrate(RECORD)


@pytest.mark.parametrize(
    ("then", "changes", "message"),
    [
        (without(an_entry(), "alpha"), {}, "its entry in {}"),
        (an_entry(alpha={"kind": "other"}), {}, "its entry in {}"),
        (an_entry(), {"weights_sha256": "0" * 64}, "other weights than today's"),
    ],
)
def test_an_entry_that_nobody_can_read_today_and_other_weights_are_refused(script, commit, then, changes, message):
    measured = commit({ENTRY: then})
    commit({RECORD: a_record(measured, **changes)})
    with pytest.raises(script.Refused, match=message.format(measured[:12])):
        script.migrate(RECORD)


def test_what_is_no_record_stays(script, commit):
    commit({RECORD: [1]})
    assert script.migrate(RECORD) is None
