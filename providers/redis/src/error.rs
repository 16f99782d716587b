//! What Redis's errors mean to a manager.

use ganger_core::{ProviderError, Severity};
use redis::{ErrorKind, RedisError, ServerErrorKind};

/// Why a call has no answer.
#[derive(Debug)]
pub(crate) enum CallError {
    /// Redis, or the way to it, says no.
    Redis(RedisError),
    /// Nothing came in time: whether it was carried out is unknown.
    Late,
    /// A connection with TLS was not made in time.
    Silent,
    /// Only so many replicas have what was written.
    TooFewReplicas(i64),
    /// It is not on the server's disk yet.
    NotSynced,
    /// The answer is none that ganger's scripts give.
    Strange(&'static str),
    /// The file that jobs are moved to cannot be read.
    Disk(ProviderError),
    /// The provider is closed.
    Closed,
}

impl From<ProviderError> for CallError {
    fn from(error: ProviderError) -> Self {
        CallError::Disk(error)
    }
}

impl From<RedisError> for CallError {
    fn from(error: RedisError) -> Self {
        CallError::Redis(error)
    }
}

impl CallError {
    /// Whether the connection is of no more use.
    pub(crate) fn is_of_connection(&self) -> bool {
        match self {
            CallError::Redis(error) => {
                error.is_io_error()
                    || error.is_connection_dropped()
                    || error.is_timeout()
                    || error.is_unrecoverable_error()
                    // A server that became a replica: its name may lead to the new master.
                    || self.code() == Some("READONLY")
            }
            CallError::Late | CallError::Silent => true,
            CallError::TooFewReplicas(_)
            | CallError::NotSynced
            | CallError::Strange(_)
            | CallError::Disk(_)
            | CallError::Closed => false,
        }
    }

    /// Whether the same call again, under the same token, may find an answer at once.
    pub(crate) fn is_unknown_outcome(&self) -> bool {
        self.is_of_connection()
    }

    pub(crate) fn is_no_script(&self) -> bool {
        matches!(self, CallError::Redis(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript))
    }

    /// Whether Redis is over its memory limit, so that nothing was stored.
    pub(crate) fn is_out_of_memory(&self) -> bool {
        self.code() == Some("OOM")
    }

    fn code(&self) -> Option<&str> {
        let CallError::Redis(error) = self else { return None };
        error.detail().and_then(code_in_script).or(error.code())
    }

    /// Why, in words, where it is not Redis that says so; all of it may pass.
    fn of_ours(&self) -> Option<String> {
        Some(match self {
            CallError::Late => "no answer in time".to_owned(),
            CallError::Silent => {
                "no TLS connection in time: a port that speaks no TLS stays silent (`redis://` in place of `rediss://` \
                 is plain), and so does one that is out of reach"
                    .to_owned()
            }
            CallError::Closed => "the provider is closed".to_owned(),
            CallError::TooFewReplicas(have) => format!(
                "it is stored, but {have} replicas have it only, fewer than the option `replicas` asks for"
            ),
            CallError::NotSynced => "it is stored, but not on the server's disk yet".to_owned(),
            CallError::Strange(why) => format!("an answer that ganger does not know: {why}"),
            CallError::Disk(_) | CallError::Redis(_) => return None,
        })
    }

    /// The same for the manager: what failed, on what, why, and whether trying again can help.
    pub(crate) fn at(self, server: &str, doing: &str) -> ProviderError {
        let what = format!("redis at {server}: {doing}");
        if let Some(why) = self.of_ours() {
            return ProviderError::transient(format!("{what}: {why}"));
        }
        if let CallError::Disk(error) = &self {
            let message = format!("{what}: what is on disk: {error}");
            return match error.severity() {
                Severity::Transient => ProviderError::transient(message),
                Severity::Fatal => ProviderError::fatal(message),
            };
        }
        if let Some("GANGERFORMAT") = self.code() {
            let CallError::Redis(error) = self else { return ProviderError::transient(what) };
            return ProviderError::refused(format!(
                "{what}: the jobs there are of format {}, which this version of ganger cannot read: use a newer one",
                error.detail().unwrap_or("?")
            ));
        }
        let hint = match self.code() {
            Some("NOAUTH") => "; give the user and password in `url`",
            Some("WRONGPASS") => "; the user or password in `url` is wrong",
            Some("NOPERM") => "; the user needs the commands that the provider's page lists",
            Some("WRONGTYPE") => "; `job_list` must name a list, or nothing yet",
            Some("LOADING") => "; it reads its data set, and will answer when it is done",
            Some("BUSY") => "; a script of another program holds it",
            Some("READONLY") => "; it is a replica, and jobs need the master",
            Some("MISCONF") => "; it cannot save its data set and so takes no writes: look at its log",
            Some("OOM") => "; it is over its `maxmemory`",
            _ => "",
        };
        let is_of_config = matches!(self.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM" | "WRONGTYPE"));
        let CallError::Redis(error) = self else { return ProviderError::transient(what) };
        let (advice, is_for_good) = of_connecting(&error);
        let fatal = is_of_config || error.kind() == ErrorKind::InvalidClientConfig || is_for_good;
        // The library's words may hold the address, never the password.
        let message = format!("{what}: {error}{hint}{advice}");
        if fatal { ProviderError::fatal(message) } else { ProviderError::transient(message) }
    }
}

/// The code of the error in a script, where the server wraps it into one of its own, as Redis 6.2 does:
/// `Error running script (call to f_…): @user_script:8: WRONGTYPE …`; some come with the place twice and a `-` before.
fn code_in_script(detail: &str) -> Option<&str> {
    let (_, mut rest) = detail.strip_prefix("Error running script")?.split_once("): ")?;
    while let Some(place) = rest.strip_prefix("@user_script:") {
        rest = place.split_once(": ")?.1;
    }
    let code = rest.trim_start_matches('-').split(' ').next()?;
    (code.len() > 1 && code.bytes().all(|byte| byte.is_ascii_uppercase())).then_some(code)
}

/// What to do about a connection that cannot be made, and whether trying again is of no use.
fn of_connecting(error: &RedisError) -> (&'static str, bool) {
    if error.kind() == ErrorKind::AuthenticationFailed {
        return ("; the user or password in `url` is wrong", true);
    }
    let said = error.to_string();
    if said.contains("invalid peer certificate") {
        let passes =
            said.contains("xpired") || said.contains("NotValidYet") || said.contains("not valid yet");
        return ("; an authority of your own is named by `ca_file`", !passes);
    }
    if said.contains("CertificateRequired") {
        return ("; it asks for a certificate: give `cert_file` and `key_file`", true);
    }
    // The last is what an authority that was made anew, under its old name, says.
    let unknown = ["UnknownCA", "BadCertificate", "DecryptError"];
    if unknown.iter().any(|alert| said.contains(&format!("fatal alert: {alert}"))) {
        return ("; it does not accept the certificate of `cert_file`", true);
    }
    ("", false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_in_a_script_has_its_own_code() {
        let wrapped = |inner: &str| format!("Error running script (call to f_8f6a): {inner}");
        for (inner, code) in [
            ("@user_script:833: WRONGTYPE Operation against a key", Some("WRONGTYPE")),
            ("@user_script:7: @user_script: 7: -READONLY You can't write", Some("READONLY")),
            ("@user_script: 7: -OOM command not allowed", Some("OOM")),
            ("@user_script:9: Wrong number of args", None),
            ("@user_script:9", None),
        ] {
            assert_eq!(code_in_script(&wrapped(inner)), code, "{inner}");
        }
        assert_eq!(code_in_script("READONLY You can't write"), None);
    }
}
