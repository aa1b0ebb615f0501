// The page: its state and its event handlers.

import { offerExports } from "./exports.js";
import { Gallery } from "./gallery.js";
import { Legend } from "./legend.js";
import { byId, make } from "./make.js";
import { Pixel } from "./pixel.js";
import * as server from "./server.js";
import { Teach } from "./teach.js";
import { View } from "./view.js";
import { Zoom } from "./zoom.js";

const POLL = 1500; // ms between requests for the progress of the features
const current = {
  segments: [], version: 0, gallery: null, limits: null, // of the run
  picture: null, name: "", hidden: new Set(), // of the picture on the page
  point: null, answer: null, cursor: { x: 0.5, y: 0.5 },
};
const view = new View(byId("canvas"), byId("plain"), byId("regions"));
const zoom = new Zoom(() => draw());
const legend = new Legend({
  toggle, change: (changes, text) => change((was) => server.change(was, changes), text), point: (value) => legend.point(value), open: (index) => openOf(index), filter: (value) => filter(value),
});
const pixel = new Pixel((index) => openOf(index));
const teach = new Teach({
  pixel: () => ({ key: current.picture.key, ...current.point }),
  apply: () => change((was) => server.teach(was), "Teaching…"),
});
const gallery = new Gallery((index) => openOf(index));

function say(problem) {
  byId("problem").hidden = !problem;
  byId("problem").firstElementChild.textContent = problem ?? "";
}

function busy(text) {
  byId("busy").hidden = !text;
  byId("busy").textContent = text ?? "";
}

/** A function that shows the errors of `work` at the top of the page. */
const guarded = (work) => async (...args) => {
  try {
    await work(...args);
  } catch (error) {
    say(error.message);
  }
};

// ---- pictures

let opening = 0; // the number of the latest request; answers to earlier ones are ignored

async function open(name, index, ask) {
  const request = (opening += 1);
  say(null);
  busy("Segmenting…");
  try {
    const picture = await ask();
    const [blob, values] = await Promise.all([server.picture(picture.key), server.values(picture.key)]);
    if (request !== opening) return;
    Object.assign(current, { picture, name, point: null, answer: null });
    byId("hint").hidden = true;
    for (const id of ["panes", "tools", "caption"]) byId(id).hidden = false;
    byId("drop").classList.add("full");
    await view.show(blob, picture.shownWidth, picture.shownHeight, values);
    zoom.start(picture.shownWidth, picture.shownHeight);
    byId("caption").textContent = `${name} · ${picture.width} × ${picture.height} pixels. Click a place to find similar ones.`;
    byId("canvas").setAttribute("aria-label", `${name}, segmented. Arrow keys move the cursor, Enter looks up the pixel.`);
    byId("mask").href = server.maskPath(picture.key);
    byId("mask").download = `${stem(name)}_mask.png`;
    for (const id of ["pixel", "mark", "cursor", "tip"]) byId(id).hidden = true;
    gallery.mark(index);
    await confide();
    show();
    follow();
  } finally {
    if (request === opening) busy(null);
  }
}

const stem = (name) => name.split("/").pop().replace(/\.[^.]*$/, "") || "picture";

const openFile = guarded(async (file) => {
  const limit = current.limits.megabytes;
  if (file.size > limit * 1e6) throw new Error(`${file.name}: the file is too large; the maximum is ${limit} MB`);
  try {
    await open(file.name, null, () => server.upload(file));
  } catch (error) {
    throw new Error(`${file.name}: ${error.message}`);
  }
});

const openOf = guarded(async (index) => {
  const [row] = await server.names(index);
  await open(row.name, index, () => server.choose(index));
});

/** Open the first picture that can be read. */
async function openFirst() {
  for (const button of gallery.buttons()) {
    const index = Number(button.dataset.index);
    try {
      await open(button.title, index, () => server.choose(index));
      return;
    } catch (error) {
      if (error.status !== 400) throw error;
      gallery.remove(index);
    }
  }
}

const filter = guarded(async (value) => {
  byId("filter").value = value ?? "";
  await gallery.show(current.gallery.count, value);
});

function filters() {
  const chosen = byId("filter").value, all = make("option", { value: "", textContent: "all" });
  byId("filter").replaceChildren(all, ...current.segments.map((segment, value) => make("option", { value, textContent: `with ${segment.name}` })));
  byId("filter").value = chosen in current.segments ? chosen : "";
}

// ---- contact sheets, which grow while the features are computed

let following = false, shown = { pictures: 0 };

