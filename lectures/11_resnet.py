# %% [markdown]
# # Lab 11: ResNet, and why a deeper network can be worse
#
# **Goal.** A network with more layers can do all that one with fewer can: let the layers that are too many hand on
# what they get. Yet it does not find that by itself. In 2015 Kaiming He and colleagues (*Deep residual learning for
# image recognition*) trained plain networks whose loss *on the training images* rose with the depth, and mended it with
# one addition a block. You see both, measure what reaches the first layer, and take the addition apart.
#
# You need LeNet and its vanishing gradient (lab 07) and VGG's stacks of 3x3 (lab 09). The lab runs in about a minute,
# without a network.
#
# Exercises check themselves: fill in the line marked `your code here`, run the cell, and read what `q.check` says.
# `q.hint()` helps with the exercise that you checked last, `q.solution()` shows an answer.

# %%
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import tinyconv as tc
import tinyconv.functional as F
from tinyconv import explain, models, nn, optim
from tinyconv.data import DataLoader, TensorDataset
from tinyconv.teaching import Quiz, show
from tinyconv.training import GradientMonitor, Trainer

# %%
# This cell knows how to check the exercises. You need not read it; it gives answers away.
q = Quiz(globals())


@q.exercise(
    1,
    "Two stages begin with a block that halves the image and doubles the channels. Only there B needs a convolution.",
    "A 1x1 convolution from 8 to 16 channels has 8 * 16 weights and no bias; the norm has 2 numbers a channel.",
)
def _(extra_parameters):
    diagnoses = {
        736: None,
        640: "these are the two 1x1 convolutions; a batch norm stands behind each, with a weight and a bias a channel.",
        688: "the norm has a weight *and* a bias for each of its channels, which are 16 and 32.",
        160: "this is the first of the two shortcuts, from 8 to 16 channels; the other goes from 16 to 32.",
        576: "this is the second of the two shortcuts, from 16 to 32 channels; the other goes from 8 to 16.",
        5856: "this is a shortcut of 3x3: B's convolution is 1x1, it mixes channels and looks at no neighbour.",
        0: "A needs no parameters; B's two convolutions have some.",
        784: "these convolutions have no bias: the norm behind them would take it away again.",
    }
    return diagnoses.get(extra_parameters, f"{extra_parameters} is not the sum over two convolutions and two norms.")


@q.exercise(
    2,
    "d(x + f(x))/dx = 1 + f'(x). Without the shortcut it is f'(x). The blocks follow each other: chain rule.",
    "np.prod(slopes) without shortcuts; with them np.prod(1 + ...).",
)
def _(gradient_factor):
    slopes = np.array([0.5, -0.25, 0.1])
    found = gradient_factor(slopes, False), gradient_factor(slopes, True)
    if None in found:
        return "gradient_factor returns None; it has to return a number, with and without shortcuts."
    plain, skip = map(float, found)
    if np.isclose(plain, 1 + slopes.prod()) or np.isclose(skip, 1 + slopes.prod()):
        return "1 + the product of all slopes would be one shortcut around all blocks; here each block has its own."
    if np.isclose(plain, slopes.sum()):
        return "the sum of the slopes: derivatives of functions one after the other are multiplied."
    if np.isclose(plain, (1 + slopes).prod()) and np.isclose(skip, slopes.prod()):
        return "the two cases are exchanged: with shortcuts the 1 is there."
    if not np.isclose(plain, slopes.prod()):
        return f"without shortcuts, for slopes {slopes.tolist()}, the factor is their product, not {plain:g}."
    if np.isclose(skip, plain):
        return "without shortcuts it is right; with them you gave the same. What is the derivative of x + f(x)?"
    if np.isclose(skip, slopes.sum() + len(slopes)):
        return "with shortcuts you added the factors 1 + slope; they are multiplied."
    if not np.isclose(skip, (1 + slopes).prod()):
        return f"without shortcuts it is right; with them, for {slopes.tolist()}, it is not {skip:g}."
    return None


@q.exercise(
    3,
    "gamma = 0 makes the output of the last norm its bias, and that is 0 at the start. So f(x) = 0.",
    "What is left is relu(x + 0). What does ReLU do with -1? And from the second block on, can x be negative?",
)
def _(block_output):
    found = np.atleast_1d(np.asarray(block_output, dtype=float)).tolist()
    diagnoses = {
        (0.0, 2.0, 5.0): None,
        (-1.0, 2.0, 5.0): "the ReLU stands behind the sum. Behind the first ReLU of a network x is never negative, and "
        "there the block does hand on x; but this x is.",
        (0.0, 0.0, 0.0): "this is the plain block, relu(0): the shortcut adds x before the ReLU.",
        (-2.0, 4.0, 10.0): "2 x would be x + f(x) with f(x) = x; here f(x) = 0.",
        (0.0, 4.0, 10.0): "relu(2 x) would be f(x) = x; here f(x) = 0.",
    }
    return diagnoses.get(tuple(found), f"{found} is not relu(x + 0) for x = [-1, 2, 5].")


