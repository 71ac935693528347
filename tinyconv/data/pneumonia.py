"""Pneumonia in chest X-rays of children: PneumoniaMNIST, 5,856 grey images of 28 x 28.

The published split is kept: 4,708 images to train, 524 to validate, 624 to test. The test images are harder than those
to validate: a ResNet-20 whose AUC is 0.996 on these has 0.985 on those.

Licence: CC BY 4.0. Source: Yang et al., "MedMNIST v2", Scientific Data 10 (2023) 41; the X-rays are of Kermany et al.,
Cell 172 (2018) 1122.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinyconv.data.dataset import Dataset
from tinyconv.data.root import data_folder

CLASSES = ("normal", "pneumonia")
SIZE = (28, 28)
SPLITS = ("train", "val", "test")


class Split(NamedTuple):
    """Part of the images, intensity 0 to 255, and their class numbers."""

    images: NDArray[np.uint8]  # (N, 28, 28)
    labels: NDArray[np.int64]  # (N,), 0 normal, 1 pneumonia


def load_pneumonia() -> tuple[Split, Split, Split]:
    """(training, validation, test) from pneumoniamnist/pneumoniamnist.npz under TINYCONV_DATA.

    FileNotFoundError: no such file. ValueError: a file that holds something else.
    """
    folder = data_folder(
        "pneumoniamnist",
        "pneumoniamnist.npz (uint8: {train,val,test}_images (N, 28, 28) and _labels (N, 1))",
        "pneumoniamnist.npz of https://medmnist.com (CC BY 4.0)",
    )
    path = folder / "pneumoniamnist.npz"
    if not path.is_file():
        raise FileNotFoundError(f"pneumoniamnist: {path} is missing.")
    try:
        with np.load(path, allow_pickle=False) as file:
            parts = [Split(file[f"{name}_images"], file[f"{name}_labels"][:, 0].astype(np.int64)) for name in SPLITS]
    except Exception as error:  # a broken archive makes NumPy raise errors of half a dozen kinds
        raise ValueError(f"pneumoniamnist: {path} must be MedMNIST's file of that name, but {error}.") from error
    for name, (images, labels) in zip(SPLITS, parts):
        wrong = set(np.unique(labels).tolist()) - {0, 1}
        if images.shape != (len(labels), *SIZE) or images.dtype != np.uint8 or wrong:
            raise ValueError(
                f"pneumoniamnist: {name} must hold uint8 images (N, 28, 28) and N labels 0 or 1, but found "
                f"{images.dtype} {images.shape} and {labels.shape} with {sorted(wrong) or 'no other labels'}."
            )
    return parts[0], parts[1], parts[2]


def normalise(image: NDArray[Any]) -> NDArray[np.float32]:
    """(x / 255 - 0.572) / 0.168: mean 0 and variance 1 over the training images."""
    return (image.astype(np.float32) / np.float32(255) - np.float32(0.572)) / np.float32(0.168)


class ChestXrays(Dataset):
    """Items (image, label): image float32 (1, 28, 28) = normalise(x), label an int64 number.

    With ``augment``, `sample` moves the image by up to 2 pixels on each axis, its edge repeated. It is not mirrored:
    the heart lies on the left.
    """

    def __init__(self, split: Split, augment: bool) -> None:
        self.split = split
        self.augment = augment

    def __len__(self) -> int:
        return len(self.split.images)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], np.int64]:
        return normalise(self.split.images[index])[None], self.split.labels[index]

    def sample(self, index: int, generator: np.random.Generator) -> tuple[NDArray[np.float32], np.int64]:
        image, label = self[index]
        if not self.augment:
            return image, label
        down, right = generator.integers(0, 5, 2)
        padded = np.pad(image, ((0, 0), (2, 2), (2, 2)), mode="edge")
        return padded[:, down : down + SIZE[0], right : right + SIZE[1]], label


def pneumonia_datasets() -> tuple[ChestXrays, ChestXrays, ChestXrays]:
    """(training with augmentation, validation, test), as published."""
    training, validation, test = load_pneumonia()
    return ChestXrays(training, True), ChestXrays(validation, False), ChestXrays(test, False)
