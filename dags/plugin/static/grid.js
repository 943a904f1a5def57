// The grid itself: a window of partitions over rows of cells, one cell in the tab order, moved by the keyboard.

import { byId, el } from "./common.js";

const GLYPHS = { running: "▸", stale: "~", failed: "!", missing: "" };
const CELL = 24;
const NAME = 17 * 16 + 40;

/**
 * rows: [{key, name, count, startsSpace, cell(place) -> {state, style, text}}]; parts: names of all partitions.
 * Calls onOpen(row, place) and onSelect(row, from, to), or onSelect(null) when nothing is selected.
 */
export class Grid {
  constructor(holder, map, { onOpen, onSelect, onMove }) {
    Object.assign(this, { holder, map, onOpen, onSelect, onMove, rows: [], parts: [], start: 0, width: 1 });
    this.focus = { row: 0, place: 0 };
    this.selection = null;
    holder.addEventListener("keydown", (event) => this.key(event));
    holder.addEventListener("click", (event) => this.click(event));
    map.addEventListener("click", (event) => this.jump(event));
    new ResizeObserver(() => this.resize()).observe(holder);
  }

  show(rows, parts) {
    const wasNewest = this.start + this.width >= this.parts.length;
    Object.assign(this, { rows, parts, selection: null });
    this.fit();
    this.focus.row = Math.min(this.focus.row, rows.length - 1);
    if (wasNewest) this.focus.place = parts.length - 1;
    this.move(wasNewest ? parts.length : this.start);
  }

  /** Show the window that begins at a partition. */
  move(start) {
    this.start = Math.max(0, Math.min(start, this.parts.length - this.width));
    this.focus.place = Math.max(this.start, Math.min(this.focus.place, this.start + this.width - 1));
    this.draw();
    this.onMove(this.start, this.width);
  }

  fit() {
    const room = Math.max(this.holder.clientWidth - NAME, 10 * CELL);
    this.width = Math.max(1, Math.min(Math.floor(room / CELL), this.parts.length));
  }

  resize() {
    const before = this.width;
    this.fit();
    if (before !== this.width) this.move(this.start + before >= this.parts.length ? this.parts.length : this.start);
    else this.drawMap();
  }

  draw() {
    const hadFocus = this.holder.contains(document.activeElement);
    const places = Array.from({ length: this.width }, (_, column) => this.start + column);
    const head = el("div", { role: "row", class: "row head", "aria-rowindex": 1 },
      el("span", { role: "columnheader", class: "name" }, "table"),
      places.map((place) => el("span", { role: "columnheader", class: "part" }, this.parts[place])));
    this.holder.setAttribute("aria-rowcount", this.rows.length + 1);
    this.holder.setAttribute("aria-colcount", this.parts.length + 1);
    this.holder.replaceChildren(head, ...this.rows.map((row, index) => this.drawRow(row, index, places)));
    this.drawMap();
    if (hadFocus) this.cellAt(this.focus)?.focus();
  }

  drawRow(row, index, places) {
    return el("div", { role: "row", class: row.startsSpace ? "row first-of-space" : "row", "aria-rowindex": index + 2 },
      el("span", { role: "rowheader", class: "name", title: row.name },
        el("span", {}, row.name), el("span", { class: "count" }, row.count)),
      places.map((place) => this.drawCell(row, index, place)));
  }

  drawCell(row, index, place) {
    const { state, style, text } = row.cell(place);
    const current = this.focus.row === index && this.focus.place === place;
    const selected = this.isSelected(index, place);
    return el("span", {
      role: "gridcell",
      class: `cell s-${style}${selected ? " selected" : ""}`,
      tabindex: current ? 0 : -1,
      "aria-label": `${row.name}, ${this.parts[place]}: ${text}`,
      "aria-selected": selected ? "true" : "false",
      "aria-colindex": place + 2,
      "data-row": index,
      "data-place": place,
      "data-state": state,
      title: `${this.parts[place]}: ${text}`,
    }, GLYPHS[state] ?? "");
  }

