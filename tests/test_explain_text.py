"""A step as text and as a sentence, both debuggers driven by scripts, and the shell command."""

from __future__ import annotations

import io
import pdb
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from test_explain_trace import W, X, convolutions, pools, transposed
from tinyconv import Tensor, cli, explain, grad, kernels
from tinyconv import functional as F


def guide(**options: Any) -> explain.Trace:
    return explain.trace(F.conv2d, X, W, **{"stride": 2, "padding": 1, **options})


GUIDE = """\
conv2d  output[0,0,1,2] = 13
kernel 3 x 3   stride 2 x 2   padding 1 x 1   dilation 1 x 1   groups 1

input[0,0], what is read in brackets:
 3  3  2  1  0  .
 0  0  1 [3][1][.]
 3  1  2 [2][3][.]
 2  0  0 [2][2][.]
 2  0  0  0  1  .

       input pixel      weight weight   product sum
   [0,0,1,3]     3 x [0,0,0,0]      0 =       0   0
   [0,0,1,4]     1 x [0,0,0,1]      1 =       1   1
   [0,0,1,5]     0 x [0,0,0,2]      2 =       0   1 padding
   [0,0,2,3]     2 x [0,0,1,0]      2 =       4   5
   [0,0,2,4]     3 x [0,0,1,1]      2 =       6  11
   [0,0,2,5]     0 x [0,0,1,2]      0 =       0  11 padding
   [0,0,3,3]     2 x [0,0,2,0]      0 =       0  11
   [0,0,3,4]     2 x [0,0,2,1]      1 =       2  13
   [0,0,3,5]     0 x [0,0,2,2]      2 =       0  13 padding

output[0,0,1,2] = 13 is the sum of 9 products pixel times weight, rows 1 to 3
and columns 3 to 5 of the input; 3 of them lie in the padding and count as 0."""


def test_a_step_of_the_guide_in_ascii() -> None:
    t = guide()
    assert t.text(t.at(output=(0, 0, 1, 2)), unicode=False) == GUIDE


def test_colour_says_nothing_that_words_do_not() -> None:
    t = guide()
    step = t.at(output=(0, 0, 1, 2))
    coloured = t.text(step, colour=True, unicode=False)
    assert coloured != GUIDE
    for code in ("\x1b[1m", "\x1b[2m", "\x1b[0m"):
        coloured = coloured.replace(code, "")
    assert coloured == GUIDE
    assert "×" in t.text(step, unicode=True) and "·" in t.text(step, unicode=True)


def test_ascii_where_the_terminal_has_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    t = guide()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    assert t.text(t.at(output=(0, 0, 1, 2))) == GUIDE


@settings(max_examples=60)
@given(st.one_of(convolutions(), transposed(), pools()), st.data())
def test_every_step_fits_80_columns_and_is_ascii_and_one_sentence(case: Any, data: st.DataObject) -> None:
    name, x, *rest = case
    weights, options = rest[:-1], rest[-1]
    t = explain.trace(getattr(F, name), x * 1e-5, *weights, **options)
    by = data.draw(st.sampled_from(["output", "input"] + ["weight"] * (t.weight is not None)))
    index = tuple(data.draw(st.integers(0, n - 1)) for n in getattr(t, by))
    step = t.at(**{by: index})
    text = t.text(step, unicode=False)
    assert max(map(len, text.splitlines())) <= 80 and text.isascii()
    sentence = t.describe(step)
    assert sentence.startswith(f"{by}[") and sentence.endswith(".") and "  " not in sentence


def test_large_indices_and_many_terms_fit() -> None:
    x = np.broadcast_to(np.float64(-1.234567e-5), (1, 300, 1, 1010, 1010))
    w = np.full((300, 300, 1, 1, 1), -1.234567e-5)
    t = explain.trace(F.conv3d, x[:, :, :, :2], w)
    text = t.text(t.at(output=(0, 299, 0, 1, 1009)))
    assert max(map(len, text.splitlines())) <= 80
    assert "276 of 300 terms not shown" in text


