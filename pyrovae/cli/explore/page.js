"use strict";
/* The explorer: it asks a source for what it shows, a server (`Served`) or the page itself. */

const STEPS = 9;

class Explorer {
  constructor(source, world) {
    Object.assign(this, { source, world });
    this.data = world.map.z;
    this.lists = world.lists || {};
    this.planes = { ...world.map.planes };
    this.datum = null;
    this.z = (this.data[0] || []).slice();
    this.ends = [null, null];
    this.touched = 0;
    this.map = new PlaneMap($("map"));
    this.previewed = latest("datum", (i) => this.showDatum(i));
    this.decoded = latest("point", () => this.showPoint());
    this.weighed = latest("density", () => this.showDensity());
    this.joined = latest("between", () => this.showBetween());
  }

  begin() {
    const { world } = this;
    document.title = `${world.title}: latent space`;
    $("title").textContent = world.title;
    this.said("");
    this.options();
    this.sliders();
    new Hands(this).listen();
    this.listed();
    this.python(world.python && world.python.view, "the map");
    $("index").max = this.data.length - 1;
    $("all").hidden = false;
    this.map.resized();
    this.replot();
    this.map.whole();
    this.select(0);
    if (world.missing && world.missing.length) trouble(world.missing.join(" "));
    if (this.source.measure && !(this.lists["least known"])) this.measureAll();
  }

  said(more) {
    const { world } = this, note = world.note ? ` ${world.note}` : "";
    $("byline").textContent = `${this.data.length.toLocaleString("en")} data, ${world.latents.length} latents.${note}${more}`;
  }

  /* ---- the map ---- */

  options() {
    const many = this.world.latents.length > 1;
    const planes = [...Object.keys(this.planes), ...(many ? ["two latents"] : []), ...(this.source.plane && many ? ["t-SNE"] : [])];
    $("plane").replaceChildren(...[...new Set(planes)].map((name) => element("option", { value: name }, name)));
    const names = this.world.latents.map(({ name, index, factor }) => element("option", { value: index }, factor ? `${name}, ${factor}` : name));
    $("across").replaceChildren(...names);
    $("up").replaceChildren(...names.map((option) => option.cloneNode(true)));
    $("up").selectedIndex = Math.min(1, names.length - 1);
    if (this.world.latents.length === 2) $("plane").value = "two latents";
    this.colorOptions();
  }

  colorOptions() {
    const chosen = $("color").value, names = Object.keys(this.world.colors);
    $("color").replaceChildren(...[...names, "none"].map((name) => element("option", { value: name }, name)));
    if (chosen) $("color").value = chosen;
  }

  /* The plane that is shown: of latents [D] to its point; and back, with the rest of `z` kept. */
  plane() {
    const name = $("plane").value, known = this.planes[name];
    if (name === "two latents") {
      const i = Number($("across").value), j = Number($("up").value);
      return {
        xy: this.data.map((z) => [z[i], z[j]]),
        of: (z) => [z[i], z[j]],
        back: (x, y, z) => z.map((value, k) => (k === j ? y : k === i ? x : value)),
      };
    }
    if (!known) return { xy: [], of: null, back: null };
    if (!known.axes) return { xy: known.xy, of: null, back: null };
    const [a, b] = known.axes, { center } = known;
    const along = (axis, z) => axis.reduce((sum, v, k) => sum + v * (z[k] - center[k]), 0);
    return {
      xy: known.xy,
      of: (z) => [along(a, z), along(b, z)],
      back: (x, y, z) => {
        const dx = x - along(a, z), dy = y - along(b, z);
        return z.map((value, k) => value + dx * a[k] + dy * b[k]);
      },
    };
  }

