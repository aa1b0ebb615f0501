// Creation of elements. Text from runs and files is inserted as text, never as markup.

export const byId = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-")) element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children);
  return element;
}

export function swatch(color) {
  const element = make("i", { className: "swatch" });
  element.style.background = color;
  return element;
}
