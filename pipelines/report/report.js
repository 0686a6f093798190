"use strict";
// Optional: sorts tables by a column, and shows tabs instead of a long list.
for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("thead th").forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      table.querySelectorAll("thead th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.value ?? "";
      const body = table.tBodies[0];
      const rows = [...body.rows].sort((one, other) => {
        const [a, b] = [key(one), key(other)];
        if (a === "" || b === "") return (a === "") - (b === ""); // missing values last
        const order = isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
        return down ? -order : order;
      });
      body.append(...rows);
    });
  });
}
for (const group of document.querySelectorAll(".tabbed")) {
  const panels = [...group.children];
  if (panels.length < 2) continue;
  const tabs = document.createElement("div");
  tabs.className = "tabs";
  tabs.setAttribute("role", "tablist");
  const show = (chosen) => {
    panels.forEach((panel, index) => {
      panel.hidden = index !== chosen;
      tabs.children[index].setAttribute("aria-selected", String(index === chosen));
    });
  };
  panels.forEach((panel, index) => {
    const tab = document.createElement("button");
    tab.type = "button";
    tab.setAttribute("role", "tab");
    tab.textContent = panel.dataset.tab;
    tab.addEventListener("click", () => show(index));
    tabs.append(tab);
  });
  group.before(tabs);
  show(0);
}