@q.exercise(
    4,
    "Every second row and column from the first on: x[:, :, ::2, ::2]. Then zeros to put behind it along the channels.",
    "np.concatenate([small, np.zeros_like(small)], axis=1) doubles the channels.",
)
def _(option_a):
    x = np.arange(1.0, 1 + 2 * 3 * 5 * 4).reshape(2, 3, 5, 4)
    found = option_a(x)
    if found is None:
        return "option_a returns None; it has to return an array."
    found, small = np.asarray(found), x[:, :, ::2, ::2]
    right = np.concatenate([small, np.zeros_like(small)], axis=1)
    if found.shape == right.shape and np.array_equal(found, right):
        return None
    if found.shape == (2, 6, 5, 4):
        return "the channels are doubled, the image is not halved: take every second row and column."
    if found.shape == small.shape:
        return "the image is halved; now as many maps of zeros behind the 3 that are there."
    if found.shape == (4, *small.shape[1:]):
        return "the zeros were put behind the images; channels are axis 1: np.concatenate(..., axis=1)."
    if found.shape != right.shape:
        return f"a batch (2, 3, 5, 4) has to become {right.shape}, yours is {found.shape}; 5 rows, every second, are 3."
    if np.array_equal(found, np.concatenate([np.zeros_like(small), small], axis=1)):
        return "the zeros come first in yours; option A puts them behind the maps that are there."
    if np.array_equal(found, np.concatenate([small, small], axis=1)):
        return "the maps are repeated; option A adds zeros."
    return "the shape is right, the numbers are not: rows and columns 0, 2, 4, ... of x, then zeros."


# %% [markdown]
# ## A block, and a network of them
#
#     plain:     y = relu(f(x))            f: 3x3, batch norm, ReLU, 3x3, batch norm
#     residual:  y = relu(x + f(x))
#
# That is all. f need no longer learn what the block should give, only what it should *change*: the residual. Where a
# stage halves the image and doubles the channels, x does not fit f(x). Option A takes every second pixel of x and adds
# maps of zeros, option B puts a 1x1 convolution with stride 2 and a batch norm there.
#
# He's networks for small images have one convolution, three stages of n blocks and a dense layer: 6n + 2 layers. The
# paper goes from 20 to 110 layers of 16 to 64 channels; we take 8, 20 and 44 layers of 8 to 32 channels from the same
# code, on the 8x8 digits as they come with scikit-learn.

