"""Every figure of the notebooks: ``from flashref import figures``, then figures.tiling(...) and so on.

One function per figure; each returns it. They live in the files imported here, by subject. All are drawn with the
colours and fonts of figure_style.py.
"""

from flashref.bench_figures import breakdown, cumulative_time, growth_curve, speed_up, step_distribution
from flashref.bench_figures import time_per_token as recorded_time_per_token
from flashref.check_figures import (
    lags_of_tile,
    longest_steps,
    numbers_kept,
    pairs_of_engine,
    pairs_of_product,
    work_of_steps,
    work_so_far,
)
from flashref.cost_figures import (
    base_curve,
    cost_choices,
    cost_per_step,
    counted_over_length,
    level_shares,
    tile_times,
    tiles_per_size,
)
from flashref.data_dependent_figures import filters_from_data, product_points, product_tiling, two_product_tilings
from flashref.figure_style import COLOURS, PARTS, as_png
from flashref.model_figures import (
    compression,
    filter_steps,
    filters,
    logit_gaps,
    loss_curve,
    one_filter,
    prompt_tiling,
    time_per_token,
)
from flashref.operator_figure import operator_diagram
from flashref.polynomial_figures import product_grid, recursion_unrolled, roots_of_unity
from flashref.tau_figures import (
    dynamic_range,
    error_growth,
    kernel_program,
    pareto,
    roofline,
    time_per_output,
    toeplitz_on_a_circle,
)
from flashref.tiling_figures import circular_trick, coverage, ruler, single_buffer, three_tilings, tiling

__all__ = [
    "COLOURS",
    "PARTS",
    "as_png",
    "base_curve",
    "breakdown",
    "circular_trick",
    "compression",
    "cost_choices",
    "cost_per_step",
    "counted_over_length",
    "coverage",
    "cumulative_time",
    "dynamic_range",
    "error_growth",
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
    "toeplitz_on_a_circle",
    "two_product_tilings",
    "work_of_steps",
    "work_so_far",
]