  /** Every table and partition at once, a few pixels each; the frame marks the window. */
  drawMap() {
    const { map, rows, parts } = this;
    const ratio = window.devicePixelRatio || 1;
    map.width = map.clientWidth * ratio;
    map.height = map.clientHeight * ratio;
    const pen = map.getContext("2d");
    const colours = getComputedStyle(document.documentElement);
    const [stepX, stepY] = [map.width / Math.max(parts.length, 1), map.height / Math.max(rows.length, 1)];
    rows.forEach((row, index) => row.runs.forEach(([from, count, style]) => {
      pen.fillStyle = colours.getPropertyValue(`--${style}`) || "transparent";
      pen.fillRect(from * stepX, index * stepY, count * stepX, Math.max(stepY - ratio, 1));
    }));
    pen.strokeStyle = colours.getPropertyValue("--ink");
    pen.lineWidth = 2 * ratio;
    pen.strokeRect(this.start * stepX, ratio, this.width * stepX, map.height - 2 * ratio);
  }

  jump(event) {
    const share = event.offsetX / this.map.clientWidth;
    this.move(Math.round(share * this.parts.length - this.width / 2));
  }

  cellAt({ row, place }) {
    return this.holder.querySelector(`[data-row="${row}"][data-place="${place}"]`);
  }

  isSelected(row, place) {
    const chosen = this.selection;
    return chosen !== null && chosen.row === row && place >= Math.min(chosen.from, chosen.to)
      && place <= Math.max(chosen.from, chosen.to);
  }

  click(event) {
    const cell = event.target.closest(".cell");
    if (!cell) return;
    const at = { row: Number(cell.dataset.row), place: Number(cell.dataset.place) };
    if (event.shiftKey) this.extend(at);
    else this.open(at);
  }

  /** Open a cell; a gap around it becomes the selection. */
  open(at) {
    this.focus = at;
    const row = this.rows[at.row];
    const isGap = (place) => ["missing", "stale", "failed"].includes(row.cell(place).state);
    let [from, to] = [at.place, at.place];
    if (isGap(at.place)) {
      while (from > 0 && isGap(from - 1)) from -= 1;
      while (to < this.parts.length - 1 && isGap(to + 1)) to += 1;
    }
    this.select({ row: at.row, from, to });
    this.onOpen(row, at.place);
  }

  extend(at) {
    const row = this.selection?.row ?? this.focus.row;
    const from = this.selection?.from ?? this.focus.place;
    this.focus = { row, place: at.place };
    this.select({ row, from, to: at.place });
  }

  select(selection) {
    this.selection = selection;
    this.draw();
    this.cellAt(this.focus)?.focus();
    if (selection === null) return this.onSelect(null);
    const [from, to] = [Math.min(selection.from, selection.to), Math.max(selection.from, selection.to)];
    this.onSelect(this.rows[selection.row], from, to);
  }

  key(event) {
    const { row, place } = this.focus;
    const moves = {
      ArrowLeft: [row, place - 1], ArrowRight: [row, place + 1], ArrowUp: [row - 1, place], ArrowDown: [row + 1, place],
      Home: [row, 0], End: [row, this.parts.length - 1],
      PageUp: [row, place - this.width], PageDown: [row, place + this.width],
    };
    if (event.key === "Enter" || event.key === " ") this.open({ row, place });
    else if (event.key === "Escape") this.select(null);
    else if (event.key in moves) this.step(...moves[event.key], event.shiftKey && event.key.startsWith("Arrow"));
    else return;
    event.preventDefault();
  }

  step(row, place, extend) {
    const at = {
      row: Math.max(0, Math.min(row, this.rows.length - 1)),
      place: Math.max(0, Math.min(place, this.parts.length - 1)),
    };
    if (at.place < this.start) this.start = at.place;
    if (at.place >= this.start + this.width) this.start = at.place - this.width + 1;
    if (extend) return this.extend(at);
    this.focus = at;
    this.draw();
    this.cellAt(at)?.focus();
    this.onMove(this.start, this.width);
  }
}

/** The grid's pager: two buttons step by a window, two go to the ends. */
export function pager(grid) {
  const to = { first: () => 0, older: () => grid.start - grid.width, newer: () => grid.start + grid.width,
    last: () => grid.parts.length };
  Object.entries(to).forEach(([id, start]) => byId(id).addEventListener("click", () => grid.move(start())));
}
