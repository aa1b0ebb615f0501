// Requests to picie app. Every failure becomes an Error with a one-line message for the user.

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("picie does not answer; is picie app still running in its terminal?");
  }
  if (answer.ok) return answer;
  let text = `picie answered ${answer.status}`;
  try {
    text = (await answer.json()).error;
  } catch { /* the response is not JSON */ }
  throw Object.assign(new Error(text), { status: answer.status });
}

const json = async (path, options) => (await ask(path, options)).json();
const post = (path, content) =>
  json(path, { method: "POST", body: JSON.stringify(content), headers: { "Content-Type": "application/json" } });

export const state = () => json("/api/state");
export const names = (start) => json(`/api/gallery?start=${start}`);
export const picturesWith = (value) => json(`/api/gallery?segment=${value}`);
export const sheets = () => json("/api/sheets");
export const choose = (index) => json(`/api/gallery/${index}`, { method: "POST" });
export const query = (key, x, y) => json(`/api/pictures/${key}/query?x=${x}&y=${y}`);
export const maskPath = (key) => `/api/pictures/${key}/mask.png`;
export const thumbnailPath = (index) => `/api/gallery/${index}/thumbnail.jpg`;
export const spotPath = ({ index, x, y }) => `/api/gallery/${index}/spot.jpg?x=${x}&y=${y}`;

export const upload = (file) =>
  json("/api/pictures", { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } });

/** Change the segments; `was` are the names that the page shows. */
export const change = (was, changes) => post("/api/changes", { was, ...changes });

export const look = (key) => json(`/api/pictures/${key}`);
export const picture = async (key) => (await ask(`/api/pictures/${key}/picture.png`)).blob();
export const values = async (key) => new Uint16Array(await (await ask(`/api/pictures/${key}/values`)).arrayBuffer());
export const confidence = async (key) => new Uint8Array(await (await ask(`/api/pictures/${key}/confidence`)).arrayBuffer());

export const click = (key, x, y, name) => post(`/api/pictures/${key}/clicks`, { x, y, name });
export const forget = () => json("/api/clicks/last", { method: "DELETE" });
export const teach = (was) => post("/api/teach", { was });
export const startExport = (format) => post("/api/export", { format });
export const cancelExport = () => json("/api/export", { method: "DELETE" });
export const exported = () => json("/api/export");
export const exportPath = "/api/export/file";
