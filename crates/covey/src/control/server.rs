//! The answering end of the control socket.
//!
//! The daemon binds it, spawns [`Server::serve`] and drains the channel of [`Call`]s in its loop; what it sends
//! into a call's oneshot is the answer. Nothing a client does reaches further than its own task: at most
//! [`MAX_CLIENTS`] of them, each with one line of at most [`MAX_REQUEST`] bytes and a time limit on reading,
//! answering and writing. Everybody whom the file's mode lets in may ask for reports; commands are for root and
//! for the user that the daemon runs as. Specification: docs/design.md, "Command line".

use super::{Code, MAX_REQUEST, Request, Response};
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;

/// Connections at a time; further ones are told so and closed.
pub const MAX_CLIENTS: usize = 32;
/// Of these, for those who may command, so that nobody else can keep them out.
const RESERVED: usize = 8;
/// How long a client may take to send a request, from connecting or from the last answer.
const READ_TIME: Duration = Duration::from_secs(10);
/// How long it may take to receive the answer.
const WRITE_TIME: Duration = Duration::from_secs(5);

/// One request, and where its answer goes.
pub type Call = (Request, oneshot::Sender<Response>);

/// Why the daemon cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another daemon is there.
    #[error("a covey daemon already answers at {}: there can be one in each network namespace", .0.display())]
    InUse(PathBuf),
    /// Something else has the name.
    #[error("{} is there and is no socket: move it away", .0.display())]
    NotASocket(PathBuf),
    /// It could not be made.
    #[error("cannot listen at {}: {error}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

/// A control socket that listens. The file goes with it.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    /// The user that may command besides root.
    owner: u32,
}

impl Server {
    /// Listens at `path`, creating its directory and taking the place of a socket on which nobody answers.
    /// Must be called in a tokio runtime.
    ///
    /// # Errors
    /// If another daemon answers there, or the file cannot be made.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let failed = |error| BindError::Io {
            path: path.to_owned(),
            error,
        };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(failed)?;
        }
        remove_stale(path)?;
        let listener = UnixListener::bind(path).map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(failed)?;
        let owner = fs::metadata(path).map_err(failed)?.uid();
        Ok(Self {
            listener,
            path: path.to_owned(),
            owner,
        })
    }

    /// Accepts clients and hands their requests to `calls`, until the other end of `calls` is closed.
    pub async fn serve(self, calls: mpsc::Sender<Call>) {
        let places = Places::new();
        loop {
            let stream = tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        // Out of descriptors, most likely: those in use come free as clients time out.
                        tracing::warn!("the control socket cannot accept a client: {error}");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
                () = calls.closed() => return,
            };
            let may_command = match stream.peer_cred() {
                Ok(peer) => peer.uid() == 0 || peer.uid() == self.owner,
                Err(_) => false,
            };
            let place = places.take(may_command);
            let mut client = Connection {
                stream: BufReader::with_capacity(MAX_REQUEST, stream),
                may_command,
                calls: calls.clone(),
            };
            match place {
                Some(place) => {
                    tokio::spawn(async move {
                        client.converse().await;
                        drop(place);
                    });
                }
                None => client.turn_away(),
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // If it is gone already, somebody has done this work.
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes the socket that a daemon left that died. One that answers is another daemon's.
fn remove_stale(path: &Path) -> Result<(), BindError> {
    let failed = |error| BindError::Io {
        path: path.to_owned(),
        error,
    };
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if !found.file_type().is_socket() {
        return Err(BindError::NotASocket(path.to_owned()));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(BindError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

/// The places for clients that are still free.
struct Places {
    everybody: Arc<Semaphore>,
    commanders: Arc<Semaphore>,
}

impl Places {
    fn new() -> Self {
        Self {
            everybody: Arc::new(Semaphore::new(MAX_CLIENTS - RESERVED)),
            commanders: Arc::new(Semaphore::new(RESERVED)),
        }
    }

    /// A place, held until the permit is dropped.
    fn take(&self, may_command: bool) -> Option<OwnedSemaphorePermit> {
        let place = |free: &Arc<Semaphore>| Arc::clone(free).try_acquire_owned().ok();
        place(&self.everybody).or_else(|| may_command.then(|| place(&self.commanders)).flatten())
    }
}

/// One client.
struct Connection {
    stream: BufReader<UnixStream>,
    may_command: bool,
    calls: mpsc::Sender<Call>,
}

impl Connection {
    /// Answers request after request, until the client hangs up or does not keep to the rules.
    async fn converse(&mut self) {
        loop {
            // A client that is too slow or has hung up is not told anything.
            let Ok(Ok(Some(line))) = timeout(READ_TIME, self.read_line()).await else {
                return;
            };
            let (response, go_on) = match line {
                Line::Whole(line) => (self.answer(&line).await, true),
                Line::TooLong => (
                    Response::error(
                        Code::Bad,
                        format!("a request is at most {MAX_REQUEST} bytes long"),
                    ),
                    false,
                ),
            };
            let sent = timeout(WRITE_TIME, self.send(&response)).await;
            if !matches!(sent, Ok(Ok(()))) || !go_on {
                return;
            }
        }
    }

    /// The next line, or `None` if the client has hung up.
    async fn read_line(&mut self) -> io::Result<Option<Line>> {
        let mut line = Vec::new();
        let mut limited = (&mut self.stream).take(MAX_REQUEST as u64);
        let length = limited.read_until(b'\n', &mut line).await?;
        Ok(match line.last() {
            None => None,
            Some(b'\n') => Some(Line::Whole(line)),
            Some(_) if length == MAX_REQUEST => Some(Line::TooLong),
            Some(_) => None,
        })
    }

    async fn answer(&self, line: &[u8]) -> Response {
        let request: Request = match serde_json::from_slice(line) {
            Ok(request) => request,
            Err(error) => {
                return Response::error(Code::Bad, format!("this is no request: {error}"));
            }
        };
        if request.is_command() && !self.may_command {
            return Response::error(
                Code::Denied,
                "only root and the user that runs the daemon may do that",
            );
        }
        let limit = request.time_limit();
        let none_yet = matches!(request, Request::Events { follow: true, .. });
        let (reply, answer) = oneshot::channel();
        let answered = timeout(limit, async {
            self.calls.send((request, reply)).await.ok()?;
            answer.await.ok()
        });
        match answered.await {
            Ok(Some(response)) => response,
            Ok(None) => Response::error(Code::Ending, "the covey daemon is about to end"),
            Err(_) if none_yet => Response::ok(Vec::<()>::new()),
            Err(_) => Response::error(
                Code::Timeout,
                format!(
                    "this took longer than {}; \"covey status\" says how far it got",
                    crate::duration::format(limit)
                ),
            ),
        }
    }

    async fn send(&mut self, response: &Response) -> io::Result<()> {
        let mut line = serde_json::to_vec(response)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).await
    }

    /// Says that there is no place, if that can be said without waiting.
    fn turn_away(&self) {
        let response = Response::error(
            Code::Busy,
            format!("{MAX_CLIENTS} clients are already connected: try again"),
        );
        if let Ok(mut line) = serde_json::to_vec(&response) {
            line.push(b'\n');
            let _ = self.stream.get_ref().try_write(&line);
        }
    }
}

/// What a client sent.
enum Line {
    /// With its newline.
    Whole(Vec<u8>),
    /// Longer than [`MAX_REQUEST`].
    TooLong,
}

#[cfg(test)]
mod tests;
