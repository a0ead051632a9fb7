"""A model split over processes: the same tokens, nothing said between mixers, and no rank that waits for a dead one."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from on_ranks import small
from test_engines import ENGINES
from test_generation import VOCABULARY, make
from test_hyena import model_written_out
from test_project import ROOT
from truth import assert_close, causal_sum

import flashref
from flashref import generate, load, parallel
from flashref.__main__ import main
from flashref.generation import sample
from flashref.text import encode

LOOPBACK = "127.0.0.1"
PROMPT, N = "def main():\n", 24
SAMPLED = {"temperature": 4.0, "top_k": 7, "seed": 5}


def torchrun(R: int, *command: str) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", LOOPBACK]
    return [*launcher, "--nproc-per-node", str(R), *command]


def environment(**more: str) -> dict[str, str]:
    """One thread per process, connected over the loopback interface alone."""
    here = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "FLASHREF_CALIBRATION": ""}
    here["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
    return os.environ | here | more


def cases(R: int) -> list[dict]:
    """Every engine, greedy and drawn on 2 processes, one of both on 4, which two cores run slowly; a trained model."""
    found = []
    for i, engine in enumerate(ENGINES):
        B, P = 1 + i % 3, (1, 2, 5, 9)[i % 4]
        prompt = torch.randint(VOCABULARY, (B, P), generator=torch.Generator().manual_seed(i)).tolist()
        case = {"model": f"order_{2 + i % 3}", "engine": engine, "prompt": prompt, "n": 60 // R}
        both = [case | {"sampling": {}}, case | {"sampling": SAMPLED}]
        found += both if R == 2 else both[i % 2 : i % 2 + 1]
    trained = {"model": "trained", "engine": "tiled_cpu", "prompt": [list(PROMPT.encode())], "n": 12}
    return [*found, trained | {"sampling": {"temperature": 0.8, "seed": 3}}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models of all cases, D = 8, in float64, and the trained one in float32."""
    folder = tmp_path_factory.mktemp("ranks")
    for order in (2, 3, 4):
        flashref.save(make(order, order, d_model=8, d_inner=12), folder / f"order_{order}")
    flashref.save(make(3, 9, d_model=8, d_inner=12), folder / "mixers")
    (folder / "trained").symlink_to(flashref.PRETRAINED)
    torch.save(
        torch.randn(4, 2, 8, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64), folder / "x.pt"
    )
    return folder


@pytest.fixture(scope="module", params=[2, 4])
def ran(request: pytest.FixtureRequest, folder: Path) -> SimpleNamespace:
    """All cases on R processes, started once."""
    R = request.param
    (folder / "cases.json").write_text(json.dumps(cases(R)))
    command = torchrun(R, str(Path(__file__).with_name("on_ranks.py")), str(folder))
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ranks = [torch.load(folder / f"rank_{rank}_of_{R}.pt") for rank in range(R)]
    return SimpleNamespace(R=R, cases=cases(R), ranks=ranks)


def test_split_channels_generate_the_tokens_and_logits_of_the_definition(ran, folder, tried):
    for i, case in enumerate(ran.cases[:-1]):
        model, sampling = load(folder / case["model"]), case["sampling"]
        P = len(case["prompt"][0])
        for rank in ran.ranks:
            text = rank["texts"][i]
            true = torch.stack([model_written_out(model, row[:-1]) for row in text["tokens"]])[:, P - 1 :, :VOCABULARY]
            assert_close(text["logits"], true, 1e-10)
            draws = torch.Generator().manual_seed(sampling.get("seed", 0))
            drawn = [
                sample(row, sampling.get("temperature", 0), sampling.get("top_k"), draws) for row in true.unbind(1)
            ]
            assert torch.equal(text["tokens"][:, P:], torch.stack(drawn, dim=1))
        tokens = text["tokens"][:, P:]
        assert len(tokens.unique()) > 2, "a model that repeats one token would check nothing"
        tried("cases", "tokens from a model whose channels are split over 2 or 4 processes", tokens.numel())


def test_split_channels_generate_the_tokens_of_one_process(ran, folder):
    for i, case in enumerate(ran.cases):
        model = load(folder / case["model"])
        engine = small(case["engine"])
        alone = generate(model, torch.tensor(case["prompt"]), case["n"], engine=engine, **case["sampling"])
        for rank in ran.ranks:
            assert torch.equal(rank["texts"][i]["tokens"], alone)
            assert torch.equal(rank["texts"][i]["logits"], ran.ranks[0]["texts"][i]["logits"]), "to the last bit"


