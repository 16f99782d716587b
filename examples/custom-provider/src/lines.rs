//! The lines of a text file are the jobs. All is in memory, each call one step under one lock; a provider for a real
//! store does the same steps in one transaction, or one script, of that store.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ganger::*;
use tokio::sync::Notify;

/// Options in the config: `lines = { file = "jobs.jsonl" }`.
#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinesConfig {
    /// The file whose lines are the jobs.
    pub file: String,
}

/// The lines of a file, as jobs.
pub struct Lines(Mutex<Vec<Item>>, Notify, Arc<dyn Clock>);

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
            && self.kind.as_ref().is_none_or(|kind| room.of(kind) > 0)
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
        self.held = None;
        match settlement.verdict {
            Verdict::Retry { at } | Verdict::Park { until: Some(at) } => self.due = Some(at),
            Verdict::Release | Verdict::Park { until: None } => {}
            _ => return false,
        }
        true
    }
}

impl Lines {
    /// A line for each job.
    pub fn new(lines: &[u8], clock: Arc<dyn Clock>) -> Self {
        let item = |line: &[u8]| Item {
            line: line.to_vec(),
            record: Record::default(),
            kind: None,
            due: None,
            held: None,
        };
        let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        Lines(Mutex::new(lines.map(item).collect()), Notify::new(), clock)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Item>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> (Duration, Timestamp) {
        (self.2.monotonic(), self.2.wall())
    }
}

impl Provider for Lines {
    const NAME: &'static str = "lines";
    const CAPABILITIES: Capabilities = Capabilities { schedule: true, ..Capabilities::NONE };
    type Config = LinesConfig;

    async fn open(config: LinesConfig, cx: &ProviderContext) -> Result<Self, ProviderError> {
        let unread =
            |error| ProviderError::transient(format!("`{}` cannot be read", config.file)).because(error);
        Ok(Lines::new(&std::fs::read(&config.file).map_err(unread)?, cx.clock.clone()))
    }

    async fn wait(&self, room: &Room) -> Result<(), ProviderError> {
        loop {
            let mut changed = std::pin::pin!(self.1.notified());
            // Armed before the look, so that a change in between is not missed.
            changed.as_mut().enable();
            let (now, wall) = self.now();
            let pause = {
                let items = self.lock();
                if items.iter().any(|item| item.offer(room, now, wall).is_some()) {
                    return Ok(());
                }
                let ends = items.iter().filter_map(|item| Some(item.held?.1.saturating_sub(now)));
                let dues = items.iter().filter_map(|item| Some(item.due?.since(wall)));
                ends.chain(dues).filter(|left| !left.is_zero()).min().unwrap_or(Duration::from_secs(60))
            };
            let _ = tokio::time::timeout(pause, changed).await;
        }
    }

    async fn exchange(&self, give: &Exchange) -> Result<Exchanged, ProviderError> {
        let ((now, wall), mut items, mut answer) = (self.now(), self.lock(), Exchanged::default());
        for settlement in &give.settle {
            match items.iter().position(|item| item.held.is_some_and(|(lease, _)| lease == settlement.lease))
            {
                None => answer.stale.push(settlement.lease),
                Some(at) if items[at].settle(settlement) => {}
                Some(at) => drop(items.remove(at)),
            }
        }
        let (mut room, mut bytes) = (give.room.clone(), 0);
        let offer = |item: &Item, room: &Room| item.offer(room, now, wall).filter(|_| !room.is_none());
        // A suspect goes out alone.
        let suspect = items.iter().position(|item| offer(item, &room).is_some_and(|record| record.suspect));
        for at in suspect.map_or(0..items.len(), |at| at..at + 1) {
            let item = &mut items[at];
            let Some(record) = offer(item, &room) else { continue };
            bytes += item.line.len() as u64;
            if bytes > room.bytes && !answer.leased.is_empty() {
                break;
            }
            room.jobs -= 1;
            room.types
                .iter_mut()
                .filter(|of| item.kind.as_deref() == Some(&*of.kind))
                .for_each(|of| of.jobs -= 1);
            let index = answer.leased.len() as u32;
            let lease = LeaseRef { token: give.token, index };
            item.record = Record { first: record.first.or(Some(FirstClaim { lease, at: wall })), ..record };
            item.held = Some((lease, now + give.lease));
            let entry = Entry::Raw(item.line.clone().into());
            answer.leased.push(Leased { index, entry, record: item.record.clone() });
        }
        self.1.notify_waiters();
        Ok(answer)
    }

    async fn renew(&self, beat: &Beat, held: &[LeaseRef]) -> Result<Vec<Hold>, ProviderError> {
        let until = self.now().0 + Duration::from_millis(beat.lease_millis);
        let mut holds = vec![Hold::Lost; held.len()];
        for item in self.lock().iter_mut() {
            let Some((lease, _)) = item.held else { continue };
            match held.iter().position(|named| *named == lease) {
                Some(at) => (holds[at], item.held) = (Hold::Held, Some((lease, until))),
                // Left out although its token is named: it is ready again.
                None if held.iter().any(|named| named.token == lease.token) => item.held = None,
                None => {}
            }
        }
        self.1.notify_waiters();
        Ok(holds)
    }

    async fn close(&self) -> Result<(), ProviderError> {
        Ok(())
    }
}
