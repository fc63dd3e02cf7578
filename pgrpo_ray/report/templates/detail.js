// One group: its statement, and its members side by side.
const factsOf = (at) => {
  const { rows } = view.columns;
  const known = (name, digits, label, suffix) =>
    rows[name][at] === null ? [] : [[label, number(rows[name][at], digits) + (suffix || "")]];
  const tests = rows.tests_total[at] ? [["tests", rows.tests_passed[at] + " of " + rows.tests_total[at]]] : [];
  return [
    ...known("reward", 3, "reward"), ...known("reward_format", 3, "format"), ...known("reward_outcome", 3, "outcome"),
    ...known("reward_thinking", 3, "thinking"), ...(rows.reward_other[at] ? known("reward_other", 3, "other") : []),
    ...known("thinking_reward", 3, "score R^t"), ...known("advantage", 3, "advantage"), ...tests,
    ...known("first_failed", 0, "first failed"), ["tokens", count(rows.response_tokens[at])],
    ...known("policy_version", 0, "policy version"),
    ...(rows.tests_total[at] ? known("duration_ms", 0, "ran for", " ms") : []),
  ];
};

const part = (card, title, shown) => {
  card.append(element("h5", title));
  const box = element("pre", "", title.toLowerCase());
  box.append(shown);
  box.tabIndex = 0;
  box.setAttribute("aria-label", title);
  card.append(box);
};

const cardOf = (group, member, texts) => {
  const { groups, rows, states } = view.columns;
  const at = view.starts[group] + member, place = groups.first_in_chunk[group] + member;
  const state = states[rows.state[at]];
  const text = (name) => texts[name] && texts[name][place];
  const card = element("article", "", "member " + state + (view.matches[at] ? "" : " unmatched"));
  const head = element("h4", "#" + member + " ");
  head.append(element("span", words(state), "badge " + state));
  for (const [why, what] of [[rows.cut[at], "cut"], [rows.masked[at], "masked: " + words(String(rows.masked[at]))],
    [rows.dropped[at], "dropped: " + words(String(rows.dropped[at]))]]) {
    if (why) head.append(" ", element("span", what, "badge note"));
  }
  card.append(head);
  const table = element("dl");
  for (const [name, value] of factsOf(at)) {
    const pair = element("div");
    pair.append(element("dt", name), element("dd", value));
    table.append(pair);
  }
  card.append(table);
  if (text("detail")) part(card, "What failed", text("detail"));
  if (text("execution_error")) part(card, "Execution failed", text("execution_error"));
  if (text("thinking_error")) part(card, "Scoring failed", text("thinking_error"));
  if (text("thinking") !== null && text("thinking") !== undefined) part(card, "Reasoning", text("thinking") || "(empty)");
  if (text("program")) part(card, "Program", coloured(text("program")));
  if (text("response") !== null && text("response") !== undefined) {
    part(card, "Response", text("response") || "(empty)");
  }
  card.tabIndex = 0;
  card.setAttribute("aria-label", "rollout " + member + ", " + words(state));
  return card;
};

const openGroup = async (group) => {
  const { groups, places, problems } = view.columns;
  const focus = view.open === null;
  view.open = group;
  paint();
  const run = view.run;
  const texts = await textsOf(run, groups.chunk[group]);
  if (view.open !== group || view.run !== run) return;
  const where = places[groups.place[group]];
  byId("group-title").textContent = problems[groups.problem[group]];
  byId("group-place").textContent = (where.kind === "training" ? "" : "held-out, ") + where.name + ", " +
    passedOf(group) + " of " + groups.size[group] + " passed";
  // A chunk has one statement a group, in their order.
  let first = group;
  while (first > 0 && groups.chunk[first - 1] === groups.chunk[group]) first -= 1;
  byId("statement").textContent = texts.prompt[group - first];
  byId("members").replaceChildren(...Array.from({ length: groups.size[group] }, (_, member) => cardOf(group, member, texts)));
  byId("members").scrollLeft = 0;
  byId("group").hidden = false;
  byId("pick").hidden = true;
  byId("browser").classList.add("opened");
  if (focus) byId("group").focus({ preventScroll: true });
};

const closeGroup = () => {
  if (view.open === null) return;
  view.open = null;
  byId("group").hidden = true;
  byId("pick").hidden = false;
  byId("browser").classList.remove("opened");
  paint();
  byId("list").focus({ preventScroll: true });
};

// The card beside the one that has the focus, or the first.
const besides = (by) => {
  const cards = [...byId("members").children];
  const at = cards.findIndex((card) => card.contains(document.activeElement));
  const next = cards[at < 0 ? 0 : Math.max(0, Math.min(cards.length - 1, at + by))];
  next?.focus();
  next?.scrollIntoView({ block: "nearest", inline: "nearest" });
};