def test_the_trained_model_in_float32_has_the_logits_of_float64(ran, folder):
    with torch.no_grad():
        model, P = load(folder / "trained").double(), len(PROMPT)
        for rank in ran.ranks:
            true = model(rank["texts"][-1]["tokens"][:, :-1])[:, P - 1 :]
            assert_close(rank["texts"][-1]["logits"], true, 1e-4)


def test_a_token_takes_two_all_reduces_per_layer_and_nothing_else(ran, folder):
    for i, case in enumerate(ran.cases):
        layers = load(folder / case["model"]).config.n_layer
        for rank in ran.ranks:
            assert rank["texts"][i]["prompt"] == rank["texts"][i]["token"] == {"gloo:all_reduce": 2 * layers}


def test_the_mixers_say_nothing_to_each_other_and_are_right(ran, folder):
    x = torch.load(folder / "x.pt")
    with torch.no_grad():
        filters = load(folder / "mixers").filters(x.shape[-1])
    true = torch.stack([causal_sum(x_m, rho) for x_m, rho in zip(x, filters, strict=True)])
    for engine in ENGINES:
        found = [rank["mixers"][engine] for rank in ran.ranks]
        assert_close(torch.cat([part["z"] for part in found], dim=2), true, 1e-10)
        assert [part["counts"] for part in found] == [{}] * ran.R
    assert all(rank["control"] == {"gloo:all_gather": 1} for rank in ran.ranks), "what is counted is seen"


def test_a_rank_holds_its_part_of_the_weights_and_no_more(ran, folder):
    layer = load(folder / "mixers").backbone.layers[0]
    for name, p in layer.named_parameters():
        # The filter network's inner layers, norms and the biases of what is summed are small, and whole on every rank.
        last = f"{len(layer.mixer.filter_fn.implicit_filter) - 1}.weight"
        inner = "implicit_filter" in name and not name.endswith(last)
        whole = inner or name.startswith("norm") or name in ("mixer.out_proj.bias", "mlp.fc2.bias")
        for rank in ran.ranks:
            assert rank["memory"][name] == p.numel() * p.element_size() // (1 if whole else ran.R), name


def test_ranks_that_made_other_tokens_are_named(ran):
    others = [rank for rank in range(ran.R) if rank % 3]
    words = f"ranks {others} made other tokens than rank 0: do all ranks have the same seed and weights?"
    assert [rank["refusal"] for rank in ran.ranks] == [words] * ran.R


@pytest.mark.parametrize("sizes, words", [((6, 12), "d_model = 6, 4 ranks"), ((8, 10), "d_inner = 10, 4 ranks")])
def test_sizes_that_the_ranks_do_not_divide_are_refused_and_nothing_changes(sizes, words):
    model, whole = (make(3, d_model=sizes[0], d_inner=sizes[1]) for _ in range(2))
    with pytest.raises(ValueError, match=f"must be divisible by the ranks, got {words}"):
        parallel.split(model, SimpleNamespace(size=lambda: 4))
    for (name, p), (_, q) in zip(model.state_dict().items(), whole.state_dict().items(), strict=True):
        assert torch.equal(p, q), name


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


def test_a_generation_of_a_model_that_is_split_cannot_be_put_away(tmp_path, monkeypatch):
    """On one rank: there the model is split as on several, and each of them holds a part of the generation."""
    where = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": LOOPBACK, "MASTER_PORT": str(free_port())}
    for name, value in (environment() | where).items():
        monkeypatch.setenv(name, value)
    whole = make(2, d_model=8, d_inner=12)
    prompt = torch.tensor([[3, 1, 4]])
    run = flashref.Generation(whole, prompt, 5)
    run.save(tmp_path / "whole")
    with parallel.ranks() as mesh:
        model = parallel.split(make(2, d_model=8, d_inner=12), mesh)
        part = flashref.Generation(model, prompt, 5)
        next(part)
        with pytest.raises(ValueError, match=r"each rank of a model .* holds a part only"):
            part.save(tmp_path / "part")
        with pytest.raises(ValueError, match=r"each rank of a model .* holds a part only"):
            flashref.Generation.resume(tmp_path / "whole", model)
        list(part), list(run)  # it stays good
        assert torch.equal(part.tokens, run.tokens)
    assert [file.name for file in tmp_path.iterdir()] == ["whole"]


def test_processes_that_torchrun_did_not_start_are_refused(monkeypatch, capsys):
    for name in parallel.STARTED:
        monkeypatch.delenv(name, raising=False)
    assert main(["parallel", "x"]) == 2
    assert "torchrun --standalone --nproc-per-node 2 -m flashref parallel PROMPT" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["x", "--measure"]])
def test_the_command_wants_a_prompt_or_to_measure(arguments, capsys):
    assert main(["parallel", *arguments]) == 2
    assert "give a prompt, or --measure" in capsys.readouterr().err


