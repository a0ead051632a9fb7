"""What a snapshot of a generation must be before any of it is believed."""

import torch
from torch import Tensor


def read_position(snapshot: dict[str, Tensor], length: int) -> tuple[int, int, bool]:
    """Position, prompt length and whether there are buffers, of a snapshot; refuses what cannot be."""
    where = snapshot.get("position") if isinstance(snapshot, dict) else None
    if not isinstance(where, Tensor) or where.shape != (3,) or where.dtype != torch.int64:
        raise ValueError('snapshot must be what snapshot() returned: "position" is missing or has another form')
    position, prompt_length, begun = where.tolist()
    if not (0 <= prompt_length <= position <= length and begun in (0, 1) and (begun or position == 0)):
        raise ValueError(
            f"snapshot stands at position {position} behind a prompt of {prompt_length}, and the filters hold {length}"
        )
    return position, prompt_length, bool(begun)


def fill_buffers(buffers: dict[str, Tensor], snapshot: dict[str, Tensor]) -> None:
    """Copy a snapshot into buffers, once all of it fits."""
    if odd := buffers.keys() ^ snapshot.keys():
        raise ValueError(f"snapshot is of another engine or other settings: {', '.join(sorted(odd))} on one side only")
    for name, buffer in buffers.items():
        kept = snapshot[name]
        if kept.shape != buffer.shape:
            raise ValueError(f"snapshot[{name!r}] must have shape {tuple(buffer.shape)}, got {tuple(kept.shape)}")
        if kept.dtype != buffer.dtype:
            raise TypeError(f"snapshot[{name!r}] must be {buffer.dtype}, got {kept.dtype}")
    for name, buffer in buffers.items():
        buffer.copy_(snapshot[name])
