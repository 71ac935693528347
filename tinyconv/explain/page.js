// The page of a trace: grids, controls, keys, edits. Plain JavaScript without a library; needs triples.js and save.js.

/** An element with attributes (on... are listeners) and children. */
function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

const VIEWS = {
  output: ["output", "Output"],
  input: ["input", "Input gradient"],
  weight: ["weight", "Weight gradient"],
  matrix: ["output", "Matrix row"],
  columns: ["output", "im2col column"],
};
const FACTORS = { output: ["input", "weight"], input: ["output", "weight"], weight: ["input", "output"] };
const PACE = 900; // milliseconds a step
const MOST_CELLS = 2500; // of the matrix or the columns; beyond, only the row or column of the step is shown

/** Turn root into the page of data. changed(page) is called after what somebody did; the page is returned. */
function explain(root, data, changed = () => {}) {
  return new Page(root, data, changed);
}

class Page {
  constructor(root, data, changed) {
    Object.assign(this, {
      root,
      data,
      changed,
      trace: new Trace(data),
      view: data.view,
      index: data.index,
      timer: null,
    });
    this.id = `tinyconv-${Math.random().toString(36).slice(2)}`;
    this.cells = new Map();
    this.edited = new Set();
    const outside = this.trace.transposed ? [] : this.trace.triples.filter((t) => t.padding);
    this.padded = new Set(outside.map((t) => t.key.columns));
    this.controls();
    this.update();
    root.dataset.ready = "";
  }

  get by() {
    return VIEWS[this.view][0];
  }

  get shape() {
    return this.trace.shapes[this.by];
  }

  // Controls

  controls() {
    const { weighted, kind } = this.trace;
    const hidden = [weighted ? "" : "weight", kind === "unfold" ? "columns" : ""]; // the output of unfold is those
    const views = Object.keys(VIEWS).filter((view) => !hidden.includes(view));
    const radio = (view) => {
      const input = make("input", {
        type: "radio",
        name: `${this.id}-view`,
        value: view,
        onchange: () => this.go(view),
      });
      return make("label", {}, input, VIEWS[view][1]);
    };
    const button = (text, what, onclick, extra = {}) =>
      make("button", { type: "button", title: what, onclick, ...extra }, text);
    this.views = make("fieldset", { "aria-label": "What to step through" }, ...views.map(radio));
    this.back = button("◀", "Step back", () => this.move(-1), { "aria-label": "Step back" });
    this.playing = button("Play", "Play all steps", () => this.play(), { class: "play" });
    this.forth = button("▶", "Step on", () => this.move(1), { "aria-label": "Step on" });
    this.slider = make("input", {
      type: "range",
      min: 0,
      "aria-label": "Step",
      oninput: () => this.jump(Number(this.slider.value)),
    });
    this.place = make("span", { class: "place" });
    this.stage = make("div", {
      class: "stage",
      onkeydown: (event) => this.key(event),
      onclick: (event) => this.click(event),
      onmouseover: (event) => this.light(event.target.closest("td")),
      onmouseleave: () => this.light(null),
      onfocusin: (event) => this.light(event.target.closest("td")),
      onfocusout: () => this.light(null),
    });
    this.readout = make("p", { class: "note readout" });
    this.problem = make("p", { class: "problem", role: "alert" });
    this.equation = make("p", { class: "equation" });
    this.sentence = make("p", { class: "sentence", role: "status", "aria-live": "polite", id: `${this.id}-sentence` });
    this.terms = make("table", { class: "terms" });
    this.details = make(
      "details",
      { ontoggle: () => this.list() },
      make("summary"),
      make("div", { class: "scroll" }, this.terms),
    );
    this.hint = make("p", { class: "note" });
    const head = make(
      "p",
      { class: "head" },
      make("b", {}, this.trace.operator),
      make("span", {}, this.trace.settings),
    );
    const exports = make(
      "div",
      { class: "controls" },
      button("Save numbers (JSON)", "Download the arrays and this step as JSON", () => this.saveNumbers()),
      button("Save picture (SVG)", "Download what the grids show as an SVG picture", () => this.savePicture()),
      (this.reset = button("Undo edits", "Back to the numbers of the trace", () => this.undo())),
    );
    const transport = make("div", { class: "controls" }, this.back, this.playing, this.forth, this.slider, this.place);
    const words = [this.equation, this.sentence, this.details, exports, this.hint];
    const style = this.root.querySelector("style") ?? ""; // the widget brings its own
    this.root.replaceChildren(style, head, this.views, transport, this.stage, this.readout, this.problem, ...words);
  }

