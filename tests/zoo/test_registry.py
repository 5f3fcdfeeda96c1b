"""Finding an entry, and what is said when there is none."""

from dataclasses import replace

import pytest

from adaptive_smoothing_zoo.errors import ConfigError, UnknownModelError
from adaptive_smoothing_zoo.zoo.entry import entry_to_text
from adaptive_smoothing_zoo.zoo.registry import find_entry, list_models


@pytest.fixture
def entries(tiny_entry, zoo_of):
    """Four entries: two names for cifar10 Linf, one of which is also there for L2, and one for digits."""
    made = [
        replace(tiny_entry, name=name, dataset=dataset, threat_model=threat_model)
        for name, dataset, threat_model in (
            ("Bai2023Improving_edm", "cifar10", "Linf"),
            ("Bai2023Improving_edm", "cifar10", "L2"),
            ("Zhang2022Another", "cifar10", "Linf"),
            ("Doe2024Tiny", "digits", "Linf"),
        )
    ]
    zoo_of(*made)
    return made


def test_every_entry_is_found_by_its_name_dataset_and_threat_model(entries):
    for entry in entries:
        assert find_entry(entry.name, entry.dataset, entry.threat_model) == entry


def test_all_entries_are_listed_or_those_asked_for(entries):
    def keys(*arguments):
        return {entry.key for entry in list_models(*arguments)}

    assert keys() == {entry.key for entry in entries}
    assert keys("cifar10") == {entry.key for entry in entries[:3]}
    assert keys("cifar10", "Linf") == {entries[0].key, entries[2].key}
    assert keys(None, "L2") == {entries[1].key}


def test_the_list_is_the_caller_s_own(entries):
    list_models().clear()
    assert len(list_models()) == len(entries)


@pytest.mark.usefixtures("entries")
@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            ("Bai2023Improvng_emd", "cifar10", "Linf"),
            "no model 'Bai2023Improvng_emd' for cifar10 Linf; did you mean Bai2023Improving_edm?; models there: "
            "Bai2023Improving_edm, Zhang2022Another",
        ),
        (
            ("Bai2023Improving_edm", "digits", "Linf"),
            "no model 'Bai2023Improving_edm' for digits Linf; it exists for cifar10/L2, cifar10/Linf; models there: "
            "Doe2024Tiny",
        ),
        (("xyz", "digits", "Linf"), "no model 'xyz' for digits Linf; models there: Doe2024Tiny"),
        (
            ("Doe2024Tiny", "digits", "L2"),
            "no model 'Doe2024Tiny' for digits L2; it exists for digits/Linf; models there: none",
        ),
        (("Doe2024Tiny", "imagenet", "Linf"), "no models for dataset 'imagenet'; the zoo has cifar10, digits"),
        (("Doe2024Tiny", "digits", "L1"), "no models for threat model 'L1'; the zoo has L2, Linf"),
    ],
)
def test_what_is_unknown_is_refused_with_what_exists(wanted, message):
    with pytest.raises(UnknownModelError) as caught:
        find_entry(*wanted)
    assert str(caught.value) == message  # a KeyError would show the repr


@pytest.mark.parametrize("name", [7, None, ["Doe2024Tiny"]])
def test_a_name_that_is_no_string_is_refused(name):
    with pytest.raises(UnknownModelError, match="the name of a model must be a string, got "):
        find_entry(name, "cifar10", "Linf")


def test_an_entry_in_the_wrong_place_is_refused(tiny_entry, zoo_of):
    folder = zoo_of(tiny_entry)
    misplaced = folder / "cifar10" / "Linf" / "Doe2024Tiny.json"
    misplaced.parent.mkdir(parents=True)
    misplaced.write_text(entry_to_text(tiny_entry), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"Doe2024Tiny\.json holds the entry of Doe2024Tiny-digits-Linf"):
        list_models()


def test_a_damaged_entry_names_its_file(tiny_entry, zoo_of):
    (zoo_of(tiny_entry) / "digits" / "Linf" / "Doe2024Tiny.json").write_text("{")
    with pytest.raises(ConfigError, match=r"Doe2024Tiny\.json is not a JSON file"):
        find_entry("Doe2024Tiny", "digits", "Linf")
