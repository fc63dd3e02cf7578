// Theme, keys, and the first look.
const THEMES = ["auto", "light", "dark"];
const theme = { now: "auto" };
const setTheme = (name) => {
  theme.now = THEMES.includes(name) ? name : "auto";
  document.documentElement.dataset.theme = theme.now;
  byId("theme").textContent = "Theme: " + theme.now;
  try {
    localStorage.setItem("pgrpo-report-theme", theme.now);
  } catch {
    // A browser that keeps nothing for files: the choice holds until the page is closed.
  }
  redraw();
};
const keptTheme = () => {
  try {
    return localStorage.getItem("pgrpo-report-theme");
  } catch {
    return null;
  }
};

const later = (() => {
  let waiting = 0;
  return () => {
    clearTimeout(waiting);
    waiting = setTimeout(applyFilters, 250);
  };
})();

const clearFilters = () => {
  for (const name of FIELDS) field(name).value = "";
  applyFilters();
};

const inForm = (target) => ["INPUT", "SELECT", "TEXTAREA"].includes(target.tagName);

const KEYS = {
  j: () => move(1), k: () => move(-1), h: () => besides(-1), l: () => besides(1),
  Enter: () => view.shown.length && openGroup(view.shown[view.at]),
  Escape: closeGroup,
  "/": () => field("text").focus(),
};
const LIST_KEYS = { ArrowDown: () => move(1), ArrowUp: () => move(-1), PageDown: () => move(10), PageUp: () => move(-10),
  Home: () => move(-Infinity), End: () => move(Infinity) };
const GROUP_KEYS = { ArrowLeft: () => besides(-1), ArrowRight: () => besides(1) };

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const { target, key } = event;
  if (inForm(target)) {
    if (key === "Escape") byId("list").focus();
    return;
  }
  // Enter belongs to what is pressed by it; scrolling text keeps its arrows.
  if (key === "Enter" && target !== byId("list") && target !== document.body && target !== byId("group")) return;
  const inList = target === byId("list"), inGroup = byId("group").contains(target) && target.tagName !== "PRE";
  const action = (Object.hasOwn(KEYS, key) && KEYS[key]) || (inList && Object.hasOwn(LIST_KEYS, key) && LIST_KEYS[key]) ||
    (inGroup && Object.hasOwn(GROUP_KEYS, key) && GROUP_KEYS[key]);
  if (!action) return;
  event.preventDefault();
  action();
});

byId("theme").addEventListener("click", () => setTheme(THEMES[(THEMES.indexOf(theme.now) + 1) % THEMES.length]));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
for (const name of FIELDS) field(name).addEventListener(field(name).tagName === "SELECT" ? "change" : "input", later);
byId("clear").addEventListener("click", clearFilters);
byId("close").addEventListener("click", closeGroup);
byId("previous").addEventListener("click", () => move(-1));
byId("next").addEventListener("click", () => move(1));
byId("list").addEventListener("scroll", () => requestAnimationFrame(paint));
addEventListener("resize", () => view.columns && paint());
if (byId("filter-run")) byId("filter-run").addEventListener("change", () => chooseRun(Number(byId("filter-run").value)));

addEventListener("unhandledrejection", (event) => complain("Something cannot be shown: " + event.reason?.message));

setTheme(keptTheme());
if (typeof DecompressionStream === "undefined") {
  complain("This browser cannot unpack the page's data: use one of 2023 or later.");
} else {
  showCurves();
  chooseRun(0).then(
    () => { document.documentElement.dataset.ready = "rollouts"; },
    (error) => complain("The rollouts cannot be read: " + error.message + ". Write the report again."));
}
