"""The script inside every page: it sorts and filters tables, and makes charts answer.

A page is whole without it.
"""

TABLES = """
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const key = (row, column) => {
    const cell = row.cells[column];
    const value = cell.dataset.value;
    return value === undefined ? cell.textContent.trim() : Number(value);
  };
  const order = (a, b) => {
    const unknown = (a === "") - (b === "");
    if (unknown) return unknown;
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), undefined, { numeric: true });
  };
  Array.from(table.tHead.rows[0].cells).forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const down = header.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", down ? "descending" : "ascending");
      const known = (row) => key(row, column) !== "";
      const sorted = rows.slice().sort((a, b) => {
        const sign = down && known(a) && known(b) ? -1 : 1;
        return sign * order(key(a, column), key(b, column));
      });
      body.append(...sorted);
    });
  });
  if (rows.length < 10) continue;

  const bar = document.createElement("div");
  bar.className = "filter";
  const label = document.createElement("label");
  const search = document.createElement("input");
  search.type = "search";
  label.append("Filter ", search);
  bar.append(label);
  let only = null;
  if (body.querySelector("tr.copy")) {
    const copies = document.createElement("label");
    only = document.createElement("input");
    only.type = "checkbox";
    copies.append(only, " copies only");
    bar.append(copies);
  }
  const count = document.createElement("span");
  count.setAttribute("role", "status");
  bar.append(count);
  const filter = () => {
    const wanted = search.value.toLowerCase().split(/\\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const fits = wanted.every((word) => text.includes(word));
      row.hidden = !fits || (only !== null && only.checked && !row.classList.contains("copy"));
      shown += row.hidden ? 0 : 1;
    }
    count.textContent = shown === rows.length ? "" : shown + " of " + rows.length + " rows";
  };
  search.addEventListener("input", filter);
  if (only) only.addEventListener("change", filter);
  table.parentElement.before(bar);
}
"""

CHARTS = """
const marks = Array.from(document.querySelectorAll("figure [data-member]"));
const says = document.createElement("div");
says.className = "says";
says.hidden = true;
document.body.append(says);

const near = [[0, 0], [0, -2], [0, 2], [-2, 0], [2, 0], [0, -5], [0, 5], [-5, 0], [5, 0]];
const markAt = (event) => {
  for (const [x, y] of near) {
    const found = document.elementFromPoint(event.clientX + x, event.clientY + y);
    const mark = found && found.closest("figure [data-member]");
    if (mark) return mark;
  }
  return null;
};
const steps = (number) => {
  const unit = number >= 1e6 ? ["M", 1e6] : number >= 1e3 ? ["k", 1e3] : ["", 1];
  return String(Number((number / unit[1]).toPrecision(4))) + unit[0];
};
const read = (mark, event) => {
  const axes = mark.closest("[data-axes]");
  const numbers = axes.dataset.axes.split(" ").map(Number);
  const [left, right, bottom, top, first, last, low, high] = numbers;
  const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(
    mark.ownerSVGElement.getScreenCTM().inverse());
  const across = first + (last - first) * (place.x - left) / (right - left);
  const up = (place.y - bottom) / (top - bottom);
  const value = axes.dataset.scale === "log"
    ? low * Math.pow(high / low, up) : low + (high - low) * up;
  return "about " + steps(across) + ": " + axes.dataset.what + " " + Number(value.toPrecision(3));
};
const tell = (event) => {
  const mark = markAt(event);
  says.hidden = mark === null;
  if (mark === null) return;
  const member = mark.dataset.member;
  const words = mark.dataset.says;
  says.textContent = member === ""
    ? words + ", " + read(mark, event)
    : "member " + member + ", " + (words || read(mark, event));
  const room = document.documentElement.clientWidth - says.offsetWidth - 8;
  says.style.left = Math.max(4, Math.min(event.clientX + 12, room)) + "px";
  says.style.top = Math.max(4, event.clientY - says.offsetHeight - 12) + "px";
};

const members = [...new Set(marks.map((mark) => mark.dataset.member))].filter(Boolean);
members.sort((a, b) => a - b);
const select = document.createElement("select");
select.append(new Option("all members", ""));
for (const member of members) select.append(new Option("member " + member, member));
const keep = "picked member of " + location.pathname;
const pick = (member) => {
  select.value = member;
  for (const mark of marks) {
    mark.classList.toggle("picked", member !== "" && mark.dataset.member === member);
  }
  for (const figure of document.querySelectorAll("figure")) {
    figure.classList.toggle("picking", figure.querySelector(".picked") !== null);
  }
  try { sessionStorage.setItem(keep, member); } catch { /* a page of a file may have no storage */ }
};
if (members.length > 1) {
  const label = document.createElement("label");
  label.className = "pick";
  label.append("Pick out ", select);
  document.querySelector("main").prepend(label);
  select.addEventListener("change", () => pick(select.value));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") pick("");
  });
  let kept = null;
  try { kept = sessionStorage.getItem(keep); } catch { /* as above */ }
  if (members.includes(kept)) pick(kept);
}
for (const chart of document.querySelectorAll("figure svg")) {
  chart.addEventListener("pointermove", tell);
  chart.addEventListener("pointerleave", () => { says.hidden = true; });
  chart.addEventListener("click", (event) => {
    const mark = markAt(event);
    if (mark && mark.dataset.member === "") return;
    pick(mark === null || mark.dataset.member === select.value ? "" : mark.dataset.member);
  });
}
"""

SCRIPT = f'"use strict";{TABLES}{CHARTS}'
