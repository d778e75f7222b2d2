// The balance, fresh within two seconds of an answer and every half minute while the page is looked at.

const AFTER_ANSWER_MS = [300, 900, 1700, 4000];
const EVERY_MS = 30000;
let running = null;

async function renew() {
  if (running || document.hidden) return;
  running = fetch("/parts/balance", { headers: { accept: "application/json" } });
  try {
    const answer = await running;
    if (!answer.ok) return;
    const fresh = await answer.json();
    for (const place of document.querySelectorAll("wopr-balance [data-balance]")) place.textContent = fresh.balance;
    for (const place of document.querySelectorAll("wopr-balance [data-lasts]")) place.textContent = fresh.lasts;
  } catch {
    // Away for a moment; the next round shows it.
  } finally {
    running = null;
  }
}

class Balance extends HTMLElement {
  static timer = 0;

  connectedCallback() {
    if (!Balance.timer) Balance.timer = setInterval(renew, EVERY_MS);
  }
}

customElements.define("wopr-balance", Balance);
for (const name of ["wopr:answered", "wopr:spending"]) {
  document.addEventListener(name, () => AFTER_ANSWER_MS.forEach((wait) => setTimeout(renew, wait)));
}
document.addEventListener("visibilitychange", renew);
