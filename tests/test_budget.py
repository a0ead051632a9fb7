"""What is refused because it does not fit, in which words, and that what fits by the plan runs in so much memory."""

import gc
import os
import subprocess
import sys

import pytest
import torch
from allocations import allocations

import flashref
from flashref import ENGINES, Generation, Hyena, HyenaConfig, checked, engines, generate, make_mixer, stream
from flashref import __main__ as command_line
from flashref import budget as budget_module
from flashref.__main__ import main
from flashref.budget import available, generation_memory
from flashref.memory import CALLS, memory_needed, readable
from flashref.naive_gpu import EagerGPU, LazyGPU

KIB = 1024


@pytest.fixture
def free(monkeypatch):
    """Pretend that so many bytes are free."""

    def pretend(size: int) -> None:
        for module in (budget_module, command_line):
            monkeypatch.setattr(module, "available", lambda device="cpu": size)

    return pretend


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Hyena(HyenaConfig(d_model=16, n_layer=2, d_inner=16, vocab_size=12, l_max=4096, filter_order=8))


@pytest.fixture
def nothing_made(monkeypatch):
    """No engine may be made, nor its filters: what is refused is refused before."""

    def made(*_, **__):
        raise AssertionError("something was made")

    monkeypatch.setattr(Hyena, "filters", made)
    for engine in ENGINES.values():
        monkeypatch.setattr(engine, "__init__", made)


PLAIN_AND_CHECKED = [lambda engine: engine, checked, lambda engine: checked(checked(engine))]


@pytest.mark.parametrize("form", PLAIN_AND_CHECKED)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_mixer_is_made_where_it_just_fits_and_refused_with_one_byte_less(engine, form, free):
    filters = torch.ones(2, 8, 3000)
    need = memory_needed(engine, 2, 8, 3000, 2).total
    free(need)
    make_mixer(form(engine), filters, 2)
    free(need - 1)
    with pytest.raises(MemoryError, match=f"engine '{engine}' with M = 2, D = 8, L = 3000, B = 2 needs"):
        make_mixer(form(engine), filters, 2)


@pytest.mark.parametrize("form", PLAIN_AND_CHECKED)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("start", [generate, stream, Generation])
def test_a_generation_starts_where_it_just_fits_and_is_refused_with_one_byte_less(engine, form, start, free, model):
    prompt = torch.ones(2, 100, dtype=torch.long)
    need = generation_memory(model, 100, 40, engine, 2)
    free(need.total - need.weights)
    run = start(model, prompt, 40, form(engine))
    assert len(list(run)) == (2 if start is generate else 40)
    free(need.total - need.weights - 1)
    with pytest.raises(MemoryError, match="with a prompt of 100 tokens, n = 40, B = 2 needs"):
        start(model, prompt, 40, form(engine))


def test_nothing_is_made_before_the_refusal(free, model, nothing_made):
    free(1000 * KIB)
    for start in (generate, stream, Generation):
        with pytest.raises(MemoryError):
            start(model, torch.ones(1, 10, dtype=torch.long), 4000)
    with pytest.raises(MemoryError):
        make_mixer("lazy", torch.ones(1, 1, 1).expand(8, 1024, 2**20))  # 4 bytes are there, 32 GiB would be copied


def test_what_the_refusal_offers_fits_and_the_next_larger_does_not(free, model):
    prompt = torch.ones(3, 100, dtype=torch.long)
    need = generation_memory(model, 100, 3000, "tiled_cpu", 3)
    size = (need.total - need.weights) * 3 // 4
    free(size)
    with pytest.raises(MemoryError) as refused:
        stream(model, prompt, 3000, "tiled_cpu")
    said = str(refused.value)
    asked, left = readable(need.total - need.weights), readable(size)
    assert f"needs {asked} more and {left} are free" in said
    largest = max(need.parts, key=need.parts.get)
    assert f"{readable(need.parts[largest])} of {largest}" in said and said.count("\n") == 0
    for engine in ("lazy", "eager", "bounded", "epoched"):
        other = generation_memory(model, 100, 3000, engine, 3)
        assert (f'"{engine}"' in said) == (other.total - other.weights <= size), engine
    most = int(said.partition("n of at most ")[2].partition(";")[0])
    stream(model, prompt, most, "tiled_cpu")
    with pytest.raises(MemoryError):
        stream(model, prompt, most + 1, "tiled_cpu")
    most = int(said.partition("at most ")[2].partition("at most ")[2].partition(" sequences")[0])
    stream(model, prompt[:most], 3000, "tiled_cpu")
    with pytest.raises(MemoryError):
        stream(model, prompt[: most + 1], 3000, "tiled_cpu")


