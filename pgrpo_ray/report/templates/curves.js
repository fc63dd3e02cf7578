// Curves by plotly, each drawn when it comes near the screen and again when the theme changes.
const LIGHTER = ["#5ab4e8", "#f2955c", "#3fcf9f", "#e6a5cb", "#f0bd4f", "#a9d8f5", "#c79c74", "#e8e8e8", "#9a9a9a"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
const dark = () => getComputedStyle(document.documentElement).colorScheme === "dark";

const loadPlotly = (() => {
  let loading = null;
  return () => {
    loading ||= inflate("plotly").then((source) => {
      const script = document.createElement("script");  // admitted by the hash of its text
      script.textContent = source;
      document.head.append(script);
      return window.Plotly;
    });
    return loading;
  };
})();

// Plotly reads a few HTML tags in names. Runs and terms are named by people; show what they wrote.
const plain = (name) => words(name).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

const see = (colour, opacity) => colour + Math.round(255 * opacity).toString(16).padStart(2, "0");

// A verdict has the colour of its marks in the list.
const VERDICTS = { passed: "passed", wrong_answer: "wrong", runtime_error: "runtime", compile_error: "compile", time_limit: "time",
  memory_limit: "memory", output_limit: "output", tampered: "tampered", no_program: "none" };
const colourOf = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();

const tracesOf = (chart) => {
  const palette = dark() ? LIGHTER : page.colours;
  const verdicts = chart.id.startsWith("verdicts");
  const byRun = page.runs.length > 1 && chart.form !== "stack";
  const hover = chart.unit === "share" ? "%{y:.1%}" : "%{y:.4~g}";
  const traces = [];
  chart.series.forEach((series, at) => {
    const colour = verdicts ? colourOf(VERDICTS[series.name]) : palette[(byRun ? series.run : series.part) % palette.length];
    const total = chart.form === "stack" && series.name === "total";
    const trace = {
      x: series.x, y: series.y, name: plain(series.name || chart.title), legendgroup: String(at), hovertemplate: hover,
      mode: chart.form === "points" || series.x.length === 1 ? "lines+markers" : "lines",
      line: { color: total ? (dark() ? "#ffffff" : "#000000") : colour, width: 2,
        dash: byRun ? DASHES[series.part % DASHES.length] : "solid" },
    };
    if (chart.form === "stack" && !total) {
      Object.assign(trace, { stackgroup: "all", fillcolor: see(colour, 0.75), line: { color: colour, width: 0.5 } });
    } else if (chart.form === "points") {
      const end = (ends, sign) => series.y.map((y, i) => ends[i] === null ? 0 : sign * (ends[i] - y));
      trace.error_y = { type: "data", symmetric: false, array: end(series.high, 1), arrayminus: end(series.low, -1),
        color: colour, thickness: 1.5 };
    } else if (series.low.length) {
      const edge = { x: series.x, mode: "lines", line: { width: 0 }, legendgroup: String(at), showlegend: false,
        hoverinfo: "skip" };
      traces.push({ ...edge, y: series.low }, { ...edge, y: series.high, fill: "tonexty", fillcolor: see(colour, 0.18) });
    }
    traces.push(trace);
  });
  return traces;
};

const layoutOf = (chart) => {
  const ink = colourOf("ink"), line = colourOf("line");
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
  return {
    height: 330, margin: { l: 56, r: 12, t: 10, b: 40 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: ink, family: "system-ui, sans-serif", size: 13 }, hovermode: "x unified",
    hoverlabel: { bgcolor: colourOf("card"), font: { color: ink } },
    showlegend: chart.series.length > 1 || chart.series[0].name !== page.runs[0],
    legend: { orientation: "h", y: -0.2, yanchor: "top", traceorder: "normal" },
    xaxis: { ...axis, title: { text: "step", standoff: 6 }, rangemode: chart.form === "points" ? "normal" : "tozero" },
    yaxis: { ...axis, title: { text: chart.unit === "share" ? "" : chart.unit, standoff: 6 },
      type: chart.log ? "log" : "linear", tickformat: chart.unit === "share" ? ".0%" : "",
      exponentformat: chart.log ? "power" : "none", rangemode: "tozero" },
  };
};

const drawn = new Set();
const draw = async (at) => {
  const Plotly = await loadPlotly();
  const place = byId("plot-" + at);
  const options = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] };
  await Plotly.react(place, tracesOf(page.charts[at]), layoutOf(page.charts[at]), options);
  place.classList.add("drawn");
  drawn.add(at);
};

const redraw = () => drawn.forEach(draw);

const showCurves = () => {
  const soon = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      soon.unobserve(entry.target);
      draw(Number(entry.target.dataset.chart)).catch((error) => complain("A curve cannot be drawn: " + error.message));
    }
  }, { rootMargin: "300px" });
  page.charts.forEach((chart, at) => {
    const figure = element("figure");
    const caption = element("figcaption");
    const place = element("div", "", "plot");
    caption.append(element("h3", chart.title), element("p", chart.about));
    place.id = "plot-" + at;
    place.dataset.chart = at;
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", chart.title + ". " + chart.about);
    figure.append(caption, place);
    byId("charts").append(figure);
    soon.observe(place);
  });
};
