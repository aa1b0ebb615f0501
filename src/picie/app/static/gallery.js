// The strip of pictures to choose from.

import { byId, make } from "./make.js";
import * as server from "./server.js";

export class Gallery {
  constructor(choose) {
    this.choose = choose;
    this.list = byId("gallery").querySelector("ul");
    this.more = make("button", { type: "button", className: "more", textContent: "More…" });
  }

  async add(count) {
    const start = this.list.querySelectorAll("[data-index]").length;
    const names = await server.names(start);
    this.more.remove();
    this.list.append(...names.map((name, i) => this.item(start + i, name)));
    if (start + names.length < count) this.list.append(this.more);
    this.more.onclick = () => this.add(count);
    byId("gallery").hidden = false;
  }

  item(index, name) {
    const image = make("img", { src: server.thumbnailPath(index), alt: name, loading: "lazy" });
    const button = make("button", { type: "button", title: name }, image);
    button.dataset.index = index;
    button.onclick = () => this.choose(index, name);
    return make("li", {}, button);
  }

  mark(index) {
    for (const button of this.list.querySelectorAll("[data-index]")) {
      button.setAttribute("aria-current", String(Number(button.dataset.index) === index));
    }
  }
}
