// Does what programs do that nobody thought of: {"do": …}. Its process must stay, and each job be answered.

import { execFileSync, spawnSync } from "node:child_process";
import fs from "node:fs";

import { Dead, Retry, worker } from "../ganger.mjs";

const client = new URL("../ganger.mjs", import.meta.url).href;

function raises(error) {
  throw error;
}

function prints() {
  console.log("printed");
  fs.writeSync(1, "written past Node\n");
  spawnSync("sh", ["-c", "echo by a program; cat"], { stdio: "inherit" });
  // One that has the client too, and the whole of this one's environment.
  const tool = `import(${JSON.stringify(client)}).then(() => console.log("a tool"))`;
  return execFileSync(process.execPath, ["-e", tool]).toString();
}

function says(job) {
  job.progress(NaN, "none");
  job.progress("50%");
  job.progress(1e300);
  job.log("a level of its own", 20);
  job.log("l".repeat(100_000));
  job.log("half \ud83d");
  job.write("ä\n".repeat(50_000));
  job.write(new Uint8Array(50_000));
}

const circle = {};
circle.circle = circle;

const deeds = {
  pid: () => String(process.pid),
  half: () => "a\ud83db \\ud83d",
  halves: () => ({ name: ["a\ud83db"] }),
  raises_half: () => raises(new Error("a\ud83db")),
  prints,
  says,
  function: () => () => {},
  circle: () => circle,
  bigint: () => 1n,
  too_long: () => "x".repeat(1 << 20),
  follows_no_json: (job) => job.follow("process", 1n),
  throws_nothing: () => raises(undefined),
  throws_symbol: () => raises(Symbol("s")),
  throws_bare: () => raises(Object.create(null)),
  rejects_bare: () => Promise.reject(Object.create(null)),
  throws_no_text: () => raises(Object.assign(new Error(), { message: 7, name: Object.create(null), stack: 7 })),
  throws_dead_bare: () => raises(Object.assign(new Dead(), { message: Object.create(null) })),
  retries_soon: () => raises(new Retry("later", { afterMs: "soon" })),
  retries_never: () => raises(new Retry("later", { afterMs: Infinity })),
  raises_much: () => raises(new Error("ä".repeat(100_000))),
  then_throws: () => ({ get then() { throw new Error("no then"); } }),
  recurses: () => deeds.recurses(),
};

worker("process", ({ do: deed }, job) => deeds[deed](job));
