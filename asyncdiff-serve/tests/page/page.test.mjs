// The page in a real browser, with the real service and the model that is built in.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { difference, drop, faults, generate, launch, overflow, picture, send, serve, set, shot, visit } from "./browser.mjs";

let browser, service;
before(async () => { [browser, service] = await Promise.all([launch(), serve()]); });
after(async () => {
  await browser?.close();
  await service?.stop();
});

/** A test with a visitor of its own, in whose page nothing may go wrong. */
function visiting(name, options, body) {
  test(name, { timeout: 180_000 }, async () => {
    const page = await visit(browser, service.address, options);
    await body(page);
    assert.deepEqual(page.faults, []);
    await page.context().close();
  });
}

/** A folder that is gone after the test. */
function temporary(t) {
  const folder = mkdtempSync(join(tmpdir(), "asyncdiff-page-"));
  t.after(() => rmSync(folder, { recursive: true }));
  return folder;
}

visiting("a picture comes and gets sharper on the way", {}, async (page) => {
  await page.evaluate(() => {
    globalThis.seen = new Set();
    const look = () => { const preview = document.querySelector("#frame img.preview"); if (preview) globalThis.seen.add(preview.src); };
    new MutationObserver(look).observe(document.querySelector("#frame"), { subtree: true, childList: true, attributes: true });
  });
  await generate(page, "red apple, fluent style", { steps: 20, seed: 7 });
  const previews = await page.evaluate(() => [...globalThis.seen]);
  assert.ok(previews.length >= 3, `${previews.length} previews`);
  const final = await picture(page);
  const far = await Promise.all([previews[0], previews.at(-1)].map((url) => difference(page, url.split(",")[1], final)));
  assert.ok(far[1] < far[0], `the last preview is more like the picture than the first: ${far}`);
  // One lane for each device, and the sentence that counts.
  assert.match(await page.textContent("#sooner"), /^\d\.\d times sooner than one device$/);
  assert.match(await page.getAttribute("#lanes", "aria-label"), /cpu.*computes \d+ %.*cpu.*computes \d+ %/);
  assert.match(await page.textContent("#announce"), /^Made in/);
  await shot(page, "picture-light");
});

visiting("what runs can be stopped, by key and by button", {}, async (page) => {
  for (const stop of [() => page.keyboard.press("Escape"), () => page.click("#go")]) {
    await set(page, { steps: 150 });
    await page.fill("#prompt", "penguin");
    await page.press("#prompt", "Enter");
    await page.waitForFunction(() => /^Step \d+ of 150/.test(document.querySelector("#status").textContent));
    assert.match(await page.textContent("#status"), /^Step \d+ of 150, .*(left|almost there)/);
    assert.equal((await page.textContent("#go")).replace("Esc", ""), "Stop");
    await stop();
    await page.waitForFunction(() => document.querySelector("#status").textContent === "Stopped");
    await page.waitForSelector("#go:not(.running)");
  }
});

visiting("a dropped picture is where the run starts", {}, async (page) => {
  await generate(page, "red apple, fluent style", { steps: 20, seed: 7 });
  const apple = await picture(page);
  await drop(page, "#start", apple);
  await page.waitForSelector("#start-image");
  await page.fill("#strength", "0.2");
  await generate(page, "green apple, fluent style", { seed: 8 });
  assert.ok(page.jobs.at(-1).init_image.startsWith("data:image/png;base64,"));
  const near = await picture(page);
  await page.click("#unstart");
  await generate(page, "green apple, fluent style", { seed: 8 });
  assert.equal(page.jobs.at(-1).init_image, undefined);
  const [changed, free] = [await difference(page, near, apple), await difference(page, await picture(page), apple)];
  assert.ok(changed > 0 && changed < free / 2, `${changed} from the start, ${free} without it`);
});

visiting("a picture to start from can be chosen and pasted, too", {}, async (page) => {
  const draw = (colour) => page.evaluate((colour) => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 40, height: 20 });
    Object.assign(canvas.getContext("2d"), { fillStyle: colour }).fillRect(0, 0, 40, 20);
    return canvas.toDataURL("image/png").split(",")[1];
  }, colour);
  const [red, blue] = [await draw("red"), await draw("blue")];
  const isStart = (base64) => page.waitForFunction((base64) => document.querySelector("#start-image").src.endsWith(base64), base64);
  await page.setInputFiles("#file", { name: "red.png", mimeType: "image/png", buffer: Buffer.from(red, "base64") });
  await isStart(red);
  // The shape of the picture, with about as many pixels as recommended.
  const [width, height] = await Promise.all(["#width", "#height"].map(async (side) => Number(await page.inputValue(side))));
  assert.ok(Math.abs(width / height - 2) < 0.2 && Math.abs((width * height) / 4096 - 1) < 0.2, `${width} by ${height}`);
  await page.evaluate((base64) => {
    const clipboardData = new DataTransfer();
    clipboardData.items.add(new File([Uint8Array.from(atob(base64), (character) => character.charCodeAt(0))], "blue.png", { type: "image/png" }));
    document.querySelector("#prompt").dispatchEvent(new ClipboardEvent("paste", { bubbles: true, cancelable: true, clipboardData }));
  }, blue);
  await isStart(blue);
  await page.click("#unstart");
  assert.deepEqual([await page.inputValue("#width"), await page.inputValue("#height")], ["64", "64"]);
});

