"""Data sets and the loader against torch's, and the brain and nuclei data against their own tables."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import threading
import warnings
from collections import namedtuple
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.data as torch_data
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyconv import metrics
from tinyconv.data import (
    DataLoader,
    Dataset,
    Subset,
    TensorDataset,
    brain,
    default_collate,
    digits,
    hippocampus,
    nuclei,
    pneumonia,
    random_split,
)

DATA = os.environ.get("TINYCONV_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="TINYCONV_DATA is not set")
needs_brain = pytest.mark.skipif(
    find_spec("nilearn") is None or find_spec("nibabel") is None, reason="nilearn and nibabel are not installed"
)


class Noisy(Dataset):
    """Item i = (i, two random numbers)."""

    def __len__(self) -> int:
        return 23

    def __getitem__(self, index: int) -> tuple[int, np.ndarray]:
        return index, np.zeros(2)

    def sample(self, index: int, generator: np.random.Generator) -> tuple[int, np.ndarray]:
        return index, generator.random(2)


def assert_same(found: Any, expected: Any) -> None:
    """found, of NumPy arrays, is what torch made: values, dtypes, structure."""
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.numpy().dtype
        np.testing.assert_array_equal(found, expected.numpy())
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, (list, tuple)) and not isinstance(expected[0], str):
        assert len(found) == len(expected)
        for f, e in zip(found, expected):
            assert_same(f, e)
    else:
        assert found == expected


def bits(batches: Any) -> list[bytes]:
    return [index.tobytes() + noise.tobytes() for index, noise in batches]


# --- data sets ------------------------------------------------------------------------------------------------------


def test_tensor_dataset_and_subset() -> None:
    x, y = np.arange(12.0).reshape(4, 3), np.arange(4)
    ours, theirs = TensorDataset(x, y), torch_data.TensorDataset(torch.tensor(x), torch.tensor(y))
    assert len(ours) == 4
    picked, expected = Subset(ours, [3, 1]), torch_data.Subset(theirs, [3, 1])
    assert len(picked) == 2
    for i in range(2):
        assert_same(default_collate([picked[i]]), torch_data.default_collate([expected[i]]))
    assert Subset(Noisy(), [5])[0][0] == 5 and Subset(Noisy(), [5]).sample(0, np.random.default_rng(0))[1].all()


@given(st.integers(1, 200), st.lists(st.integers(1, 20), min_size=1, max_size=5), st.booleans(), st.integers(0, 99))
def test_random_split_has_the_lengths_of_torch(count: int, weights: list[int], whole: bool, seed: int) -> None:
    lengths: list[float] = [weight / sum(weights) for weight in weights]
    if whole:
        lengths = [count // len(weights)] * len(weights)
        lengths[-1] += count - sum(lengths)
    ours = random_split(range(count), lengths, seed)
    if sum(lengths) <= 1 or whole:  # torch refuses fractions whose sum is rounded up
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Length of split")  # torch remarks that a part is empty
            theirs = torch_data.random_split(range(count), lengths)
        assert [len(part) for part in ours] == [len(part) for part in theirs]
    assert sorted(i for part in ours for i in part.indices) == list(range(count))
    again = random_split(range(count), lengths, np.random.default_rng(seed))
    assert [part.indices for part in again] == [part.indices for part in ours]


def test_wrong_data_sets() -> None:
    for arrays in ((), (np.zeros(3), np.zeros(4)), (np.float64(1),)):
        with pytest.raises(ValueError, match="TensorDataset: tensors"):
            TensorDataset(*arrays)
    for lengths in ((), (5, -1), (3, 4), (0.5, 0.6), (2.5, 7.5), (1.2, 8.8)):
        with pytest.raises(ValueError, match="random_split: lengths"):
            random_split(range(10), lengths)
    for indices in ((0, 10), (-1,)):
        with pytest.raises(IndexError, match=r"Subset: indices must lie in \[0, 10\)"):
            Subset(range(10), indices)
    for call in (lambda d: len(d), lambda d: d[0]):
        with pytest.raises(NotImplementedError, match="a Dataset must define"):
            call(Dataset())


# --- collate --------------------------------------------------------------------------------------------------------

Pair = namedtuple("Pair", "image label")


@pytest.mark.parametrize(
    "batch",
    [
        [np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((2, 3), np.float32)],
        [1, 2, 3],
        [1.5, 2.5],
        [True, False],
        [np.float32(1), np.float32(2)],
        [(np.zeros(2), 1), (np.ones(2), 2)],
        [[np.zeros(2), {"name": "a", "size": 3}], [np.ones(2), {"name": "b", "size": 4}]],
        [Pair(np.zeros(2), 0), Pair(np.ones(2), 1)],
    ],
)
def test_collate_agrees_with_torch(batch: list[Any]) -> None:
    found = default_collate(batch)
    assert_same(found, torch_data.default_collate(batch))
    if isinstance(batch[0], Pair):
        assert isinstance(found, Pair)


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        ([], ValueError, "it is empty"),
        ([np.zeros((2, 3)), np.zeros((2, 4))], ValueError, r"\(2, 3\) and \(2, 4\).*Crop or pad"),
        ([(1, 2), (1, 2, 3)], ValueError, "tuple of 2 members"),
        ([{"a": 1}, {"b": 1}], ValueError, r"the keys \['a'\] of the first one"),
        ([{"a": 1}, 3], ValueError, "must be a dict"),
        ([object(), object()], TypeError, "found object.*collate_fn"),
        ([None, None], TypeError, "found NoneType"),
        ([np.zeros(()), None], TypeError, "found NoneType"),
    ],
)
def test_collate_refuses(batch: list[Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        default_collate(batch)


# --- the loader -----------------------------------------------------------------------------------------------------


@given(st.integers(0, 20), st.integers(1, 7), st.booleans(), st.sampled_from([0, 2]))
@settings(max_examples=30)
def test_in_order_as_torch(count: int, batch_size: int, drop_last: bool, num_workers: int) -> None:
    x, y = np.random.default_rng(count).random((count, 2)), np.arange(count)
    ours = DataLoader(TensorDataset(x, y), batch_size, drop_last=drop_last, num_workers=num_workers)
    dataset = torch_data.TensorDataset(torch.tensor(x), torch.tensor(y))
    theirs = torch_data.DataLoader(dataset, batch_size, drop_last=drop_last)
    assert len(ours) == len(theirs)
    batches, expected = list(ours), list(theirs)
    assert len(batches) == len(expected)
    for found, reference in zip(batches, expected):
        assert_same(found, reference)


@pytest.mark.parametrize("shuffle", [False, True])
def test_same_bits_for_any_number_of_workers(shuffle: bool) -> None:
    def epochs(num_workers: int, prefetch_factor: int = 2) -> list[list[bytes]]:
        loader = DataLoader(Noisy(), 4, shuffle, num_workers=num_workers, prefetch_factor=prefetch_factor, seed=7)
        return [bits(loader) for _ in range(3)]

    expected = epochs(0)
    assert expected[0] != expected[1] != expected[2]
    for num_workers, prefetch_factor in ((1, 1), (2, 2), (5, 3), (40, 1)):
        assert epochs(num_workers, prefetch_factor) == expected


def test_shuffle_takes_every_item_once_and_follows_the_seed() -> None:
    def order(seed: int) -> list[int]:
        return [int(i) for index, _ in DataLoader(Noisy(), 4, shuffle=True, seed=seed) for i in index]

    assert sorted(order(1)) == list(range(23)) and order(1) == order(1) != order(2)


def test_random_part_belongs_to_the_item_not_to_its_place() -> None:
    shuffled = {int(i): tuple(r) for index, noise in DataLoader(Noisy(), 4, True) for i, r in zip(index, noise)}
    in_order = {int(i): tuple(r) for index, noise in DataLoader(Noisy(), 3) for i, r in zip(index, noise)}
    assert shuffled == in_order and len(set(in_order.values())) == 23


def test_order_of_batches_when_the_first_is_the_slowest() -> None:
    second_is_done = threading.Event()

    class SlowStart(Noisy):
        def __getitem__(self, index: int) -> tuple[int, np.ndarray]:
            if index == 1:
                second_is_done.set()
            elif index == 0:
                second_is_done.wait()
            return index, np.zeros(2)

        def sample(self, index: int, generator: np.random.Generator) -> tuple[int, np.ndarray]:
            return self[index]

    assert [int(index[0]) for index, _ in DataLoader(SlowStart(), num_workers=2)] == list(range(23))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("stop", range(7))
def test_resumed_loader_goes_on_where_the_first_stopped(num_workers: int, stop: int) -> None:
    whole = DataLoader(Noisy(), 4, shuffle=True, seed=3)
    expected = [bits(whole) for _ in range(3)]
    loader = DataLoader(Noisy(), 4, shuffle=True, seed=3, num_workers=num_workers)
    assert bits(loader) == expected[0]
    iterator = iter(loader)
    assert bits(next(iterator) for _ in range(stop)) == expected[1][:stop]
    state = loader.state_dict()
    assert state == {"seed": 3, "epoch": 1, "batch": stop}
    resumed = DataLoader(Noisy(), 4, shuffle=True, num_workers=num_workers)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert [bits(resumed), bits(resumed)] == [expected[1][stop:], expected[2]]
    assert resumed.state_dict() == {"seed": 3, "epoch": 3, "batch": 0}


def test_epoch_left_early_is_over_and_any_epoch_can_be_set() -> None:
    loader = DataLoader(Noisy(), 4, shuffle=True)
    expected = [bits(loader) for _ in range(3)]
    loader.set_epoch(0)
    next(iter(loader))
    assert bits(loader) == expected[1]
    loader.set_epoch(2)
    assert bits(loader) == expected[2]


def test_no_thread_stays_behind_and_no_more_is_loaded_than_asked() -> None:
    loaded = []

    class Counted(Noisy):
        def sample(self, index: int, generator: np.random.Generator) -> tuple[int, np.ndarray]:
            loaded.append(index)
            return self[index]

    before = set(threading.enumerate())
    for _ in DataLoader(Counted(), num_workers=3, prefetch_factor=2):
        break
    assert set(threading.enumerate()) == before
    assert len(loaded) <= 1 + 3 * 2
    with pytest.raises(ZeroDivisionError):
        for _ in DataLoader(Counted(), num_workers=3):
            raise ZeroDivisionError
    list(DataLoader(Counted(), num_workers=3))
    assert set(threading.enumerate()) == before


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_an_error_reaches_the_caller_with_the_index(num_workers: int) -> None:
    class Broken(Noisy):
        def sample(self, index: int, generator: np.random.Generator) -> tuple[int, np.ndarray]:
            if index == 9:
                raise KeyError("no such slice")
            return self[index]

    before = set(threading.enumerate())
    delivered = []
    with pytest.raises(RuntimeError, match="item 9 of the Broken .* epoch 0: KeyError: 'no such slice'") as caught:
        for index, _ in DataLoader(Broken(), 4, num_workers=num_workers):
            delivered.append(index.tolist())
    assert delivered == [[0, 1, 2, 3], [4, 5, 6, 7]] and isinstance(caught.value.__cause__, KeyError)
    assert set(threading.enumerate()) == before


def test_sequences_and_a_collate_of_ones_own() -> None:
    assert list(DataLoader(["a", "bc", "d"], 2, collate_fn="".join)) == ["abc", "d"]


def test_wrong_loader_arguments() -> None:
    for name, value in (("batch_size", 0), ("num_workers", -1), ("prefetch_factor", 0), ("seed", -1)):
        with pytest.raises(ValueError, match=f"DataLoader: {name} must be at least"):
            DataLoader([1], **{name: value})
        for wrong in (1.0, None, True):
            with pytest.raises(TypeError, match=f"DataLoader: {name} must be a whole number"):
                DataLoader([1], **{name: wrong})
    with pytest.raises(TypeError, match="generator has not"):
        DataLoader(x for x in "abc")
    loader = DataLoader([1, 2, 3])
    for state in ({"seed": 0, "epoch": -1, "batch": 0}, {"seed": 0, "epoch": 0, "batch": 4}):
        with pytest.raises(ValueError, match="load_state_dict"):
            loader.load_state_dict(state)
    assert loader.state_dict() == {"seed": 0, "epoch": 0, "batch": 0}


# --- brain ----------------------------------------------------------------------------------------------------------


def test_no_test_slice_is_near_a_training_slice() -> None:
    parts = (brain.TRAINING, brain.VALIDATION, brain.TEST)
    assert [len(part) for part in parts] == [80, 8, 20]
    for i, part in enumerate(parts):
        for other in parts[i + 1 :]:
            assert np.abs(np.subtract.outer(part, other)).min() >= brain.GAP == 4


@needs_brain
def test_brain_items() -> None:
    training, validation, test = brain.brain_datasets()
    for dataset in (training, validation, test):
        image, label = dataset[len(dataset) - 1]
        assert image.shape == (1, 192, 160) and image.dtype == np.float32 and 0 <= image.min() and image.max() < 2.5
        assert label.shape == (192, 160) and label.dtype == np.int64 and np.unique(label).tolist() == [0, 1, 2]
        assert np.array_equal(dataset[0][0], dataset[0][0]) and not np.array_equal(dataset[0][0], dataset[1][0])
    one, two = (np.random.default_rng(seed) for seed in (1, 2))
    assert np.array_equal(test.sample(3, one)[0], test[3][0])
    assert not np.array_equal(training.sample(3, one)[0], training.sample(3, two)[0])


@needs_brain
def test_training_moves_image_and_label_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the acquisition, a moved slice has the same pairs of intensity and tissue as the slice itself."""
    monkeypatch.setattr(brain, "simulate_acquisition", lambda image, generator: image)
    training = brain.brain_datasets()[0]

    def pairs(item: tuple[np.ndarray, np.ndarray]) -> list[tuple[float, int]]:
        return sorted(zip(item[0].ravel().tolist(), item[1].ravel().tolist()))

    moved = [training.sample(40, np.random.default_rng(seed)) for seed in range(4)]
    assert all(pairs(item) == pairs(training[40]) for item in moved)
    assert len({item[1].tobytes() for item in moved}) == 4


