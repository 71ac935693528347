"""The rung ``cuda``: kernels in CUDA C, one idea a file, and the host code that launches them.

CuPy's arrays are computed on the GPU. NumPy's arrays are, where ``use_kernels("cuda")`` asks for it, by the same source
on the CPU, in the emulator of `tinyconv.cuda_on_cpu`: far slower than the compiled kernels, and watched.

    bf16.cu     as tf32.cu, operands rounded to bf16
    columns.cu  im2col written down, and added back
    direct.cu   convolution and its gradients by their definition
    norm.cu     batch, instance, group and layer norm, and their gradients
    pool.cu     max and average pooling
    softmax.cu  softmax, cross-entropy, and their gradients
    tf32.cu     convolution and its gradients on tensor cores, operands rounded to TF32
    tiled.cu    convolution and its weight gradient as a matrix product with tiles in shared memory
    winograd.cu the transforms of Winograd's algorithms for 3x3 windows
    window.h    which pixel a tap reads, in front of each of them
    tensor_core.h, tensor_tiles.h    the instructions, and the kernels, of tf32.cu and bf16.cu
"""

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
from tinyconv.kernels.cuda.pooling import avg_pool_input as avg_pool_input
from tinyconv.kernels.cuda.pooling import max_pool as max_pool
from tinyconv.kernels.cuda.products import matmul as matmul
