"use strict";
// Asks the server whenever something changes. One question is under way at a time: of those that come up meanwhile only the
// last is asked, so that the picture follows the slider and never lags behind it.

const find = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const about = { concepts: [], levels: [], edges: [] };
const question = { image: 0, do: {}, uncertainty: false, detail: true };
let answered = null;
let busy = false;
let again = false;
// An intervention that is kept beside the present one, and what was answered to it.
let kept = null;

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function fail(message) {
  find("error").textContent = message;
  find("error").hidden = !message;
}

async function post(path, body) {
  let reply;
  try {
    reply = await fetch(path, { method: "POST", body });
  } catch {
    throw new Error("No answer: is causalvae explore still running?");
  }
  if (!reply.ok) throw new Error((await reply.json()).error);
  return reply;
}

async function ask() {
  if (busy) {
    again = true;
    return;
  }
  busy = true;
  do {
    again = false;
    const asked = structuredClone(question);
    try {
      // The picture first: samples take many times as long, and the slider may be elsewhere by then.
      await answer({ ...asked, uncertainty: false }, asked.uncertainty);
      if (asked.uncertainty && !again) await answer(asked);
      for (const more of [askKept, askSweep, askEffects]) if (!again) await more(asked);
      fail("");
    } catch (error) {
      fail(error.message);
    }
  } while (again);
  busy = false;
}

async function answer(asked, more = false) {
  const before = answered;
  const reply = await (await post("answer", JSON.stringify(asked))).json();
  answered = { ...reply, do: asked.do, image: asked.image };
  find("own-detail").hidden = !reply.detail;
  // Until samples say more, what they said last stays, faded, so that nothing jumps.
  if (more && before?.deviation !== undefined && before.image === asked.image) {
    answered.stale = true;
    answered.deviation = before.deviation;
    answered.panels.push(before.panels.at(-1));
    answered.concepts.forEach((row, i) => Object.assign(row, { deviation: before.concepts[i].deviation }));
  }
  await show();
}

// The second intervention, the sweep and the effects: asked behind the answer, where they are shown --------------------

async function askKept(asked) {
  if (!kept) return;
  const found = await (await post("answer", JSON.stringify({ image: asked.image, do: kept.do, detail: asked.detail }))).json();
  if (!kept) return;
  const shown = found.panels.filter(({ title }) => title.endsWith("counterfactual"));
  // As large as those above.
  find("kept-panels").style.setProperty("--count", answered.panels.length);
  fill(find("kept-panels"), shown, (title) => (title === "counterfactual" ? kept.text : NOTES[title]()), "kept: ");
}

function keep(wanted) {
  kept = wanted ? { do: { ...question.do }, text: sets(question.do) || "nothing intervened on" } : null;
  find("keep").setAttribute("aria-pressed", Boolean(kept));
  find("keep").textContent = kept ? "let the kept one go" : "keep it beside the next";
  find("kept").hidden = !kept;
  find("kept-do").textContent = kept?.text ?? "";
  find("kept-panels").replaceChildren();
  if (kept) ask();
}

function swap() {
  const before = kept;
  kept = { do: { ...question.do }, text: sets(question.do) || "nothing intervened on" };
  find("kept-do").textContent = kept.text;
  question.do = { ...before.do };
  mark();
  ask();
}

async function askSweep(asked) {
  if (!find("sweep").open) return;
  const name = find("swept").value;
  const concept = about.concepts.find((c) => c.name === name);
  const found = await (await post("sweep", JSON.stringify({ ...asked, concept: name }))).json();
  const label = name.replaceAll("_", " ");
  const title = concept.unit ? `${label} (${concept.unit})` : label;
  const said = found.values.map((value) => value.toFixed(concept.digits));
  const row = (title, images) =>
    make(
      "tr",
      {},
      make("th", { scope: "row", textContent: title }),
      ...images.map((src, i) => make("td", {}, make("img", { src, alt: `${title}, ${label} ${said[i]}` }))),
    );
  const head = make("tr", {}, make("th", { scope: "row", textContent: title }), ...said.map((text) => make("td", { textContent: text })));
  const rows = [row("model", found.frames)];
  if (found.true) rows.push(row("true", found.true));
  find("strip").replaceChildren(make("table", {}, head, ...rows));
}

async function askEffects(asked) {
  if (!find("effects").open) return;
  const found = await (await post("effects", JSON.stringify(asked))).json();
  const maps = Object.entries(found.maps).map(([name, image]) => ({ title: name.replaceAll("_", " "), image }));
  fill(find("maps"), maps, () => "", "pixels that follow ");
  find("maps-hint").textContent =
    "Each concept goes through its range, the others as they are set or as they follow: the brighter a pixel, the more it changes. " +
    `Yellow is a standard deviation of ${found.largest.toFixed(0)} of 255. What a concept moves through its effects counts too; set an effect to leave it out.`;
}

