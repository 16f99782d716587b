//! Plays a scenario at a program, to see whether it speaks the protocol: what `ganger plugin test` does.
//!
//! Any program will do. One that has the types `ganger.echo` (its output is its params), `ganger.fail` (it fails as its
//! params say: `error`, `then`, `after_ms`) and `ganger.sleep` (`seconds`) is asked more; the clients' tests have them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ganger_core::{Advice, JobError, Output, StopReason, Worker, WorkerContext};
use serde_json::{Map, Value, json};

use crate::{
    child::{Child, Event},
    config::Config,
    message::{RECALL, Said, excerpt, json, write_cancel, write_ping},
    worker::{Entry, Process},
};

/// How long a program is given to begin a job that it was handed.
const BEGIN: Duration = Duration::from_millis(200);

/// What a scenario is played with.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The type of the jobs; by default the first that the program names.
    pub job_type: Option<String>,
    /// Params that the program should be able to do a job with.
    pub params: Option<Value>,
    /// How long each answer may take.
    pub patience: Duration,
}

/// What one step came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be, with what was seen.
    Ok(String),
    /// Not as it should be: why.
    NotOk(String),
    /// Not tried: why.
    Skipped(String),
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What the program should do.
    pub name: &'static str,
    /// What it did.
    pub verdict: Verdict,
}

/// Plays the scenario; `tell` is told of each step as it ends. Whether all is as it should be.
///
/// # Errors
/// It cannot be played at all: the watcher that ends programs with ganger cannot be started.
pub async fn play(
    scenario: &Scenario,
    context: &WorkerContext,
    mut tell: impl FnMut(Step),
) -> Result<bool, String> {
    let mut player = Player::new(scenario, context).await?;
    let mut all_ok = true;
    let mut told = |name, outcome: Result<Seen, String>| {
        let verdict = match outcome {
            Ok(Seen::This(seen)) => Verdict::Ok(seen),
            Ok(Seen::Nothing(why)) => Verdict::Skipped(why),
            Err(why) => {
                all_ok = false;
                Verdict::NotOk(why)
            }
        };
        let is_ok = !matches!(verdict, Verdict::NotOk(_));
        tell(Step { name, verdict });
        is_ok
    };
    if !told("says hello", player.start().await.map(Seen::This)) {
        return Ok(false);
    }
    for part in Part::ALL {
        let seen = player.play(part).await;
        told(part.name(), seen);
    }
    Ok(all_ok)
}

enum Seen {
    This(String),
    /// It was not tried.
    Nothing(String),
}

fn this(seen: impl Into<String>) -> Result<Seen, String> {
    Ok(Seen::This(seen.into()))
}

fn nothing(why: &str) -> Result<Seen, String> {
    Ok(Seen::Nothing(why.to_owned()))
}

#[derive(Clone, Copy)]
enum Part {
    Job,
    OddParams,
    Extras,
    Unknown,
    LaterVersion,
    Large,
    Echo,
    Fail,
    Pipeline,
    Ping,
    Recall,
    LateCancel,
    Sleep,
    End,
}

impl Part {
    const ALL: [Part; 14] = [
        Part::Job,
        Part::OddParams,
        Part::Extras,
        Part::Unknown,
        Part::LaterVersion,
        Part::Large,
        Part::Echo,
        Part::Fail,
        Part::Pipeline,
        Part::Ping,
        Part::Recall,
        Part::LateCancel,
        Part::Sleep,
        Part::End,
    ];

    fn name(self) -> &'static str {
        match self {
            Part::Job => "answers a job",
            Part::OddParams => "answers params of every kind",
            Part::Extras => "takes a job with all that it may have",
            Part::Unknown => "fails a job of a type that it does not do",
            Part::LaterVersion => "passes over keys and kinds of later versions",
            Part::Large => "takes a large job, in UTF-8",
            Part::Echo => "gives back what it was given",
            Part::Fail => "fails as it is told",
            Part::Pipeline => "answers jobs that come at once, in order",
            Part::Ping => "answers pings",
            Part::Recall => "gives back what it has not begun",
            Part::LateCancel => "is not disturbed by a cancel that comes too late",
            Part::Sleep => "hears while it works: ping, recall, cancel",
            Part::End => "exits when its input ends",
        }
    }
}

/// How a job was answered.
enum Answer {
    Done(Output),
    Failed(JobError),
}

