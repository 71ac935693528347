"""The kernels of the rung ``cuda`` on a GPU, beside torch with cuDNN on the same GPU, in the same process and stream.

Times are the GPU's own, from events around several calls in a row, so that the host's work hides behind the kernels as
it does in a training. Each call takes other numbers, beyond the last cache. What is wrong is not timed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import tinyconv
from benchmarks import networks
from benchmarks.shapes import Layer
from benchmarks.steps import APART
from benchmarks.training import copy_weights
from tinyconv import kernels
from tinyconv.geometry import window_geometry
from tinyconv.kernels import choice
from tinyconv.kernels.axismap import window_maps
from tinyconv.kernels.cuda import convolution

#: Convolutions of ResNet-18, MobileNet, a U-Net and a 3D U-Net, with the batch.
LAYERS: list[tuple[Layer, int]] = [
    (Layer(64, 64, 56, 3), 64),
    (Layer(128, 128, 28, 3), 64),
    (Layer(256, 256, 14, 3), 64),
    (Layer(512, 512, 7, 3), 64),
    (Layer(64, 128, 56, 3, 2), 64),
    (Layer(3, 64, 224, 7, 2), 64),
    (Layer(256, 64, 56, 1), 64),
    (Layer(128, 128, 56, 3, groups=128), 64),
    (Layer(64, 64, 256, 3), 8),
    (Layer(128, 64, 64, 2, 2, 0, transposed=True), 16),
    (Layer(32, 32, 64, 3, rank=3), 2),
]
FACES = ("forward", "input", "weight")

#: The precision of products, and how far a result may be from torch's float32 one, relative in norm.
PRECISIONS = {"ieee": 1e-4, "tf32": 2e-3, "bf16": 2e-2}

#: Training steps: the network of networks.JOBS, and the shape of a batch that fills a GPU.
STEPS = {"ResNet-18": (64, 3, 224, 224), "U-Net": (16, 1, 256, 256), "LeNet": (64, 1, 28, 28)}

Run = Callable[[], Any]


@dataclass(frozen=True)
class Gpu:
    """``xp``: CuPy. ``share``: an array as torch sees it, in the same memory. ``seconds``: of a call, by its events."""

    name: str
    xp: Any
    share: Callable[[Any], torch.Tensor]
    seconds: Callable[[Run, int], float]
    torch_device: str = "cuda"


def nvidia() -> Gpu:
    """The first GPU. SystemExit with the mend where CuPy or torch has none."""
    try:
        import cupy
    except ImportError:
        raise SystemExit("--device cuda: CuPy is missing: pip install 'tinyconv[gpu]'.") from None
    if not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch finds no GPU. Install its CUDA build, and check nvidia-smi.")
    stream = torch.cuda.current_stream()
    cupy.cuda.ExternalStream(stream.cuda_stream).use()  # one queue for both, so that either's events time it

    def seconds(run: Run, calls: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / calls

    return Gpu(torch.cuda.get_device_name(), cupy, torch.from_dlpack, seconds)


class Pool:
    """Random numbers on the GPU, of which each call takes the next: the same million over and over, never zeros."""

    def __init__(self, gpu: Gpu, megabytes: int) -> None:
        self.gpu = gpu
        some = gpu.xp.asarray(np.random.default_rng(0).standard_normal(1 << 20, np.float32))
        self.numbers = gpu.xp.tile(some, max(1, megabytes >> 2))
        self.next = 0

    def take(self, shape: tuple[int, ...]) -> Any:
        """An array that begins at a whole cache line."""
        count = -(-prod(shape) // 32) * 32
        if count > self.numbers.size:
            raise ValueError(f"benchmarks: {shape} does not fit into the pool of {self.numbers.nbytes >> 20} MB.")
        if self.next + count > self.numbers.size:
            self.next = 0
        start = self.next
        self.next += count
        return self.numbers[start : start + prod(shape)].reshape(shape)


def interleaved(gpu: Gpu, sides: dict[str, Run], turns: int) -> dict[str, dict[str, float]]:
    """{side: {"median", "min", "spread", "calls"}} in seconds a call, the sides in turns of about 10 ms each."""
    calls = {}
    for name, run in sides.items():
        run()  # compiles, and lets cuDNN choose
        calls[name] = max(1, min(200, int(0.01 / gpu.seconds(run, 2))))
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, run in sides.items():
            samples[name].append(gpu.seconds(run, calls[name]))
    found = {}
    for name, times in samples.items():
        low, middle, high = statistics.quantiles(times, n=4, method="inclusive") if turns > 1 else times * 3
        found[name] = {"median": middle, "min": min(times), "spread": high - low, "calls": turns * calls[name]}
    return found


@contextmanager
def torchs(precision: str) -> Any:
    """torch with the same precision of products; strict float32 is not what it does by default."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = before


