"""Entries: what they refuse, and that nothing is lost on the way through a file."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive_smoothing_zoo.errors import ConfigError
from adaptive_smoothing_zoo.storage.schema import parse, to_json
from adaptive_smoothing_zoo.threat import ThreatModel
from adaptive_smoothing_zoo.zoo.entry import (
    PARTS,
    AdaptiveAlphaConfig,
    BaseNetConfig,
    Component,
    ConstantAlphaConfig,
    Entry,
    HardMaxConfig,
    HubFile,
    NormClampPowerScaleConfig,
    Paper,
    Published,
    RobustBenchFile,
    ScaleConfig,
    SurrogateConfig,
    UrlFile,
    Weights,
    entry_to_text,
    parse_eps,
    read_entry,
)

FEW = settings(max_examples=40)
ALPHA_RANGES = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
POSITIVE = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
NETS = st.builds(
    BaseNetConfig,
    architecture=st.text(),
    arguments=st.dictionaries(st.text(max_size=5), st.integers() | FINITE | st.lists(st.integers()), max_size=2),
    pretrained=st.none() | st.text(),
)
ADAPTIVE = st.builds(
    lambda alpha_range, **rest: AdaptiveAlphaConfig(alpha_min=alpha_range[0], alpha_max=alpha_range[1], **rest),
    ALPHA_RANGES,
    logit_scale=FINITE,
    logit_bias=FINITE,
    planes=st.tuples(*[st.integers(1)] * 3),
    version=st.sampled_from([3, 4]),
    std_taps=st.tuples(st.integers(), st.integers()),
    rob_taps=st.tuples(st.integers(), st.integers()),
)
LOGIT_MAPS = (
    st.builds(ScaleConfig, factor=POSITIVE)
    | st.builds(HardMaxConfig)
    | st.builds(NormClampPowerScaleConfig, scale=POSITIVE, power=st.floats(1, 9), clamp_bias=FINITE)
)
PERCENTAGE = st.floats(0.0, 100.0).map("{:.2f}".format)
SHA256 = st.none() | st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
SOURCES = (
    st.builds(HubFile, repo=st.text(), filename=st.text(), sha256=SHA256)
    | st.builds(UrlFile, url=st.text(), sha256=SHA256, size=st.integers())
    | st.builds(RobustBenchFile, model=st.text(), index=st.none() | st.integers())
)
ENTRIES = st.builds(
    Entry,
    name=st.from_regex(r"[A-Za-z][A-Za-z0-9_.+-]*", fullmatch=True),
    dataset=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]*", fullmatch=True),
    threat_model=st.sampled_from(["Linf", "L2"]),
    eps=st.sampled_from(["8/255", "0.5", "0", "1e-3"]),
    description=st.text(),
    num_classes=st.integers(2, 1000),
    image_shape=st.tuples(*[st.integers(1, 500)] * 3),
    std_model=NETS,
    rob_model=NETS,
    alpha=ADAPTIVE | st.builds(ConstantAlphaConfig, value=st.floats(0, 1)),
    std_map=LOGIT_MAPS,
    rob_map=LOGIT_MAPS,
    surrogate=st.none() | st.builds(SurrogateConfig, name=st.text(), alpha=st.floats(0, 1)),
    weights=st.builds(
        Weights,
        embedded=st.none() | st.just("tiny.safetensors"),
        sha256=SHA256,
        shards=st.dictionaries(st.just("model-1.safetensors"), SHA256.filter(bool)),
        components=st.dictionaries(st.sampled_from(PARTS), st.builds(Component, sources=st.lists(SOURCES).map(tuple))),
        hub_repo=st.none() | st.text(),
        revision=st.none() | st.text(),
    ),
    paper=st.builds(Paper, title=st.text(), authors=st.text(), venue=st.text(), link=st.text()),
    architecture=st.text(),
    additional_data=st.booleans(),
    number_forward_passes=st.integers(),
    published=st.none() | st.builds(Published, clean=PERCENTAGE, autoattack=PERCENTAGE, source=st.text()),
    limits=st.lists(st.text(), max_size=3).map(tuple),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)


@FEW
@given(ENTRIES)
def test_an_entry_survives_its_file(entry):
    assert parse(Entry, json.loads(entry_to_text(entry)), "x.json") == entry


@FEW
@given(ENTRIES, st.data())
def test_one_changed_value_anywhere_is_read_or_refused_and_never_crashes(entry, data):
    document = to_json(entry)
    inside = data.draw(st.sampled_from([d for d in (document, *document.values()) if isinstance(d, dict) and d]))
    inside[data.draw(st.sampled_from(sorted(inside)))] = data.draw(JSON)
    try:
        read, message = parse(Entry, document, "x.json"), None
    except ConfigError as error:
        read, message = None, str(error)
    assert isinstance(read, Entry) if message is None else message.startswith("x.json: ")


def test_an_entry_is_read_from_its_file(tmp_path, entry):
    path = tmp_path / "config.json"
    path.write_text(entry_to_text(entry), encoding="utf-8")
    assert read_entry(path) == entry


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "Doe 2024"}, r"name: must match pattern '\^\[A-Za-z\]"),
        ({"name": "../Doe"}, "name: must match pattern"),
        ({"eps": "eight"}, "eps must be a number or a fraction like 8/255, got 'eight'"),
        ({"eps": "-1/255"}, "eps must not be negative"),
        ({"eps": 0.5}, "eps: must be text in quotes, got 0.5"),
        ({"std_map": {"kind": "scale", "factor": 0}}, "std_map.factor: must be greater than 0, got 0"),
        ({"rob_map": {"kind": "scale", "factor": float("nan")}}, "rob_map.factor: must be a finite number"),
        ({"threat_model": "L1"}, "threat_model: must be 'Linf' or 'L2', got 'L1'"),
        ({"image_shape": [8, 8]}, "image_shape: item 2 is missing"),
        ({"alpha": {"kind": "random"}}, "alpha: 'kind' must be one of 'constant', 'adaptive', got 'random'"),
        ({"alpha": {"kind": "constant", "value": 1.2}}, "alpha.value: must be less than or equal to 1, got 1.2"),
        ({"alpha": {"kind": "constant"}}, "alpha: missing key 'value'"),
        ({"alpha": {"kind": "constant", "value": 0.5, "planes": []}}, "alpha: unknown key 'planes'"),
        ({"rob_map": {"kind": "soft_max"}}, "'kind' must be one of 'scale', 'hard_max', 'norm_clamp_power_scale'"),
        ({"surrogate": {"name": "x", "alpha": 2.0}}, "surrogate.alpha: must be less than or equal to 1"),
        ({"weights": {"shards": {"../a.safetensors": "0" * 64}}}, r"shards\.\.\./a\.safetensors: must match pattern"),
        ({"weights": {"components": {"g": {"sources": []}}}}, "weights.components.g: must match pattern"),
        ({"weights": {"components": {"alpha": {"sources": [{"kind": "ftp"}]}}}}, "'kind' must be one of 'hub', 'url'"),
        (
            {"weights": {"components": {"alpha": {"sources": [{"kind": "url", "url": "u", "sha256": "abc"}]}}}},
            r"weights\.components\.alpha\.sources\[0\]\.sha256: must match pattern",
        ),
        ({"weights": {"embedded": "../x.safetensors"}}, "weights.embedded: must match pattern"),
        ({"weights": {"sha256": "abc"}}, "weights.sha256: must match pattern"),
        ({"published": {"clean": "n/a", "autoattack": "5", "source": "s"}}, r"published\.clean: .*n/a"),
        ({"published": {"clean": "9", "autoattack": "nan", "source": "s"}}, r"published\.autoattack: .*got 'nan'"),
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"paper": {"title": "Tiny"}}, "paper: missing key 'authors'"),
        ({"std_model": {"architecture": "small_cnn", "arguments": {"num_classes": 3}}}, "num_classes"),
    ],
)
def test_what_an_entry_may_not_say_is_refused_with_its_place(tiny_entry, change, message):
    with pytest.raises(ConfigError, match=message):
        parse(Entry, {**to_json(tiny_entry), **change}, "x.json")


def test_a_bad_range_of_alpha_is_refused(adaptive_entry):
    document = to_json(adaptive_entry)
    document["alpha"].update(alpha_min=0.9, alpha_max=0.6)
    with pytest.raises(ConfigError, match="alpha: alpha_min must not exceed alpha_max"):
        parse(Entry, document, "x.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not a JSON file"),
        (b"\xff\xfe", "is not a JSON file"),
        (b"", "is not a JSON file"),
        (b"[]", "must be an object"),
        (b"1" * 5000, "is not a JSON file"),
        (b"[" * 100_000, "is not a JSON file"),
    ],
)
def test_a_file_that_is_no_entry_is_named(tmp_path, content, message):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"config.json.*{message}"):
        read_entry(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no file .*config\.json"):
        read_entry(tmp_path / "config.json")
    with pytest.raises(ConfigError, match="is not a JSON file"):
        read_entry(tmp_path)


@pytest.mark.parametrize(("text", "value"), [("8/255", 8 / 255), ("0.5", 0.5), ("0", 0.0), ("1e-3", 0.001)])
def test_eps_is_a_number_or_a_fraction(tiny_entry, text, value):
    assert parse_eps(text) == replace(tiny_entry, eps=text).eps_value == pytest.approx(value, rel=1e-15)


def test_it_says_its_key_its_threat_model_and_the_range_of_its_alpha(tiny_entry):
    assert replace(tiny_entry, name="A", dataset="cifar10", threat_model="L2").key == "A-cifar10-L2"
    assert replace(tiny_entry, threat_model="L2", eps="0.5").threat == ThreatModel("L2", 0.5)
    assert (tiny_entry.alpha.alpha_min, tiny_entry.alpha.alpha_max) == (0.75, 0.75)


def test_a_self_contained_entry_names_no_other_weights_and_changes_nothing_else(tiny_entry):
    full = replace(
        tiny_entry,
        std_model=replace(tiny_entry.std_model, pretrained="some_net"),
        weights=Weights(embedded="tiny.safetensors", sha256="0" * 64, hub_repo="org/name", revision="1" * 40),
    )
    alone = full.self_contained("2" * 64)
    assert alone == replace(full, std_model=tiny_entry.std_model, weights=Weights(sha256="2" * 64))
