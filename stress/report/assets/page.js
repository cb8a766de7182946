"use strict";
// Draws the charts of the page with uPlot, over their drawings, as they come into view.
(() => {
  const samples = JSON.parse(document.getElementById("samples").textContent);
  const dashes = [[], [7, 4], [2, 3], [10, 3, 2, 3], [4, 2], [12, 4], [1, 4], [6, 2, 2, 2]];
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const font = "11px system-ui, sans-serif";

  const whole = [...Array(12).keys()].flatMap((power) => [1, 2, 5].map((step) => step * 10 ** power));
  const digits = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
  const number = (value) => digits.format(value).replace("-", "\u2212");
  const said = (value, unit) => (value == null ? "\u2013" : number(value) + (unit ? "\u00a0" + unit : ""));

  // The charts of one scenario along one axis zoom together: `range` is null, or the part of x that is shown.
  const groups = new Map();
  const groupOf = (name) => {
    if (!groups.has(name)) groups.set(name, { range: null, charts: [] });
    return groups.get(name);
  };

  const zoom = (name, range) => {
    const group = groupOf(name);
    group.range = range;
    for (const { chart, plot } of group.charts) show(plot, chart, range);
    for (const button of document.querySelectorAll("button.reset")) {
      if (button.dataset.group === name) button.hidden = range === null;
    }
  };

  const show = (plot, chart, range) => {
    const [min, max] = range ?? [0, chart.x.end];
    plot.setScale("x", { min, max });
  };

  const shadeWarmUp = (chart) => (plot) => {
    if (chart.warm === null) return;
    const { left, top, width, height } = plot.bbox;
    const end = Math.min(plot.valToPos(chart.warm, "x", true), left + width);
    plot.ctx.save();
    plot.ctx.fillStyle = colour("--warm");
    if (end > left) plot.ctx.fillRect(left, top, end - left, height);
    plot.ctx.restore();
  };

  const drawBudget = (chart) => (plot) => {
    if (chart.budget === null) return;
    const [at, words] = chart.budget;
    const { left, top, width, height } = plot.bbox;
    const y = plot.valToPos(at, "y", true);
    if (y < top - 1 || y > top + height + 1) return;
    const ctx = plot.ctx, pixel = devicePixelRatio;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = colour("--budget");
    ctx.lineWidth = pixel;
    ctx.setLineDash([5 * pixel, 4 * pixel]);
    ctx.beginPath();
    ctx.moveTo(left, y);
    ctx.lineTo(left + width, y);
    ctx.stroke();
    ctx.font = `${11 * pixel}px system-ui, sans-serif`;
    ctx.textAlign = "right";
    ctx.fillText(words, left + width, y - top < 16 * pixel ? y + 12 * pixel : y - 5 * pixel);
    ctx.restore();
  };

  const seriesOf = (curve, unit) => ({
    label: curve.leg,
    class: "c" + curve.colour,
    stroke: () => colour("--c" + curve.colour),
    width: 1.75,
    dash: dashes[curve.colour],
    paths: curve.dots ? () => null : undefined,
    points: curve.dots ? { show: true, size: curve.dots, width: 0, fill: () => colour("--c" + curve.colour) } : { size: 5 },
    value: (plot, value) => said(value, unit),
  });

  const axis = (more) => ({
    stroke: () => colour("--muted"),
    grid: { stroke: () => colour("--grid"), width: 1 },
    ticks: { stroke: () => colour("--grid"), width: 1, size: 4 },
    values: (plot, splits) => splits.map(number),
    font,
    labelFont: font,
    ...more,
  });

  const optionsOf = (chart, name, width) => ({
    width,
    height: Math.round(width / 2),
    scales: {
      x: { time: false, range: () => groupOf(name).range ?? [0, chart.x.end] },
      y: {
        range: (plot, low, high) => {
          if (groupOf(name).range === null || low === null || low === high) return [chart.y.start, chart.y.end];
          const room = (high - low) / 10;
          return [low < 0 ? low - room : Math.max(0, low - room), high + room];
        },
      },
    },
    series: [
      { label: chart.x.title.split(/[ ,]/)[0], value: (plot, value) => said(value, chart.x.unit) },
      ...chart.curves.map((curve) => seriesOf(curve, chart.y.unit)),
    ],
    axes: [axis({ label: chart.x.title, labelSize: 16, size: 26, space: 56 }), axis({ size: 48, space: 30, ...(chart.y.whole ? { incrs: whole } : {}) })],
    cursor: {
      y: false,
      drag: { x: true, y: false, setScale: false },
      // the cursors of a group move together; what a drag selects is applied to all of it below
      sync: { key: name, setSeries: false, filters: { pub: (type) => type === "mousemove" || type === "mouseleave" } },
      bind: { dblclick: () => () => (zoom(name, null), null) },
    },
    hooks: {
      drawClear: [shadeWarmUp(chart)],
      draw: [drawBudget(chart)],
      setSelect: [
        (plot) => {
          const { left, width: selected } = plot.select;
          if (selected < 5) return;
          plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          zoom(name, [plot.posToVal(left, "x"), plot.posToVal(left + selected, "x")]);
        },
      ],
    },
  });

  const draw = (figure) => {
    const chart = samples.charts[figure.dataset.chart];
    const name = figure.parentElement.dataset.group;
    const room = figure.querySelector(".plot");
    const data = uPlot.join(chart.curves.map((curve) => [samples.xs[curve.x], curve.y]));
    figure.classList.add("drawn");
    const plot = new uPlot(optionsOf(chart, name, room.clientWidth), data, room);
    groupOf(name).charts.push({ chart, plot });
    show(plot, chart, groupOf(name).range);
    figure.uplot = plot;
    sizes.observe(room);
  };

  const sizes = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const plot = target.parentElement.uplot, width = target.clientWidth;
      if (width > 0 && width !== plot.width) plot.setSize({ width, height: Math.round(width / 2) });
    }
  });

  const inView = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      inView.unobserve(entry.target);
      draw(entry.target);
    }
  }, { rootMargin: "400px" });

  document.documentElement.classList.add("with-script");
  for (const figure of document.querySelectorAll("figure[data-chart]")) inView.observe(figure);
  for (const button of document.querySelectorAll("button.reset")) {
    button.addEventListener("click", () => zoom(button.dataset.group, null));
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const group of groups.values()) for (const { plot } of group.charts) plot.redraw(false);
  });

  const copy = document.getElementById("copy"), replay = document.getElementById("replay");
  copy.hidden = false;
  copy.addEventListener("click", async () => {
    getSelection().selectAllChildren(replay);
    try {
      await navigator.clipboard.writeText(replay.textContent);
      copy.textContent = "Copied";
    } catch {
      copy.textContent = "Selected: copy it with the keyboard";
    }
  });
})();
