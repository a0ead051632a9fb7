"""A model's generations in any order of calls: always the tokens and logits of the model written out in float64."""

from collections import Counter
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from depth import examples
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, rule
from test_any_order_of_calls import run_machine
from test_engines import ENGINES, TILED
from test_generation import L_MAX, VOCABULARY, make
from test_hyena import config, model_written_out, randomised
from truth import assert_close

import flashref
from flashref import Generation, Hyena, make_mixer
from flashref.decoder import Decoder

made = cache(make)  # writes texts that do not repeat themselves, but is far from well conditioned
tame = cache(lambda order, seed, dtype: randomised(Hyena, config(order=order), seed).to(dtype))
orders, seeds, batches = st.integers(2, 4), st.integers(0, 2), st.integers(1, 3)


@torch.no_grad()
def truth(model, tokens):
    """Logits (B, L, V) of tokens (B, L), by loops that share nothing with the step path."""
    return torch.stack([model_written_out(model, row) for row in tokens])


class DecoderCalls(RuleBasedStateMachine):
    """Decoders of one model, each with its mixer: what they were told and what they answered.

    A life is [decoder, mixer, tokens (B, n), logits (B, n, V), told (n,)]: in the middle of a prompt none are told.
    """

    engine: str
    count: Counter
    lives = Bundle("lives")
    kept = Bundle("kept")

    @initialize(
        target=lives,
        order=orders,
        seed=seeds,
        B=batches,
        base=st.integers(1, 9),
        dtype=st.sampled_from([torch.float64, torch.float32]),
    )
    def begin(self, order, seed, B, base, dtype):
        self.count["lives"] += 1
        self.exact, self.model = tame(order, seed, torch.float64), tame(order, seed, dtype)
        # The forward pass over the whole text in float32 is off by up to 2e-4 of the largest logit.
        self.tolerance = 1e-9 if dtype == torch.float64 else 2e-3
        self.B, self.random, self.all = B, torch.Generator().manual_seed(seed), []
        with torch.no_grad():
            base = {"base": base} if self.engine in TILED else {}
            mixer = make_mixer(self.engine, self.model.filters(L_MAX), B, **base)
        return self.alive([Decoder(self.model, mixer), mixer, *self.nothing()])

    def nothing(self):
        no_logits = torch.zeros(self.B, 0, self.model.config.rows, dtype=torch.float64)
        return torch.zeros(self.B, 0, dtype=torch.long), no_logits, torch.zeros(0, dtype=torch.bool)

    def alive(self, life):
        self.all.append(life)
        return life

    def some(self, n):
        return torch.randint(VOCABULARY, (self.B, n), generator=self.random)

    @staticmethod
    def note(life, tokens, logits):
        """Tokens (B, n) went in, and the last one's logits (B, V) came out."""
        of_all = torch.zeros(*tokens.shape, logits.shape[-1], dtype=torch.float64)
        of_all[:, -1] = logits
        told = torch.arange(tokens.shape[1]) == tokens.shape[1] - 1
        life[2], life[3] = torch.cat([life[2], tokens], 1), torch.cat([life[3], of_all], 1)
        life[4] = torch.cat([life[4], told])

    def check(self, life):
        *_, tokens, logits, told = life
        if told.any():
            self.count["logits"] += tokens.shape[0] * int(told.sum())
            assert logits[:, told].isfinite().all()
            assert_close(logits[:, told], truth(self.exact, tokens)[:, told], self.tolerance)

    def teardown(self):
        for life in self.all:
            self.check(life)

    @rule(life=lives, n=st.integers(1, L_MAX + 3))
    @torch.no_grad()
    def prefill(self, life, n):
        decoder, mixer, *_ = life
        tokens = self.some(n)
        if mixer.position or n > L_MAX:
            self.count["refused"] += 1
            with pytest.raises(ValueError, match=r"out of order|the filters hold"):
                decoder.prefill(tokens)
        else:
            self.note(life, tokens, decoder.prefill(tokens))

    @rule(life=lives, n=st.integers(1, 20))
    @torch.no_grad()
    def step(self, life, n):
        decoder, mixer, *_ = life
        for _ in range(n):
            token = self.some(1)
            if mixer.position == L_MAX:
                self.count["refused"] += 1
                with pytest.raises(ValueError, match="the filters hold"):
                    decoder.step(token[:, 0])
                return
            self.note(life, token, decoder.step(token[:, 0]))

    @rule(life=lives, which=st.integers(0, 5))
    @torch.no_grad()
    def refused(self, life, which):
        """What is refused changes nothing: the steps after it would notice."""
        decoder, *_ = life
        self.count["refused"] += 1
        wrong = {
            0: lambda: decoder.step(self.some(1)),
            1: lambda: decoder.step(torch.zeros(self.B + 1, dtype=torch.long)),
            2: lambda: decoder.step(torch.zeros(1 if self.B > 1 else 2, dtype=torch.long)),
            3: lambda: decoder.step(self.some(1)[:, 0] + 100),
            4: lambda: decoder.step(self.some(1)[:, 0].float()),
            5: lambda: decoder.prefill(torch.zeros(self.B + 1, 3, dtype=torch.long)),
        }[which]
        with pytest.raises((ValueError, IndexError, RuntimeError)):
            wrong()

    @rule(life=lives, n=st.integers(1, 3))
    @torch.no_grad()
    def begin_again(self, life, n):
        """After the mixer's reset a prompt starts a new text, in which nothing is left of the old one."""
        self.check(life)
        decoder, mixer, *_ = life
        mixer.reset()
        life[2:] = self.nothing()
        tokens = self.some(n)
        self.note(life, tokens, decoder.prefill(tokens))

    @rule(target=kept, life=lives)
    def snapshot(self, life):
        decoder, mixer, *known = life
        return decoder.snapshot(), mixer.snapshot(), known

    @rule(life=lives, put_away=consumes(kept))
    def restore(self, life, put_away):
        self.check(life)
        life[0].restore(put_away[0])
        life[1].restore(put_away[1])
        life[2:] = put_away[2]

    @rule(target=lives, life=lives)
    def fork(self, life):
        decoder, mixer, *known = life
        mixer = mixer.fork()
        twin = Decoder(self.model, mixer)
        twin.restore(decoder.snapshot())
        return self.alive([twin, mixer, *known])


