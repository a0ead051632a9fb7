"""The tiled engine on a GPU: the structure of TiledCPU with the choices that a GPU wants.

All channels go into one call, since there a call costs more than a cache miss. What a step touches has static
addresses, so that a block of b steps can be captured in one CUDA graph and replayed.
"""

from flashref.tiled_cpu import TiledCPU


class TiledGPU(TiledCPU):
    """Flash Inference on a CUDA device; on the CPU it runs too, so that its logic is tested everywhere."""

    name = "tiled_gpu"
    direct_up_to = 8
    chunk_points = None

    def _check_device(self) -> None:
        pass  # any device
