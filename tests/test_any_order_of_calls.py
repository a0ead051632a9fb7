"""Any sequence of prefill, step, advance, reset, snapshot, restore, fork and refused calls: always the float64 sum."""

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, rule
from test_engines import ENGINES, TILED, TOLERANCE
from truth import assert_close, causal_sum

from flashref import make_mixer


class Calls(RuleBasedStateMachine):
    """One engine's life. Beside every mixer stands the list of all inputs that it was given, for each of its mixers."""

    engine: str
    lives = Bundle("lives")  # (mixer, known): known is (M, B, D, n) for the n complete positions
    kept = Bundle("kept")  # (snapshot, known)

    @initialize(
        target=lives,
        sizes=st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 3), st.integers(1, 70)),
        base=st.integers(1, 9),
        dtype=st.sampled_from(list(TOLERANCE)),
        seed=st.integers(0, 2**31),
    )
    def begin(self, sizes, base, dtype, seed):
        self.M, self.B, self.D, self.L = sizes
        self.random = torch.Generator().manual_seed(seed)
        self.dtype, self.tolerance = dtype, TOLERANCE[dtype]
        self.filters = torch.randn(self.M, self.D, self.L, generator=self.random, dtype=torch.float64).to(dtype)
        mixer = make_mixer(self.engine, self.filters, self.B, **({"base": base} if self.engine in TILED else {}))
        if self.engine == "bounded":
            mixer.piece_points = 16
        return [mixer, self.nothing()]

    def nothing(self):
        return torch.zeros(self.M, self.B, self.D, 0, dtype=self.dtype)

    def inputs(self, n):
        x = torch.randn(self.M, self.B, self.D, n, generator=self.random, dtype=torch.float64)
        return x.to(self.dtype)

    def check(self, z, x):
        """z: the outputs at the last positions of the inputs x."""
        for m in range(self.M):
            truth = causal_sum(x[m], self.filters[m])[..., x.shape[-1] - z.shape[-1] :]
            assert_close(z[m], truth, self.tolerance)

    @rule(life=lives, n=st.integers(0, 70))
    def prefill(self, life, n):
        mixer = life[0]
        if mixer.position or mixer._begun:
            with pytest.raises(ValueError, match="out of order"):
                mixer.prefill(0, self.inputs(min(n, self.L))[0])
            return
        x = self.inputs(n)
        if n > self.L:
            with pytest.raises(ValueError, match="the filters hold"):
                mixer.prefill(0, x[0])
            return
        z = torch.stack([mixer.prefill(m, x[m]) for m in range(self.M)])
        life[1] = x
        self.check(z, x)

    @rule(life=lives, n=st.integers(1, 20), spoil=st.booleans())
    def step(self, life, n, spoil):
        mixer = life[0]
        for _ in range(n):
            if mixer.position == self.L:
                with pytest.raises(ValueError, match="the filters hold"):
                    mixer.step(0, self.inputs(1)[0, ..., 0])
                return
            x, z = self.inputs(1), []
            for m in range(self.M):
                row = x[m, ..., 0].clone()
                z.append(mixer.step(m, row))
                if spoil:  # the caller's tensors are the caller's
                    row.fill_(torch.nan)
                    z[-1], mine = z[-1].clone(), z[-1]
                    mine.fill_(torch.nan)
            mixer.advance()
            life[1] = torch.cat([life[1], x], dim=-1)
            self.check(torch.stack(z).unsqueeze(-1), life[1])

    @rule(life=lives, which=st.integers(0, 5))
    def refused(self, life, which):
        """What is refused changes nothing: the rules after it would notice."""
        mixer, _ = life
        row = self.inputs(1)[0, ..., 0]
        wrong = {
            0: lambda: mixer.step(1 if self.M > 1 else 2, row),
            1: lambda: mixer.step(0, row[..., :-1]),
            2: lambda: mixer.step(0, row.to(torch.int32)),
            3: lambda: mixer.advance(),
            4: lambda: mixer.prefill(0, self.inputs(1)[0, :, :0]),
            5: lambda: mixer.restore({"position": torch.tensor([0, 0, 1])}),
        }[which]
        position = mixer.position
        with pytest.raises((ValueError, TypeError)):
            wrong()
        assert mixer.position == position

    @rule(life=lives)
    def half_a_position(self, life):
        """A snapshot in the middle of a position is refused, and the position can be completed."""
        mixer, known = life
        if mixer.position == self.L:
            return
        x = self.inputs(1)
        z = [mixer.step(0, x[0, ..., 0])]
        with pytest.raises(ValueError, match="out of order"):
            mixer.snapshot()
        with pytest.raises(ValueError, match="out of order"):
            mixer.fork()
        z += [mixer.step(m, x[m, ..., 0]) for m in range(1, self.M)]
        mixer.advance()
        life[1] = torch.cat([known, x], dim=-1)
        self.check(torch.stack(z).unsqueeze(-1), life[1])

    @rule(life=lives)
    def reset(self, life):
        life[0].reset()
        life[1] = self.nothing()

    @rule(target=kept, life=lives)
    def snapshot(self, life):
        return life[0].snapshot(), life[1]

    @rule(life=lives, put_away=consumes(kept))
    def restore(self, life, put_away):
        life[0].restore(put_away[0])
        life[1] = put_away[1]

    @rule(target=lives, life=lives)
    def fork(self, life):
        return [life[0].fork(), life[1]]


@pytest.mark.parametrize("engine", ENGINES)
def test_any_order_of_calls_gives_the_sum(engine):
    machine = type("CallsOf" + engine, (Calls,), {"engine": engine})
    machine.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
    machine.TestCase("runTest").runTest()
