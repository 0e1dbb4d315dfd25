// Draws the charts of a report with Plotly: one task at a time, each chart when it comes into view.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const place = id => document.getElementById(id);
const state = {task: 0, cell: null, hidden: new Set(), axis: 0, searched: 0};
const grey = "#8a929b";

// Plotly reads a little HTML in its texts
const literal = text => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const times = m => `${Number(m.toPrecision(3))}x`;
const percent = share => (100 * share).toFixed(2) + " %";
const faded = (colour, alpha) => colour + Math.round(255 * alpha).toString(16).padStart(2, "0");
const variable = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const isNarrow = () => innerWidth < 640;
const cellsOfTask = () => data.cells.filter(cell => cell.task === state.task);
const shown = cell => !state.hidden.has(cell.series);

function ticks(first, last, write) {
  const low = Math.ceil(Math.log2(first)), high = Math.floor(Math.log2(last));
  const stride = Math.max(1, Math.ceil((high - low + 1) / (isNarrow() ? 5 : 9)));
  const powers = [];
  for (let power = low; power <= high; power++) if (power % stride === 0) powers.push(2 ** power);
  return {tickvals: powers, ticktext: powers.map(write), tickangle: 0};
}

// a logarithmic axis with 1, 2, 5, 10 ... written out; a plain one for what is all of one size
function decades(values) {
  const positive = values.filter(value => value > 0), first = Math.min(...positive), last = Math.max(...positive);
  if (!positive.length || last < 8 * first) return {};
  const low = Math.floor(Math.log10(first)), high = Math.ceil(Math.log10(last)), steps = high - low > 3 ? [1] : [1, 2, 5];
  const found = [];
  for (let power = low; power <= high; power++) for (const step of steps) found.push(Number(`${step}e${power}`));
  return {type: "log", tickvals: found, ticktext: found.map(value => value >= 1e-4 && value < 1e5 ? String(value) : value.toExponential())};
}

function layout(more) {
  const ink = variable("--ink"), soft = variable("--soft"), line = variable("--line");
  const axis = {color: soft, gridcolor: line, linecolor: line, zeroline: false, tickfont: {size: 12},
    title: {font: {size: 13}, standoff: 12}, automargin: true, fixedrange: false};
  const joined = {
    showlegend: false, hovermode: "closest", paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: {family: getComputedStyle(document.body).fontFamily, size: 13, color: ink},
    margin: {l: 56, r: 16, t: 12, b: 52},
    modebar: {bgcolor: "rgba(0,0,0,0)", color: line, activecolor: soft},
    hoverlabel: {bgcolor: variable("--band"), bordercolor: line, font: {color: ink, size: 13}, align: "left"},
    ...more,
  };
  joined.xaxis = {...axis, showgrid: false, ...more.xaxis, title: {...axis.title, text: more.xaxis.title}};
  joined.yaxis = {...axis, ...more.yaxis, title: {...axis.title, text: more.yaxis.title}};
  return joined;
}

const config = {responsive: true, displaylogo: false, displayModeBar: "hover", modeBarButtons: [["toImage", "resetScale2d"]]};
const draw = (id, traces, more) => Plotly.react(place(id), traces, layout(more), config);

function multiplesAxis(cells, padding = 1.15) {
  const all = cells.flatMap(cell => cell.seeds.flatMap(seed => seed.length.map(n => n / cell.train_max_length)));
  const first = Math.min(0.5, ...all), last = Math.max(2, ...all);
  return {
    first, last,
    axis: {type: "log", range: [Math.log10(first / 1.15), Math.log10(last * padding)], ...ticks(first, last, times)},
    trained: [
      {type: "rect", xref: "x", yref: "paper", x0: first / 100, x1: 1, y0: 0, y1: 1, fillcolor: grey, opacity: .09, line: {width: 0}, layer: "below"},
      {type: "line", xref: "x", yref: "paper", x0: 1, x1: 1, y0: 0, y1: 1, line: {color: grey, width: 1}, layer: "below"},
    ],
  };
}