impl Answer {
    fn words(&self) -> String {
        match self {
            Answer::Done(output) if output.is_empty() => "done".to_owned(),
            Answer::Done(output) => format!("done, with {} bytes", output.total()),
            Answer::Failed(error) => format!("failed: {}", excerpt(error.message().as_bytes())),
        }
    }
}

struct Player<'a> {
    scenario: &'a Scenario,
    entry: Arc<Entry>,
    child: Option<Child>,
    pongs: Vec<u64>,
    recalled: Option<u64>,
}

impl<'a> Player<'a> {
    async fn new(scenario: &'a Scenario, context: &WorkerContext) -> Result<Self, String> {
        let (command, params) = scenario.command.split_first().ok_or("there is no command to test")?;
        let config = json!({ "command": command, "params": params, "env_pass": ["*"] });
        let config: Config = serde_json::from_value(config).map_err(|error| error.to_string())?;
        let name = scenario.job_type.clone().unwrap_or_else(|| "test".to_owned());
        let context = WorkerContext { name, ..context.clone() };
        let entry = Process::share(config, &context).await.map_err(|error| error.to_string())?;
        Ok(Player { scenario, entry, child: None, pongs: Vec::new(), recalled: None })
    }

    async fn start(&mut self) -> Result<String, String> {
        let child = Child::start(&self.entry, 0, self.scenario.job_type.as_deref()).await?;
        let hello = &child.hello;
        let types = hello.types.as_ref().map_or("any type".to_owned(), |types| types.join(", "));
        let can = if hello.can.is_empty() { "nothing more".to_owned() } else { hello.can.join(", ") };
        let seen = format!("{types}; pipeline {}; can {can}", hello.pipeline());
        self.child = Some(child);
        Ok(seen)
    }

    /// Plays a part, with a new program where the last one failed.
    async fn play(&mut self, part: Part) -> Result<Seen, String> {
        if self.child.is_none() {
            self.start().await.map_err(|why| format!("a new one does not start: {why}"))?;
        }
        let seen = self.act(part).await;
        if let Some(mut child) = self.child.take_if(|_| seen.is_err()) {
            child.kill().await;
        }
        seen
    }

    async fn act(&mut self, part: Part) -> Result<Seen, String> {
        match part {
            Part::Job => self.job().await,
            Part::OddParams => self.odd_params().await,
            Part::Extras => self.extras().await,
            Part::Unknown => self.unknown().await,
            Part::LaterVersion => self.later_version().await,
            Part::Large => self.large().await,
            Part::Echo => self.echo().await,
            Part::Fail => self.fail().await,
            Part::Pipeline => self.pipeline().await,
            Part::Ping => self.ping().await,
            Part::Recall => self.recall().await,
            Part::LateCancel => self.late_cancel().await,
            Part::Sleep => self.sleep().await,
            Part::End => self.end().await,
        }
    }

    async fn job(&mut self) -> Result<Seen, String> {
        let params = self.scenario.params.clone();
        let number = self.hand_over(&self.job_type(), params.as_ref().unwrap_or(&json!({})), json!({}))?;
        match (self.answer(number).await?, params) {
            (Answer::Failed(error), Some(_)) => Err(format!("it failed: {}", error.message())),
            (answer, _) => this(answer.words()),
        }
    }

    async fn odd_params(&mut self) -> Result<Seen, String> {
        let (mut done, mut failed) = (0, 0);
        for params in odd_params() {
            let number = self.hand_over(&self.job_type(), &params, json!({}))?;
            let answer = self.answer(number).await.map_err(|why| format!("{}: {why}", shown(&params)))?;
            match answer {
                Answer::Done(_) => done += 1,
                Answer::Failed(_) => failed += 1,
            }
        }
        this(format!("{done} done, {failed} failed"))
    }

    async fn extras(&mut self) -> Result<Seen, String> {
        let more = json!({
            "name": "a \"name\"", "queue": "high", "timeout_ms": 60_000,
            "headers": {"traceparent": "00-4bf9-00f0-01", "x-ä": "ö"},
        });
        let params = self.scenario.params.clone().unwrap_or_else(|| json!({}));
        let number = self.hand_over(&self.job_type(), &params, more)?;
        this(self.answer(number).await?.words())
    }