# %%
digits = load_digits()
images = digits.images[:, None].astype(np.float32)  # (1797, 1, 8, 8), grey levels 0 to 16
images = (images - images.mean()) / images.std()
order = np.random.default_rng(0).permutation(len(images))
test, train = order[: len(order) // 4], order[len(order) // 4 :]


def network(depth: int, shortcut: str | None, seed: int = 0) -> models.CifarResNet:
    """The same weights for the same seed; ``shortcut`` "A", "B" or None, the plain network."""
    tc.manual_seed(seed)
    return models.CifarResNet(depth, shortcut, num_classes=10, in_channels=1, width=8)


for depth in (8, 20, 44):
    table = explain.summary(network(depth, "A"), (1, 1, 8, 8))
    print(f"{depth:2} layers: {table.parameters:6} parameters, {table.multiply_adds:8} multiply-adds an image")

with_b = explain.summary(network(8, "B"), (1, 1, 8, 8))
print(*(str(with_b).splitlines()[i] for i in (0, *range(8, 16))), sep="\n")

# %% [markdown]
# **Exercise 1.** How many parameters has a network with option B more than one with option A? Channels are 8, 16, 32.

# %%
extra_parameters = ...  # one number
### BEGIN SOLUTION
extra_parameters = (8 * 16 + 2 * 16) + (16 * 32 + 2 * 32)
### END SOLUTION
q.check(1)

# %% [markdown]
# ## Predict
#
# Each network sees the training images four times. What is the loss on the *training* images in the last epoch?
# Guessing blindly gives log(10) = 2.3. Write your guesses down: plain, then with shortcuts.

# %%
prediction = {8: (1.0, 1.0), 20: (1.0, 1.0), 44: (1.0, 1.0)}  # change these six numbers

# %% [markdown]
# ## Run
#
# `GradientMonitor` is told before each step, and keeps the norm of the gradient of every layer; and how far the step
# moved the layer's weights, measured by their own size. Forty-four layers take a while.


# %%
def training(net: nn.Module, rate: float = 0.1, seed: int = 0) -> tuple[list[dict[str, float]], GradientMonitor]:
    """Four epochs of gradient descent in batches of 32: the history, and what was seen of the gradients."""
    monitor = GradientMonitor()
    trainer = Trainer(
        net,
        optim.SGD(net.parameters(), lr=rate, momentum=0.9),
        F.cross_entropy,
        DataLoader(TensorDataset(images[train], digits.target[train]), 32, shuffle=True, seed=seed),
        validation=DataLoader(TensorDataset(images[test], digits.target[test]), 256),
        callbacks=[monitor],
    )
    return trainer.fit(epochs=4), monitor


kinds = {"plain": None, "shortcuts": "A"}
histories, monitors = {}, {}
for depth in (8, 20, 44):
    for kind, shortcut in kinds.items():
        histories[kind, depth], monitors[kind, depth] = training(network(depth, shortcut))

# %% [markdown]
# ## Measure

# %%
losses = {run: [row["loss"] for row in history] for run, history in histories.items()}
print("          training loss, last epoch                 accuracy on the test images")
print("          plain  (guess)   shortcuts  (guess)       plain   shortcuts")
for depth, (guess_plain, guess_skip) in prediction.items():
    plain, skip = (losses[kind, depth][-1] for kind in kinds)
    accuracies = "".join(f"{histories[kind, depth][-1]['val_accuracy']:9.2f}" for kind in kinds)
    print(f"{depth:2} layers {plain:7.3f} {guess_plain:7.2f} {skip:12.3f} {guess_skip:7.2f}     {accuracies}")

figure, axes = plt.subplots(1, 2, figsize=(7, 2.8), sharey=True, layout="constrained")
for axis, kind in zip(axes, kinds):
    for depth, style in zip((8, 20, 44), ("k-o", "k--s", "k:^")):
        axis.plot(range(1, 5), losses[kind, depth], style, label=f"{depth} layers")
    axis.set(title=kind, xlabel="epoch", xticks=range(1, 5))
axes[0].set(ylabel="training loss", ylim=(0, None))
axes[0].legend(fontsize=8)
show(
    figure,
    "Training loss over four epochs. Left, plain networks: the deeper, the higher the curve; 44 layers hardly fall. "
    "Right, with shortcuts: all three depths fall and end near each other.",
)

# Seen with seeds 0, 1 and 2.
assert losses["plain", 8][-1] < 0.3 and losses["plain", 20][-1] > 0.4, "twelve plain layers more make it worse"
assert losses["plain", 44][-1] > 1.4, "44 plain layers hardly learn"
assert losses["shortcuts", 44][-1] < 0.8, "with shortcuts the same 44 layers learn"
for depth in (20, 44):
    assert losses["shortcuts", depth][-1] < losses["plain", depth][-1] / 2, "the shortcut helps the deep networks"

# %% [markdown]
# This is **degradation**, and it is not overfitting: look at which loss grows. A network that overfits is good on its
# training images and bad on others. These are bad on the images that they are trained on.
#
# Was it only the step size? The plain network may need smaller steps. We give it a fifth.

# %%
slower, _ = training(network(44, None), rate=0.02)
print("44 plain layers at a fifth of the learning rate, training loss:", *(f"{row['loss']:.2f}" for row in slower))
assert slower[-1]["loss"] > 1, "seen with seeds 0, 1 and 2: smaller steps do not save it"

# %% [markdown]
# A little better, and still far from the network of 8 layers, of which it could be a copy.
#
# ## Explain: what reaches the first layer?
#
# **Exercise 2.** Think of blocks with one number in and one number out, and leave the ReLU out. f of block i has the
# slope `slopes[i]` where x happens to be. By what is the gradient multiplied on its way back through all blocks,
# without and with shortcuts?


# %%
def gradient_factor(slopes: np.ndarray, shortcuts: bool) -> float:
    """d output of the last block / d input of the first."""
    ### BEGIN SOLUTION
    return float(np.prod(1 + slopes if shortcuts else slopes))
    ### END SOLUTION


q.check(2)

# %% [markdown]
# A product of twenty numbers below 1 is as good as nothing, one of twenty numbers above 1 is huge. 1 + slope does not
# save you by itself; but if each f changes little, each factor is near 1, and so is their product. Now the networks,
# all before the first step: the norm of the gradient of the first convolution, for networks with and without shortcuts,
# with and without batch norm. To take a norm away we put `nn.Identity()`, which does nothing, in its place.


# %%
def without_norms(net: nn.Module) -> nn.Module:
    """The same network, each norm of its blocks replaced by the identity."""
    for block in net.modules():
        if hasattr(block, "bn2"):
            block.bn1, block.bn2 = nn.Identity(), nn.Identity()
    return net


def zero_last_gamma(net: nn.Module) -> nn.Module:
    """The same network, the weight (gamma) of the last norm of each block set to 0."""
    for block in net.modules():
        if hasattr(block, "bn2"):
            nn.init.zeros_(block.bn2.weight)
    return net


def first_gradient(net: nn.Module) -> float:
    """Norm of the gradient of the first convolution, on 64 images."""
    F.cross_entropy(net(tc.tensor(images[:64])), tc.tensor(digits.target[:64])).backward()
    return float(np.linalg.norm(net.conv1.weight.grad.numpy()))


depths = (8, 20, 44, 68)
kinds_at_start = {
    "plain, no norm": lambda depth: without_norms(network(depth, None)),
    "plain, batch norm": lambda depth: network(depth, None),
    "shortcuts, no norm": lambda depth: without_norms(network(depth, "A")),
    "shortcuts, batch norm": lambda depth: network(depth, "A"),
    "shortcuts, gamma 0": lambda depth: zero_last_gamma(network(depth, "A")),
}
at_start = {name: [first_gradient(make(depth)) for depth in depths] for name, make in kinds_at_start.items()}
print("gradient of the first layer at the start", *(f"{depth:8}" for depth in depths), "layers")
for name, norms in at_start.items():
    print(f"{name:40}", *(f"{norm:8.1e}" for norm in norms))

figure, axes = plt.subplots(1, 2, figsize=(7, 3.4), layout="constrained")
for (name, norms), style in zip(at_start.items(), ("k:^", "k--s", ":v", "k-o", "-D")):
    axes[0].semilogy(depths, norms, style, label=name, **({} if style[0] == "k" else {"color": "0.55"}))
axes[0].set(xlabel="layers", ylabel="gradient norm, first layer", title="before training", xticks=depths)
for kind, style in zip(kinds, ("k:", "k-")):
    axes[1].semilogy(monitors[kind, 44].gradient["conv1"], style, lw=1, label=f"{kind}, 44 layers")
axes[1].set(xlabel="step", title="during training")
for axis, columns in zip(axes, (2, 1)):
    axis.legend(fontsize=7, ncols=columns, loc="upper center", bbox_to_anchor=(0.5, -0.22))
show(
    figure,
    "Two charts of the gradient norm of the first layer on logarithmic axes. Left, against the depth before training: "
    "plain without norm it falls by orders of magnitude, plain with batch norm it rises by orders of magnitude, "
    "shortcuts without norm rise as well, shortcuts with batch norm rise a little, with gamma 0 the line is level. "
    "Right, during training of 44 layers: plain starts far higher and soon lies below the network with shortcuts.",
)

# Seen with seeds 0, 1 and 2.
assert at_start["plain, no norm"][2] < at_start["plain, no norm"][0] / 100, "without norms it vanishes with the depth"
assert at_start["plain, batch norm"][2] > 20 * at_start["plain, batch norm"][0], "with batch norm it explodes"
assert at_start["shortcuts, batch norm"][2] < 20 * at_start["shortcuts, batch norm"][0], "with shortcuts little"
assert max(at_start["shortcuts, gamma 0"]) < 4 * min(at_start["shortcuts, gamma 0"]), "with gamma 0 it stays"

# %% [markdown]
# Read it line by line.
#
# - **Plain, no norm**: it vanishes, as with LeNet's sigmoids. The slope of ReLU is 1 or 0, and yet: with so few pixels
#   much of each window is padding, and each layer loses some.
# - **Plain, batch norm**: the *outputs* of each layer have the size 1 again. Their gradients have not: they grow from
#   layer to layer on the way back. He and colleagues wrote that with batch norm vanishing gradients are an unlikely
#   reason, and so it is here. These explode.
# - **Shortcuts, no norm**: x and f(x) add up, block by block; outputs and gradients grow. Shortcuts alone are no cure.
# - **Shortcuts, batch norm**: f is kept at the size 1 while x grows, so that a later block changes less, in proportion.
#   The growth is a small factor over 68 layers.
#
# What does an exploding gradient do under a batch norm? The norm does not care for the size of the weights before it,
# only for their direction. Watch the first layer's first steps.

# %%
print("the first five steps move the first layer by this share of its own size:")
for kind in kinds:
    print(f"  {kind:9}", *(f"{share:6.2f}" for share in monitors[kind, 44].update["conv1"][:5]))
assert monitors["plain", 44].update["conv1"][0] > 1, "the first step throws the plain network's first layer away"
assert monitors["shortcuts", 44].update["conv1"][0] < 1

# %% [markdown]
# A share above 1 is no training step: the first layer is replaced by its own gradient of one batch, and its weights are
# now so large that later steps hardly turn them (the right chart: the gradient falls by orders of magnitude, since
# behind a norm weights c times as large have a gradient 1/c). That explains a part; a fifth of the learning rate did
# not cure it, so it does not explain all. Why plain deep networks are hard to train has more than one answer in the
# literature; *that* they are, and that a shortcut helps, you have measured.
#
# ## The identity at the start
#
# With gamma = 0 in the last norm of each block (Goyal and colleagues, 2017), f(x) = 0 at the start, whatever the
# weights of the convolutions.
#
# **Exercise 3.** What does such a block make of x = [-1, 2, 5]? (The norm's bias is 0, as always at the start.)

# %%
block_output = ...  # a list of three numbers
### BEGIN SOLUTION
block_output = [0, 2, 5]
### END SOLUTION
q.check(3)

# %%
started = zero_last_gamma(network(44, "A")).eval()
with tc.no_grad():
    x = F.relu(started.bn1(started.conv1(tc.tensor(images[:4]))))  # what the first block is given
    y = started.stages[0](x)
print("seven blocks of the first stage hand on what they get, to the bit:", np.array_equal(x.numpy(), y.numpy()))
assert np.array_equal(x.numpy(), y.numpy())

history, monitor = training(zero_last_gamma(network(44, "A")))
zero_losses = [row["loss"] for row in history]
print("training loss of 44 layers, gamma 1:", *(f"{loss:.2f}" for loss in losses["shortcuts", 44]))
print("training loss of 44 layers, gamma 0:", *(f"{loss:.2f}" for loss in zero_losses))
assert zero_losses[-1] < 0.5, "seen with seeds 0, 1 and 2"

# %% [markdown]
# So the network starts as one of two layers and takes the depth in as far as it needs it; its gradient at the start
# does not know how deep it is (the level line above). Could a plain network start with gamma = 0? No: its blocks would
# hand on zeros, and no gradient at all comes through.

# %%
dead = first_gradient(zero_last_gamma(network(44, None)))
print("gradient of the first layer, plain, gamma 0:", dead)
assert dead == 0

# %% [markdown]
# ## Option A or B?
#
# **Exercise 4.** Write option A for a stride of 2 and twice the channels.


# %%
def option_a(x: np.ndarray) -> np.ndarray:
    """Every second pixel of x, then as many maps of zeros: (N, C, H, W) to (N, 2C, ceil(H / 2), ceil(W / 2))."""
    ### BEGIN SOLUTION
    small = x[:, :, ::2, ::2]
    return np.concatenate([small, np.zeros_like(small)], axis=1)
    ### END SOLUTION


q.check(4)

# %%
history, _ = training(network(20, "B"))
print("20 layers, training loss with A:", *(f"{loss:.2f}" for loss in losses["shortcuts", 20]))
print("20 layers, training loss with B:", *(f"{row['loss']:.2f}" for row in history))
assert history[-1]["loss"] < losses["plain", 20][-1], "either is better than none; seen with seeds 0, 1 and 2"

# %% [markdown]
# B is not clearly ahead, and A costs nothing; from seed to seed they change places. For ImageNet the paper found B a
# little better and took it. What counts is that all *other* shortcuts are free of parameters and of everything else.
#
# ## What you can do now
#
# - Tell degradation from overfitting: by the loss on the training images.
# - Say what a shortcut does to the gradient: each factor becomes 1 + slope, and near 1 where a block changes little.
# - Say why shortcuts need the norm, and the norm the shortcuts: alone, one explodes, and so does the other.
# - Start a deep network as the identity, and measure with a `GradientMonitor` what reaches its first layer.
#
# Try next: 44 layers with shortcuts and no norm; the ReLU before the sum in place of behind it; gamma = 0 with ten
# times the learning rate. Next lab: MobileNet, fewer operations for the same picture. U-Net (lab 17) has shortcuts that
# are concatenated, and residual learning comes back in denoising (lab 22).
