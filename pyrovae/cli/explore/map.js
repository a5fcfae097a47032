"use strict";
/* The map: points of a plane in one image of pixels, so that ten thousand move with the hand. */

const PALETTE = [
  "#332288", "#E69F00", "#44AA99", "#CC6677", "#117733",
  "#56B4E9", "#882255", "#999933", "#AA4499", "#777777",
];
const DARK_PALETTE = [
  "#8f83e0", "#E69F00", "#44AA99", "#e08a96", "#4fb86f",
  "#56B4E9", "#c96a98", "#b9b94a", "#cf7fc5", "#a8a8a8",
];
const RAMP = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"];

const dark = () => matchMedia("(prefers-color-scheme: dark)").matches;
const styled = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

/* A color as one number, in the order of bytes of an image's pixels. */
function pixel(hex) {
  const [r, g, b] = rgb(hex);
  const bytes = new Uint8ClampedArray([r, g, b, 255]);
  return new Uint32Array(bytes.buffer)[0];
}

function ramped(share) {
  const at = Math.min(Math.max(share, 0), 1) * (RAMP.length - 1);
  const low = rgb(RAMP[Math.floor(at)]), high = rgb(RAMP[Math.ceil(at)]);
  const mixed = low.map((v, i) => Math.round(v + (high[i] - v) * (at % 1)));
  return "#" + mixed.map((v) => v.toString(16).padStart(2, "0")).join("");
}

/* The colors of data: one for each datum, and what they stand for. Null is "unknown". */
function colored(values) {
  const unknown = styled("--quiet"), palette = dark() ? DARK_PALETTE : PALETTE;
  if (!values) return { of: () => palette[0], key: [] };
  if (values.kind === "category") {
    const color = (v) => (v === null ? unknown : palette[v % palette.length]);
    return {
      of: (i) => color(values.values[i]),
      key: values.names.map((name, v) => ({ name, color: color(v) })),
    };
  }
  const known = values.values.filter((v) => v !== null).sort((a, b) => a - b);
  const low = known[Math.floor(known.length * 0.01)], high = known[Math.ceil(known.length * 0.99) - 1];
  const share = (v) => (high > low ? (v - low) / (high - low) : 0.5);
  const lost = values.values.length - known.length;
  return {
    of: (i) => (values.values[i] === null ? unknown : ramped(share(values.values[i]))),
    key: known.length ? [{ low, high }, ...(lost ? [{ name: `unknown, ${lost}`, color: unknown }] : [])]
      : [{ name: "unknown", color: unknown }],
  };
}

class PlaneMap {
  /* layers: [{xy, color: (i) => hex, radius}], drawn in order; the last has the data. */
  constructor(canvas) {
    this.canvas = canvas;
    this.layers = [];
    this.marks = [];
    this.view = { x: 0, y: 0, scale: 1 };
    this.waiting = false;
    new ResizeObserver(() => this.resized()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  resized() {
    const ratio = devicePixelRatio || 1, box = this.canvas.getBoundingClientRect();
    const width = Math.max(1, Math.round(box.width * ratio)), height = Math.max(1, Math.round(box.height * ratio));
    if (width === this.canvas.width && height === this.canvas.height) return;
    const grown = Math.min(width, height) / Math.min(this.canvas.width, this.canvas.height);
    this.canvas.width = width;
    this.canvas.height = height;
    this.view.scale *= grown;
    this.draw();
  }

  /* Show points; each layer's colors are computed once. */
  show(layers) {
    this.layers = layers.map(({ xy, color, radius }) => ({
      x: Float64Array.from(xy, (p) => p[0]),
      y: Float64Array.from(xy, (p) => p[1]),
      colors: Uint32Array.from(xy, (_, i) => pixel(color(i))),
      radius,
    }));
    this.draw();
  }

  whole() {
    const data = this.layers.at(-1);
    if (!data || !data.x.length) return;
    const span = (values) => {
      const sorted = Float64Array.from(values).sort();
      return [sorted[0], sorted[sorted.length - 1]];
    };
    const [left, right] = span(data.x), [low, high] = span(data.y);
    const room = Math.min(this.canvas.width / (right - left || 1), this.canvas.height / (high - low || 1));
    this.view = { x: (left + right) / 2, y: (low + high) / 2, scale: 0.92 * room };
    this.draw();
  }

  toScreen(x, y) {
    const { view, canvas } = this;
    return [canvas.width / 2 + (x - view.x) * view.scale, canvas.height / 2 - (y - view.y) * view.scale];
  }

  toPlane(px, py) {
    const { view, canvas } = this;
    return [view.x + (px - canvas.width / 2) / view.scale, view.y - (py - canvas.height / 2) / view.scale];
  }

  /* The point of an event, in pixels of the canvas. */
  at(event) {
    const box = this.canvas.getBoundingClientRect(), ratio = this.canvas.width / box.width;
    return [(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio];
  }

  /* The datum nearest to a place on the screen, within some pixels; null if there is none. */
  nearest(px, py, within = Infinity) {
    const data = this.layers.at(-1);
    if (!data) return null;
    let best = null, least = within * within;
    for (let i = 0; i < data.x.length; i++) {
      const [x, y] = this.toScreen(data.x[i], data.y[i]);
      const far = (x - px) ** 2 + (y - py) ** 2;
      if (far < least) [best, least] = [i, far];
    }
    return best;
  }

  pan(dx, dy) {
    this.view.x -= dx / this.view.scale;
    this.view.y += dy / this.view.scale;
    this.draw();
  }

  zoom(factor, px = this.canvas.width / 2, py = this.canvas.height / 2) {
    const [x, y] = this.toPlane(px, py);
    this.view.scale = Math.min(Math.max(this.view.scale * factor, 1e-9), 1e9);
    const [nx, ny] = this.toPlane(px, py);
    this.view.x += x - nx;
    this.view.y += y - ny;
    this.draw();
  }

  draw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.paint();
    });
  }