  /** Another view, and its step at index, by default the first. */
  go(view, index = VIEWS[view][0] === this.by ? this.index : this.trace.shapes[VIEWS[view][0]].map(() => 0)) {
    this.show(view, index);
    this.changed(this);
  }

  /** The same without telling: for whoever is told. */
  show(view, index) {
    const shape = this.trace.shapes[VIEWS[view][0]];
    const fits = index.length === shape.length && index.every((at, axis) => at < shape[axis]);
    [this.view, this.index] = [view, fits ? index : shape.map(() => 0)];
    this.update();
  }

  /** Other numbers for an array: what differs from the trace counts as edited. */
  take(name, values) {
    if (!values?.length || !this.trace.values[name]) return;
    const shape = this.trace.shapes[name === "g" ? "output" : name] ?? [values.length];
    for (const [position, value] of values.map(decode).entries()) {
      const index = unflat(position, shape);
      if (!Object.is(this.trace.values[name][position], value)) this.trace.set(name, index, value);
      if (!Object.is(decode(this.data.arrays[name][position]), value)) this.edited.add(`${name}:${index.join()}`);
      else this.edited.delete(`${name}:${index.join()}`);
    }
  }

  jump(position) {
    this.go(this.view, unflat(position, this.shape));
  }

  move(by) {
    const position = flat(this.index, this.shape) + by;
    if (position >= 0 && position < count(this.shape)) this.jump(position);
  }

  play() {
    if (this.timer !== null) return this.stop();
    if (flat(this.index, this.shape) === count(this.shape) - 1) this.jump(0);
    this.sentence.setAttribute("aria-live", "off"); // nobody can listen that fast
    this.playing.textContent = "Pause";
    this.timer = setInterval(() => {
      if (!this.root.isConnected || flat(this.index, this.shape) === count(this.shape) - 1) this.stop();
      else this.move(1);
    }, PACE);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    this.playing.textContent = "Play";
    this.sentence.setAttribute("aria-live", "polite");
  }

  // Grids

  /** The arrays of this view from left to right: [name, sign before it, its grids as rows of indices]. */
  arrays() {
    const { trace, view, by } = this;
    const grids = (name) => this.leads(name).map((lead) => [lead, this.rows(name, lead)]);
    const added = trace.values.bias ? [["bias", "+", [[[], [trace.values.bias.map((_, c) => [c])]]]]] : [];
    const made = [by, "→", grids(by)];
    if (view === "matrix") {
      return [["matrix", "", this.tableRows("matrix")], ["input", "×", grids("input")], ...added, made];
    }
    if (view === "columns") {
      const columns = this.tableRows("columns");
      if (trace.kind !== "convolution")
        return [["input", "", grids("input")], ["columns", "→", columns], ...added, made];
      const rows = ["output", "→", this.flattened("output", [this.image])];
      return [["weight", "", this.flattened("weight", [])], ["columns", "×", columns], ...added, rows];
    }
    const [left, right] = FACTORS[by];
    const factor = right === "weight" && !trace.weighted ? [] : [[right, "×", grids(right)]];
    return [[left, "", grids(left)], ...factor, ...(by === "output" ? added : []), made];
  }

