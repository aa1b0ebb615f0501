// The strip of pictures: filtered by segment, with the next and the previous one.

import { byId, make } from "./make.js";
import * as server from "./server.js";

export class Gallery {
  constructor(choose) {
    this.choose = choose;
    this.count = 0;
    this.current = null;
    this.list = byId("gallery").querySelector("ul");
    const button = make("button", { type: "button", className: "more", textContent: "More…" });
    button.onclick = () => this.add();
    this.more = make("li", {}, button);
  }

  /** Show the pictures; `value` is a segment that they must contain, or null for all. */
  async show(count, value) {
    this.count = count;
    this.value = value;
    this.list.replaceChildren();
    byId("gallery").hidden = false;
    await this.add();
    if (value !== null && !this.buttons().length) this.list.append(make("li", { className: "note", textContent: "No picture with it so far." }));
  }

  async add() {
    const known = this.buttons(), start = known.length ? Number(known.at(-1).dataset.index) + 1 : 0;
    const rows = this.value === null ? await server.names(start) : await server.picturesWith(this.value);
    this.more.remove();
    this.list.append(...rows.map((row) => this.item(row)));
    if (this.value === null && rows.length && rows.at(-1).index + 1 < this.count) this.list.append(this.more);
    this.mark(this.current);
  }

  item({ index, name, share }) {
    const image = make("img", { src: server.thumbnailPath(index), alt: name, loading: "lazy" });
    const title = share === undefined ? name : `${name}: ${(100 * share).toFixed(0)} %`;
    const button = make("button", { type: "button", title }, image), item = make("li", {}, button);
    image.onerror = () => item.remove(); // the file cannot be read
    button.dataset.index = index;
    button.onclick = () => this.choose(index, name);
    return item;
  }

  buttons() {
    return [...this.list.querySelectorAll("[data-index]")];
  }

  remove(index) {
    this.list.querySelector(`[data-index="${index}"]`)?.parentElement.remove();
  }

  /** Open the picture `step` places after the current one, at the ends the nearest. */
  async step(step) {
    let buttons = this.buttons();
    const at = buttons.findIndex((button) => Number(button.dataset.index) === this.current);
    if (at + step >= buttons.length && this.more.isConnected) {
      await this.add();
      buttons = this.buttons();
    }
    const target = buttons[at < 0 ? 0 : Math.min(buttons.length - 1, Math.max(0, at + step))];
    if (!target || Number(target.dataset.index) === this.current) return;
    target.scrollIntoView({ block: "nearest", inline: "nearest" });
    target.click();
  }

  mark(index) {
    this.current = index;
    for (const button of this.buttons()) button.setAttribute("aria-current", String(Number(button.dataset.index) === index));
  }
}
