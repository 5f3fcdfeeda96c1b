"""Data sets as tensors, and what is refused before anything is measured on it."""

import importlib.util
import json
import pickle
import re
import struct
import sys
import urllib.error
import zipfile
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import scipy.io
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import adaptive_smoothing_zoo
from adaptive_smoothing_zoo.data import DATA_SETS, Examples, check_examples, find_data_set, load_data
from adaptive_smoothing_zoo.data.image_files import class_order
from adaptive_smoothing_zoo.data.imagenet import PREPROCESSINGS

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
LABELS = np.arange(12) % 10


def as_floats(images):
    """What uint8 images (N, H, W, channels) must become."""
    return torch.tensor(images.transpose(0, 3, 1, 2).astype(np.float64) / 255).float()


class TestDigits:
    def test_the_splits_are_disjoint_and_cover_all_digits(self):
        original = pytest.importorskip("sklearn.datasets").load_digits()
        expected = sorted(
            (label, *image) for label, image in zip(original.target.tolist(), original.data.tolist(), strict=True)
        )
        found, sizes = [], {}
        for split in ("train", "validation", "test"):
            examples = load_data("digits", split)
            sizes[split] = len(examples)
            found += [
                (label, *image)
                for label, image in zip(
                    examples.labels.tolist(), (16 * examples.images.flatten(1)).tolist(), strict=True
                )
            ]
        assert sorted(found) == expected
        assert sizes["train"] > 2.9 * sizes["validation"]
        assert sizes["test"] == DATA_SETS["digits"].test_set_size

    @pytest.mark.parametrize("split", ["train", "validation", "test"])
    def test_every_split_has_every_class_and_pixels_from_0_to_1(self, split):
        examples = load_data("digits", split)
        check_examples(examples.images, examples.labels, 10)
        assert examples.images.shape[1:] == DATA_SETS["digits"].image_shape
        assert examples.labels.unique().tolist() == list(range(10))
        assert (examples.images.min(), examples.images.max()) == (0.0, 1.0)
        assert f"{split} split" in examples.source
        assert examples.test_set_size == (len(examples) if split == "test" else None)

    def test_a_folder_makes_no_sense_for_them(self, tmp_path):
        with pytest.raises(ValueError, match="data_dir has no meaning"):
            load_data("digits", data_dir=tmp_path)

    def test_without_scikit_learn_the_message_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
        with pytest.raises(ModuleNotFoundError, match="pip install"):
            load_data("digits")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mnits",), "unknown dataset 'mnits'; known: cifar10, cifar100, digits, fashion_mnist, imagenet, mnist, svhn"),
        (("cifar10", "validation"), "dataset 'cifar10' has the splits train, test, not 'validation'"),
        (("digits", "all"), "dataset 'digits' has the splits train, validation, test, not 'all'"),
    ],
)
def test_an_unknown_dataset_or_split_is_refused_with_those_that_exist(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_data(*arguments)


class TestNpz:
    @staticmethod
    def write(folder, compressed=False, **arrays):
        path = folder / "images.npz"
        (np.savez_compressed if compressed else np.savez)(path, **arrays)
        return path

    @pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint64])
    @pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
    def test_images_and_labels_come_in_the_file_s_order(self, tmp_path, dataset, dtype):
        examples = load_data(dataset, data_dir=self.write(tmp_path, images=IMAGES, labels=LABELS.astype(dtype)))
        torch.testing.assert_close(examples.images, as_floats(IMAGES))
        assert examples.images.is_contiguous()
        assert examples.labels.tolist() == LABELS.tolist()
        assert examples.labels.dtype == torch.int64
        assert "images.npz" in examples.source
        assert examples.test_set_size is None

    @pytest.mark.parametrize("n", [None, 5])
    def test_copies_and_classes_without_images_are_told(self, tmp_path, n):
        easy = np.concatenate([IMAGES[:4], IMAGES[:2], IMAGES[:2]])
        path = self.write(tmp_path, images=easy, labels=np.array([3, 5, 3, 5, 3, 5, 3, 5]))
        copies = "4 of these 8" if n is None else "1 of these 5"
        told = f"images.npz, in its order; {copies} are copies of others; only 2 of 10 classes occur"
        assert load_data("cifar10", data_dir=path, n=n).source.endswith(told)
        own = load_data("images", data_dir=path, n=n).source
        assert own.endswith(f"; {copies} are copies of others")

    def test_different_images_of_all_classes_need_no_word(self, tmp_path):
        path = self.write(tmp_path, images=IMAGES, labels=np.arange(12) % 10)
        assert load_data("cifar10", data_dir=path).source.endswith("images.npz, in its order")
        assert ";" not in load_data("digits").source

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"there is no data file .*images\.npz; data_dir"):
            load_data("cifar10", data_dir=tmp_path / "images.npz")

    def test_a_mistyped_path_is_named_and_not_made(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no data file or folder .*mistyped; data_dir .* takes an \.npz"):
            load_data("cifar10", data_dir=tmp_path / "mistyped")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("content", [{"a": torch.zeros(2)}, b"text"])
    def test_another_file_is_named_with_what_could_stand_there(self, tmp_path, content):
        path = tmp_path / "file.pt"
        torch.save(content, path) if isinstance(content, dict) else path.write_bytes(content)
        with pytest.raises(ValueError, match=r"file\.pt is not an \.npz file .*; data_dir \(--data-dir\) takes"):
            load_data("cifar10", data_dir=path)

    def test_the_content_counts_and_not_the_name(self, tmp_path):
        path = self.write(tmp_path, images=IMAGES, labels=LABELS).rename(tmp_path / "images.data")
        torch.testing.assert_close(load_data("cifar10", data_dir=path).images, as_floats(IMAGES))

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"images": IMAGES}, r"images\.npz is not an \.npz file with 'images' and 'labels'"),
            ({"labels": LABELS}, r"images\.npz is not an \.npz file with 'images' and 'labels'"),
            ({"images": IMAGES / 255, "labels": LABELS}, r"must be uint8 .*, got float64 \(12, 32, 32, 3\)"),
            ({"images": IMAGES[0], "labels": LABELS}, r"got uint8 \(32, 32, 3\)"),
            ({"images": IMAGES, "labels": LABELS * 1.0}, r"one integer per image, got float64"),
            ({"images": IMAGES, "labels": LABELS[:, None]}, r"one integer per image, got int64 \(12, 1\)"),
            ({"images": IMAGES, "labels": np.array([None] * 12)}, "is not an .npz file"),
            ({"images": IMAGES, "labels": LABELS[:5]}, r"12 images need labels of shape \(12,\), got \(5,\)"),
            ({"images": IMAGES, "labels": LABELS + 1}, "label 10 of image 9 is not in 0..9"),
            ({"images": IMAGES, "labels": LABELS - 1}, "label -1 of image 0 is not in 0..9"),
            ({"images": IMAGES, "labels": LABELS, "classes": ["a", "b"]}, "cifar10 has 10 classes, .* have 2"),
            ({"images": IMAGES, "labels": LABELS, "classes": [1, 2]}, "'classes' in .* must be one text per class"),
            ({"images": IMAGES.transpose(0, 3, 1, 2), "labels": LABELS}, r"channels come last; save images.transpose"),
            ({"images": IMAGES[:0], "labels": LABELS[:0]}, "there are no images"),
            (
                {"images": IMAGES[:, :28], "labels": LABELS},
                r"have shape \(3, 32, 32\), those of .* \(3, 28, 32\)",
            ),
            (
                {"images": IMAGES[..., :1], "labels": LABELS},
                r"have shape \(3, 32, 32\), those of .* \(1, 32, 32\)",
            ),
        ],
    )
    def test_content_that_does_not_fit_is_refused(self, tmp_path, arrays, message):
        path = self.write(tmp_path, **arrays)
        with pytest.raises(ValueError, match=message):
            load_data("cifar10", data_dir=path)

    @pytest.mark.parametrize("content", [b"", b"hello", b"<html></html>", b"PK\x05\x06"])
    def test_a_foreign_file_is_refused_by_name(self, tmp_path, content):
        path = tmp_path / "images.npz"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"images\.npz is not an \.npz file"):
            load_data("cifar10", data_dir=path)

    def test_a_single_array_under_the_wrong_suffix_is_refused_by_name(self, tmp_path):
        path = tmp_path / "images.npz"
        with path.open("wb") as file:
            np.save(file, IMAGES)
        with pytest.raises(ValueError, match=r"images\.npz is not an \.npz file"):
            load_data("cifar10", data_dir=path)

    @pytest.fixture(scope="class")
    @staticmethod
    def compressed(tmp_path_factory):
        folder = tmp_path_factory.mktemp("damaged")
        return TestNpz.write(folder, compressed=True, images=IMAGES // 64, labels=LABELS)

    def test_a_header_that_moves_the_images_is_found(self, compressed):
        """The length of NumPy's header, 4 bytes shorter: the images would begin with the header's last 4 bytes."""
        path = compressed.with_name("moved.npz")
        with zipfile.ZipFile(compressed) as archive, zipfile.ZipFile(path, "w") as moved:
            for name in archive.namelist():
                moved.writestr(name, archive.read(name))
        content = bytearray(path.read_bytes())
        assert content.count(b"NUMPY") == 2
        content[content.index(b"NUMPY") + 7] -= 4
        path.write_bytes(content)
        with np.load(path) as arrays:
            assert not np.array_equal(arrays["images"], IMAGES // 64)  # NumPy does not notice
        with pytest.raises(ValueError, match=r"moved.npz is not an .npz file.*images.npy in it is damaged"):
            load_data("cifar10", data_dir=path)

    @settings(max_examples=60)
    @given(st.data())
    def test_a_damaged_file_is_refused_by_name_or_read_as_it_was(self, compressed, data):
        content = compressed.read_bytes()
        cut = data.draw(st.integers(0, len(content)))
        place = data.draw(st.integers(0, len(content) - 1))
        damaged = bytearray(content)
        damaged[place] ^= data.draw(st.integers(1, 255))
        path = compressed.with_name("damaged.npz")
        for changed in (content[:cut], bytes(damaged)):
            path.write_bytes(changed)
            try:
                images, message = load_data("cifar10", data_dir=path).images, None
            except ValueError as error:
                images, message = None, str(error)
            if message is None:
                torch.testing.assert_close(images, as_floats(IMAGES // 64))
            else:
                assert "damaged.npz" in message


class TestImageFolder:
    @staticmethod
    def fill(folder, classes=10, suffix=".png"):
        """Two images per class, named so that the order on disk is not that of the array."""
        for i in range(classes):
            sub = folder / f"{i:02d}_class"
            sub.mkdir(parents=True)
            for name, image in (("b", IMAGES[i]), ("a", IMAGES[(i + 1) % 10])):
                Image.fromarray(image).save(sub / (name + suffix))
        return folder

    @pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
    def test_one_image_of_each_class_comes_in_turn_by_file_name(self, tmp_path, suffix):
        examples = load_data("cifar10", data_dir=self.fill(tmp_path / "pictures", suffix=suffix))
        order = [(i + 1) % 10 for i in range(10)] + list(range(10))
        torch.testing.assert_close(examples.images, as_floats(IMAGES[order]))
        assert examples.labels.tolist() == 2 * list(range(10))
        assert "folder pictures" in examples.source
        assert examples.test_set_size is None

    def test_gray_images_become_colored_ones(self, tmp_path):
        folder = self.fill(tmp_path)
        Image.fromarray(IMAGES[0, :, :, 0]).save(folder / "00_class" / "a.png")
        image = load_data("cifar10", data_dir=folder).images[0]
        torch.testing.assert_close(image, as_floats(IMAGES[:1, :, :, :1])[0].expand(3, 32, 32))

    def test_gray_images_of_16_bits_are_scaled_by_what_16_bits_hold(self, tmp_path):
        gray = np.random.default_rng(0).integers(0, 65536, (10, 32, 32), dtype=np.uint16)
        gray[0, 0, :2] = 0, 65535
        for i in range(10):
            (tmp_path / str(i)).mkdir()
            Image.fromarray(gray[i]).save(tmp_path / str(i) / f"a.{'png' if i % 2 else 'tif'}")
        images = load_data("cifar10", data_dir=tmp_path).images
        expected = torch.tensor(gray.astype(np.float64) / 65535).float()[:, None].expand(10, 3, 32, 32)
        torch.testing.assert_close(images, expected, rtol=0, atol=1e-7)  # 8 bits are 4e-3 apart
        assert (images.min(), images.max()) == (0.0, 1.0)

    def test_images_of_8_and_of_16_bits_together_are_refused(self, tmp_path):
        folder = self.fill(tmp_path)
        Image.fromarray(np.zeros((32, 32), np.uint16)).save(folder / "03_class" / "c.png")
        with pytest.raises(ValueError, match="different depths: uint16, uint8; save all of them alike"):
            load_data("cifar10", data_dir=folder)

    def test_images_whose_range_nobody_knows_are_refused_by_name(self, tmp_path):
        folder = self.fill(tmp_path)
        Image.fromarray(np.zeros((32, 32), np.float32)).save(folder / "03_class" / "c.tif")
        with pytest.raises(ValueError, match=r"c\.tif: pixels of the kind 'F' have no known range"):
            load_data("cifar10", data_dir=folder)

    @pytest.mark.parametrize("name", ["{}", "{}_class", "{:03d}"])
    def test_a_hundred_numbered_classes_have_their_numbers_as_labels(self, tmp_path, name):
        for i in range(100):
            (tmp_path / name.format(i)).mkdir()
            Image.fromarray(np.full((32, 32, 3), i, np.uint8)).save(tmp_path / name.format(i) / "a.png")
        examples = load_data("cifar100", data_dir=tmp_path)
        assert examples.labels.tolist() == list(range(100))
        torch.testing.assert_close(examples.images[:, 0, 0, 0] * 255, torch.arange(100.0))

    @given(st.sets(st.integers(0, 10**6), min_size=1), st.randoms())
    def test_numbers_come_in_their_order_and_names_in_the_alphabets(self, numbers, random):
        names = [str(i) for i in numbers]
        random.shuffle(names)
        assert class_order(names, "x") == [str(i) for i in sorted(numbers)]
        assert class_order([f"n{name}" for name in names], "x") == sorted(f"n{name}" for name in names)

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (["0", "1", "frog"], r"partly with numbers \('0'\) and partly not \('frog'\)"),
            (["1", "01", "2"], "'01' and '1' of x begin with the same number"),
        ],
    )
    def test_an_order_that_is_not_known_is_refused(self, names, message):
        with pytest.raises(ValueError, match=message):
            class_order(names, "x")

    def test_another_number_of_classes_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"cifar10 has 10 classes, .* has 9 sub-folders"):
            load_data("cifar10", data_dir=self.fill(tmp_path, classes=9))

    def test_images_of_different_shapes_are_refused(self, tmp_path):
        folder = self.fill(tmp_path)
        Image.fromarray(IMAGES[0, :20]).save(folder / "03_class" / "c.png")
        with pytest.raises(ValueError, match="have different shapes"):
            load_data("cifar10", data_dir=folder)

    def test_images_of_another_shape_than_the_dataset_s_are_refused(self, tmp_path):
        for i in range(10):
            (tmp_path / str(i)).mkdir()
            Image.fromarray(IMAGES[i, :20]).save(tmp_path / str(i) / "a.png")
        with pytest.raises(ValueError, match=r"those of .* have \(3, 20, 32\)"):
            load_data("cifar10", data_dir=tmp_path)

    def test_a_class_without_images_is_refused_by_name(self, tmp_path):
        folder = self.fill(tmp_path)
        for path in (folder / "03_class").iterdir():
            path.unlink()
        with pytest.raises(ValueError, match="03_class"):
            load_data("cifar10", data_dir=folder)

    def test_a_damaged_image_is_refused_by_name(self, tmp_path):
        folder = self.fill(tmp_path)
        whole = (folder / "03_class" / "a.png").read_bytes()
        for damaged in (b"no image", whole[: len(whole) // 2]):
            (folder / "03_class" / "a.png").write_bytes(damaged)
            with pytest.raises(
                ValueError, match="cannot read the image .*" + re.escape(str(Path("03_class") / "a.png"))
            ):
                load_data("cifar10", data_dir=folder)


class TestGray:
    """MNIST's images have one channel, whatever form the user's files have."""

    gray = IMAGES[:10, :28, :28, 0]

    @pytest.mark.parametrize("shape", [(12, 28, 28), (12, 28, 28, 1)])
    @pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist"])
    def test_arrays_with_and_without_a_channel(self, tmp_path, dataset, shape):
        images = IMAGES[:, :28, :28, :1].reshape(shape)
        examples = load_data(dataset, data_dir=TestNpz.write(tmp_path, images=images, labels=LABELS))
        torch.testing.assert_close(examples.images, as_floats(IMAGES[:, :28, :28, :1]))

    @pytest.mark.parametrize(
        ("images", "message"),
        [
            (IMAGES[:, :28, :28], r"mnist images have shape \(1, 28, 28\), those of .* \(3, 28, 28\)"),
            (
                IMAGES[:, :28, 0, 0],
                r"must be uint8 of shape \(N, H, W\) or \(N, H, W, channels\), got uint8 \(12, 28\)",
            ),
        ],
    )
    def test_arrays_of_another_shape_are_refused(self, tmp_path, images, message):
        with pytest.raises(ValueError, match=message):
            load_data("mnist", data_dir=TestNpz.write(tmp_path, images=images, labels=LABELS))

    @pytest.mark.parametrize("kind", ["gray", "three equal channels", "16 bits"])
    def test_a_folder_of_gray_images(self, tmp_path, kind):
        for i, gray in enumerate(self.gray):
            image = {"gray": gray, "three equal channels": np.stack([gray] * 3, 2), "16 bits": gray * np.uint16(257)}
            (tmp_path / str(i)).mkdir()
            Image.fromarray(image[kind]).save(tmp_path / str(i) / "a.png")
        examples = load_data("mnist", data_dir=tmp_path)
        torch.testing.assert_close(examples.images, as_floats(self.gray[..., None]))

    def test_a_colored_image_is_refused_by_name(self, tmp_path):
        for i in range(10):
            (tmp_path / str(i)).mkdir()
            Image.fromarray(IMAGES[i, :28, :28]).save(tmp_path / str(i) / "a.png")
        with pytest.raises(ValueError, match=r"image .*a\.png has colors, but those of the data set are gray"):
            load_data("mnist", data_dir=tmp_path)

    def test_the_real_mnist(self):
        path = Path(__file__).parents[3] / "shared" / "data" / "mnist" / "mnist_test.npz"
        if not path.is_file():
            pytest.skip(f"needs {path}")
        examples = load_data("mnist", data_dir=path)
        assert len(examples) == DATA_SETS["mnist"].test_set_size
        assert (examples.images.mean().item(), examples.images.std().item()) == pytest.approx(
            (0.1325, 0.3105), abs=1e-4
        )


class TestOwnImages:
    """Images of any size and number of classes, which only the data themselves describe."""

    @pytest.mark.parametrize("size", [(5, 9), (40, 30)])
    @pytest.mark.parametrize("dataset", ["images", "images-pets_2"])
    def test_a_folder(self, tmp_path, dataset, size):
        height, width = size
        pixels = np.random.default_rng(0).integers(0, 256, (3, height, width, 3), dtype=np.uint8)
        for name, image in zip(("dog", "ant", "cat"), pixels, strict=True):
            (tmp_path / "zoo" / name).mkdir(parents=True)
            Image.fromarray(image).save(tmp_path / "zoo" / name / "a.png")
        examples = load_data(dataset, data_dir=tmp_path / "zoo")
        torch.testing.assert_close(examples.images, as_floats(pixels[[1, 2, 0]]))
        assert examples.labels.tolist() == [0, 1, 2]
        assert (examples.num_classes, examples.classes) == (3, ("ant", "cat", "dog"))
        assert examples.source == (
            f"{dataset} images from the folder zoo, one of each class in turn, by file name; "
            "3 classes: 0 ant, 1 cat, 2 dog"
        )
        assert examples.test_set_size is None

    def test_numbers_of_classes_come_in_their_order_and_few_are_told(self, tmp_path):
        for i in range(30):
            (tmp_path / str(i)).mkdir()
            Image.fromarray(np.full((2, 2), i, np.uint8)).save(tmp_path / str(i) / "a.png")
        examples = load_data("images", data_dir=tmp_path)
        assert examples.labels.tolist() == list(range(30))
        assert examples.images.shape == (30, 3, 2, 2)  # three equal channels
        torch.testing.assert_close(255 * examples.images[:, 2, 1, 1], torch.arange(30.0))
        assert examples.source.endswith("30 classes: " + ", ".join(f"{i} {i}" for i in range(20)) + ", ...")

    @pytest.mark.parametrize(("channels", "shape"), [(1, (6, 9, 1)), (1, (6, 9)), (3, (6, 9, 3)), (4, (6, 9, 4))])
    def test_a_file(self, tmp_path, channels, shape):
        pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 9, channels), dtype=np.uint8)
        path = TestNpz.write(tmp_path, images=pixels.reshape(4, *shape), labels=np.array([6, 0, 1, 1]))
        examples = load_data("images", data_dir=path)
        torch.testing.assert_close(examples.images, as_floats(pixels))
        assert (examples.num_classes, examples.classes, examples.test_set_size) == (7, (), None)
        assert examples.source.endswith("images.npz, in its order; 7 classes")

    def test_names_of_classes_in_a_file(self, tmp_path):
        names = ["cat", "dog", "größe"]
        path = TestNpz.write(tmp_path, images=IMAGES[:2], labels=LABELS[:2], classes=names)
        examples = load_data("images", data_dir=path, n=1)
        assert (len(examples), examples.num_classes, examples.classes) == (1, 3, tuple(names))
        assert examples.source.endswith("; 3 classes: 0 cat, 1 dog, 2 größe")

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"images": IMAGES / 255, "labels": LABELS}, r"must be uint8 of shape .*, got float64"),
            ({"images": (IMAGES / 255).astype("f4"), "labels": LABELS}, r"must be uint8 of shape .*, got float32"),
            ({"images": IMAGES[:0], "labels": LABELS[:0]}, "there are no images"),
            ({"images": IMAGES, "labels": LABELS - 1}, "label -1 of image 0 is not in 0..8"),
            ({"images": IMAGES, "labels": 0 * LABELS}, "have 1 class; a classifier needs two at least"),
            ({"images": IMAGES, "labels": LABELS, "classes": ["a", "b"]}, "label 2 of image 2 is not in 0..1"),
            ({"images": IMAGES, "labels": LABELS[:5]}, r"12 images need labels of shape \(12,\), got \(5,\)"),
            ({"images": IMAGES[0], "labels": LABELS}, r"32 images need labels of shape \(32,\), got \(12,\)"),
        ],
    )
    def test_files_that_cannot_be_right_are_refused(self, tmp_path, arrays, message):
        with pytest.raises(ValueError, match=message):
            load_data("images", data_dir=TestNpz.write(tmp_path, **arrays))

    def test_images_of_different_sizes_are_refused(self, tmp_path):
        folder = TestImageFolder.fill(tmp_path)
        Image.fromarray(IMAGES[0, :20]).save(folder / "03_class" / "c.png")
        with pytest.raises(ValueError, match=r"have different shapes: \(20, 32, 3\), \(32, 32, 3\)"):
            load_data("images", data_dir=folder)

    def test_places_without_images_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"images-a are images of your own: data_dir \(--data-dir\) takes"):
            load_data("images-a")
        with pytest.raises(FileNotFoundError, match=r"no data file or folder .*mistyped; data_dir"):
            load_data("images", data_dir=tmp_path / "mistyped")
        for folder in (TestImageFolder.fill(tmp_path / "deep" / "train").parent, tmp_path):
            with pytest.raises(ValueError, match=r"the sub-folders of .* hold no images; data_dir"):
                load_data("images", data_dir=folder)

    @pytest.mark.parametrize("options", [{"split": "train"}, {"preprocessing": "Res224"}])
    def test_they_have_one_split_and_no_preprocessing(self, tmp_path, options):
        with pytest.raises(ValueError, match="they have the split 'test' and no preprocessing"):
            load_data("images", data_dir=TestImageFolder.fill(tmp_path), **options)

    @pytest.mark.parametrize("name", ["image", "images-", "imagesx", "Images", "cifr10", "images-a b", 3, None])
    def test_no_other_name_is_taken_for_them(self, tmp_path, name):
        with pytest.raises(
            ValueError, match=r"unknown dataset .*; images of your own are called 'images' or 'images-N"
        ):
            load_data(name, data_dir=TestImageFolder.fill(tmp_path))

    def test_what_must_know_a_data_set_beforehand_does_not_take_them(self):
        with pytest.raises(ValueError, match="'images-a' are images of the user's own, of which nothing is known bef"):
            find_data_set("images-a")


