"""The offline convolution against the O(L^2) sum."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from truth import assert_close, causal_sum

from flashref import causal_conv
from flashref.convolution import fast_length

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}


@pytest.mark.parametrize("method", ["fft", "direct"])
@given(
    lead=st.lists(st.integers(0, 3), max_size=3),
    D=st.integers(1, 4),
    L=st.integers(0, 300),
    K=st.integers(0, 400),
    dtype=st.sampled_from(list(TOLERANCE)),
    seed=st.integers(0, 99),
)
def test_causal_conv_is_the_sum_for_any_leading_dimensions_and_lengths(method, lead, D, L, K, dtype, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(*lead, D, L, generator=g, dtype=dtype)
    rho = torch.randn(D, K, generator=g, dtype=dtype)
    y = causal_conv(x, rho, method=method)
    assert y.dtype == dtype
    assert_close(y, causal_sum(x, rho), TOLERANCE[dtype])


@pytest.mark.parametrize("method", ["fft", "direct"])
@pytest.mark.parametrize("dtype, unit", [(torch.bfloat16, 2.0**-8), (torch.float16, 2.0**-11)])
def test_half_precision_is_computed_in_float32_and_rounded_once(method, dtype, unit):
    torch.manual_seed(0)
    x, rho = torch.randn(2, 3, 200).to(dtype), torch.randn(3, 200).to(dtype)
    y = causal_conv(x, rho, method=method)
    truth = causal_sum(x, rho)
    assert y.dtype == dtype
    assert ((y.double() - truth).abs() <= unit * truth.abs() + 1e-4 * truth.abs().max()).all()


@pytest.mark.parametrize("method", ["fft", "direct"])
@pytest.mark.parametrize("K", [4, 9, 13])
def test_both_methods_are_differentiable(method, K):
    torch.manual_seed(1)
    x = torch.randn(2, 2, 9, dtype=torch.float64, requires_grad=True)
    rho = torch.randn(2, K, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, rho: causal_conv(x, rho, method=method), (x, rho))


@pytest.mark.parametrize("method", ["fft", "direct"])
def test_inputs_that_are_not_contiguous_are_the_same_numbers(method):
    torch.manual_seed(2)
    x, rho = torch.randn(40, 3, 2).permute(2, 1, 0), torch.randn(50, 3).T
    assert_close(causal_conv(x.double(), rho.double(), method=method), causal_sum(x, rho), 1e-10)


def test_fast_length_is_the_smallest_even_length_without_other_primes():
    def smooth(n):
        for prime in (2, 3, 5):
            while n % prime == 0:
                n //= prime
        return n == 1

    for n in range(3000):
        length = fast_length(n)
        assert length >= max(n, 2) and length % 2 == 0 and smooth(length)
        assert not any(smooth(shorter) for shorter in range(max(n, 2) + n % 2, length, 2))


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"x": [1.0]}, TypeError, "x must be a torch.Tensor"),
        ({"rho": None}, TypeError, "rho must be a torch.Tensor"),
        ({"x": torch.ones(2, 3, dtype=torch.int64)}, TypeError, "x must be a floating-point tensor"),
        ({"rho": torch.ones(2, 3, dtype=torch.complex64)}, TypeError, "rho must be a floating-point tensor"),
        ({"rho": torch.ones(2, 3, dtype=torch.float64)}, TypeError, "x and rho must have one dtype"),
        ({"rho": torch.ones(3)}, ValueError, r"rho must have shape \(D, K\)"),
        ({"x": torch.ones(3)}, ValueError, r"x must have shape \(..., D, L\)"),
        ({"x": torch.ones(3, 3)}, ValueError, "D = 2"),
        ({"x": torch.ones(2, 3, device="meta")}, ValueError, "one device"),
        ({"method": "slow"}, ValueError, 'method must be "fft" or "direct"'),
    ],
)
def test_bad_input_is_refused_by_name(change, error, words):
    good = {"x": torch.ones(2, 3), "rho": torch.ones(2, 3), "method": "fft"}
    with pytest.raises(error, match=words):
        causal_conv(**{**good, **change})
