// A button that copies the text beside it, and says so for a moment.

export async function copyText(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    return false;
  }
  const label = button.getAttribute("aria-label");
  button.classList.add("copied");
  button.setAttribute("aria-label", "Copied");
  setTimeout(() => {
    button.classList.remove("copied");
    if (label) button.setAttribute("aria-label", label);
    else button.removeAttribute("aria-label");
  }, 1600);
  return true;
}

class Copy extends HTMLElement {
  connectedCallback() {
    const button = this.querySelector("button");
    const code = this.querySelector("code");
    button?.addEventListener("click", async () => {
      if (await copyText(code.textContent, button)) return;
      getSelection().selectAllChildren(code); // No clipboard: leave it selected, ready for the keyboard.
    });
  }
}

customElements.define("wopr-copy", Copy);