async function save(kind) {
  try {
    const name = find("swept").value;
    const file = await (await post("animation", JSON.stringify({ ...question, concept: name, format: kind }))).blob();
    offer(file, `${about.title}_${question.image}_${name}.${kind}`);
  } catch (error) {
    fail(error.message);
  }
}

// The question ------------------------------------------------------------------------------------------------------

function choose(image, name) {
  question.image = image;
  if (!name) find("index").value = image;
  find("count").textContent = name ? `now: ${name}` : `0 to ${about.count - 1}`;
  for (const button of find("thumbnails").children) button.setAttribute("aria-pressed", button.value === String(image));
  ask();
}

async function take(file) {
  if (!file) return;
  try {
    const { image, name } = await (await post(`image?name=${encodeURIComponent(file.name)}`, file)).json();
    choose(image, name);
  } catch (error) {
    fail(error.message);
  }
}

function intervene(concept, value) {
  if (value === null) delete question.do[concept.name];
  else if (Number.isFinite(value)) question.do[concept.name] = value;
  mark();
  ask();
}

function mark() {
  for (const concept of about.concepts) {
    const set = concept.name in question.do;
    const { row, box, range, number } = concept;
    row.classList.toggle("set", set);
    row.classList.toggle("moved", !set && Boolean(answered?.moved.includes(concept.name)));
    box.checked = set;
    const after = answered?.concepts[about.concepts.indexOf(concept)].after;
    const value = set ? question.do[concept.name] : after;
    if (value === undefined) continue;
    range.value = value;
    // A number being typed is not to be overwritten.
    if (document.activeElement !== number) number.value = value.toFixed(concept.digits);
  }
  find("release-all").disabled = !Object.keys(question.do).length;
}

function span() {
  for (const concept of about.concepts) {
    const [low, high] = find("beyond").checked ? concept.beyond : concept.ends;
    Object.assign(concept.range, { min: low, max: high });
    concept.lowest.textContent = low.toFixed(concept.digits);
    concept.highest.textContent = high.toFixed(concept.digits);
  }
  mark();
  place();
}

function place() {
  about.concepts.forEach((concept, i) => {
    const before = answered?.concepts[i].before;
    const { min, max } = concept.range;
    concept.factual.hidden = before === undefined || before < Number(min) || before > Number(max);
    concept.factual.style.setProperty("--share", (before - min) / (max - min));
  });
}

function slider(concept) {
  const id = `slider-${concept.name}`;
  const label = concept.name.replaceAll("_", " ");
  concept.box = make("input", { type: "checkbox", title: "intervene on it" });
  concept.box.setAttribute("aria-label", `intervene on ${label}`);
  concept.range = make("input", { type: "range", id, step: concept.step });
  concept.number = make("input", { type: "number", step: concept.step });
  concept.number.setAttribute("aria-label", `value of ${label}`);
  concept.factual = make("span", { className: "factual", title: "read from the image", hidden: true });
  concept.lowest = make("span");
  concept.highest = make("span");
  const release = make("button", { type: "button", className: "release", textContent: "release" });
  release.setAttribute("aria-label", `release ${label}`);
  const unit = make("span", { className: "unit", textContent: concept.unit && ` (${concept.unit})` });
  concept.row = make(
    "div",
    { className: "concept" },
    concept.box,
    make("label", { htmlFor: id, className: "name" }, label, unit),
    concept.number,
    release,
    make("div", { className: "track" }, concept.range, concept.factual),
    make("div", { className: "ends" }, concept.lowest, concept.highest),
  );
  concept.range.addEventListener("input", () => intervene(concept, Number(concept.range.value)));
  concept.number.addEventListener("change", () => {
    if (concept.number.value !== "") intervene(concept, Number(concept.number.value));
    else intervene(concept, null);
  });
  concept.box.addEventListener("change", () => intervene(concept, concept.box.checked ? Number(concept.range.value) : null));
  release.addEventListener("click", () => intervene(concept, null));
  return concept.row;
}

// The answer --------------------------------------------------------------------------------------------------------

const NOTES = {
  image: () => (typeof question.image === "number" ? `test image ${question.image}` : "your own"),
  reconstruction: () => "nothing intervened on",
  counterfactual: () => (sets(answered.do) || "nothing intervened on") + beyond(),
  "true counterfactual": () => "the simulator's",
  "standard deviation": () => `${about.samples} samples; yellow is ${answered.deviation.toFixed(1)} of 255`,
};

