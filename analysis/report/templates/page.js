"use strict";

// ------------------------------------------------------------------------------------------------------------- tables

function sortBy(table, column, descending) {
  const body = table.tBodies[0];
  const key = (row) => {
    const cell = row.cells[column];
    return cell.dataset.key === undefined ? cell.textContent.trim() : Number(cell.dataset.key);
  };
  const order = (a, b) => {
    const [first, second] = [key(a), key(b)];
    if (first === "" || second === "") return (first === "") - (second === ""); // what was not measured stays last
    const by = typeof first === "number" && typeof second === "number"
      ? first - second : String(first).localeCompare(String(second));
    return descending ? -by : by;
  };
  body.append(...[...body.rows].sort(order));
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const descending = head.getAttribute("aria-sort") === "ascending";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    sortBy(table, column, descending);
  }));
}

// ------------------------------------------------------------------------------------------------------------- charts

function colour(name) {
  // A canvas knows no custom properties: ask an element what they come to.
  const probe = document.body.appendChild(document.createElement("span"));
  probe.style.color = `var(${name})`;
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function translucent(rgb) {
  return rgb.replace("rgb(", "rgba(").replace(")", ", 0.18)");
}

function chart(place, panel, hidden) {
  const [ink, rule] = [colour("--quiet"), colour("--rule")];
  const axis = { stroke: ink, grid: { stroke: rule, width: 1 }, ticks: { stroke: rule, width: 1 } };
  const data = [panel.steps];
  const series = [{}];
  const bands = [];
  panel.lines.forEach((line) => {
    const stroke = colour(`--line-${line.colour}`);
    const show = !hidden.has(line.label);
    series.push({ label: line.label, stroke, width: 2, dash: line.dash, show, spanGaps: true,
      points: { show: panel.steps.length <= 12, size: 6 } });
    data.push(line.mean);
    if (line.low.some((value) => value !== null)) {
      const edge = { label: line.label, stroke: "transparent", width: 0, show, points: { show: false }, spanGaps: true };
      series.push({ ...edge }, { ...edge });
      data.push(line.high, line.low);
      bands.push({ series: [series.length - 2, series.length - 1], fill: translucent(stroke) });
    }
  });
  place.replaceChildren();
  return new uPlot({ width: place.clientWidth, height: place.clientWidth < 500 ? 224 : 320, series, bands,
    scales: { x: { time: false } }, axes: [{ ...axis, label: "training step" }, axis], legend: { show: false },
    cursor: { y: false } }, data, place);
}

const curves = document.getElementById("curves");
if (curves) {
  const panels = JSON.parse(curves.textContent);
  const places = [...document.querySelectorAll(".plot")];
  const legend = document.querySelector(".legend");
  const draw = () => {
    const boxes = [...legend.querySelectorAll("input")];
    const hidden = new Set(boxes.filter((box) => !box.checked).map((box) => box.value));
    places.forEach((place) => chart(place, panels[Number(place.dataset.chart)], hidden));
  };
  legend.hidden = false;
  legend.addEventListener("change", draw);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth !== width) { width = window.innerWidth; draw(); }
  });
  draw();
}

// ------------------------------------------------------------------------------------------------------------ samples

const chosen = document.getElementById("class-chosen");
if (chosen) {
  const groups = [...document.querySelectorAll(".class-group")];
  const choose = () => groups.forEach((group) => { group.hidden = chosen.value !== "" && group.id !== chosen.value; });
  chosen.closest(".chooser").hidden = false;
  chosen.addEventListener("change", choose);
  choose();

  const dialog = document.getElementById("enlarged");
  const what = document.getElementById("enlarged-what");
  const stage = dialog.querySelector(".side-by-side");
  let at = { group: "", column: 0 };

  const show = (group, column) => {
    const buttons = [...document.querySelectorAll(`[data-group="${group}"]`)];
    const columns = Math.max(...buttons.map((button) => Number(button.dataset.column))) + 1;
    at = { group, column: (column + columns) % columns };
    const name = document.getElementById(group).getAttribute("aria-label");
    what.textContent = `${name}, sample ${at.column + 1} of ${columns}`;
    stage.replaceChildren(...buttons.filter((button) => Number(button.dataset.column) === at.column).map((button) => {
      const figure = document.createElement("figure");
      const caption = document.createElement("figcaption");
      const image = button.querySelector("img");
      caption.textContent = button.closest("tr").querySelector("th").textContent;
      figure.append(image.cloneNode(), caption);
      return figure;
    }));
  };
  for (const button of document.querySelectorAll(".zoom")) {
    button.addEventListener("click", () => {
      show(button.dataset.group, Number(button.dataset.column));
      dialog.showModal();
    });
  }
  for (const button of dialog.querySelectorAll("[data-go]")) {
    button.addEventListener("click", () => show(at.group, at.column + Number(button.dataset.go)));
  }
  dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
  dialog.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) { event.preventDefault(); show(at.group, at.column + step); }
  });
}
