"""Exercises in convolution arithmetic that know what learners get wrong.

    q = quiz.question("size", seed=1)
    print(q)
    q.check(7)      # right or not, and which misconception leads to 7
    q.hint(), q.solution()
    print(quiz.sheet(10, seed=1))

In a lab the checker of a :class:`tinyconv.teaching.Quiz` returns ``q.diagnose(answer)``. All sizes come from
:mod:`tinyconv.geometry`, all numbers from traces; a wrong answer is made by giving those the wrong settings.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, TypeAlias

import numpy as np

from tinyconv import functional
from tinyconv.explain.arithmetic import Setting, same_padding, solve
from tinyconv.explain.text import WIDTH
from tinyconv.explain.trace import trace
from tinyconv.explain.triples import Triples
from tinyconv.geometry import (
    Geometry,
    Sizes,
    output_size,
    receptive_field,
    transposed_output_size,
    window_geometry,
)
from tinyconv.kernels.arrays import Array

#: A number, a tuple of numbers, a set of pixels, or None: "illegal".
Answer: TypeAlias = "int | Sizes | frozenset[Sizes] | None"

#: What learners get wrong, and what is true.
MISCONCEPTIONS = {
    "forgot the +1": "The first window stands before the first stride; add 1 to the number of strides.",
    "counted the padding once": "Padding stands on both sides: 2p, not p.",
    "ceiling for floor": "A last window that does not fit is dropped; round the quotient down.",
    "d zeros between the taps": "Between two taps of a dilated kernel lie d - 1 pixels, not d.",
    "the kernel spans d k": "A dilated kernel spans d(k-1) + 1 pixels, not d k; no gap follows the last tap.",
    "ignored the stride": "The windows do not stand at every pixel, but at every s-th.",
    "ignored the padding": "The padding moves the first window to before the image, and counts as zeros.",
    "ignored the dilation": "The taps of a dilated kernel are d pixels apart.",
    "used the transposed formula": "That is the size that a transposed convolution makes; a direct one divides by s.",
    "used the direct formula": "That is the size that a convolution makes; a transposed one multiplies by s.",
    "ignored the output padding": "Output padding adds that many positions at the end.",
    "a stride must divide": "A stride that does not divide is legal; the last pixels are then in no window.",
    "output padding adds zeros": "Output padding adds positions, and these receive real products.",
    "the same settings undo it": "Where the stride does not divide, the pixels left over do not come back.",
    "'same' pads evenly": "An even total of taps needs an odd padding; the extra zero goes after the image.",
    "'same' takes any stride": "padding='same' is refused for a stride above 1.",
    "rotated the kernel": "A convolution of deep learning does not rotate its kernel.",
    "took the padding for pixels": "What lies in the padding is zero, and no pixel of the image.",
    "ignored the groups": "A filter sees only the C_in / groups channels of its group.",
    "forgot the bias": "Each filter has a bias, one parameter more.",
}


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right, the names in MISCONCEPTIONS that lead to it, and a sentence. True if right."""

    right: bool
    misconceptions: tuple[str, ...]
    sentence: str

    def __bool__(self) -> bool:
        return self.right

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True)
class Question:
    """An exercise. ``form`` says what an answer looks like; ``wrong`` holds an answer for each misconception here."""

    kind: str
    text: str
    form: str
    answer: Answer
    worked: str
    hints: tuple[str, ...]
    wrong: Mapping[str, Answer]
    #: Where several answers are right: who is, and which misconceptions another shows.
    fits: Callable[[Any], bool] | None = field(default=None, repr=False, compare=False)
    shows: Callable[[Any], Iterable[str]] | None = field(default=None, repr=False, compare=False)

    def check(self, answer: Any) -> Verdict:
        """Right or wrong, with the misconception behind a wrong answer where one leads to it.

        TypeError for an answer that is not of the form asked for.
        """
        given = _read(answer, self.answer, self.form)
        if given == self.answer or (self.fits is not None and given is not None and self.fits(given)):
            return Verdict(True, (), "Right.")
        if self.shows is not None and given is not None:
            names = tuple(self.shows(given))
        else:
            names = tuple(name for name, value in self.wrong.items() if value == given)
        told = " Or: ".join(f"{name}. {MISCONCEPTIONS[name]}" for name in names)
        return Verdict(False, names, f"{_written(given)} is not right: {told or self.hints[0]}")

    def diagnose(self, answer: Any) -> str | None:
        """None for a right answer, else what is wrong with it: what a checker of teaching.Quiz returns."""
        verdict = self.check(answer)
        return None if verdict else verdict.sentence

    def hint(self, number: int = 1) -> str:
        """The first hint, or a later one; the last again where there is no other."""
        return self.hints[min(max(number, 1), len(self.hints)) - 1]

    def solution(self) -> str:
        """The answer and the way to it."""
        return f"{_written(self.answer)}. {self.worked}"

    def __str__(self) -> str:
        return _wrapped(f"{self.text}\nAnswer with {self.form}.")


