"""Grey and white matter in axial slices of the MNI152 brain template, seen through a simulated MRI acquisition.

The template (ICBM 2009a nonlinear symmetric, the average T1 image of 152 brains, 1 mm) and its tissue probability
maps come with the package nilearn. The average is so clean that two intensity thresholds separate its tissues with
a Dice of 0.96; every image therefore passes through `simulate_acquisition` first, where they reach about 0.69.

Licence of the template: Copyright (C) 1993-2004 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological
Institute, McGill University. Permission to use, copy, modify, and distribute this software and its documentation for
any purpose and without fee is hereby granted, provided that the above copyright notice appear in all copies. The
authors and McGill University make no representations about the suitability of this software for any purpose. It is
provided "as is" without express or implied warranty.
Source: Fonov et al., NeuroImage 54 (2011) 313.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinyconv.data.dataset import Dataset
from tinyconv.imaging.mri import simulate_acquisition

CLASSES = ("background", "grey matter", "white matter")
SIZE = (192, 160)

# Axial slices in millimetres from the bottom of the template. Neighbours are nearly alike, so at least GAP slices lie
# between two of different parts: test 70..89, validation 114..121, training the rest of 20..139.
GAP = 4
TEST = range(70, 90)
VALIDATION = range(114, 122)
TRAINING = (*range(20, 67), *range(93, 111), *range(125, 140))

_SHAPE = (197, 233, 189)  # of the template: x to the right, y to the front, z up
_BOX = (slice(18, 178), slice(21, 213))  # x and y of the brain, grown to multiples of 32


class BrainVolume(NamedTuple):
    """Axial slices from bottom to top; rows from front to back, columns from the person's left to right."""

    t1: NDArray[np.uint8]  # (189, 192, 160), intensity 0 to 255
    labels: NDArray[np.uint8]  # (189, 192, 160), 0 background and everything else, 1 grey matter, 2 white matter


def load_mni152() -> BrainVolume:
    """label = argmax over (255 - GM - WM, GM, WM) of the tissue probabilities in 1/255, beside the T1 image.

    ImportError: nilearn, whose files these are, or nibabel, which reads them, is not installed.
    """
    t1, grey, white = (_read_template(kind) for kind in ("t1", "gm", "wm"))
    return BrainVolume(t1, np.argmax([255 - grey - white, grey, white], axis=0).astype(np.uint8))


def _read_template(kind: str) -> NDArray[np.uint8]:
    try:
        import nibabel
    except ImportError as error:
        raise ImportError("brain: reading the template needs nibabel, which is missing: pip install nibabel") from error
    nilearn = find_spec("nilearn")  # finds the package without importing it
    if nilearn is None or nilearn.origin is None:
        raise ImportError("brain: the MNI152 template comes with nilearn, which is missing: pip install nilearn")
    path = Path(nilearn.origin).parent / "datasets" / "data" / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"
    if not path.is_file():
        raise FileNotFoundError(f"brain: this nilearn does not contain {path.name}: pip install --upgrade nilearn")
    volume: NDArray[np.uint8] = np.asarray(nibabel.load(path).dataobj)  # type: ignore[attr-defined]
    if volume.shape != _SHAPE or volume.dtype != np.uint8:
        raise ValueError(
            f"brain: {path.name} must hold a uint8 volume of {_SHAPE}, but it has {volume.dtype} {volume.shape}. "
            "Mend the installation: pip install --force-reinstall nilearn"
        )
    return np.ascontiguousarray(volume[_BOX].transpose(2, 1, 0)[:, ::-1])  # (x, y, z) -> (z, front to back, x)


def normalise(image: NDArray[Any]) -> NDArray[np.float32]:
    """Intensity 0..255 of an acquisition as the network sees it: image / 255."""
    return image.astype(np.float32, copy=False) / np.float32(255)


def _position(generator: np.random.Generator) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """A random position of the head: mirrored or not, up to 12 pixels away from the centre on each axis."""
    mirror, shift = generator.integers(2), generator.integers(-12, 13, 2)
    return lambda pixels: np.roll(pixels[:, ::-1] if mirror else pixels, shift, (0, 1))


class BrainSlices(Dataset):
    """Items (image, label): image float32 (1, 192, 160) = acquired intensity / 255, label int64 (192, 160) in 0..2.

    The acquisition of slice z in `dataset[i]` is fixed: its generator follows from z alone. With `fresh`, `sample`
    acquires the slice anew at each call, so that a training sees a new position, bias field and noise in every epoch.
    """

    def __init__(self, volume: BrainVolume, slices: Iterable[int], fresh: bool) -> None:
        self.volume = volume
        self.slices = tuple(slices)
        self.fresh = fresh

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        generator = np.random.default_rng(np.random.SeedSequence(152, spawn_key=(self.slices[index],)))
        return self._acquire(index, generator, lambda pixels: pixels)

    def sample(self, index: int, generator: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        return self._acquire(index, generator, _position(generator)) if self.fresh else self[index]

    def _acquire(
        self, index: int, generator: np.random.Generator, place: Callable[[NDArray[Any]], NDArray[Any]]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        z = self.slices[index]
        image = normalise(simulate_acquisition(place(self.volume.t1[z]), generator))
        return image[None], place(self.volume.labels[z]).astype(np.int64)


def brain_datasets() -> tuple[BrainSlices, BrainSlices, BrainSlices]:
    """(training, validation, test): 80 slices acquired anew at each `sample`, 8 and 20 fixed ones at least GAP away."""
    volume = load_mni152()
    return (
        BrainSlices(volume, TRAINING, fresh=True),
        BrainSlices(volume, VALIDATION, fresh=False),
        BrainSlices(volume, TEST, fresh=False),
    )


def best_thresholds(images: NDArray[Any], labels: NDArray[Any]) -> tuple[float, float]:
    """(low, high) that maximise the mean Dice of grey matter = [low, high) and white matter = [high, inf).

    The baseline of a segmentation that looks at intensity only: `numpy.digitize(images, (low, high))` are its labels.
    Dice pools all elements. Every pair of 1,025 equally spaced thresholds is tried, by cumulative histograms; this is
    exact for 8-bit images.
    images: real, of any shape; labels: 0, 1, 2 of the same shape. ValueError: unequal shapes, a class that is missing.
    """
    if images.shape != labels.shape:
        raise ValueError(f"best_thresholds: images {images.shape} and labels {labels.shape} must have one shape.")
    if set(np.unique(labels).tolist()) != {0, 1, 2}:
        raise ValueError(
            f"best_thresholds: labels must contain 0, 1 and 2, but found {np.unique(labels).tolist()[:9]}."
        )
    edges = np.histogram_bin_edges(images, 1024).astype(np.float64)
    edges[-1] = np.nextafter(edges[-1], np.inf)  # above every intensity, as the last bin of a histogram is closed
    below = [np.append(0, np.cumsum(np.histogram(images[labels == c], edges)[0])) for c in range(3)]  # [k]: < edges[k]
    grey, white = below[1], below[2]
    everything = below[0] + grey + white
    dice_white = 2 * (white[-1] - white) / (white[-1] + everything[-1] - everything)  # (high,)
    with np.errstate(divide="ignore", invalid="ignore"):  # where low > high, which triu takes away
        dice_grey = 2 * (grey - grey[:, None]) / (grey[-1] + everything - everything[:, None])  # (low, high)
    mean = np.triu(dice_grey + dice_white)
    low, high = np.unravel_index(np.argmax(mean), mean.shape)
    return float(edges[low]), float(edges[high])