// all seeds of a cell are one trace with gaps: a hundred lines cost as much as one
function seedsTrace(cell, alone) {
  const series = data.series[cell.series], colour = series.colour;
  const x = [], y = [], above = [], below = [], text = [];
  for (const seed of cell.seeds) {
    seed.length.forEach((length, i) => {
      const share = seed.k[i] / seed.n[i], m = length / cell.train_max_length;
      x.push(m); y.push(share); above.push(seed.high[i] - share); below.push(share - seed.low[i]);
      text.push(`<b>${literal(series.label)}</b>, seed ${seed.seed}<br>${times(m)} (${length} tokens)<br>${seed.k[i]} of ${seed.n[i]} right, ${percent(share)}`);
    });
    x.push(null); y.push(null); above.push(0); below.push(0); text.push("");
  }
  return {
    name: series.label, meta: {series: cell.series, kind: "seeds"}, type: "scatter", mode: "lines+markers", x, y, text, hoverinfo: "text",
    connectgaps: false, line: {color: faded(colour, alone ? .6 : .35), width: 1, dash: series.dash},
    marker: {size: alone ? 5 : 4, color: faded(colour, alone ? .9 : .6), symbol: series.symbol},
    error_y: {type: "data", symmetric: false, array: above, arrayminus: below, thickness: 1, width: 0, color: faded(colour, alone ? .6 : .3)},
  };
}

// a line that others lie on is wider, so that it is seen beneath them
function width(cell, cells) {
  const later = cells.slice(cells.indexOf(cell) + 1);
  const covers = other => other.line.y.length === cell.line.y.length && other.line.y.every((y, i) => Math.abs(y - cell.line.y[i]) < .012);
  return 2.25 + 2.5 * Math.min(later.filter(covers).length, 3);
}

function fitTrace(cell, cells) {
  const series = data.series[cell.series];
  return {
    name: series.label, meta: {series: cell.series, kind: "fit"}, type: "scatter", mode: "lines", x: cell.line.x, y: cell.line.y,
    line: {color: series.colour, width: width(cell, cells), dash: cell.line.is_artefact ? "dot" : series.dash},
    hoverinfo: "text", text: cell.line.y.map(y => `<b>${literal(series.label)}</b><br>${cell.line.what}<br>${percent(y)}`),
  };
}

function guideTrace(line, text, dash) {
  return {type: "scatter", mode: "lines", x: line.x, y: line.y, meta: {kind: text}, line: {color: grey, width: 1.25, dash},
    hoverinfo: "text", text: line.y.map(y => `${text} ${percent(y)}`)};
}

function drawCurves() {
  const cells = cellsOfTask().filter(cell => cell.seeds.length);
  const visible = cells.filter(shown), alone = visible.length === 1;
  const traces = [], guides = new Map();
  for (const cell of cells) guides.set(JSON.stringify(cell.chance), cell.chance);
  for (const line of guides.values()) traces.push(guideTrace(line, "chance", "dash"));
  for (const cell of visible) if (cell.shortcut) traces.push(guideTrace(cell.shortcut, "best answer from a window of the training length", "dot"));
  for (const cell of visible) traces.push(seedsTrace(cell, alone));
  for (const cell of visible) traces.push(fitTrace(cell, visible));
  const {axis, trained} = multiplesAxis(cells);
  return draw("curves", traces, {
    shapes: trained,
    annotations: isNarrow() ? [] : [{x: 0, y: 0, xref: "x", yref: "paper", yanchor: "bottom", xanchor: "right", showarrow: false, text: "trained to here ", font: {size: 12, color: grey}}],
    xaxis: {...axis, title: "test length / longest training length"},
    yaxis: {range: [-.02, 1.04], tickformat: ".0%", title: "accuracy"},
  });
}

