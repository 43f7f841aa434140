"use strict";

// Boxes are asked for from this score on; the slider leaves out what is below its own.
const LOWEST = 0.2;
const FIRST = 0.5;
const COLOUR = "#ff0050";

const part = (id) => document.getElementById(id);
const state = { model: null, key: "" };

function make(tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}

async function ask(path, options = {}) {
  const headers = state.key ? { "X-API-Key": state.key } : {};
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch {
    throw new Error("The server does not answer.");
  }
  if (answer.status === 401) {
    part("key-form").hidden = false;
    part("key").focus();
    throw new Error("This server asks for an API key.");
  }
  return answer;
}

function complain(message) {
  part("problems").append(make("p", message));
}

const percent = (value) => `${(100 * value).toFixed(1)} %`;

async function loadModel() {
  const answer = await ask("/v1/model");
  const model = (state.model = await answer.json());
  const { width, height } = model.input;
  part("model").textContent =
    `${model.name}, version ${model.version}: ${model.classes.join(", ")}, images of ${width} × ${height} pixels`;
  part("hint").textContent = model.input.resized
    ? "One or many. Images of any size are classified."
    : `One or many. ${width} × ${height} pixels are classified, a larger picture is searched as a scene.`;
  const choice = part("class");
  choice.replaceChildren(...model.classes.map((name) => new Option(name, name)));
  if (model.classes.includes("plane")) choice.value = "plane";
  await loadExamples(model.golden.checked);
}

async function loadExamples(count) {
  const names = Array.from({ length: count }, (_, index) => `${index}.png`);
  if (count) names.push("scene.png");
  const buttons = await Promise.all(names.map(loadExample));
  part("examples").replaceChildren(...buttons);
  part("examples-part").hidden = !count;
}

async function loadExample(name) {
  const blob = await (await ask(`/v1/examples/${name}`)).blob();
  const isScene = name === "scene.png";
  const image = make("img");
  image.src = URL.createObjectURL(blob);
  image.alt = isScene ? "Example of a scene: several images side by side" : `Example ${parseInt(name, 10) + 1}`;
  const button = make("button");
  button.type = "button";
  button.append(image);
  button.addEventListener("click", () =>
    take([new File([blob], isScene ? "example scene.png" : `example ${name}`)], isScene ? "detect" : "predict"));
  return button;
}

// The picture of a file, or null where this browser cannot show its kind.
async function pictureOf(file) {
  try {
    return await createImageBitmap(file);
  } catch {
    return null;
  }
}

function isScene(picture) {
  const { width, height, resized } = state.model.input;
  return !resized && picture !== null && picture.width >= width && picture.height >= height &&
    picture.width * picture.height > width * height;
}

async function take(files, mode = part("mode").value) {
  part("problems").replaceChildren();
  if (!state.model || !files.length) return;
  part("status").textContent = `Working on ${files.length === 1 ? files[0].name : `${files.length} files`} …`;
  const items = await Promise.all(files.map(async (file) => ({ file, picture: await pictureOf(file) })));
  const scenes = items.filter((item) => mode === "detect" || (mode === "auto" && isScene(item.picture)));
  const chips = items.filter((item) => !scenes.includes(item));
  let count = 0;
  const most = state.model.limits.images;
  try {
    for (let at = 0; at < chips.length; at += most) count += await classify(chips.slice(at, at + most), mode);
    for (const item of scenes) count += await search(item);
  } catch (error) {
    complain(error.message);
  }
  part("status").textContent = `${count} of ${files.length} answered.`;
}

function form(field, items) {
  const data = new FormData();
  for (const { file } of items) data.append(field, file, file.name);
  return { method: "POST", body: data };
}

async function classify(items, mode) {
  const answer = await ask("/v1/predict", form("images", items));
  const content = await answer.json();
  if (!content.predictions) throw new Error(content.detail);
  let count = 0;
  for (const [index, prediction] of content.predictions.entries()) {
    const item = items[index];
    // A scene in a format that this browser cannot measure.
    if (prediction.error && mode === "auto" && !item.picture && / pixels, expected /.test(prediction.error)) {
      count += await search(item);
      continue;
    }
    if (prediction.error) complain(`${prediction.name}: ${prediction.error}`);
    else count += 1;
    show(chipCard(item, prediction));
  }
  return count;
}

function show(card) {
  part("none").hidden = true;
  part("answers").prepend(card);
}

