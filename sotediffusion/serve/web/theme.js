// Before anything is painted: the colours that were chosen last.
try {
  document.documentElement.dataset.theme = JSON.parse(localStorage.getItem("sote.theme")) || "auto";
} catch {
  document.documentElement.dataset.theme = "auto";
}