const follow = guarded(async () => {
  if (following || !current.gallery) return;
  following = true;
  try {
    for (;;) {
      current.gallery = (await server.state()).gallery;
      const { seen, finished, unreadable } = current.gallery;
      byId("unreadable").textContent = unreadable ? `${unreadable} file${unreadable > 1 ? "s" : ""} cannot be read` : "";
      // at 4, 8, 16 ... pictures, and at the end
      if (seen >= 2 * Math.max(2, shown.pictures) || (finished && seen > shown.pictures)) await refresh(seen);
      if (finished) return;
      await new Promise((done) => setTimeout(done, POLL));
    }
  } finally {
    following = false;
  }
});

async function refresh(seen) {
  const sheets = await server.sheets();
  shown = { pictures: seen ?? shown.pictures };
  legend.take(sheets);
}

// ---- segments

function show() {
  legend.show(current.segments, current.picture?.shares, current.hidden);
  filters();
  teach.suggest(current.segments.map((segment) => segment.name));
  draw();
  if (current.answer) pixel.show(current.answer, current.point.x, current.point.y, current.segments, current.gallery);
}

function draw() {
  const opacity = Number(byId("opacity").value) / 100, confidence = byId("layer").value === "confidence" && view.confidence;
  byId("tools").querySelector("output").textContent = `${byId("opacity").value} %`;
  byId("scale").hidden = !confidence;
  view.draw({
    segments: current.segments, hidden: current.hidden, opacity, outlines: byId("outlines").checked,
    names: byId("names").checked, regions: current.picture?.regions ?? [], confidence,
  });
}

async function confide() {
  if (byId("layer").value === "confidence" && current.picture && !view.confidence) {
    view.confidence = await server.confidence(current.picture.key);
  }
}

function toggle(value) {
  if (!current.hidden.delete(value)) current.hidden.add(value);
  const button = legend.rows.get(value).querySelector(".toggle");
  button.setAttribute("aria-pressed", String(!current.hidden.has(value)));
  draw();
}

/** `ask(was)` requests a change; `was` are the names that the page shows. */
async function change(ask, text) {
  busy(text);
  try {
    await take(await ask(current.segments.map((segment) => segment.name)));
  } catch (error) {
    if (error.status === 409) { // the names were changed elsewhere: show the new ones
      await take(await server.state());
      say(error.message);
    }
    throw error;
  } finally {
    busy(null);
  }
}

/** Show the run's new segments, in the legend and in the picture. */
async function take({ segments, undo, version }) {
  const same = version === current.version && segments.length === current.segments.length
    && segments.every(({ clusters }, value) => String(clusters) === String(current.segments[value].clusters));
  const hidden = same ? current.hidden : new Set();
  const sheets = current.gallery && !same ? refresh() : null;
  if (current.picture && !same) {
    const { key } = current.picture;
    try {
      const [look, values] = await Promise.all([server.look(key), server.values(key)]);
      if (current.picture.key === key) {
        Object.assign(current.picture, look);
        view.take(values);
      }
    } catch (error) {
      if (error.status !== 410) throw error;
      Object.assign(current, { picture: null });
    }
    Object.assign(current, { answer: null });
    byId("pixel").hidden = byId("mark").hidden = true;
  }
  Object.assign(current, { segments, hidden, version });
  undoable(undo);
  await confide();
  show();
  await sheets;
}

function undoable(what) {
  byId("undo").disabled = !what;
  byId("undo").title = what ? `Undo ${what} (Ctrl Z)` : "Nothing to undo";
}

const undo = guarded(() => change((was) => server.change(was, { undo: true }), "Undoing…"));

// ---- pixels

const look = guarded(async ({ x, y }) => {
  const { picture } = current, point = { x: Math.floor(x * picture.width), y: Math.floor(y * picture.height) };
  current.point = point;
  place(byId("mark"), { x, y });
  const answer = await server.query(picture.key, point.x, point.y);
  if (current.gallery) current.gallery = (await server.state()).gallery;
  if (current.point !== point) return; // another pixel was clicked in the meantime
  current.answer = answer;
  pixel.show(answer, point.x, point.y, current.segments, current.gallery);
  if (current.gallery && !current.gallery.finished) setTimeout(() => current.point === point && look({ x, y }), POLL);
});

function place(element, { x, y }) {
  element.hidden = false;
  Object.assign(element.style, { left: `${100 * x}%`, top: `${100 * y}%` });
}