  replot() {
    document.querySelectorAll(".axes").forEach((label) => { label.hidden = $("plane").value !== "two latents"; });
    const plane = (this.shown = this.plane()), { map } = this.world;
    const key = colored(this.world.colors[$("color").value]);
    const layers = [];
    if (plane.of && $("prior").checked) layers.push({ xy: map.prior.map(plane.of), color: () => styled("--prior"), radius: 1 });
    if (plane.of && $("aggregate").checked) layers.push({ xy: map.aggregate.map(plane.of), color: () => styled("--aggregate"), radius: 1 });
    layers.push({ xy: plane.xy, color: key.of, radius: this.data.length > 3000 ? 2 : 3 });
    this.legend(key.key, plane);
    this.map.show(layers);
    this.marks();
  }

  legend(key, plane) {
    const most = 14, items = key.slice(0, most).map(({ name, color, low, high }) => {
      if (name === undefined) return this.ramp(low, high);
      const swatch = element("span", { className: "swatch" });
      swatch.style.background = color;
      return element("li", {}, swatch, name);
    });
    if (key.length > most) items.push(element("li", {}, `and ${key.length - most} more, whose colors repeat`));
    const layers = plane.of ? [["prior", "draws of the prior"], ["aggregate", "draws of the aggregate posterior"]] : [];
    for (const [name, words] of layers.filter(([name]) => $(name).checked)) {
      const swatch = element("span", { className: "swatch" });
      swatch.style.background = styled(`--${name}`);
      items.push(element("li", { className: "quiet" }, swatch, words));
    }
    if (!plane.of) items.push(element("li", { className: "quiet" }, "This plane has no way back to the latents: the prior, the aggregate posterior and points are not shown in it."));
    $("legend").replaceChildren(...items);
  }

  ramp(low, high) {
    const bar = element("span", { className: "ramp" });
    bar.style.background = `linear-gradient(to right, ${RAMP.join(",")})`;
    return element("li", {}, short(low), bar, short(high));
  }

  marks(hover = null) {
    const { xy, of } = this.shown, marks = [], at = (i, more) => xy[i] && marks.push({ x: xy[i][0], y: xy[i][1], ...more });
    if (this.datum !== null) at(this.datum, { kind: "datum" });
    if (hover !== null) at(hover, { kind: "hover" });
    this.ends.forEach((i, k) => i !== null && at(i, { kind: "end", word: "AB"[k] }));
    if (of && this.z.length) {
      const [x, y] = of(this.z);
      marks.push({ x, y, kind: "point" });
    }
    this.map.marks = marks;
    this.map.draw();
  }

  async choosePlane() {
    const name = $("plane").value;
    trouble(null, "choice");
    if (name === "t-SNE" && !this.planes[name]) {
      this.said(" t-SNE is being computed, which takes a while.");
      try {
        const found = await this.source.plane(name);
        this.planes[name] = found;
        this.python(found.python, "t-SNE");
      } catch (error) {
        trouble(error.message, "choice");
        $("plane").selectedIndex = 0;
      }
      this.said("");
    }
    this.replot();
    this.map.whole();
  }

  /* ---- a datum and a point ---- */

  select(i) {
    if (!(i >= 0 && i < this.data.length)) return trouble(`There are the data 0 to ${this.data.length - 1}.`, "choice");
    trouble(null, "choice");
    this.datum = i;
    $("index").value = i;
    this.z = this.data[i].slice();
    this.marks();
    this.previewed(i);
    this.moved();
  }

  async showDatum(i) {
    const found = await this.source.datum(i);
    this.touched = performance.now();
    const series = [{ name: `datum ${i}`, x: found.x, cells: found.cells, observed: found.observed }];
    if (found.reconstruction) series.push({ name: "reconstruction", x: found.reconstruction, cells: found["reconstruction cells"] });
    show($("datum"), this.world, series);
    this.facts(found);
    this.posterior(found);
    if (i === this.datum) this.python(found.python, `datum ${i}`);
    if (!found.bound && !found.missing && this.source.measure) {
      await this.source.measure(Math.floor(i / this.world.batch) * this.world.batch);
      if (i === this.datum) this.facts(await this.source.datum(i));
    }
  }

