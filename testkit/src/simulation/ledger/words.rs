//! What happened, in words.

use super::MAIN;
use ganger_core::{Entry, Exchange, Exchanged, Hold, LeaseRef, Leased, Verdict};

/// A manager, or a lease, shortly.
pub(super) fn member(incarnation: u64) -> String {
    format!("{:04x}", incarnation & 0xffff)
}

pub(super) fn lease(lease: &LeaseRef) -> String {
    format!("{}-{}/{}", member(lease.token.incarnation), lease.token.seq, lease.index)
}

/// Where, if it is not the main store.
fn at(store: u8) -> &'static str {
    if store == MAIN { "" } else { " at the second store" }
}

pub(super) fn exchange(store: u8, give: &Exchange, answer: &Exchanged) -> String {
    let room = &give.room;
    let (who, seq) = (member(give.token.incarnation), give.token.seq);
    let mut line = format!("exchange {who}-{seq}{}", at(store));
    if !give.settle.is_empty() {
        let settle: Vec<String> = give
            .settle
            .iter()
            .map(|one| format!("{} {}", lease(&one.lease), verdict(&one.verdict)))
            .collect();
        line += &format!(" settles {}", settle.join(", "));
    }
    if !answer.stale.is_empty() {
        line += &format!(" (stale: {})", answer.stale.iter().map(lease).collect::<Vec<_>>().join(", "));
    }
    if !room.is_none() {
        let types: Vec<String> = room.types.iter().map(|of| format!("{} {}", of.jobs, of.kind)).collect();
        line += &format!(" asks for {}", types.join(", "));
        line += if room.suspect { " or a suspect" } else { "" };
        line += if room.crashed { " that crashed" } else { "" };
    }
    let leased: Vec<String> = answer.leased.iter().map(self::leased).collect();
    line += &match leased.is_empty() {
        true => " gets nothing".to_owned(),
        false => format!(" gets {}", leased.join(", ")),
    };
    line + if answer.more { " and there is more" } else { "" }
}

fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Done => "done".into(),
        Verdict::Retry { at } => format!("retry at {at}"),
        Verdict::Dead { reason } => format!("dead ({reason})"),
        Verdict::Release => "released".into(),
        Verdict::Park { until: None } => "parked".into(),
        Verdict::Park { until: Some(at) } => format!("parked until {at}"),
        Verdict::Cancelled => "cancelled".into(),
        Verdict::Duplicate { of } => format!("cancelled as a duplicate of {of}"),
        Verdict::Expired => "expired".into(),
    }
}

fn leased(leased: &Leased) -> String {
    let what = match &leased.entry {
        Entry::Job(job) => job.id.as_ref().map(ToString::to_string).unwrap_or_default(),
        Entry::Raw(bytes) => String::from_utf8_lossy(bytes).chars().take(40).collect(),
        Entry::Malformed(error) => error.message.clone(),
    };
    let mut line = format!("{}: {what}", leased.index);
    if leased.record.suspect {
        line += " (suspect)";
    }
    if leased.record.crashes > 0 {
        line += &format!(" (crashed {} times)", leased.record.crashes);
    }
    line
}

pub(super) fn renewal(store: u8, incarnation: u64, held: &[LeaseRef], holds: &[Hold]) -> String {
    let each: Vec<String> = held
        .iter()
        .zip(holds)
        .map(|(one, hold)| {
            let how = match hold {
                Hold::Held => "",
                Hold::Cancel => " (to be cancelled)",
                Hold::Lost => " (lost)",
            };
            format!("{}{how}", lease(one))
        })
        .collect();
    format!("renew {}{} {}", member(incarnation), at(store), each.join(", "))
}
