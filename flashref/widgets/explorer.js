// The tile explorer: the triangle of pairs (j, t), drawn in the browser. The same file runs as a Jupyter widget (through
// anywidget) and in a page of its own; both hand it the data that widgets.explorer_data made with schedule and cost.

const SIDE = 480; // the picture's triangle, in its own units; CSS scales it
const MARGIN = 46; // room for the axes
const NAMES = ["L", "kind", "base", "step"]; // what the state consists of
const SPEEDS = { slow: 1500, normal: 600, fast: 150 }; // milliseconds per step

// Every schedule up to data.most positions, unpacked where it is needed: tiles(L, kind, base).
function unpack(data) {
  const bytes = Uint8Array.from(atob(data.tiles), (c) => c.charCodeAt(0));
  const perSchedule = (data.most * (data.most - 1)) / 2; // schedule(L) has one tile for each step 1 .. L-1
  return (L, kind, base) => {
    const s = data.schedules.findIndex((known) => known[0] === kind && (kind !== "relaxed" || known[1] === base));
    const first = s * perSchedule + ((L - 1) * (L - 2)) / 2;
    return Array.from({ length: Math.max(L - 1, 0) }, (_, i) => {
      const [step, left, right, top, bottom] = bytes.subarray(5 * (first + i), 5 * (first + i + 1));
      return { step, left, right, top, bottom }; // inputs [left, right) to outputs [top, bottom)
    });
  };
}

const element = (name, attributes = {}, ...children) => {
  const svg = ["svg", "g", "rect", "path", "text", "line"].includes(name);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
};

