"""What moves when a token is made, counted operation by operation: the rows that must be kept, and nothing else."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from flashref import ENGINES, Generation, Hyena, HyenaConfig, make_mixer
from flashref.decoder import BLOCK, Decoder
from flashref.graphs import BlockDecoder

B, D, V, ORDER, LAYERS, P = 2, 8, 12, 3, 2, 3
MIXERS, STREAMS, ITEM = LAYERS * (ORDER - 1), (ORDER + 1) * D, 4
ROW = B * D * ITEM
# Bytes of each row that an engine copies in a position: lazy keeps the input, eager gives away a copy of the output;
# a tiled engine writes the input into its block while it multiplies it with the gate.
COPIED = {"lazy": MIXERS * ROW, "eager": MIXERS * ROW, "tiled_cpu": 0, "tiled_gpu": 0, "bounded": 0, "epoched": 0}
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
READ = ("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "_to_cpu")
READ_BY_PYTHON = ("tolist", "numpy", "item", "__array__")  # on a CPU most of these are no operation that is dispatched


class Moves(TorchDispatchMode):
    """Counts bytes that are copied; values that Python reads; tensors that come from Python or another device."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.read, self.across = Counter(), Counter(), Counter()
        self._patch = pytest.MonkeyPatch()

    def __enter__(self):
        for name in READ_BY_PYTHON:
            self._patch.setattr(Tensor, name, self._counted(name, getattr(Tensor, name)))
        return super().__enter__()

    def __exit__(self, *error):
        self._patch.undo()
        return super().__exit__(*error)

    def _counted(self, name, read):
        def counted(*args, **kwargs):
            self.read[name] += 1
            return read(*args, **kwargs)

        return counted

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket.__name__
        result = operation(*args, **(kwargs or {}))
        given = [leaf for leaf in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if name in READ:
            self.read[name] += 1
        if name in ("lift_fresh", "lift_fresh_copy", "scalar_tensor"):  # made of a number in Python
            self.across[name] += 1
        if isinstance(result, Tensor):
            if any(tensor.device != result.device for tensor in given):
                self.across[name] += 1
            itself = name == "copy_" and args[0].data_ptr() == args[1].data_ptr() and args[0].shape == args[1].shape
            if name in ("copy_", "clone", "_to_copy", "contiguous") and not itself:  # x[i] += y: nothing is moved
                self.bytes[name] += result.numel() * result.element_size()
        return result


def model() -> Hyena:
    torch.manual_seed(0)
    return Hyena(HyenaConfig(d_model=D, n_layer=LAYERS, d_inner=16, vocab_size=V, l_max=5000, order=ORDER))


@torch.inference_mode()
def moves_of(engine: str, L: int, upto: int, prompt: bool) -> dict[int, Moves]:
    """By position: what one step of a decoder moves."""
    hyena = model()
    own = {} if engine in ("lazy", "eager") else {"base": 64}
    decoder = Decoder(hyena, make_mixer(engine, hyena.filters(L), B, **own))
    token, found = torch.zeros(B, dtype=torch.long), {}
    if prompt:
        decoder.prefill(torch.zeros(B, P, dtype=torch.long))
    for t in range(P if prompt else 0, upto):
        with Moves() as moves:
            decoder.step(token)
        found[t - (P if prompt else 0)] = moves
    return found


def spectrum(U: int) -> int:
    """Bytes of the bounded engine's spectrum of one block of U inputs."""
    return 2 * ITEM * B * MIXERS * D * (U + 1) if U else 0


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_token_copies_its_own_rows_only_whatever_the_length_and_the_position(engine, prompt, tried):
    for L in (300, 4000):
        found, kept_for_next = moves_of(engine, L, 270, prompt), 0
        for t, moves in found.items():
            assert not moves.read and not moves.across, (t, moves.read, moves.across)
            if t == 0 and not prompt:
                continue  # begins the generation
            # When its block is used up, a layer's short filter carries two positions over and fills the rest anew. Two
            # positions of a prompt are in its block before the first step.
            begins = (t + 2 * prompt) % BLOCK == 0 and t > 0
            own = COPIED[engine] + LAYERS * B * STREAMS * ITEM * (BLOCK + 2) * begins
            ends = (t + 1) % 64 == 0 and engine not in ("lazy", "eager")
            if ends:  # the block's inputs are stored, the next one's sums loaded; with some engines spectra are kept
                assert moves.bytes.total() >= own + 2 * 64 * MIXERS * ROW
            elif engine != "bounded":
                assert moves.bytes.total() == own, (t, moves.bytes)
            else:  # of the tile that it works on, spectra are kept for the next one: one number complex per input
                largest = max((U for U in (64, 128, 256) if U <= t), default=0)
                spectra = moves.bytes.total() - own
                assert 0 <= spectra <= spectrum(largest), (t, moves.bytes)
                kept_for_next += spectra
        if engine == "bounded":  # each block of each size at most once, and every other one
            assert kept_for_next <= sum(270 // (2 * U) * spectrum(U) for U in (64, 128)) + spectrum(256)
        tried("cases", "tokens whose copies and transfers were counted", len(found))


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "seed": 0}, {"temperature": 1.0, "top_k": 3, "seed": 0}])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_generations_next_token_is_not_read_and_comes_from_nowhere_else(engine, sampling, tried):
    """All of it: the choice of the token, what is kept of it, and Ctrl-C held back meanwhile."""
    run = Generation(model(), torch.zeros(B, P, dtype=torch.long), 200, engine, **sampling)
    next(run)
    for t in range(1, 200):
        with Moves() as moves:
            next(run)
        assert not moves.read and not moves.across, (t, moves.read, moves.across)
        chosen = 2 * 8 * B  # the token, kept and given away
        if engine in ("lazy", "eager") and not sampling and (t + 1) % BLOCK:  # else the short filters carry over
            assert moves.bytes.total() == COPIED[engine] + chosen, (t, moves.bytes)
    tried("cases", "tokens whose copies and transfers were counted", 199)


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0, "top_k": 3}])
def test_a_block_of_tokens_reads_no_value_and_copies_the_same_in_every_block(settings):
    """What a CUDA graph records: 64 tokens, sampling included, without one look at a value."""
    hyena = model()
    with torch.no_grad():
        decoder = BlockDecoder(hyena, make_mixer("tiled_gpu", hyena.filters(1000), B, base=64), **settings)
        decoder.prefill(torch.zeros(B, P, dtype=torch.long))
        found = []
        for _ in range(3):
            with Moves() as moves:
                decoder._run()
            decoder._mixer.advance_block()
            found.append(moves)
    assert not any(moves.read or moves.across for moves in found)
    assert found[0].bytes == found[1].bytes == found[2].bytes


