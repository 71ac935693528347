"""The index arithmetic against counted placements, the explicit matrix, torch and published figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
import torch

from tinyconv.geometry import (
    Geometry,
    as_axes,
    output_size,
    receptive_field,
    transposed_geometry,
    transposed_output_size,
    window_geometry,
)


def placements(i: int, k: int, s: int, p: int, d: int) -> int:
    """Windows that fit on the padded signal, found by trying every start."""
    return sum(start + d * (k - 1) < i + 2 * p for start in range(0, i + 2 * p, s))


def settings(most_i: int = 9, most_k: int = 4) -> Iterator[tuple[int, int, int, int, int]]:
    """All (i, k, s, p, d) in a small range for which at least one window fits."""
    for i, k, s, p, d in product(range(1, most_i), range(1, most_k + 1), (1, 2, 3), range(4), (1, 2, 3)):
        if placements(i, k, s, p, d):
            yield i, k, s, p, d


def matrix(i: int, k: int, s: int, p: int, d: int) -> np.ndarray:
    """C of y = C x on one axis, entry (o, pixel) = 1 + tap, by walking the padded signal."""
    C = np.zeros((placements(i, k, s, p, d), i), int)
    for o, tap in product(range(len(C)), range(k)):
        padded = np.arange(-p, i + p)[s * o :][d * tap]
        if 0 <= padded < i:
            C[o, padded] = 1 + tap
    return C


# --------------------------------------------------------------------------------------------------
# The fifteen relationships of Dumoulin and Visin


def test_output_size_counts_placements() -> None:
    """Relationships 1 to 7 and 15."""
    for i, k, s, p, d in settings(13, 5):
        o = placements(i, k, s, p, d)
        assert output_size(i, k, s, p, d) == o
        assert o == (i + 2 * p - k - (k - 1) * (d - 1)) // s + 1  # R15
        if d > 1:
            continue
        assert o == (i + 2 * p - k) // s + 1  # R6
        if p == 0:
            assert o == (i - k) // s + 1  # R5, R7
        if s == 1:
            assert o == (i - k) + 2 * p + 1  # R2; R1 where p = 0
            if k == 2 * p + 1:
                assert o == i  # R3
            if p == k - 1:
                assert o == i + (k - 1)  # R4


def test_transposed_size_is_the_size_that_the_map_came_from() -> None:
    """Relationships 8 to 14, with dilation: a = (i + 2p - d(k-1) - 1) mod s brings the image's size back."""
    for i, k, s, p, d in settings(13, 5):
        o = placements(i, k, s, p, d)
        a = (i + 2 * p - d * (k - 1) - 1) % s
        assert transposed_output_size(o, k, s, p, d, a) == i
        if d > 1:
            continue
        made = transposed_output_size(o, k, s, p, a=a)
        assert made == s * (o - 1) + a + k - 2 * p  # R14
        if a == 0:
            assert made == s * (o - 1) + k - 2 * p  # R13; R12 where p = 0
        if s == 1:
            assert made == o + (k - 1) - 2 * p  # R9; R8 where p = 0
            if k == 2 * p + 1:
                assert made == o  # R10
            if p == k - 1:
                assert made == o - (k - 1)  # R11


def test_the_transposed_map_is_a_convolution_of_the_stretched_signal() -> None:
    """R8 to R14 as maps: s-1 zeros between units, p' = d(k-1) - p, the kernel rotated, give C transposed."""
    for i, k, s, p, d in settings():
        C = matrix(i, k, s, p, d)
        o, reach = len(C), d * (k - 1)
        stretched = np.zeros(((o - 1) * s + 1, o), int)  # row: position, column: unit
        stretched[::s] = np.eye(o, dtype=int)
        a = (i + 2 * p - reach - 1) % s
        padded = np.pad(stretched, ((reach, reach + a), (0, 0)))[p : len(stretched) + 2 * reach + a - p]
        rotated = np.arange(k, 0, -1)  # the weights 1 + tap, last tap first
        made = [sum(rotated[tap] * padded[pixel + d * tap] for tap in range(k)) for pixel in range(i)]
        np.testing.assert_array_equal(np.array(made), C.T)