@needs_brain
def test_brain_volume_keeps_all_tissue_and_stands_upright() -> None:
    volume = brain.load_mni152()
    assert np.bincount(volume.labels.ravel())[1:].tolist() == [1090506, 635537]  # counted in the uncut volume
    assert volume.t1.dtype == np.uint8 and not volume.labels[:, [0, -1]].any() and not volume.labels[..., [0, -1]].any()
    # The cerebellum, at the back of the lowest slices, lies in the lower half of the picture.
    lowest = volume.labels[20] > 0
    assert lowest[96:].sum() > 10 * lowest[:96].sum()


@needs_brain
def test_simulated_acquisition_is_what_makes_thresholds_fail() -> None:
    test = brain.brain_datasets()[2]
    images, labels = next(iter(DataLoader(test, len(test))))
    clean = test.volume.t1[list(test.slices)]
    dice = []
    for picture in (clean, images[:, 0]):
        found = np.digitize(picture, brain.best_thresholds(picture, labels))
        dice.append(metrics.dice(found, labels, 3)[1:].mean())
    assert dice[0] > 0.95 and 0.66 < dice[1] < 0.72


@given(st.integers(0, 2**32))
@settings(max_examples=50)
def test_best_thresholds_are_the_best_of_all(seed: int) -> None:
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 9, (3, 5), np.uint8)
    labels = generator.integers(0, 3, (3, 5))
    labels[0, :3] = 0, 1, 2
    images[0, :2] = 0, 255

    def mean_dice(low: float, high: float) -> float:
        return metrics.dice(np.digitize(images, (low, high)), labels, 3)[1:].mean()

    cuts = [*np.arange(10) - 0.5, 255.5]  # below, between and above the intensities 0 to 8 and 255
    every = [mean_dice(low, high) for i, low in enumerate(cuts) for high in cuts[i:]]
    assert mean_dice(*brain.best_thresholds(images, labels)) == pytest.approx(max(every), rel=1e-12)


