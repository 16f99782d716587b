/**
 * Does jobs for ganger's `process` worker, in Node 18 or later. One file, no dependency: copy it beside your program.
 *
 *     import { worker } from "./ganger.mjs";
 *
 *     worker("resize", async ({ path, width }) => { … });
 *
 * That is a whole program. The function gets the job's params as they came, and the job. What it returns is kept as the
 * job's output: a text, bytes (Uint8Array), or whatever JSON can hold. An error is a failure, tried again while retries
 * last; `Retry`, `Discard` and `Dead` say otherwise. Jobs are done one after the other; for more at once, give the entry
 * in ganger's config more `workers`.
 *
 * Started by ganger, the program does jobs as soon as its modules are loaded; `run()` begins at once instead. Elsewhere (in
 * a test, in a shell) the functions stay plain functions, and nothing runs.
 *
 * Standard output is pointed at standard error, which ganger puts into its log: print as you like. What is to be done when
 * ganger has no more jobs goes into `process.on("exit", …)`.
 */

import fs from "node:fs";
import net from "node:net";
import { isMainThread } from "node:worker_threads";

const VERSION = "1.0.0";

/** How many jobs are taken at once, and when their answers are written at the latest. */
const PIPELINE = 64;
const ANSWERS_MAX = 32;
const ANSWERS_AGE_MS = 1;

/** How long jobs are done before it is listened again. */
const TURN_MS = 5;

/** The job has failed and is tried again: after `afterMs` milliseconds, else after its backoff. */
export class Retry extends Error {
  constructor(message = "to be tried again", { afterMs } = {}) {
    super(message);
    this.afterMs = afterMs;
  }
}

/** The job is no longer wanted: it ends as done, with this as its note. */
export class Discard extends Error {}

/** Another run would fail the same way: the job is dead at once. */
export class Dead extends Error {}

/** The job under way: the second argument of each function. */
export class Job {
  #message;
  #abort = new AbortController();
  #began = performance.now();

  constructor(message) {
    this.#message = message;
    /** Jobs that become real together with this one's end. */
    this.followers = [];
  }

