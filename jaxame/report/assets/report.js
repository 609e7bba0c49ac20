"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  for (const header of table.tHead.rows[0].cells) {
    header.scope = "col";
    if (header.classList.contains("plain")) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => sort(table, header));
  }
}

function sort(table, header) {
  const isNumber = header.dataset.kind === "number";
  // Numbers are wanted from the largest down, names from the first on.
  const first = isNumber ? "descending" : "ascending";
  const other = isNumber ? "ascending" : "descending";
  const direction = header.getAttribute("aria-sort") === first ? other : first;
  const sign = direction === "ascending" ? 1 : -1;
  const key = (row) => row.cells[header.cellIndex].dataset.value ?? row.cells[header.cellIndex].textContent;
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => sign * (isNumber ? key(a) - key(b) : key(a).localeCompare(key(b))));
  for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", direction);
  table.tBodies[0].append(...rows);
}

const plain = (text) => text.toLowerCase().replace(/\s+/g, " ").trim();
for (const input of document.querySelectorAll("input[type=search]")) {
  const rows = document.getElementById(input.dataset.table).tBodies[0].rows;
  const count = input.closest(".tools").querySelector(".count");
  input.addEventListener("input", () => {
    const wanted = plain(input.value);
    let shown = 0;
    for (const row of rows) {
      row.hidden = !plain(row.textContent).includes(wanted);
      shown += !row.hidden;
    }
    count.textContent = wanted ? `${shown} of ${rows.length} sources` : "";
  });
}

function open(target) {
  const details = target?.querySelector("details");
  if (details) details.open = true;
}

window.addEventListener("hashchange", () => open(document.getElementById(location.hash.slice(1))));
if (location.hash) open(document.getElementById(location.hash.slice(1)));
window.addEventListener("beforeprint", () => document.querySelectorAll(".query").forEach(open));