def test_wrong_input_of_best_thresholds() -> None:
    with pytest.raises(ValueError, match=r"\(3,\) and labels \(4,\)"):
        brain.best_thresholds(np.zeros(3), np.array([0, 1, 2, 0]))
    with pytest.raises(ValueError, match=r"must contain 0, 1 and 2, but found \[0, 2\]"):
        brain.best_thresholds(np.zeros(3), np.array([0, 2, 2]))


def test_a_missing_package_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brain, "find_spec", lambda name: None)
    if find_spec("nibabel"):
        with pytest.raises(ImportError, match="pip install nilearn"):
            brain.load_mni152()
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(ImportError, match="pip install nibabel"):
        brain.load_mni152()
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match="pip install pillow"):
        nuclei._read_grey(Path("any.png"))


@needs_brain
def test_brain_does_not_import_nilearn() -> None:
    code = "import sys, tinyconv.data.brain as b; assert 'nibabel' not in sys.modules; b.load_mni152()"
    subprocess.run([sys.executable, "-c", code + "; assert 'nilearn' not in sys.modules"], check=True)


# --- nuclei ---------------------------------------------------------------------------------------------------------


@needs_data
def test_nuclei_agree_with_their_table() -> None:
    images, instances = nuclei.load_nuclei()
    with open(Path(str(DATA)) / "dsb2018_nuclei" / "index.csv", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["id"])
    assert len(images) == len(rows) == 270 and images.dtype == instances.dtype == np.uint8
    assert [len(np.unique(map_)) - 1 for map_ in instances] == [int(row["instances"]) for row in rows]
    foreground = (instances > 0).mean((1, 2))
    np.testing.assert_allclose(foreground, [float(row["foreground"]) for row in rows], atol=5.1e-5)


