// Export of all pictures: started, followed and saved.

import { byId, make } from "./make.js";
import * as server from "./server.js";

const POLL = 700; // ms

export function offerExports(formats) {
  byId("format").replaceChildren(...formats.map((name) => make("option", { value: name, textContent: name })));
  byId("export").hidden = !formats.length;
  const button = byId("export").querySelector("button"), note = byId("exporting"), cancel = byId("cancel-export");
  cancel.onclick = () => {
    cancel.disabled = true;
    server.cancelExport().catch((error) => { note.textContent = error.message; });
  };
  byId("export").onsubmit = async (event) => {
    event.preventDefault();
    button.disabled = true;
    cancel.hidden = cancel.disabled = false;
    try {
      let state = await server.startExport(byId("format").value);
      while (state.state === "running") {
        note.textContent = `${state.done} of ${state.total} pictures`;
        await new Promise((done) => setTimeout(done, POLL));
        state = await server.exported();
      }
      if (state.state === "failed") throw new Error(state.error);
      if (state.state === "cancelled") {
        note.textContent = `Cancelled after ${state.done} of ${state.total} pictures, which the next export keeps.`;
      } else {
        note.textContent = "";
        make("a", { href: server.exportPath, download: state.file }).click();
      }
    } catch (error) {
      note.textContent = error.message;
    }
    button.disabled = false;
    cancel.hidden = true;
  };
}
