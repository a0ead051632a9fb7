"""Any sequence of prefill, step, advance, reset, snapshot, restore, fork and refused calls: always the float64 sum."""

from collections import Counter

import pytest
import torch
from depth import examples
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, precondition, rule
from test_engines import ENGINES, TILED
from truth import causal_sum

from flashref import make_mixer


class Calls(RuleBasedStateMachine):
    """One engine's life. Beside every mixer stands the list of all inputs that it was given, for each of its mixers.

    An engine of float32 is also given rows of bfloat16, in any mix with rows of float32.
    """

    engine: str
    count: Counter
    lives = Bundle("lives")  # (mixer, known): known is (M, B, D, n) for the n complete positions
    kept = Bundle("kept")  # (snapshot, known)

    @initialize(
        target=lives,
        sizes=st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 3), st.integers(1, 70)),
        base=st.integers(1, 9),
        direct_up_to=st.sampled_from([0, 4, 16]),
        dtype=st.sampled_from([torch.float64, torch.float32]),
        seed=st.integers(0, 2**31),
    )
    def begin(self, sizes, base, direct_up_to, dtype, seed):
        self.count["lives"] += 1
        self.M, self.B, self.D, self.L = sizes
        self.random = torch.Generator().manual_seed(seed)
        self.dtype, self.tolerance = dtype, {torch.float64: 1e-13, torch.float32: 1e-5}[dtype]
        self.filters = torch.randn(self.M, self.D, self.L, generator=self.random, dtype=torch.float64).to(dtype)
        mixer = make_mixer(self.engine, self.filters, self.B, **({"base": base} if self.engine in TILED else {}))
        if self.engine in TILED:
            mixer._tau.direct_up_to = direct_up_to
        if self.engine == "bounded":
            mixer.piece_points = 16
        return [mixer, self.nothing()]

    def nothing(self):
        return torch.zeros(self.M, self.B, self.D, 0, dtype=self.dtype)

    def inputs(self, n, narrow=False):
        x = torch.randn(self.M, self.B, self.D, n, generator=self.random, dtype=torch.float64)
        return x.to(torch.bfloat16 if narrow and self.dtype == torch.float32 else self.dtype)

    def check(self, z, x):
        """z: the outputs at the last positions of the inputs x; in bfloat16 they were rounded to 8 bits, once.

        A single output may nearly cancel, so the tolerance is relative to what the sums add up.
        """
        self.count["outputs"] += z.numel()
        assert torch.isfinite(z).all()
        for m in range(self.M):
            truth = causal_sum(x[m], self.filters[m])[..., x.shape[-1] - z.shape[-1] :]
            added = causal_sum(x[m].abs(), self.filters[m].abs()).max()
            rounded = 2.0**-8 * truth.abs() if z.dtype == torch.bfloat16 else 0.0
            assert ((z[m].double() - truth).abs() <= self.tolerance * added + rounded).all()

    @rule(life=lives, n=st.integers(0, 70), narrow=st.booleans())
    def prefill(self, life, n, narrow):
        mixer = life[0]
        if mixer.position or mixer._begun:
            with pytest.raises(ValueError, match="out of order"):
                mixer.prefill(0, self.inputs(min(n, self.L))[0])
            return
        x = self.inputs(n, narrow)
        if n > self.L:
            with pytest.raises(ValueError, match="the filters hold"):
                mixer.prefill(0, x[0])
            return
        z = torch.stack([mixer.prefill(m, x[m]) for m in range(self.M)])
        assert z.dtype == x.dtype
        life[1] = x
        if n:
            self.check(z, x)

    @rule(life=lives, n=st.integers(1, 20), narrow=st.booleans(), gated=st.booleans(), spoil=st.booleans())
    def step(self, life, n, narrow, gated, spoil):
        mixer = life[0]
        for _ in range(n):
            if mixer.position == self.L:
                with pytest.raises(ValueError, match="the filters hold"):
                    mixer.step(0, self.inputs(1)[0, ..., 0])
                return
            x, z = self.inputs(1, narrow), []
            for m in range(self.M):
                row = x[m, ..., 0].clone()
                half = row.new_full(row.shape, 0.5)  # of a gated step the answer may be a view
                z.append(mixer.gated_step(m, 2 * row, half).clone() if gated else mixer.step(m, row))
                assert z[-1].dtype == x.dtype
                if spoil:  # the caller's tensors are the caller's
                    row.fill_(torch.nan)
                    z[-1], mine = z[-1].clone(), z[-1]
                    mine.fill_(torch.nan)
            mixer.advance()
            life[1] = torch.cat([life[1].to(self.dtype), x.to(self.dtype)], dim=-1)
            self.check(torch.stack(z).unsqueeze(-1), life[1])

    @precondition(lambda self: self.engine == "tiled_gpu")
    @rule(life=lives)
    def a_block_at_once(self, life):
        """The outputs of a block from its partial sums, by whoever holds the block; where none begins, a refusal."""
        mixer, known = life
        fresh = not mixer._begun or (mixer.position - mixer.prompt_length) % mixer.base or mixer.position == self.L
        if fresh:
            with pytest.raises(ValueError, match="no block begins"):
                mixer.advance_block()
            return
        n = min(mixer.base, self.L - mixer.position)
        x, (rows, sums, taps) = self.inputs(n), mixer.block(0, self.M)
        rows[:n] = x.permute(3, 0, 1, 2)
        z = [sums[i] + sum(rows[j] * taps[i - j, :, 0][:, None] for j in range(i + 1)) for i in range(n)]
        mixer.advance_block()
        life[1] = torch.cat([known.to(self.dtype), x], dim=-1)
        self.check(torch.stack(z, dim=-1), life[1])

    @rule(life=lives, which=st.integers(0, 5))
    def refused(self, life, which):
        """What is refused changes nothing: the rules after it would notice."""
        self.count["refused"] += 1
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
        life[1] = torch.cat([known.to(self.dtype), x], dim=-1)
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


def run_machine(calls: type[RuleBasedStateMachine], engine: str, lives: int, steps: int) -> Counter:
    """Run a state machine for one engine; returns what it counted."""
    machine = type(calls.__name__ + engine, (calls,), {"engine": engine, "count": Counter()})
    machine.TestCase.settings = settings(max_examples=lives, stateful_step_count=steps)
    machine.TestCase("runTest").runTest()
    return machine.count


@pytest.mark.parametrize("engine", ENGINES)
def test_any_order_of_calls_gives_the_sum(engine, tried):
    count = run_machine(Calls, engine, examples(60), 25)
    tried("cases", "an engine's calls in any order, a sequence of up to 25", count["lives"])
    tried("cases", "numbers that came out of them, against the sum in float64", count["outputs"])
    tried("faults", "a wrong call among them", count["refused"])