@needs_data
def test_nuclei_split() -> None:
    training, test = nuclei.nuclei_datasets(seed=1)
    assert (len(training), len(test)) == (216, 54) and training.augment and not test.augment
    sizes = [np.bincount(instances.ravel())[1:] for instances in nuclei.nuclei_datasets()[0].instances]
    assert min(size[size > 0].min(initial=99) for size in sizes) == nuclei.SMALLEST
    whole, _ = nuclei.load_nuclei()
    both = np.concatenate([training.images, test.images])
    assert sorted(map(bytes, both)) == sorted(map(bytes, whole))
    assert np.array_equal(nuclei.nuclei_datasets(seed=1)[1].images, test.images)
    assert not np.array_equal(nuclei.nuclei_datasets(seed=2)[1].images, test.images)
    image, label = test[0]
    assert image.shape == (1, 256, 256) and image.dtype == np.float32 and np.isfinite(image).all()
    assert label.shape == (256, 256) and label.dtype == np.int64 and set(np.unique(label)) == {0, 1, 2}


def test_nuclei_are_augmented_by_the_eight_symmetries_together_with_their_labels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nuclei, "change_light", lambda image, generator: image)
    images = np.random.default_rng(0).integers(0, 256, (1, 8, 8), np.uint8)
    before = images.copy()
    dataset = nuclei.Nuclei(images, (images > 128).astype(np.uint8), augment=True)
    plain, _ = dataset[0]
    square = [np.rot90(flipped, k) for flipped in (plain[0], plain[0].T) for k in range(4)]
    found = set()
    for seed in range(100):
        image, label = dataset.sample(0, np.random.default_rng(seed))
        assert np.array_equal(label > 0, np.isin(image[0], plain[0][images[0] > 128]))
        found.add(next(i for i, expected in enumerate(square) if np.array_equal(image[0], expected)))
    assert found == set(range(8)) and np.array_equal(images, before)
    held_out = nuclei.Nuclei(images, images, augment=False)
    assert np.array_equal(held_out.sample(0, np.random.default_rng(3))[0], plain)


