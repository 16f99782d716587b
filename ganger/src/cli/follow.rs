//! `ganger job logs -f`: a job's output while it runs, by the events that a running ganger tells at `stats_port`.

use std::{io, time::Duration};

use anstream::eprintln;
use base64::{Engine, engine::general_purpose::STANDARD};
use ganger_core::{JobId, State, Stream, cut_note};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Take},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::config::StatsConfig;

use super::{
    failure::{Exit, Failure},
    out::{Out, one_line},
};

/// An id in a path: `/` stays, since the rest of the path is the id.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// How long a connection and an answer's head may take.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// With no word for so long, not even that there is nothing to tell, the other side is gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// How long a ganger that went away is looked for again.
const AGAIN_MAX: Duration = Duration::from_secs(10);

/// How long between two looks.
const AGAIN: Duration = Duration::from_millis(500);

/// The longest line of an event: a piece of output, each byte of which may be six in JSON.
const LINE_MAX: u64 = 1 << 20;

/// Why there is nothing to follow.
pub(super) enum Apart {
    /// No ganger answers there.
    Nobody(String),
    /// The one that answers does not know the job.
    Unknown(String),
}

/// Follows a job to its end. `Err(Ok(_))` where there is nothing to follow.
pub(super) async fn follow(
    stats: &StatsConfig,
    id: &JobId,
    how: How,
    out: &mut Out,
) -> Result<Result<Exit, Apart>, Failure> {
    let Some(listen) = &stats.listen else {
        return Err(Failure::usage("the config says `stats_port = \"off\"`: nothing can be followed").help(
            "name a `stats_port`, or see the output at the job's end: `ganger job wait ID; ganger job logs ID`",
        ));
    };
    let address = reachable(listen)?;
    let complaints = Out::stderr();
    let mut story = Story { id, how, place: None, began: false, open: [false; 2], out, complaints };
    let mut since: Option<Instant> = None;
    loop {
        let opened =
            match timeout(ANSWER_MAX, EventStream::open(&address, stats, id, story.place.as_deref())).await {
                Ok(opened) => opened,
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            };
        match opened {
            Ok(Opened::Stream(stream)) => {
                if let Some(exit) = story.tell(stream).await? {
                    return Ok(Ok(exit));
                }
                since = Some(Instant::now());
            }
            Ok(Opened::Refused(404, _)) => return Ok(Err(Apart::Unknown(address))),
            Ok(Opened::Refused(status, why)) => return Err(refused(&address, status, &why)),
            Err(error) if since.is_none_or(|since| since.elapsed() > AGAIN_MAX) => {
                story.close_lines()?;
                tracing::debug!(%address, %error, "no answer");
                return Ok(Err(Apart::Nobody(address)));
            }
            Err(_) => {}
        }
        sleep(AGAIN).await;
    }
}

/// How it is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    /// Each event as a line of JSON.
    pub(super) json: bool,
    /// The bytes as they are, on a terminal too.
    pub(super) raw: bool,
}

/// Where a listener is reached from this machine.
fn reachable(listen: &str) -> Result<String, Failure> {
    let (host, port) = listen.rsplit_once(':').unwrap_or((listen, ""));
    if port == "0" {
        return Err(Failure::usage("the config's `stats_port` is any free port: nobody knows which")
            .help("name one, as `stats_port = \"127.0.0.1:9090\"`"));
    }
    let host = match host {
        "0.0.0.0" => "127.0.0.1",
        "[::]" => "[::1]",
        host => host,
    };
    Ok(format!("{host}:{port}"))
}

fn refused(address: &str, status: u16, why: &str) -> Failure {
    let exit = if status == 503 { Exit::Unreachable } else { Exit::Refused };
    Failure::new(exit, format!("the ganger at {address} answers {status}: {}", one_line(why)))
}

enum Opened {
    Stream(EventStream),
    Refused(u16, String),
}

/// The events of a job, as they come.
struct EventStream(BufReader<TcpStream>);

impl EventStream {
    async fn open(address: &str, stats: &StatsConfig, id: &JobId, place: Option<&str>) -> io::Result<Opened> {
        let mut stream = BufReader::new(TcpStream::connect(address).await?);
        let id = id.to_string();
        let mut request = format!(
            "GET /jobs/{}/events HTTP/1.0\r\nHost: localhost\r\nAccept: text/event-stream\r\n",
            utf8_percent_encode(&id, PATH)
        );
        if let Some(token) = &stats.token {
            request.push_str(&format!("Authorization: Bearer {}\r\n", token.reveal()));
        }
        if let Some(place) = place {
            request.push_str(&format!("Last-Event-ID: {place}\r\n"));
        }
        stream.write_all((request + "\r\n").as_bytes()).await?;
        let status = line(&mut stream).await?.unwrap_or_default();
        let status = status.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| io::Error::other("it does not speak HTTP"))?;
        while line(&mut stream).await?.is_some_and(|line| !line.is_empty()) {}
        if status == 200 {
            return Ok(Opened::Stream(EventStream(stream)));
        }
        let mut why = String::new();
        // Whatever it says of itself is a courtesy.
        let _ = Take::read_to_string(&mut stream.take(LINE_MAX), &mut why).await;
        Ok(Opened::Refused(status, why))
    }

    /// The next event; `None` when no more come.
    async fn next(&mut self) -> Option<Event> {
        let mut event = Event::default();
        loop {
            let line = timeout(SILENCE_MAX, line(&mut self.0)).await.ok()?.ok()??;
            match line.split_once(": ") {
                Some(("event", name)) => event.name = name.to_owned(),
                Some(("id", place)) => event.place = Some(place.to_owned()),
                Some(("data", data)) => event.data = serde_json::from_str(data).unwrap_or_default(),
                _ if line.is_empty() && !event.name.is_empty() => return Some(event),
                _ => {}
            }
        }
    }
}

