"""Every check of the exercises: ``from flashref import checks``, then checks.check_tau(your_tau) and so on.

Each runs your function or class on sizes and numbers of its own, in a process of its own, with bounds on time and
memory and with flashref's own solutions switched off (sandbox.py). It prints one line if all is right. Otherwise it
shows what is wrong, on the smallest case, with a picture where that says more, and raises CheckFailed, which nbgrader
takes for no points.
"""

from flashref.checks.bound import check_longest_step, relaxed_steps, work_of_steps_and_before
from flashref.checks.buffer import check_single_buffer
from flashref.checks.cost import check_base, check_work, work_per_step
from flashref.checks.counts import check_cost, count
from flashref.checks.engine import check_engine, check_generate
from flashref.checks.feedback import CheckFailed, attempt, fail
from flashref.checks.kernel import check_kernel, check_kernel_engine, interpreted_triton
from flashref.checks.model import check_mixer_work, check_one_call, check_trained
from flashref.checks.online import check_online
from flashref.checks.product import check_product, check_product_work
from flashref.checks.rule import check_product_rule
from flashref.checks.schedule import check_schedule, check_steps, check_tiles
from flashref.checks.tau import check_kept_spectra, check_tau, check_transforms

__all__ = [
    "CheckFailed",
    "attempt",
    "check_base",
    "check_cost",
    "check_engine",
    "check_generate",
    "check_kept_spectra",
    "check_kernel",
    "check_kernel_engine",
    "check_longest_step",
    "check_mixer_work",
    "check_one_call",
    "check_online",
    "check_product",
    "check_product_rule",
    "check_product_work",
    "check_schedule",
    "check_single_buffer",
    "check_steps",
    "check_tau",
    "check_tiles",
    "check_trained",
    "check_transforms",
    "check_work",
    "count",
    "fail",
    "interpreted_triton",
    "relaxed_steps",
    "work_of_steps_and_before",
    "work_per_step",
]
