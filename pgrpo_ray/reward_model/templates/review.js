"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const pairs = data.pairs;
  const store = "lcb-rb-review-" + data.key;
  const byId = (id) => document.getElementById(id);
  let picks = {};
  let at = 0;

  const warn = (text) => { byId("warning").textContent = text; byId("warning").hidden = false; };
  try {
    picks = JSON.parse(localStorage.getItem(store) || "{}") || {};
  } catch (error) {
    warn("This browser keeps nothing for this page: export before you close it.");
  }
  const keep = () => {
    try {
      localStorage.setItem(store, JSON.stringify(picks));
    } catch (error) {
      warn("The last decision could not be kept: export before you close this page.");
    }
  };

  const decisionOf = (pair) => (picks[pair.id] === pair.chosen ? "accept" : "reject");
  const numDecided = () => pairs.filter((pair) => picks[pair.id]).length;
  const element = (name, text, kind) => {
    const made = document.createElement(name);
    made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };

  const showSide = (name, pair, decided) => {
    const side = byId(name);
    side.querySelector("pre").textContent = pair[name].text;
    const reveal = side.querySelector(".reveal");
    reveal.replaceChildren();
    reveal.hidden = !decided;
    side.classList.toggle("passed", decided && pair.chosen === name);
    side.classList.toggle("failed", decided && pair.chosen !== name);
    if (decided) {
      reveal.append(element("p", "Its program: " + pair[name].verdict, "verdict"), element("pre", pair[name].program));
    }
  };

  const showResult = (pair, decided) => {
    const result = byId("result");
    result.replaceChildren();
    result.hidden = !decided;
    if (!decided) return;
    const decision = decisionOf(pair);
    const why = picks[pair.id] === "none" ? "you saw no clear difference"
      : decision === "accept" ? "your sound side passed" : "your sound side failed";
    result.append(element("p", "Decision: " + decision + " (" + why + ")", decision));
    result.append(element("p", "The judge " + pair.judge + " said: " + pair.decision));
    for (const answer of pair.answers) result.append(element("pre", answer));
  };

  const show = () => {
    const pair = pairs[at];
    const decided = Boolean(picks[pair.id]);
    byId("place").textContent = (at + 1) + " of " + pairs.length + ": " + pair.problem_id +
      (pair.difficulty ? " (" + pair.difficulty + ")" : "");
    byId("problem").textContent = pair.problem;
    showSide("left", pair, decided);
    showSide("right", pair, decided);
    showResult(pair, decided);
    for (const button of document.querySelectorAll("[data-pick]")) {
      button.setAttribute("aria-pressed", String(picks[pair.id] === button.dataset.pick));
      button.disabled = decided;
    }
    byId("undo").disabled = !decided;
    byId("previous").disabled = at === 0;
    byId("next").disabled = at === pairs.length - 1;
    const done = numDecided();
    const accepted = pairs.filter((one) => picks[one.id] && decisionOf(one) === "accept").length;
    byId("progress").textContent = done + " of " + pairs.length + " decided, " + accepted + " accepted";
    byId("done").style.width = (100 * done / pairs.length) + "%";
    byId("bar").setAttribute("aria-valuenow", String(done));
    byId("undecided").disabled = done === pairs.length;
  };

  const go = (place) => { at = Math.max(0, Math.min(pairs.length - 1, place)); show(); };
  const pick = (side) => {
    if (picks[pairs[at].id]) return;
    picks[pairs[at].id] = side;
    keep();
    show();
  };
  const undo = () => { delete picks[pairs[at].id]; keep(); show(); };
  const nextUndecided = () => {
    for (let step = 1; step <= pairs.length; step += 1) {
      const place = (at + step) % pairs.length;
      if (!picks[pairs[place].id]) { go(place); return; }
    }
  };

  const quoted = (text) => '"' + String(text).replaceAll('"', '""') + '"';
  const csv = () => {
    const rows = pairs.filter((pair) => picks[pair.id]).map((pair) =>
      [pair.id, decisionOf(pair), picks[pair.id], pair.chosen].map(quoted).join(","));
    return ["pair_id,decision,sound_side,passing_side", ...rows].join("\r\n") + "\r\n";
  };
  const download = () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
    link.download = "decisions.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };

  for (const button of document.querySelectorAll("[data-pick]")) {
    button.addEventListener("click", () => pick(button.dataset.pick));
  }
  byId("previous").addEventListener("click", () => go(at - 1));
  byId("next").addEventListener("click", () => go(at + 1));
  byId("undecided").addEventListener("click", nextUndecided);
  byId("undo").addEventListener("click", undo);
  byId("export").addEventListener("click", download);
  const keys = {
    "1": () => pick("left"), "2": () => pick("right"), "0": () => pick("none"), u: undo, n: nextUndecided,
    ArrowLeft: () => go(at - 1), ArrowRight: () => go(at + 1),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(keys, event.key)) return;
    event.preventDefault();
    keys[event.key]();
  });
  window.lcbRbReview = { csv };
  const first = pairs.findIndex((pair) => !picks[pair.id]);
  go(first < 0 ? 0 : first);
})();
