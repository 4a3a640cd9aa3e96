//! The asking end of the control socket: blocking, with a time limit on everything.
//!
//! Used by the command line and by the lab. Specification: docs/design.md, "Command line".

use super::{Code, Outcome, Request, Response};
use crate::duration;
use crate::status::{EventRecord, Status};
use crate::why::{Explanation, Question};
use serde::de::DeserializeOwned;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How much longer the client waits than the daemon gives itself, so that the daemon's own sentence arrives.
const GRACE: Duration = Duration::from_secs(2);

/// Why the daemon could not be asked, or what it refused.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no covey daemon answers at {}: is it running in this network namespace?", .0.display())]
    NotRunning(PathBuf),
    /// The socket is not for this user.
    #[error("{} is not open to this user: try as root", .0.display())]
    Denied(PathBuf),
    /// It listens but says nothing.
    #[error("the covey daemon did not answer within {}: is it stopped or starved?", duration::format(*.0))]
    Silent(Duration),
    /// It hung up, or the socket failed.
    #[error("the connection to the covey daemon broke off: {0}")]
    Broken(io::Error),
    /// The answer is not what this version knows.
    #[error(
        "the covey daemon answers what this program does not understand ({0}): are both of one version?"
    )]
    Strange(serde_json::Error),
    /// It answered no.
    #[error("{sentence}")]
    Refused {
        /// Its sentence.
        sentence: String,
        /// The same for programs.
        code: Code,
    },
}

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the daemon that listens at `path`.
    ///
    /// # Errors
    /// If nobody listens there, or this user may not ask.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning(path.to_owned())
            }
            io::ErrorKind::PermissionDenied => ClientError::Denied(path.to_owned()),
            _ => ClientError::Broken(error),
        })?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// How things are.
    ///
    /// # Errors
    /// If the daemon does not say.
    pub fn status(&mut self) -> Result<Status, ClientError> {
        self.ask(&Request::Status {})
    }

    /// The events with a number above `after`, oldest first. With `follow` it waits for one, but comes back with
    /// none after [`FOLLOW_TIME`](super::FOLLOW_TIME).
    ///
    /// # Errors
    /// If the daemon does not say.
    pub fn events(&mut self, after: u64, follow: bool) -> Result<Vec<EventRecord>, ClientError> {
        self.ask(&Request::Events { after, follow })
    }

    /// What a packet meets, and why.
    ///
    /// # Errors
    /// If the daemon does not say, or there is no such packet.
    pub fn why(&mut self, question: Question) -> Result<Explanation, ClientError> {
        self.ask(&Request::Why(question))
    }

    /// Gives a command, and returns what came of it: NLB's answer, which may be that it was not carried out.
    ///
    /// # Errors
    /// If the daemon does not take commands from this user, or says nothing.
    pub fn command(&mut self, command: &Request) -> Result<Outcome, ClientError> {
        self.ask(command)
    }

    fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, ClientError> {
        let limit = request.time_limit() + GRACE;
        let line = self
            .exchange(request, limit)
            .map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Silent(limit),
                _ => ClientError::Broken(error),
            })?;
        match serde_json::from_str(&line).map_err(ClientError::Strange)? {
            Response::Ok { ok } => serde_json::from_value(ok).map_err(ClientError::Strange),
            Response::Error { error, code } => Err(ClientError::Refused {
                sentence: error,
                code,
            }),
        }
    }

    fn exchange(&mut self, request: &Request, limit: Duration) -> io::Result<String> {
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        let socket = self.stream.get_mut();
        socket.set_write_timeout(Some(limit))?;
        socket.set_read_timeout(Some(limit))?;
        let sent = socket.write_all(line.as_bytes());
        let mut answer = String::new();
        // A daemon that has no place for this client says so and closes before it has read anything.
        if self.stream.read_line(&mut answer)? == 0 {
            sent?;
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it hung up; its log says why",
            ));
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// A daemon that answers one request with `answer`, or just hangs up.
    fn answering(name: &str, answer: Option<&'static str>) -> Result<Status, ClientError> {
        let path = std::env::temp_dir().join(format!("covey-client-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let daemon = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            stream.read_line(&mut line).unwrap();
            if let Some(answer) = answer {
                stream.get_mut().write_all(answer.as_bytes()).unwrap();
            }
            line
        });
        let result = Client::connect(&path).unwrap().status();
        assert_eq!(daemon.join().unwrap(), "{\"command\":\"status\"}\n");
        std::fs::remove_file(&path).unwrap();
        result
    }

    #[test]
    fn whatever_goes_wrong_is_said_in_a_sentence() {
        let refused = answering(
            "refused",
            Some("{\"error\":\"not today\",\"code\":\"denied\"}\n"),
        );
        assert!(
            matches!(&refused, Err(ClientError::Refused { code: Code::Denied, sentence }) if sentence == "not today"),
            "{refused:?}"
        );
        let strange = answering("strange", Some("{\"ok\":5}\n"));
        assert!(
            matches!(strange, Err(ClientError::Strange(_))),
            "{strange:?}"
        );
        let gone = answering("gone", None).unwrap_err();
        assert_eq!(
            gone.to_string(),
            "the connection to the covey daemon broke off: it hung up; its log says why"
        );
        let nobody = Client::connect(Path::new("/nonexistent/control.sock")).unwrap_err();
        assert_eq!(
            nobody.to_string(),
            "no covey daemon answers at /nonexistent/control.sock: is it running in this network namespace?"
        );
    }
}
