"use strict";
// Readouts for tokens and charts. Everything is set as text, never as markup.
(() => {
  const tip = document.getElementById("tip");
  const hide = () => {
    tip.hidden = true;
    document.querySelectorAll(".cursor").forEach((line) => line.remove());
  };
  const show = (heading, lines, box) => {
    const strong = document.createElement("b");
    strong.textContent = heading;
    tip.replaceChildren(strong, document.createTextNode(lines.join("\n")));
    tip.hidden = false;
    const left = Math.min(Math.max(8, box.left), innerWidth - tip.offsetWidth - 8);
    const above = box.top - tip.offsetHeight - 8;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 4 ? above : box.bottom + 8}px`;
  };

  // Tokens of articles and pieces of samples.
  const selector = ".text .t, .text .w[data-w]";
  const describe = (token) => {
    const { s, q, l, w } = token.dataset;
    const lines = [];
    if (w) lines.push(`written by ${w}`);
    if (s !== undefined) lines.push(`call score ${s}${q === undefined ? "" : `, above ${q}% of tokens`}`);
    if (l !== undefined) lines.push(`loss ${l} nats`);
    if (!w) lines.push(token.classList.contains("f") ? "factual" : "not factual");
    show(`“${token.textContent.replace(/\n/g, "")}”`, lines, token.getClientRects()[0] || token.getBoundingClientRect());
  };
  const walk = (token, step) => {
    const all = [...token.closest(".text").querySelectorAll(selector)];
    const next = all[all.indexOf(token) + step];
    if (!next) return;
    token.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  };
  document.querySelectorAll(".text").forEach((text) => {
    const first = text.querySelector(selector);
    if (first) first.tabIndex = 0;
  });

  // Charts: the nearest recorded step.
  const charts = new Map();
  document.querySelectorAll("svg.chart").forEach((svg) => {
    const points = JSON.parse(svg.dataset.points);
    if (!points.length) return;
    charts.set(svg, { points, at: points.length - 1 });
    svg.setAttribute("tabindex", "0");
  });
  const point = (svg, index) => {
    const chart = charts.get(svg);
    chart.at = Math.min(Math.max(index, 0), chart.points.length - 1);
    const [x, heading, lines] = chart.points[chart.at];
    hide();
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    const base = svg.viewBox.baseVal;
    for (const [key, value] of Object.entries({ x1: x, x2: x, y1: 20, y2: base.height - 34, class: "cursor" })) line.setAttribute(key, value);
    svg.append(line);
    const box = svg.getBoundingClientRect();
    const left = box.left + (x / base.width) * box.width + 10;
    show(heading, lines, { left, top: box.top + 20, bottom: box.top + 20 });
  };
  const nearest = (svg, clientX) => {
    const box = svg.getBoundingClientRect();
    const x = ((clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const distances = charts.get(svg).points.map(([at]) => Math.abs(at - x));
    return distances.indexOf(Math.min(...distances));
  };

  const chartOf = (target) => {
    const svg = target.closest ? target.closest("svg.chart") : null;
    return charts.has(svg) ? svg : null;
  };
  document.addEventListener("pointermove", (event) => {
    const svg = chartOf(event.target);
    const token = event.target.closest ? event.target.closest(selector) : null;
    if (svg) point(svg, nearest(svg, event.clientX));
    else if (token) describe(token);
    else hide();
  });
  document.addEventListener("click", (event) => {
    const svg = chartOf(event.target);
    const token = event.target.closest(selector);
    if (svg) point(svg, nearest(svg, event.clientX));
    if (!token) return;
    token.closest(".text").querySelectorAll('[tabindex="0"]').forEach((other) => (other.tabIndex = -1));
    token.tabIndex = 0;
    token.focus();
    describe(token);
  });
  document.addEventListener("focusin", (event) => {
    if (event.target.matches(selector)) describe(event.target);
    else if (charts.has(event.target) && event.target.matches(":focus-visible")) point(event.target, charts.get(event.target).at);
  });
  document.addEventListener("focusout", hide);
  document.addEventListener("scroll", hide, { passive: true });
  document.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") hide();
    if (!step) return;
    if (event.target.matches(selector)) walk(event.target, step);
    else if (charts.has(event.target)) point(event.target, charts.get(event.target).at + step);
    else return;
    event.preventDefault();
  });
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((item) => (item.open = true)));
})();
