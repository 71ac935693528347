"""The command line: tinyconv train, predict, explain, info."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyconv import __version__, explain, io, kernels, recipes
from tinyconv.amp import GradScaler
from tinyconv.autograd.device import device
from tinyconv.autograd.gpu import load_cupy
from tinyconv.report import CLASS_COLOURS, write_report
from tinyconv.training import ProgressBar, one_blas_thread


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 1 after an error that a sentence explains, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    except (ValueError, TypeError, IndexError, OSError, ImportError, RuntimeError, MemoryError) as error:
        print(f"tinyconv {options.command}: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tinyconv", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    train = commands.add_parser("train", help="train a network and write a report")
    train.add_argument("--model", required=True, metavar="NAME", help="the network, e.g. unet or cifar_resnet20")
    train.add_argument(
        "--data",
        required=True,
        metavar="NAME",
        help="digits (come with scikit-learn), brain (comes with nilearn), or pneumoniamnist, nuclei, hippocampus "
        "(under TINYCONV_DATA)",
    )
    train.add_argument("--out", type=Path, help="folder of the report; runs/MODEL-DATA by default")
    train.add_argument("--epochs", type=int, help="times through the training set")
    train.add_argument("--seed", type=int, default=0, help="the same seed gives the same bits")
    train.add_argument("--workers", type=int, default=1, help="threads that prepare batches")
    train.add_argument("--device", default="cpu", help="cpu or cuda; a training may be resumed on the other one")
    train.add_argument(
        "--mixed-precision", action="store_true", help="products in float16, for the tensor cores of a GPU"
    )
    train.add_argument("--resume", action="store_true", help="go on from the checkpoint in the folder")
    train.set_defaults(run=_train)

    predict = commands.add_parser("predict", help="classify or segment images with a trained network")
    predict.add_argument("checkpoint", type=Path, help="checkpoint.safetensors of a training")
    predict.add_argument("images", type=Path, nargs="+", help="grey images (PNG, TIFF, JPEG) or volumes (NIfTI)")
    predict.add_argument("--out", type=Path, help="folder of the class maps; beside each image by default")
    predict.set_defaults(run=_predict)

    tracer = commands.add_parser("explain", help="show every product of a convolution, pooling or unfolding")
    tracer.add_argument("operator", help="conv2d, conv_transpose2d, max_pool2d, avg_pool2d, ... 1d to 3d, or unfold")
    tracer.add_argument("--input", type=int, nargs="+", default=[5], metavar="SIZE", help="one size or one an axis")
    tracer.add_argument("--kernel", type=int, nargs="+", default=[3], metavar="SIZE", help="one size or one an axis")
    for name in _EXPLAINED:
        tracer.add_argument(f"--{name.replace('_', '-')}", type=int, nargs="+", metavar="N", help="one or one an axis")
    tracer.add_argument("--ceil-mode", action="store_true", help="pooling: round the size up")
    tracer.add_argument("--by", choices=("output", "input", "weight"), default="output", help="what --at names")
    tracer.add_argument("--at", type=int, nargs="+", metavar="INDEX", help="the element to show, e.g. 0 0 1 2")
    tracer.add_argument("--html", type=Path, metavar="FILE", help="write a page to step through in a browser")
    tracer.add_argument("--debug", action="store_true", help="step through the products with pdb's letters")
    tracer.set_defaults(run=_explain)

    info = commands.add_parser("info", help="versions, kernels, threads, GPU, BLAS")
    info.set_defaults(run=_info)
    return parser


# --------------------------------------------------------------------------------------------------


def _train(options: argparse.Namespace) -> None:
    plan = recipes.recipe(options.model, options.data)
    folder = options.out or Path("runs") / f"{options.model}-{options.data}"
    epochs = plan.task.epochs if options.epochs is None else options.epochs
    if epochs < 1:
        raise ValueError(f"--epochs must be at least 1, but is {epochs}.")
    if device(options.device) == "cuda":
        load_cupy("--device cuda")  # before the data are read
    folder.mkdir(parents=True, exist_ok=True)
    trainer, test = recipes.make_trainer(
        plan,
        folder,
        epochs,
        options.seed,
        options.workers,
        (ProgressBar(epochs),),
        device=options.device,
        scaler=GradScaler(options.device) if options.mixed_precision else None,
    )
    assert trainer.checkpoint is not None
    if options.resume:
        if not trainer.checkpoint.is_file():
            raise FileNotFoundError(f"--resume: there is no {trainer.checkpoint}. Train without --resume first.")
        state = io.load(trainer.checkpoint)
        if state["config"] != trainer.config:
            raise ValueError(
                f"--resume: {trainer.checkpoint} was made with {state['config']}, this is {trainer.config}. "
                f"Give the same options, or another --out."
            )
        trainer.load_state_dict(state)
    with one_blas_thread():
        try:
            trainer.fit(epochs)
        except KeyboardInterrupt:
            print(
                f"\nStopped; {trainer.checkpoint} is written. The same command with --resume goes on.", file=sys.stderr
            )
            raise
        metrics, examples = recipes.evaluate(plan, trainer.model, test)
    metrics["seconds"] = sum(row["seconds"] for row in trainer.history)
    write_report(folder, trainer.history, metrics, examples, plan.task.classes)
    print(f"\nheld-out: {metrics['images']} images, trained in {metrics['seconds']:.0f} s")
    (_print_overlaps if plan.task.dense else _print_accuracy)(plan.task.classes, metrics["network"])
    print(f"report: {folder}/ (metrics.json, curves.png, examples.png, checkpoint.safetensors)")


def _print_accuracy(classes: Sequence[str], scores: dict[str, Any]) -> None:
    print(f"accuracy {scores['accuracy']:.3f}" + (f", AUC {scores['auc']:.3f}" if "auc" in scores else ""))
    width = max(max(map(len, classes)), 5) + 2
    print("truth".ljust(width) + "predicted " + "".join(name.rjust(width) for name in classes))
    for name, row in zip(classes, scores["confusion"]):
        print(name.ljust(width) + " " * 10 + "".join(str(count).rjust(width) for count in row))


def _print_overlaps(classes: Sequence[str], scores: dict[str, Any]) -> None:
    print(f"{'':18s}" + "".join(f"{name:>16s}" for name in (*classes[1:], "mean")))
    rows = {"network": scores, **({"thresholds": scores["thresholds"]} if "thresholds" in scores else {})}
    for who, figures in rows.items():
        for measure in ("dice", "iou"):
            values = [figures[measure][name] for name in classes[1:]] + [figures[f"mean_{measure}"]]
            print(f"{who} {measure}".ljust(18) + "".join(f"{value:16.3f}" for value in values))
    if "nuclei" in scores:
        whole = scores["nuclei"]
        print(f"whole nuclei: IoU {whole['iou']:.3f}, mean Dice of an image {whole['case_dice']:.3f}")
        print("AP at IoU " + ", ".join(f"{threshold} {value:.3f}" for threshold, value in whole["ap"].items()))
    else:
        of_cases = (f"{name} {scores['case_dice'][name]:.3f}" for name in classes[1:])
        print(f"mean Dice of a case: {', '.join(of_cases)}")


def _predict(options: argparse.Namespace) -> None:
    state = io.load(options.checkpoint)
    try:
        plan = recipes.recipe(state["config"]["model"], state["config"]["data"])
        network = plan.build()
        network.load_state_dict(state["model"])
    except (KeyError, TypeError):
        raise ValueError(
            f"{options.checkpoint} is not the checkpoint of a training. Make one with tinyconv train."
        ) from None
    for path in options.images:
        image, write = _read_volume(path) if len(plan.task.size) == 3 else _read_grey(path)
        with one_blas_thread():
            scores = recipes.predict(plan, network, plan.task.normalise(image)[None])
        if plan.task.dense:
            classes = scores.argmax(0)
            target = write(options.out or path.parent, classes)
            shares = (f"{name} {np.mean(classes == c):.1%}" for c, name in enumerate(plan.task.classes))
            print(f"{target}: {', '.join(shares)}")
        else:
            probabilities = np.exp(scores - np.logaddexp.reduce(scores))
            print(f"{path}: " + ", ".join(f"{n} {p:.1%}" for n, p in zip(plan.task.classes, probabilities)))


#: Writes a class map into a folder and says which file it is.
Writer = Callable[[Path, NDArray[np.int64]], Path]


def _read_grey(path: Path) -> tuple[NDArray[np.float32], Writer]:
    """A grey image as float32 (H, W), in its own intensity units."""
    try:
        from PIL import Image, ImageColor
    except ImportError:
        raise ImportError("reading images needs Pillow, which is missing: pip install pillow") from None
    if not path.is_file():
        raise FileNotFoundError(f"there is no image {path}.")
    with Image.open(path) as opened:
        array = np.asarray(opened, np.float32)
    if array.ndim != 2:
        raise ValueError(
            f"{path} must be a grey image, but has the shape {array.shape}. Convert it to 8-bit grey first."
        )

    def write(folder: Path, classes: NDArray[np.int64]) -> Path:
        """A PNG whose pixel values are the class numbers, with a palette that shows them."""
        target = folder / f"{path.stem}_classes.png"
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(classes.astype(np.uint8), mode="P")
        image.putpalette([part for colour in CLASS_COLOURS for part in ImageColor.getrgb(colour)])
        image.save(target)
        return target

    return array, write


def _read_volume(path: Path) -> tuple[NDArray[np.float32], Writer]:
    """A NIfTI volume as float32 (X, Y, Z), in its own intensity units."""
    try:
        import nibabel
    except ImportError:
        raise ImportError("reading volumes needs nibabel, which is missing: pip install nibabel") from None
    if not path.is_file():
        raise FileNotFoundError(f"there is no volume {path}.")
    try:
        opened: Any = nibabel.load(path)
        array = np.asarray(opened.dataobj, np.float32)
    except nibabel.filebasedimages.ImageFileError as error:
        raise ValueError(f"{path} must be a NIfTI volume, but {error}.") from None
    if array.ndim != 3:
        raise ValueError(f"{path} must be a volume of three axes, but has the shape {array.shape}.")

    def write(folder: Path, classes: NDArray[np.int64]) -> Path:
        """A NIfTI volume of class numbers, in the same place of the same space."""
        target = folder / f"{path.name.split('.')[0]}_classes.nii.gz"
        folder.mkdir(parents=True, exist_ok=True)
        nibabel.Nifti1Image(classes.astype(np.uint8), opened.affine).to_filename(target)
        return target

    return array, write


_EXPLAINED = ("stride", "padding", "dilation", "output_padding")


def _explain(options: argparse.Namespace) -> None:
    given: dict[str, Any] = {name: value for name in _EXPLAINED if (value := getattr(options, name)) is not None}
    if options.ceil_mode:
        given["ceil_mode"] = True
    trace = explain.example(options.operator, options.input, options.kernel, **given)
    if options.debug:
        trace.debug(options.by)
        return
    index: Any = options.at or [0] * len(trace.shape(options.by))
    step = trace.at(**{options.by: index})
    if options.html:
        options.html.write_text(trace.to_html(step), encoding="utf-8")
        print(f"{options.html}: open it in a browser; it needs no network.")
        return
    print(f"{explain.format_sizes(trace)}\n\n{trace.text(step, colour=sys.stdout.isatty())}")


def _info(options: argparse.Namespace) -> None:
    print(f"tinyconv    {__version__}")
    print(f"python      {platform.python_version()} on {platform.machine()}, {platform.system()}")
    for name in ("numpy", "numba", "cupy", "safetensors", "matplotlib", "nilearn", "nibabel", "pillow", "tqdm"):
        print(f"{name:11s} {_version(name)}")
    print(f"threads     {os.cpu_count()} cores, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')}")
    print(f"BLAS        {_blas()}")
    print(f"GPU         {_gpu()}")
    print(f"kernels\n{kernels.table()}")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _blas() -> str:
    config: Any = np.show_config(mode="dicts")
    blas = config["Build Dependencies"]["blas"]
    core = os.environ.get("OPENBLAS_CORETYPE")
    return f"{blas['name']} {blas['version']}" + (f", held to its {core} kernels by OPENBLAS_CORETYPE" if core else "")


def _gpu() -> str:
    try:
        runtime = load_cupy("none").cuda.runtime
    except RuntimeError as error:
        return str(error)
    return ", ".join(runtime.getDeviceProperties(i)["name"].decode() for i in range(runtime.getDeviceCount()))


if __name__ == "__main__":
    sys.exit(main())
