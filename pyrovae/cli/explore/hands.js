"use strict";
/* Hands on the page: pointers and keys on the map, and the controls around it. */

const NEAR = 14;

class Hands {
  constructor(explorer) {
    this.explorer = explorer;
    this.hovered = null;
  }

  listen() {
    const replot = () => this.explorer.replot();
    for (const id of ["color", "prior", "aggregate"]) $(id).addEventListener("change", replot);
    for (const id of ["plane", "across", "up"]) $(id).addEventListener("change", () => this.explorer.choosePlane());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", replot);
    $("whole").addEventListener("click", () => this.explorer.map.whole());
    $("index").addEventListener("change", () => this.explorer.select(Number($("index").value)));
    $("from").addEventListener("click", () => this.explorer.end(0));
    $("to").addEventListener("click", () => this.explorer.end(1));
    $("copy").addEventListener("click", () => this.copy());
    this.pointer($("map"));
    $("map").addEventListener("keydown", (event) => this.key(event));
  }

  pointer(canvas) {
    const held = new Map();
    let dragged = false;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      held.set(event.pointerId, this.explorer.map.at(event));
      if (held.size === 1) dragged = false;
    });
    canvas.addEventListener("pointermove", (event) => {
      const [x, y] = this.explorer.map.at(event), before = held.get(event.pointerId);
      if (!before) return this.hover(x, y);
      if (!dragged && Math.hypot(x - before[0], y - before[1]) < 4) return undefined;
      dragged = true;
      if (held.size === 2) this.pinch(held, event.pointerId, x, y);
      else this.explorer.map.pan(x - before[0], y - before[1]);
      held.set(event.pointerId, [x, y]);
      return undefined;
    });
    const release = (event) => {
      const there = held.delete(event.pointerId);
      if (there && !dragged && event.type === "pointerup") this.clicked(event);
    };
    for (const type of ["pointerup", "pointercancel"]) canvas.addEventListener(type, release);
    canvas.addEventListener("pointerleave", () => this.hover(-1e9, -1e9));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.explorer.map.zoom(Math.exp(-event.deltaY / 400), ...this.explorer.map.at(event));
    }, { passive: false });
  }

  pinch(held, moved, x, y) {
    const [[, other]] = [...held].filter(([id]) => id !== moved), [bx, by] = held.get(moved);
    const factor = Math.hypot(x - other[0], y - other[1]) / (Math.hypot(bx - other[0], by - other[1]) || 1);
    this.explorer.map.zoom(factor, ...other);
  }

  clicked(event) {
    const [px, py] = this.explorer.map.at(event);
    if (event.shiftKey || $("takes").value === "point") return this.explorer.take(...this.explorer.map.toPlane(px, py));
    const found = this.explorer.map.nearest(px, py, 4 * NEAR * devicePixelRatio);
    return found === null ? undefined : this.explorer.select(found);
  }

  hover(px, py) {
    const found = this.explorer.map.nearest(px, py, NEAR * devicePixelRatio);
    if (found === this.hovered) return;
    this.hovered = found;
    this.explorer.marks(found);
    if (found !== null) this.explorer.previewed(found);
    else if (this.explorer.datum !== null) this.explorer.previewed(this.explorer.datum);
  }

  key(event) {
    const step = 40 * devicePixelRatio, { explorer } = this, { map } = explorer, centre = () => map.toPlane(map.canvas.width / 2, map.canvas.height / 2);
    const keys = {
      ArrowLeft: () => map.pan(step, 0), ArrowRight: () => map.pan(-step, 0),
      ArrowUp: () => map.pan(0, step), ArrowDown: () => map.pan(0, -step),
      "+": () => map.zoom(1.25), "=": () => map.zoom(1.25), "-": () => map.zoom(0.8), 0: () => map.whole(),
      n: () => this.explorer.select(Math.min((this.explorer.datum ?? -1) + 1, this.explorer.data.length - 1)),
      p: () => this.explorer.select(Math.max((this.explorer.datum ?? 1) - 1, 0)),
      Enter: () => this.explorer.take(...centre()), a: () => this.explorer.end(0), b: () => this.explorer.end(1),
    };
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
  }

  async copy() {
    try {
      await navigator.clipboard.writeText($("python").textContent);
      $("copy").textContent = "Copied";
    } catch {
      getSelection().selectAllChildren($("python"));
      $("copy").textContent = "Selected: copy it";
    }
    setTimeout(() => { $("copy").textContent = "Copy"; }, 1500);
  }
}