@pytest.mark.parametrize(
    "step, sentence",
    [
        (
            lambda: (guide(), {"input": (0, 0, 1, 1)}),
            "input[0,0,1,1] is used 4 times, by rows 0 and 1 and columns 0 and 1 of the output; its gradient, the sum "
            "of g times weight, is 4.",
        ),
        (
            lambda: (guide(), {"weight": (0, 0, 0, 0)}),
            "weight[0,0,0,0] meets 9 pixels, rows -1 to 3 in steps of 2 and columns -1 to 3 in steps of 2 of the "
            "input; its gradient, the sum of pixel times g, is 5; 5 of them lie in the padding and count as 0.",
        ),
        (
            lambda: (guide(padding=0, stride=1, bias=np.array([2])), {"output": (0, 0, 0, 0)}),
            "output[0,0,0,0] = 14 is the sum of 9 products pixel times weight, rows 0 to 2 and columns 0 to 2 of the "
            "input plus the bias 2.",
        ),
        (
            lambda: (explain.trace(F.max_pool2d, X, 2), {"output": (0, 0, 1, 1)}),
            "output[0,0,1,1] = 2 is the largest of 4 pixels, rows 2 and 3 and columns 2 and 3 of the input; the "
            "winner is input[0,0,2,2].",
        ),
        (
            lambda: (explain.trace(F.max_pool2d, X, 2), {"input": (0, 0, 2, 2)}),
            "input[0,0,2,2] is in 1 window and wins 1 of them, so its gradient is 1.",
        ),
        (
            lambda: (explain.trace(F.max_pool2d, X, 2), {"input": (0, 0, 4, 4)}),
            "input[0,0,4,4] is used by no output, so its gradient is 0.",
        ),
        (
            lambda: (
                explain.trace(F.avg_pool2d, X, 3, 2, 1, count_include_pad=False),
                {"output": (0, 0, 0, 1)},
            ),
            "output[0,0,0,1] = 1.667 is the sum of 9 pixels, rows -1 to 1 and columns 1 to 3 of the input, divided by "
            "6; 3 of them lie in the padding and count as 0.",
        ),
        (
            lambda: (explain.trace(F.unfold, X, 2, padding=1), {"output": (0, 0, 0)}),
            "output[0,0,0] = 0 is a copy of input[0,0,-1,-1], which lies in the padding and counts as 0.",
        ),
        (
            lambda: (explain.trace(F.conv_transpose2d, X, W, stride=2, padding=1), {"output": (0, 0, 0, 1)}),
            "output[0,0,0,1] = 6 is the sum of 2 products pixel times weight, row 0 and columns 0 and 1 of the input.",
        ),
        (
            lambda: (explain.trace(F.conv_transpose2d, X, W, stride=2, padding=1), {"input": (0, 0, 0, 0)}),
            "input[0,0,0,0] is used 9 times, by rows -1 to 1 and columns -1 to 1 of the output; its gradient, the sum "
            "of g times weight, is 5; 5 of them are cropped with the padding and count as 0.",
        ),
    ],
)
def test_sentences(step: Any, sentence: str) -> None:
    t, index = step()
    assert t.describe(t.at(**index)) == sentence


# --------------------------------------------------------------------------------------------------
# pdb's letters


def session(commands: str, t: explain.Trace, by: str = "output") -> list[str]:
    """What the step debugger prints for these commands, one a line."""
    out = io.StringIO()
    explain.StepDebugger(t, by, stdin=io.StringIO(commands), stdout=out).cmdloop()
    return out.getvalue().replace("(tinyconv) ", "").splitlines()


def test_single_products_partial_sums_and_the_next_element() -> None:
    said = session("j 0,0,1,2\n" + "s\n" * 4 + "p acc\nw\nn\nq\n", guide())
    assert said[:2] == ["output[0,0,0,0], 9 products", "output[0,0,1,2], 9 products"]
    assert said[2] == "1/9  input[0,0,1,3] 3 x weight[0,0,0,0] 0 = 0, sum 0"
    assert said[4] == "3/9  input[0,0,1,5] 0 x weight[0,0,0,2] 2 = 0, sum 1 (padding)"
    assert said[5] == "4/9  input[0,0,2,3] 2 x weight[0,0,1,0] 2 = 4, sum 5"
    assert said[6:8] == ["5.0", "4 of 9 products are added."]
    assert said[8].startswith("output[0,0,1,2] = 13 is the sum")
    assert said[9:] == ["output[0,0,1,2] = 13", "output[0,0,2,0], 9 products"]


