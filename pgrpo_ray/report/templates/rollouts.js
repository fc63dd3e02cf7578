// The list of groups: filters over scalar columns, search in texts, and only those rows in the page that are on screen.
const ROW_HEIGHT = 58;
const LETTERS = { passed: "P", wrong_answer: "W", runtime_error: "R", compile_error: "C", time_limit: "T", memory_limit: "M",
  output_limit: "O", tampered: "!", no_program: "–", error: "E" };
const FATES = {
  "": () => true,
  gradient: (rows, at) => Boolean(rows.advantage[at]) && !rows.masked[at] && !rows.dropped[at],
  no_advantage: (rows, at) => rows.advantage[at] === 0,
  masked: (rows, at) => Boolean(rows.masked[at]),
  dropped: (rows, at) => Boolean(rows.dropped[at]),
  cut: (rows, at) => Boolean(rows.cut[at]),
};

const view = { run: 0, columns: null, starts: null, shown: [], matches: null, at: 0, open: null, search: 0 };
const field = (name) => byId("filter-" + name);
const FIELDS = ["text", "problem", "source", "from", "to", "verdict", "low", "high", "fate", "sort"];

const startsOf = (sizes) => {
  const starts = new Uint32Array(sizes.length + 1);
  for (let at = 0; at < sizes.length; at += 1) starts[at + 1] = starts[at] + sizes[at];
  return starts;
};

const meanOf = (values, from, to) => {
  let sum = 0, known = 0;
  for (let at = from; at < to; at += 1) {
    if (values[at] === null) continue;
    sum += values[at];
    known += 1;
  }
  return known ? sum / known : null;
};

const spreadOf = (values, from, to) => {
  const mean = meanOf(values, from, to);
  const squares = [];
  for (let at = from; at < to; at += 1) if (values[at] !== null) squares.push((values[at] - mean) ** 2);
  return squares.length ? meanOf(squares, 0, squares.length) : -1;
};

const passedOf = (group) => {
  let passed = 0;
  for (let at = view.starts[group]; at < view.starts[group + 1]; at += 1) passed += view.columns.rows.state[at] === 0;
  return passed;
};

const ORDERS = {
  spread: (group) => -spreadOf(view.columns.rows.reward, view.starts[group], view.starts[group + 1]),
  passed: (group) => passedOf(group) / view.columns.groups.size[group],
  longest: (group) => -Math.max(...view.columns.rows.response_tokens.slice(view.starts[group], view.starts[group + 1])),
};

// Mark the rollouts that fit, texts aside; return the groups in which one does.
const sieve = () => {
  const { groups, rows, places, problems } = view.columns;
  const value = Object.fromEntries(FIELDS.map((name) => [name, field(name).value.trim()]));
  const bound = (text, otherwise) => text === "" || Number.isNaN(Number(text)) ? otherwise : Number(text);
  const low = bound(value.low, -Infinity), high = bound(value.high, Infinity);
  const anyReward = low === -Infinity && high === Infinity;
  const from = bound(value.from, -Infinity), to = bound(value.to, Infinity);
  const state = value.verdict === "" ? -1 : Number(value.verdict);
  const fate = FATES[value.fate];
  const wanted = value.problem.toLowerCase();
  const problemFits = problems.map((problem) => problem.toLowerCase().includes(wanted));
  const placeFits = places.map((place) => place.step >= from && place.step <= to &&
    (value.source === "" || value.source === place.kind || value.source === "=" + place.name));
  const matches = new Uint8Array(rows.state.length);
  const found = [];
  for (let group = 0; group < groups.size.length; group += 1) {
    if (!placeFits[groups.place[group]] || !problemFits[groups.problem[group]]) continue;
    let fits = 0;
    for (let at = view.starts[group]; at < view.starts[group + 1]; at += 1) {
      const reward = rows.reward[at];
      if ((state < 0 || rows.state[at] === state) && fate(rows, at) &&
          (anyReward || (reward !== null && reward >= low && reward <= high))) fits += (matches[at] = 1);
    }
    if (fits) found.push(group);
  }
  return { found, matches };
};

// Keep those in whose texts the words stand, chunk after chunk, so that the page stays alive. Null: another search began.
const searchTexts = async ({ found, matches }, wanted, search) => {
  const { groups } = view.columns;
  const kept = [], matched = new Uint8Array(matches.length), escaped = JSON.stringify(wanted).slice(1, -1);
  let chunk = -1, texts = null;
  for (const group of found) {
    if (groups.chunk[group] !== chunk) {
      chunk = groups.chunk[group];
      const share = kept.length ? ", " + count(kept.length) + " found" : "";
      byId("count").textContent = "Searching chunk " + count(chunk + 1) + " of " + count(groups.chunk.at(-1) + 1) + share;
      const raw = await inflate("texts-" + view.run + "-" + chunk);
      if (search !== view.search) return null;
      // Most chunks hold it nowhere, which shows before they are taken apart.
      const { prompt, ...own } = raw.toLowerCase().includes(escaped) ? JSON.parse(raw) : {};
      texts = Object.values(own);
    }
    let fits = 0;
    for (let member = 0; member < groups.size[group]; member += 1) {
      const at = view.starts[group] + member;
      const place = groups.first_in_chunk[group] + member;
      const hit = matches[at] && texts.some((column) => column[place] && column[place].toLowerCase().includes(wanted));
      if (hit) fits += (matched[at] = 1);
    }
    if (fits) kept.push(group);
  }
  return { found: kept, matches: matched };
};

