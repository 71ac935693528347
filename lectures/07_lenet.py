# %% [markdown]
# # Lab 07: LeNet, the first convolutional network
#
# **Goal.** You build the network with which Yann LeCun and colleagues read handwritten cheques (*Gradient-based
# learning applied to document recognition*, 1998), train it on real handwritten digits, and look inside: where does
# it err, what does it see, are its gradients right, and what has the activation to do with it?
#
# You need convolution arithmetic (lab 04) and pooling (lab 05). The lab runs in about a minute, without a network.
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
from tinyconv.autograd import Function, gradcheck
from tinyconv.teaching import Quiz, show

# %%
# This cell knows how to check the exercises. You need not read it; it gives answers away.
q = Quiz(globals())


@q.exercise(
    1,
    "A window of k pixels fits at i - k + 1 places along a side of i pixels.",
    "C1 puts a 5x5 window on 32x32 pixels: 32 - 5 + 1. S2 takes one pixel out of each 2x2 block of that.",
)
def _(sides):
    sides = list(sides)
    if sides == [28, 14, 10, 5]:
        return None
    if len(sides) != 4:
        return f"four numbers are asked for, C1, S2, C3, S4, and you gave {len(sides)}."
    if sides[0] == 27:
        return "27 is the distance from the first place of the window to the last; count the places, not the steps."
    if sides[0] == 32:
        return "32 would need padding; here the window stays inside the image."
    if sides[0] != 28:
        return f"C1 is not {sides[0]}: count the places of a 5-pixel window on 32 pixels."
    if sides[1] == 27:
        return "pooling with 2x2 moves by 2 pixels, not by 1: nn.AvgPool2d's stride is its kernel size."
    if sides[1] != 14:
        return f"C1 is right, S2 is not {sides[1]}: blocks of 2x2 do not overlap."
    return f"C1 and S2 are right; now the same two steps from 14 pixels, which do not give {sides[2:]}."


@q.exercise(
    2,
    "A filter has one weight for every input channel and every tap, and one bias.",
    "C1 has 6 * (1 * 5 * 5 + 1) parameters, C3 has 16 * (6 * 5 * 5 + 1). A dense layer has outputs * (inputs + 1).",
)
def _(parameters):
    diagnoses = {
        61706: None,
        61470: "you left out the biases: one for each filter and each dense unit, 236 in all.",
        59456: "a filter of C3 looks at all 6 maps of S2, not at one: it has 6 * 5 * 5 weights.",
        60000: "this is the network of 1998, which connected C3 to a part of the maps; this one connects to all.",
        2572: "these are the two convolutions; the dense layers have parameters as well, and most of them.",
        59134: "these are the dense layers; add the two convolutions.",
    }
    return diagnoses.get(parameters, f"{parameters} is not the sum over the five layers that have weights.")


@q.exercise(
    3,
    "The slope of the sigmoid s is s (1 - s). Where is it largest?",
    "There it is 1/4. From the loss back to C1 the gradient passes four sigmoids, and the slopes multiply.",
)
def _(factor):
    if np.isclose(factor, 1 / 256):
        return None
    if np.isclose(factor, 1 / 4):
        return "this is one sigmoid; on its way back to C1 the gradient passes one after C1, C3, C5 and F6."
    if np.isclose(factor, 1):
        return "the slope of the sigmoid is largest at 0, and there it is not 1: that is tanh."
    if np.isclose(factor, 1 / 16):
        return "1/16 is two slopes of 1/4, or four times the value 1/2: take the slope, and all four sigmoids."
    return f"{factor} is not the largest slope of the sigmoid, multiplied once for every sigmoid between loss and C1."