  /** An array as a matrix with a row for each output channel. */
  flattened(name, lead) {
    const [channels, ...rest] = this.trace.shapes[name].slice(lead.length);
    const rows = [...Array(channels).keys()];
    return [[lead, rows.map((row) => [...indices(rest)].map((index) => [...lead, row, ...index]))]];
  }

  get image() {
    return this.by === "weight" ? null : this.index[0];
  }

  /** One grid each: image and channel, or the two channels of the weight. */
  leads(name) {
    const shape = this.trace.shapes[name];
    const all = [...indices(shape.slice(0, shape.length - this.trace.margins[name].length))];
    return name === "weight" || this.image === null ? all : all.filter((lead) => lead[0] === this.image);
  }

  rows(name, lead) {
    const ranges = this.trace.margins[name].map(([first, last]) =>
      [...Array(last - first).keys()].map((at) => at + first),
    );
    const down = ranges.length === 2 ? ranges[0].map((row) => [row]) : [[]];
    return down.map((row) => ranges.at(-1).map((column) => [...lead, ...row, column]));
  }

  /** The matrix or the columns of this image; where there are too many cells, the row or column of this step. */
  tableRows(name) {
    const [image, [down, across]] = [this.image, this.tableSize(name)];
    let [rows, columns] = [[...Array(down).keys()], [...Array(across).keys()]];
    if (this.isLarge(name) && name === "matrix") rows = [this.row];
    else if (this.isLarge(name)) columns = [this.column];
    return [[[], rows.map((row) => columns.map((column) => [image, row, column]))]];
  }

  tableSize(name) {
    const { large, kernel, small, shapes } = this.trace;
    if (name === "matrix") return [count(shapes.output.slice(1)), count(shapes.input.slice(1))];
    return [large[1] * count(kernel.slice(2)), count(small.slice(2))];
  }

  isLarge(name) {
    return count(this.tableSize(name)) > MOST_CELLS && (name === "matrix" || !this.trace.transposed);
  }

  get row() {
    return flat(this.index.slice(1), this.trace.shapes.output.slice(1));
  }

  get column() {
    return flat(this.index.slice(2), this.trace.small.slice(2));
  }

  /** What the grids that stand there depend on. */
  get layout() {
    const moving = { matrix: this.row, columns: this.column }[this.view];
    return [this.view, this.image, moving !== undefined && this.isLarge(this.view) ? moving : ""].join();
  }

  build() {
    const focused = this.stage.contains(document.activeElement) && document.activeElement.cell;
    this.built = this.layout;
    this.cells.clear();
    this.stage.classList.toggle("stacked", this.trace.pixels.length === 1 && this.view !== "columns");
    const parts = this.arrays().map(([name, sign, grids]) => {
      const array = make(
        "div",
        { class: "array", "data-array": name },
        ...grids.map(([lead, rows]) => this.grid(name, lead, rows)),
      );
      return make(
        "div",
        { class: "part" },
        ...(sign ? [make("span", { class: "sign", "aria-hidden": "true" }, sign)] : []),
        array,
      );
    });
    this.stage.replaceChildren(...parts);
    if (focused) this.cells.get(`${focused.name}:${focused.key}`)?.focus();
  }

  grid(name, lead, rows) {
    const dense = name === "matrix" || name === "columns" || rows[0].length > 16;
    const caption = make("caption", {}, this.title(name, lead));
    const body = make(
      "tbody",
      {},
      ...rows.map((row) => make("tr", { role: "row" }, ...row.map((index) => this.cell(name, index)))),
    );
    const table = make(
      "table",
      {
        class: `grid live${dense ? " dense" : ""}`,
        role: "grid",
        "aria-label": this.title(name, lead),
        "aria-describedby": this.sentence.id,
      },
      caption,
      body,
    );
    table.querySelector("td").tabIndex = 0;
    return make("div", { class: "scroll" }, table);
  }