class GenerationCalls(RuleBasedStateMachine):
    """Generations of one model. A life is [run, seeds]: after how many tokens its draws began anew, and with what."""

    engine: str
    count: Counter
    lives = Bundle("lives")

    @initialize(
        target=lives,
        order=orders,
        seed=seeds,
        B=batches,
        P=st.integers(1, 20),
        n=st.integers(0, L_MAX - 19),
        base=st.integers(1, 9),
        temperature=st.sampled_from([0.0, 0.7, 3.0]),
        top_k=st.sampled_from([None, 3]),
    )
    def begin(self, order, seed, B, P, n, base, temperature, top_k):
        self.count["lives"] += 1
        self.model, self.other = made(order, seed), made(order, seed + 1)
        self.prompt = torch.randint(VOCABULARY, (B, P), generator=torch.Generator().manual_seed(seed))
        self.n, self.temperature, self.top_k, self.all = n, temperature, top_k, []
        # Blocks so short that a text goes through tiles: one of the usual 64 positions is longer than any text here.
        engine = partial(make_mixer, self.engine, base=base) if self.engine in TILED else self.engine
        how = {"engine": engine, "temperature": temperature, "top_k": top_k, "seed": seed}
        return self.alive([Generation(self.model, self.prompt, n, **how), {0: seed}])

    def alive(self, life):
        self.all.append(life)
        return life

    def teardown(self):
        """The first life goes on. Then every token of every life, drawn again from the written-out model's logits."""
        for run, _ in self.all[:1]:
            for _ in range(min(20, run.left)):  # so that tiles are run, whatever calls there were
                next(run)
        for run, began in self.all:
            P, tokens, generator = self.prompt.shape[1], run.tokens, torch.Generator()
            assert torch.equal(tokens[:, :P], self.prompt)
            assert tokens.shape[1] == P + self.n - run.left
            logits = truth(self.model, tokens)[..., :VOCABULARY]
            for i in range(self.n - run.left):
                if i in began:
                    generator.manual_seed(began[i])
                assert torch.equal(tokens[:, P + i], self.draw(logits[:, P + i - 1], generator))
            self.count["tokens"] += tokens[:, P:].numel()

    def draw(self, logits, generator):
        if not self.temperature:
            return logits.argmax(-1)
        if self.top_k:
            logits = torch.where(logits >= logits.topk(self.top_k).values[:, -1:], logits, -torch.inf)
        return torch.multinomial((logits / self.temperature).softmax(-1), 1, generator=generator)[:, 0]

    @rule(life=lives, n=st.integers(1, 20))
    def go_on(self, life, n):
        run, _ = life
        for _ in range(n):
            if not run.left:
                with pytest.raises(StopIteration):
                    next(run)
                return
            next(run).fill_(VOCABULARY + 5)  # the caller may change what it gets

    @rule(target=lives, life=lives)
    def fork(self, life):
        return self.alive([life[0].fork(), dict(life[1])])

    @rule(target=lives, life=lives, seed=st.integers(100, 110))
    def fork_with_a_seed(self, life, seed):
        return self.alive([life[0].fork(seed), life[1] | {self.n - life[0].left: seed}])

    @rule(target=lives, life=lives)
    def save_and_resume(self, life):
        """Through a file; and not by another model, which leaves the run as it was."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "run"
            life[0].save(path)
            self.count["refused"] += 1
            with pytest.raises(ValueError, match="made with another model"):
                Generation.resume(path, self.other)
            return self.alive([Generation.resume(path, self.model), dict(life[1])])

    @rule(life=lives)
    def save_where_there_is_no_folder(self, life):
        self.count["refused"] += 1
        with pytest.raises(FileNotFoundError):
            life[0].save(Path("nowhere") / "at all" / "run")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_decoder_gives_the_logits_of_the_model_in_any_order_of_calls(engine, tried):
    count = run_machine(DecoderCalls, engine, examples(8), 15)
    tried("cases", "a decoder's calls in any order, orders 2 to 4", count["lives"])
    tried("cases", "logits of a position, against the model written out in float64", count["logits"])
    tried("faults", "a wrong call among them", count["refused"])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_generation_gives_the_tokens_of_the_model_in_any_order_of_calls(engine, tried, monkeypatch):
    tiles = []
    if engine in TILED:
        real = flashref.ENGINES[engine]._run_tile
        monkeypatch.setattr(flashref.ENGINES[engine], "_run_tile", lambda mixer, n: (tiles.append(n), real(mixer, n)))
    count = run_machine(GenerationCalls, engine, examples(8), 15)
    assert bool(tiles) == (engine in TILED), "texts too short for a tile check only half of an engine"
    tried("cases", "a generation's calls in any order, orders 2 to 4", count["lives"])
    tried("cases", "tokens drawn again from the model written out in float64", count["tokens"])
    tried("faults", "a wrong call among them", count["refused"])


@torch.no_grad()
def test_a_prompt_that_is_refused_leaves_the_short_filters_as_they_were():
    model, tokens = made(2, 0), torch.tensor([[3, 1, 4, 1, 5, 9]])
    decoder = Decoder(model, make_mixer("lazy", model.filters(L_MAX)))
    decoder.prefill(tokens[:, :5])
    with pytest.raises(ValueError, match="out of order"):
        decoder.prefill(tokens)
    assert_close(decoder.step(tokens[:, 5]), truth(model, tokens)[:, 5], 1e-9)


@torch.no_grad()
def test_a_token_for_another_number_of_sequences_is_refused_and_not_broadcast():
    model = made(2, 0)
    decoder = Decoder(model, make_mixer("lazy", model.filters(L_MAX), batch_size=3))
    decoder.prefill(torch.ones(3, 2, dtype=torch.long))
    for wrong in (torch.ones(1, dtype=torch.long), torch.ones(3, 1, dtype=torch.long), torch.tensor(1)):
        with pytest.raises(ValueError, match=r"token must have shape \(B,\) = \(3,\), got"):
            decoder.step(wrong)
