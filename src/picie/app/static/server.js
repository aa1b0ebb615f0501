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

export const state = () => json("/api/state");
export const names = (start) => json(`/api/gallery?start=${start}`);
export const choose = (index) => json(`/api/gallery/${index}`, { method: "POST" });
export const query = (key, x, y) => json(`/api/pictures/${key}/query?x=${x}&y=${y}`);
export const maskPath = (key) => `/api/pictures/${key}/mask.png`;
export const thumbnailPath = (index) => `/api/gallery/${index}/thumbnail.jpg`;
export const spotPath = ({ index, x, y }) => `/api/gallery/${index}/spot.jpg?x=${x}&y=${y}`;

export const upload = (file) =>
  json("/api/pictures", { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } });

export const rename = (value, was, name, color) =>
  json(`/api/segments/${value}`, {
    method: "PUT", body: JSON.stringify({ was, name, color }), headers: { "Content-Type": "application/json" },
  });

export const picture = async (key) => (await ask(`/api/pictures/${key}/picture.png`)).blob();
export const values = async (key) => new Uint16Array(await (await ask(`/api/pictures/${key}/values`)).arrayBuffer());
