// Zoom: the size of the frames in their panes, which scroll together.

import { byId } from "./make.js";

const LARGEST = 8, STEP = 1.5, HEIGHT = 0.74; // of the window

export class Zoom {
  /** `changed()` is called after the size of the picture on the page has changed. */
  constructor(changed) {
    this.changed = changed;
    this.factor = 1;
    this.dragged = false; // whether the last press moved the picture, and was no click
    this.panes = [...document.querySelectorAll(".pane")];
    for (const pane of this.panes) {
      pane.onscroll = () => this.follow(pane);
      pane.addEventListener("wheel", (event) => {
        if (!event.ctrlKey) return;
        event.preventDefault();
        this.set(this.factor * (event.deltaY < 0 ? STEP : 1 / STEP), event);
      }, { passive: false });
      pane.onpointerdown = (event) => this.drag(pane, event);
    }
    byId("larger").onclick = () => this.set(this.factor * STEP);
    byId("smaller").onclick = () => this.set(this.factor / STEP);
    byId("fit").onclick = () => this.set(1);
    window.addEventListener("resize", () => this.fit());
  }

  /** Show a picture of another shape, whole. */
  start(width, height) {
    this.shape = width / height;
    this.set(1);
  }

  set(factor, event) {
    const pane = this.panes[1], box = pane.getBoundingClientRect(), before = this.factor;
    const x = event ? event.clientX - box.left : box.width / 2, y = event ? event.clientY - box.top : box.height / 2;
    const at = [(pane.scrollLeft + x) / before, (pane.scrollTop + y) / before];
    this.factor = Math.min(LARGEST, Math.max(1, factor));
    byId("fit").textContent = `${Math.round(100 * this.factor)} %`;
    this.fit();
    pane.scrollTo(at[0] * this.factor - x, at[1] * this.factor - y);
    this.follow(pane);
  }

  /** The frame is as large as its pane and the window allow, also for small pictures. */
  fit() {
    if (!this.shape) return;
    const height = Math.round(HEIGHT * window.innerHeight);
    for (const pane of this.panes) {
      pane.style.maxHeight = `${height}px`;
      pane.firstElementChild.style.width = `calc(${this.factor} * min(100%, ${Math.round(height * this.shape)}px))`;
    }
    this.changed();
  }

  follow(pane) {
    for (const other of this.panes) {
      if (other !== pane) other.scrollTo(pane.scrollLeft, pane.scrollTop);
    }
  }

  drag(pane, start) {
    this.dragged = false;
    if (this.factor === 1 || start.pointerType !== "mouse" || start.button !== 0) return;
    const from = [pane.scrollLeft, pane.scrollTop];
    const move = (event) => {
      const by = [event.clientX - start.clientX, event.clientY - start.clientY];
      if (Math.hypot(...by) > 4) this.dragged = true;
      if (this.dragged) pane.scrollTo(from[0] - by[0], from[1] - by[1]);
    };
    document.addEventListener("pointermove", move);
    document.addEventListener("pointerup", () => document.removeEventListener("pointermove", move), { once: true });
  }
}