def test_stepping_goes_through_all_elements_and_ends() -> None:
    t = explain.trace(F.conv1d, np.ones((1, 1, 3)), np.ones((1, 1, 2)))
    said = session("s\n" * 10, t)
    assert said.count("output[0,0,0] = 2") == said.count("output[0,0,1] = 2") == 1
    assert said[-1] == "That was the last element."
    assert session("n\nn\nn\n", t)[-1] == "That was the last element."
    pooled = session("s\nq\n", explain.trace(F.max_pool1d, np.array([[[1.0, 3.0]]]), 2))
    assert pooled[1] == "1/2  input[0,0,0] 1, maximum 1"


def test_breaks_lists_and_by_input() -> None:
    said = session("b 0,0,1,1\nb 0,0,4,4\nb\nc\nl\nc\nc\n", guide(), by="input")
    assert said[2] == "breaks: (0, 0, 1, 1), (0, 0, 4, 4)"
    assert "input[0,0,1,1], 4 products" in said and "input[0,0,4,4], 1 products" in said
    assert any(line.startswith("-> [0,0,1,1]") for line in said)
    assert said[-1] == "No break before the end."


def test_what_is_not_understood_is_said() -> None:
    said = "\n".join(session("z\nj 7,7\nj here\np nonsense\np x.shape\n", guide()))  # ends where the input ends
    assert "*** 'z' is none of s, n, c, j, b, p, w, l, q" in said
    assert said.count("Name an element of the output, whose shape is (1, 1, 3, 3)") == 2
    assert "*** NameError: name 'nonsense' is not defined" in said and "(1, 1, 5, 5)" in said


def test_what_has_no_steps_cannot_be_debugged() -> None:
    with pytest.raises(ValueError, match=r"nothing to step through; the output of conv1d is \(0, 1, 2\)"):
        explain.trace(F.conv1d, np.ones((0, 1, 3)), np.ones((1, 1, 2))).debug()
    with pytest.raises(ValueError, match="max_pool1d has no weight"):
        explain.trace(F.max_pool1d, np.ones((1, 1, 3)), 2).debug("weight")


def test_debug_reads_the_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    commands = iter(["s", "q"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(commands))
    guide().debug()
    assert "1/9  input[0,0,-1,-1] 0 x weight[0,0,0,0] 0 = 0, sum 0 (padding)" in capsys.readouterr().out


# --------------------------------------------------------------------------------------------------
# pdb itself, inside the loops


def scripted(commands: str) -> tuple[pdb.Pdb, io.StringIO]:
    out = io.StringIO()
    return pdb.Pdb(stdin=io.StringIO(commands), stdout=out), out


def test_break_at_stops_before_each_product_of_one_output() -> None:
    x, w = Tensor(X.astype(float)), Tensor(W.astype(float))
    debugger, out = scripted(
        "p n, co, oh, ow, ci, kh, kw, ih, iw, acc, pixel\n" + "c\n" * 4 + "p kh, kw, acc\n" + "c\n" * 5
    )
    tracer, before = sys.gettrace(), kernels.kernel("conv")
    with explain.break_at(output=(0, 0, 1, 2), debugger=debugger):
        y = F.conv2d(x, w, stride=2, padding=1)
    assert y.data[0, 0].tolist() == [[6, 17, 3], [8, 17, 13], [6, 4, 4]]
    said = out.getvalue()
    assert "(0, 0, 1, 2, 0, 0, 0, 1, 3, 0, 3.0)" in said and "(1, 1, 5.0)" in said
    assert said.count("_conv2d()") == 9 == said.count("-> acc += pixel")
    assert sys.gettrace() is tracer and kernels.kernel("conv") is before


@pytest.mark.parametrize("rank, names", [(1, "co, oh, ow"), (2, "co, oh, ow"), (3, "co, od, oh, ow")])
def test_break_at_knows_all_ranks(rank: int, names: str) -> None:
    x, w = Tensor(np.ones((1, 1, *(3,) * rank))), Tensor(np.ones((2, 1, *(2,) * rank)))
    debugger, out = scripted(f"p {names}\n" + "c\n" * 2**rank)
    with explain.break_at(output=(0, 1, *(1,) * rank), debugger=debugger):
        getattr(F, f"conv{rank}d")(x, w)
    assert str((1, *(0,) * (rank == 1), *(1,) * rank)) in out.getvalue()


def test_break_at_in_the_two_gradients() -> None:
    x, w = Tensor(X.astype(float), requires_grad=True), Tensor(W.astype(float), requires_grad=True)
    y = F.conv2d(x, w, stride=2, padding=1)
    debugger, out = scripted("p n, c, ih, iw, oh, kh, acc\n" + "c\n" * 4)
    with explain.break_at(input=(0, 0, 1, 1), debugger=debugger):
        grad(y.sum(), [x], retain_graph=True)
    assert "(0, 0, 1, 1, 1, 0, 0)" in out.getvalue() and out.getvalue().count("-> acc +=") == 4
    debugger, out = scripted("p co, ci, kh, kw, oh, ow, acc\nc\n" + "c\n" * 9)
    with explain.break_at(weight=(0, 0, 2, 1), debugger=debugger):
        grad(y.sum(), [w])
    assert "(0, 0, 2, 1, 0, 0, 0)" in out.getvalue() and out.getvalue().count("-> acc +=") == 9


def test_quitting_leaves_the_block_and_an_error_comes_through() -> None:
    x, w = Tensor(X.astype(float)), Tensor(W.astype(float))
    debugger, _ = scripted("q\n")
    reached, before = False, kernels.kernel("conv")
    with explain.break_at(output=(0, 0, 0, 0), debugger=debugger):
        F.conv2d(x, w)
        reached = True
    assert not reached and kernels.kernel("conv") is before
    with pytest.raises(ZeroDivisionError), explain.break_at(output=(0, 0, 0, 0), debugger=scripted("")[0]):
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="give one of output, input and weight"):
        explain.break_at()
    with pytest.raises(ValueError, match=r"output must have 3, 4 or 5 indices, but is \(0, 1\)"):
        explain.break_at(output=(0, 1))