    async fn unknown(&mut self) -> Result<Seen, String> {
        if self.child()?.hello.types.is_none() {
            return nothing("it does any type");
        }
        let number = self.hand_over("ganger.no-such-type", &json!({}), json!({}))?;
        match self.answer(number).await? {
            Answer::Done(_) => Err("it said `done`".to_owned()),
            Answer::Failed(error) => match error.advice() {
                Advice::Dead => this(excerpt(error.message().as_bytes())),
                _ => Err("it should fail it as `dead`: another run would find the same".to_owned()),
            },
        }
    }

    async fn later_version(&mut self) -> Result<Seen, String> {
        let child = self.child()?;
        json(&mut child.out, &json!({"kind": "weather", "job": "none", "sky": [1, {"blue": true}]}));
        child.out.push(b'\n');
        let number =
            self.hand_over(&self.job_type(), &json!({}), json!({"later": {"deep": [null]}, "other": 7}))?;
        this(self.answer(number).await?.words())
    }

    async fn large(&mut self) -> Result<Seen, String> {
        let text = "ä€😀\\\"\u{7f}".repeat(75_000);
        let kind = if self.does("ganger.echo") { "ganger.echo".to_owned() } else { self.job_type() };
        let number = self.hand_over(&kind, &json!({ "text": text }), json!({}))?;
        this(self.answer(number).await?.words())
    }

    async fn echo(&mut self) -> Result<Seen, String> {
        if !self.does("ganger.echo") {
            return nothing("it has no type `ganger.echo`");
        }
        for params in odd_params().filter(|params| !params.is_null()) {
            let number = self.hand_over("ganger.echo", &params, json!({}))?;
            let Answer::Done(output) = self.answer(number).await? else {
                return Err(format!("{}: it failed", shown(&params)));
            };
            let same = match &params {
                Value::String(text) => output.bytes == text.as_bytes(),
                _ => serde_json::from_slice::<Value>(&output.bytes).is_ok_and(|back| same(&back, &params)),
            };
            if !same {
                return Err(format!("{} came back as `{}`", shown(&params), excerpt(&output.bytes)));
            }
        }
        this("each as it was")
    }

    async fn fail(&mut self) -> Result<Seen, String> {
        if !self.does("ganger.fail") {
            return nothing("it has no type `ganger.fail`");
        }
        let cases = [
            (json!({"error": "plain"}), Advice::Retry),
            (
                json!({"error": "later", "then": "retry", "after_ms": 1500}),
                Advice::RetryAfter(Duration::from_millis(1500)),
            ),
            (json!({"error": "no use", "then": "discard"}), Advice::Discard),
            (json!({"error": "never", "then": "dead"}), Advice::Dead),
        ];
        for (params, advice) in cases {
            let number = self.hand_over("ganger.fail", &params, json!({}))?;
            match self.answer(number).await? {
                Answer::Done(_) => return Err(format!("{}: it said `done`", shown(&params))),
                Answer::Failed(error) => {
                    let words = params["error"].as_str().unwrap_or_default();
                    if error.advice() != advice || !error.message().contains(words) {
                        return Err(format!("{}: it said {error:?}", shown(&params)));
                    }
                }
            }
        }
        this("retry, retry later, discard, dead")
    }

    async fn pipeline(&mut self) -> Result<Seen, String> {
        let many = self.child()?.hello.pipeline();
        if many == 1 {
            return nothing("it takes one at a time");
        }
        let numbers = self.hand_over_many(many)?;
        for number in numbers {
            self.answer(number).await?;
        }
        this(format!("{many} of them"))
    }

    async fn ping(&mut self) -> Result<Seen, String> {
        if !self.child()?.hello.can("ping") {
            return nothing("it does not say that it can `ping`");
        }
        let ping = self.ping_now()?;
        self.until("answer to a ping", |player| player.pongs.contains(&ping)).await?;
        this("while it is idle")
    }

    async fn recall(&mut self) -> Result<Seen, String> {
        if !self.child()?.hello.can("recall") {
            return nothing("it does not say that it can `recall`");
        }
        let last = self.child()?.sent;
        if self.recall_now().await? != last + 1 {
            return Err(format!(
                "with nothing to give back, `from` must be {}, one more than the last job",
                last + 1
            ));
        }
        let many = self.child()?.hello.pipeline();
        let numbers = self.hand_over_many(many)?;
        let from = self.recall_and_answers(&numbers).await?;
        this(format!("{} of {}", numbers.iter().filter(|number| **number >= from).count(), numbers.len()))
    }