@dataclass(frozen=True)
class Sheet:
    """Questions, numbered from 1 in ``text``, with their solutions in ``key``; prints as both."""

    questions: tuple[Question, ...]
    text: str
    key: str

    def __str__(self) -> str:
        return f"{self.text}\n\nKey\n\n{self.key}"


def question(kind: str, seed: int = 0) -> Question:
    """One question of a kind in KINDS. The same seed gives the same question."""
    if kind not in _MAKERS:
        raise ValueError(f"question: kind must be one of {', '.join(KINDS)}, but is {kind!r}.")
    numbers = np.random.default_rng([seed, KINDS.index(kind)])
    while True:  # settings are drawn until they tell a right answer from the wrong ones
        made = _MAKERS[kind](numbers)
        if made is not None:
            return made


def sheet(n: int, seed: int = 0) -> Sheet:
    """``n`` questions of all kinds in turn, with a key. The same seed gives the same sheet."""
    if n < 1:
        raise ValueError(f"sheet: n must be at least 1, but is {n}.")
    numbers = np.random.default_rng(seed)
    kinds: list[str] = []
    while len(kinds) < n:
        kinds += numbers.permutation(KINDS).tolist()
    questions = tuple(question(kind, int(numbers.integers(2**31))) for kind in kinds[:n])
    text = "\n\n".join(_wrapped(f"{place}. {q.text}\nAnswer with {q.form}.") for place, q in enumerate(questions, 1))
    key = "\n".join(_wrapped(f"{place}. {q.solution()}") for place, q in enumerate(questions, 1))
    return Sheet(questions, text, key)


def _wrapped(text: str) -> str:
    """For a terminal of 80 columns; lines that fit stay as they are."""
    return "\n".join(textwrap.fill(line, WIDTH) if len(line) > WIDTH else line for line in text.split("\n"))


def _read(answer: Any, right: Answer, form: str) -> Answer:
    """The answer as plain ints, tuples and frozensets."""
    if answer is None or (isinstance(answer, str) and answer == "illegal"):
        return None
    try:
        if isinstance(right, frozenset):
            return frozenset(tuple(_whole(i) for i in pixel) for pixel in answer)
        if isinstance(right, tuple):
            listed = tuple(_whole(part) for part in answer)
            if len(listed) == len(right):
                return listed
        else:
            return _whole(answer)
    except (TypeError, ValueError):
        pass
    raise TypeError(f"check: the answer must be {form}, but is {answer!r}.")


def _whole(value: Any) -> int:
    if isinstance(value, str) or value != int(value):
        raise TypeError
    return int(value)


def _written(answer: Answer) -> str:
    if isinstance(answer, frozenset):
        return " ".join(str(pixel) for pixel in sorted(answer))
    return "illegal" if answer is None else str(answer)


def _differing(right: Answer, wrong: Mapping[str, Answer]) -> dict[str, Answer]:
    return {name: value for name, value in wrong.items() if value != right}


def _draw(numbers: np.random.Generator, low: int, high: int) -> int:
    """One of low, ..., high."""
    return int(numbers.integers(low, high + 1))


# --------------------------------------------------------------------------------------------------
# Sizes

_NUMBER = "one whole number, or 'illegal'"