@q.exercise(
    4,
    "Start from zeros of shape (classes, classes), go through the pairs, and add 1 at [truth, predicted].",
    "np.add.at(matrix, (truth, predicted), 1) does it without a loop. matrix[truth, predicted] += 1 does not: why?",
)
def _(confusion_matrix):
    truth, predicted = np.array([0, 0, 0, 1, 2, 2]), np.array([0, 1, 1, 1, 2, 0])
    expected = np.array([[1, 2, 0], [0, 1, 0], [1, 0, 1]])
    found = confusion_matrix(truth, predicted, 3)
    if found is None:
        return "confusion_matrix returns None; it has to return the matrix."
    found = np.asarray(found)
    if found.shape != (3, 3):
        return f"for 3 classes the shape is (3, 3), yours is {found.shape}."
    if np.array_equal(found, expected):
        return None
    if np.array_equal(found, expected.T):
        return "this is the transposed matrix: rows are the truth, columns the prediction."
    if np.array_equal(found, np.minimum(expected, 1)):
        return "each pair is counted once however often it occurs: NumPy's m[i, j] += 1 adds once an element."
    if np.array_equal(found, expected - np.diag(np.diag(expected))):
        return "the right answers are missing: they belong on the diagonal."
    return f"for truth {truth} and prediction {predicted} yours is {found.tolist()}, not {expected.tolist()}."


@q.exercise(
    5,
    "Move one element up by eps, keep f; move it down by eps, keep f; how far apart are the two points?",
    "(f(x + eps) - f(x - eps)) / (2 eps), one element at a time, on a copy of x.",
)
def _(numeric_gradient):
    x = np.array([[0.5, -1.0], [2.0, 0.25]])
    before, eps = x.copy(), 0.1
    found = numeric_gradient(lambda v: float((v**3).sum()), x, eps)
    if found is None:
        return "numeric_gradient returns None; it has to return an array with the shape of x."
    if not np.array_equal(x, before):
        return "x itself was changed; put the old value back, or move a copy."
    if np.shape(found) != x.shape:
        return f"the gradient has the shape of x, {x.shape}, yours is {np.shape(found)}."
    # For x^3 these differences have a closed form.
    central = 3 * x**2 + eps**2
    if np.allclose(found, central):
        return None
    if np.allclose(found, 2 * central):
        return "twice too large: the two points are 2 eps apart."
    if np.allclose(found, central + 3 * x * eps) or np.allclose(found, central - 3 * x * eps):
        return "a one-sided difference; its error shrinks like eps, that of a two-sided one like eps squared."
    return f"for the sum of x^3 at {x.tolist()} and eps {eps} yours is {np.asarray(found).round(3).tolist()}."


# %% [markdown]
# ## The digits
#
# 1,797 digits that 13 people wrote come with scikit-learn. They are small, 8x8 pixels with 17 grey levels; LeNet wants
# 32x32, so we enlarge them. Interpolation adds pixels, not information: a digit stays as readable as it was.
#
# A quarter of the images, drawn at random, is kept for the test. So each writer stands on both sides, and our numbers
# do not say how well a fourteenth writer would be read. With patients in place of writers this is an error: split by
# patient, not by image.

# %%
digits = load_digits()
images = tc.tensor(digits.images[:, None].astype(np.float32))  # (1797, 1, 8, 8), grey levels 0 to 16
images = F.interpolate(images, size=(32, 32), mode="bilinear", align_corners=False)
images = (images - images.mean()) / images.std()
labels = tc.tensor(digits.target)

