// Fetches the page anew every two seconds, puts its live part in place, and draws what it has seen so far.
// All text is made and escaped by the server; nothing here makes markup of it.
"use strict";
(() => {
  const PERIOD = 2000;
  const PATIENCE = 10000;
  const MOST = 900;
  const seen = [];
  const charts = document.getElementById("charts");
  const status = document.getElementById("status");
  const address = location.pathname + "?format=html";

  const figuresIn = (live) => JSON.parse(live.dataset.figures);

  function remember(figures) {
    seen.push(figures);
    if (seen.length > MOST) seen.shift();
  }

  // A program that was started anew, or another of a server's workers: its curves are not those of the one before.
  function forgetIfAnother(figures) {
    const another = figures.process !== seen[seen.length - 1].process;
    if (another) seen.length = 0;
    return another;
  }

  function written(value, unit) {
    if (unit === "B") {
      const units = ["B", "KiB", "MiB", "GiB", "TiB"];
      let at = 0;
      while (value >= 1024 && at < units.length - 1) { value /= 1024; at += 1; }
      return (at === 0 ? value : value.toFixed(1)) + " " + units[at];
    }
    if (unit === "s") return value < 60 ? value.toFixed(1) + " s" : Math.round(value) + " s";
    return String(value);
  }

  function draw(figure) {
    const { chart, unit } = figure.dataset;
    const names = [...new Set(seen.flatMap((each) => Object.keys(each[chart])))].sort();
    const top = Math.max(1, ...seen.flatMap((each) => Object.values(each[chart])));
    const [first, last] = [seen[0].time, seen[seen.length - 1].time];
    const width = Math.max(last - first, 1);
    const lines = names.map((name) => {
      const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
      const points = seen.map((each) => {
        const y = 100 - 96 * (each[chart][name] || 0) / top;
        return ((each.time - first) / width * 600).toFixed(1) + "," + y.toFixed(2);
      });
      line.setAttribute("points", points.join(" "));
      line.setAttribute("class", "s" + seen[0].colours[name]);
      return line;
    });
    figure.querySelector("svg").replaceChildren(...lines);
    figure.querySelector(".legend").replaceChildren(...names.map((name) => {
      const label = document.createElement("span");
      label.className = "s" + seen[0].colours[name];
      label.textContent = name + " " + written(seen[seen.length - 1][chart][name] || 0, unit);
      return label;
    }));
    figure.querySelector(".top").textContent =
      "top " + written(top, unit) + ", over " + written(Math.round(last - first), "s");
  }

  function redraw() {
    charts.hidden = false;
    charts.querySelectorAll("figure").forEach(draw);
  }

  function isReading(live) {
    const selection = getSelection();
    return !selection.isCollapsed && live.contains(selection.anchorNode);
  }

  function replace(live, fresh) {
    const open = new Set([...live.querySelectorAll("details[open]")].map((each) => each.dataset.key));
    fresh.querySelectorAll("details").forEach((each) => { each.open = open.has(each.dataset.key); });
    const key = live.contains(document.activeElement) && document.activeElement.closest("details")?.dataset.key;
    const boxes = [...live.querySelectorAll(".box")].map((box) => box.scrollLeft);
    live.replaceWith(document.adoptNode(fresh));
    fresh.querySelectorAll(".box").forEach((box, at) => { box.scrollLeft = boxes[at] || 0; });
    if (key) fresh.querySelector(`details[data-key="${key}"] summary`)?.focus({ preventScroll: true });
  }

  async function update() {
    try {
      const answer = await fetch(address, { cache: "no-store", signal: AbortSignal.timeout?.(PATIENCE) });
      if (!answer.ok) throw new Error("status " + answer.status);
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById("live");
      const live = document.getElementById("live");
      const another = forgetIfAnother(figuresIn(fresh));
      const reading = !another && isReading(live);
      remember(figuresIn(fresh));
      if (!reading) replace(live, fresh);
      redraw();
      document.title = page.title;
      document.querySelector("h1").textContent = page.querySelector("h1").textContent;
      status.textContent = another ? "another process answers than before: the curves begin anew"
        : reading ? "tables wait while text in them is selected" : "updated every two seconds";
      status.className = "faint";
    } catch (error) {
      status.textContent = "no answer (" + error.message + "): what is shown is old";
      status.className = "lost";
    }
    setTimeout(update, PERIOD);
  }

  remember(figuresIn(document.getElementById("live")));
  redraw();
  setTimeout(update, PERIOD);
})();
