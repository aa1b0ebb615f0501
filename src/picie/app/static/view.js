// The canvas. It blends picture and segments pixel by pixel, so that the saved overlay is equal to
// the one on the page.

export const rgb = (color) => [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));

export class View {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    this.waiting = false;
  }

  /** Show a picture, given as a blob with its width and height, and the value of each pixel. */
  async show(blob, width, height, values) {
    const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
    Object.assign(this.canvas, { width, height });
    this.context.drawImage(bitmap, 0, 0);
    this.pixels = this.context.getImageData(0, 0, width, height);
    this.blended = this.context.createImageData(width, height);
    this.values = values;
    this.border = borders(values, width);
    // the frame is as large as the window allows, also for small pictures
    const frame = this.canvas.parentElement;
    frame.style.width = `min(100%, ${(0.74 * window.innerHeight * width / height).toFixed(0)}px)`;
    this.canvas.style.imageRendering = width < 300 ? "pixelated" : "auto";
  }

  /** Draw before the next frame; several calls draw once. */
  draw(look) {
    this.look = look;
    if (this.waiting || !this.pixels) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.blend(this.look);
    });
  }

  blend({ segments, hidden, opacity, outlines }) {
    const from = this.pixels.data, to = this.blended.data;
    const colors = segments.map((segment, value) => (hidden.has(value) ? null : rgb(segment.color)));
    for (let i = 0, at = 0; i < this.values.length; i += 1, at += 4) {
      const color = colors[this.values[i]];
      const dark = color && outlines && this.border[i] ? 1 / 3 : 1;
      for (let c = 0; c < 3; c += 1) {
        const original = from[at + c];
        to[at + c] = color ? (original + opacity * (color[c] - original)) * dark : original;
      }
      to[at + 3] = 255;
    }
    this.context.putImageData(this.blended, 0, 0);
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