def test_light_keeps_the_order_of_the_pixels_but_for_a_haze_on_a_third_of_the_images() -> None:
    ramp = np.linspace(-0.5, 1.5, 32 * 32, dtype=np.float32).reshape(1, 32, 32)
    hazes = []
    for seed in range(300):
        changed = nuclei.change_light(ramp, np.random.default_rng(seed))
        haze = nuclei.change_light(np.zeros_like(ramp), np.random.default_rng(seed))
        assert changed.dtype == np.float32 and changed.shape == ramp.shape
        contrast = (changed - haze).ravel()
        assert (np.diff(contrast) >= -1e-6).all() and (np.sign(contrast.round(6)) == np.sign(ramp.ravel())).all()
        assert 0 <= haze.min() and haze.max() <= 0.6
        hazes.append(haze.any())
    assert 70 <= sum(hazes) <= 130


def test_touching_nuclei_keep_a_border_between_them() -> None:
    instances = np.zeros((5, 9), np.uint8)
    instances[1:, 1:5] = 1  # reaches the lower rim of the image, which is no border
    instances[1:, 5:8] = 2
    classes = nuclei.classes_from_instances(instances)
    assert classes.tolist() == [
        [0, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 2, 2, 2, 2, 2, 2, 2, 0],
        [0, 2, 1, 1, 2, 2, 1, 2, 0],
        [0, 2, 1, 1, 2, 2, 1, 2, 0],
        [0, 2, 1, 1, 2, 2, 1, 2, 0],
    ]
    assert np.array_equal(nuclei.instances_from_classes(classes, least=12), instances)  # of 16 and 12 pixels
    assert np.array_equal(nuclei.instances_from_classes(classes, least=13), np.where(instances == 1, 1, 0))
    assert not nuclei.instances_from_classes(np.full((3, 3), 2)).any()  # a border around nothing


