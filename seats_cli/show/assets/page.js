(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const slider = document.getElementById("slider");
  const sound = document.getElementById("sound");
  document.documentElement.classList.add("scripted");

  // Grey out what has been dropped before a layer.
  function showLayer(layer) {
    document.getElementById("layer").textContent = layer;
    for (const group of all("[data-lived]")) {
      group.classList.toggle("gone", Number(group.dataset.lived) < layer);
    }
    for (const item of all("[data-layer]")) {
      item.classList.toggle("now", Number(item.dataset.layer) === layer);
    }
    for (const line of all(".readout")) {
      const row = document.querySelector(`#${line.dataset.of} tr[data-layer="${layer}"]`);
      const [video, audio, text, flops] = all("td", row).map((cell) => cell.textContent);
      line.textContent = `Layer ${layer} processes ${video} video, ${audio} audio and ${text} text tokens with ${flops} FLOPs.`;
    }
  }
  slider.addEventListener("input", () => showLayer(Number(slider.value)));
  slider.value = 1;
  showLayer(1);

  // One run at a time.
  const buttons = all("nav button");
  function showRun(id) {
    for (const run of all(".run")) run.hidden = run.id !== id;
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.run === id));
  }
  for (const button of buttons) button.addEventListener("click", () => showRun(button.dataset.run));
  if (buttons.length) showRun(buttons[0].dataset.run);

  // A cursor in the sound, and the frame that belongs to it.
  function showTime(second) {
    for (const picture of all("svg.sound")) {
      const x = second * Number(picture.dataset.perSecond);
      const cursor = picture.querySelector(".cursor");
      cursor.setAttribute("x1", x);
      cursor.setAttribute("x2", x);
    }
    for (const frame of all("figure")) {
      frame.classList.toggle("now", Number(frame.dataset.start) <= second && second < Number(frame.dataset.end));
    }
  }
  const evidence = all("[data-seek]");
  if (!sound) {
    for (const piece of evidence) piece.addEventListener("click", () => showTime(Number(piece.dataset.seek)));
    return;
  }
  function follow() {
    showTime(sound.currentTime);
    if (!sound.paused && !sound.ended) requestAnimationFrame(follow);
  }
  sound.addEventListener("play", follow);
  sound.addEventListener("timeupdate", () => showTime(sound.currentTime));
  sound.addEventListener("seeked", () => showTime(sound.currentTime));
  const seek = (second) => {
    sound.currentTime = Math.min(Math.max(second, 0), sound.duration || second);
    showTime(sound.currentTime);
  };
  for (const picture of all("svg.sound")) {
    picture.addEventListener("click", (event) => {
      const box = picture.getBoundingClientRect();
      const width = picture.viewBox.baseVal.width;
      seek(((event.clientX - box.left) / box.width) * width / Number(picture.dataset.perSecond));
    });
  }
  for (const frame of all("figure")) frame.addEventListener("click", () => seek(Number(frame.dataset.start)));
  for (const piece of evidence) piece.addEventListener("click", () => seek(Number(piece.dataset.seek)));
})();
