// The live part: the server sends the page's content whenever it has changed. Without this script
// the page is the same, and stands still.
"use strict";
const main = document.querySelector("main");
const source = new EventSource("/events");
source.onmessage = (event) => {
  main.innerHTML = event.data;
};
source.onerror = () => {
  document.querySelector(".when")?.replaceChildren("connection lost; trying again");
};