  title(name, lead) {
    if (name === "matrix") return "matrix C, a row for each output";
    if (name === "columns")
      return this.trace.transposed ? "columns that fold adds up" : "im2col, a column for each window";
    const what = lead.length ? element(name, lead) : name;
    if (this.by === "output" || (name === "weight" && this.by === "input")) return what;
    return name === this.by ? `gradient of ${what}` : name === "output" ? `g, gradient of ${what}` : what;
  }

  cell(name, index) {
    const shape = this.trace.shapes[name];
    const inside = !shape || index.every((at, axis) => at >= 0 && at < shape[axis]);
    const td = make("td", { role: "gridcell", tabindex: -1, "data-at": index.join() });
    Object.assign(td, { cell: { name, index, key: index.join(), inside } });
    this.cells.set(`${name}:${index.join()}`, td);
    return td;
  }

  // Showing a step

  update() {
    const { trace, by, index, view } = this;
    if (this.built !== this.layout) this.build();
    const step = (this.step = trace.step(by, index));
    const terms = new Map();
    for (const t of step.terms) {
      for (const [name, key] of Object.entries(t.key)) if (key !== null && name !== by) terms.set(`${name}:${key}`, t);
    }
    if (step.bias !== null) terms.set(`bias:${index[1]}`, null);
    for (const [id, td] of this.cells) this.paint(td, terms.has(id), terms.get(id));
    const position = flat(index, this.shape);
    this.views.querySelector(`[value=${view}]`).checked = true;
    Object.assign(this.slider, { max: count(this.shape) - 1, value: position });
    this.slider.setAttribute("aria-valuetext", element(by, index));
    this.place.textContent = `${position + 1} of ${count(this.shape)}`;
    [this.back.disabled, this.forth.disabled] = [position === 0, position === count(this.shape) - 1];
    this.reset.disabled = this.edited.size === 0;
    this.equation.textContent = equation(step);
    const sentence = describe(trace, step);
    if (this.sentence.textContent !== sentence) this.sentence.textContent = sentence;
    this.problem.textContent = "";
    this.hint.textContent = this.legend();
    this.list();
    for (const box of this.stage.querySelectorAll(".scroll")) this.reveal(box);
  }

  /** Scroll a grid that is too large for its box, and nothing else, to the step. */
  reveal(box) {
    const td = box.querySelector(".made, .read, .line");
    if (!td || (box.scrollWidth <= box.clientWidth && box.scrollHeight <= box.clientHeight)) return;
    const [cell, frame] = [td.getBoundingClientRect(), box.getBoundingClientRect()];
    if (cell.left < frame.left || cell.right > frame.right) box.scrollLeft += cell.left - frame.left - frame.width / 3;
    if (cell.top < frame.top || cell.bottom > frame.bottom) box.scrollTop += cell.top - frame.top - frame.height / 3;
  }

  /** What a cell holds, or null where there is no number. */
  value({ name, key, index, inside }) {
    const { trace, by } = this;
    if (name === "matrix" || name === "columns") return trace.table(name).get(key) ?? null;
    if (!inside) return name === by ? null : this.step.operation === "maximum" ? -Infinity : 0;
    if (name === "bias") return trace.values.bias[index[0]];
    const values = name === by ? trace.sum(by) : trace.values[name === "output" ? "g" : name];
    return values[flat(index, trace.shapes[name])];
  }

