# %% [markdown]
# # Lab 13: training practice
#
# **Goal.** The network is chosen; now it has to learn. You find out why its first layers get no gradient and mend it,
# which optimiser wants which learning rate and how to find it, what warm-up and averaged weights are for, and what
# helps when there are only sixty images, as so often in medicine.
#
# You need LeNet (lab 07) and what lab 11 says about norms. The lab runs in about a minute, without a network.
#
# Exercises check themselves: fill in the line marked `your code here`, run the cell, and read what `q.check` says.
# `q.hint()` helps with the exercise that you checked last, `q.solution()` shows an answer.

# %%
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import tinyconv as tc
import tinyconv.functional as F
from tinyconv import nn, optim
from tinyconv.data import DataLoader, TensorDataset
from tinyconv.optim.schedule import CosineAnnealingLR, LinearLR, SequentialLR
from tinyconv.optim.swa_utils import AveragedModel, get_ema_avg_fn
from tinyconv.teaching import Quiz, show
from tinyconv.training import Trainer, find_learning_rate, one_blas_thread

blas = one_blas_thread()  # small products of matrices: a second thread would mostly wait; holds while the name lives

# %%
# This cell knows how to check the exercises. You need not read it; it gives answers away.
q = Quiz(globals())


@q.exercise(
    1,
    "A step along axis i: w_i <- w_i - rate * curvature_i * w_i = (1 - rate * curvature_i) w_i.",
    "|1 - rate * curvature| has to be below 1: rate * curvature below 2. Which curvature is the strictest?",
)
def _(largest_rate):
    diagnoses = {
        0.08: None,
        2.0: "this is the limit of the flat direction, with curvature 1; the steep one, with 25, diverges long before.",
        0.04: "1 / 25 jumps right to the bottom of the steep direction; up to twice that it still converges.",
        1.0: "1 jumps to the bottom of the flat direction; in the steep one w is multiplied by 1 - 25 = -24.",
        0.0769: "2 / (1 + 25) is the *best* rate; the largest is asked for.",
        0.16: "the loss is curvature / 2 * w^2, so its slope is curvature * w: the factor is 1 - 25 * rate.",
    }
    for value, diagnosis in diagnoses.items():
        if np.isclose(largest_rate, value, rtol=2e-3):
            return diagnosis
    return f"with {largest_rate} the steep direction is multiplied by {1 - 25 * largest_rate:.3g} in each step."


@q.exercise(
    2,
    "Two lines: the new velocity is momentum times the old one plus the gradient; w moves by minus rate times it.",
    "velocity = momentum * velocity + gradient; return w - rate * velocity, velocity",
)
def _(momentum_step):
    found = momentum_step(2.0, 0.5, 4.0, 0.1, 0.9)
    if found is None or np.shape(found) != (2,):
        return "momentum_step has to return two numbers, the new w and the new velocity."
    w, velocity = map(float, found)
    if np.isclose(velocity, 0.9 * 0.5 + 0.1 * 4.0):
        return "this is a running mean, (1 - momentum) times the gradient; torch and tinyconv add the whole gradient."
    if np.isclose(velocity, 0.9 * 0.5 - 0.1 * 4.0):
        return "you put the rate into the velocity, as some books do; here the rate multiplies the whole velocity."
    if np.isclose(velocity, 0.5 + 4.0):
        return "the old velocity has to fade: momentum times it."
    if not np.isclose(velocity, 4.45):
        return f"for velocity 0.5, gradient 4 and momentum 0.9 the new velocity is 4.45, not {velocity:g}."
    if np.isclose(w, 2.0 - 0.1 * 0.5):
        return "w moved by the old velocity; take the new one."
    if np.isclose(w, 2.0 - 0.1 * 4.0):
        return "w moved by the gradient; it moves by the velocity."
    if np.isclose(w, 2.0 + 0.445):
        return "w moved uphill: minus rate times velocity."
    return None if np.isclose(w, 2.0 - 0.445) else f"the velocity is right; w moves by -0.1 * 4.45, not to {w:g}."