def test_input_index_slices_window_and_readers_are_the_matrix() -> None:
    for i, k, s, p, d in settings():
        C = matrix(i, k, s, p, d)
        g = window_geometry("conv1d", (i,), k, s, p, d)
        assert g.output == (len(C),)
        by_index, by_slices, by_window, by_readers = (np.zeros_like(C) for _ in range(4))
        for o, tap in product(range(len(C)), range(k)):
            if 0 <= (pixel := g.input_index(0, o, tap)) < i:
                by_index[o, pixel] += 1 + tap
        for (tap,) in g.taps():
            (out,), (inp,) = g.slices((tap,))
            np.add.at(by_slices, (np.arange(len(C))[out], np.arange(i)[inp]), 1 + tap)
        for o in range(len(C)):
            for (tap,), (pixel,) in g.window((o,)):
                by_window[o, pixel] += 1 + tap
        for pixel in range(i):
            for o, tap in g.readers(0, pixel):
                by_readers[o, pixel] += 1 + tap
        for seen in (by_index, by_slices, by_window, by_readers):
            np.testing.assert_array_equal(seen, C)


def test_spans_bound_the_outputs_that_read_the_image() -> None:
    for i, k, s, p, d in settings():
        g = window_geometry("conv1d", (i,), k, s, p, d)
        for tap in range(k):
            inside = [o for o in range(g.output[0]) if 0 <= o * s + tap * d - p < i]
            first, last = g.span(0, tap)
            assert list(range(first, last)) == inside


def test_a_tile_of_rows_reads_what_its_rows_read() -> None:
    for padding in (0, (2, 1), ((1, 3), (0, 2))):
        g = window_geometry("conv2d", (9, 7), (3, 2), (2, 1), padding, (1, 3))
        for first, last in [(0, 1), (1, 3), (0, g.output[0]), (g.output[0] - 1, g.output[0])]:
            tile = g.rows(first, last)
            assert tile.output == (last - first, g.output[1])
            for oh, ow in product(range(last - first), range(g.output[1])):
                assert list(tile.window((oh, ow))) == list(g.window((first + oh, ow)))


def test_a_lifted_signal_reads_the_same_pixels() -> None:
    g = window_geometry("conv1d", (9,), 3, 2, [(1, 2)], 2)
    lifted = g.lifted()
    assert lifted.extent == (1, 5)
    for o in range(g.output[0]):
        assert [(k, i) for (_, k), (_, i) in lifted.window((0, o))] == [(k, i) for (k,), (i,) in g.window((o,))]


# --------------------------------------------------------------------------------------------------
# Against torch


def test_sizes_are_those_of_torch() -> None:
    pool, conv, transposed = torch.nn.MaxPool1d, torch.nn.Conv1d, torch.nn.ConvTranspose1d
    for i, k, s, p, d in settings(8, 3):
        x = torch.zeros(1, 1, i, device="meta")
        assert output_size(i, k, s, p, d) == conv(1, 1, k, s, p, d, device="meta")(x).shape[-1]
        if p <= k // 2:
            assert output_size(i, k, s, p, d, True) == pool(k, s, p, d, ceil_mode=True)(x).shape[-1], (i, k, s, p, d)
        for a in range(max(s, d)):
            if (made := transposed_output_size(i, k, s, p, d, a)) > 0:
                y = transposed(1, 1, k, s, p, a, dilation=d, device="meta")(x)
                assert made == y.shape[-1]
                g = transposed_geometry("conv_transpose1d", (i,), k, s, p, a, d)
                assert (g.size, g.output) == ((made,), (i,))


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch, about its copy
def test_same_padding_puts_the_odd_element_after() -> None:
    for i, k, d in [(5, 3, 1), (6, 3, 2), (5, 2, 1), (6, 4, 1), (6, 2, 3), (5, 1, 1)]:
        g = window_geometry("conv1d", (i,), k, 1, "same", d)
        assert g.output == (i,)
        x, w = torch.randn(1, 1, i).double(), torch.randn(1, 1, k).double()
        padded = torch.nn.functional.pad(x, g.padding[0])
        expected = torch.nn.functional.conv1d(x, w, padding="same", dilation=d)
        torch.testing.assert_close(torch.nn.functional.conv1d(padded, w, dilation=d), expected)


