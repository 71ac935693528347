"""Metrics of classification and segmentation: label maps, scores and instance maps as NumPy arrays.

A class that occurs neither in the prediction nor in the target has no overlap to measure: its Dice and IoU are
0 / 0 = NaN. Average with `numpy.nanmean`. A class that occurs in only one of the two has Dice = IoU = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def confusion_matrix(prediction: Any, target: Any, num_classes: int, per_case: bool = False) -> NDArray[np.int64]:
    """matrix[t, p] = number of elements of true class t that were predicted as class p.

    prediction, target: class numbers in [0, num_classes), of any one shape; booleans count as 0 and 1.
    Returns (num_classes, num_classes), or with per_case (N, num_classes, num_classes): one matrix for each index of
    the first axis. Matrices of several batches may be added.
    ValueError: unequal shapes, nothing in them, class numbers out of range. TypeError: labels that are not integers.
    """
    prediction, target = _label_pair(prediction, target)
    if per_case and prediction.ndim == 0:
        raise ValueError("metrics: per_case needs a first axis that counts the cases, but the labels have shape ().")
    low, high = min(prediction.min(), target.min()), max(prediction.max(), target.max())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"metrics: prediction and target must hold class numbers in [0, num_classes) = [0, {num_classes}), "
            f"but found {low} to {high}."
        )
    cases = len(prediction) if per_case else 1
    pairs = (target * num_classes + prediction).reshape(cases, -1)
    pairs += np.arange(cases)[:, None] * num_classes**2  # each case counts in bins of its own
    counts = np.bincount(pairs.ravel(), minlength=cases * num_classes**2)
    matrices = counts.reshape(cases, num_classes, num_classes)
    return matrices if per_case else matrices[0]


def dice(prediction: Any, target: Any, num_classes: int, per_case: bool = False) -> NDArray[np.float64]:
    """Dice_c = 2 |P_c & T_c| / (|P_c| + |T_c|) for each class c: (num_classes,), or with per_case (N, num_classes).

    In [0, 1]; NaN where both sets are empty. Without per_case the elements of all cases are pooled. Errors as in
    confusion_matrix. Source: Dice, Ecology 26 (1945) 297.
    """
    return dice_from_confusion(confusion_matrix(prediction, target, num_classes, per_case))


def iou(prediction: Any, target: Any, num_classes: int, per_case: bool = False) -> NDArray[np.float64]:
    """IoU_c = |P_c & T_c| / |P_c or T_c| for each class c, the Jaccard index: shapes, range and errors as in dice."""
    return iou_from_confusion(confusion_matrix(prediction, target, num_classes, per_case))


def dice_from_confusion(matrix: NDArray[Any]) -> NDArray[np.float64]:
    """Dice_c = 2 m_cc / (sum_p m_cp + sum_t m_tc): (..., C, C) -> (..., C); NaN where class c never occurs."""
    both = np.diagonal(matrix, axis1=-2, axis2=-1)
    return _ratio(2 * both, matrix.sum(-1) + matrix.sum(-2))


def iou_from_confusion(matrix: NDArray[Any]) -> NDArray[np.float64]:
    """IoU_c = m_cc / (sum_p m_cp + sum_t m_tc - m_cc): (..., C, C) -> (..., C); NaN where class c never occurs."""
    both = np.diagonal(matrix, axis1=-2, axis2=-1)
    return _ratio(both, matrix.sum(-1) + matrix.sum(-2) - both)


def accuracy(prediction: Any, target: Any) -> float:
    """Share of the elements with prediction = target, in [0, 1]. Shapes and errors as in confusion_matrix."""
    prediction, target = _label_pair(prediction, target)
    return float(np.mean(prediction == target))


def roc_auc(scores: Any, labels: Any) -> float:
    """AUC = P(s+ > s-) + P(s+ = s-) / 2: how often a positive case has a higher score than a negative one, in [0, 1].

    scores: real, (N,), of any monotone scale; labels: 0 or 1 of the same shape. The area under the ROC curve.
    ValueError: unequal shapes, other labels, only one class, a score that is not a number.
    Source: Hanley and McNeil, Radiology 143 (1982) 29: it is the statistic of Mann and Whitney.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.shape != labels.shape or scores.ndim != 1:
        raise ValueError(f"roc_auc: scores and labels must both be (N,), but are {scores.shape} and {labels.shape}.")
    if set(np.unique(labels).tolist()) != {0, 1}:
        raise ValueError(f"roc_auc: labels must contain 0 and 1, both, but found {np.unique(labels).tolist()[:9]}.")
    if np.isnan(scores).any():
        raise ValueError(f"roc_auc: scores must be numbers, but {np.isnan(scores).sum()} of them are NaN.")
    negative, positive = np.sort(scores[labels == 0]), scores[labels == 1]
    below = np.searchsorted(negative, positive, "left")  # negatives with a lower score
    not_above = np.searchsorted(negative, positive, "right")  # and those with an equal one
    return float((below + not_above).mean() / 2 / len(negative))