function drawStrip() {
  const cells = cellsOfTask().filter(cell => cell.seeds.length && shown(cell)).reverse();
  const {first, last, axis, trained} = multiplesAxis(cellsOfTask().filter(cell => cell.seeds.length), 1.4);
  const traces = cells.map((cell, row) => {
    const series = data.series[cell.series], spread = .62 / Math.max(cell.seeds.length, 6);
    const x = [], y = [], above = [], below = [], symbols = [], text = [];
    cell.seeds.forEach((seed, i) => {
      const [value, low, high] = seed.half;
      let at = value, symbol = "circle", what = "";
      if (seed.kind === "never_learned") { at = first / 1.08; symbol = "x-thin-open"; what = "never learned"; }
      else if (value !== null) what = `half way to chance at ${times(value)}` + (low !== null && high !== null ? `, ${times(low)} to ${times(high)}` : "");
      else if (low !== null && high !== null) { at = Math.sqrt(low * high); symbol = "circle-open"; what = `between ${times(low)} and ${times(high)}`; }
      else if (low !== null) { at = low; symbol = "triangle-right-open"; what = `beyond ${times(low)}`; }
      else if (high !== null) { at = high; symbol = "triangle-left-open"; what = `below ${times(high)}`; }
      if (at === null) return;
      x.push(at); y.push(row + (i - (cell.seeds.length - 1) / 2) * -spread); symbols.push(symbol);
      const exact = value !== null || (low !== null && high !== null);
      above.push(exact && high !== null ? high - at : 0); below.push(exact && low !== null ? at - low : 0);
      text.push(`<b>${literal(series.label)}</b>, seed ${seed.seed}<br>${what}<br>${literal(seed.reason)}`);
    });
    return {type: "scatter", mode: "markers", meta: {series: cell.series, kind: "strip"}, x, y, text, hoverinfo: "text",
      marker: {color: series.colour, size: 8, symbol: symbols, line: {width: 1.5, color: series.colour}},
      error_x: {type: "data", symmetric: false, array: above, arrayminus: below, thickness: 1, width: 0, color: faded(series.colour, .7)}};
  });
  // what all seeds of a cell say together
  cells.forEach((cell, row) => {
    const [value, low, high] = cell.half, colour = data.series[cell.series].colour;
    if (value === null) return;
    const end = Math.min(high ?? last * 1.4, last * 1.4);
    traces.push({type: "scatter", mode: "markers", meta: {series: cell.series, kind: "together"}, x: [value], y: [row - .4], hoverinfo: "text",
      text: [`<b>${literal(data.series[cell.series].label)}</b>, all seeds together<br>${literal(cell.sentence)}`],
      marker: {color: variable("--paper"), size: 10, symbol: "diamond", line: {width: 2, color: colour}},
      error_x: {type: "data", symmetric: false, array: [end - value], arrayminus: [low === null ? 0 : value - Math.max(low, first / 1.15)], thickness: 2.5, width: 0, color: colour}});
  });
  const lines = Math.max(1, ...cells.map(cell => data.series[cell.series].label.split(", ").length));
  const height = 78 + (20 + 16 * lines) * Math.max(cells.length, 1);
  place("strip").style.height = `${height}px`;
  return draw("strip", traces, {
    height, shapes: trained, margin: {l: 56, r: 16, t: 4, b: 48},
    xaxis: {...axis, title: isNarrow() ? "multiple" : "multiple of the longest training length"},
    yaxis: {range: [-.65, cells.length - .45], tickvals: cells.map((_, row) => row), ticktext: cells.map(cell => literal(data.series[cell.series].label).replace(/, /g, ",<br>")),
      showgrid: false, fixedrange: true, title: ""},
  });
}