@needs_data
def test_nuclei_come_back_from_their_classes() -> None:
    _, instances = nuclei.load_nuclei()
    counts = np.zeros(3, int)
    for truth in instances[::9]:
        back = nuclei.instances_from_classes(nuclei.classes_from_instances(truth))
        assert not back[truth == 0].any()
        counts += metrics.instance_counts(back, truth)[0]
    assert metrics.average_precision(counts) > 0.95  # what is lost are nuclei of a few pixels and those of two pieces


def test_nuclei_scale_by_percentiles_and_a_flat_image_stays_finite() -> None:
    images = np.stack([np.arange(256, dtype=np.uint8).reshape(16, 16), np.full((16, 16), 9, np.uint8)])
    dataset = nuclei.Nuclei(images, np.zeros_like(images), augment=False)
    ramp = (np.arange(256) - 2.55) / (254.49 - 2.55)  # the percentile q of 0..255 is 255 q / 100
    np.testing.assert_allclose(dataset[0][0].ravel(), ramp, rtol=1e-5, atol=1e-6)
    assert not dataset[1][0].any()
    with pytest.raises(ValueError, match=r"\(2, 16, 16\) and \(16, 16\)"):
        nuclei.Nuclei(images, images[0], augment=False)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    image_module = pytest.importorskip("PIL.Image")
    monkeypatch.setenv("TINYCONV_DATA", str(tmp_path))
    for part in ("images", "labels"):
        folder = tmp_path / "dsb2018_nuclei" / part
        folder.mkdir(parents=True)
        for name in "ab":
            pixels = np.random.default_rng(ord(name)).integers(0, 3, (256, 256), np.uint8)
            image_module.fromarray(pixels).save(folder / f"{name}.png")
    return tmp_path / "dsb2018_nuclei"


def test_missing_data_is_a_sentence(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert nuclei.load_nuclei()[0].shape == (2, 256, 256)
    (root / "labels" / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"b\.png is missing"):
        nuclei.load_nuclei()
    for path in (root / "images").iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match="holds none"):
        nuclei.load_nuclei()
    for value, message in ((str(root), "has no folder dsb2018_nuclei"), ("", "it is not set"), (None, "it is not set")):
        monkeypatch.delenv("TINYCONV_DATA")
        if value is not None:
            monkeypatch.setenv("TINYCONV_DATA", value)
        with pytest.raises(FileNotFoundError, match=f"TINYCONV_DATA.*{message}.*https://.*Then set TINYCONV_DATA"):
            nuclei.load_nuclei()


def test_wrong_images_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    path = root / "images" / "a.png"
    good = path.read_bytes()
    for wrong in (Image.new("L", (255, 256)), Image.new("RGB", (256, 256)), Image.new("I;16", (256, 256))):
        wrong.save(path)
        with pytest.raises(ValueError, match=r"a\.png must be an 8-bit grey PNG of 256 x 256 pixels"):
            nuclei.load_nuclei()
    Image.new("L", (256, 256)).save(path, format="BMP")
    with pytest.raises(ValueError, match="must be an 8-bit grey PNG"):
        nuclei.load_nuclei()
    path.write_bytes(good)
    for limit in (40_000, 100):  # Pillow warns above its limit and raises above twice that
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ValueError, match="decompression bomb"):
            nuclei.load_nuclei()


def test_a_damaged_png_gives_an_array_or_a_valueerror(root: Path) -> None:
    path = root / "images" / "a.png"
    good = path.read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        damaged = np.frombuffer(good, np.uint8)[: generator.integers(1, len(good) + 1)].copy()
        where = generator.integers(0, min(len(damaged), 100), 2)
        damaged[where] = generator.integers(0, 256, 2)
        path.write_bytes(damaged.tobytes())
        try:
            assert nuclei._read_grey(path).shape == (256, 256)
        except ValueError:
            refused += 1
    assert refused > 100