function point(at) {
  byId("tip").hidden = !at;
  if (!at) {
    legend.point(null);
    return;
  }
  const value = view.valueAt(at), tip = byId("tip"), box = byId("frame").getBoundingClientRect();
  tip.firstElementChild.style.background = current.segments[value].color;
  tip.lastElementChild.textContent = current.segments[value].name;
  const left = Math.min(at.x * box.width + 14, box.width - tip.offsetWidth);
  const below = at.y * box.height + 18, top = below + tip.offsetHeight > box.height ? below - 26 - tip.offsetHeight : below;
  Object.assign(tip.style, { left: `${Math.max(0, left)}px`, top: `${Math.max(0, top)}px` });
  legend.point(value);
}

const canvas = byId("canvas");
canvas.onpointermove = (event) => {
  if (event.pointerType === "mouse") point(view.place(event)); // touch has no hover
};
canvas.onpointerleave = () => point(null);
canvas.onclick = (event) => {
  const at = view.place(event);
  if (!at || zoom.dragged) return;
  byId("cursor").hidden = true;
  current.cursor = at;
  look(at);
};
canvas.onkeydown = (event) => {
  const step = event.shiftKey ? 0.1 : 0.02;
  const move = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
  if (event.key === "Enter" || event.key === " ") look(current.cursor);
  else if (!move) return;
  else {
    const within = (v) => Math.min(0.999, Math.max(0, v));
    current.cursor = { x: within(current.cursor.x + move[0]), y: within(current.cursor.y + move[1]) };
    place(byId("cursor"), current.cursor);
    point(current.cursor);
  }
  event.preventDefault();
};
canvas.onblur = () => {
  byId("cursor").hidden = true;
  point(null);
};

// ---- tools

byId("opacity").oninput = draw;
byId("outlines").onchange = draw;
byId("names").onchange = draw;
byId("beside").onchange = () => {
  byId("photo").hidden = !byId("beside").checked;
  zoom.fit();
};
byId("layer").onchange = guarded(async () => {
  await confide();
  draw();
});
byId("all").onclick = () => {
  current.hidden.clear();
  show();
};
byId("none").onclick = () => {
  current.segments.forEach((_, value) => current.hidden.add(value));
  show();
};
byId("undo").onclick = undo;
byId("filter").onchange = () => filter(byId("filter").value === "" ? null : Number(byId("filter").value));
byId("previous").onclick = guarded(() => gallery.step(-1));
byId("next").onclick = guarded(() => gallery.step(1));
byId("overlay").onclick = () => view.saved().toBlob((blob) => {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: `${stem(current.name)}_overlay.png` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
});
byId("problem").lastElementChild.onclick = () => say(null);
byId("file").onchange = (event) => {
  const [file] = event.target.files;
  event.target.value = ""; // allow choosing the same file again
  if (file) openFile(file);
};

function flip(id) {
  byId(id).checked = !byId(id).checked;
  byId(id).onchange();
}

const keys = {
  n: () => byId("next").click(),
  p: () => byId("previous").click(),
  "+": () => byId("larger").click(),
  "-": () => byId("smaller").click(),
  0: () => byId("fit").click(),
  b: () => flip("beside"),
  c: () => {
    byId("layer").value = byId("layer").value === "confidence" ? "segments" : "confidence";
    byId("layer").onchange();
  },
};
document.addEventListener("keydown", (event) => {
  if (event.target.closest("input:not([type=checkbox]):not([type=range]), select")) return;
  const isUndo = (event.ctrlKey || event.metaKey) && event.key === "z";
  if (isUndo && !byId("undo").disabled) undo();
  const action = event.ctrlKey || event.metaKey || event.altKey ? null : keys[event.key.toLowerCase()];
  if (action && current.picture) action();
  if (isUndo || action) event.preventDefault();
});

for (const kind of ["dragover", "dragleave", "drop"]) {
  // on the whole page; otherwise the browser opens a file that is dropped beside the picture
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    byId("drop").classList.toggle("over", kind === "dragover");
    const file = event.dataTransfer?.files[0];
    if (kind === "drop" && file) openFile(file);
  });
}

guarded(async () => {
  const state = await server.state();
  Object.assign(current, { segments: state.segments, version: state.version, limits: state.limits, gallery: state.gallery });
  view.ramp = state.ramp;
  byId("scale").querySelector("i").style.background = `linear-gradient(90deg, ${state.ramp.map((color) => `rgb(${color})`)})`;
  document.title = `picie · ${state.run}`;
  byId("run").textContent = state.run;
  byId("limits").textContent = `or open one (at most ${state.limits.megabytes} MB and ${state.limits.megapixels} megapixels). It is sent only to picie app.`;
  undoable(state.undo);
  teach.show(state.clicks);
  offerExports(state.formats);
  show();
  if (state.gallery) {
    await gallery.show(state.gallery.count, null);
    await openFirst();
  }
  document.body.dataset.ready = "yes";
})();
