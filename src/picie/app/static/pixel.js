// The segment of a pixel, and the most similar places in other pictures.

import { byId, make, swatch } from "./make.js";
import { spotPath } from "./server.js";

export class Pixel {
  /** `choose(index)` opens a picture of the gallery. */
  constructor(choose) {
    this.choose = choose;
  }

  show(answer, x, y, segments, gallery) {
    const { value, cluster, similarity, neighbors } = answer;
    byId("pixel").hidden = false;
    byId("facts").replaceChildren(swatch(segments[value].color), " ", make("strong", { textContent: segments[value].name }),
      ` · cluster ${cluster} · similarity to its centroid ${similarity.toFixed(3)} · column ${x}, row ${y}`);
    byId("among").textContent = among(gallery);
    byId("neighbors").replaceChildren(...neighbors.map((one) => this.neighbor(one, segments)));
  }

  neighbor(one, segments) {
    const name = segments[one.value].name;
    const image = make("img", { src: spotPath(one), alt: "", loading: "lazy", width: 200, height: 200 });
    const button = make("button", { type: "button", title: `Open ${one.path}` }, image,
      make("span", { className: "line" }, swatch(segments[one.value].color), make("span", { textContent: name })),
      make("span", { className: "from", textContent: `${one.similarity.toFixed(3)} · ${one.path}` }));
    button.onclick = () => this.choose(one.index);
    return make("li", {}, button);
  }
}

function among(gallery) {
  if (!gallery) return "There are no pictures to search; start picie app with --images DIR.";
  const { seen, count, source, finished, full, failed, memory } = gallery;
  if (!finished) return `Among ${seen} of ${count} pictures in ${source}; more are being processed…`;
  if (failed) return `Among ${seen} of ${count} pictures in ${source}: picie failed at the next one; see its terminal for the reason.`;
  if (full) return `Among ${seen} of ${count} pictures in ${source}: the features of more do not fit into the memory limit of ${memory / 2 ** 30} GB.`;
  return `Among all ${count} pictures in ${source}, at most one place in each.`;
}