@q.exercise(
    3,
    "SGD: the gradient of the decay is 0.1 * 1, a step of 0.1 times that. AdamW: w <- (1 - rate * decay) w.",
    "Adam adds 0.1 * w to the gradient, and then divides the gradient by its own size: what is left is 1.",
)
def _(after_sgd, after_adam, after_adamw):
    found = tuple(round(float(w), 6) for w in (after_sgd, after_adam, after_adamw))
    if found == (0.99, 0.9, 0.99):
        return None
    if found == (1.0, 1.0, 1.0):
        return "no gradient from the loss; but the decay pulls all the same."
    if found == (0.9, 0.9, 0.9):
        return "for SGD and AdamW the decay is multiplied by the rate: 0.1 * 0.1 * w."
    if found[0] != 0.99:
        return f"SGD: w - 0.1 * (0 + 0.1 * w) for w = 1, not {found[0]:g}."
    if found[2] != 0.99:
        return f"SGD is right. AdamW's decay does not go through its averages: w (1 - 0.1 * 0.1), not {found[2]:g}."
    if found[1] == 0.99:
        return "SGD and AdamW are right. But Adam divides the gradient by its size, the part from the decay as well."
    return f"SGD and AdamW are right. Adam's first step has the size of the rate: not to {found[1]:g}."


@q.exercise(
    4,
    "Go through the epochs; keep the best loss and how many epochs ago it was. Stop when that reaches patience.",
    "best = int(np.argmin(losses[: epoch + 1])); stop at the first epoch with epoch - best >= patience.",
)
def _(stops_after):
    losses = [3.0, 2.0, 2.5, 2.6, 1.9, 2.2, 2.1, 2.3, 1.0]
    found = stops_after(losses, 3), stops_after(losses, 2), stops_after([3.0, 2.0, 1.0], 2)
    if None in found:
        return "stops_after returns None; it has to return a number of epochs, also where it never stops."
    diagnoses = {
        (8, 4, 3): None,
        (7, 3, 3): "count epochs from 1: after the first epoch one is done.",
        (5, 2, 3): "this is the epoch of the best loss; the training notices `patience` epochs later.",
        (9, 8, 3): "one epoch late: patience epochs without improvement are enough.",
        (9, 4, 3): "you compare with the epoch before; compare with the best so far.",
        (9, 9, 3): "you look at all losses at once; after an epoch the later ones are not known yet.",
    }
    return diagnoses.get(
        found, f"for {losses} it stops after 8 epochs with patience 3 and 4 with 2; yours: {found[:2]}."
    )


# %% [markdown]
# ## Does the gradient arrive?
#
# Digits again, 8 x 8 pixels, with as much noise as signal, so that they are not too easy. First, dense networks of 1 to
# 16 hidden layers, before any training. **Predict**: of the gradient of the first layer, what is left with sixteen
# layers in place of one, for the sigmoid and for ReLU? A tenth? A millionth?

# %%
prediction = {"sigmoid": 0.1, "ReLU": 0.1}  # change these two numbers

# %%
SEED = 0
digits = load_digits()
images = digits.images[:, None]
images = (images - images.mean()) / images.std()
images = (images + np.random.default_rng(1).standard_normal(images.shape)).astype(np.float32)  # (1797, 1, 8, 8)
labels = digits.target


