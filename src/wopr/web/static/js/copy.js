// A button that copies what stands beside it, and says so for a moment.

const SAID_MS = 1600;

// Without a clipboard, as on an address without TLS, the place is left selected, ready for the keyboard.
export async function copyText(text, button, place) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    getSelection().selectAllChildren(place);
    return;
  }
  button.classList.add("copied");
  say(button, "Copied");
}

// In the button's words where it has some, else in its name.
function say(button, words) {
  const label = button.querySelector("span");
  const before = label ? label.textContent : button.getAttribute("aria-label");
  const put = (said) => (label ? (label.textContent = said) : button.setAttribute("aria-label", said));
  if (before === words) return;
  put(words);
  setTimeout(() => {
    button.classList.remove("copied");
    put(before);
  }, SAID_MS);
}

// Code in answers gets the same button as the snippets of our pages.
export function codeButtons(root) {
  for (const pre of root.querySelectorAll(".prose pre")) {
    if (pre.parentElement.localName === "wopr-copy") continue;
    const box = document.createElement("wopr-copy");
    box.className = "code";
    const button = document.createElement("button");
    button.type = "button";
    button.append(document.createElement("span"));
    button.firstChild.textContent = "Copy";
    pre.replaceWith(box);
    box.append(pre, button);
  }
}

class Copy extends HTMLElement {
  connectedCallback() {
    this.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      const code = this.querySelector("code");
      if (button) copyText(code.textContent, button, code);
    });
  }
}

customElements.define("wopr-copy", Copy);