class TestTorchvision:
    """Folders in torchvision's own format; their MD5 sums cannot be right and are not asked for."""

    @pytest.fixture
    def torchvision_folder(self, tmp_path, monkeypatch):
        cifar = pytest.importorskip("torchvision.datasets.cifar")
        monkeypatch.setattr(cifar, "check_integrity", lambda path, md5=None: True)
        rows = {b"data": IMAGES.transpose(0, 3, 1, 2).reshape(12, -1)}

        def write(folder, name, content):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / name).write_bytes(pickle.dumps(content))

        def strings(content):  # torchvision reads Python 2 pickles as latin1, whose keys are strings
            return {key.decode(): value for key, value in content.items()}

        write("cifar-10-batches-py", "batches.meta", {"label_names": [str(i) for i in range(10)]})
        write("cifar-10-batches-py", "test_batch", {**strings(rows), "labels": LABELS.tolist()})
        for i in range(1, 6):
            train = {"data": np.full((1, 3072), 50 * i, np.uint8), "labels": [i]}
            write("cifar-10-batches-py", f"data_batch_{i}", train)
        write("cifar-100-python", "meta", {"fine_label_names": [str(i) for i in range(100)]})
        write("cifar-100-python", "test", {**strings(rows), "fine_labels": (LABELS + 90).tolist()})
        write("cifar-100-python", "train", {**strings(rows), "fine_labels": LABELS.tolist()})
        return tmp_path

    def test_the_test_set_comes_in_its_order_with_its_official_size(self, torchvision_folder):
        for dataset, labels in (("cifar10", LABELS), ("cifar100", LABELS + 90)):
            examples = load_data(dataset, data_dir=torchvision_folder)
            torch.testing.assert_close(examples.images, as_floats(IMAGES))
            assert examples.labels.tolist() == labels.tolist()
            assert examples.test_set_size == DATA_SETS[dataset].test_set_size == 10_000
            assert examples.source.startswith(f"{dataset} test set")

    def test_the_training_set_is_the_five_batches(self, torchvision_folder):
        examples = load_data("cifar10", "train", data_dir=str(torchvision_folder))
        assert examples.labels.tolist() == [1, 2, 3, 4, 5]
        torch.testing.assert_close(examples.images[:, 0, 0, 0], torch.tensor([50, 100, 150, 200, 250]) / 255)
        assert examples.test_set_size is None

    @pytest.mark.parametrize("present", [True, False])
    def test_a_copy_that_is_missing_or_damaged_is_downloaded(self, tmp_path, monkeypatch, present):
        cifar = pytest.importorskip("torchvision.datasets.cifar")
        if present:
            (tmp_path / "cifar-10-batches-py").mkdir()
            (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(b"damaged")
        download = Mock(side_effect=OSError("no network"))
        monkeypatch.setattr(cifar.CIFAR10, "download", download)
        with pytest.raises(FileNotFoundError, match=r"cifar10 is not in .* \(no network\); put cifar-10-python"):
            load_data("cifar10", data_dir=tmp_path)
        download.assert_called_once()

    @pytest.mark.parametrize(
        ("dataset", "archives", "folder"),
        [
            ("cifar10", r"cifar-10-python\.tar\.gz", "data"),
            ("cifar100", r"cifar-100-python\.tar\.gz", "data"),
            ("mnist", r"train-images-idx3-ubyte\.gz, .*, t10k-labels-idx1-ubyte\.gz", "data/MNIST/raw"),
            ("fashion_mnist", r"train-images-idx3-ubyte\.gz, .*, t10k-labels-idx1-ubyte\.gz", "data/FashionMNIST/raw"),
            ("svhn", r"test_32x32\.mat", "data"),
        ],
    )
    def test_offline_the_message_says_what_goes_where_and_no_folder_is_left(
        self, tmp_path, monkeypatch, dataset, archives, folder
    ):
        pytest.importorskip("torchvision")
        monkeypatch.setattr("urllib.request.urlopen", Mock(side_effect=urllib.error.URLError("no network")))
        monkeypatch.chdir(tmp_path)
        message = rf"{dataset} is not in data and cannot be downloaded .*no network.*; put {archives} into {folder}, or"
        with pytest.raises(FileNotFoundError, match=message):
            load_data(dataset)
        assert not list(tmp_path.iterdir())
        (tmp_path / "mine").mkdir()
        with pytest.raises(FileNotFoundError, match="is not in mine"):
            load_data(dataset, data_dir="mine")
        assert (tmp_path / "mine").is_dir()

    @pytest.fixture
    def fill_idx(self):
        """Writes MNIST's four files: big-endian sizes, then the bytes."""

        def write(folder, images, labels):
            folder.mkdir(parents=True)
            for part in ("train", "t10k"):
                sizes = struct.pack(">4i", 0x803, *images.shape)
                (folder / f"{part}-images-idx3-ubyte").write_bytes(sizes + images.tobytes())
                sizes = struct.pack(">2i", 0x801, len(labels))
                (folder / f"{part}-labels-idx1-ubyte").write_bytes(sizes + labels.astype(np.uint8).tobytes())

        return write

    @pytest.mark.parametrize(("dataset", "name"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
    def test_mnist_and_fashion_mnist_have_one_channel(self, tmp_path, fill_idx, dataset, name):
        gray = IMAGES[:, :28, :28, 0]
        fill_idx(tmp_path / name / "raw", gray, LABELS)
        for split, size in (("test", 10_000), ("train", None)):
            examples = load_data(dataset, split, data_dir=tmp_path)
            torch.testing.assert_close(examples.images, as_floats(gray[..., None]))
            assert examples.labels.tolist() == LABELS.tolist()
            assert examples.test_set_size == size
            assert examples.source.startswith(f"{dataset} {split} set through torchvision")

    @pytest.mark.parametrize("file", ["images-idx3", "labels-idx1"])
    @pytest.mark.parametrize("content", [b"", b"damaged", struct.pack(">4i", 0x803, 9, 28, 28), b"\0\0\x0a\1" * 9])
    def test_damaged_files_of_mnist_are_refused(self, tmp_path, fill_idx, file, content):
        fill_idx(tmp_path / "MNIST" / "raw", IMAGES[:, :28, :28, 0], LABELS)
        (tmp_path / "MNIST" / "raw" / f"t10k-{file}-ubyte").write_bytes(content)
        with pytest.raises(ValueError, match=r"mnist in .* is damaged: .*; delete its files"):
            load_data("mnist", data_dir=tmp_path)

    def test_svhn_has_ten_digits_in_color(self, tmp_path, monkeypatch):
        monkeypatch.setattr("torchvision.datasets.svhn.check_integrity", lambda path, md5=None: True)
        for split in ("train", "test"):
            digits = np.where(LABELS == 0, 10, LABELS)  # SVHN calls the zero a ten
            content = {"X": IMAGES.transpose(1, 2, 3, 0), "y": digits[:, None].astype(np.uint8)}
            scipy.io.savemat(tmp_path / f"{split}_32x32.mat", content)
        for split, size in (("test", 26_032), ("train", None)):
            examples = load_data("svhn", split, data_dir=tmp_path)
            torch.testing.assert_close(examples.images, as_floats(IMAGES))
            assert examples.labels.tolist() == LABELS.tolist()
            assert examples.test_set_size == size

    def test_a_folder_that_cannot_be_read_is_named(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Path, "iterdir", Mock(side_effect=PermissionError(13, "Permission denied")))
        with pytest.raises(ValueError, match=rf"cannot read the data in {tmp_path}: .*Permission denied"):
            load_data("cifar10", data_dir=tmp_path)


class TestImageNet:
    """Its first five images of RobustBench's list, made here."""

    SIZES = ((300, 280), (224, 500), (256, 256), (90, 400), (301, 299))

    @pytest.fixture(scope="class")
    @staticmethod
    def folder(tmp_path_factory):
        """As the official one, with all classes; the images are of many sizes and kinds."""
        loaders = TestImageNet.robustbench("loaders")
        helpers, folder = Path(loaders.__file__).parent / "helper_files", tmp_path_factory.mktemp("imagenet")
        for name in json.loads((helpers / "imagenet_class_to_id_map.json").read_text()):
            (folder / "val" / name).mkdir(parents=True)
        random = np.random.default_rng(0)
        names = (helpers / "imagenet_test_image_ids.txt").read_text().split()
        for name, size, mode in zip(names, TestImageNet.SIZES, ("RGB", "L", "CMYK", "RGB", "RGB"), strict=False):
            coarse = Image.fromarray(random.integers(0, 256, (20, 20, 3), dtype=np.uint8))
            coarse.resize(size).convert(mode).save(folder / "val" / name, format="JPEG")
        return folder

    @staticmethod
    def robustbench(module):
        if importlib.util.find_spec("robustbench") is None:
            pytest.skip("RobustBench is not installed")
        adaptive_smoothing_zoo.register()  # supplies the module autoattack, which RobustBench imports
        return importlib.import_module(f"robustbench.{module}")

    @pytest.mark.parametrize("name", [None, "Res256Crop224", "BicubicRes256Crop224", "Res224", "Crop288"])
    def test_it_reads_what_robustbench_reads(self, folder, name):
        prepare = self.robustbench("data").PREPROCESSINGS[name or "Res256Crop224"]
        theirs = self.robustbench("loaders").CustomImageFolder(str(folder / "val"), prepare)
        images, labels, _ = zip(*(theirs[i] for i in range(5)), strict=True)
        ours = load_data("imagenet", data_dir=folder, n=5, preprocessing=name)
        assert torch.equal(ours.images, torch.stack(images))
        assert ours.labels.tolist() == list(labels)
        assert (ours.test_set_size, ours.num_classes, len(theirs)) == (5000, 1000, 5000)
        assert f"RobustBench's list, in its order ({name or 'Res256Crop224'})" in ours.source

    def test_every_preprocessing_of_robustbench_s_models_is_known(self):
        models = self.robustbench("model_zoo.imagenet").linf.values()
        named = {model["preprocessing"] for model in models if "preprocessing" in model}
        assert named <= PREPROCESSINGS.keys()

    def test_labels_do_not_depend_on_the_folders_of_other_classes(self, folder, tmp_path):
        for path in (folder / "val").rglob("*.JPEG"):
            (tmp_path / "val" / path.parent.name).mkdir(parents=True)
            (tmp_path / "val" / path.parent.name / path.name).write_bytes(path.read_bytes())
        few, all_of_them = (load_data("imagenet", data_dir=each, n=5) for each in (tmp_path, folder))
        assert torch.equal(few.labels, all_of_them.labels)
        assert torch.equal(few.images, all_of_them.images)

    def test_the_other_validation_images_come_by_file_name(self, folder, tmp_path):
        names = (
            "n01443537/ILSVRC2012_val_00000003",
            "n01440764/ILSVRC2012_val_00000007",
            "n15075141/ILSVRC2012_val_00000001",
        )
        listed = sorted(path.relative_to(folder) for path in (folder / "val").rglob("*.JPEG"))
        for number, name in enumerate([*(f"val/{name}.JPEG" for name in names), listed[0]]):
            (tmp_path / name).parent.mkdir(parents=True)
            Image.fromarray(np.full((256, 256, 3), 50 * number, np.uint8)).save(tmp_path / name)
        examples = load_data("imagenet", "validation", data_dir=tmp_path)
        assert examples.labels.tolist() == [999, 1, 0]
        torch.testing.assert_close(examples.images[:, 0, 0, 0], torch.tensor([100, 0, 50]) / 255)
        assert examples.source.startswith("imagenet validation images outside RobustBench's list, by file name (Res256")
        assert examples.test_set_size is None
        with pytest.raises(FileNotFoundError, match=r"val holds no images outside RobustBench's list; data_dir"):
            load_data("imagenet", "validation", data_dir=folder)

    def test_more_images_than_are_there_are_refused_by_the_first_that_is_missing(self, folder):
        with pytest.raises(ValueError, match=r"cannot read the image .*ILSVRC2012_val_\d{8}\.JPEG: .*No such file"):
            load_data("imagenet", data_dir=folder, n=6)
        with pytest.raises(ValueError, match="n must be between 1 and the 5000 examples of imagenet validation"):
            load_data("imagenet", data_dir=folder, n=5001)

    def test_a_folder_without_val_is_refused(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"there is no folder .*val; data_dir .* val/<class>/<image>.JPEG"):
            load_data("imagenet", data_dir=tmp_path)

    def test_without_robustbench_the_message_says_what_to_install(self, tmp_path, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        (tmp_path / "val").mkdir()
        with pytest.raises(ModuleNotFoundError, match=r"list .* RobustBench: pip install .*\[robustbench\]"):
            load_data("imagenet", data_dir=tmp_path)

    def test_prepared_images_in_a_file(self, tmp_path):
        images = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
        path = TestNpz.write(tmp_path, images=images, labels=np.array([0, 999]))
        examples = load_data("imagenet", data_dir=path)
        torch.testing.assert_close(examples.images, as_floats(images))
        assert examples.test_set_size is None
        with pytest.raises(ValueError, match=r"have shape \(3, 288, 288\), those of .* \(3, 224, 224\)"):
            load_data("imagenet", data_dir=path, preprocessing="Crop288")

    def test_unknown_preprocessings_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match="no preprocessing 'Res256'; known: Res256Crop224, BicubicRes256Crop224"):
            load_data("imagenet", data_dir=tmp_path, preprocessing="Res256")
        with pytest.raises(ValueError, match="cifar10 images are as they are; they take no preprocessing 'Res224'"):
            load_data("cifar10", data_dir=tmp_path, preprocessing="Res224")


def test_only_the_first_images_of_a_folder_are_read(tmp_path):
    folder = TestImageFolder.fill(tmp_path)
    whole = load_data("cifar10", data_dir=folder)
    (folder / "03_class" / "b.png").write_bytes(b"damaged")
    few = load_data("cifar10", data_dir=folder, n=13)
    assert torch.equal(few.images, whole.images[:13])
    assert few.labels.tolist() == [*range(10), 0, 1, 2]
    with pytest.raises(ValueError, match="cannot read the image"):
        load_data("cifar10", data_dir=folder, n=14)
    with pytest.raises(ValueError, match="n must be between 1 and the 20 examples"):
        load_data("cifar10", data_dir=folder, n=21)


class TestExamples:
    examples = Examples(
        images=torch.arange(5.0).view(5, 1, 1, 1), labels=torch.arange(5), source="here", test_set_size=9
    )

    def test_the_first_n_keep_order_and_origin(self):
        first = self.examples.first(3)
        assert len(first) == 3
        assert (first.images.flatten().tolist(), first.labels.tolist()) == ([0, 1, 2], [0, 1, 2])
        assert (first.source, first.test_set_size) == ("here", 9)

    def test_all_are_the_first_none_and_the_first_all(self):
        assert self.examples.first(None) is self.examples
        assert len(self.examples.first(5)) == 5

    @pytest.mark.parametrize("n", [0, -1, 6])
    def test_fewer_than_one_or_more_than_there_are_is_refused(self, n):
        with pytest.raises(ValueError, match=f"between 1 and the 5 examples of here, got {n}"):
            self.examples.first(n)


class TestCheckExamples:
    images, labels = torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 2, 0])

    @staticmethod
    def pixel(value):
        images = torch.full((4, 3, 2, 2), 0.5)
        images[2, 1, 0, 1] = value
        return images

    def test_good_examples_pass(self):
        check_examples(self.images, self.labels, 3)
        check_examples(self.images, self.labels + 100)
        check_examples(self.pixel(0.0), self.labels)
        check_examples(self.pixel(1.0), self.labels)

    @pytest.mark.parametrize(
        ("images", "message"),
        [
            (torch.rand(3, 2, 2), r"shape \(N, channels, H, W\), got \(3, 2, 2\)"),
            (torch.rand(0, 3, 2, 2), "no images"),
            (
                torch.zeros(4, 3, 2, 2, dtype=torch.uint8),
                "float32 .*got torch.uint8; divide 8-bit images by 255",
            ),
            (torch.rand(4, 3, 2, 2).double(), r"got torch.float64$"),
            (torch.rand(4, 3, 2, 2).half(), r"got torch.float16$"),
            (pixel(float("nan")), "image 2 has a pixel that is NaN or infinite"),
            (pixel(float("inf")), "image 2 has a pixel that is NaN or infinite"),
            (pixel(-1e-6), r"image 2 has values in \[-1e-06, 0.5\]"),
            (pixel(1.5), r"in \[0.5, 1.5\]; pixels must lie in \[0, 1\]; pass images in \[0, 1\] and let"),
            (pixel(1.0000001), r"image 2 has values in \[0.5, 1.0000001\]; .*; images.clamp\(0, 1\) removes"),
            (pixel(255.0), r"image 2 has values in \[0.5, 255.0\]; .*; divide images of 0 to 255 by 255$"),
            (pixel(255.0).double(), r"got torch.float64; divide images of 0 to 255 by 255$"),
            (torch.full((4, 3, 2, 2), 255), r"got torch.int64; divide 8-bit images by 255$"),
            (pixel(-2.1).half(), r"got torch.float16; pass images in \[0, 1\] and let the model normalize them"),
        ],
    )
    def test_bad_images_are_refused_with_the_first_thing_wrong(self, images, message):
        with pytest.raises(ValueError, match=message):
            check_examples(images, self.labels)

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (torch.tensor([0, 1, 2]), r"4 images need labels of shape \(4,\), got \(3,\)"),
            (torch.zeros(4, 3, dtype=torch.int64), r"labels of shape \(4,\), got \(4, 3\)"),
            (torch.tensor([0, 1, 2, 0], dtype=torch.int32), "int64 class indices, got torch.int32"),
            (torch.tensor([0.0, 1.0, 2.0, 0.0]), "int64 class indices, got torch.float32"),
            (torch.tensor([0, 1, 3, 0]), r"label 3 of image 2 is not in 0\.\.2"),
            (torch.tensor([0, -1, 2, 0]), r"label -1 of image 1 is not in 0\.\.2"),
        ],
    )
    def test_bad_labels_are_refused_with_the_first_thing_wrong(self, labels, message):
        with pytest.raises(ValueError, match=message):
            check_examples(self.images, labels, 3)


