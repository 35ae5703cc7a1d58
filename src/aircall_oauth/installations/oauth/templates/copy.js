const button = document.getElementById("copy");
if (navigator.clipboard) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(document.getElementById("claim").textContent);
      document.getElementById("copied").textContent = button.dataset.copied;
    } catch {
      getSelection().selectAllChildren(document.getElementById("claim"));
    }
  });
}
