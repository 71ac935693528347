"""The threads of the kernels, under the name that kernels of this folder import."""

from __future__ import annotations

from tinyconv.kernels.threads import get_num_threads as get_num_threads
from tinyconv.kernels.threads import parallel as parallel
