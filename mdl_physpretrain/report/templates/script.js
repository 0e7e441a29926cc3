"use strict";
(() => {
  // sorting: a heading's button sorts its table, numbers as numbers, missing values last
  const key = (cell) => cell.dataset.key ?? cell.textContent.trim();
  const compare = (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    const x = Number(a), y = Number(b);
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, undefined, { numeric: true }) : x - y;
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, column) => heading.querySelector("button").addEventListener("click", () => {
      const up = heading.getAttribute("aria-sort") !== "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      const body = table.tBodies[0];
      const rows = [...body.rows].map((row) => [key(row.cells[column]), row]);
      const missing = (pair) => pair[0] === "";
      rows.sort((a, b) => (missing(a) || missing(b) ? 1 : up ? 1 : -1) * compare(a[0], b[0]));
      body.append(...rows.map((pair) => pair[1]));
    }));
  }
  // finding trajectories
  const find = document.getElementById("find");
  if (find) {
    const failing = document.getElementById("failing"), shown = document.getElementById("shown");
    const rows = [...document.querySelectorAll("#all-trajectories tbody tr")];
    const update = () => {
      const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
      let count = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        const fits = (!failing.checked || row.classList.contains("failing")) && words.every((word) => text.includes(word));
        row.hidden = !fits;
        count += fits;
      }
      shown.value = count === rows.length ? "" : `${count} of ${rows.length} shown`;
    };
    find.addEventListener("input", update);
    failing.addEventListener("change", update);
  }
  // tables from the page itself, for when nothing but the page was sent
  const store = document.getElementById("downloads"), tables = store ? JSON.parse(store.textContent) : {};
  const quoted = (value) => {
    if (value === null) return "";
    const text = value === true ? "True" : value === false ? "False" : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  for (const link of document.querySelectorAll("a[data-table]")) {
    const table = tables[link.dataset.table];
    if (!table) continue;
    link.addEventListener("click", () => {
      const json = link.download.endsWith(".json");
      const records = () => table.data.map((row) => Object.fromEntries(table.columns.map((name, k) => [name, row[k]])));
      const text = json
        ? JSON.stringify(records(), null, 1)
        : [table.columns, ...table.data].map((row) => row.map(quoted).join(",")).join("\n") + "\n";
      const url = URL.createObjectURL(new Blob([text], { type: json ? "application/json" : "text/csv" }));
      const file = link.getAttribute("href");
      link.href = url;
      setTimeout(() => { link.href = file; URL.revokeObjectURL(url); }, 2000);
    });
  }
  // where the reader is
  const links = new Map([...document.querySelectorAll("nav a")].map((a) => [a.getAttribute("href").slice(1), a]));
  if ("IntersectionObserver" in window) {
    const observer = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        links.forEach((a) => a.classList.remove("here"));
        links.get(entry.target.id)?.classList.add("here");
      }
    }, { rootMargin: "-10% 0px -80% 0px" });
    document.querySelectorAll("section[id]").forEach((section) => observer.observe(section));
  }
  // paper shows everything
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach((d) => { d.open = true; });
  });
  addEventListener("afterprint", () => closed.forEach((d) => { d.open = false; }));
})();
