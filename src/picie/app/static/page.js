// The page: its state and its event handlers.

import { Gallery } from "./gallery.js";
import { Legend } from "./legend.js";
import { byId } from "./make.js";
import { Pixel } from "./pixel.js";
import * as server from "./server.js";
import { View } from "./view.js";

const POLL = 1500; // ms between requests for the progress of the features
const current = {
  segments: [], gallery: null, limits: null, // of the run
  picture: null, name: "", hidden: new Set(), // of the picture on the page
  point: null, answer: null, cursor: { x: 0.5, y: 0.5 },
};
const view = new View(byId("canvas"));
const legend = new Legend({ toggle, point: (value) => legend.point(value), rename });
const pixel = new Pixel((index) => openOf(index));
const gallery = new Gallery((index) => openOf(index));

function say(problem) {
  byId("problem").hidden = !problem;
  byId("problem").firstElementChild.textContent = problem ?? "";
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
  byId("busy").hidden = false;
  try {
    const picture = await ask();
    const [blob, values] = await Promise.all([server.picture(picture.key), server.values(picture.key)]);
    if (request !== opening) return;
    Object.assign(current, { picture, name, point: null, answer: null });
    byId("hint").hidden = true;
    for (const id of ["frame", "tools", "caption"]) byId(id).hidden = false;
    byId("drop").classList.add("full");
    await view.show(blob, picture.shownWidth, picture.shownHeight, values);
    byId("caption").textContent = `${name} · ${picture.width} × ${picture.height} pixels. Click a place to find similar ones.`;
    byId("canvas").setAttribute("aria-label", `${name}, segmented. Arrow keys move the cursor, Enter looks up the pixel.`);
    byId("mask").href = server.maskPath(picture.key);
    byId("mask").download = `${stem(name)}_mask.png`;
    for (const id of ["pixel", "mark", "cursor", "tip"]) byId(id).hidden = true;
    gallery.mark(index);
    show();
  } finally {
    if (request === opening) byId("busy").hidden = true;
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
  const [name] = await server.names(index);
  await open(name, index, () => server.choose(index));
});

// ---- segments

function show() {
  legend.show(current.segments, current.picture?.shares, current.hidden);
  draw();
  if (current.answer) pixel.show(current.answer, current.point.x, current.point.y, current.segments, current.gallery);
}

function draw() {
  const opacity = Number(byId("opacity").value) / 100;
  byId("tools").querySelector("output").textContent = `${byId("opacity").value} %`;
  view.draw({ segments: current.segments, hidden: current.hidden, opacity, outlines: byId("outlines").checked });
}

function toggle(value) {
  if (!current.hidden.delete(value)) current.hidden.add(value);
  const button = legend.rows.get(value).querySelector(".toggle");
  button.setAttribute("aria-pressed", String(!current.hidden.has(value)));
  draw();
}

async function rename(value, name, color) {
  try {
    current.segments = await server.rename(value, current.segments[value].name, name, color);
  } catch (error) {
    if (error.status === 409) { // the names were changed elsewhere: show the new ones
      current.segments = (await server.state()).segments;
      say(error.message);
      show();
    }
    throw error;
  }
  show();
}

// ---- pixels

const look = guarded(async ({ x, y }) => {
  const { picture } = current, point = { x: Math.floor(x * picture.width), y: Math.floor(y * picture.height) };
  current.point = point;
  place(byId("mark"), { x, y });
  const answer = await server.query(picture.key, point.x, point.y);
  current.gallery = (await server.state()).gallery;
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
  if (!at) return;
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
byId("all").onclick = () => {
  current.hidden.clear();
  show();
};
byId("none").onclick = () => {
  current.segments.forEach((_, value) => current.hidden.add(value));
  show();
};
byId("overlay").onclick = () => canvas.toBlob((blob) => {
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
  Object.assign(current, { segments: state.segments, limits: state.limits, gallery: state.gallery });
  document.title = `picie · ${state.run}`;
  byId("run").textContent = state.run;
  byId("limits").textContent = `or open one (at most ${state.limits.megabytes} MB and ${state.limits.megapixels} megapixels). It is sent only to picie app.`;
  if (state.gallery) await gallery.add(state.gallery.count);
  show();
  document.body.dataset.ready = "yes";
})();
