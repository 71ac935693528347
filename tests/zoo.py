"""Bugs that real engines of this kind have had, as small changes of our own code that a check must notice.

A mutant replaces a piece of one function's source. The check is one of those that test the operators: a row of the
table (``("conv2d", "im2col")``), a row of spoiled calls (``("conv2d", "wrong")``), or a test of the tape.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import test_tape
from tinyconv import geometry
from tinyconv.autograd import check, tape
from tinyconv.kernels import im2col, loops
from tinyconv.ops import conv, norm, pool, reduce, resample


@dataclass(frozen=True)
class Mutant:
    """``old`` in the source of ``function`` becomes ``new``; ``check`` must then fail."""

    bug: str
    function: Any
    old: str
    new: str
    check: Any

    @contextmanager
    def alive(self) -> Iterator[None]:
        """The mutant in the place of the function, wherever that has been imported."""
        function: FunctionType = self.function
        source = textwrap.dedent(inspect.getsource(function))
        assert source.count(self.old) == 1, f"{function.__qualname__} has changed: {self.old!r} is not in it once"
        module: dict[str, Any] = {}
        code = compile(source.replace(self.old, self.new), inspect.getfile(function), "exec")
        exec(code, function.__globals__, module)  # noqa: S102 - our own source, with one piece replaced
        mutated, before = module[function.__name__].__code__, function.__code__
        function.__code__ = mutated
        try:
            yield
        finally:
            function.__code__ = before


def _gradcheck_takes(kind: type) -> Callable[[], None]:
    return lambda: test_tape.test_gradcheck_refuses_what_is_wrong(kind, False)


ZOO = [
    Mutant(
        "1. col2im with = for +=: overlapping windows lose gradient",
        im2col._scatter,
        "x[inp] += columns",
        "x[inp] = columns",
        ("conv2d", "im2col"),
    ),
    Mutant("1. the same in the loops", loops.fold, "x[(n, c, *i)] += cols", "x[(n, c, *i)] = cols", ("fold", "loops")),
    Mutant(
        "2. what the stride leaves over gets a gradient",
        im2col.conv_input,
        "gx = xp.zeros(",
        "gx = xp.ones(",
        ("conv2d", "im2col"),
    ),
    Mutant(
        "2. what the stride leaves over is missing from the gradient's shape",
        conv.Conv.backward,
        "ConvInput(self.g, self.groups)(gy, w)",
        "ConvInput(self.g, self.groups)(gy, w)[..., : (self.g.output[-1] - 1) * self.g.stride[-1] + self.g.extent[-1]]",
        ("conv2d", "im2col"),
    ),
    Mutant(
        "3. padded max pooling with 0 in place of minus infinity",
        im2col.max_pool,
        "lowest = -np.inf if",
        "lowest = 0.0 if",
        ("max_pool2d", "im2col"),
    ),
    Mutant(
        "4. average pooling: height and width swapped in backward",
        pool.AvgPool.backward,
        "AvgPoolInput(self.g, self.divisor)",
        "AvgPoolInput(__import__('dataclasses').replace(self.g, kernel=self.g.kernel[::-1]), self.divisor)",
        ("avg_pool2d", "im2col"),
    ),
    Mutant(
        "5. every one of a tie is given the whole gradient",
        reduce._Extreme.backward,
        "div(g, count)",
        "g",
        ("amax", "im2col"),
    ),
    Mutant(
        "5. max pooling: the last of a tie wins",
        im2col.max_pool,
        "value > y[out]",
        "value >= y[out]",
        ("max_pool2d", "im2col"),
    ),
    Mutant(
        "6. NaN dropped by a comparison, im2col",
        im2col.max_pool,
        "xp.maximum(y[out], value, out=y[out])",
        "xp.fmax(y[out], value, out=y[out])",
        ("max_pool2d", "im2col"),
    ),
    Mutant(
        "6. NaN dropped by a comparison, loops",
        loops.max_pool,
        " or pixel != pixel",
        "",
        ("max_pool2d", "loops"),
    ),
    Mutant(
        "7. a dilated kernel spans k*d in place of d(k-1)+1",
        geometry.output_size,
        "d * (k - 1) - 1",
        "d * k",
        ("conv2d", "im2col"),
    ),
    Mutant(
        "7. dilation 0 accepted",
        geometry.window_geometry,
        'as_axes(op, "dilation", dilation, rank, least=1)',
        'as_axes(op, "dilation", dilation, rank, least=0)',
        ("conv2d", "wrong"),
    ),
    Mutant(
        "8. transposed convolution with an unrotated kernel",
        im2col.conv_input,
        "gy, w = native(gy), native(w)",
        "gy, w = native(gy), np.flip(native(w), tuple(range(2, w.ndim)))",
        ("conv_transpose2d", "im2col"),
    ),
    Mutant(
        "8. output_padding filled with zeros in place of products",
        conv._conv_transpose,
        "ConvInput(g, groups)(images, weight)",
        "ConvInput(g, groups)(images, weight) * (np.arange(g.size[-1]) < g.size[-1] - "
        "(output_padding if isinstance(output_padding, int) else output_padding[-1]))",
        ("conv_transpose2d", "im2col"),
    ),
    Mutant(
        "9. a layer that changes its input in place",
        im2col.relu,
        "maximum(x, x.dtype.type(0))",
        "maximum(x, x.dtype.type(0), out=x if x.flags.writeable else None)",
        ("relu", "im2col"),
    ),
    Mutant(
        "10. recursion in the tape",
        tape._count_users,
        "stack.append(node)",
        "users.update(_count_users([type('Root', (), {'grad_fn': node})]))",
        test_tape.test_a_chain_of_100000_nodes,
    ),
    Mutant(
        "10. an exponential walk of y = y + y",
        tape._count_users,
        " and id(node) not in seen",
        "",
        lambda: test_tape.test_diamonds_are_linear(5),
    ),
    Mutant(
        "11. a gradient that shares memory with another",
        tape._accumulate,
        "if id(g.data) in held or g.data.base is not None:",
        "if g.data.base is not None:",
        test_tape.test_gradients_never_share_memory,
    ),
    Mutant(
        "11. a gradient that is a broadcast view",
        tape._accumulate,
        "if id(g.data) in held or g.data.base is not None:",
        "if id(g.data) in held:",
        test_tape.test_the_gradient_of_a_broadcast_sum_can_be_written_to,
    ),
    Mutant(
        "12. no second derivative through the weight gradient",
        conv.ConvWeight.backward,
        "return gx, ggy",
        "return None, None",
        ("conv2d", "im2col"),
    ),
    Mutant(
        "13. reflect, replicate and circular padding: each pixel gets the gradient of one copy only",
        resample.Resample.backward,
        "[m.transposed for m in self.maps]",
        "[type(t)(t.size, t.output, *(v[np.unique(t.outputs, return_index=True)[1]] for v in "
        "(t.outputs, t.inputs, t.weights))) for t in (m.transposed for m in self.maps)]",
        ("pad", "im2col"),
    ),
    Mutant(
        "14. an empty batch crashes",
        im2col._Columns.__init__,
        "next((prod(self._sizes(batch, tile)) for batch, _, tile in self.tiles), 0)",
        "max(prod(self._sizes(batch, tile)) for batch, _, tile in self.tiles)",
        ("conv2d", "im2col"),
    ),
    Mutant(
        "15. a cotangent that is not contiguous is read in the order of its memory",
        im2col._by_group,
        "a.swapaxes(0, 1)",
        "a.ravel(order='K').reshape(a.shape).swapaxes(0, 1)",
        ("conv2d", "im2col"),
    ),
    Mutant(
        "16. a gradient check with a cotangent of ones",
        check.gradcheck,
        "Tensor(rng.standard_normal(y.shape).astype(y.dtype))",
        "Tensor(np.ones(y.shape, y.dtype))",
        _gradcheck_takes(test_tape.TakesItsCotangentForOnes),
    ),
    Mutant(
        "17. a biased running variance",
        norm.batch_norm,
        "core.var * (count / (count - 1))",
        "core.var",
        ("batch_norm", "im2col"),
    ),
    Mutant(
        "17. an unbiased normalising variance",
        im2col.normalise,
        "_rstd(var, eps,",
        "_rstd(var * (1 + 1 / y.size), eps,",
        ("batch_norm", "im2col"),
    ),
    Mutant(
        "18. average pooling without any gradient",
        pool.AvgPool.backward,
        "(gy)",
        "(gy * 0)",
        ("avg_pool2d", "im2col"),
    ),
    Mutant(
        "19. a scatter that loses additions to the same pixel, as a race does",
        im2col.scatter_windows,
        "gx[n] = sums_at(at, gy[n].reshape(-1).astype(sum_dtype(gx.dtype), copy=False), channels * plane)",
        "gx[n] = 0; gx[n][at] += gy[n].reshape(-1)",
        ("max_pool2d", "im2col"),
    ),
    # What a first sketch of the table missed: data all positive, sizes that divide, options always passed,
    # small values.
    Mutant(
        "the ceiling of ceil mode forgotten",
        geometry.output_size,
        "if not ceil_mode:",
        "if True:",
        ("avg_pool2d", "im2col"),
    ),
    Mutant(
        "ceil mode keeps a window that starts beyond the image",
        geometry.output_size,
        "return o - 1 if (o - 1) * s >= i + before else o",
        "return o",
        ("max_pool2d", "im2col"),
    ),
    Mutant(
        "the average counts what lies beyond the padding",
        geometry.Geometry.counts,
        "min(start + self.kernel[axis], end)",
        "(start + self.kernel[axis])",
        ("avg_pool2d", "im2col"),
    ),
    Mutant(
        "softmax without its maximum taken off",
        im2col.softmax,
        "y -= y.max(axis=axis, keepdims=True)",
        "pass",
        ("softmax", "im2col"),
    ),
    Mutant(
        "pooling with stride 1 where none is given",
        pool._geometry,
        "kernel if stride is None else stride",
        "1 if stride is None else stride",
        ("avg_pool1d", "im2col"),
    ),
    Mutant(
        "groups read the channels of the first group",
        loops._conv2d,
        "first = co // (C_out // groups) * C_group",
        "first = 0",
        ("conv2d", "loops"),
    ),
]