def test_a_mixer_that_does_not_fit_is_offered_shorter_filters_fewer_sequences_and_float32(free):
    filters = torch.ones(2, 8, 3000, dtype=torch.float64)
    free(memory_needed("eager", 2, 8, 3000, 4, dtype=torch.float32).total)
    with pytest.raises(MemoryError, match=r"filters of at most \d+ lags; batch_size of at most 1; filters in float32"):
        make_mixer("eager", filters, 4)
    make_mixer("eager", filters.float(), 4)
    make_mixer("eager", filters, 1)
    free(10)
    with pytest.raises(MemoryError, match="Free some memory, or take a smaller model"):
        make_mixer("eager", filters, 4)


OTHER_FORMS = [*((checked(engine), engine) for engine in ENGINES), (LazyGPU, "lazy"), (EagerGPU, "eager")]


@pytest.mark.parametrize("made_by, engine", [*((engine, engine) for engine in ENGINES), *OTHER_FORMS])
def test_a_prompt_after_which_it_does_not_fit_is_refused_and_the_engine_is_as_it_was(made_by, engine, free):
    mixer = make_mixer(made_by, torch.ones(1, 8, 2000))
    free(0)
    with pytest.raises(MemoryError, match="with a prompt of 1500 positions needs"):
        mixer.prefill(0, torch.ones(1, 8, 1500))
    free(2**30)
    z = mixer.prefill(0, torch.ones(1, 8, 1500))
    assert torch.allclose(z[0, 0], torch.arange(1.0, 1501), atol=0.1)
    mixer.reset()
    need = memory_needed(engine, 1, 8, 2000, 1, 1500)
    free(need.total - 4 * 8 * 2000 - budget_module.bytes_held(mixer))  # what the one before left is not asked for twice
    mixer.prefill(0, torch.ones(1, 8, 1500))


def test_a_saved_generation_that_no_longer_fits_is_refused(free, model, tmp_path):
    run = Generation(model, torch.ones(5, dtype=torch.long), 2000)
    next(run)
    run.save(tmp_path / "run")
    free(100 * KIB)
    with pytest.raises(MemoryError, match="Free some memory"):
        Generation.resume(tmp_path / "run", model)
    free(2**30)
    assert torch.equal(Generation.resume(tmp_path / "run", model).tokens, run.tokens)


def test_an_engine_of_the_callers_is_not_judged(free, model):
    free(0)

    class Own(flashref.Lazy):
        pass

    for engine in (Own, checked(Own)):
        tokens = generate(model, torch.ones(4, dtype=torch.long), 3, engine=engine)
        assert tokens.shape == (1, 7)


@pytest.mark.parametrize("engine", ["lazy", "eager", "tiled_gpu"])
def test_what_graphs_decode_in_blocks_is_counted_in_blocks(engine, model, monkeypatch):
    """A decoder's own tensors as test_memory_formulas.py counts them, and a row of noise more."""
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    tokens_and_noise = 8 * (2 * 65 + 65 * 2 * 12)
    layers = 2 * 4 * ((64 + 2) * 2 * 48 + 3 * 48)
    assert budget_module._decoder(model, engine, 2, 64) == (tokens_and_noise + layers, 0)


