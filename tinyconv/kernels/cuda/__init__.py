"""The rung ``cuda``: kernels in CUDA C, one idea a file, and the host code that launches them.

CuPy's arrays are computed on the GPU. NumPy's arrays are, where ``use_kernels("cuda")`` asks for it, by the same source
on the CPU, in the emulator of `tinyconv.cuda_on_cpu`: far slower than the compiled kernels, and watched.

    bf16.cu         as tf32.cu, operands rounded to bf16
    columns.cu      im2col written down, and added back
    corners.cu      the pixels between which the points of a grid lie
    depthwise.cu    convolution of one channel a group, and its gradients
    direct.cu       convolution and its gradients by their definition
    elementwise.cu  activations and their gradients
    maps.cu         resampling, adaptive max pooling, and the gradients of pooling
    norm.cu         batch, instance, group and layer norm, and their gradients
    pack.cu         weights in the order in which tiles read them, sums of parts
    points.cu       sampling at points, and its gradients
    pool.cu         max and average pooling
    softmax.cu      softmax, cross-entropy, and their gradients
    tf32.cu         convolution and its gradients on tensor cores, operands rounded to TF32
    tiled.cu        convolution and the gradient of its input as matrix products with tiles in shared memory
    tiled_weight.cu the gradient of its weights likewise
    update.cu       the steps of optimisers
    wgmma.cu        convolution and its gradients in bf16 by Hopper's matrix products
    winograd.cu     the transforms of Winograd's algorithms for 3x3 windows

    window.h        which pixel a tap reads, in front of each of them
    threads.h       who computes what: elements, planes, teams
    four.h          four neighbouring elements a thread

and in those that say so

    tile.h          a tile's product, of tiled.cu and tiled_weight.cu
    tensor_core.h   the instructions of tensor cores
    warpgroup.h     those of wgmma.cu
    tensor_tiles.h  the kernels of bf16.cu and tf32.cu
    slices.h        what those three share
"""

from tinyconv.kernels.cuda.activation import activation as activation
from tinyconv.kernels.cuda.activation import activation_grad as activation_grad
from tinyconv.kernels.cuda.activation import erf as erf
from tinyconv.kernels.cuda.activation import relu as relu
from tinyconv.kernels.cuda.activation import relu_grad as relu_grad
from tinyconv.kernels.cuda.activation import sigmoid as sigmoid
from tinyconv.kernels.cuda.activation import slopes as slopes
from tinyconv.kernels.cuda.columns import fold as fold
from tinyconv.kernels.cuda.columns import unfold as unfold
from tinyconv.kernels.cuda.convolution import conv as conv
from tinyconv.kernels.cuda.convolution import conv_input as conv_input
from tinyconv.kernels.cuda.convolution import conv_weight as conv_weight
from tinyconv.kernels.cuda.losses import cross_entropy as cross_entropy
from tinyconv.kernels.cuda.losses import cross_entropy_grad as cross_entropy_grad
from tinyconv.kernels.cuda.losses import softmax as softmax
from tinyconv.kernels.cuda.losses import softmax_grad as softmax_grad
from tinyconv.kernels.cuda.normalisation import normalise as normalise
from tinyconv.kernels.cuda.normalisation import normalise_grad as normalise_grad
from tinyconv.kernels.cuda.pooling import avg_pool as avg_pool
from tinyconv.kernels.cuda.pooling import max_pool as max_pool
from tinyconv.kernels.cuda.products import matmul as matmul
from tinyconv.kernels.cuda.resampling import adaptive_max_pool as adaptive_max_pool
from tinyconv.kernels.cuda.resampling import avg_pool_input as avg_pool_input
from tinyconv.kernels.cuda.resampling import resample as resample
from tinyconv.kernels.cuda.resampling import scatter_windows as scatter_windows
from tinyconv.kernels.cuda.sampling import corners as corners
from tinyconv.kernels.cuda.sampling import sample as sample
from tinyconv.kernels.cuda.sampling import sample_input as sample_input
from tinyconv.kernels.cuda.sampling import sample_weight as sample_weight
from tinyconv.kernels.cuda.updating import adam_step as adam_step
from tinyconv.kernels.cuda.updating import rmsprop_step as rmsprop_step
from tinyconv.kernels.cuda.updating import sgd_step as sgd_step
