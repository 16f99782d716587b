#![doc = include_str!("../README.md")]
use std::{sync::Arc, sync::Mutex, time::Duration};

use ganger::*;
use tokio::sync::Notify;

/// Options in the config: `lines = { file = "jobs.jsonl" }`.
#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinesConfig {
    /// The file whose lines are the jobs.
    pub file: String,
}

/// The lines of a file, as jobs. Each call is one step under one lock; a real store has a transaction in its place.
pub struct Lines {
    items: Mutex<Vec<Item>>,
    changed: Notify,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct Item {
    line: Vec<u8>,
    record: Record,
    /// Its type, once a manager has read it and set it aside.
    kind: Option<String>,
    due: Option<Timestamp>,
    /// Who holds it, and until when.
    held: Option<(LeaseRef, Duration)>,
}

impl Item {
    /// The record with which it can go out now, if it can.
    fn offer(&self, room: &Room, now: Duration, wall: Timestamp) -> Option<Record> {
        let mut record = self.record.clone();
        match self.held {
            Some((_, until)) if until > now => return None,
            // Its lease ran out: the first time proves nothing against it, every further one counts.
            Some(_) => (record.crashes, record.suspect) = (record.crashes + u32::from(record.suspect), true),
            None => {}
        }
        let fits = self.due.is_none_or(|due| due <= wall)
            && self.kind.as_ref().map_or(!room.is_none(), |kind| room.of(kind) > 0)
            && (room.suspect || !record.suspect)
            && (room.crashed || record.crashes == 0);
        fits.then_some(record)
    }

    /// Applies a settlement; whether the item stays.
    fn settle(&mut self, settlement: &Settlement) -> bool {
        if let Some(more) = &settlement.more {
            self.record.attempts.extend(more.attempt.clone());
            let surplus = self.record.attempts.len().saturating_sub(ATTEMPTS_MAX);
            self.record.attempts.drain(..surplus);
            self.kind = more.kind.as_ref().map(ToString::to_string).or(self.kind.take());
        }
        self.record.spent += u32::from(settlement.spend == Spend::Retry);
        self.record.crashes += u32::from(settlement.spend == Spend::Crash);
        (self.held, self.due) = match settlement.verdict {
            Verdict::Retry { at } | Verdict::Park { until: Some(at) } => (None, Some(at)),
            Verdict::Release | Verdict::Park { until: None } => (None, None),
            _ => return false,
        };
        true
    }
}

impl Lines {
    /// No lines yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Lines { items: Mutex::default(), changed: Notify::new(), clock }
    }

    /// Adds a line.
    pub fn push(&self, line: &[u8]) {
        self.step(|items, _, _| items.push(Item { line: line.to_vec(), ..Item::default() }));
        self.changed.notify_waiters();
    }

    /// One step on all items, at one moment.
    fn step<T>(&self, step: impl FnOnce(&mut Vec<Item>, Duration, Timestamp) -> T) -> T {
        let (now, wall) = (self.clock.monotonic(), self.clock.wall());
        step(&mut self.items.lock().expect("no step panics"), now, wall)
    }
}

impl Provider for Lines {
    const NAME: &'static str = "lines";
    const CAPABILITIES: Capabilities = Capabilities { schedule: true, ..Capabilities::NONE };
    type Config = LinesConfig;

    async fn open(config: LinesConfig, cx: &ProviderContext) -> Result<Self, ProviderError> {
        let lines = Lines::new(cx.clock.clone());
        let text = std::fs::read(&config.file);
        let text = text.map_err(|error| ProviderError::transient(config.file).because(error))?;
        text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).for_each(|line| lines.push(line));
        Ok(lines)
    }

    async fn wait(&self, room: &Room) -> Result<(), ProviderError> {
        let changed = self.changed.notified();
        if !self.step(|items, now, wall| items.iter().any(|item| item.offer(room, now, wall).is_some())) {
            // A lease may run out, or a job fall due, with nobody to tell.
            let _ = tokio::time::timeout(Duration::from_millis(100), changed).await;
        }
        Ok(())
    }

    async fn exchange(&self, give: &Exchange) -> Result<Exchanged, ProviderError> {
        let (mut answer, mut room, mut bytes) = (Exchanged::default(), give.room.clone(), 0);
        self.step(|items, now, wall| {
            for settlement in &give.settle {
                match items.iter().position(|item| item.held.is_some_and(|held| held.0 == settlement.lease)) {
                    None => answer.stale.push(settlement.lease),
                    Some(at) if items[at].settle(settlement) => {}
                    Some(at) => drop(items.remove(at)),
                }
            }
            // A suspect goes out alone.
            let suspect = |item: &Item| item.offer(&room, now, wall).is_some_and(|record| record.suspect);
            let range = items.iter().position(suspect).map_or(0..items.len(), |at| at..at + 1);
            for item in &mut items[range] {
                let Some(record) = item.offer(&room, now, wall) else { continue };
                bytes += item.line.len() as u64;
                if bytes > room.bytes && !answer.leased.is_empty() {
                    break;
                }
                room.jobs -= 1;
                let lane = room.types.iter_mut().find(|of| item.kind.as_deref() == Some(&*of.kind));
                lane.into_iter().for_each(|of| of.jobs -= 1);
                let index = answer.leased.len() as u32;
                let lease = LeaseRef { token: give.token, index };
                let first = record.first.or(Some(FirstClaim { lease, at: wall }));
                (item.record, item.held) = (Record { first, ..record }, Some((lease, now + give.lease)));
                let entry = Entry::Raw(item.line.clone().into());
                answer.leased.push(Leased { index, entry, record: item.record.clone() });
            }
        });
        self.changed.notify_waiters();
        Ok(answer)
    }

    async fn renew(&self, beat: &Beat, held: &[LeaseRef]) -> Result<Vec<Hold>, ProviderError> {
        let mut holds = vec![Hold::Lost; held.len()];
        self.step(|items, now, _| {
            for item in items {
                let Some((lease, _)) = item.held else { continue };
                if let Some(at) = held.iter().position(|named| *named == lease) {
                    item.held = Some((lease, now + Duration::from_millis(beat.lease_millis)));
                    holds[at] = Hold::Held;
                } else if held.iter().any(|named| named.token == lease.token) {
                    // Left out although its token is named: it is ready again.
                    item.held = None;
                }
            }
        });
        self.changed.notify_waiters();
        Ok(holds)
    }

    async fn close(&self) -> Result<(), ProviderError> {
        Ok(())
    }
}
