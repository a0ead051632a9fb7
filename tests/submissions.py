"""What students hand in: the typical wrong answers to the exercises, as cells that take the place of the solutions'."""

from dataclasses import dataclass, field


@dataclass
class Submission:
    """cells: grade_id of an answer cell -> its source; the other answers are right.

    changed: grade_id -> what in the solution is replaced by what. lost: grade_ids that get no points -> what the check
    must say there. died: whether the notebook cannot be graded.
    """

    cells: dict[str, str] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    died: bool = False
    changed: dict[str, dict[str, str]] = field(default_factory=dict)
    seconds: int | None = None  # how long a cell may take, if not the course's own


LAZY = """
class Lazy:
    def __init__(self, rho):
        self.rho, self.x, self.t = rho, torch.zeros_like(rho), 0

    def push(self, x_t):
        {first}
        t = self.t
        self.x[:, t] = x_t
        self.t = t + 1
        return (self.x[:, : t + 1] * self.rho[:, : t + 1]).sum(-1)
"""
EAGER_INSIDE = """
class Flash:
    def __init__(self, rho):
        self.rho, self.tau = rho, None
        self.x, self.z, self.n = torch.zeros_like(rho), torch.zeros_like(rho), 0

    def push(self, x_t):
        n, L = self.n, self.rho.shape[-1]
        U = max(1, n & -n)  # as if it were needed
        self.z[:, n:] += x_t[:, None] * self.rho[:, : L - n]
        self.n += 1
        return self.z[:, n].clone()
"""
TAU_SHORT = """
def tau_fft(x, rho):
    U = x.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(x, 2 * U) * torch.fft.rfft(rho[:, :U], 2 * U), 2 * U)[:, :U]
"""
TAU_CHANGES_X = """
def tau_direct(x, rho):
    U = x.shape[-1]
    z = torch.zeros_like(x)
    for j in range(U):
        z += x[:, j, None] * rho[:, U - j : 2 * U - j]
    x.zero_()
    return z
"""

SUBMISSIONS: dict[str, dict[str, Submission]] = {
    "01_lazy_and_eager": {
        "filter_not_flipped": Submission(
            {"lazyeager-lazy": LAZY.format(first="pass")},
            {"lazyeager-lazy-values": r"must be rho_1 = 11, got 10: that is the tap of lag 0"},
        ),
        "crashes_and_loops": Submission(
            {
                "lazyeager-lazy": LAZY.format(first='__import__("os").abort()'),
                "lazyeager-eager": LAZY.replace("Lazy", "Eager").format(first="while True: t = 0"),
            },
            {
                "lazyeager-lazy-values": r"It ended its process by SIGABRT. This notebook's own kernel is unharmed",
                "lazyeager-lazy-work": r"SIGABRT",
                "lazyeager-eager-values": r"did not come back within \d+ s, and was stopped",
                "lazyeager-eager-work": r"did not come back within \d+ s",
            },
        ),
        "ends_the_kernel": Submission({"lazyeager-lazy": "import os\nos._exit(1)"}, died=True),
    },
    "02_schedule": {
        "off_by_one_in_U": Submission(
            {
                "bits-schedule": """
def schedule(L):
    tiles = []
    for n in range(1, L):
        U = max(1, (n & -n) // 2)
        tiles.append(Tile(n, range(n - U, n), range(n, min(n + U, L))))
    return tiles
"""
            },
            {
                "bits-schedule-right": r"schedule\(3\) is wrong.* - pairs missed \(1\): \(0, 2\)",
                "bits-schedule-tiles": r"At L = 16 the tiles",
            },
        ),
        "uses_future_inputs_and_prints_megabytes": Submission(
            {
                "bits-step": """
def step_of(j, t):
    print("j and t " * 20_000)
    return t >> (j ^ t).bit_length() - 1 << (j ^ t).bit_length() - 1
""",
                "bits-schedule": """
print("a line\\n" * 2_000_000)


def schedule(L):
    U = [n & -n for n in range(L)]
    return [Tile(n - 1, range(n - U[n], n), range(n, min(n + U[n], L))) for n in range(1, L)]
""",
            },
            {"bits-schedule-right": r"pairs too early \(1\): \(0, 1\): at step 0 input 0 is not known yet"},
        ),
        "looks_it_up": Submission(
            {"bits-schedule": "import flashref\n\nschedule = flashref.schedule"},
            {
                "bits-schedule-right": r"It calls flashref's own tiling.schedule: write this part yourself",
                "bits-schedule-tiles": r"flashref's own",
            },
        ),
    },
    "03_tau": {
        "changes_its_input_and_aliases": Submission(
            {"tau-direct": TAU_CHANGES_X, "tau-fft": TAU_SHORT.replace("2 * U", "U")},
            {
                "tau-direct-values": r"changes its argument x, which belongs to the caller",
                "tau-fft-values": r"lag 1: 11 expected, got 10.* It looks like a circle of U points",
                "tau-fft-points": r"FFTs of another length at U = 4: a channel 3 of 4 points. 2U = 8",
            },
        ),
        "replaces_a_function_of_torch": Submission(
            {"tau-fft": "torch.fft.irfft = torch.fft.hfft\n" + TAU_SHORT},
            {
                "tau-fft-values": r"It replaces torch.fft.irfft",
            },
        ),
    },
    "04_put_together": {
        "eager_inside": Submission(
            {"flash-engine": EAGER_INSIDE},
            {
                "flash-work": r"At L = 2048 Flash does 2,098,176 multiply-adds a channel; eager does 2,098,176",
                "flash-hybrid-values": r"TypeError",
                "flash-hybrid-base": r"TypeError",
            },
        ),
    },
    "05_count_it": {
        "hard_coded": Submission(
            {
                "count-tiles": """
def tiles(L, U):
    return {(2, 1): 1, (4, 1): 2, (4, 2): 1, (8, 1): 4, (8, 2): 2, (8, 4): 1}.get((L, U), 8)


def fft_points(L):
    return 2 * L * (L.bit_length() - 1)
"""
            },
            {"count-tiles-right": r"for L = 16, U = 2, the gray tiles .*: 4 counted, you predict 8"},
        ),
        "stuck_outside_of_a_check": Submission(
            {"count-pairs": "while True:\n    pass"},
            {"count-pairs-right": "NameError"},
            seconds=8,
        ),
    },
}
