"""The rung ``cuda``: kernels in CUDA C, one idea a file, and the host code that launches them.

CuPy's arrays are computed on the GPU. NumPy's arrays are, where ``use_kernels("cuda")`` asks for it, by the same source
on the CPU, in the emulator of `tinyconv.cuda_on_cpu`: far slower than the compiled kernels, and watched.

    depthwise.cu     convolution of one channel a group, and its gradients
    direct.cu        convolution and its gradients by their definition
    norm.cu          batch, instance, group and layer norm, and their gradients
    pack.cu          weights in the order in which tiles read them, sums of parts
    pool.cu          max and average pooling
    softmax.cu       softmax, cross-entropy, and their gradients
    tiled.cu         convolution and the gradient of its input as matrix products with tiles in shared memory
    tiled_weight.cu  the gradient of its weights likewise
    tile.h           a tile's product, in those two
    window.h         which pixel a tap reads, in front of each of them
"""

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