def test_the_door_adds_a_data_set(monkeypatch):
    text = (Path(__file__).parents[2] / "docs" / "doors" / "data_set.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert example.count("\n") < 40
    with pytest.raises(ValueError, match="unknown dataset 'corners'; known: cifar10, cifar100, digits"):
        load_data("corners")
    monkeypatch.setattr("adaptive_smoothing_zoo.data.data_set.DATA_SETS", dict(DATA_SETS))
    exec(compile(example, "data_set.md", "exec"), {})
    examples = load_data("corners")
    assert (len(examples), examples.test_set_size) == (40, 40)
    corners = examples.images[:, 0].unfold(1, 4, 4).unfold(2, 4, 4).mean((3, 4)).flatten(1)
    assert torch.equal(corners.argmax(1), examples.labels)
    assert not torch.equal(load_data("corners", "train").images, examples.images)
    with pytest.raises(ValueError, match="data_dir has no meaning"):
        load_data("corners", data_dir="x")


def test_the_page_of_the_data_sets_names_all_with_their_shapes():
    text = (Path(__file__).parents[2] / "docs" / "data-sets.md").read_text()
    rows = {}
    for line in re.findall(r"^\| (`.*)", text, re.MULTILINE):
        names, shape = line.split(" | ")[:2]
        rows |= dict.fromkeys(re.findall("`([^`]+)`", names), shape)
    assert rows.pop("images") == rows.pop("images-NAME") == "of any size"
    assert rows == {name: " x ".join(map(str, data_set.image_shape)) for name, data_set in DATA_SETS.items()}
