"""The hippocampus in crops of T1-weighted MRI at 1 mm: 200 volumes of the Medical Segmentation Decathlon, task 4.

Licence: CC BY-SA 4.0. Source: Simpson et al., arXiv:1902.09063 (2019).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyconv.data.dataset import Dataset
from tinyconv.data.root import data_folder

CLASSES = ("background", "anterior", "posterior")
#: What every crop, 31-43 x 40-59 x 24-47, is padded to: multiples of 16.
SIZE = (48, 64, 48)


def load_hippocampus() -> tuple[list[NDArray[np.float32]], list[NDArray[np.uint8]]]:
    """(volumes, labels): one array a person, axes (x to the right, y to the front, z up) in voxels of 1 mm.

    volumes: intensity in the units of its scanner. labels: 0 background, 1 anterior, 2 posterior hippocampus.
    Read from msd_hippocampus/{images,labels}/*.nii.gz under TINYCONV_DATA. FileNotFoundError: no such folder or file.
    ImportError: no nibabel. ValueError: a file that is no such volume.
    """
    folder = data_folder(
        "msd_hippocampus",
        "images/hippocampus_NNN.nii.gz and labels/hippocampus_NNN.nii.gz (0 background, 1 anterior, 2 posterior)",
        "Task04_Hippocampus of http://medicaldecathlon.com (CC BY-SA 4.0), the training part",
    )
    names = sorted(path.name for path in (folder / "images").glob("*.nii.gz"))
    if not names:
        raise FileNotFoundError(f"hippocampus: {folder / 'images'} must hold volumes NAME.nii.gz, but it holds none.")
    volumes = [_read_volume(folder / "images" / name).astype(np.float32) for name in names]
    labels = [_read_volume(folder / "labels" / name).astype(np.uint8) for name in names]
    for name, volume, label in zip(names, volumes, labels):
        if volume.shape != label.shape or label.max() > 2 or any(a > b for a, b in zip(volume.shape, SIZE)):
            raise ValueError(
                f"hippocampus: {name} must be a volume of at most {SIZE} voxels with labels 0, 1, 2 of its shape, but "
                f"it has {volume.shape}, its labels {label.shape} with values up to {label.max()}."
            )
    return volumes, labels


def _read_volume(path: Path) -> NDArray[Any]:
    try:
        import nibabel
    except ImportError as error:
        raise ImportError(
            "hippocampus: reading volumes needs nibabel, which is missing: pip install nibabel"
        ) from error
    if not path.is_file():
        raise FileNotFoundError(f"hippocampus: every volume needs its labels of the same name, but {path} is missing.")
    try:
        volume: NDArray[Any] = np.asarray(nibabel.load(path).dataobj)  # type: ignore[attr-defined]
    except Exception as error:  # a broken file makes nibabel raise errors of half a dozen kinds
        raise ValueError(f"hippocampus: {path} must be a NIfTI volume, but {error}.") from error
    if volume.ndim != 3:
        raise ValueError(f"hippocampus: {path} must be a NIfTI volume of three axes, but has the shape {volume.shape}.")
    return volume


def normalise(volume: NDArray[Any]) -> NDArray[np.float32]:
    """(x - mean) / deviation of the volume itself: the units of MRI are arbitrary."""
    volume = volume.astype(np.float32)
    return (volume - volume.mean()) / max(volume.std(), np.float32(1e-6))  # a flat volume stays finite


def pad_to_size(volume: NDArray[Any], size: tuple[int, ...] = SIZE) -> NDArray[Any]:
    """The volume in the middle of zeros."""
    before = [(want - have) // 2 for have, want in zip(volume.shape, size)]
    return np.pad(volume, [(b, want - have - b) for b, have, want in zip(before, volume.shape, size)])


class Hippocampi(Dataset):
    """Items (volume, label): volume float32 (1, 48, 64, 48) = normalise(x) amid zeros, label int64 (48, 64, 48).

    With ``augment``, `sample` mirrors left and right (a right hippocampus looks as a left one mirrored), moves the
    volume by up to 2 voxels on each axis, and changes its contrast: x -> a x + b, a in [0.8, 1.2], b in [-0.2, 0.2].
    """

    def __init__(self, volumes: list[NDArray[np.float32]], labels: list[NDArray[np.uint8]], augment: bool) -> None:
        self.volumes = volumes
        self.labels = labels
        self.augment = augment

    def __len__(self) -> int:
        return len(self.volumes)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        return pad_to_size(normalise(self.volumes[index]))[None], pad_to_size(self.labels[index]).astype(np.int64)

    def sample(self, index: int, generator: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        volume, label = self[index]
        if not self.augment:
            return volume, label
        mirror, shift = generator.integers(2), tuple(generator.integers(-2, 3, 3))
        factor, offset = np.float32(generator.uniform(0.8, 1.2)), np.float32(generator.uniform(-0.2, 0.2))
        if mirror:
            volume, label = volume[:, ::-1], label[::-1]
        return np.roll(volume, shift, (1, 2, 3)) * factor + offset, np.roll(label, shift, (0, 1, 2))


def hippocampus_datasets(seed: int = 0) -> tuple[Hippocampi, Hippocampi]:
    """(training, test): a random 80 % of the volumes with augmentation, and the other 20 % as they are."""
    volumes, labels = load_hippocampus()
    order = np.random.default_rng(seed).permutation(len(volumes))
    parts = np.split(order, [round(0.2 * len(volumes))])
    test, training = (([volumes[i] for i in part], [labels[i] for i in part]) for part in parts)
    return Hippocampi(*training, augment=True), Hippocampi(*test, augment=False)