const applyFilters = async () => {
  if (!view.columns) return;
  const search = (view.search += 1);
  let result = sieve();
  const wanted = field("text").value.trim().toLowerCase();
  byId("list").setAttribute("aria-busy", "true");
  if (wanted) result = await searchTexts(result, wanted, search);
  if (!result || search !== view.search) return;
  byId("list").setAttribute("aria-busy", "false");
  const order = ORDERS[field("sort").value];
  if (order) {
    const keys = new Map(result.found.map((group) => [group, order(group)]));
    result.found.sort((one, other) => keys.get(one) - keys.get(other) || one - other);
  }
  view.shown = result.found;
  view.matches = result.matches;
  view.at = Math.max(0, view.shown.indexOf(view.open));
  const rollouts = result.matches.reduce((sum, match) => sum + match, 0);
  byId("count").textContent = count(view.shown.length) + " of " + count(view.columns.groups.size.length) + " groups, " +
    count(rollouts) + " rollouts match";
  byId("list").scrollTop = 0;
  if (view.at) reveal();
  paint();
};

const rowOf = (place) => {
  const group = view.shown[place], { groups, rows, places, problems, states } = view.columns;
  const from = view.starts[group], to = view.starts[group + 1];
  const row = element("div", "", "row" + (place === view.at ? " current" : "") + (group === view.open ? " open" : ""));
  const passed = passedOf(group), mean = meanOf(rows.reward, from, to);
  const where = places[groups.place[group]], name = problems[groups.problem[group]];
  const top = element("div", "", "top"), bottom = element("div", "", "bottom"), marks = element("span", "", "marks");
  top.append(element("span", where.kind === "training" ? where.name : "held-out " + where.name, "step"), element("b", name));
  for (let at = from; at < to; at += 1) {
    const state = states[rows.state[at]];
    marks.append(element("i", LETTERS[state], "mark " + state + (view.matches[at] ? "" : " dim")));
  }
  bottom.append(marks, element("span", passed + "/" + (to - from)));
  if (mean !== null) bottom.append(element("span", "R " + mean.toFixed(2)));
  row.append(top, bottom);
  row.id = "row-" + place;
  row.style.top = place * ROW_HEIGHT + "px";
  row.setAttribute("role", "option");
  row.setAttribute("aria-selected", String(place === view.at));
  row.setAttribute("aria-setsize", view.shown.length);
  row.setAttribute("aria-posinset", place + 1);
  row.setAttribute("aria-label", where.name + ", problem " + name + ", " + passed + " of " + (to - from) + " passed" +
    (mean === null ? "" : ", mean reward " + mean.toFixed(2)));
  row.addEventListener("click", () => { view.at = place; openGroup(group); });
  return row;
};

const paint = () => {
  const list = byId("list"), rows = byId("rows");
  rows.style.height = view.shown.length * ROW_HEIGHT + "px";
  const first = Math.max(0, Math.floor(list.scrollTop / ROW_HEIGHT) - 4);
  const last = Math.min(view.shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW_HEIGHT) + 4);
  rows.replaceChildren(...Array.from({ length: Math.max(0, last - first) }, (_, at) => rowOf(first + at)));
  byId("none").hidden = view.shown.length > 0;
  if (byId("row-" + view.at)) list.setAttribute("aria-activedescendant", "row-" + view.at);
  else list.removeAttribute("aria-activedescendant");
};

const reveal = () => {
  const list = byId("list"), top = view.at * ROW_HEIGHT;
  if (top < list.scrollTop) list.scrollTop = top;
  if (top + ROW_HEIGHT > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW_HEIGHT - list.clientHeight;
};

const move = (by) => {
  if (!view.shown.length) return;
  view.at = Math.max(0, Math.min(view.shown.length - 1, view.at + by));
  reveal();
  paint();
  if (view.open !== null) openGroup(view.shown[view.at]);
};

const option = (value, text) => {
  const made = element("option", text);
  made.value = value;
  return made;
};

const chooseRun = async (run) => {
  closeGroup();
  view.search += 1;
  byId("count").textContent = "Reading rollouts ...";
  const columns = await block("columns-" + run);
  Object.assign(view, { run, columns, starts: startsOf(columns.groups.size), at: 0 });
  const seen = new Array(columns.states.length).fill(0);
  for (const state of columns.rows.state) seen[state] += 1;
  field("verdict").replaceChildren(option("", "any"), ...columns.states.flatMap((state, at) =>
    seen[at] ? [option(String(at), words(state) + " (" + count(seen[at]) + ")")] : []));
  const evaluations = columns.places.filter((place) => place.kind === "heldout");
  field("source").replaceChildren(option("", "all"), option("training", "training"),
    ...(evaluations.length ? [option("heldout", "held-out, all")] : []),
    ...evaluations.map((place) => option("=" + place.name, "held-out, " + place.name)));
  byId("none").textContent = columns.groups.size.length ? "Nothing matches. Clear the filters to see all."
    : "No rollouts are here: the run's folder had none, or --max-rollouts left them out.";
  await applyFilters();
};
