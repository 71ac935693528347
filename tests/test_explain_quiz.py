"""Exercises: every solution is right by torch, every misconception's answer is recognised, a seed is a sheet."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from torch import nn as tnn

from tinyconv import explain
from tinyconv.explain import quiz
from tinyconv.teaching import NotSolved, Quiz

SEEDS = range(40)
ALL = [(kind, seed) for kind in quiz.KINDS for seed in SEEDS]


def integers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"-?\d+", text)]


def signal(i: int) -> torch.Tensor:
    return torch.zeros(1, 1, i, dtype=torch.float64)


def kernel(k: int) -> torch.Tensor:
    return torch.ones(1, 1, k, dtype=torch.float64)


def grids(text: str) -> list[torch.Tensor]:
    """The grids of numbers in a question, as (1, 1, H, W); a question mark is NaN."""
    blocks = re.findall(r"(?:^ {3}[ \d?]+$\n?)+", text, re.MULTILINE)
    rows = [[[float(c.replace("?", "nan")) for c in row.split()] for row in block.splitlines()] for block in blocks]
    return [torch.tensor(grid, dtype=torch.float64)[None, None] for grid in rows]


def by_torch(q: quiz.Question) -> Any:
    """The answer, from the words of the question and torch alone."""
    n = integers(q.text)
    if q.kind == "size":
        i, k, s, p, d = n
        return TF.conv1d(signal(i), kernel(k), None, s, p, d).shape[-1]
    if q.kind == "transposed":
        i, k, s, p, d, a = n
        return TF.conv_transpose1d(signal(i), kernel(k), None, s, p, a, 1, d).shape[-1]
    if q.kind == "undo":
        k, s, p, o, i, _ = n
        assert TF.conv1d(signal(i), kernel(k), None, s, p).shape[-1] == o
        return TF.conv_transpose1d(signal(o), kernel(k), None, s, p).shape[-1]
    if q.kind == "same":
        k, s, d = n[:3]
        if s > 1:
            with pytest.raises(RuntimeError, match="same"):
                TF.conv1d(signal(n[3]), kernel(k), None, s, "same", d)
            return None
        grown = TF.conv1d(torch.arange(1, 30, dtype=torch.float64)[None, None], kernel(k), None, 1, "same", d)
        return next(
            (before, after)
            for before in range(20)
            for after in range(20)
            if torch.equal(
                grown,
                TF.conv1d(
                    TF.pad(torch.arange(1, 30.0).double()[None, None], (before, after)), kernel(k), None, 1, 0, d
                ),
            )
        )
    if q.kind == "number":
        x, w, y = grids(q.text)
        s, p, d = integers(q.text.split("with stride")[1])[:3]
        hole = torch.isnan(y)
        full = TF.conv2d(x, w, None, s, p, d)
        assert hole.sum() == 1 and torch.equal(full[~hole], y[~hole])
        return int(full[hole].item())
    if q.kind == "added":
        x, w = grids(q.text)
        return int(TF.conv_transpose1d(x[0], w[0], None, 2, 1, 1)[0, 0, -1].item())
    if q.kind == "pixels":
        i, _, k, _, s, p, d, row, column, _ = n
        x = torch.zeros(1, 1, i, i, requires_grad=True)
        TF.conv2d(x, torch.ones(1, 1, k, k), None, s, p, d)[0, 0, row, column].backward()
        assert x.grad is not None
        return {tuple(at) for at in x.grad[0, 0].nonzero().tolist()}
    if q.kind == "field":
        x = torch.zeros(1, 1, 400, dtype=torch.float64, requires_grad=True)
        y = x
        for layer in np.reshape(n, (3, 4)).tolist():
            y = TF.conv1d(y, kernel(layer[0]), None, *layer[1:])
        y[0, 0, y.shape[-1] // 2].backward()
        assert x.grad is not None
        seen = x.grad[0, 0].nonzero()
        return int(seen.max() - seen.min()) + 1
    assert q.kind == "cost"
    _, c_in, c_out, k, s, p, groups, i, _ = n
    layer = tnn.Conv2d(c_in, c_out, k, s, p, groups=groups)
    return sum(w.numel() for w in layer.parameters()), layer(torch.zeros(1, c_in, i, i)).numel() * layer.weight[
        0
    ].numel()


@pytest.mark.parametrize("kind", [kind for kind in quiz.KINDS if kind not in ("invert", "bug")])
@pytest.mark.filterwarnings("ignore:Using padding=.same.")
def test_answers_are_those_of_torch(kind: str) -> None:
    for seed in SEEDS:
        q = quiz.question(kind, seed)
        assert q.answer == by_torch(q), q.text


def test_inverted_sizes_are_those_of_torch() -> None:
    for seed in SEEDS:
        q = quiz.question("invert", seed)
        k, o, i = integers(q.text)
        for s, p, d in np.ndindex(4, 4, 3):
            x, given = signal(i), (s + 1, p, d + 1)
            fits = i + 2 * p > (d + 1) * (k - 1) and TF.conv1d(x, kernel(k), None, *given).shape[-1] == o
            assert bool(q.check(given)) == fits
        assert not q.check((0, 0, 1)) and not q.check("illegal")


def run(source: list[str], *args: Any) -> Any:
    namespace: dict[str, Any] = {"np": np}
    exec("def conv(x, w, s, p, d):\n" + "\n".join(f"    {line}" for line in source), namespace)
    try:
        return namespace["conv"](*args)
    except IndexError:
        return None


def test_the_named_line_is_the_bug() -> None:
    named = set()
    numbers = np.random.default_rng(3)
    for seed in SEEDS:
        q = quiz.question("bug", seed)
        assert isinstance(q.answer, int)
        lines = [line[7:] for line in q.text.splitlines()[2:]]
        right = q.worked.split(" must be ")[1].rsplit(": ", 1)[0]
        written = lines[q.answer - 1]
        mended = [*lines[: q.answer - 1], written[: len(written) - len(written.lstrip())] + right, *lines[q.answer :]]
        x, w = numbers.standard_normal(9), numbers.standard_normal(3)
        expected = TF.conv1d(torch.tensor(x)[None, None], torch.tensor(w)[None, None], None, 2, 2, 2)[0, 0].numpy()
        np.testing.assert_allclose(run(mended, x, w, 2, 2, 2), expected, rtol=1e-12, atol=1e-12)
        wrong = run(lines, x, w, 2, 2, 2)
        assert wrong is None or wrong.shape != expected.shape or not np.allclose(wrong, expected)
        named.add(q.answer)
    assert named == set(range(1, 8))


@pytest.mark.parametrize("kind", quiz.KINDS)
def test_solutions_are_right_and_misconceptions_are_named(kind: str) -> None:
    for seed in SEEDS:
        q = quiz.question(kind, seed)
        verdict = q.check(q.answer)
        assert verdict and str(verdict) == "Right." and q.diagnose(q.answer) is None
        for name, answer in q.wrong.items():
            verdict = q.check(answer)
            assert not verdict and name in verdict.misconceptions, (q.text, name, answer)
            assert quiz.MISCONCEPTIONS[name] in str(verdict) and q.diagnose(answer) == str(verdict)


def test_every_misconception_is_asked_about() -> None:
    shown = {name for kind, seed in ALL for name in quiz.question(kind, seed).wrong}
    assert shown == set(quiz.MISCONCEPTIONS)


def test_an_answer_of_no_known_kind_gets_a_hint() -> None:
    q = quiz.question("size", 1)
    verdict = q.check(10**6)
    assert not verdict and verdict.misconceptions == () and q.hint() in verdict.sentence
    assert q.hint(2) == q.hint(9) == q.hints[-1] and q.hint(0) == q.hint()
    assert q.solution().startswith(f"{q.answer}. floor((")


def test_answers_may_be_numpy_lists_or_words() -> None:
    size, cost, pixels = (quiz.question(kind, 2) for kind in ("size", "cost", "pixels"))
    assert isinstance(size.answer, int) and isinstance(cost.answer, tuple) and isinstance(pixels.answer, frozenset)
    assert size.check(np.int64(size.answer)) and size.check(float(size.answer))
    assert cost.check(list(cost.answer)) and cost.check(np.array(cost.answer))
    assert pixels.check([list(pixel) for pixel in pixels.answer])
    refused = next(q for q in (quiz.question("same", seed) for seed in SEEDS) if q.answer is None)
    assert refused.check("illegal") and not refused.check(7)
    for q, answer in ((size, "seven"), (size, 1.5), (size, (1, 2)), (cost, 3), (cost, (1, 2, 3)), (pixels, 4)):
        with pytest.raises(TypeError, match=f"check: the answer must be {re.escape(q.form)}, but is "):
            q.check(answer)


def test_the_same_seed_gives_the_same_sheet() -> None:
    one, again, other = quiz.sheet(25, seed=4), quiz.sheet(25, seed=4), quiz.sheet(25, seed=5)
    assert str(one) == str(again) and one == again and str(one) != str(other)
    assert {q.kind for q in quiz.sheet(len(quiz.KINDS)).questions} == set(quiz.KINDS)
    assert all(len(line) <= 80 for line in str(one).splitlines())
    for place, q in enumerate(one.questions, 1):
        assert f"\n{place}. {q.text[:30]}" in f"\n{one.text}" and f"\n{place}. " in f"\n{one.key}"
    assert one.text in str(one) and one.key in str(one)


def test_wrong_calls() -> None:
    with pytest.raises(ValueError, match="question: kind must be one of size, transposed, .* but is 'sizes'"):
        quiz.question("sizes")
    with pytest.raises(ValueError, match="sheet: n must be at least 1, but is 0"):
        quiz.sheet(0)


def test_a_question_checks_an_exercise_of_a_lab(capsys: pytest.CaptureFixture[str]) -> None:
    asked = explain.quiz.question("size", 3)
    namespace: dict[str, Any] = {"answer": asked.wrong["forgot the +1"]}
    lab = Quiz(namespace)

    @lab.exercise(1, *asked.hints)
    def _(answer: Any) -> str | None:
        return asked.diagnose(answer)

    with pytest.raises(NotSolved, match="forgot the"):
        lab.check(1)
    namespace["answer"] = asked.answer
    lab.check(1)
    assert "Exercise 1 is right." in capsys.readouterr().out
