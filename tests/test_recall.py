"""The recall task: its sequences, how answers are counted, and the trained model that comes with it."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex

import flashref
from flashref import figures
from flashref.figures.style import PARTS
from flashref.recall import PRETRAINED_RECALL, Task, accuracy, sequences
from flashref.recall_training import FRESH, Settings

SMALL = Task(keys=2, values=3, page=8, back=2)

tasks = st.builds(
    lambda keys, values, spare, back: Task(keys, values, 4 * keys + spare, back),
    *(st.integers(1, 5), st.integers(1, 6), st.integers(0, 5), st.integers(1, 4)),
)


def small_model(task, l_max=64, seed=0):
    torch.manual_seed(seed)
    config = flashref.HyenaConfig(d_model=8, n_layer=2, d_inner=8, vocab_size=task.vocab_size, l_max=l_max)
    model = flashref.Hyena(config).double()
    with torch.no_grad():  # the answers of a new model hardly depend on what it reads
        for parameter in model.parameters():
            parameter *= 3
    return model


def read(task, tokens):
    """A sequence as a reader takes it: for each page its questions with answers, and its pairs, with their places."""
    pages = []
    for start in range(0, len(tokens), task.page):
        page = [task.name(token) for token in tokens[start : start + task.page].tolist()]
        asked = {page[i][0]: (page[i + 1], start + i) for i in range(len(page)) if page[i].endswith("?")}
        pairs = {page[i]: (page[i + 1], start + i + 1) for i in range(len(page)) if page[i].isalpha()}
        assert page.count("·") == task.page - 4 * task.keys
        assert len(asked) == len(pairs) == task.keys  # each key once as a question, once in a pair
        pages.append((asked, pairs))
    return pages


@given(tasks, st.integers(1, 6), st.integers(0, 2**40))
def test_every_question_that_counts_has_exactly_one_right_answer_which_stands_within_the_lags(task, pages, seed):
    tokens, count = sequences(task, 2, pages, seed)
    assert tokens.shape == count.shape == (2, task.page * pages)
    for row, counted in zip(tokens, count, strict=True):
        found = read(task, row)
        places = []
        for p in range(task.back, pages):
            for key, (answer, place) in found[p][0].items():
                value, written = found[p - task.back][1][key]
                assert answer == value and place - written in task.lags
                places.append(place)
        assert sorted(places) == counted.nonzero()[:, 0].tolist()


def test_the_lags_are_those_that_occur_and_no_others():
    tokens, _ = sequences(SMALL, 200, 3, 0)
    seen = set()
    for row in tokens:
        pages = read(SMALL, row)
        seen |= {place - pages[0][1][key][1] for key, (_, place) in pages[2][0].items()}
    assert (min(seen), max(seen)) == (SMALL.lags[0], SMALL.lags[-1])
    task = Task()
    assert (task.distance, task.lags[0], task.lags[-1]) == (2048, 2033, 2045)


def test_nothing_but_the_page_that_is_meant_tells_the_answer():
    """Of 4000 answers a third agrees with the same key on any other page, or with the answer next to it."""
    task = Task(keys=2, values=3, page=8, back=3)
    hits, answers = {}, 0
    for row in sequences(task, 2000, 6, 1)[0]:
        pages = read(task, row)
        asked = pages[5][0]
        for key, (answer, _) in asked.items():
            answers += 1
            (other,) = (value for name, (value, _) in asked.items() if name != key)
            hits["the other answer"] = hits.get("the other answer", 0) + (answer == other)
            for p in (0, 1, 2, 3, 4, 5):
                hits[p] = hits.get(p, 0) + (answer == pages[p][1][key][0])
                if p < 5:
                    hits[p, "?"] = hits.get((p, "?"), 0) + (answer == pages[p][0][key][0])
    assert answers == 4000 and hits.pop(2) == answers  # page 2 is the one that is meant
    spread = (answers * (1 / 3) * (2 / 3)) ** 0.5
    assert all(abs(hit - answers / 3) < 5 * spread for hit in hits.values()), hits


def test_the_same_seed_gives_the_same_sequences_and_another_seed_others():
    first, again, other = (sequences(SMALL, 3, 4, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert len({tuple(row.tolist()) for row in first}) == 3


@pytest.mark.parametrize("pages", [None, 3, 5])
def test_accuracy_is_what_the_model_answers_when_each_token_is_generated_by_its_forward(pages):
    task, batch = Task(keys=3, values=3, page=12, back=2), 12
    last, hits = task.page * ((pages or 4) - 1), []
    for seed in range(4):
        model, right = small_model(task, seed=seed), 0
        for row in sequences(task, batch, pages or 4, 5)[0]:
            said = row.clone()
            for t in (last, last + 2, last + 4):
                said[t + 1] = model(said[None, : t + 1])[0, -1, : task.vocab_size].argmax()
                right += int(said[t + 1] == row[t + 1])
        for engine in ("lazy", "eager", "tiled_cpu", "bounded", flashref.Lazy):
            for prompt in (None, 1, last - 3, last + 1):
                assert accuracy(model, task, engine, batch, 5, pages, prompt) == right / (3 * batch)
        hits.append(right)
    assert len(set(hits)) > 1


def shortened(taps):
    """An engine whose filters end after so many taps."""

    def make(filters, batch_size):
        filters = filters.clone()
        filters[..., taps:] = 0
        return flashref.TiledCPU(filters, batch_size)

    return make


def test_a_callable_engine_gets_the_filters_of_the_positions_needed_and_the_batch_size():
    model, got = small_model(SMALL), []

    def make(filters, batch_size):
        got.append((filters, batch_size))
        return flashref.Eager(filters, batch_size)

    accuracy(model, SMALL, make, 3)
    ((filters, batch_size),) = got
    assert batch_size == 3 and torch.equal(filters, model.filters(27))


@pytest.fixture(scope="module")
def shipped():
    report = json.loads((PRETRAINED_RECALL / "training.json").read_text())
    return flashref.load(PRETRAINED_RECALL), Task(**report["task"]), report


def test_the_model_that_comes_with_flashref_recalls_from_2000_tokens_ago_the_same_with_every_exact_engine(shipped):
    model, task, report = shipped
    found = {engine: accuracy(model, task, engine, 8, seed=FRESH + 1) for engine in ("lazy", "eager", "tiled_cpu")}
    assert task.lags[0] > 2000 and set(found.values()) == {found["lazy"]}
    assert found["lazy"] >= 0.9 and report["accuracy"] >= 0.95
    one_by_one = {engine: accuracy(model, task, engine, 8, FRESH + 1, prompt=2000) for engine in ("eager", "tiled_cpu")}
    assert set(one_by_one.values()) == {found["lazy"]}


def test_filters_that_end_before_the_answers_leave_it_guessing(shipped):
    model, task, _ = shipped
    for taps in (task.distance // 2, task.distance - task.page):  # the short filters reach a few tokens further
        answers = 16 * task.keys
        limit = task.chance + 4 * (task.chance * (1 - task.chance) / answers) ** 0.5
        assert accuracy(model, task, shortened(taps), 16, seed=FRESH + 2) <= limit


def test_the_shipped_files_say_how_they_were_made_and_are_small(shipped):
    model, task, report = shipped
    settings = Settings(**report["settings"])
    assert settings.phases()[-1] == task and asdict(model.config) == asdict(settings.config(task))
    assert report["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert report["chance"] == task.chance and report["machine"]["processor"]
    assert report["curve"]["rows"][-1][:2] == [settings.total, task.distance]
    assert (PRETRAINED_RECALL / "weights.safetensors").stat().st_size < 2 * 10**6


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"keys": 0}, "keys must be >= 1"),
        ({"values": 0}, "values must be >= 1"),
        ({"back": 0}, "back must be >= 1"),
        ({"keys": 4, "page": 15}, "page must be >= 4 \\* keys = 16"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        Task(**sizes)


def test_wrong_arguments_are_refused():
    with pytest.raises(TypeError, match="keys must be an integer"):
        Task(keys=2.0)
    for arguments in ((0, 2, 0), (1, 0, 0)):
        with pytest.raises(ValueError, match="must be >= 1"):
            sequences(SMALL, *arguments)
    with pytest.raises(TypeError, match="seed"):
        sequences(SMALL, 1, 1, 0.5)
    with pytest.raises(ValueError, match="the task has 8 tokens, the model 5"):
        accuracy(small_model(Task(keys=1, values=2, page=8)), SMALL)
    with pytest.raises(ValueError, match="hold 26 positions, the task needs 27"):
        accuracy(small_model(SMALL, l_max=26), SMALL)
    with pytest.raises(ValueError, match="pages must be >= 3, got 2"):
        accuracy(small_model(SMALL), SMALL, pages=2)
    with pytest.raises(ValueError, match="engine must be one of"):
        accuracy(small_model(SMALL), SMALL, "fast")
    for prompt, message in ((0, "prompt must be >= 1"), (26, "after 25 tokens, got 26")):
        with pytest.raises(ValueError, match=message):
            accuracy(small_model(SMALL), SMALL, prompt=prompt)
    with pytest.raises(TypeError, match="prompt must be an integer"):
        accuracy(small_model(SMALL), SMALL, prompt=1.0)


def test_the_picture_of_a_sequence_frames_the_pair_that_is_meant_and_all_others_of_its_key():
    tokens, _ = sequences(SMALL, 1, 4, 0)
    figure = figures.recall_sequence(SMALL, tokens[0].numpy(), key=1)
    (axes,) = figure.axes
    pages = read(SMALL, tokens[0])[1:]
    framed = {"now": [], "lazy": []}
    for patch in axes.patches:
        if not patch.get_fill():
            name = "now" if to_hex(patch.get_edgecolor()) == PARTS["now"].lower() else "lazy"
            framed[name].append((patch.get_x(), patch.get_y()))
    place = [(pairs["B"][1] - 1) % SMALL.page for _, pairs in pages]
    question = pages[2][0]["B"][1] % SMALL.page
    assert sorted(framed["now"]) == sorted([(question, 2), (place[0], 0)])
    assert sorted(framed["lazy"]) == sorted([(place[1], 1), (place[2], 2)])
    said = {(text.get_position()[0] - 0.5, text.get_position()[1] - 0.5): text.get_text() for text in axes.texts}
    assert [said[i % 8, i // 8] for i in range(24)] == [SMALL.name(token) for token in tokens[0, 8:].tolist()]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["8", "16", "24"]
    (axes,) = figures.recall_sequence(Task(), sequences(Task(), 1, 65, 0)[0][0].numpy()).axes
    assert list(axes.get_yticks()) == [0.5, 1.5, 2.5, 3.5, 5.5, 6.5, 7.5, 8.5]  # the row between says what is left out
    assert "... 57 more pages ..." in [text.get_text() for text in axes.texts]
    figures.as_png(figure)
    with pytest.raises(ValueError, match="at least 3 pages of 8, got 16"):
        figures.recall_sequence(SMALL, tokens[0, :16].numpy())
    with pytest.raises(ValueError, match="key must lie in"):
        figures.recall_sequence(SMALL, tokens[0].numpy(), key=2)


def test_the_plot_of_the_reach_shows_all_energy_and_the_lags_of_the_answers():
    energy = np.zeros(40)
    energy[[3, 12]] = 1, 3
    figure = figures.recall_reach(SMALL, {"layer 1": energy, "layer 2": energy})
    assert len(figure.axes) == 2
    for axes in figure.axes:
        band, stairs = axes.patches
        assert (band.get_x(), band.get_x() + band.get_width()) == (SMALL.lags.start, SMALL.lags.stop)
        values, edges, _ = stairs.get_data()
        assert values.sum() == pytest.approx(100) and values[list(edges).index(12)] == pytest.approx(75)
    figures.as_png(figure)
    for energy in ({}, {"layer 1": np.ones(SMALL.lags.stop - 1)}):
        with pytest.raises(ValueError, match="energy must hold"):
            figures.recall_reach(SMALL, energy)


def test_the_plot_of_accuracy_keeps_exact_and_approximate_apart_and_shows_a_guess():
    exact = {"lazy": 0.98, "tiled_cpu": 0.98}
    found = {"taps kept": {1024: 0.1, 2048: 0.98}, "states": {4: 0.1, 16: 0.4, 8: 0.2}}
    figure = figures.recall_accuracy(SMALL, exact, found, "title")
    bars, taps, states = figure.axes
    assert [bar.get_height() for bar in bars.patches] == [98, 98]
    assert "exact" in bars.get_xlabel() and all("approximate" in axes.get_xlabel() for axes in (taps, states))
    assert list(states.lines[0].get_xdata()) == [4, 8, 16] and list(states.lines[0].get_ydata()) == [10, 20, 40]
    assert all(axes.lines[-1].get_ydata()[0] == pytest.approx(100 / 3) for axes in figure.axes)
    figures.as_png(figure)
    for engines, approximate in (({}, found), (exact, {"taps kept": {}}), ({"fast": 1.0}, found)):
        with pytest.raises(ValueError, match="exact must"):
            figures.recall_accuracy(SMALL, engines, approximate, "title")