function sets(values) {
  const parts = about.concepts
    .filter((c) => c.name in values)
    .map((c) => `${c.name.replaceAll("_", " ")} = ${values[c.name].toFixed(c.digits)} ${c.unit}`.trim());
  return parts.length ? `do(${parts.join(", ")})` : "";
}

function beyond() {
  return answered.unseen.length ? `; hardly any training image has ${answered.unseen.join(", ")}` : "";
}

// Pictures with their titles, in the elements that are there as far as there are some, so that nothing flickers.
function fill(place, pictures, notes, before = "") {
  while (place.children.length > pictures.length) place.lastChild.remove();
  while (place.children.length < pictures.length) {
    place.append(make("figure", {}, make("figcaption", {}, make("span"), make("small")), make("img")));
  }
  pictures.forEach(({ title, image }, i) => {
    const figure = place.children[i];
    const [name, note] = figure.firstChild.children;
    figure.className = title === "counterfactual" ? "model" : title === "standard deviation" && answered.stale ? "stale" : "";
    name.textContent = title;
    note.textContent = notes(title);
    Object.assign(figure.lastChild, { src: image, alt: before + title });
  });
}

// For those who hear the page: what is set, and what follows.
function tell() {
  const moved = answered.moved.map((name) => name.replaceAll("_", " "));
  const text = `${sets(answered.do) || "nothing intervened on"}${moved.length ? `; moved: ${moved.join(", ")}` : ""}${beyond()}`;
  if (find("status").textContent !== text) find("status").textContent = text;
  const edges = about.edges.map(([cause, effect]) => `${cause} to ${effect}`.replaceAll("_", " "));
  find("graph").setAttribute("aria-label", `Causal graph: ${edges.join(", ") || "no edges"}; ${text}`);
}

async function show() {
  const panels = find("panels");
  fill(panels, answered.panels, (title) => NOTES[title]());
  mark();
  tell();
  place();
  showGraph();
  showTable();
  find("code").textContent = answered.code;
  await Promise.all([...panels.querySelectorAll("img")].map((image) => image.decode()));
}

function kind(name) {
  return name in answered.do ? "set" : answered.moved.includes(name) ? "moved" : "";
}

function showGraph() {
  // 13 px of text are about 7 wide for a letter.
  const width = Math.max(128, ...about.concepts.map((concept) => 7.5 * concept.name.length + 16));
  const [height, across, down] = [50, width + 22, 92];
  const margins = [4, 4];
  const widest = Math.max(...about.levels.map((level) => level.length));
  const places = {};
  about.levels.forEach((level, row) =>
    level.forEach((name, column) => {
      places[name] = { row, x: (column + (widest - level.length) / 2 + 0.5) * across, y: row * down + height / 2 + 4 };
    }),
  );
  const arrow = (name) =>
    draw(
      "marker",
      { id: name, class: name, viewBox: "0 0 10 10", refX: 9, refY: 5, markerWidth: 9, markerHeight: 9, orient: "auto", markerUnits: "userSpaceOnUse" },
      draw("path", { d: "M 0 0 L 10 5 L 0 10 z" }),
    );
  const edges = about.edges.map(([cause, effect]) => {
    const [from, to] = [places[cause], places[effect]];
    const carries = kind(cause) && kind(effect) === "moved";
    const style = kind(effect) === "set" ? "cut" : carries ? "carries" : "";
    // Past the levels in between.
    const levels = to.row - from.row;
    const side = from.x >= to.x ? 1 : -1;
    const bend = levels > 1 ? side * (width / 2 + 14 * levels) : 0;
    if (bend) margins[side > 0 ? 1 : 0] = Math.max(margins[side > 0 ? 1 : 0], 14 * levels);
    // Thicker borders reach further out.
    const [top, bottom] = [from.y + height / 2, to.y - height / 2 - (kind(effect) ? 4 : 2)];
    const middle = `${(from.x + to.x) / 2 + 2 * bend} ${(top + bottom) / 2}`;
    const end = carries ? "arrow-carries" : "arrow";
    return draw("path", { class: style, d: `M ${from.x} ${top} Q ${middle} ${to.x} ${bottom}`, "marker-end": `url(#${end})` });
  });
  const nodes = about.concepts.map((concept, i) => {
    const { x, y } = places[concept.name];
    const { before, after } = answered.concepts[i];
    const state = kind(concept.name);
    const sign = state === "set" ? "do " : state === "moved" ? (after > before ? "↑ " : "↓ ") : "";
    const value = draw("text", { x, y: y + 16, class: "value" });
    value.textContent = after === undefined ? sign : `${sign}${after.toFixed(concept.digits)} ${concept.unit}`;
    const name = draw("text", { x, y: y - 4 });
    name.textContent = concept.name.replaceAll("_", " ");
    const box = draw("rect", { x: x - width / 2, y: y - height / 2, width, height, rx: 8 });
    return draw("g", { class: state }, box, name, value);
  });
  const size = [widest * across + margins[0] + margins[1], (about.levels.length - 1) * down + height + 8];
  find("graph").setAttribute("viewBox", `${-margins[0]} 0 ${size.join(" ")}`);
  find("graph").replaceChildren(draw("defs", {}, arrow("arrow"), arrow("arrow-carries")), ...edges, ...nodes);
}

