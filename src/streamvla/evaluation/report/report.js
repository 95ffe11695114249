"use strict";
// Plays the videos of one episode together, so that the runs can be compared by eye.
(() => {
  const player = document.querySelector("[data-player]");
  if (!player) return;
  const find = (name) => player.querySelector(`[data-${name}]`);
  const [play, restart, speed, seek, clock, choice] =
    ["play", "restart", "speed", "seek", "clock", "episode"].map(find);
  const groups = [...player.querySelectorAll(".videos")];
  const DRIFT_S = 0.08; // two videos further apart than this are pulled together again
  let playing = false;

  const videos = () => [...groups.find((group) => !group.hidden).querySelectorAll("video")];
  const length = () => Math.max(0, ...videos().map((video) => video.duration || 0));
  const position = () => Math.max(0, ...videos().map((video) => video.currentTime));

  function show() {
    const [now, end] = [position(), length()];
    seek.max = String(end);
    seek.value = String(now);
    clock.textContent = `${now.toFixed(1)} / ${end.toFixed(1)} s`;
    play.textContent = playing ? "❚❚ Pause" : "▶ Play";
  }

  function moveTo(seconds) {
    for (const video of videos()) video.currentTime = Math.min(seconds, video.duration || 0);
    show();
  }

  function setPlaying(wanted) {
    playing = wanted;
    for (const video of videos()) {
      video.playbackRate = Number(speed.value);
      if (!playing) video.pause();
      else if (!video.ended) video.play().catch(() => { playing = false; show(); });
    }
    show();
    if (playing) requestAnimationFrame(follow);
  }

  function follow() {
    if (!playing) return;
    const running = videos().filter((video) => !video.ended && !video.paused);
    const now = Math.min(...running.map((video) => video.currentTime));
    for (const video of running) {
      if (video.currentTime - now > DRIFT_S) video.currentTime = now;
    }
    if (videos().every((video) => video.ended)) playing = false;
    show();
    if (playing) requestAnimationFrame(follow);
  }

  play.addEventListener("click", () => {
    if (!playing && position() >= length() - 0.05) moveTo(0);
    setPlaying(!playing);
  });
  restart.addEventListener("click", () => { moveTo(0); setPlaying(true); });
  speed.addEventListener("change", () => {
    for (const video of videos()) video.playbackRate = Number(speed.value);
  });
  seek.addEventListener("input", () => { setPlaying(false); moveTo(Number(seek.value)); });
  choice.addEventListener("change", () => {
    setPlaying(false);
    groups.forEach((group, index) => { group.hidden = index !== Number(choice.value); });
    moveTo(0);
  });
  for (const video of player.querySelectorAll("video")) {
    video.addEventListener("loadedmetadata", show);
  }
  show();
})();

// Shows one episode's pictures at a time.
(() => {
  const section = document.querySelector("[data-episodes]");
  const choice = section && section.querySelector("[data-choice]");
  if (!choice) return;
  const panels = [...section.querySelectorAll("[data-panel]")];
  const [previous, next] = ["previous", "next"].map((name) => section.querySelector(`[data-${name}]`));

  function show() {
    for (const panel of panels) panel.hidden = panel.dataset.panel !== choice.value;
    previous.disabled = choice.selectedIndex === 0;
    next.disabled = choice.selectedIndex === choice.options.length - 1;
  }

  function step(by) {
    choice.selectedIndex += by;
    show();
  }

  previous.addEventListener("click", () => step(-1));
  next.addEventListener("click", () => step(1));
  choice.addEventListener("change", show);
  show();
})();