visiting("only what is painted is made anew", {}, async (page) => {
  await generate(page, "red apple, fluent style", { steps: 20, seed: 7 });
  const apple = await picture(page);
  await page.getByRole("button", { name: "Start from it" }).click();
  await page.waitForSelector("#mask:visible");
  await page.fill("#brush", "40");
  const box = await page.locator("#mask").boundingBox();
  await page.mouse.move(box.x + 0.2 * box.width, box.y);
  await page.mouse.down();
  await page.mouse.move(box.x + 0.2 * box.width, box.y + box.height - 1, { steps: 10 });
  await page.mouse.up();
  await shot(page, "mask-light");
  await page.fill("#strength", "1");
  await generate(page, "rainbow, fluent style", { seed: 3 });
  assert.ok(page.jobs.at(-1).mask.startsWith("data:image/png;base64,"));
  const result = await picture(page);
  const [painted, kept] = [await difference(page, result, apple, [0, 0.35]), await difference(page, result, apple, [0.6, 1])];
  assert.ok(painted > 3 * kept, `${painted} where it is painted, ${kept} where it is not`);
  await page.click("#clear");
  await generate(page, "rainbow, fluent style");
  assert.equal(page.jobs.at(-1).mask, null);
});

visiting("one of our pictures brings its settings back", {}, async (page) => {
  await generate(page, "rocket, flat style", { steps: 11, seed: 42, guidance_scale: 2.5, negative_prompt: "smoke" });
  const rocket = await picture(page);
  await page.click("#reset");
  await page.fill("#prompt", "");
  await drop(page, "#stage", rocket);
  await page.waitForFunction(() => document.querySelector("#prompt").value !== "");
  const values = await page.evaluate(() => ["prompt", "steps", "seed", "guidance_scale", "negative_prompt"].map((id) => document.getElementById(id).value));
  assert.deepEqual(values, ["rocket, flat style", "11", "42", "2.5", "smoke"]);
  await send(page, () => page.press("#prompt", "Enter"));
  assert.equal(await difference(page, await picture(page), rocket), 0);
});

visiting("a video moves", {}, async (page) => {
  await generate(page, "red apple, fluent style, sliding left", { steps: 4, frames: 4, seed: 1 });
  const element = page.locator("#frame img, #frame video");
  await page.waitForFunction(() => {
    const shown = document.querySelector("#frame img:not(.preview), #frame video");
    return (shown.naturalWidth ?? shown.videoWidth) > 0;
  });
  // An animated picture, or a video that plays by itself.
  const first = await element.screenshot();
  for (let look = 0; (await element.screenshot()).equals(first); look += 1) {
    assert.ok(look < 50, "nothing moves");
    await page.waitForTimeout(60);
  }
});

visiting("what was made is there after a reload, and can be forgotten", {}, async (page) => {
  await generate(page, "penguin", { steps: 6, seed: 5 });
  await generate(page, "pizza", { steps: 7, seed: 6, count: 2 });
  await page.reload();
  await page.waitForSelector("#thumbs li:nth-child(2)");
  assert.equal(await page.locator("#frame.several img").count(), 2);
  await page.locator("#thumbs button").nth(1).click();
  assert.equal(await page.inputValue("#prompt"), "penguin");
  assert.equal(await page.inputValue("#steps"), "6");
  assert.equal(await page.inputValue("#seed"), "5");
  await page.waitForFunction(() => document.querySelector("#frame img").naturalWidth === 64);
  page.on("dialog", (dialog) => dialog.accept());
  await page.click("#forget");
  await page.reload();
  await page.waitForFunction(() => document.querySelector("#about").textContent !== "");
  assert.equal(await page.locator("#thumbs li").count(), 0);
});

visiting("what cannot be is one sentence near the button, at the field", {}, async (page) => {
  await set(page, { steps: 1000 });
  await page.fill("#prompt", "penguin");
  await page.press("#prompt", "Enter");
  await page.waitForSelector("#error:visible");
  assert.match(await page.textContent("#error"), /^1000 steps .*\.$/);
  assert.equal(await page.getAttribute("#steps", "aria-invalid"), "true");
  await shot(page, "error-light");
  page.faults.length = 0; // The browser's own word on the answer 400.
});

