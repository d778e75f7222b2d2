// Native dialogs as modal ones. Without this script the same links show them by their address (:target).

document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-opens]");
  if (opener) {
    const dialog = document.getElementById(opener.dataset.opens);
    if (!dialog) return;
    event.preventDefault();
    dialog.showModal();
    dialog.addEventListener("close", () => opener.focus(), { once: true });
    return;
  }
  const closer = event.target.closest("[data-closes]");
  if (closer) {
    event.preventDefault();
    closer.closest("dialog").close();
    return;
  }
  // A click on the backdrop hits the dialog itself.
  if (event.target instanceof HTMLDialogElement && event.target.open) {
    const box = event.target.getBoundingClientRect();
    const inside = event.clientX >= box.left && event.clientX <= box.right && event.clientY >= box.top && event.clientY <= box.bottom;
    if (!inside) event.target.close();
  }
});

// Links that act as buttons answer to the space bar, as buttons do.
document.addEventListener("keydown", (event) => {
  if (event.key !== " ") return;
  const link = event.target.closest?.("a[role=button]");
  if (!link) return;
  event.preventDefault();
  link.click();
});