# --- chest X-rays ---------------------------------------------------------------------------------------------------


@needs_data
def test_pneumoniamnist_has_its_published_counts() -> None:
    counts = [np.bincount(split.labels).tolist() for split in pneumonia.load_pneumonia()]
    assert counts == [[1214, 3494], [135, 389], [234, 390]]
    training, validation, test = pneumonia.pneumonia_datasets()
    assert training.augment and not validation.augment and not test.augment
    pixels = np.stack([training[i][0] for i in range(len(training))])
    assert pixels.shape == (4708, 1, 28, 28) and pixels.dtype == np.float32
    assert abs(pixels.mean()) < 0.01 and abs(pixels.std() - 1) < 0.01
    assert isinstance(training[0][1], np.int64)


def test_an_xray_is_moved_by_up_to_two_pixels() -> None:
    image = np.arange(28 * 28).reshape(1, 28, 28).astype(np.uint8)
    split = pneumonia.Split(image, np.array([1]))
    dataset = pneumonia.ChestXrays(split, augment=True)
    places = {}
    for seed in range(200):
        moved, label = dataset.sample(0, np.random.default_rng(seed))
        assert moved.shape == (1, 28, 28) and label == 1
        middle = moved[0, 4:-4, 4:-4]
        (place,) = [
            (i, j)
            for i in range(-2, 3)
            for j in range(-2, 3)
            if np.array_equal(middle, dataset[0][0][0, 4 + i : 24 + i, 4 + j : 24 + j])
        ]
        places[place] = moved
    assert len(places) == 25
    assert np.array_equal(places[-2, 0][0, 0], dataset[0][0][0, 0])  # the edge is repeated
    assert np.array_equal(pneumonia.ChestXrays(split, False).sample(0, np.random.default_rng(1))[0], dataset[0][0])


def test_a_wrong_pneumonia_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYCONV_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="TINYCONV_DATA.*pneumoniamnist"):
        pneumonia.load_pneumonia()
    path = tmp_path / "pneumoniamnist" / "pneumoniamnist.npz"
    path.parent.mkdir()
    with pytest.raises(FileNotFoundError, match=r"pneumoniamnist\.npz is missing"):
        pneumonia.load_pneumonia()
    good = {f"{name}_images": np.zeros((3, 28, 28), np.uint8) for name in pneumonia.SPLITS}
    good |= {f"{name}_labels": np.ones((3, 1), np.uint8) for name in pneumonia.SPLITS}
    np.savez(path, **good)
    assert [split.labels.tolist() for split in pneumonia.load_pneumonia()] == [[1, 1, 1]] * 3
    for change in (
        {"val_images": np.zeros((3, 64, 64), np.uint8)},
        {"val_images": np.zeros((3, 28, 28), np.float32)},
        {"val_labels": np.ones((2, 1), np.uint8)},
        {"val_labels": np.full((3, 1), 2)},
    ):
        np.savez(path, **{**good, **change})
        with pytest.raises(ValueError, match="pneumoniamnist: val must hold"):
            pneumonia.load_pneumonia()
    np.savez(path, **{**good, "val_labels": np.array([[{}], [1], [1]], object)})  # a pickle
    with pytest.raises(ValueError, match="must be MedMNIST's file"):
        pneumonia.load_pneumonia()
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match="must be MedMNIST's file"):
        pneumonia.load_pneumonia()


# --- hippocampus ----------------------------------------------------------------------------------------------------


@needs_data
def test_hippocampus_has_its_published_sizes() -> None:
    volumes, labels = hippocampus.load_hippocampus()
    sizes = np.array([volume.shape for volume in volumes])
    assert len(volumes) == len(labels) == 200
    assert (sizes.min(0).tolist(), sizes.max(0).tolist()) == ([31, 40, 24], [43, 59, 47])
    assert all(set(np.unique(label)) == {0, 1, 2} for label in labels)
    # The head lies in front of the tail.
    fronts = [np.mean(np.nonzero(label == 1)[1]) > np.mean(np.nonzero(label == 2)[1]) for label in labels]
    assert all(fronts)
    training, test = hippocampus.hippocampus_datasets()
    assert (len(training), len(test)) == (160, 40)
    volume, label = test[0]
    assert volume.shape == (1, 48, 64, 48) and volume.dtype == np.float32 and label.dtype == np.int64
    assert (label > 0).sum() == (test.labels[0] > 0).sum()