const sub = (letter, n) => letter + String(n).replace(/\d/g, (digit) => "₀₁₂₃₄₅₆₇₈₉"[digit]);
const count = (n, what) => `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;
const span = (name, from, to) => (to - from === 1 ? `${name} ${from}` : `${name}s ${from} to ${to - 1}`);
const pairs = (tile) => (tile.right - tile.left) * (tile.bottom - tile.top);
const held = (tile, j, t) => tile.left <= j && j < tile.right && tile.top <= t && t < tile.bottom;

// What a step is, in words: for everybody, and the only text that a screen reader is told.
function describe({ L, step }, tiles) {
  if (L === 0) return "L = 0: there is nothing to compute.";
  const total = (L * (L - 1)) / 2;
  const all = total ? `${count(total, "pair")} in tiles and ${count(L, "red cell")}` : "1 red cell and no tile";
  const done = tiles.filter((tile) => tile.step < step).reduce((sum, tile) => sum + pairs(tile), 0);
  if (step === 0) return `No input is known yet. To do: ${all}.`;
  if (step === L) return `${L} of ${L} inputs known, all outputs given out. Done: ${all}, none owed.`;
  const now = tiles.find((tile) => tile.step === step);
  return (
    `${step} of ${L} inputs known, ${count(step, "output")} given out. Now: ${span("input", now.left, now.right)} ` +
    `to ${span("output", now.top, now.bottom)}, ${count(pairs(now), "pair")}. ` +
    `${done.toLocaleString("en")} done before, ${(total - done - pairs(now)).toLocaleString("en")} still owed.`
  );
}

// Where the relaxed tiles need not be those of the plain rule: why not.
function cutting({ L, kind, base }) {
  const blocks = Math.ceil(L / base);
  if (kind !== "relaxed" || blocks < 2 || Number.isInteger(Math.log2(L / base))) return "";
  const middle = base * Math.ceil(blocks / 2);
  return `L is not b·2ᵏ: the positions are cut at their middle, ${middle}, and each half is tiled from its own start.`;
}

// Why the pair (j, t) is computed when it is.
function explain({ L, step }, tiles, j, t) {
  if (j > t) return `Pair (${j}, ${t}): input ${j} comes after output ${t}, so it contributes nothing.`;
  if (j === t) {
    const when = t < step ? "is done" : `is owed until then`;
    return `Red cell (${t}, ${t}): ${sub("x", t)}·ρ₀ goes to ${sub("z", t)} the moment input ${t} arrives, and ${when}. It alone has to wait for it.`;
  }
  const tile = tiles.find((candidate) => held(candidate, j, t));
  const when = tile.step < step ? "ran" : tile.step === step ? "runs now," : "runs";
  return (
    `Pair (${j}, ${t}): ${sub("x", j)}·${sub("ρ", t - j)} goes to ${sub("z", t)}. Its tile, ${span("input", tile.left, tile.right)} to ` +
    `${span("output", tile.top, tile.bottom)}, ${when} at step ${tile.step}. It may: its last input, ` +
    `${sub("x", tile.right - 1)}, is known by then. It is in time: its first output, ${sub("z", tile.top)}, is the next ` +
    `to be given out.`
  );
}

// Put an explorer into `root`. state: {L, kind, base, step}; changed(state) is called when the reader changed something.
// Returns a function that sets the state from outside.
export function mount(root, data, state, changed = () => {}) {
  const tilesOf = unpack(data);
  const bases = [...new Set(data.schedules.filter(([kind]) => kind === "relaxed").map(([, base]) => base))];
  let tiles = [];
  let cell = null; // the pair (j, t) that is explained
  let timer = null;

  const control = (label, input, shown = "") => element("label", {}, element("span", {}, label), input, shown);
  const range = (name, max) => element("input", { type: "range", min: 0, max, step: 1, "data-control": name });
  const select = (name, options) =>
    element("select", { "data-control": name }, ...options.map((value) => element("option", { value }, value)));
  const button = (name, label, sign) =>
    element("button", { type: "button", "data-control": name, "aria-label": label, title: label }, sign);

  const L = range("L", data.most);
  const kind = select("kind", ["lazy", "eager", "relaxed"]);
  const base = select("base", bases);
  const speed = select("speed", Object.keys(SPEEDS));
  speed.value = "normal";
  const step = range("step", data.most);
  const [shownL, shownStep] = [1, 2].map(() => element("output", { "aria-live": "off" })); // the state line says it
  const play = button("play", "Play", "▶");
  const buttons = [
    button("first", "To the start", "«"),
    button("back", "One step back", "‹"),
    play,
    button("next", "One step on", "›"),
    button("last", "To the end", "»"),
  ];
  const svg = element("svg", {
    viewBox: `0 0 ${SIDE + MARGIN + 4} ${SIDE + MARGIN + 4}`,
    tabindex: 0,
    role: "img",
    "aria-label": "Tiles in the triangle of pairs: inputs to the right, outputs downwards. The text below says the state.",
  });
  const said = element("p", { class: "state", role: "status", "aria-live": "polite" });
  const why = element("p", { class: "why", "aria-live": "polite" });
  const cut = element("p", { class: "cut" });
  const counters = element("table", { class: "counters" });
  const swatch = (name, text) => element("span", { class: "key" }, element("i", { class: name }), text);
  root.replaceChildren(
    element(
      "div",
      { class: "flashref-explorer" },
      element(
        "div",
        { class: "controls" },
        control("positions L", L, shownL),
        control("kind", kind),
        control("base b", base),
      ),
      element(
        "div",
        { class: "controls" },
        element("span", { class: "buttons", role: "group", "aria-label": "Steps" }, ...buttons),
        control("inputs known n", step, shownStep),
        control("speed", speed),
      ),
      element(
        "div",
        { class: "panes" },
        element("div", { class: "picture" }, svg),
        element(
          "div",
          { class: "words" },
          said,
          element(
            "p",
            { class: "legend" },
            swatch("tile done", "done"),
            swatch("tile now", "runs now"),
            swatch("tile owed", "owed"),
            swatch("red done", "red cell, done"),
            swatch("red owed", "red cell, owed"),
          ),
          counters,
          element(
            "p",
            { class: "help" },
            "An FFT pays from tiles of about 64 on (notebook 03); FFT points are counted apart from multiply-adds.",
          ),
          cut,
          why,
          element(
            "p",
            { class: "help" },
            "Keys, with the picture selected: ← → step, Home End, space plays, Shift with an arrow moves to a cell.",
          ),
        ),
      ),
    ),
  );
  const frame = root.firstElementChild;
  // JupyterLab takes arrows and letters as commands of its own, unless the very element with the focus says this.
  for (const focusable of [...frame.querySelectorAll("[data-control]"), svg]) focusable.dataset.lmSuppressShortcuts = "true";
  for (const [name, colour] of Object.entries(data.colours)) frame.style.setProperty(`--${name}`, colour);

  // The still part of the picture: axes, the triangle, one rectangle per tile and per red cell.
  let parts = [];
  let shownOf = null;
  let unit = 0;
  let pointer = null;
  let due = null;
  let running = null;
  function draw() {
    const n = state.L;
    tiles = tilesOf(n, state.kind, state.base);
    unit = SIDE / Math.max(n, 1);
    const rect = (attributes, x, y, width, height) =>
      element("rect", { ...attributes, x: x * unit, y: y * unit, width: width * unit, height: height * unit });
    const stride = n <= 16 ? 1 : n <= 32 ? 4 : 8;
    const grid = [];
    const labels = [];
    for (let i = 0; i < n; i++) {
      grid.push(`M0 ${(i + 1) * unit}H${(i + 1) * unit}`, `M${i * unit} ${i * unit}V${SIDE}`);
      if (i % stride === 0) {
        labels.push(element("text", { x: (i + 0.5) * unit, y: -13, "text-anchor": "middle" }, String(i)));
        labels.push(element("text", { x: -13, y: (i + 0.5) * unit + 4, "text-anchor": "end" }, String(i)));
      }
    }
    const strips = Array.from({ length: n }, (_, i) => [
      element("rect", { class: "known", x: i * unit + 0.5, y: -9, width: unit - 1, height: 6 }),
      element("rect", { class: "given", x: -9, y: i * unit + 0.5, width: 6, height: unit - 1 }),
    ]);
    const cells = Array.from({ length: n }, (_, t) => rect({ class: "red", "data-t": t }, t, t, 1, 1));
    const shown = tiles.map((tile) =>
      rect({ class: "tile", "data-step": tile.step }, tile.left, tile.top, tile.right - tile.left, tile.bottom - tile.top),
    );
    const numbers = tiles.map(({ step, left, right, top, bottom }) => {
      const size = Math.min(16, 0.55 * unit * Math.min(right - left, bottom - top) ** 0.7);
      const middle = { x: ((left + right) / 2) * unit, y: ((top + bottom) / 2) * unit + 0.36 * size, "text-anchor": "middle" };
      return element("text", { class: "step", ...middle, style: `font-size: ${size}px` }, size < 7 ? "" : String(step));
    });
    running = element("rect", { class: "running" });
    const dashes = unit < 12 ? "none" : "4 3"; // around a small cell they would be crumbs
    due = element("rect", { class: "due", x: 0, height: unit, "stroke-dasharray": dashes });
    pointer = rect({ class: "pointer", visibility: "hidden" }, 0, 0, 1, 1);
    svg.replaceChildren(
      element(
        "g",
        { transform: `translate(${MARGIN} ${MARGIN})` },
        ...shown,
        ...cells,
        element("path", { class: "grid", d: grid.join("") }),
        due,
        running,
        pointer,
        ...numbers,
        ...strips.flat(),
        ...labels,
        element("text", { class: "axis", x: SIDE, y: -29, "text-anchor": "end" }, "input j →"),
        element("text", { class: "axis", x: -33, y: SIDE, transform: `rotate(-90 -33 ${SIDE})` }, "← output t"),
      ),
    );
    shownOf = (n) => shown[tiles.findIndex((tile) => tile.step === n)];
    parts = [
      ...tiles.flatMap((tile, i) => [shown[i], numbers[i]].map((rect) => ({ rect, at: tile.step }))),
      ...cells.map((red, t) => ({ rect: red, at: t + 0.5 })), // between step t, when z_t is due, and step t+1
      ...strips.flatMap(([x, z], i) => [x, z].map((strip) => ({ rect: strip, at: i + 0.5 }))),
    ];
    cell = null;
  }

  // What changes with the step. Only classes and texts: a key press is answered within the same frame.
  function update() {
    const n = state.step;
    for (const { rect, at } of parts) {
      rect.classList.toggle("done", at < n);
      rect.classList.toggle("now", at === n);
      rect.classList.toggle("owed", at > n);
    }
    const now = shownOf(n);
    running.setAttribute("visibility", now ? "visible" : "hidden");
    for (const name of now ? ["x", "y", "width", "height"] : []) running.setAttribute(name, now.getAttribute(name));
    due.setAttribute("visibility", n < state.L ? "visible" : "hidden");
    due.setAttribute("y", n * unit);
    due.setAttribute("width", (n + 1) * unit);
    said.textContent = describe(state, tiles);
    said.dataset.step = n;
    cut.textContent = cutting(state);
    cut.hidden = !cut.textContent;
    L.value = state.L;
    shownL.value = state.L;
    kind.value = state.kind;
    base.value = state.base;
    base.disabled = state.kind !== "relaxed";
    step.max = state.L;
    step.value = n;
    shownStep.value = `${n} of ${state.L}`;
    const sums = ["direct", "fft"].map((how) => {
      const run = tiles.filter((tile) => tile.step <= n);
      const costs = run.map((tile) => data.costs[`${tile.right - tile.left},${tile.bottom - tile.top}`][how]);
      return data.counters.map((_, i) => costs.reduce((sum, cost) => sum + cost[i], 0));
    });
    const row = (name, ...numbers) =>
      element(
        "tr",
        {},
        element("th", { scope: "row" }, name),
        ...numbers.map((number) => element("td", {}, number?.toLocaleString("en") ?? "–")),
      );
    counters.replaceChildren(
      element("caption", {}, "so far, per channel, without red cells"),
      element("tr", {}, element("td"), ...["direct", "by FFT"].map((how) => element("th", { scope: "col" }, how))),
      // Rows and columns are not done by FFT.
      ...data.counters.map((name, i) => row(name, sums[0][i], state.kind === "relaxed" ? sums[1][i] : null)),
    );
    point();
  }

  function point() {
    pointer.setAttribute("visibility", cell ? "visible" : "hidden");
    if (!cell) {
      why.textContent = "Point at a cell to see which tile holds it, and why it may run when it does.";
      return;
    }
    const [j, t] = cell;
    pointer.setAttribute("x", j * unit);
    pointer.setAttribute("y", t * unit);
    why.textContent = explain(state, tiles, j, t);
  }

  function set(changes) {
    const old = { ...state };
    Object.assign(state, changes);
    state.step = Math.min(Math.max(state.step, 0), state.L);
    const moved = NAMES.filter((name) => state[name] !== old[name]);
    if (moved.some((name) => name !== "step")) draw();
    if (moved.length) update();
  }

  function change(changes) {
    set(changes);
    changed({ ...state });
  }

  function offer(sign, label, live) {
    play.textContent = sign;
    play.title = label;
    play.setAttribute("aria-label", label);
    for (const text of [said, why]) text.setAttribute("aria-live", live);
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    offer("▶", "Play", "polite");
  }

  function start() {
    if (state.step === state.L) change({ step: 0 });
    offer("‖", "Pause", "off"); // a screen reader would fall behind
    timer = setInterval(() => {
      if (!root.isConnected || state.step + 1 >= state.L) stop(); // before the last step, so that it is said
      if (root.isConnected) change({ step: state.step + 1 });
    }, SPEEDS[speed.value]);
  }

  function stepTo(n) {
    stop();
    change({ step: n });
  }

  const moves = {
    first: () => stepTo(0),
    back: () => stepTo(state.step - 1),
    play: () => (timer ? stop() : start()),
    next: () => stepTo(state.step + 1),
    last: () => stepTo(state.L),
  };
  for (const pressed of buttons) pressed.addEventListener("click", moves[pressed.dataset.control]);
  step.addEventListener("input", () => stepTo(Number(step.value)));
  L.addEventListener("input", () => change({ L: Number(L.value) }));
  kind.addEventListener("input", () => change({ kind: kind.value }));
  base.addEventListener("input", () => change({ base: Number(base.value) }));
  speed.addEventListener("input", () => timer && (stop(), start()));

  const keys = { ArrowLeft: "back", ArrowRight: "next", Home: "first", End: "last", " ": "play" };
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  svg.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.shiftKey && event.key in arrows && state.L) {
      const clip = (i) => Math.min(Math.max(i, 0), state.L - 1);
      const [right, down] = arrows[event.key];
      cell = cell ? [clip(cell[0] + right), clip(cell[1] + down)] : [0, clip(state.step)];
      point();
    } else if (event.key in keys && !event.shiftKey) {
      moves[keys[event.key]]();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const scale = (SIDE + MARGIN + 4) / box.width;
    const [j, t] = [event.clientX - box.left, event.clientY - box.top].map((at) => Math.floor((at * scale - MARGIN) / unit));
    cell = 0 <= j && j < state.L && 0 <= t && t < state.L ? [j, t] : null;
    point();
  });
  svg.addEventListener("pointerleave", () => {
    cell = null;
    point();
  });
  svg.addEventListener("pointerdown", () => svg.focus());

  draw();
  update();
  return { set, stop };
}

function render({ model, el }) {
  const read = () => Object.fromEntries(NAMES.map((name) => [name, model.get(name)]));
  const explorer = mount(el, model.get("data"), read(), (state) => {
    for (const name of NAMES) model.set(name, state[name]);
    model.save_changes();
  });
  const follow = () => explorer.set(read());
  for (const name of NAMES) model.on(`change:${name}`, follow);
  return () => {
    explorer.stop();
    for (const name of NAMES) model.off(`change:${name}`, follow);
  };
}

export default { render };