order = np.random.default_rng(0).permutation(len(digits.target))
test, train = order[: len(order) // 4], order[len(order) // 4 :]
print(f"{len(train)} images to train, {len(test)} to test, each {tuple(images.shape[1:])}")

figure, axes = plt.subplots(2, 8, figsize=(7, 2), layout="constrained")
for axis, index in zip(axes.flat, train):
    axis.imshow(images.numpy()[index, 0], cmap="gray")
    axis.set_title(str(digits.target[index]), fontsize=8)
    axis.axis("off")
show(figure, "Sixteen handwritten digits, blurred by the enlargement, each with its label above it.")

# %% [markdown]
# ## The network
#
# | layer | what | output | parameters |
# |---|---|---|---|
# | C1 | 6 filters of 5x5 | 6 x ? x ? | ? |
# | S2 | average of 2x2 | 6 x ? x ? | 0 |
# | C3 | 16 filters of 5x5 | 16 x ? x ? | ? |
# | S4 | average of 2x2 | 16 x ? x ? | 0 |
# | C5 | dense, 120 units | 120 | ? |
# | F6 | dense, 84 units | 84 | ? |
# | output | dense, 10 units | 10 | ? |
#
# After C1, C3, C5 and F6 stands an activation. The network of 1998 differs in details: its pooling had a weight and a
# bias, its C3 saw only a part of S2's maps, its output compared with drawn prototypes.


# %%
def lenet(activation: type[nn.Module]) -> nn.Sequential:
    """LeNet-5 with a free choice of the activation: nn.Sigmoid, nn.Tanh or nn.ReLU."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), activation(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), activation(), nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 5 * 5, 120), activation(),
        nn.Linear(120, 84), activation(),
        nn.Linear(84, 10),
    )  # fmt: skip


# %% [markdown]
# **Exercise 1.** Before you ask the network: which side, in pixels, have the maps of C1, S2, C3 and S4?

# %%
sides = ...  # a list of four numbers
### BEGIN SOLUTION
sides = [32 - 5 + 1, 28 // 2, 14 - 5 + 1, 10 // 2]
### END SOLUTION
q.check(1)

# %% [markdown]
# **Exercise 2.** How many parameters has the whole network? Where do most of them sit?

# %%
parameters = ...  # one number
### BEGIN SOLUTION
parameters = 6 * (1 * 5 * 5 + 1) + 16 * (6 * 5 * 5 + 1) + 120 * (16 * 5 * 5 + 1) + 84 * (120 + 1) + 10 * (84 + 1)
### END SOLUTION
q.check(2)

# %% [markdown]
# ## Predict
#
# Three networks start from the same weights and differ in the activation alone. Each sees the training images eight
# times. Which share of the test digits will each read? Write your guess down before you go on; guessing
# blindly is one in ten.

# %%
prediction = {"sigmoid": 0.5, "tanh": 0.5, "ReLU": 0.5}  # change these three numbers

# %% [markdown]
# ## Run
#
# The training loop is the whole of deep learning in five lines: take a batch, forget the old gradients, compute the
# loss, walk back, take a step.


# %%
def accuracy(net: nn.Module, which: np.ndarray) -> float:
    """Share of the images whose largest output is the right one."""
    with tc.no_grad():
        return float((net(images[which]).argmax(1).numpy() == digits.target[which]).mean())


def train_network(net: nn.Module, seed: int, epochs: int = 8) -> list[float]:
    """Stochastic gradient descent in batches of 32; the test accuracy after each epoch."""
    rng = np.random.default_rng(seed)
    optimizer = optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    history = []
    for _ in range(epochs):
        for batch in np.array_split(rng.permutation(train), len(train) // 32):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
        history.append(accuracy(net, test))
    return history


def gradient_sizes(net: nn.Module) -> tuple[float, float]:
    """Root mean square of the loss gradient of C1's weights and of the output layer's."""
    net.zero_grad()
    F.cross_entropy(net(images[train[:256]]), labels[train[:256]]).backward()
    return tuple(float(np.sqrt((net[layer].weight.grad.numpy() ** 2).mean())) for layer in (0, -1))


SEED = 0
activations = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "ReLU": nn.ReLU}
networks, histories, at_start = {}, {}, {}
for name, activation in activations.items():
    tc.manual_seed(SEED)
    networks[name] = lenet(activation)
    at_start[name] = gradient_sizes(networks[name])
    histories[name] = train_network(networks[name], SEED)

# %% [markdown]
# ## Measure

# %%
print("             test accuracy         gradient before training")
print("            guess   measured        C1       output   ratio")
for name, (first, last) in at_start.items():
    measured = histories[name][-1]
    print(f"{name:10} {prediction[name]:6.3f} {measured:10.3f} {first:11.1e} {last:10.1e} {first / last:8.4f}")

figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
for (name, history), style in zip(histories.items(), ("k:", "k-", "k--")):
    axis.plot(range(1, 9), history, style, marker=".", label=name)
axis.set(xlabel="epoch", ylabel="test accuracy", ylim=(0, 1.02))
axis.legend()
show(
    figure,
    "Test accuracy over eight epochs: with the sigmoid it stays at chance, near 0.1; with tanh it is high after the "
    "first epoch and near 0.98 at the end; ReLU starts lower and ends close to tanh.",
)

# Seen with seeds 0, 1 and 2.
assert histories["sigmoid"][-1] < 0.2, "the sigmoid stays near chance"
assert histories["tanh"][-1] > 0.93 and histories["ReLU"][-1] > 0.8, "tanh and ReLU read the digits"
assert at_start["sigmoid"][0] < at_start["tanh"][0] / 20, "the sigmoid starves C1 of gradient"

# %% [markdown]
# ## Explain
#
# Was your guess near? With the sigmoid the network learns *nothing* in eight epochs; with tanh, which is a sigmoid
# stretched and moved (tanh x = 2 sigmoid(2x) - 1), it reads the digits. And ReLU, today's habit, is not ahead here:
# with four activations, tanh still brings as much gradient to C1 as to the output.
#
# On the way back from the loss, the gradient is multiplied by the slope of each activation and by the weights of each
# layer. The column *ratio* shows what is left of it at C1. This is the **vanishing gradient**.
#
# **Exercise 3.** By which factor at most do the slopes of the sigmoids multiply the gradient between the loss and C1?

# %%
factor = ...  # one number, at most
### BEGIN SOLUTION
factor = (1 / 4) ** 4
### END SOLUTION
q.check(3)

# %% [markdown]
# If the slopes are the reason, then weights that make up for them must be the cure. We draw the weights for the sigmoid
# four times as wide as Glorot and Bengio (2010, equation 16) advise for a slope of 1, and change nothing else.

# %%
tc.manual_seed(SEED)
cured = lenet(nn.Sigmoid)
for layer in cured:
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(layer.weight, gain=4)
        nn.init.zeros_(layer.bias)
first, last = gradient_sizes(cured)
history = train_network(cured, SEED)
print(f"sigmoid, wide weights: gradient of C1 {first:.1e}, of the output {last:.1e}, accuracy {history[-1]:.3f}")

assert history[-1] > 0.85 and first > 50 * at_start["sigmoid"][0]

# %% [markdown]
# The sigmoid was never unable to learn; it was badly scaled. Good initial weights and normalisation layers, which
# later labs measure, keep the scale right in deeper networks; ReLU helps with its slope of exactly 1.
#
# ## Where does it err?
#
# One number hides which digits are taken for which. The **confusion matrix** counts: row = truth, column = prediction.
#
# **Exercise 4.** Write it.


# %%
def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """matrix[t, p] = number of examples of class t that were taken for class p."""
    ### BEGIN SOLUTION
    matrix = np.zeros((classes, classes), dtype=int)
    np.add.at(matrix, (truth, predicted), 1)
    return matrix
    ### END SOLUTION


q.check(4)

# %%
with tc.no_grad():
    predicted = networks["tanh"](images[test]).argmax(1).numpy()
counts = np.histogram2d(digits.target[test], predicted, bins=(range(11), range(11)))[0].astype(int)

figure, axis = plt.subplots(figsize=(4.5, 4), layout="constrained")
axis.imshow(counts, cmap="gray_r")
for (row, column), count in np.ndenumerate(counts):
    if count:
        axis.text(column, row, count, ha="center", va="center", color="white" if row == column else "black", fontsize=8)
axis.set(xlabel="prediction", ylabel="truth", xticks=range(10), yticks=range(10))
show(figure, "Confusion matrix of ten digits: large counts on the diagonal, a few single errors beside it.")

errors = counts.sum() - np.trace(counts)
print(f"{errors} of {counts.sum()} test digits are taken for another")
assert errors < 0.07 * counts.sum()

# %% [markdown]
# ## What does it see?
#
# The six filters of C1 and what they make of one digit. Zero is middle grey. Compare with the filters of lab 06: some
# answer to strokes, some to the edge on one side of a stroke. Nobody designed them.

# %%
c1 = networks["tanh"][0]
digit = images[test[:1]]  # (1, 1, 32, 32)
with tc.no_grad():
    maps = F.tanh(c1(digit)).numpy()[0]  # (6, 28, 28)
filters = c1.weight.detach().numpy()[:, 0]  # (6, 5, 5)

figure, axes = plt.subplots(2, 7, figsize=(7, 2.3), layout="constrained")
axes[1, 0].imshow(digit.numpy()[0, 0], cmap="gray")
axes[1, 0].set_title("input", fontsize=8)
for channel, column in enumerate(axes[:, 1:].T):
    column[0].imshow(filters[channel], cmap="gray", vmin=-abs(filters).max(), vmax=abs(filters).max())
    column[1].imshow(maps[channel], cmap="gray", vmin=-1, vmax=1)
    column[0].set_title(f"C1 filter {channel}", fontsize=8)
for axis in axes.flat:
    axis.axis("off")
show(
    figure,
    "Upper row: the six learned 5x5 filters of C1 as grey patches. Lower row: a digit, and the six maps that the "
    "filters make of it; in some the strokes are bright, in some dark, in some one side of a stroke stands out.",
)

# %% [markdown]
# ## Are the gradients right?
#
# Training often goes on with a wrong gradient, only worse, and nobody notices. A derivative can be checked without
# knowing how it was computed: move one number a little, look how the result moves.
#
# **Exercise 5.** Write the central difference for every element of `x`. Use float64: with eps = 1e-6, float32 has
# hardly a digit left.


# %%
def numeric_gradient(f, x: np.ndarray, eps: float = 1e-6) -> np.ndarray:
    """d f(x) / d x[i] for each element i of x, by central differences; f returns one number."""
    ### BEGIN SOLUTION
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = eps
        gradient[index] = (f(x + step) - f(x - step)) / (2 * eps)
    return gradient
    ### END SOLUTION


q.check(5)

# %% [markdown]
# `gradcheck` does the same for every element of every input of a layer. It weighs the outputs with random numbers
# first: with weights of one, a backward that mixes up its outputs would pass.

# %%
rng = np.random.default_rng(0)


def random(*shape: int) -> tc.Tensor:
    return tc.tensor(rng.standard_normal(shape), requires_grad=True)


print("C1, convolution:", gradcheck(F.conv2d, [random(2, 1, 8, 8), random(3, 1, 5, 5), random(3)]))
print("S2, pooling:    ", gradcheck(lambda x: F.avg_pool2d(x, 2), [random(2, 3, 4, 4)]))
print("F6, dense:      ", gradcheck(F.linear, [random(2, 5), random(3, 5), random(3)]))

# %% [markdown]
# And a layer with an error as people make it: the derivative of y = tanh x is 1 - y², here somebody forgot the square.


# %%
class ForgetfulTanh(Function):
    saves_output = True

    def forward(self, x):
        return np.tanh(x)

    def backward(self, g):
        return g * (1 - self.saved_output)


try:
    gradcheck(lambda x: ForgetfulTanh()(x), [random(2, 3)])
except RuntimeError as error:
    print(error)
else:
    raise AssertionError("the wrong derivative was not found")

# %% [markdown]
# ## What you can do now
#
# - Say for each layer of a network what size its maps have and how many parameters it has, before you run it.
# - Write a training loop, and read learning curves, a confusion matrix, filters and feature maps.
# - Recognise a vanishing gradient by its numbers, and mend it: another activation, or better scaled weights.
# - Check any derivative, yours or another's.
#
# Try next: pooling by the maximum in place of the average; three seeds in place of one; twice the learning rate.
# Next lab: AlexNet, the same idea with sixty million parameters.
