// Keys that save a walk, and arrow keys within tabs. Single keys can be switched off on the account page.

const on = document.body.dataset.shortcuts === "on";
const places = { b: "/dashboard", m: "/billing", k: "/keys", a: "/account" };
let waiting = 0;

const typing = (target) => target.closest?.("input, textarea, select, [contenteditable]") !== null;

function search() {
  return document.querySelector("#say:not(:disabled)") ?? document.querySelector("[data-search]");
}

document.addEventListener("keydown", (event) => {
  if (!on || event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
  if (document.querySelector("dialog[open]")) return;
  const afterG = Date.now() - waiting < 1200;
  waiting = 0;
  if (afterG && places[event.key]) location.assign(places[event.key]);
  else if (event.key === "g") waiting = Date.now();
  else if (event.key === "n") location.assign("/bots/new");
  else if (event.key === "?") document.getElementById("shortcuts")?.showModal();
  else if (event.key === "/") {
    const field = search();
    if (!field) return;
    event.preventDefault();
    field.focus();
  }
});

document.addEventListener("keydown", (event) => {
  const list = event.target.closest?.("[data-roving]");
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!list || !step) return;
  const links = [...list.querySelectorAll("a")];
  const next = links[(links.indexOf(event.target) + step + links.length) % links.length];
  if (!next) return;
  event.preventDefault();
  next.focus();
});
