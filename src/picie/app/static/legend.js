// The segments: name, share, typical places. A click hides one; the pencil renames or splits it;
// ticked ones are merged.

import { byId, make, swatch } from "./make.js";

export class Legend {
  /**
   * `on` has the callbacks `toggle(value)`, `point(value or null)`, `change(changes)`, which may
   * throw, `filter(value)` and `open(index)`.
   */
  constructor(on) {
    this.on = on;
    this.rows = new Map();
    this.ticked = new Set();
    this.sheets = null;
    this.forms();
  }

  show(segments, shares, hidden) {
    this.segments = segments;
    this.ticked.clear();
    const order = segments.map((_, value) => value);
    if (shares) order.sort((a, b) => shares[b] - shares[a] || a - b);
    const present = shares ? order.filter((value) => shares[value] > 0) : order;
    const absent = order.filter((value) => !present.includes(value));
    const largest = shares ? Math.max(...shares) : 1;
    this.rows.clear();
    const row = (value) => this.row(value, segments[value], shares && shares[value], largest, hidden.has(value));
    byId("legend").replaceChildren(...present.map(row));
    byId("absent").replaceChildren(...absent.map(row));
    byId("rest").hidden = !absent.length;
    byId("rest").firstElementChild.textContent = `${absent.length} not in this picture`;
    this.merging();
    this.fill();
  }

  /** Show the contact sheets that the server made; null if there are none yet. */
  take(sheets) {
    this.sheets = sheets;
    this.fill();
  }

  fill() {
    if (this.sheets?.segments.length !== this.segments?.length) return;
    for (const [value, item] of this.rows) {
      const { crops } = this.sheets.segments[value], name = this.segments[value].name;
      item.querySelector(".crops").replaceChildren(...crops.map((crop) => {
        const image = make("img", { src: crop.src, alt: `${name} in ${crop.name}`, width: 112, height: 112 });
        const button = make("button", { type: "button", title: `Open ${crop.name}` }, image);
        button.onclick = () => this.on.open(crop.index);
        return button;
      }));
    }
  }

  row(value, segment, share, largest, hidden) {
    const toggle = make("button", { type: "button", className: "toggle", title: segment.name, "aria-pressed": String(!hidden) },
      swatch(segment.color), make("span", { className: "name", textContent: segment.name }));
    if (share) {
      const length = make("i", { className: "length" });
      length.style.width = `${(100 * share) / largest}%`;
      toggle.append(make("span", { className: "share", textContent: percent(share) }), length);
    }
    toggle.onclick = () => this.on.toggle(value);
    const tick = make("input", { type: "checkbox", className: "tick", title: "Tick several to merge them", "aria-label": `Tick ${segment.name}` });
    tick.onchange = () => {
      this.ticked[tick.checked ? "add" : "delete"](value);
      this.merging();
    };
    const edit = make("button", { type: "button", className: "edit", textContent: "✎", title: "Name, colour, split",
      "aria-label": `Name, colour and parts of ${segment.name}` });
    const item = make("li", {}, tick, toggle, edit, make("div", { className: "crops" }));
    item.dataset.value = value;
    item.onpointerenter = () => this.on.point(value);
    item.onpointerleave = () => this.on.point(null);
    edit.onclick = () => this.edit(item, value, segment);
    this.rows.set(value, item);
    return item;
  }

