"""The long filters of a Hyena operator: not learned tap by tap, but made by a small network from the lag.

Names and arithmetic are those of the public Hyena operator, so that its checkpoints load as they are.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flashref.config import HyenaConfig


class Sine(nn.Module):
    """sin(freq * x) with a learned frequency per channel."""

    def __init__(self, width: int, w: float) -> None:
        super().__init__()
        self.freq = nn.Parameter(torch.full((1, width), float(w)))

    def forward(self, x: Float[Tensor, "*any width"]) -> Float[Tensor, "*any width"]:
        return torch.sin(self.freq * x)


class PositionalEmbedding(nn.Module):
    """What the filter network is told about a lag: time in [0, 1], then cosines and negative sines of it."""

    def __init__(self, emb_dim: int, l_max: int) -> None:
        super().__init__()
        bands = (emb_dim - 1) // 2
        time = torch.linspace(0, 1, l_max)[:, None]
        angle = 2 * math.pi * torch.arange(l_max)[:, None] / l_max * torch.linspace(1e-4, bands - 1, bands)
        self.register_buffer("z", torch.cat([time, angle.cos(), -angle.sin()], dim=-1)[None])  # (1, L, emb_dim)
        self.register_buffer("t", time[None])  # (1, L, 1)


class DecayWindow(nn.Module):
    """Multiplies each channel's filter by exp(-t * |delta|) + shift, from slow to fast decay over the channels."""

    def __init__(self, channels: int, shift: float, fast_decay: float, slow_decay: float, spacing: str) -> None:
        super().__init__()
        self.shift = shift
        slow, fast = math.log(0.01) / slow_decay, math.log(0.01) / fast_decay
        if spacing == "linear":
            deltas = torch.linspace(slow, fast, channels)
        else:
            deltas = -torch.logspace(math.log10(-slow), math.log10(-fast), channels)
        self.register_buffer("deltas", deltas[None, None])

    def forward(self, t: Float[Tensor, "1 L 1"], h: Float[Tensor, "1 L C"]) -> Float[Tensor, "1 L C"]:
        return h * (torch.exp(-t * self.deltas.abs()) + self.shift)


class ImplicitFilter(nn.Module):
    """The long filters of one operator as a function of the lag: positions, a sine MLP, a decay window."""

    def __init__(self, config: HyenaConfig) -> None:
        super().__init__()
        channels, width, w = config.d_model * (config.order - 1), config.filter_order, config.w
        self.bias = nn.Parameter(torch.randn(channels))
        self.pos_emb = PositionalEmbedding(config.emb_dim, config.l_max)
        self.implicit_filter = nn.Sequential(
            *(nn.Linear(config.emb_dim, width), Sine(width, w)),
            *(nn.Linear(width, width), Sine(width, w)),
            *(nn.Linear(width, width), Sine(width, w)),
            nn.Linear(width, channels, bias=False),
        )
        decay = (config.fast_decay, config.slow_decay, config.decay_spacing)
        self.modulation = DecayWindow(channels, config.shift, *decay)

    def forward(self, length: int) -> Float[Tensor, "C length"]:
        """The first ``length`` taps of every channel's filter, (C, length). The bias is not in them: see taps."""
        t, z = self.pos_emb.t[:, :length], self.pos_emb.z[:, :length]
        with torch.autocast(z.device.type, enabled=False):  # bfloat16 cannot tell a lag from the next
            return self.modulation(t, self.implicit_filter(z))[0].T
