// What `ganger plugin test` asks a program for, by the JavaScript client.

import { Dead, Discard, Retry, worker } from "../ganger.mjs";

console.log("what is printed does no harm");

worker("ganger.echo", (_, job) => job.params);

worker("ganger.fail", ({ error, then = "retry", after_ms }) => {
  if (then === "dead") throw new Dead(error);
  if (then === "discard") throw new Discard(error);
  if (after_ms !== undefined) throw new Retry(error, { afterMs: after_ms });
  throw new TypeError(error);
});

worker("ganger.sleep", async ({ seconds }, job) => {
  console.log("nor does this");
  await new Promise((done, failed) => {
    const timer = setTimeout(done, seconds * 1000);
    job.signal.addEventListener("abort", () => {
      clearTimeout(timer);
      failed(new Error("cancelled"));
    });
  });
});
