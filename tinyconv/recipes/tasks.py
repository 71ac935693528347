"""The data sets of `tinyconv train`: what is learned from each, by which loss, and how the result is scored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyconv import functional as F
from tinyconv.autograd import Tensor
from tinyconv.data import brain, digits, hippocampus, nuclei, pneumonia
from tinyconv.metrics import (
    accuracy,
    average_precision,
    confusion_matrix,
    dice_from_confusion,
    instance_counts,
    iou_from_confusion,
    roc_auc,
)

#: (scores of the classes (N, C, ...), truth (N, ...), test set) -> {name: figure}, for metrics.json.
Scoring = Callable[[NDArray[Any], NDArray[Any], Any], dict[str, Any]]


@dataclass(frozen=True)
class Task:
    """A data set and what to learn from it: a class for each image, or with ``dense`` for each of its pixels.

    ``size``: spatial axes of an item (1, *size). ``datasets`` gives (training, validation or None, test). ``width``:
    channels of the first stage of a segmentation network.
    """

    classes: tuple[str, ...]
    size: tuple[int, ...]
    dense: bool
    datasets: Callable[[], tuple[Any, Any, Any]]
    normalise: Callable[[NDArray[Any]], NDArray[np.float32]]
    loss: Callable[[Any, Tensor], Tensor]
    score: Scoring
    epochs: int
    batch_size: int
    width: int = 16


# --------------------------------------------------------------------------------------------------
# Losses


def classification_loss(outputs: Any, labels: Tensor) -> Tensor:
    """Cross-entropy; behind auxiliary heads, (scores, auxiliary scores, ...), plus 0.3 times that of each of them.

    Source: Szegedy et al., "Going deeper with convolutions", 2015, section 5.
    """
    if isinstance(outputs, tuple):
        loss = F.cross_entropy(outputs[0], labels)
        for scores in outputs[1:]:
            loss = loss + 0.3 * F.cross_entropy(scores, labels)
        return loss
    return F.cross_entropy(outputs, labels)


def segmentation_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy plus soft Dice: the first gives early gradients everywhere, the second weighs small classes as
    large ones.

    Source: Isensee et al., "nnU-Net", Nature Methods 18 (2021) 203, methods.
    """
    return F.cross_entropy(scores, labels) + F.dice_loss(F.softmax(scores, 1), labels, batch=True)


# --------------------------------------------------------------------------------------------------
# Scores


def score_classes(scores: NDArray[Any], truth: NDArray[Any], test: Any) -> dict[str, Any]:
    """Accuracy and confusion matrix [truth][predicted]; of two classes also the area under the ROC curve."""
    predicted = scores.argmax(1)
    matrix = confusion_matrix(predicted, truth, scores.shape[1])
    row = {"accuracy": accuracy(predicted, truth), "confusion": matrix.tolist()}
    if scores.shape[1] == 2:
        row["auc"] = roc_auc(scores[:, 1] - scores[:, 0], truth)
    return row


def score_labels(predicted: NDArray[Any], truth: NDArray[Any], classes: tuple[str, ...]) -> dict[str, Any]:
    """Dice and IoU of each class, of all pixels of the set together, and the mean and deviation of Dice over cases.

    The means over classes leave the background out.
    """
    cases = confusion_matrix(predicted, truth, len(classes), per_case=True)
    dice, iou = dice_from_confusion(cases.sum(0)), iou_from_confusion(cases.sum(0))
    of_cases = dice_from_confusion(cases)  # (N, C)
    return {
        "mean_dice": float(np.nanmean(dice[1:])),
        "mean_iou": float(np.nanmean(iou[1:])),
        "dice": dict(zip(classes, dice.tolist())),
        "iou": dict(zip(classes, iou.tolist())),
        "case_dice": dict(zip(classes, np.nanmean(of_cases, 0).tolist())),
        "case_dice_deviation": dict(zip(classes, np.nanstd(of_cases, 0).tolist())),
    }