  paint(td, read, t) {
    const { cell } = td;
    const made = cell.name === this.by && cell.key === this.index.join();
    const value = this.value(cell);
    const isTable = cell.name === "matrix" || cell.name === "columns";
    const text = value === null ? (isTable ? "·" : "") : short(value);
    const [source] = FACTORS[this.by];
    const sign = this.step.operation === "share" ? "/" : "×";
    const factor = read && cell.name === source && t.right !== null ? sign + short(t.right) : "";
    const editable = this.editable(cell);
    const states = {
      outside: !cell.inside || (cell.name === "columns" && this.padded.has(cell.key)),
      none: isTable && value === null,
      line: cell.name === "matrix" && cell.index[1] === this.row,
      read,
      made,
      factor: factor !== "",
      winner: Boolean(read && t && t.winner),
      edited: editable && this.edited.has(`${cell.name === "output" ? "g" : cell.name}:${cell.key}`),
    };
    const words = [element(cell.name, cell.index), value === null ? "no number" : number(value)];
    if (states.outside) words.push(this.trace.transposed ? "cropped" : "padding");
    if (factor) words.push(factor.replace("×", "times ").replace("/", "divided by "));
    words.push(...["read", "made", "winner", "edited"].filter((state) => states[state]));
    const classes = Object.keys(states)
      .filter((state) => states[state])
      .join(" ");
    const shown = [classes, text, value, ...words].join();
    if (td.shown === shown) return;
    td.shown = shown;
    td.className = classes;
    td.replaceChildren(make("span", {}, text), ...(factor ? [make("small", {}, factor)] : []));
    td.setAttribute("aria-label", words.join(", "));
    td.setAttribute("aria-selected", made);
    td.setAttribute("aria-readonly", !editable);
    td.title = `${words[0]} = ${value === null ? "" : value}`;
  }

  editable({ name, inside }) {
    return inside && name !== this.by && name !== "matrix" && name !== "columns";
  }

  /** Light up everything that shares a product with this cell. */
  light(td) {
    for (const other of this.stage.querySelectorAll(".partner")) other.classList.remove("partner");
    this.readout.textContent = "";
    if (!td?.cell) return;
    const { name, key, index } = td.cell;
    const shared = this.trace.triples.filter((t) => t.key[name] === key);
    for (const t of shared) {
      for (const [other, at] of Object.entries(t.key)) {
        if (other !== name) this.cells.get(`${other}:${at}`)?.classList.add("partner");
      }
    }
    const many =
      name === "bias" ? "" : `, in ${shared.length} product${shared.length === 1 ? "" : "s"} with what is dashed`;
    const value = this.value(td.cell);
    this.readout.textContent = `${element(name, index)}${value === null ? "" : ` = ${value}`}${many}`;
  }

  // Keys, clicks, edits

  key(event) {
    const td = event.target.closest("td");
    if (!td || event.target.tagName === "INPUT" || event.altKey || event.metaKey) return;
    const rows = [...td.closest("table").rows];
    const [row, column] = [rows.indexOf(td.parentNode), td.cellIndex];
    const end = td.parentNode.cells.length - 1;
    const targets = {
      ArrowUp: [row - 1, column],
      ArrowDown: [row + 1, column],
      ArrowLeft: [row, column - 1],
      ArrowRight: [row, column + 1],
      Home: [event.ctrlKey ? 0 : row, 0],
      End: [event.ctrlKey ? rows.length - 1 : row, end],
    };
    if (event.key in targets) {
      const [down, across] = targets[event.key];
      this.focus(rows[down]?.cells[across]);
    } else if (event.key === "Enter" || event.key === " " || event.key === "F2") this.click(event);
    else if (/^[-+.\d]$/.test(event.key) && !event.ctrlKey && this.editable(td.cell)) this.edit(td, event.key);
    else return;
    event.preventDefault();
  }

  /** The one cell of its grid that the tab key reaches. */
  focus(td) {
    if (!td) return;
    for (const other of td.closest("table").querySelectorAll("[tabindex='0']")) other.tabIndex = -1;
    td.tabIndex = 0;
    td.focus();
  }

  click(event) {
    const td = event.target.closest("td");
    if (!td || event.target.tagName === "INPUT") return;
    this.focus(td);
    if (td.cell.name === this.by && td.cell.inside) this.go(this.view, td.cell.index);
    else if (this.editable(td.cell)) this.edit(td);
  }