  facts(found) {
    const rows = Object.entries(found.labels || {}), { bound } = found;
    const lines = rows.map(([name, value]) => [name, value]);
    const infinite = (bound && bound.infinite) || {};
    const number = (name) => infinite[name] || short(bound[name]);
    const nats = (name) => (number(name) === "unknown" ? "unknown" : `${number(name)} nats`);
    if (bound) {
      lines.push([`IWAE${bound.particles ? `-${bound.particles}` : ""}`, nats("iwae")], ["ELBO", nats("elbo")]);
      lines.push(["KL(q(z | x), p(z))", nats("kl")]);
      const beyond = bound.limit !== undefined && (bound.khat > bound.limit || infinite.khat === "infinity");
      lines.push(["Pareto k-hat", `${number("khat")}${beyond ? `: above ${short(bound.limit)}, the bound is not to be trusted` : ""}`, beyond]);
    } else lines.push(["bounds", found.missing || "being computed"]);
    $("facts").replaceChildren(element("dl", {}, ...lines.map(([name, value, warned]) => element(
      "div", {}, element("dt", {}, name), element("dd", { className: warned ? "warned" : "" }, value),
    ))));
  }

  posterior(found) {
    const rows = this.world.latents.map(({ name, index, factor }) => element(
      "tr", {}, element("th", { scope: "row" }, factor ? `${name}, ${factor}` : name),
      element("td", { className: "number" }, short(found.z[index])),
      element("td", { className: "number" }, found.scale ? short(found.scale[index]) : "unknown"),
    ));
    const head = element("tr", {}, ...["", "mean", "deviation"].map((word) => element("th", { scope: "col" }, word)));
    $("posterior").replaceChildren(element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
  }

  sliders() {
    const rows = this.world.latents.map(({ name, index, kl, factor, low, high, discrete }) => {
      const said = `${name}${factor ? `, ${factor}` : ""}: KL ${kl === null ? "unknown" : `${short(kl)} nats`}`;
      const input = element("input", { type: "range", min: low, max: high, step: discrete ? 1 : "any", id: `z${index}` });
      input.setAttribute("aria-label", said);
      const output = element("output", { htmlFor: `z${index}` });
      input.addEventListener("input", () => {
        this.z[index] = Math.round(Number(input.value) * 1e4) / 1e4;
        output.textContent = short(this.z[index], 2);
        this.marks();
        this.moved(false);
      });
      return element("div", { className: "slider" }, element("label", { htmlFor: `z${index}` }, said), input, output);
    });
    $("sliders").replaceChildren(...rows);
  }

  /* The point moved: decode it, and weigh the mass there. */
  moved(slide = true) {
    if (slide) {
      for (const { index } of this.world.latents) {
        $(`z${index}`).value = this.z[index];
        $(`z${index}`).nextSibling.textContent = short(this.z[index], 2);
      }
    }
    this.touched = performance.now();
    this.decoded();
    this.weighed();
  }

  async showPoint() {
    const z = this.z.slice(), at = this.datum || 0;
    const found = await this.source.decode([z], at);
    show($("decoded"), this.world, [{ name: found.of || "mean of p(x | z)", x: found.x[0], cells: found.cells && found.cells[0] }]);
    $("decoded").dataset.z = JSON.stringify(z);
    const ofDatum = this.datum !== null && this.data[this.datum].every((value, k) => value === z[k]);
    if (!ofDatum) this.pointLines({ decode: found.python });
  }

  async showDensity() {
    const found = await this.source.density(this.z.slice(), this.datum || 0);
    const least = -1e300; // which stands for minus infinity
    const nats = (value) => (value === null ? "unknown" : value <= least ? "minus infinity nats" : `${short(value, 2)} nats`);
    $("density").replaceChildren(
      `log p(z) ${nats(found.prior)}, log q(z) ${nats(found.aggregate)}. `,
      element("span", { className: (found.hole || "").startsWith("A hole") ? "warned" : "" }, found.hole || ""),
      found.missing || "",
    );
    if (this.lines) this.pointLines({ density: found.python });
  }

  /* The lines of the point: those that decode it, and those that weigh it. */
  pointLines(some) {
    this.lines = { ...this.lines, ...some };
    const { decode, density } = this.lines;
    this.python([decode, density].filter(Boolean).join("\n\n"), "the point");
  }

  take(x, y) {
    if (!this.shown.back) return trouble("This plane has no way back to the latents: choose PCA or two latents to take a point.", "choice");
    trouble(null, "choice");
    this.z = this.shown.back(x, y, this.z).map((value) => Math.round(value * 1e4) / 1e4);
    this.marks();
    return this.moved();
  }

  /* ---- between two data ---- */

  end(k) {
    this.ends[k] = this.datum;
    this.marks();
    const [a, b] = this.ends;
    $("between-said").textContent = a !== null && b !== null
      ? `From datum ${a} to datum ${b}, in ${STEPS} steps between their posterior means.`
      : `Marked: datum ${this.datum}. Select another and mark it as the other end.`;
    if (a !== null && b !== null) this.joined();
  }

  async showBetween() {
    const [a, b] = this.ends;
    const { z, python } = await this.source.path(this.data[a], this.data[b], STEPS, [a, b]);
    const found = await this.source.decode(z, a);
    showSteps($("between"), this.world, found.x.map((x, i) => ({ x, cells: found.cells && found.cells[i] })));
    this.python(python || found.python, `the interpolation of ${a} and ${b}`);
  }

  /* ---- lists, bounds and Python ---- */

  listed() {
    const titles = { "least known": "Known least: the lowest bounds on log p(x)", "least trusted": "Trusted least: the highest k-hat above its limit" };
    const parts = Object.entries(titles).map(([name, title]) => {
      const rows = this.lists[name];
      const inside = !rows ? [element("p", { className: "quiet" }, this.source.measure ? "The bounds are being computed." : "The bounds are missing.")]
        : !rows.length ? [element("p", { className: "quiet" }, "None.")]
          : [element("ul", {}, ...rows.map((i) => element("li", {}, element("button", { type: "button", onclick: () => this.select(i) }, `${i}`))))];
      return element("div", {}, element("h3", {}, title), ...inside);
    });
    $("lists").replaceChildren(...parts);
    if (this.world.kind === "image") this.pictured([...$("lists").querySelectorAll("button")]);
  }

  /* Put its picture on each button of the lists, one after another. */
  async pictured(buttons) {
    for (const button of buttons) {
      const i = Number(button.textContent);
      try {
        button.prepend(picture(this.world, (await this.source.datum(i)).x, `datum ${i}`, 44));
      } catch (error) {
        return trouble(error.message, "lists");
      }
    }
    return undefined;
  }

  /* Measure batch after batch, and wait where a person is moving. */
  async measureAll() {
    for (let start = 0; start !== null;) {
      while (performance.now() - this.touched < 400) await new Promise((done) => setTimeout(done, 100));
      let found;
      try {
        found = await this.source.measure(start);
      } catch (error) {
        trouble(error.message);
        this.said(` The bounds end at datum ${start}.`);
        return;
      }
      start = found.next;
      if (found.missing) trouble(found.missing);
      if (start !== null) this.said(` Bounds of ${start.toLocaleString("en")} data computed.`);
      if (found.colors) Object.assign(this.world.colors, found.colors);
      if (found.lists) this.lists = found.lists;
    }
    this.said("");
    this.colorOptions();
    this.listed();
  }

  python(lines, of) {
    if (!lines) return;
    if (of !== "the point") this.lines = null;
    const start = this.world.python && this.world.python.start;
    $("python-of").textContent = `The lines of ${of}.`;
    $("python").textContent = start ? `${start}\n\n${lines}` : lines;
  }
}

/* Show the world of a source. */
async function start(source) {
  try {
    window.explorer = new Explorer(source, await source.world());
    window.explorer.begin();
  } catch (error) {
    $("byline").textContent = "The latent space cannot be shown.";
    trouble(error.message);
  }
}
