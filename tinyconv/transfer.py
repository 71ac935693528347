"""Transfer learning: a network that was trained on one task is the start for another.

model = models.resnet18()
model.load_state_dict(io.load("resnet18.safetensors"))
transfer.replace_head(transfer.freeze(model), num_classes=2)        # train the new head alone, then
transfer.unfreeze(model)                                            # all, the body with smaller steps
optimizer = optim.SGD(transfer.param_groups(model, body_lr=1e-4, head_lr=1e-2), lr=1e-2)
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any, NamedTuple, TypeVar

from tinyconv import models, nn
from tinyconv.models.lenet1998 import RBF

M = TypeVar("M", bound=nn.Module)

#: Where each network makes its scores.
_HEADS: dict[type[nn.Module], tuple[str, ...]] = {
    models.LeNet5: ("fc3",),
    models.LeNet1998: ("rbf",),
    models.AlexNet: ("classifier.6",),
    models.AlexNet2012: ("classifier.6",),
    models.VGG: ("classifier.6",),
    models.GoogLeNet: ("fc", "aux1.fc2", "aux2.fc2"),
    models.ResNet: ("fc",),
    models.CifarResNet: ("fc",),
    models.MobileNetV1: ("classifier",),
    models.MobileNetV2: ("classifier.1",),
    models.UNet: ("head",),
    models.UNet2015: ("head",),
    models.UNet3d: ("head",),
    models.AttentionUNet: ("head",),
}


def freeze(module: M) -> M:
    """Train ``module`` no more, in place; returns it. The opposite of :func:`unfreeze`.

    Its parameters need no gradient and have none, and its batch norms stay in evaluation even under ``train()``: they
    would go on to learn the statistics of the new images else. Dropout still drops in training, as in torch.
    """
    module.requires_grad_(False)
    module.zero_grad()  # an optimiser would take a step along an old gradient
    return _set_frozen(module, True)


def unfreeze(module: M) -> M:
    """Train ``module`` again, in place; returns it. Its batch norms follow its mode, ``module.training``."""
    module.requires_grad_(True)
    return _set_frozen(module, False)


def _set_frozen(module: M, frozen: bool) -> M:
    training = module.training
    for part in module.modules():
        if hasattr(part, "frozen") and hasattr(part, "track_running_stats"):
            part.frozen = frozen
            part.train(training)
    return module


def _heads(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> layer that makes the scores; GoogLeNet has up to three."""
    names = next((names for kind, names in _HEADS.items() if isinstance(model, kind)), None)
    if names is None:
        raise ValueError(
            f"transfer: it is not known where a {type(model).__name__} makes its scores. Assign a layer of your own, "
            "for example model.fc = nn.Linear(512, 2)."
        )
    present = dict(model.named_modules())
    return {name: present[name] for name in names if name in present}


def replace_head(model: M, num_classes: int) -> M:
    """A new last layer with ``num_classes`` outputs, in place; returns the model, whose other weights stay.

    Of any network in tinyconv.models that makes class scores; of GoogLeNet also the auxiliary heads. The new layer has
    the default initialisation of its kind and is not frozen. LeNet1998's fixed codes become a linear layer, so that it
    makes scores as the others do. ValueError: another network, or num_classes below 1.
    """
    if num_classes < 1:
        raise ValueError(f"replace_head: num_classes must be at least 1, but is {num_classes}.")
    for name, old in _heads(model).items():
        new: nn.Module
        if isinstance(old, nn.Linear):
            new = nn.Linear(old.in_features, num_classes)
        elif isinstance(old, RBF):
            new = nn.Linear(old.code.shape[1], num_classes)
        else:
            kind: Any = type(old)  # a convolution
            new = kind(old.in_channels, num_classes, old.kernel_size)
        example = next(iter(old.state_dict().values()))
        parent, _, last = name.rpartition(".")
        model.get_submodule(parent).add_module(last, new.to(example.dtype).to(example.device).train(old.training))
    return model


def param_groups(model: nn.Module, body_lr: float, head_lr: float) -> list[dict[str, Any]]:
    """Groups for an optimiser: the body with ``body_lr``, the head with ``head_lr``; without what is frozen.

    A pre-trained body needs smaller steps than a head that starts from chance. What is unfrozen later is not in these
    groups: make a new optimiser then. ValueError: all is frozen; also as :func:`replace_head`.
    """
    head = [p for layer in _heads(model).values() for p in layer.parameters()]
    known = {id(p) for p in head}
    body = [p for p in model.parameters() if id(p) not in known]
    groups = [
        {"params": [p for p in part if p.requires_grad], "lr": lr} for part, lr in ((body, body_lr), (head, head_lr))
    ]
    trained = [group for group in groups if group["params"]]
    if not trained:
        raise ValueError(
            f"param_groups: every parameter of this {type(model).__name__} is frozen. Put a new head on it with "
            "transfer.replace_head(model, num_classes), or transfer.unfreeze a part of it."
        )
    return trained


class _Reached(Exception):
    """Carries the output of the layer out of the network, which need not go on."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output


def _stop(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    raise _Reached(output)


class _Features(nn.Module):
    def __init__(self, model: nn.Module, layer: str) -> None:
        super().__init__()
        self.model, self.layer = model, layer
        self.training = model.training

    def forward(self, *args: Any) -> Any:
        """What the layer makes when it is called first."""
        handle = self.model.get_submodule(self.layer).register_forward_hook(_stop)
        try:
            self.model(*args)
        except _Reached as reached:
            return reached.output
        finally:
            handle.remove()
        raise ValueError(f"features: {type(self.model).__name__} did not call {self.layer!r}.")


def features(model: nn.Module, layer: str) -> nn.Module:
    """``features(model, "layer3")(x)`` is what that layer of the model makes of x; what comes behind is not computed.

    ``layer``: a name of model.named_modules(). Gradients pass, and the model's mode is its own: for fixed features call
    ``model.eval()`` and work under ``no_grad()``. ValueError: no such layer; lists near ones.
    """
    names = [name for name, _ in model.named_modules() if name]
    if layer not in names:
        near = get_close_matches(layer, names, n=4) or [name for name, _ in model.named_children()]
        raise ValueError(
            f"features: {type(model).__name__} has no layer {layer!r}. Did you mean one of: {', '.join(near)}?"
        )
    return _Features(model, layer)


class Strategy(NamedTuple):
    """What to train, 'head', 'head on earlier features' or 'all', and why."""

    train: str
    why: str


def strategy(few_images: bool, similar: bool) -> Strategy:
    """The rule of thumb: what to train, given the number of images and whether they resemble the first task's.

    The notes give no number for "few": the more weights are trained, the more images they need. Where the four cases
    say "linear classifier", this says "head". For many images that differ they would allow training from scratch, and
    still advise a trained start. Not a law: lectures/15_transfer.py
    measures a case in which fine-tuning wins with 20 images.
    Source: Stanford CS231n, https://cs231n.github.io/transfer-learning/, "When and how to fine-tune?"; that early
    layers are the general ones: Yosinski et al., "How transferable are features in deep neural networks?", 2014.
    """
    if few_images and similar:
        return Strategy("head", "the features fit, and more weights would overfit: freeze the body, train a new head")
    if few_images:
        return Strategy(
            "head on earlier features",
            "the last features belong to the first task, and more weights would overfit: train on earlier ones",
        )
    if similar:
        return Strategy("all", "the features fit, and there are enough images to refine them: small steps in the body")
    return Strategy("all", "there are enough images to train from chance, but a trained start is still often better")