for (const colorScheme of ["light", "dark"]) {
  visiting(`axe finds nothing serious in ${colorScheme}`, { colorScheme, reducedMotion: "reduce" }, async (page) => {
    await shot(page, `empty-${colorScheme}`);
    assert.deepEqual(await faults(page), []);
    await generate(page, "octopus, fluent style", { steps: 20, seed: 4 });
    await page.evaluate(() => { document.querySelector("#settings").open = false; });
    await shot(page, `made-${colorScheme}`);
    await page.getByRole("button", { name: "Start from it" }).click();
    await page.waitForSelector("#mask:visible");
    await page.evaluate(() => { document.querySelector("#settings").open = true; });
    assert.deepEqual(await faults(page), []);
    const moving = await page.evaluate(() => document.getAnimations().length);
    assert.equal(moving, 0, "motion where less is asked for");
    await shot(page, `settings-${colorScheme}`);
  });
}

visiting("a phone has room for it, and fingers paint", { viewport: { width: 360, height: 740 }, deviceScaleFactor: 2, hasTouch: true, isMobile: true }, async (page) => {
  assert.equal(await overflow(page), 0);
  await send(page, () => page.getByRole("button", { name: "rocket" }).tap());
  assert.equal(await overflow(page), 0);
  await page.getByRole("button", { name: "Start from it" }).tap();
  await page.locator("#mask").tap();
  await page.evaluate(() => { document.querySelector("#settings").open = true; });
  assert.equal(await overflow(page), 0);
  await shot(page, "phone");
  await send(page, () => page.locator("#go").tap());
  assert.ok(page.jobs.at(-1).mask.startsWith("data:image/png;base64,"));
});

test("the form follows the model", { timeout: 180_000 }, async (t) => {
  const folder = temporary(t);
  const fixture = (name) => new URL(`../../../fixtures/${name}/checkpoint`, import.meta.url).pathname;
  symlinkSync(fixture("sd15"), join(folder, "pictures"));
  symlinkSync(fixture("svd"), join(folder, "videos"));
  const service = await serve("--models-dir", folder);
  try {
    const page = await visit(browser, service.address);
    await page.evaluate(() => { document.querySelector("#settings").open = true; });
    await page.selectOption("#model", "videos");
    await page.waitForSelector("#frames:visible");
    assert.ok(await page.isHidden("#prompt"));
    await page.click("#go");
    assert.equal(await page.textContent("#error"), "This model starts from a picture: choose one.");
    await page.setInputFiles("#file", new URL("../../../docs/rocket.png", import.meta.url).pathname);
    await page.waitForSelector("#start-image:visible");
    assert.ok(await page.isHidden("#mask") && await page.isHidden("#strength"));
    await set(page, { steps: 2, frames: 3, width: 128, height: 64 });
    await send(page, () => page.click("#go"));
    assert.equal(page.jobs.at(-1).model, "videos");
    await page.waitForFunction(() => {
      const video = document.querySelector("#frame video");
      return video?.readyState >= 2 && video.videoWidth === 128 && !video.error;
    });
    await page.selectOption("#model", "pictures");
    await page.waitForSelector("#frames", { state: "hidden" });
    await page.click("#unstart");
    await generate(page, "noise", { steps: 2, width: 64, height: 64 });
    // Back to the video: its model, its settings.
    await page.locator("#thumbs button").nth(1).click();
    await page.waitForSelector("#frames:visible");
    assert.deepEqual([await page.inputValue("#model"), await page.inputValue("#frames"), await page.inputValue("#steps")], ["videos", "3", "2"]);
    assert.deepEqual(page.faults, []);
    await page.context().close();
  } finally {
    await service.stop();
  }
});

test("a key is asked for once", { timeout: 180_000 }, async (t) => {
  const file = join(temporary(t), "key");
  writeFileSync(file, "open-sesame\n");
  const locked = await serve("--api-key-file", file);
  try {
    const context = await browser.newContext();
    const page = await context.newPage();
    await page.goto(locked.address);
    for (const key of ["wrong", "open-sesame"]) {
      await page.waitForSelector("#key-dialog[open]");
      assert.deepEqual(await faults(page), []);
      await page.fill("#key", key);
      await page.press("#key", "Enter");
    }
    await page.waitForFunction(() => document.querySelector("#about").textContent !== "");
    await page.reload();
    await page.waitForFunction(() => document.querySelector("#about").textContent !== "");
    await generate(page, "penguin", { steps: 5 });
    await context.close();
  } finally {
    await locked.stop();
  }
});
