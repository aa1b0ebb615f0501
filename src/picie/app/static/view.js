// The canvas. It blends picture and segments pixel by pixel, so that the saved overlay is equal to
// the one on the page.

export const rgb = (color) => [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));

/** 256 colours between the given ones. */
const scaleOf = (ramp) => Array.from({ length: 256 }, (_, i) => {
  const at = (i / 255) * (ramp.length - 1), low = Math.min(ramp.length - 2, Math.floor(at));
  return ramp[low].map((c, k) => Math.round(c + (at - low) * (ramp[low + 1][k] - c)));
});

export class View {
  /** `ramp` has the colours of the confidence, from unsure to sure. */
  set ramp(ramp) {
    this.scale = scaleOf(ramp);
  }

  constructor(canvas, plain, regions) {
    this.canvas = canvas;
    this.plain = plain;
    this.regions = regions;
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    this.waiting = false;
  }

  /** Show a picture, given as a blob with its width and height, and the value of each pixel. */
  async show(blob, width, height, values) {
    const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
    for (const canvas of [this.canvas, this.plain]) {
      Object.assign(canvas, { width, height });
      canvas.style.imageRendering = width < 300 ? "pixelated" : "auto";
    }
    this.context.drawImage(bitmap, 0, 0);
    this.plain.getContext("2d").drawImage(bitmap, 0, 0);
    this.pixels = this.context.getImageData(0, 0, width, height);
    this.blended = this.context.createImageData(width, height);
    this.take(values);
  }

  /** Take new values of the same picture. */
  take(values) {
    this.values = values;
    this.border = borders(values, this.canvas.width);
    this.confidence = null;
  }

  /** Draw before the next frame; several calls draw once. */
  draw(look) {
    this.look = look;
    if (this.waiting || !this.pixels) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.blend(this.look);
      this.name(this.look);
    });
  }

  blend({ segments, hidden, opacity, outlines, confidence }) {
    const from = this.pixels.data, to = this.blended.data;
    const colors = segments.map((segment, value) => (hidden.has(value) ? null : rgb(segment.color)));
    for (let i = 0, at = 0; i < this.values.length; i += 1, at += 4) {
      const visible = colors[this.values[i]];
      const color = visible && confidence ? this.scale[confidence[i]] : visible;
      const dark = color && outlines && this.border[i] ? 1 / 3 : 1;
      for (let c = 0; c < 3; c += 1) {
        const original = from[at + c];
        to[at + c] = color ? (original + opacity * (color[c] - original)) * dark : original;
      }
      to[at + 3] = 255;
    }
    this.context.putImageData(this.blended, 0, 0);
  }

  /** Write the names of the large regions inside the picture; those that would cover a larger region's are left out. */
  name({ segments, hidden, names, regions }) {
    const shown = names ? regions.filter(({ value }) => !hidden.has(value)) : [];
    this.regions.replaceChildren(...shown.map(({ value, x, y }) => {
      const element = Object.assign(document.createElement("span"), { textContent: segments[value].name });
      Object.assign(element.style, { left: `${100 * x}%`, top: `${100 * y}%` });
      return element;
    }));
    const taken = [], frame = this.regions.getBoundingClientRect();
    for (const element of [...this.regions.children]) {
      const own = element.getBoundingClientRect();
      for (const [side, length] of [["left", own.width / frame.width], ["top", own.height / frame.height]]) {
        element.style[side] = `${Math.max(50 * length, Math.min(100 - 50 * length, parseFloat(element.style[side])))}%`;
      }
      const box = element.getBoundingClientRect();
      const covers = (b) => box.left < b.right && b.left < box.right && box.top < b.bottom && b.top < box.bottom;
      if (taken.some(covers)) element.remove();
      else taken.push(box);
    }
  }

  /** A canvas with everything that the page shows, for saving. */
  saved() {
    const { width, height } = this.canvas, canvas = Object.assign(document.createElement("canvas"), { width, height });
    const context = canvas.getContext("2d"), scale = width / this.canvas.getBoundingClientRect().width;
    context.drawImage(this.canvas, 0, 0);
    const size = parseFloat(getComputedStyle(this.regions).fontSize) * scale;
    Object.assign(context, { font: `600 ${size}px system-ui, "DejaVu Sans", sans-serif`, textAlign: "center", textBaseline: "middle",
      lineWidth: size / 4, lineJoin: "round", strokeStyle: "#000", fillStyle: "#fff" });
    for (const element of this.regions.children) {
      const x = (parseFloat(element.style.left) / 100) * width, y = (parseFloat(element.style.top) / 100) * height;
      context.strokeText(element.textContent, x, y);
      context.fillText(element.textContent, x, y);
    }
    return canvas;
  }

  /** The position of a pointer in the picture, in [0, 1); null outside. */
  place(event) {
    const box = this.canvas.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
    return x >= 0 && x < 1 && y >= 0 && y < 1 ? { x, y } : null;
  }

  valueAt({ x, y }) {
    const { width, height } = this.canvas;
    return this.values[Math.floor(y * height) * width + Math.floor(x * width)];
  }
}

/** 1 where a pixel's value differs from the one above or to the left. */
function borders(values, width) {
  const border = new Uint8Array(values.length);
  for (let i = 0; i < values.length; i += 1) {
    border[i] = (i >= width && values[i] !== values[i - width]) || (i % width && values[i] !== values[i - 1]) ? 1 : 0;
  }
  return border;
}