function drawTraining() {
  const cells = cellsOfTask().filter(cell => cell.training.length && shown(cell));
  const traces = cells.map(cell => {
    const series = data.series[cell.series], x = [], y = [], text = [];
    for (const curve of cell.training) {
      curve.step.forEach((step, i) => {
        x.push(step); y.push(curve.loss[i]);
        text.push(`<b>${literal(series.label)}</b>, seed ${curve.seed}<br>step ${step}<br>loss ${curve.loss[i]} nats, ${curve.accuracy[i] === null ? "" : percent(curve.accuracy[i]) + " right"}`);
      });
      x.push(null); y.push(null); text.push("");
    }
    return {type: "scatter", mode: "lines", meta: {series: cell.series, kind: "training"}, x, y, text, hoverinfo: "text", line: {color: faded(series.colour, .75), width: 1.5, dash: series.dash}};
  });
  return draw("training", traces, {
    xaxis: {...decades(traces.flatMap(trace => trace.x)), title: "training step"},
    yaxis: {...decades(traces.flatMap(trace => trace.y)), title: "validation loss (nats)"},
  });
}

function drawScaling() {
  const {axis, series} = data.scaling[state.axis];
  const labels = [...new Set(series.map(one => one.label))], mine = series.filter(one => one.task === data.tasks[state.task]);
  const sorted = some => [...new Set(some.flatMap(one => one.medians.map(median => median.x)))].sort((a, b) => a - b);
  const values = sorted(series);
  // of values that lie close together only some are written out
  const least = Math.log(values.at(-1) / values[0]) / (isNarrow() ? 5 : 12), written = [];
  for (const x of values) if (!written.length || Math.log(x / written.at(-1)) >= least) written.push(x);
  // what is between two lengths stands in their middle; 0 and null are open ends
  const middle = p => p.high === null ? p.low || null : p.low ? Math.sqrt(p.low * p.high) : p.high;
  const symbol = p => p.high === null ? "triangle-up-open" : p.low ? "circle-open" : "triangle-down-open";
  const span = p => p.high === null ? `beyond ${Math.round(p.low)} tokens` : p.low ? `holds at ${Math.round(p.low)}, fails at ${Math.round(p.high)} tokens` : `at most ${Math.round(p.high)} tokens`;
  const bars = (label, kind, some, shift, text, size, thickness, alpha) => {
    const colour = faded(data.series[labels.indexOf(label) % data.series.length].colour, alpha), exact = some.map(p => p.high !== null && p.low > 0), y = some.map(middle);
    return {type: "scatter", mode: "markers", name: literal(label), meta: {label, kind}, x: some.map(shift), y, hoverinfo: "text", text: some.map(text), showlegend: kind === "median",
      marker: {color: colour, size, symbol: some.map(symbol), line: {width: thickness, color: colour}},
      error_y: {type: "data", symmetric: false, thickness, width: 0, color: colour,
        array: some.map((p, i) => exact[i] ? p.high - y[i] : 0), arrayminus: some.map((p, i) => exact[i] ? y[i] - p.low : 0)}};
  };
  // models stand side by side, and seeds beside their median
  const gaps = series.flatMap(one => { const own = sorted([one]); return own.slice(1).map((x, i) => Math.log2(x / own[i])); });
  const narrowest = Math.min(1, ...gaps);
  const sideways = (x, number, seed) => x * 2 ** (narrowest * ((number - (labels.length - 1) / 2) * .3 / Math.max(labels.length, 2) + (seed === null ? 0 : ((seed % 10) + 1) * .012)));
  const traces = mine.flatMap(one => {
    const number = labels.indexOf(one.label), who = `<b>${literal(one.label)}</b>`, colour = data.series[number % data.series.length].colour;
    return [
      ...one.lines.map(line => ({type: "scatter", mode: "lines", x: line.x, y: line.y, showlegend: false, meta: {label: one.label, kind: "law"},
        line: {width: 1.5, dash: line.dash, color: colour}, hoverinfo: "text", text: line.x.map(() => literal(line.what))})),
      bars(one.label, "seeds", one.points, p => sideways(p.x, number, p.seed), p => `${who}, seed ${p.seed}<br>${literal(axis)} ${p.x}<br>${span(p)}`, 5, 1, .6),
      bars(one.label, "median", one.medians, p => sideways(p.x, number, null), p => `${who}<br>${literal(axis)} ${p.x}<br>${literal(p.what)}`, 9, 3, 1),
    ];
  });
  const ys = mine.flatMap(one => one.points.flatMap(p => [p.low, p.high])).filter(y => y);
  place("scaling-axis").textContent = axis;
  place("laws").replaceChildren(...mine.flatMap(one => one.laws).map(law => { const p = document.createElement("p"); p.textContent = law; return p; }));
  return draw("scaling", traces, {
    showlegend: labels.length > 1, legend: {orientation: "h", y: 1.12, font: {size: 13}},
    xaxis: {type: "log", tickvals: written, ticktext: written.map(String), title: literal(axis), range: [Math.log10(values[0] / 1.25), Math.log10(values.at(-1) * 1.25)]},
    yaxis: {type: "log", title: "failure length (tokens)", ...(ys.length ? ticks(Math.min(...ys) / 2, Math.max(...ys) * 2, String) : {})},
  });
}

