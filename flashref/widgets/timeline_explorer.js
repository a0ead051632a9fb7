// The timeline of cells and tiles, drawn in the browser from what timeline_explorer.timeline_data says, as a Jupyter
// widget (through anywidget). Python lays the jobs; this file draws them, steps through them and points at them.

const NAMES = ["M", "L", "mode", "base", "call", "at"]; // what the state consists of
const SPEEDS = { slow: 1200, normal: 500, fast: 120 }; // milliseconds per moment
const [LEFT, RIGHT, TOP, ROW, GAP] = [62, 16, 24, 30, 16]; // of the picture, in pixels
const CLOSE = 6; // pixels per unit of time in the close view

const element = (name, attributes = {}, ...children) => {
  const svg = ["svg", "g", "rect", "text", "line"].includes(name);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
};

// Put a timeline into `root`. state: see NAMES; changed(state) is called when the reader changed something. Returns
// functions that set the state and the data from outside.
export function mount(root, data, state, changed = () => {}) {
  let chosen = null; // the job that is explained
  let timer = null;

  const control = (label, input, shown = "") => element("label", {}, element("span", {}, label), input, shown);
  const range = (name, min, max) => element("input", { type: "range", min, max, step: 1, "data-control": name });
  const select = (name, options) =>
    element("select", { "data-control": name }, ...options.map((value) => element("option", { value }, value)));
  const button = (name, label, sign) =>
    element("button", { type: "button", "data-control": name, "aria-label": label, title: label }, sign);

  const M = range("M", 1, data.most[0]);
  const L = range("L", 1, data.most[1]);
  const mode = select("mode", data.modes.map(([name]) => name));
  const base = select("base", data.bases);
  const call = select("call", data.calls);
  const speed = select("speed", Object.keys(SPEEDS));
  speed.value = "normal";
  const view = select("view", ["whole", "close"]);
  const at = range("at", 0, 1);
  const [shownM, shownL, shownAt] = [1, 2, 3].map(() => element("output", { "aria-live": "off" })); // the state says it
  const play = button("play", "Play", "▶");
  const buttons = [
    button("first", "To the start", "«"),
    button("back", "One moment back", "‹"),
    play,
    button("next", "One moment on", "›"),
    button("last", "To the end", "»"),
  ];
  const svg = element("svg", {
    tabindex: 0,
    role: "img",
    "aria-label": "Jobs over time: one row for each mixer, time to the right. The text below says the state.",
  });
  const picture = element("div", { class: "picture" }, svg);
  const said = element("p", { class: "state", role: "status", "aria-live": "polite" });
  const why = element("p", { class: "why", "aria-live": "polite" });
  const totals = element("table", { class: "counters" });
  const key = (name, text) => element("span", { class: "key" }, element("i", { class: name }), text);
  const group = (...children) => element("div", { class: "controls" }, ...children);
  root.replaceChildren(
    element(
      "div",
      { class: "flashref-explorer flashref-timeline" },
      group(
        control("mixers M", M, shownM),
        control("positions L", L, shownL),
        control("mode", mode),
        control("base b", base),
        control("a call costs", call),
      ),
      group(
        element("span", { class: "buttons", role: "group", "aria-label": "Moments" }, ...buttons),
        control("moment", at, shownAt),
        control("speed", speed),
        control("view", view),
      ),
      picture,
      said,
      why,
      element(
        "p",
        { class: "legend" },
        key("cell", "cell (its position)"),
        key("tile done", "tile (its inputs U)"),
        key("tile now", "runs now"),
        key("chain", "on the longest chain of needs"),
      ),
      totals,
      element(
        "p",
        { class: "help" },
        "Keys, with the picture selected: ← → moment, Home End, space plays, Shift with ← or → chooses a job.",
      ),
    ),
  );
  const frame = root.firstElementChild;
  // JupyterLab takes arrows and letters as commands of its own, unless the very element with the focus says this.
  for (const focusable of [...frame.querySelectorAll("[data-control]"), svg]) focusable.dataset.lmSuppressShortcuts = "true";
  for (const [name, colour] of Object.entries(data.colours)) frame.style.setProperty(`--${name}`, colour);

  const last = () => data.moments.length - 1;
  const order = () => data.jobs.map((_, i) => i).sort((i, j) => data.jobs[i].start - data.jobs[j].start || i - j);
  const rowOf = (stream, m) => TOP + stream * (data.M * ROW + GAP) + m * ROW;

  // Everything, anew: there are at most some hundred jobs.
  function draw() {
    state.at = Math.min(state.at, last());
    const now = data.moments[state.at].time;
    const whole = data.moments[last()].time;
    const width = Math.max(picture.clientWidth, 260);
    const room = width - LEFT - RIGHT;
    const unit = view.value === "close" ? Math.max(CLOSE, room / whole) : room / whole;
    const shown = room / unit; // how many units of time are in the picture
    const from = Math.min(Math.max(now - shown / 2, 0), whole - shown);
    const x = (time) => LEFT + (time - from) * unit;
    const height = rowOf(data.streams - 1, data.M) + 34;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);

    const parts = [];
    for (let stream = 0; stream < data.streams; stream++) {
      for (let m = 0; m < data.M; m++) {
        const y = rowOf(stream, m);
        parts.push(element("rect", { class: "row", x: LEFT, y: y + 1, width: room, height: ROW - 2 }));
        parts.push(element("text", { x: LEFT - 6, y: y + ROW / 2 + 4, "text-anchor": "end" }, `mixer ${m}`));
      }
      if (data.streams > 1) {
        const text = stream ? "stream 1" : "stream 0";
        parts.push(element("text", { x: 2, y: rowOf(stream, 0) - 4 }, text));
      }
    }
    const box = ({ start, end, stream, first, last }, more = 0) => {
      const [a, b] = [Math.max(x(start), LEFT), Math.min(x(end), width - RIGHT)];
      const y = rowOf(stream, first) + 2;
      return b <= a ? null : { x: a - more, y: y - more, width: b - a + 2 * more, height: (last - first + 1) * ROW - 4 + 2 * more };
    };
    const needed = chosen === null ? [] : data.jobs[chosen].needs;
    const above = [];
    data.jobs.forEach((job, i) => {
      const place = box(job);
      if (!place) return;
      const when = job.end <= now ? "done" : job.start <= now ? "now" : "owed";
      parts.push(element("rect", { class: `job ${job.kind} ${when}`, "data-job": i, ...place }));
      if (job.critical) {
        above.push(element("rect", { class: "critical", ...place, y: place.y + place.height - 3, height: 3 }));
      }
      if (place.width > 7 * job.label.length + 3) {
        const middle = { x: place.x + place.width / 2, y: place.y + place.height / 2 + 4, "text-anchor": "middle" };
        above.push(element("text", { class: `label ${when}`, ...middle }, job.label));
      }
    });
    for (const i of needed) {
      const place = box(data.jobs[i]);
      if (place) above.push(element("rect", { class: "needed", ...place }));
    }
    const frameOf = chosen === null ? null : box(data.jobs[chosen], 1);
    if (frameOf) above.push(element("rect", { class: "chosen", ...frameOf }));
    const foot = height - 30;
    for (const token of data.tokens.filter((token) => from <= token && token <= from + shown)) {
      above.push(element("line", { class: "token", x1: x(token), x2: x(token), y1: foot - 4, y2: foot + 3 }));
    }
    above.push(element("line", { class: "time", x1: x(now), x2: x(now), y1: 8, y2: foot, "stroke-dasharray": "4 3" }));
    const step = [1, 2, 4, 5, 10, 20, 40, 50, 100, 200, 400, 500].find((size) => size * unit >= 44) ?? 1000;
    for (let time = Math.ceil(from / step) * step; time <= from + shown; time += step) {
      above.push(element("text", { x: x(time), y: foot + 15, "text-anchor": "middle" }, String(time)));
    }
    const words = "time (units) →  a tick: a position is complete";
    above.push(element("text", { class: "axis", x: LEFT, y: foot + 28 }, room < 300 ? "time (units) →" : words));
    svg.replaceChildren(...parts, ...above);
    tell();
  }

  function tell() {
    const { said: text } = data.moments[state.at];
    if (said.textContent !== text) said.textContent = text;
    said.dataset.at = state.at;
    const explained = chosen === null ? "Point at a job to see what it needs and what it waited for." : data.jobs[chosen].text;
    if (why.textContent !== explained) why.textContent = explained;
    for (const [input, name] of [[M, "M"], [L, "L"], [mode, "mode"], [base, "base"], [call, "call"], [at, "at"]]) {
      if (name === "at") input.max = last();
      input.value = state[name];
    }
    [shownM.textContent, shownL.textContent, shownAt.textContent] = [state.M, state.L, `${state.at} of ${last()}`];
    const cells = (tag, texts) => texts.map((text) => element(tag, {}, String(text)));
    totals.replaceChildren(
      element("caption", {}, "in all, in units of time (a cell takes 4); idle: each stream"),
      element("tr", {}, element("td"), ...cells("th", data.columns)),
      ...data.modes.map(([name, numbers]) =>
        element("tr", name === state.mode ? { class: "present" } : {}, element("th", { scope: "row" }, name), ...cells("td", numbers)),
      ),
    );
  }

  // From outside: the state, and the data when it is new.
  function set(changes, anew = data) {
    if (anew !== data) chosen = null;
    data = anew;
    Object.assign(state, changes);
    draw();
  }

  function change(changes) {
    Object.assign(state, changes);
    state.at = Math.min(Math.max(state.at, 0), last());
    draw();
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
    if (state.at === last()) change({ at: 0 });
    offer("‖", "Pause", "off"); // a screen reader would fall behind
    timer = setInterval(() => {
      if (!root.isConnected || state.at + 1 >= last()) stop(); // before the last moment, so that it is said
      if (root.isConnected) change({ at: state.at + 1 });
    }, SPEEDS[speed.value]);
  }

  const goTo = (moment) => {
    stop();
    change({ at: moment });
  };
  const moves = {
    first: () => goTo(0),
    back: () => goTo(state.at - 1),
    play: () => (timer ? stop() : start()),
    next: () => goTo(state.at + 1),
    last: () => goTo(last()),
  };
  for (const pressed of buttons) pressed.addEventListener("click", moves[pressed.dataset.control]);
  at.addEventListener("input", () => goTo(Number(at.value)));
  for (const [name, input] of Object.entries({ M, L, base, call })) {
    input.addEventListener("input", () => (stop(), change({ [name]: Number(input.value) })));
  }
  mode.addEventListener("input", () => (stop(), change({ mode: mode.value })));
  view.addEventListener("input", draw);
  speed.addEventListener("input", () => timer && (stop(), start()));

  const choose = (i) => {
    if (i === chosen) return;
    chosen = i;
    draw();
  };
  const keys = { ArrowLeft: "back", ArrowRight: "next", Home: "first", End: "last", " ": "play" };
  svg.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.shiftKey && ["ArrowLeft", "ArrowRight"].includes(event.key)) {
      const jobs = order();
      const now = data.moments[state.at].time;
      const place = chosen === null ? jobs.findIndex((i) => data.jobs[i].end > now) : jobs.indexOf(chosen) + (event.key === "ArrowLeft" ? -1 : 1);
      choose(jobs[Math.min(Math.max(place, 0), jobs.length - 1)]);
    } else if (event.key in keys && !event.shiftKey) {
      moves[keys[event.key]]();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });
  svg.addEventListener("pointermove", (event) => {
    const { job } = document.elementsFromPoint(event.clientX, event.clientY).find((node) => node.dataset?.job)?.dataset ?? {};
    choose(job === undefined ? null : Number(job));
  });
  svg.addEventListener("pointerleave", () => choose(null));
  svg.addEventListener("pointerdown", () => svg.focus());

  const sized = new ResizeObserver(draw);
  sized.observe(picture);
  draw();
  return { set, stop: () => (stop(), sized.disconnect()) };
}

function render({ model, el }) {
  const read = () => Object.fromEntries(NAMES.map((name) => [name, model.get(name)]));
  const shown = mount(el, model.get("data"), read(), (state) => {
    const [at, ...chosen] = [...NAMES].reverse();
    for (const name of chosen) model.set(name, state[name]);
    // A moment of the timeline before this one means nothing to Python, which may have laid the next already.
    if (model.get("data").of.every((value, i) => value === state[NAMES[i]])) model.set(at, state[at]);
    model.save_changes();
  });
  const follow = () => shown.set(read(), model.get("data"));
  for (const name of [...NAMES, "data"]) model.on(`change:${name}`, follow);
  return () => {
    shown.stop();
    for (const name of [...NAMES, "data"]) model.off(`change:${name}`, follow);
  };
}

export default { render };
