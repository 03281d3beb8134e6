"use strict";

/* Unpacks the library, draws the pictures, and makes tables sortable. All that the page says can be read
   without this script. */

const DIGITS =
  "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;,=>?@^_`{|}~";
const PAPER_WIDTH = 690;
const darkPage = matchMedia("(prefers-color-scheme: dark)");
const CONFIG = {
  // A camera alone, for whoever points at a picture: it saves a file of vectors.
  displaylogo: false,
  modeBarButtons: [["toImage"]],
  toImageButtonOptions: { format: "svg", filename: "thalweg" },
  responsive: true,
};

function bytesOfBase85(text, count) {
  const values = new Uint8Array(128);
  for (let i = 0; i < DIGITS.length; i++) values[DIGITS.charCodeAt(i)] = i;
  const bytes = new Uint8Array(4 * Math.ceil(text.length / 5));
  const view = new DataView(bytes.buffer);
  for (let i = 0, at = 0; i < text.length; i += 5, at += 4) {
    let value = 0;
    // The last digits may be missing: they count as the highest.
    for (let j = i; j < i + 5; j++) value = 85 * value + (j < text.length ? values[text.charCodeAt(j)] : 84);
    view.setUint32(at, value);
  }
  return bytes.subarray(0, count);
}

async function loadPlotly() {
  const packed = document.getElementById("library");
  const bytes = bytesOfBase85(packed.textContent, Number(packed.dataset.bytes));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
  packed.remove();
}

function pictures() {
  return document.querySelectorAll(".picture");
}

/* The pictures hold the colours of a light page, as #0072B2 and as rgba(0, 114, 178, 0.2). */
function darkened(text) {
  for (const [light, dark] of Object.entries(JSON.parse(document.getElementById("dark").textContent)))
    text = text.replaceAll(light, dark).replaceAll(channels(light), channels(dark));
  return text;
}

function channels(colour) {
  return `rgba(${[1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16)).join(", ")}, `;
}

function draw(picture, { dark, width }) {
  const text = picture.nextElementSibling.textContent;
  const figure = JSON.parse(dark ? darkened(text) : text);
  return Plotly.react(picture, figure.data, { ...figure.layout, width }, CONFIG);
}

function fitWindow() {
  if (!window.Plotly) return;
  for (const picture of pictures()) draw(picture, { dark: darkPage.matches });
}

async function drawAll() {
  for (const picture of pictures()) {
    picture.replaceChildren();
    await draw(picture, { dark: darkPage.matches });
  }
  for (const figure of document.querySelectorAll("figure")) addSwitch(figure);
  document.documentElement.dataset.drawn = "yes";
}

/* A figure with several views, for example against steps and against seconds, shows one at a time. */
function addSwitch(figure) {
  const views = [...figure.querySelectorAll(".view")];
  if (views.length < 2) return;
  const group = document.createElement("div");
  group.className = "switch";
  group.setAttribute("role", "group");
  group.setAttribute("aria-label", "Horizontal axis");
  const buttons = views.map((view) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = view.dataset.view;
    button.addEventListener("click", () => choose(view));
    group.append(button);
    return button;
  });
  function choose(chosen) {
    views.forEach((view, i) => {
      view.hidden = view !== chosen;
      buttons[i].setAttribute("aria-pressed", String(view === chosen));
    });
    Plotly.Plots.resize(chosen.querySelector(".picture"));
  }
  views[0].before(group);
  choose(views[0]);
}

/* Paper has another width than the window, and shows all views. */
function fitPaper() {
  for (const details of document.querySelectorAll("details")) details.open = true;
  if (!window.Plotly) return;
  for (const picture of pictures()) draw(picture, { dark: false, width: PAPER_WIDTH });
}

function addCopyButton(block) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    button.textContent = (await copy(block.querySelector("code"))) ? "Copied" : "Press Ctrl+C";
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  block.append(button);
}

async function copy(code) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(code);
    return document.execCommand("copy");
  }
}

/* Rows are sorted by data-value where a cell has one, else by its text; empty cells come last. */
function keyOf(row, column) {
  const cell = row.cells[column];
  const text = (cell.dataset.value ?? cell.textContent).trim();
  return { text, number: text === "" ? NaN : Number(text.replaceAll(",", "")) };
}

function compare(a, b) {
  if (a.text === "" || b.text === "") return 0;
  if (!Number.isNaN(a.number) && !Number.isNaN(b.number)) return a.number - b.number;
  return a.text.localeCompare(b.text, "en", { numeric: true });
}

function sortBy(table, column, descending) {
  const body = table.tBodies[0];
  const keyed = [...body.rows].map((row) => ({ row, key: keyOf(row, column) }));
  keyed.sort((a, b) => {
    const empty = (a.key.text === "") - (b.key.text === "");
    return empty || (descending ? -1 : 1) * compare(a.key, b.key);
  });
  body.append(...keyed.map(({ row }) => row));
}

function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sortBy(table, column, descending);
    });
  });
}

function makeFilterable(table) {
  const rows = [...table.tBodies[0].rows];
  const bar = document.createElement("div");
  bar.className = "filters";
  const count = document.createElement("span");
  count.setAttribute("role", "status");
  const selects = ["optimizer", "stage"].map((name) => {
    const label = document.createElement("label");
    const select = document.createElement("select");
    select.name = name;
    select.append(new Option("all", ""));
    for (const value of new Set(rows.map((row) => row.dataset[name]))) select.append(new Option(value, value));
    select.addEventListener("change", apply);
    label.append(name[0].toUpperCase() + name.slice(1) + " ", select);
    bar.append(label);
    return select;
  });
  function apply() {
    let shown = 0;
    for (const row of rows) {
      row.hidden = selects.some((select) => select.value && row.dataset[select.name] !== select.value);
      shown += !row.hidden;
    }
    count.textContent = shown === rows.length ? `${shown} runs` : `${shown} of ${rows.length} runs`;
  }
  bar.append(count);
  table.parentElement.before(bar);
  apply();
}

document.querySelectorAll("table.sortable").forEach(makeSortable);
document.querySelectorAll("table.filterable").forEach(makeFilterable);
document.querySelectorAll("pre").forEach(addCopyButton);
addEventListener("beforeprint", fitPaper);
addEventListener("afterprint", fitWindow);
darkPage.addEventListener("change", fitWindow);
loadPlotly()
  .then(drawAll)
  .catch((error) => {
    // Shows the sentence that stands in the place of each picture.
    document.documentElement.classList.remove("scripted");
    console.warn("The pictures cannot be drawn:", error);
  });
