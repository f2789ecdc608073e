(() => {
"use strict";

const { DIVERGING, SEQUENTIAL, FOLD, GRID, FIXED_LABELS, OTHER_LABELS, FOLDED_CODE, DELTA_ZERO } =
  JSON.parse(document.getElementById("constants").textContent);

// ---- data ----------------------------------------------------------------------------------------------------------

async function decode(text, spec) {
  const packed = Uint8Array.from(atob(text.trim()), c => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const raw = new Uint8Array(await new Response(stream).arrayBuffer());
  let codes = raw;
  if (spec.dtype !== "uint8") {
    const n = raw.length / 2, zero = spec.delta ? DELTA_ZERO : 0;
    codes = new (spec.dtype === "int16" ? Int16Array : Uint16Array)(n);
    for (let i = 0; i < n; i++) codes[i] = (raw[i] | raw[n + i] << 8) - zero;
  }
  if (spec.delta) {  // typed arrays wrap around, as the differences did
    const [rows, columns] = spec.shape.slice(-2), size = rows * columns;
    for (let i = 0; i < codes.length; i++) if (i % size >= columns) codes[i] += codes[i - columns];
    for (let i = 0; i < codes.length; i++) if (i % columns) codes[i] += codes[i - 1];
  }
  return { ...spec, codes };
}

const strides = shape => shape.map((_, axis) => shape.slice(axis + 1).reduce((a, b) => a * b, 1));

// A slice on the screen: rows × columns, and the flat index of each of its pixels.
function slicer(shape, view, at) {
  const stride = strides(shape);
  const rows = shape[view.row], columns = shape[view.column];
  const step = [stride[view.row], stride[view.column]];
  let start = view.normal === null ? 0 : at[view.normal] * stride[view.normal];
  if (view.flip_row) { start += (rows - 1) * step[0]; step[0] = -step[0]; }
  if (view.flip_column) { start += (columns - 1) * step[1]; step[1] = -step[1]; }
  return { rows, columns, index: (i, j) => start + i * step[0] + j * step[1] };
}

// ---- colours -------------------------------------------------------------------------------------------------------

const rgb = hex => [1, 3, 5].map(k => parseInt(hex.slice(k, k + 2), 16));

function palette(stops, length) {
  const colours = stops.map(rgb);
  return Array.from({ length }, (_, i) => {
    const t = i / (length - 1) * (stops.length - 1), k = Math.min(Math.floor(t), stops.length - 2);
    return colours[k].map((a, c) => a + (colours[k + 1][c] - a) * (t - k));
  });
}
const GREYS = palette(["#000000", "#ffffff"], 256);
const LOG_COLOURS = [...palette(DIVERGING, 255), rgb(FOLD)];
const ERROR_COLOURS = palette(SEQUENTIAL, 256);

// ---- drawing -------------------------------------------------------------------------------------------------------

const scratch = document.createElement("canvas");

function paint(context, box, rows, columns, colour, smooth) {
  scratch.width = columns;
  scratch.height = rows;
  const inner = scratch.getContext("2d"), image = inner.createImageData(columns, rows);
  for (let i = 0, k = 0; i < rows; i++) for (let j = 0; j < columns; j++, k += 4) {
    const c = colour(i, j);
    image.data[k] = c[0]; image.data[k + 1] = c[1]; image.data[k + 2] = c[2]; image.data[k + 3] = 255;
  }
  inner.putImageData(image, 0, 0);
  context.imageSmoothingEnabled = smooth;
  context.imageSmoothingQuality = "high";
  context.drawImage(scratch, box.x, box.y, box.w, box.h);
}

// Line segments where `value` crosses a multiple of `every`, between pixel centres (marching squares).
function levelSets(context, box, rows, columns, value, every) {
  const sx = box.w / columns, sy = box.h / rows;
  const X = j => box.x + (j + .5) * sx, Y = i => box.y + (i + .5) * sy;
  for (let i = 0; i + 1 < rows; i++) for (let j = 0; j + 1 < columns; j++) {
    const a = value(i, j), b = value(i, j + 1), c = value(i + 1, j + 1), d = value(i + 1, j);
    const low = Math.min(a, b, c, d), high = Math.max(a, b, c, d);
    for (let k = Math.ceil(low / every - 1e-9); k * every <= high + 1e-9; k++) {
      const level = k * every, points = [];
      if (a >= level !== b >= level) points.push([X(j + (level - a) / (b - a)), Y(i)]);
      if (b >= level !== c >= level) points.push([X(j + 1), Y(i + (level - b) / (c - b))]);
      if (d >= level !== c >= level) points.push([X(j + (level - d) / (c - d)), Y(i + 1)]);
      if (a >= level !== d >= level) points.push([X(j), Y(i + (level - a) / (d - a))]);
      if (points.length === 4 && (a + b + c + d) / 4 >= level === a >= level) points.unshift(points.pop());
      for (let p = 0; p + 1 < points.length; p += 2) {
        context.moveTo(...points[p]);
        context.lineTo(...points[p + 1]);
      }
    }
  }
}

// Outlines of all labels: between pixels of different labels, cutting corners.
function outlines(context, box, rows, columns, label) {
  const sx = box.w / columns, sy = box.h / rows;
  const at = (j, i) => [box.x + (j + .5) * sx, box.y + (i + .5) * sy];
  for (let i = 0; i + 1 < rows; i++) for (let j = 0; j + 1 < columns; j++) {
    const a = label(i, j), b = label(i, j + 1), c = label(i + 1, j + 1), d = label(i + 1, j);
    if (a === b && b === c && c === d) continue;
    const points = [];
    if (a !== b) points.push(at(j + .5, i));
    if (b !== c) points.push(at(j + 1, i + .5));
    if (c !== d) points.push(at(j + .5, i + 1));
    if (d !== a) points.push(at(j, i + .5));
    if (points.length === 2) {
      context.moveTo(...points[0]);
      context.lineTo(...points[1]);
    } else for (const point of points) {
      context.moveTo(...at(j + .5, i + .5));
      context.lineTo(...point);
    }
  }
}

function stroke(context, colour, width, trace) {
  context.beginPath();
  trace();
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.lineCap = context.lineJoin = "round";
  context.stroke();
}

// ---- page elements -------------------------------------------------------------------------------------------------

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function slider(name, low, high, value, step, shown, changed) {
  const output = element("output", { textContent: shown(value) });
  const input = element("input", { type: "range", min: low, max: high, step, value, ariaLabel: name });
  input.addEventListener("input", () => { output.textContent = shown(+input.value); changed(+input.value); });
  const made = element("label", {}, name, input, output);
  made.set = v => { input.value = v; output.textContent = shown(v); };
  return made;
}

function segments(name, choices, chosen, changed) {
  const buttons = choices.map(([key, text]) => {
    const button = element("button", { type: "button", textContent: text, ariaPressed: String(key === chosen) });
    button.addEventListener("click", () => {
      for (const other of buttons) other.ariaPressed = String(other === button);
      changed(key);
    });
    return button;
  });
  return element("div", { className: "segments" }, name, element("span", {}, ...buttons));
}

function tick(name, checked, changed) {
  const input = element("input", { type: "checkbox", checked });
  input.addEventListener("change", () => changed(input.checked));
  return element("label", {}, input, name);
}

function choice(name, texts, changed) {
  const made = element("select", { ariaLabel: name }, ...texts.map((text, value) => element("option", { textContent: text, value })));
  made.addEventListener("change", () => changed(+made.value));
  return element("label", {}, name, made);
}

function scale(stops, numbers) {
  const strip = element("i", {});
  strip.style.background = `linear-gradient(90deg, ${stops.join(", ")})`;
  return element("div", { className: "scale" }, strip, element("div", {}, ...numbers.map(n => element("span", { textContent: n }))));
}

const key = (colour, text, square) => {
  const patch = element("i", { className: square ? "square" : "" });
  patch.style.background = colour;
  return element("span", { className: "key" }, patch, text);
};
const line = (...children) => element("p", {}, ...children);
const dim = text => element("p", { className: "dim", textContent: text });
const short = (x, digits = 3) => Number.isFinite(x) ? String(+x.toPrecision(digits)).replace("-", "−") : "–";
const capital = text => text[0].toUpperCase() + text.slice(1);

// ---- the viewer of one pair ----------------------------------------------------------------------------------------

async function view(host) {
  const number = host.dataset.pair;
  const head = JSON.parse(document.getElementById(`head-${number}`).textContent);
  const data = {};
  await Promise.all(Object.entries(head.arrays).map(async ([name, spec]) => {
    data[name] = await decode(document.getElementById(`data-${number}-${name}`).textContent, spec);
  }));
  const dims = head.shape.length;
  const finest = Math.min(...head.spacing);
  const stride = strides(head.shape);
  const sameLattice = String(head.shape) === String(head.moving_shape);
  const state = {
    at: head.shape.map(n => n >> 1), plane: "all", compare: "checkerboard", other: "warped", smooth: true, crosshair: dims === 3,
    every: head.grid_every, tile: Math.max(1, Math.round(Math.max(...head.shape) / 10)), opacity: .5, rate: 2, blink: false, label: 0,
  };
  const flat = at => at.reduce((sum, k, axis) => sum + k * stride[axis], 0);
  const value = (array, index) => array.low + array.step * array.codes[index];
  const movingAt = () => head.moving_shape.map((n, axis) =>
    Math.round(state.at[axis] * (n - 1) / Math.max(head.shape[axis] - 1, 1)));
  const redraw = () => { if (!redraw.asked) { redraw.asked = true; requestAnimationFrame(drawAll); } };
  const set = (name, redo) => v => { state[name] = v; if (redo) redo(); redraw(); };

  // -- what each panel draws in one view

  const grey = (array, dimmed = 1) => (context, box, slice) =>
    paint(context, box, slice.rows, slice.columns, (i, j) => {
      const g = array.codes[slice.index(i, j)] * dimmed;
      return [g, g, g];
    }, state.smooth);

  const folds = (context, box, slice) => {
    const sx = box.w / slice.columns, sy = box.h / slice.rows, least = 2.5 * (window.devicePixelRatio || 1);
    context.fillStyle = FOLD;
    for (let i = 0; i < slice.rows; i++) for (let j = 0; j < slice.columns; j++) {
      if (data.log_jacobian.codes[slice.index(i, j)] !== FOLDED_CODE) continue;
      const w = Math.max(sx, least), h = Math.max(sy, least);
      context.fillRect(box.x + (j + .5) * sx - w / 2, box.y + (i + .5) * sy - h / 2, w, h);
    }
  };

  const coloured = (array, colours) => (context, box, slice) =>
    paint(context, box, slice.rows, slice.columns, (i, j) => colours[array.codes[slice.index(i, j)]], false);

  const grid = (context, box, slice, view) => {
    grey(data.warped, .72)(context, box, slice);
    folds(context, box, slice);
    const size = stride[0] * head.shape[0], u = data.displacement;
    stroke(context, GRID, 1.15 * (window.devicePixelRatio || 1), () => {
      for (const [axis, along] of [[view.row, 0], [view.column, 1]]) {
        const flip = along ? view.flip_column : view.flip_row, n = head.shape[axis];
        const values = new Float32Array(slice.rows * slice.columns);
        for (let i = 0; i < slice.rows; i++) for (let j = 0; j < slice.columns; j++) {
          const k = along ? j : i;
          values[i * slice.columns + j] = (flip ? n - 1 - k : k) + u.step * u.codes[axis * size + slice.index(i, j)];
        }
        const every = state.every * finest / head.spacing[axis];
        levelSets(context, box, slice.rows, slice.columns, (i, j) => values[i * slice.columns + j], every);
      }
    });
  };

  const compare = (context, box, slice, view) => {
    const other = data[state.other], { fixed } = data;
    const a = (i, j) => fixed.codes[slice.index(i, j)], b = (i, j) => other.codes[slice.index(i, j)];
    const tile = axis => Math.max(1, Math.round(state.tile * finest / head.spacing[axis]));
    const th = tile(view.row), tw = tile(view.column), t = state.opacity;
    const colour = {
      checkerboard: (i, j) => GREYS[(Math.floor(i / th) + Math.floor(j / tw)) % 2 ? b(i, j) : a(i, j)],
      blink: (i, j) => GREYS[state.blink ? b(i, j) : a(i, j)],
      colours: (i, j) => { const f = a(i, j) * Math.min(1, 2 - 2 * t), w = b(i, j) * Math.min(1, 2 * t); return [f, w, f]; },
      fade: (i, j) => { const g = a(i, j) * (1 - t) + b(i, j) * t; return [g, g, g]; },
    }[state.compare];
    paint(context, box, slice.rows, slice.columns, colour, state.smooth && state.compare !== "checkerboard");
  };

  const labels = (under, own, other) => (context, box, slice) => {
    grey(data[under], .8)(context, box, slice);
    const width = 1.4 * (window.devicePixelRatio || 1);
    for (const [name, colour] of [[own, FIXED_LABELS], [other, OTHER_LABELS]]) if (name && data[name])
      stroke(context, colour, width, () =>
        outlines(context, box, slice.rows, slice.columns, (i, j) => {
          const code = data[name].codes[slice.index(i, j)];
          return state.label && code !== state.label ? 0 : code;
        }));
  };

  // -- panels: title, drawing, legend (called anew whenever the crosshair moves)

  const here = () => flat(state.at);
  const grown = x => short(Math.exp(x), 2);
  const logAt = () => {
    const log = value(data.log_jacobian, here());
    return data.log_jacobian.codes[here()] === FOLDED_CODE ? "a fold" : `${short(log, 2)}, volume × ${grown(log)}`;
  };
  const nameAt = (name, index) => head.label_names[data[name].codes[index]];
  const foldKey = () => key(FOLD, head.folded_rule ? `fold (${head.folded_rule})` : "fold", true);
  const panels = [
    { title: "Moving", shape: head.moving_shape, spacing: head.moving_spacing, at: movingAt, draw: grey(data.moving),
      legend: () => [...(sameLattice ? [] : [dim(`on its own lattice, ${head.moving_shape.join(" × ")}`)]),
                     dim(`intensity ${short(value(data.moving, movingAt().reduce((s, k, a) => s + k * strides(head.moving_shape)[a], 0)))}`)] },
    { title: "Fixed", draw: grey(data.fixed), legend: () => [dim(`intensity ${short(value(data.fixed, here()))}`)] },
    { title: "Warped", draw: grey(data.warped), legend: () => [dim(`intensity ${short(value(data.warped, here()))}`)] },
    { title: () => ({ checkerboard: "Checkerboard", blink: "Blink", colours: "Magenta / green", fade: "Fade" })[state.compare],
      draw: compare, legend: () => ({
        checkerboard: [dim(`tiles of fixed and ${state.other}`)],
        blink: [dim(`now: ${state.blink ? state.other : "fixed"}`)],
        colours: [line(key("#ff3cff", "fixed", true), key("#3cff3c", state.other, true)), dim("grey where they agree")],
        fade: [dim(`${Math.round(100 - 100 * state.opacity)} % fixed, ${Math.round(100 * state.opacity)} % ${state.other}`)],
      })[state.compare] },
    { title: "Warped grid", draw: grid, legend: () => [
      line(key(GRID, `every ${short(state.every)} voxels`), ...(folded.length ? [key(FOLD, "fold", true)] : [])),
      dim(`displacement ${state.at.map((_, axis) => data.displacement.step * data.displacement.codes[axis * stride[0] * head.shape[0] + here()]).map(x => short(x, 2)).join(", ")} voxels`)] },
    { title: "log Jacobian", draw: (context, box, slice) => { coloured(data.log_jacobian, LOG_COLOURS)(context, box, slice); folds(context, box, slice); },
      legend: () => [
        scale(DIVERGING, [`−${short(head.log_limit)}`, "0", `+${short(head.log_limit)}`]),
        folded.length ? line(foldKey()) : dim(head.folded_rule ? `no fold (${head.folded_rule})` : "no fold"),
        dim(`here ${logAt()}`)] },
  ];
  if (data.inverse_error) panels.push({
    title: "Inverse-consistency error", draw: coloured(data.inverse_error, ERROR_COLOURS), legend: () => [
      scale(SEQUENTIAL, ["0", short(head.error_limit / 2), `≥ ${short(head.error_limit)}`]),
      dim(`voxels; here ${short(value(data.inverse_error, here()), 2)}`)] });
  if (data.least_volume) panels.push({
    title: "Least volume change", draw: (context, box, slice) => { coloured(data.least_volume, ERROR_COLOURS)(context, box, slice); folds(context, box, slice); },
    legend: () => [
      scale(SEQUENTIAL, ["0", "½", "≥ 1"]),
      folded.length ? line(foldKey()) : dim("proven above 0 in every cell"),
      dim(`bound in the cells around here ${short(value(data.least_volume, here()), 2)}`)] });
  if (data.moving_labels && sameLattice) panels.push({
    title: "Labels before", draw: labels("fixed", "fixed_labels", "moving_labels"), legend: () => [
      line(...(data.fixed_labels ? [key(FIXED_LABELS, "fixed")] : []), key(OTHER_LABELS, "moving")), dim(labelled("moving_labels"))] });
  else if (data.moving_labels) panels.push({
    title: "Labels before", shape: head.moving_shape, spacing: head.moving_spacing, at: movingAt,
    draw: labels("moving", null, "moving_labels"), legend: () => [line(key(OTHER_LABELS, "moving")), dim("on its own lattice")] });
  if (data.warped_labels || data.fixed_labels) panels.push({
    title: data.warped_labels ? "Labels after" : "Labels", draw: labels("fixed", "fixed_labels", "warped_labels"), legend: () => [
      line(...(data.fixed_labels ? [key(FIXED_LABELS, "fixed")] : []), ...(data.warped_labels ? [key(OTHER_LABELS, "warped")] : [])),
      dim(labelled("warped_labels"))] });
  function labelled(name) {
    const parts = [];
    if (data.fixed_labels) parts.push(`fixed ${nameAt("fixed_labels", here())}`);
    if (data[name]) parts.push(`${name.split("_")[0]} ${nameAt(name, here())}`);
    return `label here: ${parts.join(", ")}`;
  }

  // -- controls

  const places = dims === 3 ? head.views.map(view =>
    slider(capital(view.name), 0, head.shape[view.normal] - 1, state.at[view.normal], 1, String, v => { state.at[view.normal] = v; redraw(); })) : [];
  const move = at => {
    state.at = at;
    places.forEach((place, k) => place.set(at[head.views[k].normal]));
    redraw();
  };
  const compareSliders = {
    checkerboard: slider("tile", 1, Math.max(4, Math.max(...head.shape) >> 1), state.tile, 1, v => `${v} voxels`, set("tile")),
    blink: slider("rate", .5, 8, state.rate, .5, v => `${v} / s`, set("rate", timing)),
    colours: slider("balance", 0, 1, .5, .02, v => `${Math.round(100 * v)} %`, set("opacity")),
    fade: slider("opacity", 0, 1, .5, .02, v => `${Math.round(100 * v)} %`, set("opacity")),
  };
  function comparing(kind) {
    state.compare = kind;
    for (const [name, control] of Object.entries(compareSliders)) control.style.display = name === kind ? "" : "none";
    if (kind === "colours" || kind === "fade") compareSliders[kind].set(state.opacity);
    timing();
    redraw();
  }
  let timer;
  function timing() {
    clearInterval(timer);
    if (state.compare === "blink") timer = setInterval(() => { state.blink = !state.blink; redraw(); }, 1000 / state.rate);
  }
  const folded = foldedPlaces();
  let visited = 0;
  function foldedPlaces() {  // a folded voxel of each slice that has any, slices with the most folds first
    const found = new Map(), codes = data.log_jacobian.codes;
    for (let k = 0; k < codes.length; k++) if (codes[k] === FOLDED_CODE) {
      const slice = dims === 3 ? Math.floor(k / stride[0]) : 0;
      if (!found.has(slice)) found.set(slice, []);
      found.get(slice).push(k);
    }
    return [...found.values()].sort((a, b) => b.length - a.length).map(all => all[all.length >> 1]);
  }
  const toFold = element("button", { type: "button", className: "plain", textContent: "Go to a fold" });
  toFold.addEventListener("click", () => {
    let rest = folded[visited++ % folded.length];
    state.crosshair = true;
    move(stride.map(s => { const k = Math.floor(rest / s); rest -= k * s; return k; }));
  });
  const controls = element("div", { className: "bar-of-controls" },
    ...(dims === 3 ? [segments("", [["all", "All"], ...head.views.map((view, k) => [k, capital(view.name)])], "all", set("plane", layout))] : []),
    ...places,
    segments("", [["checkerboard", "Checkerboard"], ["blink", "Blink"], ["colours", "Magenta / green"], ["fade", "Fade"]], "checkerboard", comparing),
    ...Object.values(compareSliders),
    ...(sameLattice ? [segments("fixed against", [["warped", "warped"], ["moving", "moving"]], "warped", set("other"))] : []),
    slider("grid", 1, Math.max(8, 3 * head.grid_every), state.every, 1, v => `${v} voxels`, set("every")),
    tick("smooth", state.smooth, set("smooth")),
    ...(dims === 3 ? [tick("crosshair", true, set("crosshair"))] : []),
    ...(head.label_names.length > 2 ? [choice("label", ["all", ...head.label_names.slice(1)], set("label"))] : []),
    ...(folded.length ? [toFold] : []));

  // -- cards

  const cards = panels.map(panel => {
    const canvas = element("canvas", {}), legend = element("div", { className: "legend" });
    canvas.setAttribute("role", "img");
    const stage = element("div", { className: "stage" }, canvas);
    const title = element("span", {});
    const widen = element("button", { type: "button", title: "larger or smaller", textContent: "⤢", ariaLabel: "larger or smaller" });
    const card = element("figure", { className: "panel" }, element("figcaption", {}, title, widen), stage, legend);
    widen.addEventListener("click", () => { card.classList.toggle("wide"); redraw(); });
    const made = { panel, canvas, legend, stage, title, card, boxes: [] };
    const point = event => {
      const edge = canvas.getBoundingClientRect(), ratio = canvas.width / edge.width;
      const x = (event.clientX - edge.left) * ratio, y = (event.clientY - edge.top) * ratio;
      const box = made.boxes.find(b => x >= b.x && y >= b.y && x < b.x + b.w && y < b.y + b.h);
      if (!box) return;
      const { view } = box, at = [...state.at];
      for (const [axis, share, flip] of [[view.row, (y - box.y) / box.h, view.flip_row], [view.column, (x - box.x) / box.w, view.flip_column]]) {
        const k = Math.min(Math.floor(share * head.shape[axis]), head.shape[axis] - 1);
        at[axis] = flip ? head.shape[axis] - 1 - k : k;
      }
      move(at);
    };
    canvas.addEventListener("pointerdown", event => { canvas.setPointerCapture(event.pointerId); state.crosshair ||= dims === 2; point(event); });
    canvas.addEventListener("pointermove", event => { if (event.buttons) point(event); });
    return made;
  });

  // Views side by side in mm: coronal and sagittal above, axial below the coronal, words in the free corner.
  function arrange(panel) {
    const shape = panel.shape || head.shape, spacing = panel.spacing || head.spacing;
    const size = view => [shape[view.column] * spacing[view.column], shape[view.row] * spacing[view.row]];
    if (dims === 2 || state.plane !== "all") {
      const view = head.views[dims === 2 ? 0 : state.plane], [w, h] = size(view);
      return { w, h, places: [{ view, x: 0, y: 0, w, h }] };
    }
    const [axial, coronal, sagittal] = head.views, [w, h] = size(axial), depth = size(coronal)[1], gap = .02 * (w + h);
    return {
      w: w + gap + h, h: depth + gap + h, corner: { x: w + gap, y: depth + gap },
      places: [
        { view: coronal, x: 0, y: 0, w, h: depth },
        { view: sagittal, x: w + gap, y: 0, w: h, h: depth },
        { view: axial, x: 0, y: depth + gap, w, h },
      ],
    };
  }

  function layout() {
    for (const { panel, stage, canvas, legend, card } of cards) {
      const plan = arrange(panel);
      canvas.style.aspectRatio = `${plan.w} / ${plan.h}`;
      const pixels = canvas.clientWidth / plan.w;
      if (plan.corner && (plan.w - plan.corner.x) * pixels > 140 && (plan.h - plan.corner.y) * pixels > 120) {
        stage.append(legend);
        legend.classList.add("inset");
        legend.style.cssText = `left:${100 * plan.corner.x / plan.w}%;top:${100 * plan.corner.y / plan.h}%;right:0;bottom:0`;
      } else {
        card.append(legend);
        legend.classList.remove("inset");
        legend.style.cssText = "";
      }
    }
  }

  function drawAll() {
    redraw.asked = false;
    for (const card of cards) card.stale = true;
    drawVisible();
  }

  function drawVisible() {
    for (const card of cards) {
      const edge = card.card.getBoundingClientRect();
      const away = edge.bottom < -200 || edge.top > window.innerHeight + 200;
      if (!card.stale || away && card.boxes.length) continue;
      card.stale = false;
      drawCard(card);
    }
  }

  function drawCard(card) {
    const { panel, canvas, legend, title } = card;
    const ratio = window.devicePixelRatio || 1, plan = arrange(panel);
    const width = Math.round(canvas.clientWidth * ratio), factor = width / plan.w, height = Math.round(plan.h * factor);
    if (!width) return;
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    const shape = panel.shape || head.shape, at = panel.at ? panel.at() : state.at;
    card.boxes = plan.places.map(({ view, x, y, w, h }) => ({ view, x: x * factor, y: y * factor, w: w * factor, h: h * factor }));
    for (const box of card.boxes) {
      context.save();
      context.beginPath();
      context.rect(box.x, box.y, box.w, box.h);
      context.clip();
      panel.draw(context, box, slicer(shape, box.view, at), box.view);
      if (state.crosshair) crosshair(context, box, shape, at, ratio);
      letters(context, box, ratio);
      context.restore();
    }
    title.textContent = typeof panel.title === "function" ? panel.title() : panel.title;
    canvas.setAttribute("aria-label", title.textContent);
    legend.replaceChildren(...panel.legend());
  }

  function crosshair(context, box, shape, at, ratio) {
    const { view } = box, share = (axis, flip) => ((flip ? shape[axis] - 1 - at[axis] : at[axis]) + .5) / shape[axis];
    const x = box.x + share(view.column, view.flip_column) * box.w, y = box.y + share(view.row, view.flip_row) * box.h, gap = 7 * ratio;
    stroke(context, "rgba(255,255,255,.5)", ratio, () => {
      for (const [x0, y0, x1, y1] of [[box.x, y, x - gap, y], [x + gap, y, box.x + box.w, y], [x, box.y, x, y - gap], [x, y + gap, x, box.y + box.h]])
        if (x1 > x0 || y1 > y0) { context.moveTo(x0, y0); context.lineTo(x1, y1); }
    });
  }

  function letters(context, box, ratio) {
    const [left, right, top, bottom] = box.view.letters, inset = 4 * ratio;
    context.font = `600 ${11 * ratio}px system-ui, sans-serif`;
    context.fillStyle = "#fff";
    context.shadowColor = "#000";
    context.shadowBlur = 3 * ratio;
    for (const [text, x, y, align, baseline] of [
      [left, box.x + inset, box.y + box.h / 2, "left", "middle"], [right, box.x + box.w - inset, box.y + box.h / 2, "right", "middle"],
      [top, box.x + box.w / 2, box.y + inset, "center", "top"], [bottom, box.x + box.w / 2, box.y + box.h - inset, "center", "bottom"],
    ]) {
      context.textAlign = align;
      context.textBaseline = baseline;
      context.fillText(text, x, y);
    }
  }

  const table = element("div", { className: "cards" }, ...cards.map(c => c.card));
  host.classList.toggle("flat", dims === 2);
  table.style.setProperty("--columns", dims === 2 && cards.length % 4 !== 1 && cards.length % 4 !== 2 ? 4 : 3);
  comparing("checkerboard");
  host.replaceChildren(controls, table);
  layout();
  drawAll();
  new ResizeObserver(() => { layout(); redraw(); }).observe(table);
  window.addEventListener("scroll", drawVisible, { passive: true });
  window.addEventListener("resize", drawVisible);
  window.addEventListener("beforeprint", () => cards.forEach(drawCard));
}

if (!("DecompressionStream" in window)) return;  // the still pictures stay
const watch = new IntersectionObserver(entries => {
  for (const entry of entries) if (entry.isIntersecting) {
    watch.unobserve(entry.target);
    view(entry.target).catch(error => entry.target.append(`The viewer could not start: ${error.message}`));
  }
}, { rootMargin: "1200px" });
document.querySelectorAll(".viewer[data-pair]").forEach(host => watch.observe(host));
})();
