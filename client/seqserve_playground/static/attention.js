// The attention map: a row for each target token, a column for each source token, a square whose side grows with the
// weight. Size and not colour carries the value, so that it can be read without colours.

import { byId, drawn, element, percent } from "./elements.js";

const LEAST = 0.01; // weights below it are not drawn
const LABEL = 12; // characters of a label
const LINE = 13; // pixels; the size of their font
const SLANT = Math.PI / 3; // of the labels of columns
const MOST_CELLS = 40_000;

export class AttentionMap {
  /** `onLook(row)` is called for the row pointed at. */
  constructor(onLook) {
    this.onLook = onLook;
    this.place = byId("map");
    this.place.addEventListener("pointermove", (event) => this.point(event));
    this.place.addEventListener("pointerleave", () => this.mark(null, null));
    this.place.addEventListener("keydown", (event) => this.move(event));
  }

  /**
   * @param {string[]} targets
   * @param {string[]} sources
   * @param {number[][]} weights [target][source]
   */
  show(targets, sources, weights) {
    Object.assign(this, { targets, sources, weights, row: null, column: null });
    if (!weights.length || weights.length * sources.length > MOST_CELLS) {
      this.svg = null;
      const why = weights.length ? "Too large to draw: " : "Nothing to draw: ";
      this.place.replaceChildren(element("p", { class: "hint" }, `${why}${targets.length} × ${sources.length} tokens.`));
      return;
    }
    this.size = sources.length > 40 ? 14 : 26;
    this.left = 14 + widest(targets);
    const slanted = widest(sources);
    this.top = 14 + slanted * Math.sin(SLANT) + LINE * Math.cos(SLANT);
    const width = this.left + this.size * sources.length + slanted * Math.cos(SLANT) + LINE;
    const height = this.top + this.size * targets.length + 4;
    this.marker = drawn("rect", { class: "here", width: this.size, height: this.size, visibility: "hidden" });
    this.svg = drawn("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": this.summary() },
      this.grid(), this.cells(), this.columnLabels(), this.rowLabels(), this.marker);
    this.place.replaceChildren(this.svg);
  }

  /** For those who do not see the map: each row's strongest source. */
  summary() {
    const rows = this.targets.map((target, row) => {
      const best = strongest(this.weights[row]);
      return `${target}: ${this.sources[best]} ${percent(this.weights[row][best])}`;
    });
    return `Attention map of ${this.targets.length} target tokens and ${this.sources.length} source tokens. ${rows.join("; ")}`;
  }

  grid() {
    const { left, top, size } = this;
    const right = left + size * this.sources.length;
    const bottom = top + size * this.targets.length;
    const lines = [];
    for (let row = 0; row <= this.targets.length; row += 1) lines.push(`M${left} ${top + row * size}H${right}`);
    for (let column = 0; column <= this.sources.length; column += 1) lines.push(`M${left + column * size} ${top}V${bottom}`);
    return drawn("path", { class: "grid", d: lines.join("") });
  }

  cells() {
    const group = drawn("g", { class: "cell" });
    this.weights.forEach((weights, row) => weights.forEach((weight, column) => {
      if (weight < LEAST) return;
      const side = (this.size - 3) * Math.sqrt(weight);
      group.append(drawn("rect", {
        x: (this.left + (column + 0.5) * this.size - side / 2).toFixed(1),
        y: (this.top + (row + 0.5) * this.size - side / 2).toFixed(1),
        width: side.toFixed(1), height: side.toFixed(1), "fill-opacity": (0.35 + 0.65 * weight).toFixed(2),
      }));
    }));
    return group;
  }

  columnLabels() {
    this.columnTexts = this.sources.map((label, column) => {
      const x = this.left + (column + 0.6) * this.size;
      return drawn("text", { transform: `translate(${x} ${this.top - 6}) rotate(-60)` }, short(label));
    });
    return drawn("g", {}, ...this.columnTexts);
  }

  rowLabels() {
    this.rowTexts = this.targets.map((label, row) => drawn("text", {
      x: this.left - 8, y: this.top + (row + 0.5) * this.size + 4, "text-anchor": "end", direction: "ltr",
    }, short(label)));
    return drawn("g", {}, ...this.rowTexts);
  }

  point(event) {
    if (!this.svg) return;
    const box = this.svg.getBoundingClientRect();
    const row = Math.floor((event.clientY - box.top - this.top) / this.size);
    const column = Math.floor((event.clientX - box.left - this.left) / this.size);
    const inside = this.weights[row] !== undefined && column >= 0 && column < this.sources.length;
    this.look(inside ? row : null, inside ? column : null);
  }

  move(event) {
    const step = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] }[event.key];
    if (!step || !this.svg) return;
    event.preventDefault();
    const clamp = (value, count) => Math.max(0, Math.min(count - 1, value));
    const first = this.row === null || this.column === null;
    this.look(first ? 0 : clamp(this.row + step[0], this.targets.length),
      first ? 0 : clamp(this.column + step[1], this.sources.length));
  }

  look(row, column) {
    if (row === this.row && column === this.column) return;
    this.mark(row, column);
    if (row !== null) this.onLook(row);
  }

  /** Mark a row, and a column where there is one. */
  mark(row, column) {
    if (!this.svg) return;
    Object.assign(this, { row, column });
    this.rowTexts.forEach((text, at) => text.classList.toggle("lit", at === row));
    this.columnTexts.forEach((text, at) => text.classList.toggle("lit", at === column));
    const whole = row !== null && column === null;
    this.marker.setAttribute("visibility", row === null ? "hidden" : "visible");
    this.marker.setAttribute("x", this.left + (column ?? 0) * this.size);
    this.marker.setAttribute("y", this.top + (row ?? 0) * this.size);
    this.marker.setAttribute("width", whole ? this.size * this.sources.length : this.size);
    byId("map-info").textContent = row === null || whole ? "\u00a0"
      : `${this.targets[row]} → ${this.sources[column]}: ${percent(this.weights[row][column])}`;
  }
}

/** Pixels of the widest label: how wide characters are depends on the script and on the fonts that are there. */
function widest(labels) {
  const canvas = document.createElement("canvas").getContext("2d");
  canvas.font = `700 ${LINE}px ${getComputedStyle(document.body).fontFamily}`; // bold, as those are that are pointed at
  return Math.max(...labels.map((label) => canvas.measureText(short(label)).width));
}

const short = (label) => ([...label].length > LABEL ? `${[...label].slice(0, LABEL - 1).join("")}…` : label);
const strongest = (weights) => weights.reduce((best, weight, at) => (weight > weights[best] ? at : best), 0);
