"""The fifteen relationships of convolution arithmetic, each with the count that proves it.

Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016. Letters on one axis: ``i``
input size, ``k`` kernel, ``s`` stride, ``p`` padding, ``d`` dilation, ``o`` output size; ``i_t``, ``k_t``, ``s_t``,
``p_t``, ``o_t`` those of the transposed convolution, written as a direct one on an input with s - 1 zeros between
its units and ``a`` more zeros after it. The transposed convolution takes what the convolution makes: i_t = o.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from tinyconv.explain.gallery import GALLERY
from tinyconv.explain.steps import Trace
from tinyconv.explain.trace import example

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The figure of the guide that shows a relationship, by its name in the gallery. The seventh has no convolution.
_FIGURES = {
    1: "no_padding",
    2: "arbitrary_padding",
    3: "half_padding",
    4: "full_padding",
    5: "stride",
    6: "padding_stride",
    8: "transposed_no_padding",
    9: "transposed_arbitrary_padding",
    10: "transposed_half_padding",
    11: "transposed_full_padding",
    12: "transposed_stride",
    13: "transposed_padding_stride",
    14: "transposed_padding_stride_odd",
    15: "dilation",
}


@dataclass(frozen=True)
class Relationship:
    """One theorem: where ``condition`` holds, ``formula`` gives the size. Both are Python, and are what is checked."""

    number: int
    name: str
    condition: str
    formula: str
    latex: str

    def sizes(self, i: int, k: int, s: int = 1, p: int = 0, d: int = 1) -> dict[str, int] | None:
        """The letters that the formula gives for a convolution (i, k, s, p, d); None where the condition fails."""
        letters = {"i": i, "k": k, "s": s, "p": p, "d": d}
        undilated = self.number < 15 and d > 1  # only the last relationship knows of dilation
        if undilated or not eval(self.condition, {}, letters):  # the strings are the constants below
            return None
        letters["i_t"] = count_windows([1] * i, k, s, p, d)
        given = {}
        for equation in self.formula.split("; "):
            name, expression = equation.split(" = ")
            given[name] = letters[name] = eval(expression, {}, letters)
        return given

    def check(self, most_i: int = 12, most_k: int = 5, most_s: int = 4, most_p: int = 4, most_d: int = 3) -> int:
        """Compare the formula with counted windows for all settings in range; the number of settings that it covers.

        A transposed size is compared with the image that the convolution came from, and with the windows on the
        stretched, padded input. Raises RuntimeError at a violation.
        """
        covered = 0
        for i, k, s, p, d in _settings(most_i, most_k, most_s, most_p, most_d if self.number == 15 else 1):
            given = self.sizes(i, k, s, p, d)
            if given is None:
                continue
            covered += 1
            o = count_windows([1] * i, k, s, p, d)
            if "o" in given:
                counted = [(given["o"], o)]
            else:
                a = given.get("a", 0)
                stretched = [1, *([0] * (s - 1) + [1]) * (o - 1), *[0] * a]
                counted = [(given["o_t"], i), (given["o_t"], count_windows(stretched, k, 1, given["p_t"], d))]
            if any(said != found for said, found in counted):
                raise RuntimeError(f"R{self.number}: {self.formula} fails for i={i}, k={k}, s={s}, p={p}, d={d}.")
        return covered

    def example(self) -> Trace:
        """The trace of a small case in which the condition holds, with the sizes of the guide's figure."""
        if self.number == 7:
            return example("max_pool2d", 5, 3, stride=1)
        operator, size, kernel, options = GALLERY[_FIGURES[self.number]]
        return example(operator, size, kernel, **options)

    def plot(self) -> Figure:
        """The last window of :meth:`example` as a matplotlib figure, below the formula and its numbers.

        Its alternative text is its label, ``figure.get_label()``. Needs matplotlib.
        """
        t = self.example()
        step = t.at(output=tuple(n - 1 for n in t.output))
        figure = t.plot(step)
        g, (width, height) = t.g, figure.get_size_inches()
        letters = {"i": g.size[0], "k": g.kernel[0], "s": g.stride[0], "p": g.padding[0][0], "d": g.dilation[0]}
        made = self.sizes(*letters.values())
        assert made is not None, "the example satisfies the condition"
        letters |= {"i_t": g.output[0], **made}
        (name, expression), *_ = (e.split(" = ") for e in self.formula.split("; ") if e.startswith(("o = ", "o_t = ")))
        numbers = re.sub("[a-z](_t)?", lambda letter: str(letters[letter.group()]), expression)
        head = 0.75  # inches
        figure.set_size_inches(width, height + head)
        figure.axes[0].set_position((0, 0, 1, height / (height + head)))
        title = f"R{self.number}  {self.name}"
        figure.text(0.15 / width, 1 - 0.12 / (height + head), title, va="top", fontsize=9, fontweight="bold")
        equation = f"${self.latex}$".replace(r"\frac", r"\dfrac")
        if numbers != str(letters[name]):
            equation += f"   $=$   {numbers.replace('*', '·').replace('//', ' // ')}   $=$   {letters[name]}"
        figure.text(0.15 / width, 1 - 0.56 / (height + head), equation, va="center", fontsize=10)
        shown = ", ".join(f"{letter}={letters[letter]}" for letter in "ikspd")
        figure.set_label(f"{self}. Here {shown} and {name}={letters[name]}. {t.describe(step)}")
        return figure

    def __str__(self) -> str:
        when = "always" if self.condition == "True" else f"if {self.condition}, then"
        return f"R{self.number} {self.name}: {when} {self.formula}"