def he_(net: nn.Module) -> nn.Module:
    """Normal weights of variance 2 / inputs, biases 0 (He and colleagues, 2015): right for ReLU."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return net


def dense(depth: int, activation: type[nn.Module], norm: bool = False) -> nn.Sequential:
    """``depth`` hidden layers of 64 units, and ten outputs."""
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(depth):
        layers += [nn.Linear(64, 64), *([nn.LayerNorm(64)] if norm else []), activation()]
    return nn.Sequential(*layers, nn.Linear(64, 10))


makers = {
    "sigmoid": lambda depth: dense(depth, nn.Sigmoid),
    "tanh": lambda depth: dense(depth, nn.Tanh),
    "ReLU": lambda depth: dense(depth, nn.ReLU),
    "ReLU, He's weights": lambda depth: he_(dense(depth, nn.ReLU)),
    "ReLU, layer norm": lambda depth: dense(depth, nn.ReLU, norm=True),
}
depths, arrives = (1, 2, 4, 8, 16), {}
for name, make in makers.items():
    arrives[name] = []
    for depth in depths:
        tc.manual_seed(SEED)
        net = make(depth)
        F.cross_entropy(net(tc.tensor(images[:128])), tc.tensor(labels[:128])).backward()
        arrives[name].append(float(np.linalg.norm(net[1].weight.grad.numpy())))

print("gradient of the first layer ", *(f"{depth:8}" for depth in depths), "hidden layers")
for name, norms in arrives.items():
    print(f"{name:28}", *(f"{norm:8.0e}" for norm in norms))
print("left with sixteen:", *(f"{name} {arrives[name][-1] / arrives[name][0]:.0e}" for name in ("sigmoid", "ReLU")))
print("you predicted    :", prediction)

figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
for (name, norms), style in zip(arrives.items(), ("k:v", "k:s", "k--^", "k-o", "k-.D")):
    axis.loglog(depths, norms, style, label=name)
axis.set(xlabel="hidden layers", ylabel="gradient norm, first layer", xticks=depths, xticklabels=depths)
axis.minorticks_off()
axis.legend(fontsize=8)
show(
    figure,
    "Gradient norm of the first layer against the number of hidden layers, both logarithmic: with the sigmoid it falls "
    "by many orders of magnitude, with tanh and ReLU by several, with He's weights and with layer norm it stays.",
)

# Seen with seeds 0, 1 and 2.
assert arrives["sigmoid"][-1] < 1e-9 * arrives["sigmoid"][0], "the sigmoid lets nothing through"
assert arrives["ReLU"][-1] < 1e-3 * arrives["ReLU"][0], "nor does ReLU by itself"
for mended in ("ReLU, He's weights", "ReLU, layer norm"):
    assert arrives[mended][-1] > 0.1 * arrives[mended][0], "weights of the right size, or a norm, mend it"

# %% [markdown]
# The slope of the sigmoid is at most 1/4, so it starves the first layer. The slope of ReLU is 1 where it is not 0, and
# still its gradient vanishes: layers start with weights that are too small for ReLU unless you say otherwise, in torch
# as here. He's weights keep the size of what passes; a norm makes it. From here on we use He's weights.
#
# ## What momentum does
#
# The simplest loss that makes trouble: a valley, steep across and flat along, with curvatures 25 and 1,
# loss = (25 w_0^2 + w_1^2) / 2.
#
# **Exercise 1.** Gradient descent multiplies w_i by a number in each step. Below which rate do both directions
# converge?

# %%
largest_rate = ...  # one number
### BEGIN SOLUTION
largest_rate = 2 / 25
### END SOLUTION
q.check(1)

# %% [markdown]
# **Exercise 2.** Momentum keeps a velocity, an old gradient that fades: v <- m v + g, w <- w - rate v. Write one step.


# %%
def momentum_step(w: float, velocity: float, gradient: float, rate: float, momentum: float) -> tuple[float, float]:
    """The new w and the new velocity."""
    ### BEGIN SOLUTION
    velocity = momentum * velocity + gradient
    return w - rate * velocity, velocity
    ### END SOLUTION


q.check(2)

# %% [markdown]
# Each with the rate that is best for it (Polyak, 1964): 2 / (1 + 25) without momentum; with it 4 / (1 + 5)^2 and
# m = (4/6)^2, where 5 is the root of 25.

# %%
curvature = tc.tensor(np.array([25.0, 1.0]))


def descent(rate: float, momentum: float, steps: int = 100) -> np.ndarray:
    """The path (steps + 1, 2) of w from (1, 1)."""
    w = nn.Parameter(np.ones(2))
    optimizer = optim.SGD([w], lr=rate, momentum=momentum)
    path = [w.detach().numpy().copy()]
    for _ in range(steps):
        optimizer.zero_grad()
        ((curvature * w * w).sum() / 2).backward()
        optimizer.step()
        path.append(w.detach().numpy().copy())
    return np.array(path)


paths = {"gradient descent": descent(2 / 26, 0.0), "with momentum": descent(4 / 36, (4 / 6) ** 2)}
valley = {name: (path**2 @ [25, 1]) / 2 for name, path in paths.items()}
needed = {name: int(np.argmax(losses < 1e-3)) for name, losses in valley.items()}
print("steps until the loss is below 0.001:", needed)
assert needed["gradient descent"] > 2 * needed["with momentum"] > 0

figure, axes = plt.subplots(1, 2, figsize=(7, 2.6), sharex=True, sharey=True, layout="constrained")
across, along = np.meshgrid(np.linspace(-2.1, 2.1, 80), np.linspace(-0.6, 1.1, 80))
for axis, (name, path) in zip(axes, paths.items()):
    axis.contour(across, along, (25 * across**2 + along**2) / 2, levels=np.geomspace(0.02, 50, 9), colors="0.75")
    axis.plot(*path[:25].T, "k.-", lw=0.8)
    axis.set(title=name, xlabel="w_0, curvature 25")
axes[0].set(ylabel="w_1, curvature 1")
show(
    figure,
    "Two contour plots of a narrow valley with the path of the weights. Gradient descent jumps from wall to wall and "
    "creeps along the valley; with momentum the path swings a few times and reaches the bottom in far fewer steps.",
)

# %% [markdown]
# Across the valley the gradients change sign and cancel in the velocity; along it they agree and add up, to 1 / (1 - m)
# times the gradient, ten times with the usual m = 0.9. **Adam** (Kingma and Ba, 2015) goes further: it divides each
# weight's velocity by the size that this weight's gradients usually have, so that all directions look alike.
#
# ## Which learning rate?
#
# A small network of three convolutions, 1000 images, two epochs for each rate. **Predict**: if m = 0.9 makes the steps
# ten times as long, how far apart are the best rates of SGD without and with momentum? And Adam's?

# %%
order = np.random.default_rng(0).permutation(len(labels))
many, held_out = order[:1000], order[1000:1300]


def small_net(norm: str = "", dropout: float = 0.0) -> nn.Sequential:
    """Three convolutions and two dense layers, He's weights; ``norm``: "batch", "layer" or none."""
    layers: list[nn.Module] = []
    for inputs, outputs, side in ((1, 16, 8), (16, 32, 8), (32, 32, 4)):
        norms = {"": [], "batch": [nn.BatchNorm2d(outputs)], "layer": [nn.LayerNorm([outputs, side, side])]}[norm]
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), *norms, nn.ReLU()]
        if inputs == 16:
            layers.append(nn.MaxPool2d(2))
    layers += [nn.Flatten(), nn.Dropout(dropout), nn.Linear(512, 64), nn.ReLU(), nn.Dropout(dropout), nn.Linear(64, 10)]
    return he_(nn.Sequential(*layers))