function showTable() {
  const columns = [
    ["label", "label"],
    ["before", "read"],
    ["after", "after"],
    ["deviation", "±"],
    ["true", "true"],
  ].filter(([key]) => answered.concepts.some((row) => key in row));
  const head = make("tr", {}, make("th", { textContent: "concept" }), ...columns.map(([, title]) => make("th", { textContent: title })));
  const rows = about.concepts.map((concept, i) => {
    const unit = make("span", { className: "unit", textContent: concept.unit && ` (${concept.unit})` });
    const cells = columns.map(([key]) => {
      const value = answered.concepts[i][key];
      const text = value === undefined ? "" : key === "deviation" ? (value && value.toPrecision(2)) : value.toFixed(concept.digits);
      return make("td", { className: key === "deviation" && answered.stale ? "deviation stale" : key, textContent: text });
    });
    return make("tr", { className: kind(concept.name) }, make("td", {}, concept.name.replaceAll("_", " "), unit), ...cells);
  });
  find("table").replaceChildren(head, ...rows);
  const notes = {
    label: "label: what is true of the image",
    before: "read: what the model reads from it",
    after: "after: the model's counterfactual",
    deviation: "±: its standard deviation",
    true: "true: the simulator's counterfactual",
  };
  const known = columns.some(([key]) => key === "after");
  find("table-hint").textContent = known
    ? columns.map(([key]) => notes[key]).join("; ") + "."
    : "This model's prior does not tell what concepts mean in label units.";
}

// The rest ----------------------------------------------------------------------------------------------------------

async function download() {
  try {
    const picture = await (await post("picture", JSON.stringify(question))).blob();
    const values = Object.entries(question.do).map(([name, value]) => `_${name}_${value}`);
    offer(picture, `${about.title}_${question.image}${values.join("")}.png`);
  } catch (error) {
    fail(error.message);
  }
}

function offer(file, name) {
  const link = make("a", { href: URL.createObjectURL(file), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

async function start() {
  Object.assign(about, await (await fetch("state")).json());
  document.title = `${about.title} · causalvae explore`;
  find("subtitle").textContent = `The model of ${about.title}, on test images of ${about.data}`;
  find("size").textContent = `${about.size[1]} x ${about.size[0]}`;
  find("samples").textContent = about.samples;
  find("index").max = about.count - 1;
  for (const index of about.thumbnails) {
    const button = make("button", { type: "button", value: index, title: `test image ${index}` });
    button.append(make("img", { src: `thumbnails/${index}`, alt: `test image ${index}` }));
    button.addEventListener("click", () => choose(index));
    find("thumbnails").append(button);
  }
  find("concepts").append(...about.concepts.map(slider));
  find("swept").append(...about.concepts.map(({ name }) => make("option", { value: name, textContent: name.replaceAll("_", " ") })));
  span();

  find("index").addEventListener("change", () => choose(Math.min(Math.max(Math.round(find("index").value), 0), about.count - 1)));
  find("random").addEventListener("click", () => choose(Math.floor(Math.random() * about.count)));
  find("file").addEventListener("change", () => take(find("file").files[0]));
  find("beyond").addEventListener("change", span);
  find("uncertainty").addEventListener("change", () => {
    question.uncertainty = find("uncertainty").checked;
    ask();
  });
  find("detail").addEventListener("change", () => {
    question.detail = find("detail").checked;
    ask();
  });
  find("release-all").addEventListener("click", () => {
    question.do = {};
    mark();
    ask();
  });
  find("copy").addEventListener("click", async () => {
    await navigator.clipboard.writeText(find("code").textContent);
    find("copy").textContent = "copied";
    setTimeout(() => (find("copy").textContent = "copy"), 1500);
  });
  find("download").addEventListener("click", download);
  find("keep").addEventListener("click", () => keep(!kept));
  find("swap").addEventListener("click", swap);
  for (const id of ["sweep", "effects"]) find(id).addEventListener("toggle", () => find(id).open && ask());
  find("swept").addEventListener("change", ask);
  for (const button of document.querySelectorAll(".save")) button.addEventListener("click", () => save(button.value));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    take(event.dataTransfer.files[0]);
  });
  choose(about.thumbnails[Math.floor(about.thumbnails.length / 2)]);
}

start().catch((error) => fail(error.message));
