"""Handwritten digits: 1,797 grey images of 8 x 8 that come with scikit-learn.

Licence: CC BY 4.0. Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository (1998), the test part: its writers do not occur elsewhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyconv.data.dataset import TensorDataset

CLASSES = tuple("0123456789")
SIZE = (8, 8)


def load_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(images, labels): uint8 (1797, 8, 8), ink from 0 to 16, and int64 (1797,). ImportError: no scikit-learn."""
    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        raise ImportError("digits: they come with scikit-learn, which is missing: pip install scikit-learn") from error
    data = load()
    return data.images.astype(np.uint8), data.target.astype(np.int64)


def normalise(image: NDArray[Any]) -> NDArray[np.float32]:
    """Ink 0..16 as -0.1 to 1.175, the scale of LeCun et al., 1998, which has mean 0 and variance 1 for its digits."""
    return image.astype(np.float32) * np.float32(1.275 / 16) - np.float32(0.1)


def digits_datasets(seed: int = 0) -> tuple[TensorDataset, TensorDataset]:
    """(training, test): items (float32 (1, 8, 8) = normalise(x), an int64 number), a random 80 % and the other 20 %."""
    images, labels = load_digits()
    order = np.random.default_rng(seed).permutation(len(images))
    test, training = np.split(order, [round(0.2 * len(images))])
    pixels = normalise(images)[:, None]
    return TensorDataset(pixels[training], labels[training]), TensorDataset(pixels[test], labels[test])
