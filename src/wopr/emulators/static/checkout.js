/* Comfort only: groups the digits of a card, puts the slash into the expiry, and shows that the button was pressed. */
const digits = (text) => text.replace(/\D/g, "");
const grouped = (text) => {
  const amex = /^3[47]/.test(text);
  const parts = amex ? [text.slice(0, 4), text.slice(4, 10), text.slice(10, 15)] : text.slice(0, 19).match(/.{1,4}/g) || [];
  return parts.filter(Boolean).join(" ");
};

document.querySelector("[name=number]")?.addEventListener("input", (event) => {
  const field = event.target;
  const atEnd = field.selectionStart === field.value.length;
  if (atEnd) field.value = grouped(digits(field.value));
});

document.querySelector("[name=expiry]")?.addEventListener("input", (event) => {
  const field = event.target;
  if (event.inputType?.startsWith("delete") || field.selectionStart !== field.value.length) return;
  let text = digits(field.value).slice(0, 4);
  if (/^[2-9]/.test(text)) text = `0${text}`.slice(0, 4);
  field.value = text.length >= 2 ? `${text.slice(0, 2)} / ${text.slice(2)}` : text;
});

document.querySelector("form[data-once]")?.addEventListener("submit", (event) => {
  const button = event.target.querySelector("button");
  if (button.disabled) return event.preventDefault();
  button.disabled = true;
  button.textContent = "Processing…";
});

window.addEventListener("pageshow", (event) => event.persisted && location.reload());