    async fn late_cancel(&mut self) -> Result<Seen, String> {
        if !self.child()?.hello.can("cancel") {
            return nothing("it does not say that it can `cancel`");
        }
        let child = self.child()?;
        let sent = child.sent;
        write_cancel(&mut child.out, sent, StopReason::Cancel, Duration::from_secs(5));
        let number = self.hand_over(&self.job_type(), &json!({}), json!({}))?;
        this(self.answer(number).await?.words())
    }

    async fn sleep(&mut self) -> Result<Seen, String> {
        if !self.does("ganger.sleep") {
            return nothing("it has no type `ganger.sleep`");
        }
        let (can_ping, can_recall, can_cancel) = {
            let hello = &self.child()?.hello;
            (hello.can("ping"), hello.can("recall") && hello.pipeline() > 1, hello.can("cancel"))
        };
        let seconds = if can_cancel { 3600.0 } else { 0.5 };
        let number = self.hand_over("ganger.sleep", &json!({ "seconds": seconds }), json!({}))?;
        self.child()?.flush().map_err(|fault| fault.words())?;
        // Nothing tells when it has begun.
        tokio::time::sleep(BEGIN).await;
        let behind =
            if can_recall { Some(self.hand_over(&self.job_type(), &json!({}), json!({}))?) } else { None };
        if can_ping {
            let ping = self.ping_now()?;
            self.until("answer to a ping", |player| player.pongs.contains(&ping)).await?;
        }
        if let Some(behind) = behind {
            let from = self.recall_now().await?;
            if from != behind && from != number {
                return Err(format!("behind job {number}, {behind} was not begun, but `from` was {from}"));
            }
            if from == number {
                return this("it had not begun");
            }
        }
        if can_cancel {
            let child = self.child()?;
            write_cancel(&mut child.out, number, StopReason::Cancel, Duration::from_secs(5));
        }
        this(self.answer(number).await?.words())
    }

    async fn end(&mut self) -> Result<Seen, String> {
        let Some(child) = self.child.take() else { return nothing("it has failed") };
        match child.close(self.scenario.patience).await {
            Some(ended) if ended.how == "exit status 0" => this(ended.how),
            Some(ended) => Err(format!("{}: it should be exit status 0", ended.how)),
            None => Err(format!("it had not, {:?} later", self.scenario.patience)),
        }
    }
}