def instance_counts(prediction: Any, target: Any, thresholds: Sequence[float] = (0.5,)) -> NDArray[np.int64]:
    """(tp, fp, fn) for each threshold: (len(thresholds), 3), from two maps of instances (0 background, k the k-th).

    A predicted instance is a true positive if its IoU with one of the target is above the threshold; with thresholds of
    at least 0.5 it cannot be with two. The counts of several images may be added.
    ValueError: unequal shapes, a threshold outside [0.5, 1]. TypeError: maps that are not integers.
    Source: Kirillov et al., "Panoptic segmentation", 2019, section 4.1.
    """
    prediction, target = _label_pair(prediction, target)
    if not all(0.5 <= threshold <= 1 for threshold in thresholds):
        raise ValueError(f"instance_counts: thresholds must lie in [0.5, 1], but are {list(thresholds)}.")
    predicted, of_pixel = np.unique(prediction, return_inverse=True)
    true, of_target = np.unique(target, return_inverse=True)
    pairs = of_target.ravel() * len(predicted) + of_pixel.ravel()
    both = np.bincount(pairs, minlength=len(true) * len(predicted)).reshape(len(true), len(predicted))
    whole = both.sum(1)[:, None] + both.sum(0) - both
    overlap = (both / whole)[true != 0][:, predicted != 0]  # (target, predicted)
    found = [(overlap > threshold).sum() for threshold in thresholds]
    return np.array([(tp, overlap.shape[1] - tp, overlap.shape[0] - tp) for tp in found], np.int64)


def average_precision(counts: NDArray[Any]) -> NDArray[np.float64]:
    """AP = tp / (tp + fp + fn): counts (..., 3) of `instance_counts` to (...,), in [0, 1]; NaN where all are 0.

    The name is that of the nuclei's literature; it is a Jaccard index of instances, not an area under a curve.
    Source: Caicedo et al., Nature Methods 16 (2019) 1247, methods.
    """
    return _ratio(counts[..., 0], counts.sum(-1))


def _label_pair(prediction: Any, target: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    arrays = np.asarray(prediction), np.asarray(target)
    for name, array in zip(("prediction", "target"), arrays):
        if array.dtype.kind not in "biu":
            raise TypeError(
                f"metrics: {name} must hold integer class numbers, but its dtype is {array.dtype}. "
                "From class scores of shape (N, C, ...) make labels with argmax(1)."
            )
    if arrays[0].shape != arrays[1].shape or arrays[0].size == 0:
        raise ValueError(
            "metrics: prediction and target must have one shape with at least one element, but found "
            f"{arrays[0].shape} and {arrays[1].shape}. From class scores (N, C, ...) make labels with argmax(1)."
        )
    return arrays[0].astype(np.int64), arrays[1].astype(np.int64)


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