# --------------------------------------------------------------------------------------------------
# The shell


def shell(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    status = cli.main(["explain", *line.split()])
    return (status, *capsys.readouterr())


def test_shell_shows_sizes_and_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = shell("conv2d --input 5 --kernel 3 --stride 2 --padding 1 --at 0 0 1 2", capsys)
    assert status == 0
    assert out.startswith("output rows: floor((5 + 1 + 1 - 1*(3 - 1) - 1) / 2) + 1 = 3\noutput columns: ")
    assert "output[0,0,1,2] = " in out and "padding" in out
    status, out, _ = shell("conv_transpose1d --input 3 --kernel 2 --stride 2 --output-padding 1 --by input", capsys)
    assert status == 0 and "(3 - 1)*2 - 0 - 0 + 1*(2 - 1) + 1 + 1 = 7" in out
    assert "output: 1 of 7 positions take no part, the first at (6,)." in out
    status, out, _ = shell("max_pool2d --input 5 7 --kernel 2 --ceil-mode", capsys)
    assert status == 0 and "ceil((7 + 0 + 0 - 1*(2 - 1) - 1) / 2) + 1 = 4" in out


@pytest.mark.parametrize(
    "line, named",
    [
        ("conv2d --stride 0", "conv2d: stride must be at least 1"),
        ("conv2d --input 2", "conv2d: the window spans (3, 3) pixels"),
        ("max_pool2d --by weight", "max_pool2d has no weight"),
        ("unfold --at 0 0 77", "output=(0, 0, 77) is not an element"),
        ("relu", "operator must be one of conv1d"),
    ],
)
def test_shell_says_what_is_wrong(line: str, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, error = shell(line, capsys)
    assert status == 1 and named in error and not out


def test_shell_debugs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("builtins.input", lambda prompt: "q")
    assert shell("conv1d --debug", capsys)[1] == "output[0,0,0], 3 products\n"


def test_a_padding_that_keeps_the_size_is_still_a_padding() -> None:
    t = guide(stride=1)
    assert t.output == t.input
    step = t.at(output=(0, 0, 0, 0))
    assert "padding" in t.text(step) and "cropped" not in t.text(step)
    assert "5 of them lie in the padding" in t.describe(step)
    assert explain.format_sizes(t).startswith("output rows: floor((5 + 1 + 1 - 1*(3 - 1) - 1) / 1) + 1 = 5")
