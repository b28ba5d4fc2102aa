"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;
const system = matchMedia("(prefers-color-scheme: dark)");
const hash = () => new URLSearchParams(location.hash.slice(1));

// ------------------------------------------------------------------------------------------------- light and dark
let chosen = hash().get("theme");
function paint() {
  root.dataset.theme = chosen === "dark" || chosen === "light" ? chosen : system.matches ? "dark" : "light";
}
paint();
system.addEventListener("change", paint);
addEventListener("beforeprint", () => { root.dataset.theme = "light"; });
addEventListener("afterprint", paint);
document.getElementById("theme").addEventListener("click", () => {
  chosen = root.dataset.theme === "dark" ? "light" : "dark";
  paint();
});
for (const link of document.querySelectorAll("nav a")) {
  link.addEventListener("click", (event) => { // the fragment keeps the filters
    event.preventDefault();
    document.querySelector(link.getAttribute("href")).scrollIntoView({ behavior: "smooth" });
  });
}

// --------------------------------------------------------------------------------------------------------- charts
// The interpreter of expressions, not their compilation: the page's policy forbids eval.
const options = { renderer: "svg", actions: false, ast: true, defaultStyle: false, tooltip: { disableDefaultStyle: true } };
const narrow = matchMedia("(max-width: 560px)");
const config = () => (narrow.matches ? { ...data.config, axis: { ...data.config.axis, labelLimit: 156 } } : data.config);
const places = [...document.querySelectorAll("[data-chart]")];
function drawCharts() {
  return Promise.all(places.map((place) =>
    vegaEmbed(place, data.charts[place.dataset.chart], { ...options, config: config() }).catch((error) => {
      place.textContent = "This chart could not be drawn: " + error.message;
      console.error(error);
    })
  )).then((drawn) => { root.dataset.drawn = drawn.filter(Boolean).length; });
}
drawCharts();
narrow.addEventListener("change", drawCharts);