def score_brain(scores: NDArray[Any], truth: NDArray[Any], test: Any) -> dict[str, Any]:
    """As `score_labels`, with the best pair of intensity thresholds as a baseline."""
    images = np.stack([test[i][0][0] for i in range(len(test))])
    low, high = brain.best_thresholds(images, truth)
    baseline = score_labels(np.digitize(images, (low, high)), truth, brain.CLASSES)
    return {
        **score_labels(scores.argmax(1), truth, brain.CLASSES),
        "thresholds": {"low": low, "high": high, **baseline},
    }


def score_hippocampus(scores: NDArray[Any], truth: NDArray[Any], test: Any) -> dict[str, Any]:
    """As `score_labels`."""
    return score_labels(scores.argmax(1), truth, hippocampus.CLASSES)


def score_nuclei(scores: NDArray[Any], truth: NDArray[Any], test: Any) -> dict[str, Any]:
    """As `score_labels`; then nuclei as a whole, insides and borders: IoU of all pixels, mean Dice of an image, and AP
    = tp / (tp + fp + fn) of single nuclei at five IoU thresholds, counted over all images.
    """
    predicted = scores.argmax(1)
    cases = confusion_matrix(predicted > 0, truth > 0, 2, per_case=True)
    thresholds = (0.5, 0.6, 0.7, 0.8, 0.9)
    counts = np.sum(
        [
            instance_counts(nuclei.instances_from_classes(classes), test.instances[i], thresholds)
            for i, classes in enumerate(predicted)
        ],
        axis=0,
    )
    return {
        **score_labels(predicted, truth, nuclei.CLASSES),
        "nuclei": {
            "iou": float(iou_from_confusion(cases.sum(0))[1]),
            "case_dice": float(np.nanmean(dice_from_confusion(cases)[:, 1])),
            "ap": dict(zip(map(str, thresholds), average_precision(counts).tolist())),
        },
    }


# --------------------------------------------------------------------------------------------------


def _without_validation(datasets: Callable[[], tuple[Any, Any]]) -> Callable[[], tuple[Any, Any, Any]]:
    def parts() -> tuple[Any, Any, Any]:
        training, test = datasets()
        return training, None, test

    return parts


TASKS: dict[str, Task] = {
    "digits": Task(
        classes=digits.CLASSES,
        size=digits.SIZE,
        dense=False,
        datasets=_without_validation(digits.digits_datasets),
        normalise=digits.normalise,
        loss=classification_loss,
        score=score_classes,
        epochs=10,
        batch_size=32,
    ),
    "pneumoniamnist": Task(
        classes=pneumonia.CLASSES,
        size=pneumonia.SIZE,
        dense=False,
        datasets=pneumonia.pneumonia_datasets,
        normalise=pneumonia.normalise,
        loss=classification_loss,
        score=score_classes,
        epochs=12,
        batch_size=64,
    ),
    "brain": Task(
        classes=brain.CLASSES,
        size=brain.SIZE,
        dense=True,
        datasets=brain.brain_datasets,
        normalise=brain.normalise,
        loss=segmentation_loss,
        score=score_brain,
        epochs=20,
        batch_size=4,
        width=8,
    ),
    "nuclei": Task(
        classes=nuclei.CLASSES,
        size=nuclei.SIZE,
        dense=True,
        datasets=_without_validation(nuclei.nuclei_datasets),
        normalise=nuclei.normalise,
        loss=segmentation_loss,
        score=score_nuclei,
        epochs=12,
        batch_size=4,
    ),
    "hippocampus": Task(
        classes=hippocampus.CLASSES,
        size=hippocampus.SIZE,
        dense=True,
        datasets=_without_validation(hippocampus.hippocampus_datasets),
        normalise=hippocampus.normalise,
        loss=segmentation_loss,
        score=score_hippocampus,
        epochs=15,
        batch_size=2,
        width=8,
    ),
}