def _wrong_sizes(i: int, k: int, s: int, p: int, d: int) -> dict[str, int | None]:
    """The size that each misconception gives."""
    rounded_up = output_size(i + s - 1, k, s, p, d)
    wrong: dict[str, int | None] = {
        "forgot the +1": output_size(i, k, s, p, d) - 1,
        "counted the padding once": output_size(i, k, s, (p, 0), d),
        "ceiling for floor": rounded_up,
        "the kernel spans d k": output_size(i, d * k, s, p),
        "ignored the stride": output_size(i, k, 1, p, d),
        "used the transposed formula": transposed_output_size(i, k, s, p, d),
    }
    if d > 1:
        wrong["d zeros between the taps"] = output_size(i, k, s, p, d + 1)
    if rounded_up != output_size(i, k, s, p, d):
        wrong["a stride must divide"] = None
    return wrong


def _size(numbers: np.random.Generator) -> Question | None:
    i, k, s, p, d = (_draw(numbers, *ends) for ends in ((8, 40), (2, 5), (1, 4), (0, 3), (1, 3)))
    o = output_size(i, k, s, p, d)
    wrong = _differing(o, _wrong_sizes(i, k, s, p, d))
    if o < 2 or len(set(wrong.values())) < 4:
        return None
    worked = f"floor(({i} + 2*{p} - {d}*({k} - 1) - 1) / {s}) + 1 = {o}"
    return Question(
        "size",
        f"A convolution takes {i} pixels with kernel {k}, stride {s}, padding {p}, dilation {d}. How many outputs?",
        _NUMBER,
        o,
        worked,
        ("Count the places where the window can start.", "floor((i + 2p - d(k-1) - 1) / s) + 1"),
        wrong,
    )


def _transposed(numbers: np.random.Generator) -> Question | None:
    i, k, s, p, d = (_draw(numbers, *ends) for ends in ((3, 12), (2, 5), (1, 4), (0, 2), (1, 2)))
    a = _draw(numbers, 0, max(s, d) - 1)
    o = transposed_output_size(i, k, s, p, d, a)
    wrong = _differing(
        o,
        {
            "used the direct formula": output_size(i, k, s, p, d),
            "counted the padding once": transposed_output_size(i, k, s, (p, 0), d, a),
            "ignored the stride": transposed_output_size(i, k, 1, p, d, a),
            "ignored the output padding": transposed_output_size(i, k, s, p, d),
            "forgot the +1": o - 1,
            "the kernel spans d k": transposed_output_size(i, d * k, s, p, 1, a),
        },
    )
    if o < 2 or len(set(wrong.values())) < 3:
        return None
    return Question(
        "transposed",
        f"A transposed convolution takes {i} units with kernel {k}, stride {s}, padding {p}, dilation {d}, output "
        f"padding {a}. How many pixels does it make?",
        _NUMBER,
        o,
        f"({i} - 1)*{s} - 2*{p} + {d}*({k} - 1) + {a} + 1 = {o}",
        ("Each unit lays a copy of the kernel down, s pixels after the last.", "(i - 1)s - 2p + d(k-1) + a + 1"),
        wrong,
    )


def _undo(numbers: np.random.Generator) -> Question | None:
    i, k, s, p = (_draw(numbers, *ends) for ends in ((8, 32), (2, 5), (2, 4), (0, 1)))
    o = output_size(i, k, s, p)
    back = transposed_output_size(o, k, s, p)
    if back == i:
        return None
    return Question(
        "undo",
        f"A convolution with kernel {k}, stride {s}, padding {p} makes {o} outputs of {i} pixels. A transposed "
        f"convolution with the same kernel, stride and padding takes the {o}. How many pixels does it make?",
        _NUMBER,
        back,
        f"({o} - 1)*{s} - 2*{p} + {k} = {back}; output_padding={i - back} brings the other {i - back} back.",
        (f"Does the last window end at the last of the {i} pixels?", "(o - 1)s - 2p + k"),
        _differing(back, {"the same settings undo it": i, "used the direct formula": output_size(o, k, s, p)}),
    )


