"""Every figure of the notebooks: ``from flashref import figures``, then figures.tiling(...) and so on.

One function per figure; each returns it. They live in the files imported here, by subject. All are drawn with the
colours and fonts of style.py.
"""

from flashref.figures.alternatives import (
    cost_and_loss,
    cost_over_length,
    distilled_filters,
    error_and_loss,
    exact_growth,
)
from flashref.figures.bench import breakdown, cumulative_time, growth_curve, speed_up, step_distribution
from flashref.figures.bench import time_per_token as recorded_time_per_token
from flashref.figures.checks import (
    lags_of_tile,
    longest_steps,
    numbers_kept,
    pairs_of_engine,
    pairs_of_product,
    work_of_steps,
    work_so_far,
)
from flashref.figures.cost import (
    base_curve,
    cost_choices,
    cost_per_step,
    counted_over_length,
    level_shares,
    tile_times,
    tiles_per_size,
)
from flashref.figures.data_dependent import filters_from_data, product_points, product_tiling, two_product_tilings
from flashref.figures.framework import contributions_known
from flashref.figures.model import (
    compression,
    filter_steps,
    filters,
    logit_gaps,
    loss_curve,
    one_filter,
    prompt_tiling,
    time_per_token,
)
from flashref.figures.operator import operator_diagram
from flashref.figures.polynomial import product_grid, recursion_unrolled, roots_of_unity
from flashref.figures.recall import recall_accuracy, recall_reach, recall_sequence
from flashref.figures.style import APPROXIMATE, COLOURS, PARTS, as_png
from flashref.figures.tau import (
    dynamic_range,
    error_growth,
    kernel_program,
    pareto,
    roofline,
    time_per_output,
    toeplitz_on_a_circle,
)
from flashref.figures.tilings import circular_trick, coverage, ruler, single_buffer, three_tilings, tiling
from flashref.figures.timeline import bytes_per_sequence, calls_measured, dependency_graph, timelines

__all__ = [
    "APPROXIMATE",
    "COLOURS",
    "PARTS",
    "as_png",
    "base_curve",
    "breakdown",
    "bytes_per_sequence",
    "calls_measured",
    "circular_trick",
    "compression",
    "contributions_known",
    "cost_and_loss",
    "cost_choices",
    "cost_over_length",
    "cost_per_step",
    "counted_over_length",
    "coverage",
    "cumulative_time",
    "dependency_graph",
    "distilled_filters",
    "dynamic_range",
    "error_and_loss",
    "error_growth",
    "exact_growth",
    "filter_steps",
    "filters",
    "filters_from_data",
    "growth_curve",
    "kernel_program",
    "lags_of_tile",
    "level_shares",
    "logit_gaps",
    "longest_steps",
    "loss_curve",
    "numbers_kept",
    "one_filter",
    "operator_diagram",
    "pairs_of_engine",
    "pairs_of_product",
    "pareto",
    "product_grid",
    "product_points",
    "product_tiling",
    "prompt_tiling",
    "recall_accuracy",
    "recall_reach",
    "recall_sequence",
    "recorded_time_per_token",
    "recursion_unrolled",
    "roofline",
    "roots_of_unity",
    "ruler",
    "single_buffer",
    "speed_up",
    "step_distribution",
    "three_tilings",
    "tile_times",
    "tiles_per_size",
    "tiling",
    "time_per_output",
    "time_per_token",
    "timelines",
    "toeplitz_on_a_circle",
    "two_product_tilings",
    "work_of_steps",
    "work_so_far",
]
