"""Between text and tokens: bytes for models with 256 tokens, characters of DNA for HyenaDNA."""

import re

import torch
from jaxtyping import Int
from torch import Tensor

# HyenaDNA's alphabet in the order of its tokens; what is not a base stands in brackets, as its authors write it.
DNA = ["[CLS]", "[SEP]", "[BOS]", "[MASK]", "[PAD]", "[RESERVED]", "[UNK]", "A", "C", "G", "T", "N"]


def encode(text: bytes, vocab_size: int) -> Int[Tensor, " P"]:
    """Tokens for a model of vocab_size tokens: the bytes themselves (256), or bases A C G T N in either case (12).

    White space around a DNA sequence and between its lines is dropped. Raises ValueError for a letter that is no base,
    or a vocab_size that is neither.
    """
    if vocab_size != 256:
        _check_vocabulary(vocab_size)
        text = b"".join(text.split())
        if found := re.search(rb"[^ACGTNacgtn]", text):
            base, position = found[0].decode("latin-1"), found.start()
            raise ValueError(f"a DNA prompt holds A, C, G, T and N only, got {base!r} at position {position}")
        text = text.upper().translate(bytes.maketrans(b"ACGTN", bytes(map(DNA.index, "ACGTN"))))
    return torch.frombuffer(bytearray(text), dtype=torch.uint8).long() if text else torch.zeros(0, dtype=torch.long)


def decode(tokens: Int[Tensor, " n"], vocab_size: int) -> bytes:
    """The inverse of encode."""
    if vocab_size == 256:
        return bytes(tokens.tolist())
    _check_vocabulary(vocab_size)
    return "".join(DNA[token] for token in tokens.tolist()).encode()


def _check_vocabulary(vocab_size: int) -> None:
    if vocab_size != len(DNA):
        raise ValueError(
            f"only models of bytes (256 tokens) and of DNA ({len(DNA)} tokens) have a text form, this one has "
            f"{vocab_size} tokens: call flashref.generate with tokens of your own"
        )
