// Clicks that teach classes: the pixel on the page gets a name, and several of them make classes.

import { byId, make } from "./make.js";
import * as server from "./server.js";

export class Teach {
  /** `on` has `pixel()`, the picture's key and the pixel {key, x, y}, and `apply()`, which teaches. */
  constructor(on) {
    const attempt = (work) => async (event) => {
      event.preventDefault();
      byId("unteachable").hidden = true;
      try {
        await work();
      } catch (error) {
        Object.assign(byId("unteachable"), { hidden: false, textContent: error.message });
      }
    };
    byId("teach").onsubmit = attempt(async () => {
      const { key, x, y } = on.pixel();
      this.show(await server.click(key, x, y, byId("class").value));
    });
    byId("forget").onclick = attempt(async () => this.show(await server.forget()));
    byId("apply").onclick = attempt(() => on.apply());
  }

  /** Show the number of clicks of each class. */
  show(counts) {
    const classes = Object.entries(counts);
    byId("taught").hidden = !classes.length;
    byId("clicks").textContent = classes.map(([name, n]) => `${name}: ${n} click${n > 1 ? "s" : ""}`).join(", ");
    byId("apply").disabled = classes.length < 2;
    byId("apply").title = classes.length < 2 ? "Name pixels of at least two classes" : "The clicked classes take the place of the segments";
  }

  suggest(names) {
    byId("classes").replaceChildren(...names.map((value) => make("option", { value })));
  }
}
