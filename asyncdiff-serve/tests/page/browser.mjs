// The real service, a real browser, and what tests do with them.

import { spawn } from "node:child_process";
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const program = process.env.ASYNCDIFF ?? new URL("../../../target/release/asyncdiff", import.meta.url).pathname;
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
export const folder = process.env.SCREENSHOTS ?? new URL("../../../target/page", import.meta.url).pathname;
mkdirSync(folder, { recursive: true });

/** Starts `asyncdiff serve` on a free port; resolves to its address and what ends it. */
export function serve(...more) {
  const child = spawn(program, ["serve", "--listen", "127.0.0.1:0", "--devices", "cpu:2", ...more], { stdio: ["ignore", "pipe", "pipe"] });
  return new Promise((resolve, reject) => {
    let said = "";
    const hear = (bytes) => {
      said += bytes;
      const address = said.match(/http:\/\/127\.0\.0\.1:\d+/)?.[0];
      const stop = () => new Promise((stopped) => { child.once("exit", stopped); child.kill("SIGTERM"); });
      if (address) resolve({ address, stop });
    };
    child.stdout.on("data", hear);
    child.stderr.on("data", hear);
    child.once("error", reject);
    child.once("exit", (code) => reject(new Error(`the service ended with ${code}: ${said}`)));
  });
}

export const launch = () => chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-dev-shm-usage"],
});

/** A fresh visitor; whatever goes wrong in the page is kept in `page.faults`, and the jobs that it asks for in `page.jobs`. */
export async function visit(browser, address, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 860 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(60_000);
  page.faults = [];
  page.jobs = [];
  page.on("pageerror", (error) => page.faults.push(error.message));
  page.on("console", (message) => { if (message.type() === "error") page.faults.push(message.text()); });
  page.on("request", (request) => {
    if (!/^(http:\/\/127\.0\.0\.1:|data:|blob:)/.test(request.url())) page.faults.push(`asked a foreign host: ${request.url()}`);
    if (request.method() === "POST" && request.url().endsWith("/api/jobs")) page.jobs.push(request.postDataJSON());
  });
  await page.goto(address);
  await page.waitForFunction(() => document.querySelector("#about").textContent !== "");
  return page;
}

/** Does what sends a job, and waits until the page has what it made. */
export async function send(page, action) {
  const asked = page.waitForRequest((request) => request.method() === "POST" && request.url().endsWith("/api/jobs"));
  await Promise.all([asked, action()]);
  await page.waitForFunction(() => !document.querySelector("#go.running") && document.querySelector("#status").textContent.startsWith("Made in"));
}

/** Types a prompt, sends it with Enter, and waits for the picture. */
export async function generate(page, prompt, settings = {}) {
  await set(page, settings);
  await page.fill("#prompt", prompt);
  await send(page, () => page.press("#prompt", "Enter"));
}

export async function set(page, settings) {
  await page.evaluate(() => { document.querySelector("#settings").open = true; });
  for (const [name, value] of Object.entries(settings)) await page.fill(`#${name}`, String(value));
}

/** The newest picture that the page has kept, as its file's bytes in base64. */
export const picture = (page) => page.evaluate(() => new Promise((resolve, reject) => {
  const opened = indexedDB.open("asyncdiff");
  opened.onerror = () => reject(opened.error);
  opened.onsuccess = () => {
    const all = opened.result.transaction("made").objectStore("made").getAll();
    all.onerror = () => reject(all.error);
    all.onsuccess = () => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result.split(",")[1]);
      reader.readAsDataURL(all.result.at(-1).pictures[0].blob);
    };
  };
}));

/** Drops a file on an element, as a hand would. */
export const drop = (page, selector, base64, type = "image/png") => page.evaluate(([selector, base64, type]) => {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], "dropped", { type }));
  const target = document.querySelector(selector);
  for (const kind of ["dragenter", "dragover", "drop"]) {
    target.dispatchEvent(new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer }));
  }
}, [selector, base64, type]);

/** Mean difference of the bytes of two pictures in base64, in the part of the width from `left` to `right`. */
export const difference = (page, one, other, [left, right] = [0, 1]) => page.evaluate(async ([one, other, left, right]) => {
  const [a, b] = await Promise.all([one, other].map(async (base64) => {
    const image = new Image();
    image.src = `data:image/png;base64,${base64}`;
    await image.decode();
    const canvas = Object.assign(document.createElement("canvas"), { width: image.width, height: image.height });
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    const from = Math.round(left * image.width);
    return context.getImageData(from, 0, Math.round(right * image.width) - from, image.height).data;
  }));
  if (a.length !== b.length) throw new Error("the pictures have two sizes");
  return a.reduce((sum, value, index) => sum + Math.abs(value - b[index]), 0) / a.length;
}, [one, other, left, right]);

/** Faults of accessibility that axe calls serious or worse. */
export async function faults(page) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  const grave = violations.filter(({ impact }) => ["serious", "critical"].includes(impact));
  return grave.map(({ id, nodes }) => `${id}: ${nodes.map(({ target }) => target).join(" ")}`);
}

export const shot = (page, name) => page.screenshot({ path: `${folder}/${name}.png`, fullPage: true });
export const overflow = (page) => page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