def _same(numbers: np.random.Generator) -> Question | None:
    k, s, d = _draw(numbers, 2, 6), _draw(numbers, 1, 2), _draw(numbers, 1, 2)
    right = same_padding(k, d)
    before, after = right
    text = f"A convolution has kernel {k}, stride {s}, dilation {d} and padding='same'. "
    if s > 1:
        i = _draw(numbers, 8, 32)
        return Question(
            "same",
            f"{text}How many outputs does it make of {i} pixels?",
            _NUMBER,
            None,
            "padding='same' means as many outputs as pixels, which a stride above 1 cannot give, so it is refused.",
            ("What would 'same' promise, and can a stride keep it?",),
            {"'same' takes any stride": output_size(i, 1, s), "ignored the stride": i},
        )
    if before == after:
        return None
    return Question(
        "same",
        f"{text}How many zeros stand before and after the image?",
        "(before, after)",
        right,
        f"The window spans {d}*({k} - 1) + 1 pixels, so {before + after} zeros are needed; the extra one goes after.",
        ("As many outputs as pixels: the padding is what the window spans, less one, in all.",),
        _differing(right, {"'same' pads evenly": (after, after), "ignored the dilation": same_padding(k)}),
    )


def _invert(numbers: np.random.Generator) -> Question | None:
    i, k = _draw(numbers, 8, 32), _draw(numbers, 2, 5)
    o = _draw(numbers, 3, i - 2)
    settings = solve(i, o, k)
    if not settings:
        return None

    def fits(given: Sizes) -> bool:
        s, p, d = given
        return s >= 1 and p >= 0 and d >= 1 and output_size(i, k, s, p, d) == o

    def shows(given: Sizes) -> list[str]:
        s, p, d = given
        legal = s >= 1 and p >= 0 and d >= 1
        return [name for name, size in _wrong_sizes(i, k, s, p, d).items() if size == o] if legal else []

    wrong: dict[str, Answer] = {}
    for at in np.ndindex(4, 4, 3):
        tried = Setting(at[0] + 1, at[1], at[2] + 1)
        if not fits(tried):
            wrong |= {name: tuple(tried) for name in shows(tried) if name not in wrong}
    s, p, d = settings[0]
    return Question(
        "invert",
        f"Find a stride s, a padding p and a dilation d with which a kernel of {k} makes {o} outputs of {i} pixels.",
        "(s, p, d)",
        tuple(settings[0]),
        f"floor(({i} + 2*{p} - {d}*({k} - 1) - 1) / {s}) + 1 = {o}; other settings fit too, if they give {o}.",
        (f"About {i} / {o} is the stride.", "Solve floor((i + 2p - d(k-1) - 1) / s) + 1 = o, first with d = 1."),
        wrong,
        fits,
        shows,
    )


# --------------------------------------------------------------------------------------------------
# Numbers and pixels


def _grid(array: Array, hidden: Sizes | None = None) -> str:
    """Rows of whole numbers, with a question mark for one."""
    rows = np.atleast_2d(array)
    cells = [["?" if (r, c) == hidden else f"{v:g}" for c, v in enumerate(row)] for r, row in enumerate(rows)]
    return "\n".join("   " + " ".join(cell.rjust(3) for cell in row) for row in cells)


def _number(numbers: np.random.Generator) -> Question | None:
    x, w = (numbers.integers(0, 4, (1, 1, n, n)).astype(float) for n in (5, 3))
    s, p, d = _draw(numbers, 1, 2), _draw(numbers, 0, 1), _draw(numbers, 1, 2)
    if s * d == 1 and p == 0:
        return None

    def at(index: Sizes, w: Array = w, s: int = s, p: int = p, d: int = d) -> int | None:
        t = trace(functional.conv2d, x, w, stride=s, padding=p, dilation=d)
        inside = all(i < n for i, n in zip(index, t.output))
        return int(t.at(output=index).value) if inside else None

    t = trace(functional.conv2d, x, w, stride=s, padding=p, dilation=d)
    y = t.forward()[0, 0]  # (OH, OW)
    row, column = (_draw(numbers, 0, n - 1) for n in y.shape)
    index = (0, 0, row, column)
    tried = {
        "rotated the kernel": at(index, w=w[..., ::-1, ::-1]),
        "ignored the stride": at(index, s=1),
        "ignored the padding": at(index, p=0),
        "ignored the dilation": at(index, d=1),
    }
    right = at(index)
    wrong = _differing(right, {name: value for name, value in tried.items() if value is not None})
    if len(wrong) < 2:
        return None
    terms = " + ".join(f"{term.left:g}*{term.right:g}" for term in t.at(output=index).terms)
    return Question(
        "number",
        f"The input\n{_grid(x[0, 0])}\nis convolved with the kernel\n{_grid(w[0, 0])}\n"
        f"with stride {s}, padding {p}, dilation {d}, to\n{_grid(y, (row, column))}\nWhich number is missing?",
        "one whole number",
        right,
        f"{terms} = {right}",
        ("Lay the kernel's first tap where this window starts.", f"These are the products: {terms}"),
        wrong,
    )