  edit(td, typed = null) {
    const { cell } = td;
    const name = cell.name === "output" ? "g" : cell.name;
    const input = make("input", { "aria-label": `new value of ${element(cell.name, cell.index)}`, inputmode: "text" });
    input.value = typed ?? String(this.value(cell));
    let open = true; // taking the input away blurs it, which comes here again
    const close = (keep, refocus) => {
      if (!open) return;
      open = false;
      const value = keep ? parse(input.value) : null;
      td.replaceChildren();
      td.shown = null;
      if (value !== null && !Object.is(value, this.value(cell))) {
        this.trace.set(name, cell.index, value);
        this.edited.add(`${name}:${cell.key}`);
      }
      this.update();
      if (refocus) this.focus(td);
      if (keep && value === null)
        this.problem.textContent = `"${input.value}" is no number; give one such as -2, 0.5 or inf.`;
      else if (value !== null) this.changed(this);
    };
    input.addEventListener("keydown", (event) => {
      if (event.key === "Enter") close(true, true);
      else if (event.key === "Escape") close(false, true);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    input.addEventListener("blur", () => close(true, false));
    td.replaceChildren(input);
    input.focus();
    if (typed === null) input.select();
  }

  undo() {
    this.trace = new Trace(this.data);
    this.edited.clear();
    this.update();
    this.changed(this);
  }

  // Words below

  legend() {
    const words = ["Solid frame: read", "double frame: made"];
    const { trace, view } = this;
    if (trace.triples.some((t) => !t.inside)) words.push(`hatched: ${trace.transposed ? "cropped" : "padding"}`);
    if (trace.kind === "max" && this.by !== "weight") words.push("ring: winner");
    words.push("dashed: partners of the cell under the pointer or the focus");
    let only = "";
    if ((view === "matrix" || view === "columns") && this.isLarge(view)) {
      const part = view === "matrix" ? "row" : "column";
      only = ` Only the ${part} of this step is shown; the whole has ${this.tableSize(view).join(" x ")} cells.`;
    }
    const goal = this.by === "output" ? "output" : "gradient";
    const help = `Choose a cell of the ${goal} to go there, any other number to change it.`;
    return `${words.join("; ")}.${only} ${help} Arrow keys move within a grid.`;
  }

  /** All terms with their partial sums, while that list is open. */
  list() {
    const { step } = this;
    const total = step.operation === "maximum" ? "maximum" : "sum";
    this.details.firstChild.textContent = `Term by term (${step.terms.length})`;
    if (!this.details.open) return this.terms.replaceChildren();
    const source = step.by === "input" ? "output" : "input";
    const partner = step.by === "weight" ? "output" : this.trace.weighted ? "weight" : null;
    const row = (tag, cells) => make("tr", {}, ...cells.map((text) => make(tag, {}, text)));
    const hasRight = step.terms.some((t) => t.right !== null);
    const sign = step.operation === "share" ? "/" : "×";
    const rows = step.terms.map((t) => {
      const where = partner ? `${element(partner, t[partner])} ` : "";
      const right = hasRight ? [`${sign} ${where}${number(t.right)}`, `= ${number(t.product)}`] : [];
      const note = t.padding ? (this.trace.transposed ? "cropped" : "padding") : t.winner ? "winner" : "";
      return row("td", [`${element(source, t[source])} ${number(t.left)}`, ...right, number(t.partial), note]);
    });
    this.terms.replaceChildren(
      row("th", [source === "output" ? "g" : "pixel", ...(hasRight ? ["factor", "product"] : []), total, ""]),
      ...rows,
    );
  }

  // Saving: save.js

  download(text, type, ending) {
    const link = make("a", { download: `${[this.trace.operator, this.view, ...this.index].join("-")}.${ending}` });
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.click();
    URL.revokeObjectURL(link.href);
  }

  saveNumbers() {
    this.download(JSON.stringify(numbers(this), null, 1), "application/json", "json");
  }

  savePicture() {
    this.light(null);
    const words = [this.equation.textContent, this.sentence.textContent];
    this.download(picture(this.stage, getComputedStyle(this.root), words), "image/svg+xml", "svg");
  }
}
