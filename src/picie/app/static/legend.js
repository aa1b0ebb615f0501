// The legend: the name and share of each colour. A click hides a segment; the pencil renames it.

import { byId, make, swatch } from "./make.js";

export class Legend {
  /**
   * `on` has the callbacks `toggle(value)`, `point(value or null)` and `rename(value, name, color)`.
   * `rename` may throw.
   */
  constructor(on) {
    this.on = on;
    this.rows = new Map();
  }

  show(segments, shares, hidden) {
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
    const edit = make("button", { type: "button", className: "edit", textContent: "✎", title: "Name and colour",
      "aria-label": `Name and colour of ${segment.name}` });
    const item = make("li", {}, toggle, edit);
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
    const problem = make("p", { hidden: true, role: "alert" });
    const form = make("form", {}, color, name, save, cancel, problem);
    const close = () => {
      form.remove();
      item.querySelector(".edit").focus();
    };
    cancel.onclick = close;
    form.onkeydown = (event) => {
      if (event.key === "Escape") close();
    };
    form.onsubmit = async (event) => {
      event.preventDefault();
      save.disabled = true;
      try {
        await this.on.rename(value, name.value, color.value);
        this.rows.get(value)?.querySelector(".edit").focus();
      } catch (error) {
        Object.assign(problem, { hidden: false, textContent: error.message });
        name.focus();
      }
      save.disabled = false;
    };
    item.append(form);
    name.select();
  }

  point(value) {
    for (const [key, item] of this.rows) item.classList.toggle("pointed", key === value);
  }
}

export function percent(share) {
  const figure = 100 * share;
  return figure < 0.1 ? "< 0.1 %" : `${figure.toFixed(1)} %`;
}