  edit(item, value, segment) {
    const open = item.querySelector("form");
    if (open) {
      open.remove();
      return;
    }
    const color = make("input", { type: "color", value: segment.color, "aria-label": "Colour" });
    const name = make("input", { type: "text", value: segment.name, "aria-label": "Name", autocomplete: "off" });
    const save = make("button", { type: "submit", className: "primary", textContent: "Save" });
    const cancel = make("button", { type: "button", textContent: "Cancel" });
    const parts = make("input", { type: "number", value: "2", min: "2", max: "99", "aria-label": "Number of parts" });
    const split = make("button", { type: "button", className: "split", textContent: "Split" });
    const filter = make("button", { type: "button", textContent: "Pictures with it" });
    const problem = make("p", { className: "wrong", hidden: true, role: "alert" });
    const more = make("div", { className: "bar" }, "Split into ", parts, split, filter);
    const form = make("form", {}, color, name, save, cancel, more, problem);
    const close = () => {
      form.remove();
      item.querySelector(".edit").focus();
    };
    cancel.onclick = close;
    form.onkeydown = (event) => {
      if (event.key === "Escape") close();
    };
    const reference = refer(segment);
    const rename = () => this.on.change({ names: [{ segment: reference, name: name.value, color: color.value }] }, "Saving…");
    split.disabled = !segment.clusters.length;
    split.onclick = () => attempt(form, problem, () =>
      this.on.change({ splits: [{ segment: reference, parts: Number(parts.value) }] }, "Splitting… The first time this looks at up to several hundred pictures."));
    filter.onclick = () => this.on.filter(value);
    form.onsubmit = async (event) => {
      event.preventDefault();
      const other = this.segments.find((one) => one !== segment && one.name === name.value.trim());
      if (other && segment.clusters.length && other.clusters.length) this.offer(form, problem, segment, other);
      else if (await attempt(form, problem, rename)) this.rows.get(value)?.querySelector(".edit").focus();
      else name.focus();
    };
    item.append(form);
    name.select();
  }

  /** A name that another segment has: offer to merge the two. */
  offer(form, problem, segment, other) {
    const merge = make("button", { type: "button", textContent: `Merge the two as ${other.name}` });
    merge.onclick = () => attempt(form, problem, () =>
      this.on.change({ merges: [{ segments: [refer(other), refer(segment)] }] }, "Saving…"));
    problem.replaceChildren(`Another segment has the name ${other.name}. `, merge);
    problem.hidden = false;
    merge.focus();
  }

  forms() {
    const merge = byId("merge"), clusters = byId("clusters");
    const problem = (form) => form.querySelector(".wrong");
    merge.onsubmit = (event) => {
      event.preventDefault();
      const segments = [...this.ticked].map((value) => refer(this.segments[value]));
      attempt(merge, problem(merge), () => this.on.change({ merges: [{ segments, name: byId("merged").value }] }, "Saving…"));
    };
    merge.querySelector("[type=button]").onclick = () => {
      for (const tick of document.querySelectorAll(".tick")) tick.checked = false;
      this.ticked.clear();
      this.merging();
    };
    const open = (shown) => {
      clusters.hidden = !shown;
      byId("recluster").setAttribute("aria-expanded", String(shown));
    };
    byId("recluster").onclick = () => {
      open(clusters.hidden);
      byId("k").value = new Set(this.segments.flatMap((segment) => segment.clusters)).size;
      if (!clusters.hidden) byId("k").select();
    };
    clusters.querySelector("[type=button]").onclick = () => open(false);
    clusters.onsubmit = async (event) => {
      event.preventDefault();
      const change = () => this.on.change({ k: Number(byId("k").value) }, "Clustering… The first time this looks at up to several hundred pictures.");
      if (await attempt(clusters, problem(clusters), change)) open(false);
    };
  }

  merging() {
    const names = [...this.ticked].map((value) => this.segments[value].name);
    byId("merge").hidden = names.length < 2;
    byId("merge").querySelector(".wrong").hidden = true;
    byId("merge").firstElementChild.textContent = `Merge ${names.length} as`;
    byId("merged").value = names.find((name) => !/^cluster \d/.test(name)) ?? names[0] ?? "";
  }

  point(value) {
    for (const [key, item] of this.rows) item.classList.toggle("pointed", key === value);
  }
}

/** How a request names a segment: by one of its clusters, whose numbers never change. */
const refer = (segment) => (segment.clusters.length ? String(segment.clusters[0]) : segment.name);

/** Do `work` while the form's buttons are disabled. Show its error in `problem`; true if none. */
async function attempt(form, problem, work) {
  const buttons = [...form.querySelectorAll("button")].filter((button) => !button.disabled);
  for (const button of buttons) button.disabled = true;
  problem.hidden = true;
  try {
    await work();
    return true;
  } catch (error) {
    problem.textContent = error.message;
    problem.hidden = false;
    return false;
  } finally {
    for (const button of buttons) button.disabled = false;
  }
}

export function percent(share) {
  const figure = 100 * share;
  return figure < 0.1 ? "< 0.1 %" : `${figure.toFixed(1)} %`;
}