def trainer_of(net: nn.Module, optimizer: optim.Optimizer, train: np.ndarray, test: np.ndarray, batch: int) -> Trainer:
    return Trainer(
        net,
        optimizer,
        F.cross_entropy,
        DataLoader(TensorDataset(images[train], labels[train]), batch, shuffle=True, seed=SEED),
        validation=DataLoader(TensorDataset(images[test], labels[test]), 500),
    )


optimizers = {
    "SGD": lambda parameters, rate: optim.SGD(parameters, lr=rate),
    "SGD, momentum": lambda parameters, rate: optim.SGD(parameters, lr=rate, momentum=0.9),
    "Adam": lambda parameters, rate: optim.Adam(parameters, lr=rate),
}


def prepared(name: str, rate: float) -> Trainer:
    """The small network, the same weights each time, with 1000 images in batches of 32."""
    tc.manual_seed(SEED)
    net = small_net()
    return trainer_of(net, optimizers[name](net.parameters(), rate), many, held_out, 32)


rates = (0.001, 0.003, 0.01, 0.03, 0.1)
sweep = {name: [prepared(name, rate).fit(2)[-1]["loss"] for rate in rates] for name in optimizers}

# %% [markdown]
# A sweep takes many trainings. The **range test** (Smith, 2017) takes a part of one: raise the rate a little with every
# step, and look where the loss is smallest. A tenth of that rate is a first value.

