"""Metrics against closed forms, set arithmetic and published numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyconv import metrics


def two_masks() -> tuple[np.ndarray, np.ndarray]:
    a, b = np.zeros((2, 16, 16), bool)
    a[3:10, 4:12] = True
    b[5:13, 3:11] = True
    b[14, 14] = True
    return a, b


def test_golden_numbers() -> None:
    a, b = two_masks()
    assert metrics.dice(a, b, 2)[1] == pytest.approx(0.578512, abs=5e-7)
    assert metrics.iou(a, b, 2)[1] == pytest.approx(0.406977, abs=5e-7)


@st.composite
def label_maps(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    num_classes = draw(st.integers(1, 5))
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 5)))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from([np.uint8, np.int16, np.int64]))
    present = draw(st.integers(1, num_classes))  # the classes above never occur
    return (*generator.integers(0, present, (2, *shape)).astype(dtype), num_classes)


@given(label_maps())
def test_against_set_arithmetic(case: tuple[np.ndarray, np.ndarray, int]) -> None:
    prediction, target, num_classes = case
    matrix = metrics.confusion_matrix(prediction, target, num_classes)
    dice, iou = metrics.dice(prediction, target, num_classes), metrics.iou(prediction, target, num_classes)
    for c in range(num_classes):
        p = {place for place, label in np.ndenumerate(prediction) if label == c}
        t = {place for place, label in np.ndenumerate(target) if label == c}
        assert matrix[c].sum() == len(t) and matrix[:, c].sum() == len(p) and matrix[c, c] == len(p & t)
        if p | t:
            assert dice[c] == 2 * len(p & t) / (len(p) + len(t)) and iou[c] == len(p & t) / len(p | t)
        else:
            assert np.isnan(dice[c]) and np.isnan(iou[c])
    np.testing.assert_allclose(dice, 2 * iou / (1 + iou), rtol=1e-14)
    assert metrics.accuracy(prediction, target) == pytest.approx(np.trace(matrix) / prediction.size, rel=1e-14)


@given(label_maps())
def test_per_case_is_each_case_and_sums_to_the_pool(case: tuple[np.ndarray, np.ndarray, int]) -> None:
    prediction, target, num_classes = case
    matrices = metrics.confusion_matrix(prediction, target, num_classes, per_case=True)
    assert np.array_equal(matrices.sum(0), metrics.confusion_matrix(prediction, target, num_classes))
    for i in range(len(prediction)):
        assert np.array_equal(matrices[i], metrics.confusion_matrix(prediction[i], target[i], num_classes))
    expected = [metrics.iou(p, t, num_classes) for p, t in zip(prediction, target)]
    np.testing.assert_array_equal(metrics.iou(prediction, target, num_classes, per_case=True), expected)


def test_rows_are_the_truth() -> None:
    assert metrics.confusion_matrix(np.array([1, 1, 0]), np.array([0, 0, 0]), 2).tolist() == [[1, 2], [0, 0]]


def test_absent_from_both_is_nan_and_from_one_is_zero() -> None:
    with np.errstate(all="raise"):  # and no warning comes with the NaN
        dice = metrics.dice(np.array([0, 1]), np.array([0, 0]), 3)
    assert dice[0] == pytest.approx(2 / 3) and dice[1] == 0 and np.isnan(dice[2])


WRONG = [
    (np.zeros((2, 3), int), np.zeros((3, 2), int), ValueError, r"\(2, 3\) and \(3, 2\).*argmax"),
    (np.zeros(0, int), np.zeros(0, int), ValueError, "at least one element"),
    (np.zeros(3), np.zeros(3, int), TypeError, "prediction.*float64.*argmax"),
    (np.zeros(3, int), np.zeros(3, np.float32), TypeError, "target.*float32"),
    (np.array([0, 3]), np.array([0, 1]), ValueError, r"\[0, 3\).*found 0 to 3"),
    (np.array([0, 1]), np.array([-1, 1]), ValueError, "found -1 to 1"),
]


@pytest.mark.parametrize(("prediction", "target", "error", "message"), WRONG)
@pytest.mark.parametrize("metric", [metrics.confusion_matrix, metrics.dice, metrics.iou])
def test_wrong_input(metric, prediction, target, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        metric(prediction, target, 3)


@pytest.mark.parametrize(("prediction", "target", "error", "message"), WRONG[:4])
def test_wrong_input_of_accuracy(prediction, target, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        metrics.accuracy(prediction, target)


def test_a_single_label_has_no_cases() -> None:
    with pytest.raises(ValueError, match="first axis"):
        metrics.dice(np.int64(1), np.int64(1), 2, per_case=True)


# --- scores and instances -------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32), st.integers(2, 40), st.sampled_from([2, 5, 1000]))
def test_auc_agrees_with_scikit_learn_also_with_ties(seed: int, count: int, values: int) -> None:
    generator = np.random.default_rng(seed)
    labels = np.append([0, 1], generator.integers(0, 2, count))
    scores = generator.integers(0, values, count + 2) / values
    expected = pytest.importorskip("sklearn.metrics").roc_auc_score(labels, scores)
    assert metrics.roc_auc(scores, labels) == pytest.approx(expected, abs=1e-12)
    assert metrics.roc_auc(np.exp(scores), labels) == metrics.roc_auc(scores, labels)


def test_auc_refuses() -> None:
    with pytest.raises(ValueError, match=r"\(3,\) and \(2,\)"):
        metrics.roc_auc([0.1, 0.2, 0.3], [0, 1])
    for labels in ([0, 0], [1, 1], [1, 2]):
        with pytest.raises(ValueError, match="labels must contain 0 and 1, both"):
            metrics.roc_auc([0.1, 0.2], labels)
    with pytest.raises(ValueError, match="1 of them are NaN"):
        metrics.roc_auc([np.nan, 0.2], [0, 1])


def test_instances_counted_by_hand() -> None:
    target, found = np.zeros((8, 12), int), np.zeros((8, 12), int)
    target[1:5, 1:5] = 7  # 16 pixels; found 12 of them and nothing else: IoU 0.75
    found[1:5, 1:4] = 1
    target[1:5, 8:12] = 3  # found as two halves: IoU 0.5 each, which is not above 0.5
    found[1:3, 8:12] = 2
    found[3:5, 8:12] = 9
    target[6:8, 0:3] = 4  # missed
    counts = metrics.instance_counts(found, target, (0.5, 0.7, 0.8))
    assert counts.tolist() == [[1, 2, 2], [1, 2, 2], [0, 3, 3]]
    np.testing.assert_allclose(metrics.average_precision(counts), [1 / 5, 1 / 5, 0])
    assert metrics.instance_counts(np.zeros((2, 2), int), np.zeros((2, 2), int)).tolist() == [[0, 0, 0]]
    assert np.isnan(metrics.average_precision(np.zeros(3, int)))


@given(st.integers(0, 2**32), st.floats(0.5, 1))
def test_instances_against_set_arithmetic(seed: int, threshold: float) -> None:
    generator = np.random.default_rng(seed)
    target = np.kron(generator.integers(0, 4, (3, 3)), np.ones((3, 3), int))
    found = np.where(generator.random(target.shape) < 0.3, 0, target * 5)
    tp = 0
    for t in set(target.flat) - {0}:
        for p in set(found.flat) - {0}:
            tp += ((target == t) & (found == p)).sum() / ((target == t) | (found == p)).sum() > threshold
    ((counted, fp, fn),) = metrics.instance_counts(found, target, [threshold]).tolist()
    assert (counted, fp, fn) == (tp, len(set(found.flat) - {0}) - tp, len(set(target.flat) - {0}) - tp)


def test_instances_refuse_thresholds_that_match_two() -> None:
    with pytest.raises(ValueError, match=r"\[0.5, 1\], but are \[0.3\]"):
        metrics.instance_counts(np.zeros((2, 2), int), np.zeros((2, 2), int), [0.3])