@pytest.mark.parametrize("include_pad", [False, True])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_counts_are_the_divisors_of_torch(include_pad: bool, ceil_mode: bool) -> None:
    """The average of ones is (positions on the image) / divisor, so torch's divisor shows."""
    for i, k, s in product(range(1, 10), range(1, 5), range(1, 5)):
        for p in range(k // 2 + 1):
            if i + 2 * p < k:
                continue
            g = window_geometry("avg_pool1d", (i,), k, s, p, ceil_mode=ceil_mode)
            on_image = np.array([len(list(g.window((o,)))) for o in range(g.output[0])])
            mean = torch.nn.functional.avg_pool1d(torch.ones(1, 1, i).double(), k, s, p, ceil_mode, include_pad)[0, 0]
            np.testing.assert_allclose(on_image / g.counts(0, include_pad), mean.numpy(), rtol=1e-12)


# --------------------------------------------------------------------------------------------------
# Overlap and receptive fields


@pytest.mark.parametrize(
    "k, s, rank, overlaps",
    [
        (2, 2, 1, {1}),
        (3, 2, 1, {1, 2}),
        (4, 2, 1, {2}),
        (3, 2, 2, {1, 2, 4}),
        (4, 2, 2, {4}),
        (5, 2, 2, {4, 6, 9}),
    ],
)
def test_transposed_windows_overlap_evenly_only_when_the_stride_divides_the_kernel(
    k: int, s: int, rank: int, overlaps: set[int]
) -> None:
    g = transposed_geometry("conv_transpose", (12,) * rank, k, s)
    inner = range(k, g.size[0] - k)  # far from the border
    readers = [len(g.readers(0, i)) for i in inner]
    assert {int(np.prod(c)) for c in product(readers, repeat=rank)} == overlaps


def conv_pool_vgg16() -> list[tuple[int, int, int, int]]:
    conv, pool = (3, 1, 1, 1), (2, 2, 0, 1)
    return [layer for block in (2, 2, 3, 3, 3) for layer in [conv] * block + [pool]]


def alexnet_v2() -> list[tuple[int, int, int, int]]:
    pool, conv = (3, 2, 0, 1), (3, 1, 1, 1)
    return [(11, 4, 0, 1), pool, (5, 1, 2, 1), pool, conv, conv, conv, pool]


def resnet_v1_50() -> list[tuple[int, int, int, int]]:
    """Bottlenecks 1x1, 3x3, 1x1; the last unit of a block strides; the first pooling pads only after the image."""
    layers = [(7, 2, 3, 1), (3, 2, 0, 1)]
    for units, stride in ((3, 2), (4, 2), (6, 2), (3, 1)):
        for unit in range(units):
            layers += [(1, 1, 0, 1), (3, stride if unit == units - 1 else 1, 1, 1), (1, 1, 0, 1)]
    return layers


def mobilenet_v1() -> list[tuple[int, int, int, int]]:
    """Depthwise 3x3 and pointwise 1x1. TensorFlow's 'same' with stride 2 pads an even image only after it."""
    layers = [(3, 2, 0, 1)]
    for stride in (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1):
        layers += [(3, stride, 0 if stride == 2 else 1, 1), (1, 1, 0, 1)]
    return layers


@pytest.mark.parametrize(
    "layers, size, stride, padding",
    [
        (conv_pool_vgg16(), 212, 32, 90),
        (alexnet_v2(), 195, 32, 64),
        (resnet_v1_50(), 483, 32, 239),
        (mobilenet_v1(), 315, 32, 126),
    ],
)
def test_receptive_fields_are_the_published_ones(
    layers: list[tuple[int, int, int, int]], size: int, stride: int, padding: int
) -> None:
    field = receptive_field(layers)
    assert (field.size, field.stride, field.padding) == (size, stride, padding)


def test_receptive_field_is_the_region_with_a_gradient() -> None:
    layers = [(3, 2, 1, 1), (2, 1, 0, 3), (3, 2, 2, 2)]
    x = torch.zeros(1, 1, 200, dtype=torch.double, requires_grad=True)
    y = x
    for k, s, p, d in layers:
        y = torch.nn.functional.conv1d(y, torch.ones(1, 1, k).double(), stride=s, padding=p, dilation=d)
    field = receptive_field(layers)
    unit = 20
    y[0, 0, unit].backward()
    seen = np.flatnonzero(x.grad.numpy())
    assert seen[0] == unit * field.stride - field.padding
    assert seen[-1] - seen[0] + 1 == field.size
    assert (seen[0] + seen[-1]) / 2 == field.centre(unit)


# --------------------------------------------------------------------------------------------------
# Wrong arguments


@pytest.mark.parametrize(
    "arguments, error, named",
    [
        (dict(kernel=3, stride=0), ValueError, ["stride", "at least 1", "0"]),
        (dict(kernel=3, stride=(1, -2)), ValueError, ["stride", "(1, -2)"]),
        (dict(kernel=3, dilation=0), ValueError, ["dilation", "at least 1"]),
        (dict(kernel=0), ValueError, ["kernel", "at least 1", "(0, 0)"]),
        (dict(kernel=(3, 3, 3)), ValueError, ["kernel_size", "2 ints", "has 3"]),
        (dict(kernel=3.5), TypeError, ["kernel_size", "3.5"]),
        (dict(kernel=True), TypeError, ["kernel_size", "True"]),
        (dict(kernel="3"), TypeError, ["kernel_size", "'3'"]),
        (dict(kernel=3, padding=-1), ValueError, ["padding", "at least 0", "-1"]),
        (dict(kernel=3, padding=[(0, -1), (0, 0)]), ValueError, ["padding", "at least 0"]),
        (dict(kernel=3, padding="full"), ValueError, ["padding", "'same'", "'full'"]),
        (dict(kernel=3, stride=2, padding="same"), ValueError, ["padding='same'", "stride 1", "kernel // 2"]),
        (dict(kernel=9), ValueError, ["(9, 9)", "(8, 6)", "smaller kernel"]),
        (dict(kernel=3, dilation=4), ValueError, ["spans (9, 9)", "dilation (4, 4)"]),
        (dict(kernel=1, size=(0, 4)), ValueError, ["spatial size", "(0, 4)"]),
    ],
)
def test_wrong_windows_are_refused_with_a_sentence(arguments: dict, error: type[Exception], named: list[str]) -> None:
    with pytest.raises(error) as caught:
        window_geometry(**{"op": "conv2d", "size": (8, 6), **arguments})
    message = str(caught.value)
    assert message.startswith("conv2d: ") and message.endswith(".")
    for part in named:
        assert part in message


@pytest.mark.parametrize(
    "arguments, error, named",
    [
        (dict(kernel=3, stride=2, output_padding=2), ValueError, ["output_padding", "smaller", "(2, 2)"]),
        (dict(kernel=3, output_padding=-1), ValueError, ["output_padding", "at least 0"]),
        (dict(kernel=3, padding="same"), TypeError, ["padding", "'same'"]),
        (dict(kernel=1, padding=2), ValueError, ["(0, 0)", "less padding"]),
        (dict(kernel=0), ValueError, ["kernel", "at least 1"]),
        (dict(kernel=2, size=(0, 4)), ValueError, ["spatial size", "(0, 4)"]),
    ],
)
def test_wrong_transposed_windows_are_refused(arguments: dict, error: type[Exception], named: list[str]) -> None:
    with pytest.raises(error) as caught:
        transposed_geometry(**{"op": "conv_transpose2d", "size": (4, 4), **arguments})
    message = str(caught.value)
    assert message.startswith("conv_transpose2d: ") and message.endswith(".")
    for part in named:
        assert part in message


def test_axes_and_pairs_are_read() -> None:
    assert as_axes("op", "stride", 2, 3) == (2, 2, 2)
    assert as_axes("op", "stride", [np.int64(2)], 2) == (2, 2)
    assert as_axes("op", "stride", (1, 2), 2) == (1, 2)
    g = window_geometry("conv2d", (5, 6), (2, 3), 1, [(0, 1), (2, 0)])
    assert g == Geometry((5, 6), (2, 3), (1, 1), ((0, 1), (2, 0)), (1, 1), (5, 6))
    assert Counter(g.taps()) == Counter(product(range(2), range(3)))


def test_planes_and_phases_hold_the_same_windows() -> None:
    """A tap's pixels lie side by side in its plane; the phases of the transposed map name each (output, tap) once."""
    for i, k, s, p, d in settings(8, 3):
        g = window_geometry("test", (i,), k, s, p, d)
        planes = g.planes(0)
        for o, tap in product(range(g.output[0]), range(k)):
            at = o * s + tap * d - p
            assert planes.pixels[planes.plane[tap]][o + planes.shift[tap]] == (at if 0 <= at < i else -1)
        found: Counter[tuple[int, int, int]] = Counter()
        for phase in g.transposed_phases():
            direct, taps = phase.geometry(g.output), list(range(k))[phase.taps[0]]
            for j, pixel in enumerate(range(i)[phase.pixels[0]]):
                found.update((pixel, o, taps[t]) for (t,), (o,) in direct.window((j,)))
        pairs = product(range(g.output[0]), range(k))
        assert found == Counter((o * s + t * d - p, o, t) for o, t in pairs if 0 <= o * s + t * d - p < i)