function drawSearch() {
  const {objectives, cells} = data.search, keys = Object.keys(cells), tried = cells[keys[state.searched]].filter(one => one.values);
  const pair = objectives.length > 1, colour = variable("--accent");
  const x = one => pair ? one.values[0] : one.number, y = one => one.values[pair ? 1 : 0];
  const marks = (some, symbol, size, name) => ({
    type: "scatter", mode: "markers", name, x: some.map(x), y: some.map(y), hoverinfo: "text",
    text: some.map(one => `<b>setting ${one.number}</b>${one.winner ? ", winner" : ""}<br>${objectives.map((o, i) => `${literal(o)} ${one.values[i]}`).join("<br>")}<br>${literal(one.settings).replace(/, /g, "<br>")}`),
    marker: {symbol, size, color: colour, line: {width: 1.5, color: colour}},
  });
  const front = tried.filter(one => one.front && pair), winner = tried.filter(one => one.winner);
  const rest = tried.filter(one => !one.winner && !(one.front && pair));
  const traces = [marks(rest, "circle-open", 7, "tried")];
  if (front.length) traces.push({type: "scatter", mode: "lines", hoverinfo: "skip", showlegend: false, line: {color: colour, width: 1, shape: "hv"},
    x: [...front].sort((a, b) => x(a) - x(b)).map(x), y: [...front].sort((a, b) => x(a) - x(b)).map(y)}, marks(front.filter(one => !one.winner), "circle", 8, "front"));
  if (!pair) {
    let best = Infinity;
    const steps = tried.map(one => best = Math.min(best, y(one)));
    traces.unshift({type: "scatter", mode: "lines", name: "best so far", hoverinfo: "skip", x: tried.map(x), y: steps, line: {color: grey, width: 1.25, shape: "hv"}});
  }
  if (winner.length) traces.push(marks(winner, "star", 13, "winner"));
  const scale = values => values.every(value => value > 0) ? decades(values) : {};
  return draw("search", traces, {
    showlegend: true, legend: {orientation: "h", y: 1.12},
    xaxis: {title: literal(pair ? objectives[0] : "setting"), ...(pair ? scale(tried.map(x)) : {})},
    yaxis: {title: literal(objectives[pair ? 1 : 0]), ...scale(tried.map(y))},
  });
}

function writeDetail() {
  const box = place("detail");
  box.replaceChildren();
  box.className = "detail small";
  const line = (text, bold) => { const p = document.createElement("p"), part = document.createElement(bold ? "b" : "span"); part.textContent = text; p.append(part); box.append(p); return p; };
  if (state.cell === null) { line("All models. Choose a verdict above to see one by itself."); return; }
  const cell = data.cells[state.cell];
  box.classList.add(cell.kind || "missing");
  line(`${data.series[cell.series].label} on ${data.tasks[cell.task]}: ${cell.sentence}`, true);
  cell.claims.forEach(claim => line(claim));
  if (cell.reason) line(`All seeds together: ${cell.reason}`);
  const reasons = new Map();
  for (const seed of cell.seeds) reasons.set(`${seed.kind.replace("_", " ")}: ${seed.reason}`, [...(reasons.get(`${seed.kind.replace("_", " ")}: ${seed.reason}`) || []), seed.seed]);
  [...reasons].slice(0, 6).forEach(([reason, seeds]) => line(`${seeds.length === cell.seeds.length ? "Every seed alone" : `Seed ${seeds.join(", ")} alone`} ${reason}`));
  if (reasons.size > 6) line(`${reasons.size - 6} more, in the table of every seed`);
  const button = document.createElement("button");
  button.type = "button"; button.textContent = "Show all models"; button.id = "all-models";
  button.addEventListener("click", () => choose(state.task, null));
  line("").replaceChildren(button);
}