def count_windows(signal: list[int], k: int, s: int, p: int, d: int) -> int:
    """How many windows fit on a signal with ``p`` zeros put on (or, negative, elements cut off) each end: by trying."""
    padded = [0] * p + signal + [0] * p if p >= 0 else signal[-p:p]
    return sum(len(padded[start:][: d * (k - 1) + 1 : d]) == k for start in range(0, len(padded), s))


def _settings(
    most_i: int, most_k: int, most_s: int, most_p: int, most_d: int
) -> Iterator[tuple[int, int, int, int, int]]:
    """All (i, k, s, p, d) for which a window fits."""
    ranges = (range(1, most + 1) for most in (most_i, most_k, most_s))
    for i, k, s, p, d in product(*ranges, range(most_p + 1), range(1, most_d + 1)):
        if count_windows([1] * i, k, s, p, d):
            yield i, k, s, p, d


RELATIONSHIPS = (
    Relationship(1, "no padding, unit stride", "s == 1 and p == 0", "o = (i - k) + 1", r"o = (i - k) + 1"),
    Relationship(2, "padding, unit stride", "s == 1", "o = (i - k) + 2*p + 1", r"o = (i - k) + 2p + 1"),
    Relationship(3, "half ('same') padding", "s == 1 and k == 2*p + 1", "o = i", r"o = i"),
    Relationship(4, "full padding", "s == 1 and p == k - 1", "o = i + (k - 1)", r"o = i + (k - 1)"),
    Relationship(
        5, "no padding", "p == 0", "o = (i - k)//s + 1", r"o = \left\lfloor \frac{i - k}{s} \right\rfloor + 1"
    ),
    Relationship(
        6,
        "any stride and padding",
        "True",
        "o = (i + 2*p - k)//s + 1",
        r"o = \left\lfloor \frac{i + 2p - k}{s} \right\rfloor + 1",
    ),
    Relationship(7, "pooling", "p == 0", "o = (i - k)//s + 1", r"o = \left\lfloor \frac{i - k}{s} \right\rfloor + 1"),
    Relationship(
        8,
        "transposed, no padding, unit stride",
        "s == 1 and p == 0",
        "k_t = k; s_t = s; p_t = k - 1; o_t = i_t + (k - 1)",
        r"o' = i' + (k - 1)",
    ),
    Relationship(
        9,
        "transposed, padding, unit stride",
        "s == 1",
        "k_t = k; s_t = s; p_t = k - p - 1; o_t = i_t + (k - 1) - 2*p",
        r"o' = i' + (k - 1) - 2p",
    ),
    Relationship(
        10,
        "transposed, half padding",
        "s == 1 and k == 2*p + 1",
        "k_t = k; s_t = s; p_t = p; o_t = i_t",
        r"o' = i'",
    ),
    Relationship(
        11,
        "transposed, full padding",
        "s == 1 and p == k - 1",
        "k_t = k; s_t = s; p_t = 0; o_t = i_t - (k - 1)",
        r"o' = i' - (k - 1)",
    ),
    Relationship(
        12,
        "transposed, no padding, a stride that divides",
        "p == 0 and (i - k) % s == 0",
        "k_t = k; s_t = 1; p_t = k - 1; o_t = s*(i_t - 1) + k",
        r"o' = s(i' - 1) + k",
    ),
    Relationship(
        13,
        "transposed, a stride that divides",
        "(i + 2*p - k) % s == 0",
        "k_t = k; s_t = 1; p_t = k - p - 1; o_t = s*(i_t - 1) + k - 2*p",
        r"o' = s(i' - 1) + k - 2p",
    ),
    Relationship(
        14,
        "transposed, any stride and padding",
        "True",
        "a = (i + 2*p - k) % s; k_t = k; s_t = 1; p_t = k - p - 1; o_t = s*(i_t - 1) + a + k - 2*p",
        r"o' = s(i' - 1) + a + k - 2p",
    ),
    Relationship(
        15,
        "dilated",
        "True",
        "o = (i + 2*p - k - (k - 1)*(d - 1))//s + 1",
        r"o = \left\lfloor \frac{i + 2p - k - (k - 1)(d - 1)}{s} \right\rfloor + 1",
    ),
)