  /** Its id in the store. */
  get id() { return this.#message.id; }
  get type() { return this.#message.type; }
  /** The number of this run, from 1. */
  get attempt() { return this.#message.attempt; }
  get name() { return this.#message.name; }
  get queue() { return this.#message.queue ?? "default"; }
  get headers() { return this.#message.headers ?? {}; }
  get params() { return this.#message.params; }
  /** The record of a dead job, for a failure handler. */
  get input() { return this.#message.input; }
  /** Aborted when the job is to end: its reason is `cancel`, `timeout`, `lease` or `shutdown`. Give it to `fetch`. */
  get signal() { return this.#abort.signal; }

  /** When it must have ended, on the clock of performance.now(); undefined if it has all the time. */
  get deadline() {
    const { timeout_ms } = this.#message;
    return timeout_ms === undefined ? undefined : this.#began + timeout_ms;
  }

  /** Says how far along it is, 0 to 100. */
  progress(percent, message = "") {
    const number = Math.min(Math.max(Number(percent) || 0, 0), 100);
    this.#say("progress", { percent: number, message: String(message).slice(0, room()) });
  }
  /** Writes a line to ganger's log. Levels: error, warn, info, debug, trace. */
  log(message, level = "info") { this.#say("log", { message: String(message).slice(0, room()), level: String(level) }); }
  /** Adds text or bytes to the job's output. */
  write(data) {
    const whole = typeof data === "string" ? data : Buffer.from(data);
    for (let at = 0, end; at < whole.length; at = end) {
      end = Math.min(at + room(), whole.length);
      // No character is cut in two.
      if (typeof whole === "string" && end < whole.length && isFirstHalf(whole.charCodeAt(end - 1))) end += 1;
      this.#say("output", typeof whole === "string" ? { text: whole.slice(at, end) } : { base64: whole.toString("base64", at, end) });
    }
  }
  /** Enqueues a job that becomes real together with this one's end, if that is a good one. */
  follow(type, params, fields = {}) { this.followers.push({ type, params, ...fields }); }

  /** The client's. */
  abort(reason) { this.#abort.abort(reason); }

  #say(kind, more) { say({ kind, job: this.#message.job, ...more }); }
}

const functions = new Map();
let started = false;
/** Where what ganger says comes in, and what is said to it goes out. */
let input;
let write;
let lineMax = 1 << 20;

/** So many characters, of 6 bytes each at most, have room in a line, with all else that is in it. */
function room() {
  return Math.max(Math.floor((lineMax - 300) / 6), 1);
}

function isFirstHalf(code) {
  return code >= 0xd800 && code < 0xdc00;
}

/** Whether ganger started this process, and not this program's own process or thread in turn, which has its environment. */
function isOurs() {
  const own = String(process.pid);
  return isMainThread && process.env.GANGER_PROCESS !== undefined && (process.env.GANGER_CLIENT ?? own) === own;
}

/** Has a function do the jobs of a type. */
export function worker(type, work) {
  if (functions.has(type)) throw new Error(`two functions are both the worker of \`${type}\``);
  functions.set(type, work);
  if (isOurs()) setImmediate(() => { if (!started) run(); });
}

/** Does jobs until ganger has no more. */
export function run() {
  started = true;
  claim();
  say({
    kind: "hello", protocol: 1, types: [...functions.keys()].sort(), can: ["cancel", "ping", "recall"],
    pipeline: PIPELINE, client: `ganger.mjs ${VERSION}`, name: process.argv[1]?.split("/").pop(),
  });
  let rest = [];
  const source = input();
  source.on("data", (chunk) => {
    let from = 0;
    for (let at; (at = chunk.indexOf(10, from)) >= 0; from = at + 1) {
      rest.push(chunk.subarray(from, at));
      const line = (rest.length === 1 ? rest[0] : Buffer.concat(rest)).toString();
      rest = [];
      if (line.trim() !== "") hear(line);
    }
    if (from < chunk.length) rest.push(chunk.subarray(from));
    work();
  });
  source.on("end", () => { ended = true; work(); });
}

/** Keeps the two pipes for the protocol: whoever reads or prints finds nothing, and standard error. */
function claim() {
  if (write !== undefined) return;
  process.env.GANGER_CLIENT = String(process.pid);
  let source, sink;
  try {
    source = fs.openSync("/proc/self/fd/0", "r");
    sink = fs.openSync("/proc/self/fd/1", "w");
  } catch {
    return claimStreams();
  }
  // What is opened gets the lowest number that is free: what is started, and what writes past Node, has these too.
  fs.closeSync(0);
  fs.openSync("/dev/null", "r");
  fs.closeSync(1);
  fs.openSync("/proc/self/fd/2", "a");
  // A file comes where somebody tries it by hand.
  const isPipe = fs.fstatSync(source).isFIFO();
  input = () => (isPipe ? new net.Socket({ fd: source, readable: true, writable: false }) : fs.createReadStream("", { fd: source }));
  write = (text) => {
    try {
      for (let data = Buffer.from(text); data.length > 0; ) data = data.subarray(fs.writeSync(sink, data));
    } catch {
      process.exit(1); // ganger is gone
    }
  };
}

/** The same as far as it goes where the pipes are another user's, who started this program for ganger: for Node alone. */
function claimStreams() {
  input = () => process.stdin;
  write = process.stdout.write.bind(process.stdout);
  process.stdout.on("error", () => process.exit(1)); // ganger is gone
  process.stdout.write = process.stderr.write.bind(process.stderr);
}

let answers = [];
let written = 0;

function flush() {
  if (answers.length === 0) return;
  const lines = answers.join("");
  answers = [];
  write(lines);
  written = performance.now();
}

function say(message) {
  answers.push(whole(JSON.stringify(message)) + "\n");
  flush();
}

/** A line without halves of characters, which a text that was cut may end with: they are not UTF-8. */
function whole(line) {
  // Of those alone `stringify` makes such escapes.
  if (!line.includes("\\ud")) return line;
  return line.replace(/\\(?:ud[89a-f][0-9a-f]{2}|.)/g, (escape) => (escape.length > 2 ? "\ufffd" : escape));
}

/** Gathered while the next jobs are quick: the first one that is not has `recall` come, which writes them. */
function answer(number, line) {
  if (Buffer.byteLength(line) > lineMax) {
    line = fail(number, `what it returned is longer than a line may be (${lineMax} bytes)`, "dead");
  }
  answers.push(line + "\n");
  if (waiting.length === 0 || answers.length >= ANSWERS_MAX || performance.now() - written > ANSWERS_AGE_MS) flush();
}

let waiting = [];
let last = 0;
let current;
let ended = false;
const cancelled = new Map();

function hear(line) {
  const message = JSON.parse(line);
  switch (message.kind) {
    case "job":
      last = message.job;
      waiting.push(message);
      break;
    case "ping":
      say({ kind: "pong", ping: message.ping });
      break;
    case "recall": {
      const from = waiting[0]?.job ?? last + 1;
      waiting = [];
      say({ kind: "recalled", from });
      break;
    }
    case "cancel":
      cancelled.set(message.job, message.reason);
      if (current?.number === message.job) current.job.abort(message.reason);
      break;
    case "hello":
      lineMax = message.line_max ?? lineMax;
      break;
  }
}

let working = false;

/** One after the other. What is said meanwhile is heard between two, also where none of them waits for anything. */
async function work() {
  if (working) return;
  working = true;
  let turned = performance.now();
  for (let message; (message = waiting.shift()); ) {
    if (performance.now() - turned > TURN_MS) {
      flush();
      waiting.unshift(message);
      await new Promise(setImmediate);
      turned = performance.now();
      continue;
    }
    const said = attempt(message);
    // A function that does not wait costs no turn of the event loop.
    answer(message.job, said instanceof Promise ? await said : said);
    current = undefined;
    // Also those that came too late for theirs.
    for (const number of cancelled.keys()) if (number <= message.job) cancelled.delete(number);
  }
  working = false;
  flush();
  if (ended) process.exit();
}

function attempt(message) {
  const number = message.job;
  if (cancelled.has(number)) return fail(number, "it was to end before it was begun");
  const type = functions.get(message.type);
  if (type === undefined) return fail(number, `this program does no jobs of type \`${message.type}\``, "dead");
  const job = new Job(message);
  current = { number, job };
  try {
    const result = type(message.input ?? message.params, job);
    if (typeof result?.then !== "function") return done(number, result, job);
    return Promise.resolve(result).then((result) => done(number, result, job)).catch((error) => failed(number, error));
  } catch (error) {
    return failed(number, error);
  }
}

function done(number, result, job) {
  try {
    let line = `{"kind":"done","job":${number}`;
    if (job.followers.length > 0) line += `,"follow":${JSON.stringify(job.followers)}`;
    if (typeof result === "string") line += `,"text":${JSON.stringify(result)}`;
    else if (result instanceof Uint8Array) line += `,"base64":"${Buffer.from(result).toString("base64")}"`;
    else if (result !== undefined && result !== null) {
      const json = JSON.stringify(result);
      if (json === undefined) throw new TypeError(`a ${typeof result}`);
      line += `,"output":${json}`;
    }
    return whole(`${line}}`);
  } catch (error) {
    return fail(number, `what it returned is no JSON: ${shown(error)}`, "dead");
  }
}

function failed(number, error) {
  const text = shown(error);
  if (error instanceof Retry) {
    const after = Number(error.afterMs ?? NaN);
    // Not beyond thirty years, which is as good as never.
    return fail(number, text, "retry", after >= 0 ? { after_ms: Math.round(Math.min(after, 1e12)) } : {});
  }
  if (error instanceof Discard) return fail(number, text, "discard");
  if (error instanceof Dead) return fail(number, text, "dead");
  if (cancelled.has(number)) return fail(number, `it ended when it was told to (${cancelled.get(number)})`);
  const named = error instanceof Error ? `${shown(error, "name")}: ${text}` : text;
  return fail(number, named, "retry", { text: shown(error, "stack").slice(-Math.min(room() / 2, 16000)) });
}

/** A part of what was thrown as a text, whatever that is. */
function shown(error, part = "message") {
  try {
    if (part !== "message") return String(error?.[part] ?? "");
    return String(error instanceof Error ? error.message : error);
  } catch {
    return "what was thrown cannot be shown";
  }
}

function fail(number, error, then = "retry", more = {}) {
  return whole(JSON.stringify({ kind: "fail", job: number, error: error.slice(0, Math.min(room() / 2, 4000)), then, ...more }));
}

if (isOurs()) claim();