// charts, drawn when they are first seen and again when what they show has changed
const charts = {curves: drawCurves, strip: drawStrip, training: drawTraining, scaling: drawScaling, search: drawSearch};
const seen = new Set(), stale = new Set(Object.keys(charts));
function refresh(ids) {
  ids.forEach(id => stale.add(id));
  for (const id of seen) if (stale.delete(id)) charts[id]();
}
const observer = new IntersectionObserver(entries => entries.forEach(entry => {
  if (entry.isIntersecting) { seen.add(entry.target.id); refresh([]); } else seen.delete(entry.target.id);
}), {rootMargin: "300px"});

// a cell by itself is its model by itself: the legend shows what is hidden and brings it back
function choose(task, cell) {
  if (cell !== null) state.hidden = new Set(data.series.map((_, number) => number).filter(number => number !== data.cells[cell].series));
  else if (state.cell !== null) state.hidden.clear();
  state.task = task; state.cell = cell;
  place("task").value = task;
  document.querySelectorAll(".heat a").forEach(link => link.toggleAttribute("aria-current", Number(link.dataset.cell) === cell));
  writeLegend(); writeDetail(); refresh(["curves", "strip", "training", "scaling"]);
}

function writeLegend() {
  const present = new Set(cellsOfTask().map(cell => cell.series));
  place("legend").replaceChildren(...data.series.flatMap((series, number) => {
    if (!present.has(number)) return [];
    const button = document.createElement("button"), swatch = document.createElement("span");
    button.type = "button"; button.dataset.series = number; button.setAttribute("aria-pressed", !state.hidden.has(number));
    swatch.className = `swatch ${series.dash}`; swatch.style.setProperty("--c", series.colour);
    button.append(swatch, series.label);
    button.addEventListener("click", () => {
      state.hidden.has(number) ? state.hidden.delete(number) : state.hidden.add(number);
      button.setAttribute("aria-pressed", !state.hidden.has(number));
      refresh(["curves", "strip", "training"]);
    });
    return [button];
  }));
}

const options = (select, names) => select.replaceChildren(...names.map((name, number) => new Option(name, number)));
place("task").addEventListener("change", event => choose(Number(event.target.value), null));
document.querySelectorAll(".heat a").forEach(link => link.addEventListener("click", () => {
  const number = Number(link.dataset.cell);
  choose(data.cells[number].task, number);
}));
if (data.scaling.length) {
  place("scaling-part").hidden = false;
  options(place("axis"), data.scaling.map(one => one.axis));
  place("scaling-choice").hidden = data.scaling.length < 2;
  place("axis").addEventListener("change", event => { state.axis = Number(event.target.value); refresh(["scaling"]); });
}
if (data.search) {
  options(place("searched"), Object.keys(data.search.cells));
  place("searched").addEventListener("change", event => { state.searched = Number(event.target.value); refresh(["search"]); });
}
place("theme").addEventListener("click", () => {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  try { localStorage.theme = theme; } catch (error) { /* a page from a file may keep nothing */ }
  refresh(Object.keys(charts));
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", event => {
  document.documentElement.dataset.theme = event.matches ? "dark" : "light";
  refresh(Object.keys(charts));
});
choose(0, null);
for (const id of Object.keys(charts)) {
  const drawn = place(id);
  if (drawn && !(id === "scaling" && !data.scaling.length)) observer.observe(drawn); else delete charts[id];
}