  paint() {
    const { width, height } = this.canvas, context = this.canvas.getContext("2d");
    if (!this.image || this.image.width !== width || this.image.height !== height) {
      this.image = context.createImageData(width, height);
      this.pixels = new Uint32Array(this.image.data.buffer);
    }
    this.pixels.fill(pixel(styled("--paper")));
    for (const layer of this.layers) this.stamp(layer, width, height);
    context.putImageData(this.image, 0, 0);
    this.scales(context, width, height);
    for (const mark of this.marks) this.mark(context, mark);
  }

  /* Set the pixels of a disc at each point of a layer. */
  stamp({ x, y, colors, radius }, width, height) {
    const { view, pixels } = this, r = Math.max(1, Math.round(radius * (devicePixelRatio || 1)));
    const halves = [];
    for (let dy = -r; dy <= r; dy++) halves.push(Math.round(Math.sqrt(r * r + 0.5 - dy * dy) - 0.25));
    for (let i = 0; i < x.length; i++) {
      const px = Math.round(width / 2 + (x[i] - view.x) * view.scale);
      const py = Math.round(height / 2 - (y[i] - view.y) * view.scale);
      if (px < r || py < r || px >= width - r || py >= height - r) continue;
      for (let dy = -r; dy <= r; dy++) {
        const half = halves[dy + r], start = (py + dy) * width + px;
        pixels.fill(colors[i], start - half, start + half + 1);
      }
    }
  }

  /* Four numbers on each edge say where the view is. */
  scales(context, width, height) {
    const ratio = devicePixelRatio || 1;
    context.font = `${11 * ratio}px system-ui, sans-serif`;
    context.fillStyle = styled("--quiet");
    for (let k = 1; k < 4; k++) {
      const [x] = this.toPlane((width * k) / 4, 0), [, y] = this.toPlane(0, (height * k) / 4);
      context.fillText(x.toPrecision(3), (width * k) / 4, height - 6 * ratio);
      context.fillText(y.toPrecision(3), 5 * ratio, (height * k) / 4);
    }
  }

  mark(context, { x, y, kind, word }) {
    const ratio = devicePixelRatio || 1, [px, py] = this.toScreen(x, y);
    context.lineWidth = 2 * ratio;
    context.strokeStyle = styled("--ink");
    context.beginPath();
    if (kind === "point") {
      context.moveTo(px - 8 * ratio, py);
      context.lineTo(px + 8 * ratio, py);
      context.moveTo(px, py - 8 * ratio);
      context.lineTo(px, py + 8 * ratio);
    } else context.arc(px, py, (kind === "hover" ? 5 : 7) * ratio, 0, 2 * Math.PI);
    context.stroke();
    if (word) {
      context.fillStyle = styled("--ink");
      context.font = `bold ${13 * ratio}px system-ui, sans-serif`;
      context.fillText(word, px + 9 * ratio, py - 9 * ratio);
    }
  }
}