def _added(numbers: np.random.Generator) -> Question | None:
    x, w = (numbers.integers(1, 5, (1, 1, 3)).astype(float) for _ in range(2))
    t = trace(functional.conv_transpose1d, x, w, stride=2, padding=1, output_padding=1)
    last = t.at(output=(0, 0, t.output[2] - 1))
    terms = " + ".join(f"{term.left:g}*{term.right:g}" for term in last.terms)
    return Question(
        "added",
        f"The signal\n{_grid(x[0, 0])}\ngoes through a transposed convolution with the kernel\n{_grid(w[0, 0])}\n"
        "with stride 2, padding 1, output padding 1. What is the last number that it makes?",
        "one whole number",
        int(last.value),
        f"The last position is one that the padding would have cropped: {terms} = {last.value:g}",
        ("Lay the kernels down, then crop; output padding crops one position less at the end.",),
        _differing(int(last.value), {"output padding adds zeros": 0}),
    )


def _pixels(numbers: np.random.Generator) -> Question | None:
    i, k, s, p, d = (_draw(numbers, *ends) for ends in ((5, 8), (2, 3), (1, 2), (0, 2), (1, 2)))
    if output_size(i, k, s, p, d) < 2:
        return None
    g = window_geometry("quiz", (i, i), k, s, p, d)
    o = tuple(_draw(numbers, 0, n - 1) for n in g.output)

    def window(g: Geometry) -> frozenset[Sizes]:
        return frozenset(pixel for _, pixel in g.window(o))

    right, pair = window(g), (1, 1)
    everywhere = frozenset((g.input_index(0, o[0], a), g.input_index(1, o[1], b)) for a, b in g.taps())
    wrong = {
        "ignored the stride": window(replace(g, stride=pair)),
        "ignored the padding": window(replace(g, padding=((0, 0), (0, 0)))),
        "ignored the dilation": window(replace(g, dilation=pair)),
        "took the padding for pixels": everywhere,
    }
    if d > 1:
        wrong["d zeros between the taps"] = window(replace(g, dilation=(d + 1, d + 1)))
    distinct = _differing(right, wrong)
    if not right or len(distinct) < 3:
        return None
    return Question(
        "pixels",
        f"An image of {i} x {i} pixels is convolved with a kernel of {k} x {k}, stride {s}, padding {p}, dilation {d}. "
        f"Which of its pixels feed the output in row {o[0]}, column {o[1]}, counted from 0?",
        "a set of (row, column)",
        right,
        f"The window starts {p} before the image, moved by {s} an output; its taps are {d} apart.",
        ("Find the window's first tap, row and column each.", "Leave out what lies in the padding."),
        distinct,
    )


# --------------------------------------------------------------------------------------------------
# Networks


def _field(numbers: np.random.Generator) -> Question | None:
    layers = [
        (_draw(numbers, 2, 5), _draw(numbers, 1, 3), _draw(numbers, 0, 1), _draw(numbers, 1, 3)) for _ in range(3)
    ]

    def size(change: Callable[[int, int, int, int], tuple[int, int, int, int]]) -> int:
        return receptive_field(change(*layer) for layer in layers).size

    right = size(lambda k, s, p, d: (k, s, p, d))
    wrong = _differing(
        right,
        {
            "ignored the stride": size(lambda k, s, p, d: (k, 1, p, d)),
            "ignored the dilation": size(lambda k, s, p, d: (k, s, p, 1)),
            "the kernel spans d k": size(lambda k, s, p, d: (d * k, s, p, 1)),
            "d zeros between the taps": size(lambda k, s, p, d: (k, s, p, d + 1)),
        },
    )
    if len(set(wrong.values())) < 3 or all(d == 1 for *_, d in layers):
        return None
    told = "; ".join(f"kernel {k}, stride {s}, padding {p}, dilation {d}" for k, s, p, d in layers)
    steps = [1, *(receptive_field(layers[place:]).size for place in (2, 1, 0))]
    return Question(
        "field",
        f"Three convolutions follow one another: {told}. How many pixels wide is what one output sees?",
        "one whole number",
        right,
        f"From the last layer to the first: {', '.join(map(str, steps))}.",
        ("Go backwards from one output.", "r <- s r + d(k-1) + 1 - s, starting at r = 1, the last layer first"),
        wrong,
    )


