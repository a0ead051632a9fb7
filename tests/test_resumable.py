"""A generation is interrupted, forked, put away, killed and resumed, and never loses or changes a token."""

import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import stat
import sys
import time
from pathlib import Path

import pytest
import torch
from hostile import confined
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_memory import reachable

import flashref
from flashref import Generation, Hyena, HyenaConfig, step_linear
from flashref.__main__ import main
from flashref.saved import FORMAT, fingerprint

ENGINES = [*flashref.ENGINES]


def tiny(seed=0, order=2, l_max=300, vocab_size=11) -> Hyena:
    torch.manual_seed(seed)
    config = HyenaConfig(d_model=8, n_layer=2, d_inner=16, vocab_size=vocab_size, l_max=l_max, order=order)
    return Hyena(config).double().eval()


MODEL = tiny()
PROMPT = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
DRAWN = {"temperature": 1.5, "top_k": 7, "seed": 5}


def expected(n=150, model=MODEL, prompt=PROMPT, **how):
    return flashref.generate(model, prompt, n, engine="lazy", progress=False, **(DRAWN | how))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("order", [2, 3])
def test_a_generation_makes_the_tokens_of_generate(engine, order):
    model = tiny(order=order)
    run = Generation(model, PROMPT, 150, engine, **DRAWN)
    made = list(run)
    want = expected(model=model)
    assert torch.equal(run.tokens, want) and torch.equal(torch.stack(made, 1), want[:, 5:])
    assert run.left == 0
    with pytest.raises(StopIteration):
        next(run)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("at", [0, 1, 2, 63, 64, 65, 140, 150])
