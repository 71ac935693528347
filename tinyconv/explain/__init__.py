"""See every product: sizes, traces and explanations of convolutions, in the terminal."""

from tinyconv.explain.arithmetic import (
    EquivalentConvolution,
    Setting,
    equivalent_convolution,
    output_size,
    pool_output_size,
    same_padding,
    solve,
    transposed_output_size,
)
from tinyconv.explain.debug import StepDebugger, break_at
from tinyconv.explain.receptive import receptive_field
from tinyconv.explain.relationships import RELATIONSHIPS, Relationship
from tinyconv.explain.text import format_sizes
from tinyconv.explain.trace import AvgPoolTrace, Step, Term, Trace, example, trace
