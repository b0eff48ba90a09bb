"use strict";
// Draws the charts that the page's data describes. A chart is lines over a linear, time or
// percentile axis, or dots with their spread in rows. Nothing is fetched.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const color = (slot) => `var(--${slot})`;

  function element(parent, name, attributes, text) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    parent.append(made);
    return made;
  }

  function html(parent, name, className, text) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    parent.append(made);
    return made;
  }

  // 1234567 -> 1.23M, 0.01234 -> 0.0123
  function number(value) {
    if (value === 0) return "0";
    const size = Math.abs(value);
    for (const [limit, unit] of [[1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
      if (size >= limit) return trim(value / (limit === 1e4 ? 1e3 : limit)) + unit;
    }
    return trim(value);
  }

  function trim(value) {
    const digits = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value) || 1)));
    return String(Number(value.toFixed(Math.min(digits, 6))));
  }

  function clock(seconds, span) {
    if (span < 180) return `${trim(seconds)} s`;
    const whole = Math.round(seconds);
    const two = (part) => String(part).padStart(2, "0");
    const minutes = Math.floor(whole / 60);
    if (span < 7200) return `${minutes}:${two(whole % 60)}`;
    return `${Math.floor(minutes / 60)}h${two(minutes % 60)}`;
  }

  function linearTicks(low, high, wanted) {
    const raw = (high - low) / wanted || 1;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= raw);
    const ticks = [];
    for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) {
      ticks.push(n * step);
    }
    return ticks;
  }

  function logTicks(low, high) {
    const decades = Math.log10(high / low);
    if (decades < 0.4) return linearTicks(low, high, 4);
    const digits = decades > 4 ? [1] : decades > 2 ? [1, 3] : [1, 2, 5];
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
      for (const digit of digits) {
        const value = digit * 10 ** power;
        if (value >= low * 0.999 && value <= high * 1.001) ticks.push(value);
      }
    }
    return ticks;
  }

  // An axis: where a value lies between 0 and 1, and which ticks to draw.
  function xAxis(chart, values, room) {
    if (chart.x.kind === "percentile") {
      // HDR's axis: each further nine takes as much room. Values are shares from 0 to 1.
      const place = (share) => Math.log10(1 / Math.max(1e-9, 1 - share));
      const end = Math.max(1, ...values.map(place));
      const shares = [0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999];
      const name = (share) => `${Number((share * 100).toFixed(6))}%`;
      return {
        at: (share) => place(share) / end,
        ticks: shares.filter((share) => place(share) <= end * 1.001).map((s) => [s, name(s)]),
        say: (share) => `${Number((share * 100).toPrecision(8))} %`,
      };
    }
    let [low, high] = [Math.min(...values), Math.max(...values)];
    if (chart.x.from_zero) low = Math.min(0, low);
    if (low === high) high = low + 1;
    const time = chart.x.kind === "time";
    const say = (value) => time ? clock(value, high - low) : number(value);
    let ticks = linearTicks(low, high, Math.max(2, Math.floor(room / 90)));
    if (time && high - low >= 180) {
      const steps = [30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800];
      const step = steps.find((s) => (high - low) / s <= room / 70) || 86400;
      ticks = [];
      for (let at = Math.ceil(low / step) * step; at <= high; at += step) ticks.push(at);
    }
    return {
      at: (value) => (value - low) / (high - low),
      ticks: ticks.map((tick) => [tick, say(tick)]),
      say: (value) => (chart.x.kind === "time" ? "at " : "") + say(value) +
        (chart.x.unit ? ` ${chart.x.unit}` : ""),
    };
  }

  function yAxis(chart, values) {
    if (chart.y.log) {
      const above = values.filter((value) => value > 0);
      let low = Math.min(...above), high = Math.max(...above);
      if (!above.length) [low, high] = [1, 10];
      if (high / low < 4) [low, high] = [low / 2, high * 2];
      [low, high] = [low / 1.15, high * 1.15];
      return {
        at: (value) => Math.log(Math.max(value, low) / low) / Math.log(high / low),
        ticks: logTicks(low, high),
      };
    }
    const low = Math.min(0, ...values);
    let high = Math.max(...values, low);
    if (high === low) high = low + 1;
    const ticks = linearTicks(low, high * (chart.y.top ? 1 : 1.05), 5);
    high = chart.y.top || Math.max(high * 1.05, ticks[ticks.length - 1]);
    return { at: (value) => (value - low) / (high - low), ticks };
  }

  function legend(figure, chart) {
    const names = chart.lines.filter((line) => line.name);
    if (names.length < 2) return;
    const list = html(figure, "ul", "legend");
    for (const line of names) {
      const item = html(list, "li");
      const swatch = html(item, "i", line.dashed ? "dashed" : "");
      swatch.style.borderColor = color(line.color);
      item.append(line.name);
    }
  }

  function drawLines(plot, chart) {
    const width = Math.max(280, plot.clientWidth || 640);
    const height = chart.wide && width > 700 ? 270 : 220;
    const box = { left: 46, right: 10, top: (chart.bands || []).length ? 32 : 22, bottom: chart.x.label ? 38 : 24 };
    const inner = { w: width - box.left - box.right, h: height - box.top - box.bottom };
    const xs = chart.lines.flatMap((line) => line.points.map(([x]) => x));
    const ys = chart.lines.flatMap((line) => line.points.map(([, y]) => y)
      .concat((line.spread || []).flatMap(([, low, high]) => [low, high])))
      .filter((y) => y !== null);
    const x = xAxis(chart, xs.length ? xs : [0, 1], inner.w), y = yAxis(chart, ys);
    const px = (value) => box.left + x.at(value) * inner.w;
    const py = (value) => box.top + (1 - y.at(value)) * inner.h;

    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("height", height);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", chart.title);
    svg.setAttribute("tabindex", "0");
    plot.append(svg);

    const bottom = box.top + inner.h;
    let labelled = -Infinity;
    (chart.bands || []).forEach((band, index) => {
      const from = Math.max(box.left, px(band.from)), to = Math.min(box.left + inner.w, px(band.to));
      if (!(to > from)) return;
      if (index % 2) {
        element(svg, "rect", { class: "band", x: from, y: box.top, width: to - from, height: inner.h });
      }
      if (to - from > band.name.length * 6 && from > labelled) {
        element(svg, "text", { x: from + 2, y: box.top - 5 }, band.name);
        labelled = from + band.name.length * 6 + 4;
      }
    });
    for (const tick of y.ticks) {
      element(svg, "line", { class: "grid", x1: box.left, x2: box.left + inner.w, y1: py(tick), y2: py(tick) });
      element(svg, "text", { x: box.left - 6, y: py(tick) + 4, "text-anchor": "end" }, number(tick));
    }
    element(svg, "text", { class: "strong", x: 0, y: 11 }, chart.y.label);
    element(svg, "line", { class: "axis", x1: box.left, x2: box.left + inner.w, y1: bottom, y2: bottom });
    let free = -Infinity;
    for (const [tick, name] of x.ticks) {
      const at = px(tick), half = name.length * 3.3;
      if (at - half < free || at + half > width + 8) continue;
      free = at + half + 8;
      element(svg, "line", { class: "axis", x1: at, x2: at, y1: bottom, y2: bottom + 4 });
      element(svg, "text", { x: at, y: bottom + 16, "text-anchor": "middle" }, name);
    }
    if (chart.x.label) {
      element(svg, "text", { class: "strong", x: box.left + inner.w / 2, y: height - 2, "text-anchor": "middle" }, chart.x.label);
    }
    for (const mark of chart.marks || []) {
      element(svg, "line", { class: "mark", x1: px(mark.x), x2: px(mark.x), y1: box.top, y2: bottom });
      const late = px(mark.x) + mark.name.length * 6 > width - box.right;
      const anchor = late ? { x: px(mark.x) - 4, "text-anchor": "end" } : { x: px(mark.x) + 4 };
      element(svg, "text", { ...anchor, y: bottom - 5 }, mark.name);
    }
    for (const line of chart.lines) {
      if (line.spread) {
        const up = line.spread.map(([at, low]) => `${px(at)},${py(low)}`);
        const down = line.spread.map(([at, , high]) => `${px(at)},${py(high)}`).reverse();
        element(svg, "polygon", { points: up.concat(down).join(" "), style: `fill:${color(line.color)};opacity:0.14` });
      }
      if (line.dots) {
        for (const [at, value] of line.points) {
          element(svg, "circle", { class: "dot", cx: px(at), cy: py(value), r: 5, style: `fill:${color(line.color)}` });
        }
        continue;
      }
      let path = "", pen = "M";
      for (const [at, value] of line.points) {
        if (value === null || (chart.y.log && !(value > 0))) { pen = "M"; continue; }
        path += `${pen}${px(at).toFixed(1)} ${py(value).toFixed(1)}`;
        pen = "L";
      }
      element(svg, "path", {
        class: "line", d: path,
        style: `stroke:${color(line.color)}${line.dashed ? ";stroke-dasharray:5 4;stroke-width:1.5" : ""}`,
      });
    }
    hover(plot, svg, chart, { x, px, py, box, inner, width, stops: [...new Set(xs)].sort((a, b) => a - b) });
  }

  // The line under the pointer, or moved by the arrow keys, with the value of every series there.
  function hover(plot, svg, chart, frame) {
    if (!frame.stops.length) return;
    const layer = element(svg, "g", { visibility: "hidden" });
    const cross = element(layer, "line", { class: "cross", y1: frame.box.top, y2: frame.box.top + frame.inner.h });
    const tip = html(plot, "div", "tip");
    tip.hidden = true;
    let current = 0;

    function show(index) {
      current = Math.min(Math.max(index, 0), frame.stops.length - 1);
      const at = frame.stops[current], left = frame.px(at);
      cross.setAttribute("x1", left);
      cross.setAttribute("x2", left);
      layer.querySelectorAll("circle").forEach((dot) => dot.remove());
      tip.replaceChildren();
      html(tip, "em", "", frame.x.say(at));
      for (const line of chart.lines) {
        const point = near(line.points, at, chart.x.kind === "percentile");
        if (!point || point[1] === null) continue;
        element(layer, "circle", { class: "dot", cx: left, cy: frame.py(point[1]), r: 4.5, style: `fill:${color(line.color)}` });
        const row = html(tip, "div");
        const name = html(row, "span");
        html(name, "i").style.borderColor = color(line.color);
        name.append(line.name);
        html(row, "b", "", `${number(point[1])} ${chart.y.unit || ""}`.trim());
      }
      layer.setAttribute("visibility", "visible");
      tip.hidden = false;
      const scale = plot.clientWidth / frame.width;
      const beside = left * scale + 14;
      const fits = beside + tip.offsetWidth < plot.clientWidth;
      tip.style.left = `${fits ? beside : Math.max(0, left * scale - tip.offsetWidth - 14)}px`;
    }

    function hide() {
      layer.setAttribute("visibility", "hidden");
      tip.hidden = true;
    }

    svg.addEventListener("pointermove", (event) => {
      const area = svg.getBoundingClientRect();
      const x = (event.clientX - area.left) / area.width * frame.width;
      let best = 0;
      frame.stops.forEach((stop, index) => {
        if (Math.abs(frame.px(stop) - x) < Math.abs(frame.px(frame.stops[best]) - x)) best = index;
      });
      show(best);
    });
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step) { event.preventDefault(); show(current + step); }
      if (event.key === "Escape") hide();
    });
  }

  // The point of a line at `x`; a percentile curve holds its value up to its next point.
  function near(points, x, holds) {
    if (!holds) return points.find(([at]) => at === x);
    return points.find(([at]) => at >= x);
  }

  function drawDots(plot, chart) {
    const width = Math.max(280, plot.clientWidth || 640);
    const names = chart.rows.map((row) => row.name);
    // Long names stand above their dots.
    const narrow = width < 560 || Math.max(...names.map((name) => name.length)) > 40;
    const left = narrow ? 8 : Math.min(260, Math.max(...names.map((name) => name.length)) * 6.4 + 12);
    const rowHeight = 14 * Math.max(...chart.rows.map((row) => row.dots.length)) + (narrow ? 24 : 12);
    const height = chart.rows.length * rowHeight + 30;
    const inner = width - left - 16;
    const all = chart.rows.flatMap((row) => row.dots.flatMap((dot) => [dot.low, dot.high]));
    const values = all.concat([1]).filter((value) => value > 0);
    let low = Math.min(...values) / 1.15, high = Math.max(...values) * 1.15;
    const px = (value) => left + Math.log(Math.max(value, low) / low) / Math.log(high / low) * inner;

    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("height", height);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", chart.title);
    plot.append(svg);
    const bottom = height - 22;
    let free = -Infinity;
    for (const tick of logTicks(low, high)) {
      const name = `${number(tick)}x`;
      element(svg, "line", { class: tick === 1 ? "axis" : "grid", x1: px(tick), x2: px(tick), y1: 0, y2: bottom });
      if (px(tick) - name.length * 3.3 < free) continue;
      free = px(tick) + name.length * 3.3 + 6;
      element(svg, "text", { x: px(tick), y: height - 6, "text-anchor": "middle" }, name);
    }
    chart.rows.forEach((row, index) => {
      const top = index * rowHeight;
      if (narrow) element(svg, "text", { class: "strong", x: left, y: top + 16 }, row.name);
      else element(svg, "text", { class: "strong", x: left - 10, y: top + rowHeight / 2 + 4, "text-anchor": "end" }, row.name);
      row.dots.forEach((dot, number_) => {
        const y = top + (narrow ? 28 : 12) + number_ * 14;
        const group = element(svg, "g", {});
        element(group, "title", {}, `${row.name}, ${dot.name}: ${number(dot.value)}x (${number(dot.low)} to ${number(dot.high)})`);
        element(group, "line", { x1: px(dot.low), x2: px(dot.high), y1: y, y2: y, style: `stroke:${color(dot.color)};stroke-width:2;opacity:0.55` });
        element(group, "circle", { class: "dot", cx: px(dot.value), cy: y, r: 5, style: `fill:${color(dot.color)}` });
      });
    });
  }

  // The same figures as a table, made when it is opened.
  function table(figure, chart) {
    if (chart.rows || !chart.lines.length || chart.lines.some((line) => line.dots)) return;
    const details = html(figure, "details");
    html(details, "summary", "", "figures");
    details.addEventListener("toggle", () => {
      if (!details.open || details.children.length > 1) return;
      const grid = html(html(details, "div", "scroll"), "table");
      const head = html(html(grid, "thead"), "tr");
      html(head, "th", "", chart.x.label || "");
      for (const line of chart.lines) html(head, "th", "n", `${line.name} ${chart.y.unit ? `(${chart.y.unit})` : ""}`);
      const body = html(grid, "tbody");
      const stops = [...new Set(chart.lines.flatMap((line) => line.points.map(([x]) => x)))].sort((a, b) => a - b);
      const percentile = chart.x.kind === "percentile";
      for (const stop of stops) {
        const row = html(body, "tr");
        html(row, "th", "", percentile ? `${Number((stop * 100).toPrecision(8))} %` : trim(stop));
        for (const line of chart.lines) {
          const point = near(line.points, stop, percentile);
          html(row, "td", "n", point && point[1] !== null ? trim(point[1]) : "");
        }
      }
    });
  }

  const charts = JSON.parse(document.getElementById("charts").textContent);
  for (const chart of charts) {
    const figure = document.getElementById(chart.id);
    legend(figure, chart);
    const plot = html(figure, "div", "plot");
    const draw = () => {
      plot.replaceChildren();
      if (chart.rows) drawDots(plot, chart); else drawLines(plot, chart);
    };
    draw();
    table(figure, chart);
    let width = plot.clientWidth;
    window.addEventListener("resize", () => {
      if (plot.clientWidth !== width) { width = plot.clientWidth; draw(); }
    });
  }
  document.documentElement.dataset.drawn = charts.length;
})();