def test_what_is_resumed_from_a_file_goes_on_with_the_same_tokens(engine, at, tmp_path):
    first = Generation(MODEL, PROMPT, 150, engine, **DRAWN)
    for _ in range(at):
        next(first)
    first.save(tmp_path / "run.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["run.safetensors"]
    second = Generation.resume(tmp_path / "run.safetensors", tiny())
    assert second.left == 150 - at
    assert torch.equal(second.tokens, first.tokens)
    list(second)
    assert torch.equal(second.tokens, expected())
    list(first)  # and it was not disturbed
    assert torch.equal(first.tokens, expected())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("P, n", [(20, 1), (5, 16)])
def test_one_token_more_than_the_filters_hold_is_resumed_too(engine, P, n, tmp_path):
    """P+n = l_max+1: the last token is not fed back."""
    model, prompt = tiny(l_max=20), torch.arange(2 * P).reshape(2, P) % 11
    run = Generation(model, prompt, n, engine, **DRAWN)
    for left in range(n, -1, -1):
        run.save(tmp_path / "run")
        again = Generation.resume(tmp_path / "run", model)
        assert again.left == left and torch.equal(again.tokens, run.tokens)
        next(run, None)
    assert torch.equal(again.tokens, expected(n, model, prompt))


def test_forks_draw_for_themselves_and_share_nothing_that_changes():
    run = Generation(MODEL, PROMPT, 150, "tiled_cpu", **DRAWN)
    for _ in range(70):
        next(run)
    same, other = run.fork(), run.fork(seed=6)
    for _ in range(80):  # in turns
        next(other), next(same), next(run)
    assert torch.equal(run.tokens, expected()) and torch.equal(same.tokens, expected())
    assert torch.equal(other.tokens[:, :75], run.tokens[:, :75]) and not torch.equal(other.tokens, run.tokens)
    run.tokens.zero_()  # a copy
    assert torch.equal(run.tokens, expected())


def test_forks_share_the_weights_that_steps_read(monkeypatch):
    monkeypatch.setattr(step_linear, "TALL", 0)
    run = Generation(MODEL, PROMPT, 150, "tiled_cpu", **DRAWN)
    next(run)
    kept, weights = reachable(run._decoder), {t.untyped_storage().data_ptr() for t in MODEL.state_dict().values()}
    shared = kept.keys() & reachable(run.fork()._decoder).keys() - reachable(run._mixer).keys() - weights
    by_columns = 2 * (8 * 24 + 8 * 16) + 8 * 11  # in_proj and fc1 of two layers, and the head
    assert sum(kept[place].untyped_storage().nbytes() for place in shared) == 8 * (by_columns + 2 * 3 * 24)  # with taps


def test_ctrl_c_leaves_the_tokens_so_far_and_an_object_that_goes_on():
    run = Generation(MODEL, PROMPT, 150, **DRAWN)
    for at in (0, 1, 40, 100):
        step = run._decoder.step if at else run._decoder.prefill
        while run._made < at:
            next(run)

        def pressed(tokens, step=step):
            signal.raise_signal(signal.SIGINT)  # in the middle of the step
            return step(tokens)

        setattr(run._decoder, "step" if at else "prefill", pressed)
        with pytest.raises(KeyboardInterrupt):
            next(run)
        delattr(run._decoder, "step" if at else "prefill")
        assert run._made == at + 1  # the token in progress was finished
        assert torch.equal(run.tokens, expected()[:, : 5 + at + 1])
    list(run)
    assert torch.equal(run.tokens, expected())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_error_in_the_middle_of_a_token_is_not_passed_over(tmp_path):
    run = Generation(MODEL, PROMPT, 150, **DRAWN)
    for _ in range(10):
        next(run)
    run.save(tmp_path / "good")
    run._decoder.step = lambda token: (_ for _ in ()).throw(MemoryError("none left"))
    with pytest.raises(MemoryError):
        next(run)
    del run._decoder.step
    for refused in (lambda: next(run), lambda: run.save(tmp_path / "bad"), run.fork):
        with pytest.raises(RuntimeError, match="unusable: resume the file that was saved last"):
            refused()
    assert torch.equal(run.tokens, expected()[:, :15]) and not (tmp_path / "bad").exists()


@pytest.mark.parametrize("top_k", [None, 3])
def test_logits_that_are_not_finite_are_told_and_no_token_is_drawn(top_k, tmp_path, capfdbinary):
    model, how = tiny(vocab_size=256).float(), {"temperature": 1.0, "top_k": top_k}
    with torch.no_grad():
        model.lm_head.weight.fill_(3e38)  # finite, and no product of two such is
    for tokens in (flashref.stream(model, PROMPT, 5, **how), Generation(model, PROMPT, 5, **how)):
        with pytest.raises(FloatingPointError, match="the logits are not finite, so no token can be drawn"):
            next(tokens)
    assert tokens.broken
    flashref.save(model, tmp_path / "model")
    command = ["generate", "A", "--model", str(tmp_path / "model"), "-n", "5", "--temperature", "1"]
    assert main([*command, "--save", str(tmp_path / "state")]) == 2
    out, err = capfdbinary.readouterr()
    assert out == b"A" and err.startswith(b"flashref: the logits are not finite") and err.count(b"\n") == 1
    assert not (tmp_path / "state").exists()


def test_a_generation_that_overflowed_is_put_away_and_resuming_it_is_refused_with_the_reason(tmp_path):
    model = tiny().float()
    with torch.no_grad():
        for layer in model.backbone.layers:
            layer.mixer.in_proj.bias.fill_(1e30)
    run = Generation(model, PROMPT, 20)  # at temperature 0 a token is chosen, whatever the logits are
    for _ in range(5):
        next(run)
    run.save(tmp_path / "run")
    with pytest.raises(ValueError, match=r"decoder.short_filter_1 holds NaN or infinity: .* overflowed") as error:
        Generation.resume(tmp_path / "run", model)
    assert str(tmp_path / "run") in str(error.value)


def _generate_and_save(path: str, every: int, begun: str) -> None:
    """What the killed process does: take up the file if there was one, and save again and again.

    begun: a folder that says by its existence that there was, and holds a file for as long as one saves.
    """
    torch.set_num_threads(1)
    saving = os.path.join(begun, "saving")
    run = Generation.resume(path, MODEL) if os.path.isdir(begun) else Generation(MODEL, PROMPT, 290, **DRAWN)
    while run.left:
        next(run)
        if run.left % every == 0 or not run.left:
            if os.path.isdir(begun):
                open(saving, "w").close()
            run.save(path)
            os.makedirs(begun, exist_ok=True)
            if os.path.exists(saving):
                os.remove(saving)


def test_fifty_kills_at_random_moments_cost_no_token(tmp_path, tried):
    path, begun, dice = tmp_path / "run.safetensors", tmp_path / "begun", random.Random(0)
    fork = multiprocessing.get_context("fork")
    want = expected(290)
    killed = positions = lost = while_saving = 0
    known = None  # of the file; None until there is one
    while killed < 50:
        if known is None:
            shutil.rmtree(begun, ignore_errors=True)
        worker = fork.Process(target=_generate_and_save, args=(str(path), dice.choice([1, 3, 10]), str(begun)))
        worker.start()
        time.sleep(dice.uniform(0.0, 0.25))
        if worker.exitcode is None:
            os.kill(worker.pid, signal.SIGKILL)
            killed += 1
        worker.join()
        while_saving += (begun / "saving").exists()
        (begun / "saving").unlink(missing_ok=True)
        assert path.exists() or (known is None and not begun.exists()), "a kill cost the file"
        if path.exists():
            run = Generation.resume(path, MODEL)  # the old one or the new one, always whole
            before, known = known, run.tokens.shape[1]
            assert before is None or known >= before, "a kill put an older file back"
            lost += (run.tokens != want[:, :known]).sum().item()
            positions = max(positions, known)
            begun.mkdir(exist_ok=True)
            if not run.left:
                path.unlink()  # begin anew
                known = None
        left = {file.name for file in tmp_path.iterdir()} - {path.name, "begun"}
        assert all(name.startswith(".saving-") for name in left)
    tried("faults", "a generation killed at a random moment while it wrote and saved", killed)
    tried("lost", "tokens that such a kill lost or changed", lost)
    assert lost == 0 and positions > 5
    print(f"{while_saving} of the kills fell into a save")
    assert while_saving >= 5
    shutil.rmtree(begun, ignore_errors=True)
    _generate_and_save(str(path), 300, str(begun))
    assert torch.equal(Generation.resume(path, MODEL).tokens, want)


# The calls of a save that change something on the disk, in their order, and whether the new file is there after each.
WRITE = "flashref.saved.save_file"
CALLS = {"tempfile.mkdtemp": False, WRITE: False, "os.fsync": False, "os.replace": True}
STEPS = [(call, when) for call in CALLS for when in ("before", "after")] + [(WRITE, "in the middle of")]


def _dies_at(call: str, when: str) -> None:
    """Let this process end, as a kill would end it, right before or after a call."""
    module, name = call.rsplit(".", 1)
    home = sys.modules[module]
    real = getattr(home, name)

    def last(*args, **options):
        if when == "in the middle of":
            Path(args[1]).write_bytes(b"half of a file")
        if when == "after":
            real(*args, **options)
        os._exit(9)

    setattr(home, name, last)


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("call, when", STEPS)
def test_a_kill_at_any_step_of_a_save_leaves_the_old_file_or_the_new_one(call, when, there, tmp_path, tried):
    path, run = tmp_path / "run", Generation(MODEL, PROMPT, 150, **DRAWN)
    next(run)
    if there:
        run.save(path)
    old = run.tokens
    next(run)

    def save():
        _dies_at(call, when)
        run.save(path)
        os._exit(0)  # the call did not take place

    worker = multiprocessing.get_context("fork").Process(target=save)
    worker.start()
    worker.join()
    assert worker.exitcode == 9
    new = CALLS[call] and when == "after"
    assert path.exists() == (there or new)
    if path.exists():
        again = Generation.resume(path, MODEL)
        assert torch.equal(again.tokens, run.tokens if new else old)
        list(again)
        assert torch.equal(again.tokens, expected())
    left = {file.name for file in tmp_path.iterdir()} - {"run"}
    assert all(name.startswith(".saving-") for name in left) and len(left) <= 1
    run.save(path)  # what is left over is in nobody's way
    assert torch.equal(Generation.resume(path, MODEL).tokens, run.tokens)
    tried("faults", "a generation killed before, in or after a step of a save")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_step_of_a_save_that_fails_leaves_the_old_file_and_nothing_beside_it(call, error, tmp_path, monkeypatch):
    path, run = tmp_path / "run", Generation(MODEL, PROMPT, 150, **DRAWN)
    run.save(path)
    before = path.read_bytes()
    next(run)

    def fails(*args, **options):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(call, fails)
        with pytest.raises(type(error)) as raised:
            run.save(path)
    if isinstance(error, OSError):
        assert str(raised.value) == f"{path} cannot be written: {error}"
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["run"]
    list(run)
    assert torch.equal(run.tokens, expected())


@pytest.fixture
def saved(tmp_path):
    run = Generation(MODEL, PROMPT, 150, **DRAWN)
    for _ in range(20):
        next(run)
    run.save(tmp_path / "run")
    return tmp_path / "run"


def test_another_model_or_format_is_refused_with_the_reason(saved):
    with pytest.raises(ValueError, match="made with another model: load that one"):
        Generation.resume(saved, tiny(seed=1))
    changed = tiny()
    with torch.no_grad():
        changed.backbone.layers[1].mlp.fc1.bias[3] += 1e-12
    with pytest.raises(ValueError, match="made with another model"):
        Generation.resume(saved, changed)
    with pytest.raises(ValueError, match="made with another model"):
        Generation.resume(saved, tiny().float())
    with safe_open(saved, framework="pt") as file:
        metadata = file.metadata()
    save_file(load_file(saved), saved, metadata | {"format": "flashref generation 99"})
    with pytest.raises(ValueError, match=f"has the format 'flashref generation 99' and this flashref reads '{FORMAT}'"):
        Generation.resume(saved, MODEL)


def test_another_version_of_torch_is_refused_by_name(saved, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.99.0+cu140")
    with pytest.raises(ValueError, match=r"was saved with torch .* and here is torch 2\.99\.0\+cu140") as error:
        Generation.resume(saved, MODEL)
    monkeypatch.undo()
    assert f"{saved} was saved with torch {torch.__version__}" in str(error.value)


def _write_a_weight(model):
    model.backbone.layers[1].mixer.filter_fn.bias[0] += 1e-3


def _replace_a_weight(model):
    model.backbone.ln_f.weight = torch.nn.Parameter(model.backbone.ln_f.weight + 1e-3)


CHANGES = {
    "written": _write_a_weight,
    "data replaced": lambda model: setattr(model.backbone.ln_f.bias, "data", model.backbone.ln_f.bias + 1e-3),
    "replaced": _replace_a_weight,
    "loaded": lambda model: model.load_state_dict(tiny(seed=1).state_dict()),
    "of another dtype": lambda model: model.float(),
    "a buffer": lambda model: model.backbone.layers[0].mixer.filter_fn.modulation.deltas.mul_(1.1),
}


@pytest.mark.parametrize("which", ["begun", "resumed", "forked"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@torch.no_grad()
def test_weights_that_changed_since_the_generation_began_are_refused_when_it_is_saved(change, which, tmp_path):
    """Its filters are the old ones: a file with the new weights' fingerprint would go on with other tokens."""
    model = tiny()
    run = Generation(model, PROMPT, 20, **DRAWN)
    next(run)
    run.save(tmp_path / "run")
    run = {"begun": lambda: run, "forked": run.fork, "resumed": lambda: Generation.resume(tmp_path / "run", model)}[
        which
    ]()
    model.requires_grad_(False).train().eval()  # changes no weight
    next(run)
    run.save(tmp_path / "run")
    before = (tmp_path / "run").read_bytes()
    change(model)
    for _ in range(2):
        with pytest.raises(ValueError, match="the model's weights were changed since this generation began"):
            run.save(tmp_path / "run")
    assert (tmp_path / "run").read_bytes() == before


@torch.no_grad()
def test_weights_that_changed_before_the_first_save_are_noticed_without_a_pass_over_them(tmp_path):
    for change in CHANGES.values():
        model = tiny()
        run = Generation(model, PROMPT, 20, **DRAWN)
        change(model)
        with pytest.raises(ValueError, match="the model's weights were changed since this generation began"):
            run.save(tmp_path / "run")
        assert not list(tmp_path.iterdir())


@torch.no_grad()
def test_weights_changed_behind_torchs_counters_are_noticed_from_the_first_save_on(tmp_path):
    model = tiny()
    run = Generation(model, PROMPT, 20, **DRAWN)
    run.save(tmp_path / "run")
    model.backbone.ln_f.weight.data[0] += 1e-3
    with pytest.raises(ValueError, match="the model's weights were changed since this generation began"):
        run.save(tmp_path / "run")


def test_a_model_of_inference_mode_is_put_away_too(tmp_path):
    with torch.inference_mode():
        model = tiny()
        run = Generation(model, PROMPT, 20, **DRAWN)
        next(run)
        run.save(tmp_path / "run")
        assert torch.equal(Generation.resume(tmp_path / "run", MODEL).tokens, run.tokens)


def test_a_file_that_was_cut_off_or_changed_is_refused(saved, tmp_path):
    whole = saved.read_bytes()
    dice, file = random.Random(1), tmp_path / "other"
    for trial in range(120):
        wrong = bytearray(whole)
        if trial % 3 == 0:
            wrong = wrong[: dice.randrange(len(whole))]
        else:
            for _ in range(dice.choice([1, 1, 5])):
                wrong[dice.randrange(len(whole) if trial % 3 == 1 else 2000)] ^= 1 << dice.randrange(8)
        if wrong == whole:
            continue
        file.write_bytes(bytes(wrong))
        with pytest.raises(ValueError, match=r"is no whole generation|has the format"):
            Generation.resume(file, MODEL)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        Generation.resume(tmp_path / "nothing", MODEL)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        Generation(MODEL, PROMPT, 3).save(tmp_path / "nothing" / "run")


def test_nothing_beside_the_file_is_touched_and_a_link_stays_a_link(saved, tmp_path):
    mine = tmp_path / "run.new"
    mine.write_text("mine")
    real = tmp_path / "elsewhere" / "real"
    real.parent.mkdir()
    (tmp_path / "link").symlink_to(real)  # to a file that is still to be made, and then to one that is there
    run = Generation.resume(saved, MODEL)
    for _ in range(2):
        next(run)
        for place in (saved, tmp_path / "link"):
            run.save(place)
            assert torch.equal(Generation.resume(place, MODEL).tokens, run.tokens)
    assert (tmp_path / "link").is_symlink() and real.is_file()
    assert mine.read_text() == "mine"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["elsewhere", "link", "run", "run.new"]
    assert [file.name for file in real.parent.iterdir()] == ["real"]


def test_a_file_keeps_its_mode_and_a_new_one_has_that_of_any_other(saved, tmp_path):
    run = Generation.resume(saved, MODEL)
    for mode in (0o600, 0o664, 0o444):
        saved.chmod(mode)
        run.save(saved)
        assert stat.S_IMODE(saved.stat().st_mode) == mode
    (tmp_path / "any").touch()
    run.save(tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "any").stat().st_mode


def _with_a_full_disk(job):
    """What a job returns, in a child that can write no file of more than a few kilobytes."""

    def bounded():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        return job()

    return confined(bounded)


def test_a_file_that_cannot_be_written_is_named_and_the_old_one_is_left(saved, tmp_path, tried):
    run, before = Generation.resume(saved, MODEL), saved.read_bytes()
    next(run)
    error = _with_a_full_disk(lambda: run.save(saved))
    assert isinstance(error, OSError) and str(error).startswith(f"{saved} cannot be written: "), error
    assert saved.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["run"]
    longest = tmp_path / ("n" * 255)
    run.save(longest)
    assert torch.equal(Generation.resume(longest, MODEL).tokens, run.tokens)
    with pytest.raises(OSError, match="n" * 256):
        run.save(tmp_path / ("n" * 256))
    tried("faults", "a disk that is full, or a name that is too long, when a generation is put away", 2)


@pytest.mark.parametrize("interrupted", [False, True])
def test_the_command_says_that_a_file_cannot_be_written_after_all_the_text(interrupted, tmp_path, monkeypatch, tried):
    flashref.save(tiny(vocab_size=256), tmp_path / "model")
    real, made = Generation.__next__, []

    def pressed(run):
        if interrupted and len(made) == 9:
            raise KeyboardInterrupt
        made.append(real(run))
        return made[-1]

    monkeypatch.setattr(Generation, "__next__", pressed)
    command = ["generate", "A", "--model", str(tmp_path / "model"), "-n", "20", "--save", str(tmp_path / "state")]

    def job():
        sys.stdout, sys.stderr = io.TextIOWrapper(io.BytesIO()), io.StringIO()
        status = main(command)
        return status, sys.stdout.buffer.getvalue(), sys.stderr.getvalue()

    status, out, err = _with_a_full_disk(job)
    assert len(out) == 1 + (9 if interrupted else 20 + 1)
    said = err.splitlines()
    assert said[0].startswith(f"flashref: {tmp_path / 'state'} cannot be written: ")
    assert said[1:] == (["", "flashref: stopped"] if interrupted else []) and status == (130 if interrupted else 2)
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
    tried("faults", "a disk that is full, or a name that is too long, when a generation is put away")


def test_the_command_goes_on_with_one_sequence_only(tmp_path, capfdbinary):
    model = tiny(vocab_size=256)
    flashref.save(model, tmp_path / "model")
    Generation(model, torch.zeros(3, 2, dtype=torch.long), 5).save(tmp_path / "state")
    assert main(["generate", "--model", str(tmp_path / "model"), "--resume", str(tmp_path / "state")]) == 2
    out, err = capfdbinary.readouterr()
    assert out == b"" and err.count(b"\n") == 1
    assert err.startswith(f"flashref: --resume: {tmp_path / 'state'} holds 3 sequences".encode())


def test_an_engine_without_a_name_cannot_be_put_away(tmp_path):
    class Mine(flashref.Lazy):
        name = "mine"

    run = Generation(MODEL, PROMPT, 3)
    run._mixer = Mine(MODEL.filters(7).detach(), 2)
    with pytest.raises(ValueError, match="only an engine that has a name"):
        run.save(tmp_path / "run")


def test_the_file_says_what_it_is(saved):
    with safe_open(saved, framework="pt") as file:
        metadata = file.metadata()
    about = json.loads(metadata["about"])
    assert metadata["format"] == FORMAT and about["engine"] == "tiled_cpu" and about["settings"]["base"] == 64
    assert about["model"] == fingerprint(MODEL) and about["torch"] == torch.__version__
    assert load_file(saved)["tokens"].shape == (2, 25)
