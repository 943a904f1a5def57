// Lines over partitions as SVG, with the values in a table for those who do not see the picture.

import { el } from "./common.js";

const SIZE = { width: 520, height: 210, left: 52, right: 12, top: 10, bottom: 34 };
const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
  made.append(...children);
  return made;
}

/** A figure with a tick box for each line: [{arm, label, points: [{part, value, rows, version}]}]; hidden: arms. */
export function chart(title, lines, { hidden, format }) {
  const shown = new Set(lines.map((line) => line.arm).filter((arm) => !hidden.has(arm)));
  const picture = el("div", {});
  const colour = new Map(lines.map((line, index) => [line.arm, `c${index % 10}`]));
  const draw = () => picture.replaceChildren(lineChart(title, lines.filter((line) => shown.has(line.arm)), colour, format));
  const boxes = lines.map((line) => el("li", {}, el("label", {},
    el("input", { type: "checkbox", checked: shown.has(line.arm), on: { change: (event) => {
      if (event.target.checked) shown.add(line.arm);
      else shown.delete(line.arm);
      draw();
    } } }),
    el("span", { class: `swatch ${colour.get(line.arm)}`, "aria-hidden": "true" }), ` ${line.label}`)));
  draw();
  return el("figure", {}, el("figcaption", {}, title), picture, el("ul", { class: "lines" }, boxes), values(lines, format));
}

function lineChart(title, lines, colour, format) {
  const parts = [...new Set(lines.flatMap((line) => line.points.map((point) => point.part)))].sort();
  const all = lines.flatMap((line) => line.points.map((point) => point.value));
  const [low, high] = limits(all);
  const x = (part) => SIZE.left + (parts.length > 1 ? parts.indexOf(part) / (parts.length - 1) : 0.5) * (SIZE.width - SIZE.left - SIZE.right);
  const y = (value) => SIZE.top + (1 - (value - low) / (high - low)) * (SIZE.height - SIZE.top - SIZE.bottom);
  const drawing = svg("svg", { viewBox: `0 0 ${SIZE.width} ${SIZE.height}`, width: SIZE.width, height: SIZE.height, role: "img", "aria-label": `${title}, values in the table below` });
  for (const value of [low, (low + high) / 2, high]) {
    drawing.append(svg("line", { class: "axis", x1: SIZE.left, x2: SIZE.width - SIZE.right, y1: y(value), y2: y(value) }),
      svg("text", { x: SIZE.left - 6, y: y(value) + 4, "text-anchor": "end" }, format(value)));
  }
  for (const part of parts.length > 1 ? [parts[0], parts.at(-1)] : parts) {
    const anchor = parts.length === 1 ? "middle" : part === parts[0] ? "start" : "end";
    drawing.append(svg("text", { x: x(part), y: SIZE.height - 12, "text-anchor": anchor }, part));
  }
  for (const line of lines) {
    const path = line.points.map((point) => `${x(point.part)},${y(point.value)}`).join(" ");
    drawing.append(svg("polyline", { class: `curve ${colour.get(line.arm)}`, points: path }));
    for (const point of line.points) {
      const text = `${line.label}, ${point.part}: ${format(point.value)}${point.version ? `, version ${point.version}` : ""}`;
      drawing.append(svg("circle", { class: `dot ${colour.get(line.arm)}`, cx: x(point.part), cy: y(point.value), r: 3 }, svg("title", {}, text)));
    }
  }
  return drawing;
}

function limits(values) {
  if (!values.length) return [0, 1];
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const margin = (high - low || Math.abs(high) || 1) * 0.08;
  return [low - margin, high + margin];
}

function values(lines, format) {
  const parts = [...new Set(lines.flatMap((line) => line.points.map((point) => point.part)))].sort();
  const cell = (line, part) => line.points.find((point) => point.part === part);
  const head = el("tr", {}, el("th", {}, "partition"), lines.map((line) => el("th", {}, line.label)));
  const body = parts.map((part) => el("tr", {}, el("td", {}, part), lines.map((line) => {
    const point = cell(line, part);
    return el("td", { class: "number" }, point ? format(point.value) : "-");
  })));
  return el("details", {}, el("summary", {}, "Values"), el("table", {}, head, body));
}
