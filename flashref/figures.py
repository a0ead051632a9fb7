"""Every figure of the notebooks: ``from flashref import figures``, then figures.tiling(...) and so on.

One function per figure; each returns it. They live in the files imported here, by subject. All are drawn with the
colours and fonts of figure_style.py.
"""

from flashref.bench_figures import breakdown, cumulative_time, growth_curve, speed_up, step_distribution
from flashref.bench_figures import time_per_token as recorded_time_per_token
from flashref.check_figures import lags_of_tile, pairs_of_engine, work_of_steps, work_so_far
from flashref.cost_figures import (
    base_curve,
    cost_choices,
    cost_per_step,
    counted_over_length,
    level_shares,
    tile_times,
    tiles_per_size,
)
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
    "filter_steps",
    "filters",
    "growth_curve",
    "lags_of_tile",
    "level_shares",
    "logit_gaps",
    "loss_curve",
    "one_filter",
    "operator_diagram",
    "pairs_of_engine",
    "product_grid",
    "prompt_tiling",
    "recorded_time_per_token",
    "recursion_unrolled",
    "roots_of_unity",
    "ruler",
    "single_buffer",
    "speed_up",
    "step_distribution",
    "three_tilings",
    "tile_times",
    "tiles_per_size",
    "tiling",
    "time_per_token",
    "work_of_steps",
    "work_so_far",
]
