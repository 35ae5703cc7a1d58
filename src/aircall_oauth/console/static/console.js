// What scripts add: every page is complete without them.
(() => {
  // "Copy" beside every block of code.
  for (const block of document.querySelectorAll(".code")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy quiet";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(block.querySelector("code").textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
    block.append(button);
  }
  // On a narrow screen the menu is one line: show where we are in it.
  document.querySelector(".menu [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
  // "/" puts the cursor into the search box, unless something is being typed.
  const search = document.getElementById("search");
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea, select, [contenteditable]");
    if (event.key === "/" && !typing && search && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      search.focus();
      search.select();
    }
  });
  // A list that is followed live keeps as many rows as its page has.
  document.addEventListener("htmx:after:swap", () => {
    for (const rows of document.querySelectorAll("[data-most]")) {
      while (rows.rows.length > Number(rows.dataset.most)) rows.lastElementChild.remove();
    }
  });
  // What was asked for in the background and led elsewhere: the session is over. The page itself says so.
  document.addEventListener("htmx:before:swap", (event) => {
    if (event.detail.ctx?.response?.raw?.redirected) {
      event.preventDefault();
      location.reload();
    }
  });
})();
