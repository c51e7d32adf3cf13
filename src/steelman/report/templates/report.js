"use strict";
// The page is whole without this. It adds: reading off pictures, sorting, choosing in the gallery, copying, the scheme.
(() => {
  const all = (where, what) => [...where.querySelectorAll(what)];
  const make = (tag, made = {}, ...inside) => {
    const node = Object.assign(document.createElement(tag), made);
    node.append(...inside);
    return node;
  };
  document.documentElement.classList.add("js");

  // Light and dark, after the system until somebody chooses.
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const scheme = make("button", { type: "button", className: "scheme" });
  const now = () => document.documentElement.dataset.scheme || (dark.matches ? "dark" : "light");
  const name = () => { scheme.textContent = now() === "dark" ? "Light" : "Dark"; };
  scheme.addEventListener("click", () => {
    document.documentElement.dataset.scheme = now() === "dark" ? "light" : "dark";
    name();
  });
  dark.addEventListener("change", name);
  name();
  document.querySelector("header").append(scheme);

  // The section that is being read, marked in the navigation.
  const links = new Map(all(document, "nav a").map((link) => [link.hash.slice(1), link]));
  const sections = all(document, "main > section").filter((section) => links.has(section.id));
  let waiting = false;
  const mark = () => {
    waiting = false;
    const end = scrollY + innerHeight >= document.documentElement.scrollHeight - 2;
    const passed = sections.filter((section) => section.getBoundingClientRect().top < innerHeight / 3);
    const here = end ? sections.at(-1) : passed.at(-1) || sections[0];
    for (const [id, link] of links) {
      if (id !== here.id) link.removeAttribute("aria-current");
      else if (!link.hasAttribute("aria-current")) {
        link.setAttribute("aria-current", "true");
        const bar = link.closest("ul");
        bar.scrollLeft = link.offsetLeft - bar.offsetLeft - bar.clientWidth / 3;
      }
    }
  };
  addEventListener("scroll", () => { if (!waiting) { waiting = true; requestAnimationFrame(mark); } }, { passive: true });
  addEventListener("resize", mark);
  mark();

  // Tables: a click sorts down, the next up, the third as it was. Groups of rows stay together.
  for (const table of all(document, "table[data-sortable]")) {
    const bodies = [...table.tBodies].map((body) => [body, [...body.rows]]);
    const heads = [...table.tHead.rows[0].cells];
    const value = (row, column) => {
      const cell = row.cells[column];
      return "sort" in cell.dataset ? (cell.dataset.sort === "" ? null : Number(cell.dataset.sort)) : cell.textContent.trim();
    };
    heads.forEach((head, column) => {
      const number = head.classList.contains("number");
      const order = number ? ["descending", "ascending", ""] : ["ascending", "descending", ""];
      const button = make("button", { type: "button" }, ...head.childNodes);
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const next = order[(order.indexOf(head.getAttribute("aria-sort") || "") + 1) % 3];
        heads.forEach((each) => each.removeAttribute("aria-sort"));
        if (next) head.setAttribute("aria-sort", next);
        const sign = next === "descending" ? -1 : 1;
        for (const [body, rows] of bodies) {
          const [fixed, free] = [rows.filter((row) => row.className === "group"), rows.filter((row) => row.className !== "group")];
          if (next) {
            free.sort((one, other) => {
              const [a, b] = [value(one, column), value(other, column)];
              if (a === null || b === null) return (a === null) - (b === null);
              return sign * (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
            });
          }
          body.append(...fixed, ...free);
        }
      });
    });
  }

  // The gallery: one model, one class, another order.
  const form = document.querySelector("form.filters");
  if (form) {
    const list = document.querySelector(".cards");
    const cards = all(list, "li");
    const choose = () => {
      const [model, label, order] = ["model", "label", "order"].map((field) => form.elements[field]?.value || "");
      const by = { label: "number" }[order] || order.replace("-", "");
      const sign = order.startsWith("-") ? -1 : 1;
      cards.sort((a, b) => sign * (a.dataset[by] - b.dataset[by]) || a.dataset.size - b.dataset.size);
      for (const card of cards) card.hidden = (model && card.dataset.model !== model) || (label && card.dataset.label !== label);
      list.append(...cards);
      form.querySelector("output").textContent = `${cards.filter((card) => !card.hidden).length} of ${cards.length}`;
    };
    form.addEventListener("change", choose);
    form.addEventListener("submit", (event) => event.preventDefault());
    choose();
  }

  // Copying.
  for (const box of all(document, ".copied")) {
    const button = make("button", { type: "button" }, "Copy");
    const text = box.querySelector("pre");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(text);
        button.textContent = "Selected: copy it";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
    box.append(button);
  }
  addEventListener("beforeprint", () => all(document, "details").forEach((each) => { each.open = true; }));

  // Reading off pictures: the nearest point under the pointer or the arrow keys, and every line's height there.
  const shown = (value, percent) => (percent ? `${(100 * value).toFixed(1)} %` : String(Number(value.toPrecision(4))));
  const height = (line, at) => {
    // A step keeps its height up to the next point; another line has one only at its points.
    const after = line.px.findIndex((px) => px > at + 0.05);
    const last = after < 0 ? line.px.length - 1 : after - 1;
    if (line.step) return last < 0 ? null : last;
    const near = line.px.reduce((best, px, i) => (Math.abs(px - at) < Math.abs(line.px[best] - at) ? i : best), 0);
    return line.px.length && Math.abs(line.px[near] - at) < 1 ? near : null;
  };
  for (const plot of all(document, ".plot[data-read]")) {
    const data = JSON.parse(plot.querySelector("script").textContent);
    const picture = plot.querySelector("svg");
    const points = [
      ...data.lines.flatMap((line) => line.px.map((px, i) => ({ px, py: line.py[i], x: line.x[i], y: line.y[i], line }))),
      ...data.marks.map((mark) => ({ ...mark, mark })),
    ].sort((a, b) => a.px - b.px);
    if (!points.length) continue;
    const drawn = (tag, made) => {
      const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [key, value] of Object.entries(made)) node.setAttribute(key, value);
      return node;
    };
    const over = picture.appendChild(drawn("g", {}));
    const tip = make("div", { className: "tip", hidden: true });
    tip.setAttribute("role", "status");
    plot.append(tip);
    plot.tabIndex = 0;
    plot.setAttribute("role", "group");
    plot.setAttribute("aria-label", `${picture.getAttribute("aria-label")}. Read it with the left and right arrow keys`);
    let place = -1;
    const hide = () => { tip.hidden = true; over.replaceChildren(); place = -1; };
    const colour = (each) => (each.colour < 0 ? "var(--ink)" : `var(--c${each.colour})`);
    const show = (point) => {
      place = points.indexOf(point);
      const rows = [];
      const dots = [drawn("line", { class: "cursor", x1: point.px, x2: point.px, y1: data.box[1], y2: data.box[3] })];
      const add = (of, text, y, py, near) => {
        const key = make("span", { className: "key" });
        key.style.background = colour(of);
        const row = make("tr", { className: near ? "near" : "" }, make("th", { scope: "row" }, key, text), make("td", {}, shown(y, data.percent)));
        rows.push(row);
        const dot = drawn("circle", { class: "at", cx: point.px, cy: py, r: near ? 4.5 : 3 });
        dot.style.fill = colour(of);
        dots.push(dot);
      };
      for (const line of data.lines) {
        const i = height(line, point.px);
        if (i !== null) add(line, line.name, line.y[i], line.py[i], line === point.line);
      }
      for (const mark of data.marks) {
        if (Math.abs(mark.px - point.px) < 0.5) add(mark, `${mark.of}: ${mark.name}`, mark.y, mark.py, mark === point.mark);
      }
      tip.replaceChildren(make("p", {}, `${data.x} ${data.across ? shown(point.x, true) : Number(point.x.toPrecision(3))}`), make("table", {}, make("tbody", {}, ...rows)));
      over.replaceChildren(...dots);
      tip.hidden = false;
      const wide = plot.clientWidth;
      const across = (point.px / picture.viewBox.baseVal.width) * wide;
      tip.style.left = `${across < wide / 2 ? Math.min(across + 10, wide - tip.offsetWidth) : Math.max(0, across - 10 - tip.offsetWidth)}px`;
    };
    const point = (event) => {
      const frame = picture.getBoundingClientRect();
      const scale = picture.viewBox.baseVal.width / frame.width;
      const [x, y] = [(event.clientX - frame.left) * scale, (event.clientY - frame.top) * scale];
      if (x < data.box[0] - 8 || x > data.box[2] + 8) return hide();
      // The radius counts for more than the height, and a marker is preferred to its line.
      const far = (each) => (each.px - x) ** 2 + ((each.py - y) / 4) ** 2 - (each.mark ? 4 : 0);
      return show(points.reduce((best, each) => (far(each) < far(best) ? each : best)));
    };
    plot.addEventListener("pointermove", point);
    plot.addEventListener("pointerdown", point);
    plot.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hide(); });
    plot.addEventListener("blur", hide);
    plot.addEventListener("keydown", (event) => {
      const ends = { Home: 0, End: points.length - 1 };
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (event.key === "Escape") return hide();
      if (step === undefined && !(event.key in ends)) return undefined;
      event.preventDefault();
      if (step === undefined || place < 0) return show(points[ends[event.key] ?? 0]);
      // To the next point that is far enough to be seen to move, which for epochs is the next epoch.
      let next = place + step;
      while (points[next + step] && Math.abs(points[next].px - points[place].px) < 0.5) next += step;
      return show(points[Math.min(Math.max(next, 0), points.length - 1)]);
    });
  }
})();
