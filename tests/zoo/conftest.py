"""Entries of triplets that are small enough to build in every test."""

from dataclasses import replace

import pytest

from adaptive_smoothing_zoo.zoo import registry
from adaptive_smoothing_zoo.zoo.entry import (
    AdaptiveAlphaConfig,
    BaseNetConfig,
    ConstantAlphaConfig,
    Entry,
    Paper,
    ScaleConfig,
    entry_to_text,
)

TINY = Entry(
    name="Doe2024Tiny",
    dataset="digits",
    threat_model="Linf",
    eps="0.1",
    description="Two tiny nets.",
    num_classes=10,
    image_shape=(1, 8, 8),
    std_model=BaseNetConfig(architecture="small_cnn", arguments={"widths": [3, 5]}),
    rob_model=BaseNetConfig(architecture="small_cnn", arguments={"widths": [4, 6], "mean": [0.3], "std": [0.4]}),
    alpha=ConstantAlphaConfig(value=0.75),
    std_map=ScaleConfig(factor=2.0),
    rob_map=ScaleConfig(factor=0.5),
    paper=Paper(title="Tiny Nets", authors="Jane Doe", venue="none", link="https://example.org"),
    architecture="two small CNNs",
    additional_data=False,
)
ADAPTIVE = AdaptiveAlphaConfig(alpha_min=0.6, alpha_max=0.9, logit_scale=2.0, logit_bias=0.4, planes=(4, 6, 8))


@pytest.fixture(scope="session")
def tiny_entry():
    """A valid entry with a constant alpha."""
    return TINY


@pytest.fixture(scope="session")
def adaptive_entry():
    """A valid entry with a mixing network."""
    return replace(TINY, alpha=ADAPTIVE)


@pytest.fixture(params=["constant", "adaptive"])
def entry(request, tiny_entry, adaptive_entry):
    """Either of the two."""
    return {"constant": tiny_entry, "adaptive": adaptive_entry}[request.param]


@pytest.fixture
def zoo_of(tmp_path, monkeypatch):
    """A function that makes the registry hold exactly the given entries; it returns their folder."""
    folder = tmp_path / "entries"
    monkeypatch.setattr(registry, "ENTRIES", folder)

    def fill(*entries):
        for entry in entries:
            path = folder / entry.dataset / entry.threat_model / f"{entry.name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(entry_to_text(entry), encoding="utf-8")
        registry._all_entries.cache_clear()
        return folder

    yield fill
    registry._all_entries.cache_clear()