@pytest.mark.parametrize("kernels", [False, True])
def test_on_cuda_the_naive_engines_take_their_graphs_form_only_where_there_are_kernels(kernels, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(engines, "has_kernels", lambda device: kernels)
    for name, plain, of_graphs in (("lazy", flashref.Lazy, LazyGPU), ("eager", flashref.Eager, EagerGPU)):
        assert type(engines.make_unasked(name, torch.ones(1, 2, 50), 1)) is (of_graphs if kernels else plain)


def test_what_is_free_is_the_least_of_what_the_system_the_groups_and_the_process_have(tmp_path, monkeypatch):
    monkeypatch.setattr(budget_module.resource, "getrlimit", lambda _: (budget_module.resource.RLIM_INFINITY,) * 2)
    monkeypatch.setattr(budget_module, "_left_in_control_groups", lambda: [])
    system = available()
    assert 0 < system <= budget_module.psutil.virtual_memory().total
    monkeypatch.setattr(budget_module, "_left_in_control_groups", lambda: [system // 2, 12345])
    assert available() == 12345
    monkeypatch.setattr(budget_module.resource, "getrlimit", lambda _: (1, 1))
    assert available() == 0


def test_the_tightest_control_group_above_the_process_counts_less_its_idle_cache(tmp_path):
    left = budget_module._left_in_control_groups
    groups, root = tmp_path / "cgroup", tmp_path / "fs"
    inner = root / "class" / "student"
    inner.mkdir(parents=True)
    groups.write_text("5:devices:/\n0::/class/student\n")
    assert left(groups, root) == []  # no memory controller
    for place, limit in ((inner, "max"), (root / "class", "1000000")):
        (place / "memory.max").write_text(limit + "\n")
        (place / "memory.current").write_text("700000\n")
        (place / "memory.stat").write_text("anon 500000\ninactive_file 100000\nactive_file 1\n")
    assert left(groups, root) == [400000]
    (inner / "memory.high").write_text("max\n")
    (root / "class" / "memory.high").write_text("900000\n")  # above it the group is slowed down to a crawl
    assert left(groups, root) == [300000]
    (inner / "memory.high").write_text("750000\n")
    assert left(groups, root) == [150000, 300000]
    for without in ("anon 500000\n", "", None):  # a kernel that does not tell: then nothing of it is free
        (inner / "memory.stat").write_text(without) if without is not None else (inner / "memory.stat").unlink()
        assert left(groups, root) == [50000, 300000]
    groups.write_text("4:memory:/x\n")
    assert left(groups, root) == [] and left(tmp_path / "none", root) == []


def test_the_command_prints_every_engine_and_what_is_free(free, capsys):
    free(7 * 2**20)
    assert main(["memory", "--length", "8192", "--mixers", "2", "--channels", "32"]) == 0
    out = capsys.readouterr().out
    assert "M = 2, D = 32, L = 8192, B = 1, a prompt of 0 positions, float32" in out and "7.00 MiB are free" in out
    rows = {line.split()[0]: line.split()[-1] for line in out.splitlines()[4:9]}
    assert list(rows) == ["lazy", "eager", "tiled_cpu", "bounded", "epoched"]
    for engine, fits in rows.items():
        assert fits == ("yes" if memory_needed(engine, 2, 32, 8192).total <= 7 * 2**20 else "no")
    assert set(rows.values()) == {"yes", "no"}


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", "cpu:1", "meta", ""])
def test_the_command_refuses_a_device_that_is_not_here(device, capsys):
    assert main(["memory", "--device", device]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("flashref: --device must be one that is here, cpu") and err.count("\n") == 1


def test_the_command_counts_a_model(model, tmp_path, capsys):
    flashref.save(model, tmp_path)
    assert main(["memory", "--model", str(tmp_path), "--length", "1000", "--prompt", "10"]) == 0
    out = capsys.readouterr().out
    assert "weights" in out and "M = 2, D = 16, L = 1000" in out
    need = generation_memory(model, 10, 991, "eager", 1)
    assert readable(need.total) in out
    for wrong in (["--prompt", "0"], ["--length", "5", "--prompt", "9"]):
        assert main(["memory", "--model", str(tmp_path), *wrong]) == 2
    assert capsys.readouterr().err.count("flashref: ") == 2


def test_generate_says_in_one_line_that_it_does_not_fit(free, model, tmp_path, capfd):
    flashref.save(model, tmp_path)
    free(KIB)
    assert main(["generate", "ACGT", "--model", str(tmp_path), "-n", "100"]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("flashref: engine") and err.count("\n") == 1


@pytest.mark.parametrize("direct_up_to", [16, 2**20])  # the largest tiles by FFT, and as direct sums
@pytest.mark.parametrize("M, D, L, B", [(2, 128, 2048, 2), (1, 64, 1500, 3)])
@pytest.mark.parametrize("engine", ["tiled_cpu", "tiled_gpu", "bounded", "epoched"])
def test_the_peak_of_tiles_that_no_allowance_hides_is_planned_to_2_percent(engine, M, D, L, B, direct_up_to, tried):
    """Large enough that a tile's temporaries are many times what is allowed for a step's small tensors."""
    own = {"base": 64, "direct_up_to": direct_up_to}
    need = memory_needed(engine, M, D, L, B, **own)
    filters, x_t = torch.ones(M, D, L), torch.ones(B, D)
    gc.collect()
    with allocations() as counted:
        mixer = ENGINES[engine](filters, B, **own)
        for _ in range(L):
            for m in range(M):
                mixer.step(m, x_t)
            mixer.advance()
    assert counted.peak <= need.total - need.views
    assert need.total - need.views - CALLS <= 1.02 * counted.peak
    tried("cases", "memory of an engine, computed and counted")


DEEP = [("lazy", 0), ("bounded", 0), ("epoched", 100), ("tiled_cpu", 3000)]
PROGRAM = """
import resource, sys
import psutil, torch
from flashref import make_mixer
from flashref.memory import memory_needed
torch.set_num_threads(1)
engine = sys.argv[1]
M, D, L, P = 2, 256, 16384, int(sys.argv[2])
filters, x = torch.ones(M, D, L), torch.ones(1, D, P)
small = make_mixer(engine, filters[:1, :2, :300].clone())  # code and pools are there before memory is limited
for _ in range(300):
    small.step(0, torch.ones(1, 2))
    small.advance()
need = memory_needed(engine, M, D, L, 1, P)


def limit(part):
    size = psutil.Process().memory_info().vms + int(part * need.total)
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))


def run():
    mixer = make_mixer(engine, filters)
    for m in range(M if P else 0):
        mixer.prefill(m, x)
    rows = torch.ones(1, D)
    for _ in range(P, L if "--all" in sys.argv else P + 2):
        for m in range(M):
            mixer.step(m, rows)
        mixer.advance()


limit(0.8)
try:
    run()
except MemoryError as error:
    print(error)
limit(1.1)
run()
print("ran")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space are Linux's")
@pytest.mark.parametrize(
    "engine, P",
    [("tiled_cpu", 0), ("eager", 8192), *(pytest.param(*run, marks=pytest.mark.deep) for run in DEEP)],
)
def test_what_is_planned_runs_in_so_much_memory_and_is_refused_with_less(engine, P, tried):
    """The address space is limited to what the process has, the plan and a tenth: with a fifth less it is refused."""
    more = ["--all"] if engine in ("tiled_cpu", "epoched") else []  # every tile, and so every spectrum
    command = [sys.executable, "-c", PROGRAM, engine, str(P), *more]
    at_once = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # glibc gives back what is freed, and reuses no holes
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, env=at_once)
    assert ran.returncode == 0, ran.stderr[-500:]
    refused, done = ran.stdout.splitlines()
    assert refused.startswith(f"engine '{engine}' with ") and done == "ran"
    tried("faults", "memory limited below what is planned")
    tried("cases", "memory limited to what is planned")