def test_the_command_writes_the_text_of_one_process_once(capfdbinary):
    sampling = {"temperature": 0.8, "seed": 7}
    options = ["-n", str(N), "--temperature", "0.8", "--seed", "7"]
    command = torchrun(2, "-m", "flashref", "parallel", PROMPT, *options)
    done = subprocess.run(command, env=environment(), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    model = load(flashref.PRETRAINED)
    assert done.stdout == bytes(generate(model, encode(PROMPT.encode(), 256), N, **sampling)[0].tolist()) + b"\n"


def test_the_table_in_the_page_is_what_its_code_prints(capsys):
    page = (ROOT / "docs" / "many_devices.md").read_text()
    (code,), table = (
        re.findall(r"```python\n(.*?)```", page, re.DOTALL),
        re.findall(r"```text\n(.*?)```", page, re.DOTALL)[-1],
    )
    exec(code, {})
    assert capsys.readouterr().out == table


# A rank that dies. ---------------------------------------------------------------------------------------------------


@pytest.fixture
def endless(tmp_path: Path) -> list[str]:
    """The command's arguments for a text that no test waits for."""
    torch.manual_seed(0)
    sizes = {"d_model": 12, "n_layer": 2, "d_inner": 24, "vocab_size": 256, "l_max": 2**17, "filter_order": 8}
    flashref.save(flashref.Hyena(flashref.HyenaConfig(**sizes)), tmp_path / "model")
    return [
        "-m",
        "flashref",
        "parallel",
        "x",
        "--model",
        str(tmp_path / "model"),
        "-n",
        "100000",
        "--engine",
        "tiled_cpu",
    ]


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts processes, and ends those that a failed test leaves."""
    all_of_them = []

    def start(command: list[str], **more: str) -> subprocess.Popen:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        all_of_them.append(subprocess.Popen(command, env=environment(**more), **pipes))
        return all_of_them[-1]

    yield start
    for process in all_of_them:
        process.kill()
        process.communicate()


def children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    return sorted(int(child) for child, parent in (line.split() for line in listed.splitlines()) if int(parent) == pid)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_rank_that_is_killed_ends_torchrun_and_the_others_with_a_message(endless, started, tried):
    agent = started(torchrun(3, *endless))
    assert agent.stdout.read(20), agent.stderr.read()  # rank 0 has written some: all are in the middle of it
    ranks = children(agent.pid)
    assert len(ranks) == 3
    os.kill(ranks[1], signal.SIGKILL)
    killed = time.monotonic()
    _, said = agent.communicate(timeout=60)  # a few seconds, on a machine that is not overloaded
    print(f"ended after {time.monotonic() - killed:.1f} s")
    assert agent.returncode == 1
    assert f"Signal 9 (SIGKILL) received by PID {ranks[1]}" in said.decode()
    assert not [pid for pid in ranks if alive(pid)]
    tried("faults", "a rank of a split model killed")


def test_without_torchrun_each_rank_says_itself_that_another_is_gone(endless, started, tried):
    port = free_port()
    where = {"MASTER_ADDR": LOOPBACK, "MASTER_PORT": str(port), "WORLD_SIZE": "3"}
    ranks = [started([sys.executable, *endless], RANK=str(rank), **where) for rank in range(3)]
    assert ranks[0].stdout.read(20), ranks[0].stderr.read()
    ranks[1].kill()
    killed = time.monotonic()
    for rank in (0, 2):
        _, said = ranks[rank].communicate(timeout=60)
        assert ranks[rank].returncode == 1
        assert f"flashref: rank {rank} of 3 cannot go on: " in said.decode()
        assert "Timed out" not in said.decode(), "it should not have to wait"
    print(f"ended after {time.monotonic() - killed:.1f} s")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((LOOPBACK, port))
    tried("faults", "a rank of a split model killed")


@pytest.mark.deep
def test_a_rank_that_hangs_is_waited_for_no_longer_than_the_timeout(started, tried):
    code = """if True:
        from flashref import parallel
        with parallel.ranks(timeout=20):
            print("in the middle", flush=True)
            while True:
                parallel.check_same(parallel.torch.zeros(1, 1))
    """
    where = {"MASTER_ADDR": LOOPBACK, "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    ranks = [started([sys.executable, "-c", code], RANK=str(rank), **where) for rank in range(2)]
    for rank in ranks:
        assert rank.stdout.readline(), rank.stderr.read()
    os.kill(ranks[1].pid, signal.SIGSTOP)
    _, said = ranks[0].communicate(timeout=600)
    assert ranks[0].returncode == 1 and "Timed out" in said.decode()
    tried("faults", "a rank of a split model that hangs")
