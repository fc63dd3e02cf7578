// What the page carries, decoded when it is needed.
const byId = (id) => document.getElementById(id);
const page = JSON.parse(byId("data").textContent);

const parsed = new Promise((done) => {
  if (document.readyState !== "loading") done();
  else document.addEventListener("DOMContentLoaded", done, { once: true });
});

const bytesOf = (text) => Uint8Array.fromBase64
  ? Uint8Array.fromBase64(text) : Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

// Text of an embedded block. The browser may not have read as far yet, or be in the middle of it: blocks of texts stand
// last, and one is whole when something follows it.
const inflate = async (id) => {
  if (!byId(id)?.nextSibling) await parsed;
  const packed = new Blob([bytesOf(byId(id).textContent)]);
  return new Response(packed.stream().pipeThrough(new DecompressionStream("gzip"))).text();
};

const block = async (id) => JSON.parse(await inflate(id));

// The last few chunks of texts: going through a step's groups decodes each chunk once.
const KEPT_CHUNKS = 6;
const chunks = new Map();
const textsOf = (run, chunk) => {
  const id = "texts-" + run + "-" + chunk;
  const found = chunks.get(id) || block(id);
  chunks.delete(id);
  chunks.set(id, found);
  if (chunks.size > KEPT_CHUNKS) chunks.delete(chunks.keys().next().value);
  return found;
};

// An element with text, never with markup: what models wrote is shown by this alone.
const element = (name, text, kind) => {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) made.textContent = text;
  if (kind) made.className = kind;
  return made;
};

const number = (value, digits) => value === null || value === undefined ? "?" : value.toFixed(digits);
const count = (value) => value.toLocaleString("en");
const words = (name) => name.replaceAll("_", " ");

const complain = (text) => {
  byId("warning").textContent = text;
  byId("warning").hidden = false;
};