impl Player<'_> {
    fn child(&mut self) -> Result<&mut Child, String> {
        self.child.as_mut().ok_or_else(|| "it has ended".to_owned())
    }

    fn does(&self, kind: &str) -> bool {
        let types = self.child.as_ref().and_then(|child| child.hello.types.as_ref());
        types.is_some_and(|types| types.iter().any(|name| name == kind))
    }

    fn job_type(&self) -> String {
        let own = || self.child.as_ref()?.hello.types.as_ref()?.first().cloned();
        self.scenario.job_type.clone().or_else(own).unwrap_or_else(|| self.entry.name.clone())
    }

    fn hand_over(&mut self, kind: &str, params: &Value, more: Value) -> Result<u64, String> {
        let child = self.child()?;
        child.sent += 1;
        let mut message = Map::new();
        for (key, value) in [("kind", json!("job")), ("job", child.sent.into())] {
            message.insert(key.to_owned(), value);
        }
        message.insert("id".to_owned(), format!("test-{}", child.sent).into());
        message.insert("type".to_owned(), kind.into());
        message.insert("attempt".to_owned(), 1.into());
        message.insert("params".to_owned(), params.clone());
        message.extend(more.as_object().cloned().unwrap_or_default());
        json(&mut child.out, &message);
        child.out.push(b'\n');
        Ok(child.sent)
    }

    fn hand_over_many(&mut self, many: usize) -> Result<Vec<u64>, String> {
        let (kind, params) = (self.job_type(), self.scenario.params.clone().unwrap_or_else(|| json!({})));
        (0..many).map(|_| self.hand_over(&kind, &params, json!({}))).collect()
    }

    fn ping_now(&mut self) -> Result<u64, String> {
        let child = self.child()?;
        child.pings += 1;
        let ping = child.pings;
        write_ping(&mut child.out, ping);
        Ok(ping)
    }

    async fn recall_now(&mut self) -> Result<u64, String> {
        self.recalled = None;
        self.child()?.out.extend_from_slice(RECALL);
        self.until("answer to a recall", |player| player.recalled.is_some()).await?;
        self.recalled.take().ok_or_else(|| "no answer to a recall".to_owned())
    }

    /// Recalls: what comes before the number that it names is answered first, and nothing else is.
    async fn recall_and_answers(&mut self, numbers: &[u64]) -> Result<u64, String> {
        self.recalled = None;
        self.child()?.out.extend_from_slice(RECALL);
        let mut answered = Vec::new();
        let until = Instant::now() + self.scenario.patience;
        loop {
            if let Some(from) = self.recalled {
                let begun = numbers.iter().filter(|number| **number < from);
                if answered.iter().any(|number| *number >= from) {
                    return Err(format!("it gave back {from} and later, and answered {answered:?}"));
                }
                if begun.clone().count() == answered.len() {
                    return Ok(from);
                }
            }
            if let Some((number, _)) = self.next(until, "answer to a recall").await? {
                answered.push(number);
            }
        }
    }

    /// Waits for the answer to a job, which must be the next.
    async fn answer(&mut self, number: u64) -> Result<Answer, String> {
        let until = Instant::now() + self.scenario.patience;
        loop {
            match self.next(until, &format!("answer to job {number}")).await? {
                Some((said, answer)) if said == number => return Ok(answer),
                Some((said, _)) => return Err(format!("it answered job {said} where {number} was next")),
                None => {}
            }
        }
    }

    /// Waits for what is no answer to a job.
    async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) -> Result<(), String> {
        let until = Instant::now() + self.scenario.patience;
        while !holds(self) {
            if let Some((number, _)) = self.next(until, what).await? {
                return Err(format!("it answered job {number}, and that was not asked"));
            }
        }
        Ok(())
    }

    /// Takes in one line; the answer to a job, if it is one.
    async fn next(&mut self, until: Instant, what: &str) -> Result<Option<(u64, Answer)>, String> {
        let patience = self.scenario.patience;
        let child = self.child()?;
        loop {
            child.flush().map_err(|fault| fault.words())?;
            if let Some(line) = child.line().map_err(|fault| fault.words())? {
                let line = child.lines.get(line);
                let said =
                    Said::read(line).map_err(|why| format!("`{}` is no message: {why}", excerpt(line)))?;
                return match said {
                    Said::Done { job, given, .. } => Ok(Some((job, Answer::Done(given.take()?)))),
                    Said::Fail { job, error } => Ok(Some((job, Answer::Failed(error)))),
                    Said::Pong { ping } => {
                        self.pongs.push(ping);
                        Ok(None)
                    }
                    Said::Recalled { from } => {
                        self.recalled = Some(from);
                        Ok(None)
                    }
                    Said::Hello => Err("it says hello again".to_owned()),
                    Said::Progress { .. } | Said::Log { .. } | Said::Output { .. } | Said::Unknown => {
                        Ok(None)
                    }
                };
            }
            if child.over {
                let fault = child.why_over().await;
                let tail = String::from_utf8_lossy(&child.warden.tail()).into_owned();
                let last = tail.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
                let last = if last.is_empty() { String::new() } else { format!("; its last words: {last}") };
                return Err(format!("{}{last}", fault.words()));
            }
            // One that talks without end is no answer either.
            let _: Event<()> = child.wait(std::future::pending(), Some(until)).await;
            if Instant::now() >= until {
                return Err(format!("no {what} within {patience:?}"));
            }
        }
    }
}

/// Params that a program may not have thought of.
fn odd_params() -> impl Iterator<Item = Value> {
    let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
    let wide: Vec<u32> = (0..10_000).collect();
    [
        json!(null),
        json!({}),
        json!([]),
        json!([1, "two", null]),
        json!("a text"),
        json!(""),
        json!(7),
        json!(-1.5e300),
        json!(true),
        json!(false),
        json!(9_007_199_254_740_991_i64),
        json!({"": {"": []}, "ключ": "значение", "self": 1, "class": 2, "__proto__": {"x": 1}}),
        json!({"text": "\u{0}\u{1f}\u{7f}\u{2028}\u{2029}\u{feff}\u{1F600}\\\"/", "lines": "a\nb\r\nc"}),
        json!({"kind": "job", "job": 1}),
        json!({ "deep": deep }),
        json!({ "wide": wide }),
    ]
    .into_iter()
}

/// Whether two values are the same; numbers by their size, since `1` and `1.0` are one.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

fn shown(params: &Value) -> String {
    format!("params `{}`", excerpt(params.to_string().as_bytes()))
}
