"""See every product: sizes, traces, figures and exercises of convolutions."""

from tinyconv.explain import quiz
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
from tinyconv.explain.attribution import feature_maps, grad_cam, guided_backpropagation, occlusion, saliency
from tinyconv.explain.capture import Capture, capture, mismatch, probe
from tinyconv.explain.debug import StepDebugger, break_at
from tinyconv.explain.gallery import gallery
from tinyconv.explain.graph import Graph, graph
from tinyconv.explain.kinds import (
    AvgPoolTrace,
    ConvolutionTrace,
    FoldTrace,
    MaxPoolTrace,
    TransposedTrace,
    UnfoldTrace,
)
from tinyconv.explain.receptive import receptive_field
from tinyconv.explain.record import record
from tinyconv.explain.relationships import RELATIONSHIPS, Relationship
from tinyconv.explain.steps import Step, Term, Trace
from tinyconv.explain.summary import Layer, Summary, summary
from tinyconv.explain.text import format_sizes
from tinyconv.explain.trace import example, trace
from tinyconv.explain.views import plot_feature_maps, plot_filters, plot_heat
