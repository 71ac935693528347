"""CUDA kernels on a CPU: run them, print from them, break them, without a GPU.

    from tinyconv.cuda_on_cpu import RawKernel

    add = RawKernel(r'''
    extern "C" __global__ void add(const float* x, const float* y, float* z, int n) {
        int i = blockIdx.x * blockDim.x + threadIdx.x;
        if (i < n) z[i] = x[i] + y[i];
    }''', "add")
    add((4,), (256,), (x, y, z, np.int32(1000)))     # NumPy arrays; as cupy.RawKernel with CuPy's

The source is compiled by g++ or clang++. Every thread of a block is a fibre; blocks follow each other. It finds
accesses outside of an array, writes to a const one, shared memory that is read before it is written, races within a
block and between blocks, barriers that some threads miss, copies and matrix products that nobody waits for, arguments
of the wrong type; and says kernel, block, thread and line. ``kernel.unwritten`` tells what no thread wrote. What it
cannot show is speed, and the layout of a tensor core's fragments. What g++ lets it not see: a struct that a function
returns straight into shared memory counts as not written; store its members.
"""

from tinyconv.cuda_on_cpu.compiler import CompileError, NoCompiler
from tinyconv.cuda_on_cpu.emulator import KernelError, RawKernel
from tinyconv.cuda_on_cpu.signature import Parameter, kernels_of

__all__ = ["CompileError", "KernelError", "NoCompiler", "Parameter", "RawKernel", "kernels_of"]