// A chart that leaves the page has colours of its own in place of the page's, a width, and a font that others have.
function alone(value) {
  const text = JSON.stringify(value).replace(/var\(--([\w-]+)\)/g, (all, name) => data.palette[name] || all);
  return JSON.parse(text, (key, inner) => (inner === data.alone.font[0] ? data.alone.font[1] : inner));
}
async function saved(id, kind) {
  const spec = { ...alone(data.charts[id]), width: data.alone.width, background: data.palette.page };
  const made = await vegaEmbed(document.createElement("div"), spec, { ...options, config: { ...alone(data.config), background: data.palette.page } });
  try {
    if (kind === "svg") return new Blob([await made.view.toSVG()], { type: "image/svg+xml" });
    const canvas = await made.view.toCanvas(2);
    return await new Promise((done) => canvas.toBlob(done, "image/png"));
  } finally {
    made.finalize();
  }
}
for (const place of document.querySelectorAll("[data-save]")) {
  place.addEventListener("click", async (event) => {
    const kind = event.target.value;
    if (!kind) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await saved(place.dataset.save, kind));
    link.download = `${data.name}-${place.dataset.name}`.replace(/[^\p{L}\p{N}._]+/gu, "-").slice(0, 90) + "." + kind;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
}

// ----------------------------------------------------------------------------------------------------------- rows
const list = document.getElementById("list");
if (list) showRows();

function showRows() {
  const PAGE = 40;
  const { rows, texts, variables, short, kinds, shares, scores, expected } = data.rows;
  const form = document.getElementById("filters");
  const search = document.getElementById("q");
  const more = document.getElementById("more");
  let limit = PAGE;

  const selects = new Map();
  function select(name, label, choices) {
    if (choices.length < 2 && name !== "kind") return;
    const box = document.createElement("select");
    box.setAttribute("aria-label", label);
    box.append(new Option(label, ""), ...choices.map(([value, words]) => new Option(words, value)));
    box.addEventListener("change", () => { limit = PAGE; keep(); });
    selects.set(name, box);
    form.append(box);
  }
  select("kind", "Why shown: any", kinds.map(([key, words, shown, all]) => [key, `${words} (${shown === all ? shown : `${shown} of ${all.toLocaleString("en")}`})`]));
  select("status", "Status: any", [...new Set(rows.map((row) => row.v.status))].map((status) => [status, status]));
  variables.forEach(([name, values], at) =>
    select("at." + name, name + ": any", values.filter((value) => rows.some((row) => row.p[at] === value)).map((value) => [value, value || "(none)"])));
  // Columns with few different short values: the label that is expected, fields of JSON in answers, or the answers themselves.
  const MOST_LABELS = 24, LONGEST_LABEL = 48;
  const asText = (value) => (value == null || typeof value === "object" ? null : String(value).trim());
  function labelled(name, label, read) {
    for (const row of rows) (row.l ||= {})[name] = read(row);
    const values = [...new Set(rows.map((row) => row.l[name]).filter((value) => value))];
    const few = values.length <= MOST_LABELS && values.length * 2 <= Math.max(rows.length, 4);
    if (!few || values.some((value) => value.length > LONGEST_LABEL)) return false;
    select(name, label + ": any", values.sort().map((value) => [value, value]));
    return true;
  }
  const parsed = new Map(rows.map((row) => {
    try { return [row, JSON.parse(row.v.parsed)]; } catch { return [row, null]; }
  }));
  const fields = [...new Set(rows.flatMap((row) => { const v = parsed.get(row); return v && typeof v === "object" && !Array.isArray(v) ? Object.keys(v) : []; }))];
  const labels = [];
  if (expected && labelled("is.expected", "Expected", (row) => asText(row.c[expected]))) labels.push("is.expected");
  for (const field of fields.slice(0, 12)) {
    if (labels.length < 5 && labelled("is." + field, field, (row) => asText((parsed.get(row) || {})[field]))) labels.push("is." + field);
  }
  if (!fields.length && labelled("is.answer", "Answer", (row) => asText(row.v.content))) labels.push("is.answer");
  if (shares.length) select("score", "Score: any", shares.flatMap((name) => [[name + ":right", name + ": right"], [name + ":wrong", name + ": wrong"]]));

  for (const row of rows) {
    const words = [row.v.id, row.v.content, row.v.parsed, row.v.reasoning, row.v.error_message, row.v.error_type, ...row.p, ...Object.values(row.c), ...(row.m || []).map((m) => texts[m[1]])];
    row.text = words.filter((word) => word != null).join("\n").toLowerCase();
  }

  function keep() {
    const state = hash();
    for (const [name, box] of [["q", search], ...selects]) box.value ? state.set(name, box.value) : state.delete(name);
    const text = state.toString();
    history.replaceState(null, "", text ? "#" + text : location.pathname + location.search);
    draw();
  }
  function read() {
    const state = hash();
    for (const [name, box] of [["q", search], ...selects]) box.value = state.get(name) || "";
    if (state.get("theme")) { chosen = state.get("theme"); paint(); }
    limit = PAGE;
    draw();
  }
  function passes(row) {
    const of = (name) => (selects.has(name) ? selects.get(name).value : "");
    const query = search.value.trim().toLowerCase();
    if (query && !query.split(/\s+/).every((word) => row.text.includes(word))) return false;
    if (of("kind") && !row.k.includes(of("kind"))) return false;
    if (of("status") && row.v.status !== of("status")) return false;
    if (variables.some(([name], at) => of("at." + name) && row.p[at] !== of("at." + name))) return false;
    if (labels.some((name) => of(name) && row.l[name] !== of(name))) return false;
    const [name, wanted] = [of("score").replace(/:(right|wrong)$/, ""), of("score").split(":").pop()];
    if (!name) return true;
    const score = row.s[name];
    return score != null && (wanted === "right") === (score >= 1);
  }
  // What the address asks for that there is no filter for, or no such value: said, and all rows are shown.
  function unapplied() {
    const isApplied = (name, value) => name === "q" || name === "theme" || (selects.has(name) && selects.get(name).value === value);
    return [...hash()].filter(([name, value]) => value && !isApplied(name, value)).map(([name, value]) => `${name} = ${value}`);
  }
  function draw() {
    const found = rows.filter(passes);
    for (const box of selects.values()) box.classList.toggle("on", !!box.value);
    list.replaceChildren(...found.slice(0, limit).map(drawn));
    const left = unapplied();
    document.getElementById("shown").textContent =
      (found.length === rows.length ? `${rows.length.toLocaleString("en")} rows` : `${found.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows`) +
      (left.length ? `; there is no such filter, so it is not applied: ${left.join(", ")}` : "");
    more.hidden = found.length <= limit;
  }

  // Everything that came from elsewhere goes through textContent.
  function el(tag, className, ...inside) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    made.append(...inside.filter((part) => part != null));
    return made;
  }
  function marked(text) {
    const query = search.value.trim();
    if (!query) return [text];
    const parts = [];
    const low = text.toLowerCase();
    const words = query.toLowerCase().split(/\s+/);
    let at = 0;
    while (low.length === text.length) {
      const next = words.map((word) => [low.indexOf(word, at), word]).filter(([place]) => place >= 0).sort((a, b) => a[0] - b[0])[0];
      if (!next) break;
      parts.push(text.slice(at, next[0]), el("mark", "", text.slice(next[0], next[0] + next[1].length)));
      at = next[0] + next[1].length;
    }
    return [...parts, text.slice(at)];
  }
  const cell = (text, dim) => {
    const made = el("span", dim ? "cell dim" : "cell", ...marked(text == null ? "" : text.slice(0, 400)));
    made.dir = "auto";
    return made;
  };

  function drawn(row) {
    const v = row.v;
    const answer = v.parsed ?? v.content ?? v.tool_calls ?? v.error_message ?? "";
    const asked = row.m && row.m.length ? texts[row.m[row.m.length - 1][1]] : Object.values(row.c).find((x) => x != null && x.length > 12) ?? Object.values(row.c)[0] ?? "";
    const point = variables.map(([name], at) => (short[name] ? short[name][row.p[at]] ?? row.p[at] : null)).filter((x) => x).join(" · ");
    const wanted = expected && row.c[expected] != null ? `expected ${row.c[expected]}` : "";
    const marks = el("span", "marks", ...scores.filter((name) => row.s[name] != null).map((name) => {
      const score = row.s[name];
      if (!shares.includes(name)) return el("span", "mark", `${name} ${row.t[name]}`);
      return el("span", "mark " + (score >= 1 ? "right" : "wrong"), `${score >= 1 ? "✓" : score > 0 ? row.t[name] : "✗"} ${name}`);
    }));
    if (v.status !== "ok") marks.append(el("span", "mark", v.status));
    const dot = el("i", "dot st-" + v.status);
    dot.title = v.status;
    const aside = el("span", "", cell([point, v.sample ? `sample ${v.sample}` : ""].filter(Boolean).join(" · "), true), wanted ? cell(wanted, true) : null);
    const summary = el("summary", "", dot, cell(v.id, true), cell(asked, true), cell(answer), aside, marks);
    const made = el("details", "row", summary);
    made.addEventListener("toggle", () => { if (made.open && made.children.length === 1) made.append(body(row)); });
    return made;
  }
  function text(name, words) {
    const made = el("div", "text");
    made.dir = "auto";
    if (name) made.append(el("b", "", name));
    made.append(...marked(words));
    return made;
  }
  function block(title, ...parts) {
    return el("div", "", el("h4", "", title), ...parts);
  }
  function body(row) {
    const v = row.v;
    const inside = el("div", "body");
    if (row.m) {
      const own = row.m.slice(row.h).map(([role, at]) => text(role, texts[at]));
      const common = row.m.slice(0, row.h).map(([role, at]) => text(role, texts[at]));
      const shared = common.length ? el("details", "", el("summary", "", `${common.length} ${common.length === 1 ? "message" : "messages"} before, the same for every row of this prompt`), ...common) : null;
      inside.append(block("Prompt", shared, ...own));
    }
    if (v.reasoning != null) inside.append(block("Reasoning", text("", v.reasoning)));
    if (v.content != null) inside.append(block("Answer", text("", v.content)));
    if (v.tool_calls != null) inside.append(block("Tool calls", text("", v.tool_calls)));
    if (v.error_message != null) inside.append(block("Error", text([v.http_status, v.error_type, v.error_code].filter((x) => x != null).join(" "), v.error_message)));
    const carried = Object.entries(row.c).filter(([, value]) => value != null);
    if (carried.length) inside.append(block("Carried", ...carried.map(([name, value]) => text(name === expected ? name + " (expected)" : name, value))));
    inside.append(el("div", "facts", ...row.f.map(([name, value]) => el("span", "", name + " ", el("b", "", value)))));
    return inside;
  }

  search.addEventListener("input", () => { limit = PAGE; keep(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => { limit += 4 * PAGE; draw(); });
  addEventListener("hashchange", read);
  read();
}
