// For every page: the theme switch without a reload, local times, links of mails that need no second click.

for (const form of document.querySelectorAll("[data-autosubmit]")) form.requestSubmit();

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-theme-switch] button");
  if (!button) return;
  event.preventDefault();
  const theme = button.value;
  document.documentElement.dataset.theme = theme;
  const secure = location.protocol === "https:" ? "; secure" : "";
  document.cookie = `wopr_theme=${theme}; path=/; max-age=31536000; samesite=lax${secure}`;
  for (const other of document.querySelectorAll("[data-theme-switch] button")) {
    other.setAttribute("aria-pressed", String(other.value === theme));
  }
});

// In the place's time, but as the pages write dates everywhere else.
const longTime = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });
const shortTime = new Intl.DateTimeFormat(undefined, { timeStyle: "medium", hourCycle: "h23" });

export function localTimes(root) {
  for (const time of root.querySelectorAll("time[data-local]")) {
    const moment = new Date(time.dateTime);
    if (Number.isNaN(moment.getTime())) continue;
    time.textContent = (time.dataset.local === "time" ? shortTime : longTime).format(moment);
    time.title = moment.toISOString();
  }
}

export const clockTime = (moment) => shortTime.format(moment);

localTimes(document);

// A page that tells a state looks again: what it tells changes in its place, without a jump to the top; a page that stands
// in for another one gives way once that one can be had.
const told = document.querySelector("[data-renew]");

async function renew() {
  if (document.hidden) return;
  const from = told.dataset.from || location.href;
  const answer = await fetch(from).catch(() => null);
  if (!answer?.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("[data-renew]");
  if (!fresh) return location.assign(from);
  told.replaceChildren(...fresh.childNodes);
  localTimes(told);
}

if (told) setInterval(renew, Number(told.dataset.renew) * 1000);
if (!document.querySelector("main [autofocus]:not(dialog *)")) document.querySelector("[data-focus]")?.focus();
