//! The figures as GoWorker spelled them.

use std::collections::BTreeMap;

use ganger_core::{Figures, Report};
use serde_json::{Map, Value, json};

/// The figures as JSON: GoWorker's keys with true figures, and more. `keys` are the keys of providers by their
/// names.
pub fn stats_json(report: &Report, keys: &[(String, String)]) -> Value {
    let providers = renamed(&report.by_provider, keys);
    let rates = renamed(&report.rate_by_provider, keys);
    let total = sum(report.by_type.values());
    let uptime = report.uptime.as_secs_f64();
    let average = |figures: &Figures| json!(per(figures.runs as f64, uptime));
    let duration = |figures: &Figures| json!(mean(figures));
    json!({
        "uptime": report.uptime.as_secs(),
        "job_per_second_cumulative": report.rate_by_type.values().fold(0.0, |sum, rate| sum + rate),
        "job_per_second_by_type": &report.rate_by_type,
        "job_persecond_by_provider": rates,
        "total_job": total.runs,
        "total_job_by_type": each(&report.by_type, |figures| json!(figures.runs)),
        "total_job_by_provider": each(&providers, |figures| json!(figures.runs)),
        "total_average": per(total.runs as f64, uptime),
        "total_average_by_type": each(&report.by_type, average),
        "total_average_by_provider": each(&providers, average),
        "channel_stats": channels(report),
        "average_duration_by_type": each(&report.by_type, duration),
        "average_duration_by_provider": each(&providers, duration),
        "average_duration": mean(&total),
        "total_duration_by_type": each(&report.by_type, |figures| json!(figures.nanos)),
        "total_duration_by_provider": each(&providers, |figures| json!(figures.nanos)),
        "cpu_us_by_type": each(&report.by_type, |figures| json!(figures.cpu_us)),
        "max_rss_kib_by_type": each(&report.by_type, |figures| json!(figures.max_rss_kib)),
        "done": total.done,
        "failed": total.failed,
        "dead": total.dead,
        "cancelled": total.cancelled,
        "expired": total.expired,
        "lost": total.lost,
        "by_type": &report.by_type,
        "by_provider": providers,
        "stale": report.stale,
        "abandoned": report.abandoned,
    })
}

fn channels(report: &Report) -> Value {
    let slots: u64 = report.pools.values().map(|pool| u64::from(pool.slots)).sum();
    let queued: u64 = report.pools.values().map(|pool| u64::from(pool.queued)).sum();
    let mut channels = Map::new();
    channels.insert("job_channel".to_owned(), json!({ "capasity": slots, "queue": queued }));
    for (name, pool) in &report.pools {
        channels.insert(format!("worker_{name}"), json!({ "capasity": pool.slots, "queue": pool.busy }));
    }
    Value::Object(channels)
}

fn each(figures: &BTreeMap<String, Figures>, figure: impl Fn(&Figures) -> Value) -> Value {
    Value::Object(figures.iter().map(|(name, figures)| (name.clone(), figure(figures))).collect())
}

fn renamed<T: Clone>(figures: &BTreeMap<String, T>, keys: &[(String, String)]) -> BTreeMap<String, T> {
    let key =
        |name: &String| keys.iter().find(|(known, _)| known == name).map_or(name, |(_, key)| key).clone();
    figures.iter().map(|(name, value)| (key(name), value.clone())).collect()
}

fn sum<'a>(figures: impl Iterator<Item = &'a Figures>) -> Figures {
    figures.fold(Figures::default(), |sum, figures| Figures {
        runs: sum.runs + figures.runs,
        done: sum.done + figures.done,
        failed: sum.failed + figures.failed,
        dead: sum.dead + figures.dead,
        cancelled: sum.cancelled + figures.cancelled,
        expired: sum.expired + figures.expired,
        lost: sum.lost + figures.lost,
        nanos: sum.nanos.saturating_add(figures.nanos),
        ..sum
    })
}

/// A rate; 0 where nothing has passed yet, as there is no division by it.
fn per(count: f64, seconds: f64) -> f64 {
    if seconds > 0.0 { count / seconds } else { 0.0 }
}

/// Nanoseconds a run; 0 before the first.
fn mean(figures: &Figures) -> u64 {
    figures.nanos.checked_div(figures.runs).unwrap_or(0)
}