# %%
found = find_learning_rate(prepared("Adam", 0.001), lowest=1e-5, highest=1.0)
first_value = found.rates[int(np.argmin(found.losses))] / 10

print("training loss after two epochs", *(f"{rate:7g}" for rate in rates), "  best")
best = {}
for name, losses in sweep.items():
    best[name] = rates[int(np.nanargmin(losses))]
    print(f"{name:30}", *(f"{loss:7.2f}" for loss in losses), f"{best[name]:7g}")
print(f"range test for Adam: a first value of {first_value:.2g}, after {len(found.rates)} steps")

figure, axes = plt.subplots(1, 2, figsize=(7, 2.8), layout="constrained")
for (name, losses), style in zip(sweep.items(), ("k:v", "k--s", "k-o")):
    axes[0].semilogx(rates, losses, style, label=name)
axes[0].set(xlabel="learning rate", ylabel="training loss, second epoch", ylim=(0, 2.6))
axes[0].legend(fontsize=8)
axes[1].semilogx(found.rates, found.losses, "k-", label="range test, Adam")
axes[1].axvline(first_value, color="0.5", ls="--", label="a tenth of the lowest point")
axes[1].set(xlabel="learning rate", ylabel="smoothed loss", ylim=(0.5, 1.1 * found.losses[0]))
axes[1].legend(fontsize=8)
show(
    figure,
    "Left: training loss against the learning rate for three optimisers, each curve with a lowest point: Adam's "
    "furthest to the left and lowest, SGD's furthest to the right. Right: the loss of the range test falls, reaches a "
    "lowest point and rises steeply; a line marks a tenth of the rate there.",
)

# Seen with seeds 0, 1 and 2.
assert best["Adam"] in (0.003, 0.01) and best["SGD, momentum"] < best["SGD"], "each optimiser has its own best rate"
assert min(sweep["Adam"]) < min(sweep["SGD"]), "Adam is ahead after two epochs"
assert 0.001 < first_value < 0.03, "the range test finds Adam's region"

# %% [markdown]
# An optimiser without its learning rate says little: in each row there is a rate at which it looks useless. Whoever
# compares two optimisers at one rate compares the rates. Adam is ahead after two epochs here; that is no law, and with
# long training and a schedule SGD with momentum often catches up.
#
# ## Warm-up
#
# At the start the gradients are large and Adam's averages are averages of few batches. We take a rate that is too high
# for Adam, and let it fall to 0 along a cosine in four epochs: at once, or after two epochs in which it rises to it.


# %%
def scheduled(warm_up: int, rate: float = 0.02, epochs: int = 4) -> list[dict[str, float]]:
    """Cosine schedule, behind ``warm_up`` steps of a rate that rises in equal parts."""
    trainer = prepared("Adam", rate)
    steps = epochs * len(trainer.loader)
    cosine = CosineAnnealingLR(trainer.optimizer, steps - warm_up)
    trainer.scheduler, trainer.schedule_batches = cosine, True
    if warm_up:
        rising = LinearLR(trainer.optimizer, 0.01, 1.0, warm_up)
        trainer.scheduler = SequentialLR(trainer.optimizer, [rising, cosine], [warm_up])
    return trainer.fit(epochs)


for warm_up in (0, 62):
    history = scheduled(warm_up)
    print(f"{warm_up:2} steps of warm-up: training loss", *(f"{row['loss']:.2f}" for row in history), end="; ")
    print(f"held-out images: loss {history[-1]['val_loss']:.2f}, accuracy {history[-1]['val_accuracy']:.2f}")
    if not warm_up:
        at_once = history[-1]["val_loss"]
assert history[-1]["val_loss"] < at_once, "warm-up bears the high rate; seen with seeds 0, 1 and 2"

# %% [markdown]
# ## Averaged weights
#
# At a constant rate the weights never come to rest: each batch pulls them elsewhere. An **exponential moving average**
# of them (EMA), here over about the last twenty steps, lies in the middle of that dance. It changes nothing in the
# training, and costs a copy of the weights.