function chipCard({ file, picture }, prediction) {
  const card = make("li");
  const row = make("div", undefined, "chip");
  if (picture) {
    const image = make("img");
    image.src = URL.createObjectURL(file);
    image.alt = "";
    row.append(image);
  }
  const text = make("div");
  text.append(make("p", prediction.name, "name"));
  if (prediction.error) {
    text.append(make("p", prediction.error, "error"));
  } else {
    text.append(make("p", `${prediction.label}, ${percent(prediction.probability)}`, "label"), bars(prediction));
  }
  row.append(text);
  card.append(row);
  return card;
}

function bars(prediction) {
  const list = make("dl", undefined, "bars");
  const classes = Object.entries(prediction.probabilities).sort((one, other) => other[1] - one[1]).slice(0, 10);
  for (const [name, value] of classes) {
    const bar = make("span", undefined, "bar");
    const filled = make("span");
    filled.style.width = `${100 * value}%`;
    bar.setAttribute("aria-hidden", "true");
    bar.append(filled);
    const value_ = make("dd");
    value_.append(bar, make("span", percent(value)));
    list.append(make("dt", name), value_);
  }
  return list;
}

async function search(item) {
  part("status").textContent = `Searching ${item.file.name}: this takes some seconds …`;
  const query = new URLSearchParams({ threshold: LOWEST, class_name: part("class").value });
  const answer = await ask(`/v1/detect?${query}`, form("scene", [item]));
  const content = await answer.json();
  if (!answer.ok) {
    complain(`${item.file.name}: ${content.error ?? content.detail}`);
    return 0;
  }
  show(sceneCard(item, content));
  return 1;
}

function sceneCard({ picture }, found) {
  const card = make("li", undefined, "scene");
  const canvas = make("canvas", undefined, found.width < 400 ? "small" : "");
  canvas.width = found.width;
  canvas.height = found.height;
  canvas.setAttribute("role", "img");
  const { line, slider, shown } = thresholdSlider();
  const count = make("p", undefined, "label");
  count.setAttribute("aria-live", "polite");
  const table = make("div", undefined, "table");
  table.tabIndex = 0;
  table.setAttribute("role", "region");
  table.setAttribute("aria-label", `Boxes in ${found.name}`);
  const details = make("details");
  details.append(make("summary", "The boxes as a table"), table);

  function update() {
    const least = Number(slider.value);
    const boxes = found.boxes.filter((box) => box.score >= least);
    shown.textContent = percent(least);
    count.textContent = `${boxes.length} × ${found.class}`;
    canvas.setAttribute("aria-label", `${found.name} with ${boxes.length} boxes`);
    draw(canvas, picture, boxes);
    table.replaceChildren(boxTable(boxes));
  }

  slider.addEventListener("input", update);
  card.append(make("p", found.name, "name"), count, line, canvas, details);
  requestAnimationFrame(update);
  return card;
}

let sliders = 0;

function thresholdSlider() {
  const line = make("p", undefined, "slider");
  const label = make("label", "Least score");
  const slider = make("input");
  const shown = make("output");
  Object.assign(slider, { type: "range", min: LOWEST, max: 0.99, step: 0.01, value: FIRST, id: `least-${++sliders}` });
  label.htmlFor = slider.id;
  line.append(label, shown, slider);
  return { line, slider, shown };
}

function draw(canvas, picture, boxes) {
  const pen = canvas.getContext("2d");
  pen.imageSmoothingEnabled = false;
  pen.clearRect(0, 0, canvas.width, canvas.height);
  if (picture) pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
  const shrunk = canvas.width / (canvas.clientWidth || canvas.width);
  pen.lineWidth = 2 * shrunk;
  pen.strokeStyle = COLOUR;
  for (const { x, y, width, height } of boxes) pen.strokeRect(x, y, width, height);
}

function boxTable(boxes) {
  const table = make("table");
  const head = make("tr");
  for (const name of ["x", "y", "width", "height", "score"]) {
    const cell = make("th", name);
    cell.scope = "col";
    head.append(cell);
  }
  table.append(head);
  for (const box of boxes) {
    const row = make("tr");
    for (const value of [box.x, box.y, box.width, box.height, box.score.toFixed(3)]) row.append(make("td", value));
    table.append(row);
  }
  return table;
}

function begin() {
  part("problems").replaceChildren();
  loadModel().catch((error) => {
    part("model").textContent = "";
    complain(error.message);
  });
}

part("files").addEventListener("change", (event) => {
  take([...event.target.files]);
  event.target.value = "";
});
part("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  state.key = part("key").value;
  part("key-form").hidden = true;
  begin();
});
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    part("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop") take([...event.dataTransfer.files]);
  });
}
begin();
