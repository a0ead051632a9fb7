"""Flash Inference: exact generation from long convolution sequence models in O(L log^2 L).

Oncescu, Purandare, Idreos, Kakade: Flash Inference: Near Linear Time Inference for Long Convolution Sequence Models and
Beyond. ICLR 2025, arXiv 2410.12982.
"""

from flashref.checkpoints import PRETRAINED, load, load_operator, save
from flashref.config import HyenaConfig
from flashref.convolution import causal_conv
from flashref.engines import ENGINES, OnlineConvolution, make_mixer
from flashref.finite import NotFinite, checked
from flashref.generation import generate, stream
from flashref.hyena import Hyena, HyenaOperator
from flashref.mixer import Mixer
from flashref.naive import Eager, Lazy
from flashref.resumable import Generation
from flashref.tau import Tau
from flashref.tiled_cpu import TiledCPU
from flashref.tiled_gpu import TiledGPU
from flashref.tiling import Cost, Tile, cost, schedule

__all__ = [
    "ENGINES",
    "PRETRAINED",
    "Cost",
    "Eager",
    "Generation",
    "Hyena",
    "HyenaConfig",
    "HyenaOperator",
    "Lazy",
    "Mixer",
    "NotFinite",
    "OnlineConvolution",
    "Tau",
    "Tile",
    "TiledCPU",
    "TiledGPU",
    "causal_conv",
    "checked",
    "cost",
    "generate",
    "load",
    "load_operator",
    "make_mixer",
    "save",
    "schedule",
    "stream",
]