def test_the_count_sees_what_it_is_for():
    x, long = torch.ones(3, 4), torch.ones(3, dtype=torch.long)
    with Moves() as moves:
        x[0].copy_(x[1])
        x.clone()
        long.float()
        x[0] += 1  # writes in place, and what Python then assigns to itself is not moved
    assert moves.bytes == {"copy_": 16, "clone": 48, "_to_copy": 12} and not moves.read
    with Moves() as moves:
        x[0, 0].item()
        bool((x > 0).all())
        torch.tensor([1.0])
        x.to("meta")
    assert moves.read["_local_scalar_dense"] == 2 and moves.across.total() == 2
    reads = (lambda: x.tolist(), lambda: x.numpy(), lambda: np.asarray(x), lambda: x[0, 0].item(), lambda: int(x[0, 0]))
    for read in reads:
        with Moves() as moves:
            read()
        assert moves.read
    assert x.numpy().tolist() == [[2.0] * 4, *[[1.0] * 4] * 2] and not moves.read["tolist"]  # afterwards uncounted


@needs_cuda
def test_nothing_waits_for_or_leaves_the_gpu_while_blocks_are_replayed():
    """CUDA's own count of host copies, and PyTorch's refusal of anything that would wait."""
    hyena = model().cuda()
    with torch.no_grad():
        decoder = BlockDecoder(hyena, make_mixer("tiled_gpu", hyena.filters(1000), B, base=64))
        decoder.prefill(torch.zeros(B, P, dtype=torch.long, device="cuda"))
        for _ in range(8):  # records the graph, and meets the sizes of tiles
            decoder.block()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            with torch.profiler.profile() as watched:
                for _ in range(3):
                    decoder.block()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    names = [event.key for event in watched.key_averages()]
    assert not [name for name in names if "HtoD" in name or "DtoH" in name]