def test_hippocampi_are_augmented_together_with_their_labels() -> None:
    generator = np.random.default_rng(0)
    label = generator.integers(0, 3, (40, 50, 40)).astype(np.uint8)
    dataset = hippocampus.Hippocampi([label * 10 + np.float32(5)], [label], augment=True)
    plain, plain_label = dataset[0]
    inside = label.astype(np.float32)
    np.testing.assert_allclose(
        plain[0, 4:44, 7:57, 4:44], (inside - inside.mean()) / inside.std(), rtol=1e-4, atol=1e-5
    )
    assert not plain[0, :4].any() and not plain[0, 44:].any()
    mirrored = set()
    for seed in range(20):
        volume, moved = dataset.sample(0, np.random.default_rng(seed))
        levels = [np.unique(volume[0][moved == c].round(4)) for c in (1, 2)]
        assert [len(level) for level in levels] == [1, 1] and levels[0] < levels[1]  # each label kept its intensity
        shifts = [
            (flip, s)
            for flip in (False, True)
            for s in np.ndindex(5, 5, 5)
            if np.array_equal(np.roll(plain_label[::-1] if flip else plain_label, np.array(s) - 2, (0, 1, 2)), moved)
        ]
        assert len(shifts) == 1
        mirrored.add(shifts[0][0])
    assert mirrored == {False, True}
    assert np.array_equal(hippocampus.Hippocampi([label * 1.0], [label], False).sample(0, generator)[1], plain_label)
    assert not hippocampus.normalise(np.full((3, 3, 3), 7)).any()  # a flat volume stays finite


def test_wrong_hippocampus_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nibabel = pytest.importorskip("nibabel")
    monkeypatch.setenv("TINYCONV_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="TINYCONV_DATA.*msd_hippocampus"):
        hippocampus.load_hippocampus()
    image, label = (tmp_path / "msd_hippocampus" / part / "hippocampus_1.nii.gz" for part in ("images", "labels"))
    image.parent.mkdir(parents=True)
    label.parent.mkdir()
    with pytest.raises(FileNotFoundError, match="holds none"):
        hippocampus.load_hippocampus()

    def write(path: Path, array: np.ndarray) -> None:
        nibabel.Nifti1Image(array, np.eye(4)).to_filename(path)

    write(image, np.ones((9, 9, 9), np.uint8))
    with pytest.raises(FileNotFoundError, match="labels of the same name"):
        hippocampus.load_hippocampus()
    write(label, np.ones((9, 9, 9), np.uint8))
    assert hippocampus.load_hippocampus()[0][0].shape == (9, 9, 9)
    for shape, value in (((9, 9, 8), 1), ((9, 9, 9), 3)):
        write(label, np.full(shape, value, np.uint8))
        with pytest.raises(ValueError, match=r"hippocampus_1\.nii\.gz must be a volume of at most"):
            hippocampus.load_hippocampus()
    write(image, np.ones((9, 9), np.uint8))
    with pytest.raises(ValueError, match="three axes"):
        hippocampus.load_hippocampus()
    image.write_bytes(b"no volume")
    with pytest.raises(ValueError, match="must be a NIfTI volume"):
        hippocampus.load_hippocampus()


# --- digits ---------------------------------------------------------------------------------------------------------


def test_digits_are_those_of_scikit_learn() -> None:
    bunch = pytest.importorskip("sklearn.datasets").load_digits()
    images, labels = digits.load_digits()
    assert np.array_equal(images, bunch.images) and np.array_equal(labels, bunch.target)
    training, test = digits.digits_datasets(seed=2)
    assert (len(training), len(test)) == (1438, 359)
    both = np.concatenate([training.tensors[0], test.tensors[0]])
    assert both.min() == pytest.approx(-0.1) and both.max() == pytest.approx(1.175) and both.shape[1:] == (1, 8, 8)
    assert sorted(map(bytes, both)) == sorted(map(bytes, digits.normalise(images)[:, None]))