# %%
trainer = prepared("Adam", 0.003)
trainer.average = AveragedModel(trainer.model, avg_fn=get_ema_avg_fn(0.95))
print("epoch   loss on held-out images: last weights   average")
for epoch in range(1, 7):
    averaged = trainer.fit(epoch)[-1]["val_loss"]  # with an average, the validation is the average's
    average, trainer.average = trainer.average, None
    last = trainer.evaluate()["loss"]
    trainer.average = average
    print(f"{epoch:5} {last:37.3f} {averaged:9.3f}")
assert averaged < last, "seen with seeds 0, 1 and 2"

# %% [markdown]
# In the first epoch the average still remembers the beginning, and is worse. A schedule that ends at 0 does a similar
# thing: it calms the dance.
#
# ## Decay: not the same for all
#
# Weight decay pulls every weight towards 0. In SGD it is a part of the gradient, decay * w. **AdamW** (Loshchilov and
# Hutter, 2019) keeps it out of the gradient, for a reason that one step shows:
#
# **Exercise 3.** A weight of 1, a gradient of 0 from the loss, rate 0.1, weight decay 0.1, the very first step. What is
# the weight after it, with SGD, with Adam (which adds decay * w to the gradient), and with AdamW?

# %%
after_sgd, after_adam, after_adamw = ..., ..., ...
### BEGIN SOLUTION
after_sgd, after_adam, after_adamw = 0.99, 0.9, 0.99
### END SOLUTION
q.check(3)

# %%
for kind in (optim.SGD, optim.Adam, optim.AdamW):
    w = nn.Parameter(np.ones(1))
    w.grad = tc.zeros(1, dtype=tc.float64)
    kind([w], lr=0.1, weight_decay=0.1).step()
    print(f"{kind.__name__:6} {w.item():.4f}")

# %% [markdown]
# And not all parameters should decay. A bias moves, and the weight of a norm scales; a small number there is no simpler
# network. `decay_groups` makes two groups out of a network:

# %%
net = small_net(norm="batch")
groups = optim.decay_groups(net, weight_decay=0.5)
for group in groups:
    numbers = sum(p.numel() for p in group["params"])
    print(f"weight decay {group['weight_decay']}: {len(group['params']):2} parameters with {numbers:6} numbers")
assert sum(len(group["params"]) for group in groups) == len(list(net.parameters()))

# %% [markdown]
# ## Sixty images
#
# Now the case that you will meet: sixty images to train, 300 to test. A network of 47,000 weights learns them by heart.
# What helps? **Predict** which of these ends with the smallest loss on the test images, and which with the highest
# accuracy.
#
# | name | what |
# |---|---|
# | nothing | AdamW without decay, 50 epochs |
# | weight decay | decay 1, a large one, since rate times decay counts |
# | dropout | half of the units of the dense layers are left out at random in each step |
# | batch norm, layer norm | behind each convolution |
# | 600 images | nothing, but ten times the images, and eight epochs: twice the steps |

# %%
prediction = {"loss": "nothing", "accuracy": "nothing"}  # change these two names

# %%
order = np.random.default_rng(SEED).permutation(len(labels))
sixty, test, more = order[:60], order[60:360], order[360:960]
recipes = {
    "nothing": (small_net, 0.0, sixty),
    "weight decay": (small_net, 1.0, sixty),
    "dropout": (lambda: small_net(dropout=0.5), 0.0, sixty),
    "batch norm": (lambda: small_net("batch"), 0.0, sixty),
    "layer norm": (lambda: small_net("layer"), 0.0, sixty),
    "600 images": (small_net, 0.0, more),
}
results = {}
for name, (make, decay, train) in recipes.items():
    tc.manual_seed(SEED)
    net = make()
    optimizer = optim.AdamW(optim.decay_groups(net, decay), lr=0.002)
    results[name] = trainer_of(net, optimizer, train, test, batch=20).fit(50 if train is sixty else 8)

# %%
print("                 last epoch: training loss   test loss   test accuracy    smallest test loss, in epoch")
for name, history in results.items():
    row, losses = history[-1], [row["val_loss"] for row in history]
    print(f"{name:14} {row['loss']:28.4f} {row['val_loss']:11.2f} {row['val_accuracy']:15.3f}", end="")
    print(f" {min(losses):21.2f} {int(np.argmin(losses)) + 1:12}")
