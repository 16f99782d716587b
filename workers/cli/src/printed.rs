//! Where goes what a command prints.

use ganger_core::{JobContext, Output, Stream};

use crate::{
    command::Common,
    directives::{Directive, Directives, Said},
    keep::{KeepOutput, Kept},
};

/// What one run prints.
pub(crate) struct Printed<'a> {
    directives: Option<Directives>,
    to: To<'a>,
}

struct To<'a> {
    job: &'a JobContext,
    kept: Option<Kept>,
    result: Option<Vec<u8>>,
    content_type: Option<String>,
}

impl<'a> Printed<'a> {
    pub(crate) fn new(common: &Common, job: &'a JobContext) -> Self {
        if let Some(KeepOutput::Store) = common.config.keep_output {
            job.keep_output();
        }
        let kept = common.keep.as_ref().map(|keep| keep.files(job));
        let to = To { job, kept, result: None, content_type: None };
        Printed { directives: common.config.directives.then(Directives::new), to }
    }

    /// Takes a piece.
    pub(crate) fn take(&mut self, stream: Stream, bytes: &[u8]) {
        match (&mut self.directives, stream) {
            (Some(directives), Stream::Stdout) => directives.take(bytes, &mut |said| self.to.say(said)),
            _ => self.to.print(stream, bytes),
        }
    }

    /// What the job's output is, where a directive said so; else it is what was printed.
    pub(crate) fn end(mut self) -> Output {
        if let Some(directives) = &mut self.directives {
            directives.end(&mut |said| self.to.say(said));
        }
        let To { job, kept, result, content_type } = self.to;
        if let Some(fault) = kept.as_ref().and_then(Kept::fault) {
            tracing::warn!(job = %job.id(), "{fault}");
            job.note(fault);
        }
        match (result, content_type) {
            (Some(result), media) => {
                let media = media.unwrap_or_else(|| "application/json".to_owned());
                Output { content_type: Some(media), ..Output::new(result) }
            }
            (None, media) => {
                if let Some(media) = media {
                    job.content_type(media);
                }
                Output::default()
            }
        }
    }
}

impl To<'_> {
    fn print(&mut self, stream: Stream, bytes: &[u8]) {
        self.job.write_to(stream, bytes);
        if let Some(kept) = &mut self.kept {
            kept.write(stream, bytes);
        }
    }

    fn say(&mut self, said: Said<'_>) {
        match said {
            Said::Output(bytes) => self.print(Stream::Stdout, bytes),
            Said::Directive(Directive::Progress { percent, message }) => self.job.progress(percent, message),
            Said::Directive(Directive::Result(result)) => self.result = Some(result),
            Said::Directive(Directive::ContentType(media)) => self.content_type = Some(media),
        }
    }
}