def _cost(numbers: np.random.Generator) -> Question | None:
    groups, k, s, p = _draw(numbers, 1, 4), _draw(numbers, 2, 5), _draw(numbers, 1, 2), _draw(numbers, 0, 2)
    c_in, c_out, i = groups * _draw(numbers, 1, 4), groups * _draw(numbers, 1, 4), _draw(numbers, 8, 32)

    def cost(groups: int = groups, s: int = s, bias: int = 1) -> Sizes:
        triples = Triples(window_geometry("quiz", (i, i), k, s, p), 1, c_in, c_out, groups)
        return (prod(triples.kernel) + bias * c_out, len(triples))

    g = window_geometry("quiz", (i, i), k, s, p)
    per = f"{c_in // groups}*{k}*{k}"
    right = cost()
    return Question(
        "cost",
        f"A Conv2d({c_in}, {c_out}, {k}, stride={s}, padding={p}, groups={groups}), with bias, takes an image of "
        f"{i} x {i} pixels. How many parameters and how many multiply-adds?",
        "(parameters, multiply-adds)",
        right,
        f"{c_out}*({per} + 1) parameters; {c_out}*{g.output[0]}*{g.output[1]} outputs of {per} products each.",
        (
            "Look at one filter, then at one output; products with the padding count, the bias is no product.",
            "C_out (C_in/groups k k + 1) parameters; C_out OH OW C_in/groups k k multiply-adds",
        ),
        _differing(
            right,
            {"ignored the groups": cost(groups=1), "ignored the stride": cost(s=1), "forgot the bias": cost(bias=0)},
        ),
    )


#: The lines of a convolution of a padded signal: right, wrong, and what the line has to do.
_LINES = (
    ("x = np.pad(x, p)", "x = np.pad(x, (p, 0))", "zeros must stand on both sides"),
    (
        "o = (len(x) - d * (len(w) - 1) - 1) // s + 1",
        "o = (len(x) - d * len(w)) // s + 1",
        "a dilated kernel spans d(k-1) + 1 pixels",
    ),
    ("y = np.zeros(o)", "y = np.ones(o)", "sums begin at zero"),
    ("for j in range(o):", "for j in range(1, o):", "the first output is number 0"),
    ("    for k in range(len(w)):", "    for k in range(len(w) - 1):", "the last tap counts too"),
    (
        "        y[j] += w[k] * x[s * j + d * k]",
        "        y[j] = w[k] * x[s * j + d * k]",
        "the products of a window are added",
    ),
    ("return y", "return y[::-1]", "the outputs are in the order of the pixels"),
)


def _bug(numbers: np.random.Generator) -> Question | None:
    line = _draw(numbers, 1, len(_LINES))
    right, false, why = _LINES[line - 1]
    body = [wrong if place == line else fine for place, (fine, wrong, _) in enumerate(_LINES, 1)]
    code = "\n".join(f"{place}      {written}" for place, written in enumerate(body, 1))
    return Question(
        "bug",
        f"One line of this convolution of a signal is wrong. Which?\n   def conv(x, w, s, p, d):\n{code}",
        "the number of the line",
        line,
        f"{false.strip()} must be {right.strip()}: {why}.",
        ("Go through it with three pixels, a kernel of two, stride, padding and dilation 2.", f"Remember: {why}."),
        {},
    )


_MAKERS: dict[str, Callable[[np.random.Generator], Question | None]] = {
    "size": _size,
    "transposed": _transposed,
    "undo": _undo,
    "same": _same,
    "invert": _invert,
    "number": _number,
    "added": _added,
    "pixels": _pixels,
    "field": _field,
    "cost": _cost,
    "bug": _bug,
}

#: The kinds of questions.
KINDS = tuple(_MAKERS)