print("you predicted", prediction)

figure, axes = plt.subplots(1, 2, figsize=(7, 3), layout="constrained")
styles = ("k-", "k--", "k:", "k-.", "-", "--")
for (name, history), style in zip(results.items(), styles):
    grey = {} if style.startswith("k") else {"color": "0.6"}
    for axis, key in zip(axes, ("val_loss", "val_accuracy")):
        axis.plot(range(1, len(history) + 1), [row[key] for row in history], style, label=name, **grey)
axes[0].set(xlabel="epoch", ylabel="test loss", ylim=(0.5, 3))
axes[1].set(xlabel="epoch", ylabel="test accuracy", ylim=(0, 1))
axes[0].legend(fontsize=7, ncols=2)
show(
    figure,
    "Test loss and test accuracy over fifty epochs. The loss without any help falls and then rises steadily; with "
    "weight decay, dropout and the norms it rises less. The accuracies lie close together; 600 images lie far above.",
)

# Seen with seeds 0, 1 and 2.
final = {name: history[-1] for name, history in results.items()}
unhelped = [row["val_loss"] for row in results["nothing"]]
assert final["nothing"]["loss"] < 0.01 and unhelped[-1] > 1.1 * min(unhelped), "it learns by heart, and overfits"
for name in ("weight decay", "dropout", "batch norm", "layer norm"):
    assert final[name]["val_loss"] < 0.9 * unhelped[-1], f"{name} lowers the test loss"
    assert abs(final[name]["val_accuracy"] - final["nothing"]["val_accuracy"]) < 0.12, "and moves the accuracy little"
assert final["600 images"]["val_accuracy"] > final["nothing"]["val_accuracy"] + 0.12, "images help most"

# %% [markdown]
# Read the table twice. By the loss, all four help much. By the accuracy they hardly differ: what overfitting spoils
# here is above all the *confidence*. The network is as often wrong as before, but it says so with probabilities that
# one may use; lab 16 measures that as calibration. And nothing comes near ten times the images, which is why the next
# labs are about augmentation and transfer learning.
#
# **Exercise 4.** One remedy is free: stop in time. `EarlyStopping(patience=...)` of `tinyconv.training` ends the
# training when the loss has had no new best for `patience` epochs. After how many epochs does it stop?


# %%
def stops_after(losses: list[float], patience: int) -> int:
    """Number of epochs that are trained; all of them if it never stops."""
    ### BEGIN SOLUTION
    for epoch in range(len(losses)):
        if epoch - int(np.argmin(losses[: epoch + 1])) >= patience:
            return epoch + 1
    return len(losses)
    ### END SOLUTION


q.check(4)

# %%
best_epoch = int(np.argmin(unhelped)) + 1
print(
    f"nothing: test loss {min(unhelped):.2f} after {best_epoch} epochs, {unhelped[-1]:.2f} after {len(unhelped)};",
    end="",
)
print(f" accuracy {results['nothing'][best_epoch - 1]['val_accuracy']:.3f} and {final['nothing']['val_accuracy']:.3f}")

# %% [markdown]
# In the loss, stopping in time gives much of what decay and dropout give, in a fraction of the epochs. The accuracy
# went on rising after that: stop by the number that counts in the end. And a warning: we have chosen the epoch *by the
# test images*, so their smallest loss is too good to be true. Keep a third set, for validation, and look at the test
# images once, at the end.
#
# ## What you can do now
#
# - Measure whether the gradient reaches the first layer, and mend it by the weights' size or by a norm.
# - Say what momentum does in a valley, and give each optimiser its own rate, by a sweep or by a range test.
# - Use warm-up, averaged weights, and decay for those parameters that should decay.
# - Recognise overfitting, stop in time, and say whether a remedy moved the accuracy or the confidence.
#
# Try next: three seeds and the spread between them; dropout *and* decay; clipping of the gradient
# (`Trainer(clip_norm=1)`) at a rate that is too high. Next lab: augmentation, more images out of few.