# --------------------------------------------------------------------------------------------------
# Ceilings


def ceilings(gpu: Gpu, pool: Pool, size: int = 8192) -> dict[str, float]:
    """A copy in bytes read and written a second, and matrix products of each precision in FLOP/s: the best of ten."""
    source, target = (gpu.share(pool.take((pool.numbers.size // 4,))).clone() for _ in range(2))
    a, b = pool.take((size, size)), pool.take((size, size))
    found = {"copy": 2 * source.nbytes / _best(gpu, lambda: target.copy_(source))}
    for precision in PRECISIONS:
        left, right = gpu.share(a), gpu.share(b)
        if precision == "bf16":
            left, right = left.bfloat16(), right.bfloat16()
        with torchs(precision):
            found[precision] = 2 * size**3 / _best(gpu, partial(torch.matmul, left, right))
    return found


def _best(gpu: Gpu, run: Run) -> float:
    run()
    return min(gpu.seconds(run, 3) for _ in range(10))


# --------------------------------------------------------------------------------------------------
# Convolutions


def our_face(layer: Layer, face: str, x: Any, w: Any, gy: Any) -> Run:
    """One face of the layer as kernels compute it."""
    g, groups = layer.geometry, layer.groups
    if layer.transposed:
        calls: dict[str, Run] = {
            "forward": lambda: kernels.conv_input(x, w, g, groups),
            "input": lambda: kernels.conv(gy, w, g, groups),
            "weight": lambda: kernels.conv_weight(gy, x, g, groups),
        }
    else:
        calls = {
            "forward": lambda: kernels.conv(x, w, g, groups),
            "input": lambda: kernels.conv_input(gy, w, g, groups),
            "weight": lambda: kernels.conv_weight(x, gy, g, groups),
        }
    return calls[face]


def torchs_face(layer: Layer, face: str, x: torch.Tensor, w: torch.Tensor, gy: torch.Tensor) -> Run:
    """The same face alone in torch."""
    ones, rank = [1] * layer.rank, layer.rank
    how = ([layer.stride] * rank, [layer.pad] * rank, ones, layer.transposed, [0] * rank, layer.groups)
    if face == "forward":
        return lambda: torch.ops.aten.convolution(x, w, None, *how)
    mask = [face == "input", face == "weight", False]
    index = mask.index(True)
    return lambda: torch.ops.aten.convolution_backward(gy, x, w, None, *how, mask)[index]


def algorithms(layer: Layer, face: str, batch: int, precision: str) -> list[str]:
    """What can compute this face: the names that use_kernels(conv=...) takes, 'auto' first."""
    if precision != "ieee":
        return ["auto"]
    return ["auto", *(name for name in choice.ALGORITHMS if chosen(layer, face, batch, precision, name) == name)]


def chosen(layer: Layer, face: str, batch: int, precision: str, forced: str = "auto") -> str:
    """The algorithm that computes the face: what ``auto`` stands for, which may be of another precision."""
    faces = {"forward": "conv_input" if layer.transposed else "conv", "weight": "conv_weight"}
    faces["input"] = "conv" if layer.transposed else "conv_input"
    c_out, c_in = (n * layer.groups if i else n for i, n in enumerate(layer.shapes(1)["w"][:2]))
    sizes = batch, c_in, c_out, layer.groups, np.dtype(np.float32)
    with kernels.use_kernels(conv=forced):
        return convolution.choose(faces[face], layer.geometry, *sizes, precision).algorithm


def run_layers(
    gpu: Gpu, pool: Pool, quick: bool, bounds: dict[str, float], layers: list[tuple[Layer, int]] = LAYERS
) -> list[dict[str, Any]]:
    """Every layer, face, precision and algorithm, with torch's time and the floor of the GPU beside it."""
    rows = []
    jobs = [(layer, batch, p) for layer, batch in (layers[::4] if quick else layers) for p in PRECISIONS]
    for layer, batch, precision in tqdm(jobs, desc="layers", unit="layer"):
        shapes = layer.shapes(batch)
        flop = 2 * layer.multiply_adds(batch)
        moved = 4 * sum(map(prod, shapes.values()))
        for face in FACES:
            sides = {
                name: algorithm_side(gpu, pool, layer, face, batch, name, precision)
                for name in algorithms(layer, face, batch, precision)
            }
            sides["torch"] = torch_side(gpu, pool, layer, face, batch, precision)
            with torchs(precision):
                timed = interleaved(gpu, sides, 3 if quick else 9)
            rows.append(
                {
                    "layer": str(layer),
                    "batch": batch,
                    "face": face,
                    "precision": precision,
                    "auto": chosen(layer, face, batch, precision),
                    "flop": flop,
                    "bytes": moved,
                    "floor": max(flop / bounds[precision], moved / bounds["copy"]),
                    "seconds": timed,
                }
            )
    return rows


def algorithm_side(gpu: Gpu, pool: Pool, layer: Layer, face: str, batch: int, algorithm: str, precision: str) -> Run:
    """The face by one algorithm, on other numbers at each call; checked against torch's strict float32 first."""
    shapes = layer.shapes(batch).values()
    which = partial(kernels.use_kernels, "cuda", conv=algorithm, precision=precision)
    operands = [pool.take(shape) for shape in shapes]
    with torchs("ieee"):
        expected = torchs_face(layer, face, *map(gpu.share, operands))().double()
    with which():
        found = gpu.share(our_face(layer, face, *operands)()).double()
    error = float((found - expected).norm() / expected.norm())
    if not error <= PRECISIONS[precision]:
        raise AssertionError(
            f"{layer}, {face}, {algorithm}, {precision}: differs from torch by {error:.2g} of the norm, which may be "
            f"{PRECISIONS[precision]:.0e}."
        )

    def run() -> None:
        with which():
            our_face(layer, face, *(pool.take(shape) for shape in shapes))()

    return run


def torch_side(gpu: Gpu, pool: Pool, layer: Layer, face: str, batch: int, precision: str) -> Run:
    """The face in torch; with bf16 its tensors are bfloat16, ours stay float32 and are rounded on the way."""
    shapes = layer.shapes(batch).values()
    if precision != "bf16":
        return lambda: torchs_face(layer, face, *(gpu.share(pool.take(shape)) for shape in shapes))()
    rounded = [[gpu.share(pool.take(shape)).bfloat16() for shape in shapes] for _ in range(4)]
    turn = iter(range(1 << 62))
    return lambda: torchs_face(layer, face, *rounded[next(turn) % 4])()


# --------------------------------------------------------------------------------------------------
# What only moves memory


#: Name -> (bytes that must be moved, ours, torch's).
Sides = dict[str, tuple[int, Run, Run]]


def activations_and_pools(gpu: Gpu, pool: Pool, shape: tuple[int, ...]) -> Sides:
    """For images of ``shape`` (N, C, H, W), windows of 2 x 2."""
    F, aten, share = torch.nn.functional, torch.ops.aten, gpu.share
    size, (h, w) = 4 * prod(shape), shape[2:]
    pooling = window_geometry("benchmarks", (h, w), (2, 2), 2)
    maps, four = window_maps(pooling), gpu.xp.full(pooling.output, 4, np.float32)
    x, half = partial(pool.take, shape), partial(pool.take, (*shape[:2], *pooling.output))
    _, indices = kernels.max_pool(x(), pooling)
    t_indices, twos, zeros = share(indices), [2, 2], [0, 0]

    def torchs_avg_gradient() -> torch.Tensor:
        return aten.avg_pool2d_backward(share(half()), share(x()), twos, twos, zeros, False, True, None)

    def torchs_max_gradient() -> torch.Tensor:
        return aten.max_pool2d_with_indices_backward(
            share(half()), share(x()), twos, twos, zeros, [1, 1], False, t_indices
        )

    return {
        "relu": (2 * size, lambda: kernels.relu(x()), lambda: F.relu(share(x()))),
        "relu, gradient": (
            3 * size,
            lambda: kernels.relu_grad(x(), x()),
            lambda: aten.threshold_backward(share(x()), share(x()), 0),
        ),
        "max_pool 2x2": (
            size + 3 * size // 4,
            lambda: kernels.max_pool(x(), pooling),
            lambda: F.max_pool2d(share(x()), 2, return_indices=True),
        ),
        "max_pool 2x2, gradient": (
            size + 3 * size // 4,
            lambda: kernels.scatter_windows(half(), indices, pooling.size, maps),
            torchs_max_gradient,
        ),
        "avg_pool 2x2": (
            size + size // 4,
            lambda: kernels.avg_pool(x(), pooling, four),
            lambda: F.avg_pool2d(share(x()), 2),
        ),
        "avg_pool 2x2, gradient": (
            size + size // 4,
            lambda: kernels.avg_pool_input(half(), pooling, four),
            torchs_avg_gradient,
        ),
    }


def norms_losses_and_steps(gpu: Gpu, pool: Pool, shape: tuple[int, ...]) -> Sides:
    """For images of ``shape`` (N, C, H, W)."""
    share, xp, size = gpu.share, gpu.xp, 4 * prod(shape)
    n, c, h, w = shape
    x = partial(pool.take, shape)
    weight, norm = xp.ones((1, c, 1, 1), np.float32), ((0, 2, 3), 1e-5)
    _, mean, var = kernels.normalise(x(), weight, weight, *norm)
    t_weight = share(weight).reshape(-1)
    t_mean, t_rstd = (share(a.astype(np.float32)).reshape(-1) for a in (mean, 1 / xp.sqrt(var + 1e-5)))
    target, valid = xp.zeros((n, h * w), np.int64), xp.ones((n, h * w), bool)
    factor, t_target = valid.astype(np.float32), share(target).reshape(n, h, w)
    state = [xp.zeros(shape, np.float32) for _ in range(3)]
    t_state = [[torch.zeros(shape, device=gpu.torch_device)] for _ in range(3)]
    steps = [torch.ones((), device=gpu.torch_device)]

    def torchs_norm_gradient() -> Any:
        given = share(x()), share(x()), t_weight, None, None, t_mean, t_rstd
        return torch.ops.aten.native_batch_norm_backward(*given, True, 1e-5, [True, True, True])

    def our_adam() -> Any:
        kernels.adam_step(state[0], x(), state[1], state[2], None, 1, 1e-3, 0.9, 0.999, 1e-8, 0, False, False)
        return state[0]

    def torchs_adam() -> torch.Tensor:
        options = dict(amsgrad=False, beta1=0.9, beta2=0.999, lr=1e-3, weight_decay=0.0, eps=1e-8, maximize=False)
        torch._fused_adam_(t_state[0], [share(x())], t_state[1], t_state[2], [], steps, **options)
        return t_state[0][0]

    return {
        "batch norm": (
            3 * size,
            lambda: kernels.normalise(x(), weight, weight, *norm),
            lambda: torch.native_batch_norm(share(x()), t_weight, t_weight, None, None, True, 0.1, 1e-5),
        ),
        "batch norm, gradient": (
            5 * size,
            lambda: kernels.normalise_grad(x(), x(), weight, mean, var, *norm),
            torchs_norm_gradient,
        ),
        "cross entropy": (
            size,
            lambda: kernels.cross_entropy(pool.take((n, c, h * w)), target, factor, valid),
            lambda: torch.nn.functional.cross_entropy(share(x()), t_target, reduction="none"),
        ),
        "adam": (7 * size, our_adam, torchs_adam),
    }


def check_operator(gpu: Gpu, pool: Pool, name: str, ours: Run, theirs: Run) -> None:
    """AssertionError where the two sides, on the same numbers, differ by more than rounding."""
    results = []
    for side in (ours, theirs):
        pool.next = 0
        result = side()
        results.append(result[0] if isinstance(result, tuple) else result)
    found, expected = gpu.share(results[0]).double().reshape(-1), results[1].double().reshape(-1)
    error = float((found - expected).norm() / expected.norm())
    if not error <= 1e-5:
        raise AssertionError(f"{name}: differs from torch by {error:.2g} of the norm.")


def run_bandwidth(
    gpu: Gpu, pool: Pool, quick: bool, bounds: dict[str, float], shape: tuple[int, ...] = (64, 64, 56, 56)
) -> list[dict[str, Any]]:
    """Each operator's bytes a second as a share of the copy's."""
    rows = []
    with kernels.use_kernels("cuda"), torch.no_grad():
        sides = activations_and_pools(gpu, pool, shape) | norms_losses_and_steps(gpu, pool, shape)
        for name, (moved, ours, theirs) in tqdm(sides.items(), desc="bandwidth", unit="operator"):
            check_operator(gpu, pool, name, ours, theirs)
            timed = interleaved(gpu, {"tinyconv": ours, "torch": theirs}, 3 if quick else 9)
            rows.append({"operator": name, "bytes": moved, "floor": moved / bounds["copy"], "seconds": timed})
    return rows


# --------------------------------------------------------------------------------------------------
# Training steps


def step_of(gpu: Gpu, lib: Any, network: Any, job: networks.Job, amp: bool) -> Callable[[], Any]:
    """A step of SGD on a batch on the GPU; returns the loss, which stays there."""
    place = "cuda" if lib is tinyconv else gpu.torch_device
    images, labels = (lib.from_numpy(a).to(place) for a in job.batch())
    network = network.to(place)
    optimiser = lib.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    scaler = lib.amp.GradScaler(place, enabled=amp)

    def step() -> Any:
        with lib.amp.autocast(place, dtype=lib.float16, enabled=amp):
            loss = lib.nn.CrossEntropyLoss()(network(images), labels)
        optimiser.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()
        return loss.detach()

    return step


def run_steps(gpu: Gpu, quick: bool, shapes: dict[str, tuple[int, ...]] | None = None) -> list[dict[str, Any]]:
    """Whole steps in strict float32, in TF32 and in mixed precision."""
    rows = []
    for name, shape in (shapes or STEPS).items():
        job = networks.Job(**{**vars(networks.JOBS[name]), "shape": shape})
        for precision in ("ieee", "tf32", "float16"):
            tinyconv.manual_seed(0)
            ours, theirs = job.build(tinyconv), job.build(torch)
            copy_weights(ours, theirs)
            products = "ieee" if precision == "float16" else precision
            with kernels.use_kernels("cuda", precision=products), torchs(products):
                amp = precision == "float16"
                sides = {lib.__name__: step_of(gpu, lib, n, job, amp) for lib, n in ((tinyconv, ours), (torch, theirs))}
                losses = {side: [float(step().item()) for _ in range(2)] for side, step in sides.items()}
                check_losses(name, precision, losses)
                timed = interleaved(gpu, sides, 3 if quick else 9)
            rows.append({"network": name, "shape": shape, "precision": precision, "losses": losses, "seconds": timed})
    return rows


def check_losses(name: str, precision: str, losses: dict[str, list[float]]) -> None:
    """AssertionError where the two sides do not do the same."""
    factor = 1 if precision == "ieee" else 30
    for ours, theirs, apart in zip(losses["tinyconv"], losses["torch"], APART):
        if not abs(ours - theirs) <= factor * apart * abs(theirs):
            raise AssertionError(f"{name}, {precision}: the losses of the two sides differ: {losses}.")


def run(gpu: Gpu, quick: bool, megabytes: int = 4096) -> dict[str, Any]:
    """Everything, with the GPU's name and ceilings."""
    pool = Pool(gpu, megabytes)
    bounds = ceilings(gpu, pool)
    return {
        "gpu": gpu.name,
        "ceilings": bounds,
        "layers": run_layers(gpu, pool, quick, bounds),
        "bandwidth": run_bandwidth(gpu, pool, quick, bounds),
        "steps": run_steps(gpu, quick),
    }