/// A line without its end; `None` at the end of all.
async fn line(stream: &mut BufReader<TcpStream>) -> io::Result<Option<String>> {
    let mut text = String::new();
    let read = (&mut *stream).take(LINE_MAX).read_line(&mut text).await?;
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    Ok((read > 0).then_some(text))
}

#[derive(Default)]
struct Event {
    name: String,
    place: Option<String>,
    data: Value,
}

impl Event {
    fn text(&self, key: &str) -> &str {
        self.data[key].as_str().unwrap_or_default()
    }

    fn stream(&self) -> Stream {
        if self.text("stream") == Stream::Stderr.as_str() { Stream::Stderr } else { Stream::Stdout }
    }
}

/// What is told of a job.
struct Story<'a> {
    id: &'a JobId,
    how: How,
    /// Up to here its output has been seen.
    place: Option<String>,
    /// It has been said how it stands.
    began: bool,
    /// Of each stream: what was printed last had no end of line.
    open: [bool; 2],
    out: &'a mut Out,
    /// Where goes what it wrote to a standard error that is kept apart.
    complaints: Out,
}

impl Story<'_> {
    /// Tells what comes; the exit at the job's end, `None` if the stream broke off before.
    async fn tell(&mut self, mut stream: EventStream) -> Result<Option<Exit>, Failure> {
        while let Some(event) = stream.next().await {
            if event.place.is_some() {
                self.place.clone_from(&event.place);
            }
            if self.how.json {
                let mut line = json!({ "event": event.name });
                if let (Some(line), Value::Object(data)) = (line.as_object_mut(), event.data.clone()) {
                    line.extend(data);
                }
                self.out.json(&line)?;
            } else {
                self.show(&event)?;
            }
            self.out.flush()?;
            self.complaints.flush()?;
            if event.name == "end" {
                let done = event.text("state") == State::Done.as_str();
                return Ok(Some(if done { Exit::Ok } else { Exit::No }));
            }
        }
        Ok(None)
    }

    fn show(&mut self, event: &Event) -> Result<(), Failure> {
        match event.name.as_str() {
            "output" => {
                let bytes = match event.data.get("base64").and_then(Value::as_str) {
                    Some(text) => STANDARD.decode(text).unwrap_or_default(),
                    None => event.text("text").as_bytes().to_vec(),
                };
                self.print(event.stream(), &bytes)
            }
            "missed" => match event.data["bytes"].as_u64().unwrap_or_default() {
                0 => Ok(()),
                cut if self.how.raw => self.note(&format!("{cut} bytes are missing here")),
                cut => self.print(event.stream(), cut_note(cut).as_bytes()),
            },
            "progress" => {
                let (percent, message) = (&event.data["percent"], one_line(event.text("message")));
                self.note(&format!("{percent} % {message}"))
            }
            "state" => self.show_state(event),
            _ => self.show_end(event),
        }
    }

    fn show_state(&mut self, event: &Event) -> Result<(), Failure> {
        let (state, first) = (event.text("state"), !std::mem::replace(&mut self.began, true));
        let again = event.data["attempt"].as_u64().filter(|attempt| *attempt > 1);
        match (state, again) {
            ("running", Some(attempt)) => self.note(&format!("run {attempt} of job {}", self.id)),
            ("running", None) => Ok(()),
            (_, _) if first => self.note(&format!("job {} is {state}: waiting until it runs", self.id)),
            ("scheduled" | "ready", _) => match one_line(event.text("error")).as_str() {
                "" => self.note("the run was handed back: the job runs again"),
                error => self.note(&format!("the run failed, it is tried again: {error}")),
            },
            _ => Ok(()),
        }
    }

    fn show_end(&mut self, event: &Event) -> Result<(), Failure> {
        self.close_lines()?;
        if event.text("state") == State::Done.as_str() {
            return Ok(());
        }
        let error = Some(one_line(event.text("error"))).filter(|error| !error.is_empty());
        let error = error.map(|error| format!(": {error}")).unwrap_or_default();
        self.note(&format!("job {} is {}{error}", self.id, event.text("state")))
    }

    fn print(&mut self, stream: Stream, bytes: &[u8]) -> Result<(), Failure> {
        let open = &mut self.open[stream as usize];
        *open = bytes.last().map_or(*open, |last| *last != b'\n');
        match stream {
            Stream::Stdout => self.out.piece(bytes, self.how.raw),
            Stream::Stderr => self.complaints.piece(bytes, self.how.raw),
        }
    }

    /// Says something on standard error.
    fn note(&mut self, text: &str) -> Result<(), Failure> {
        self.close_lines()?;
        self.out.flush()?;
        self.complaints.flush()?;
        eprintln!("{text}");
        Ok(())
    }

    /// On a terminal, what comes next begins a line of its own.
    fn close_lines(&mut self) -> Result<(), Failure> {
        let open = std::mem::take(&mut self.open);
        for (out, open) in [&mut *self.out, &mut self.complaints].into_iter().zip(open) {
            if open && out.is_terminal {
                out.piece(b"\n", true)?;
            }
        }
        Ok(())
    }
}
