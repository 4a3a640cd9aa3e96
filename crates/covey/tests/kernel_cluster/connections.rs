//! Long-lived connections: HTTP with keep-alive, asked again and again on one connection, so that each shows whether
//! it still lives and which host it is with. Called by the tests of planned changes. docs/design.md, "Tests".

use crate::lab::Lab;
use crate::netns;
use socket2::{Domain, Socket, Type};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// An answer that takes longer counts as none; a segment may have to be sent again.
const PATIENCE: Duration = Duration::from_secs(5);
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n";

/// A connection that is open.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    /// The host that it is with.
    pub(crate) host: u8,
}

impl Connection {
    fn open(server: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
        socket.connect_timeout(&server.into(), PATIENCE)?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        let host = ask(&mut stream)?;
        Ok(Self { stream, host })
    }

    /// The client's port.
    pub(crate) fn port(&self) -> u16 {
        self.stream.local_addr().unwrap().port()
    }

    /// Whether it still works, and with the same host.
    pub(crate) fn check(&mut self) -> Result<(), String> {
        match ask(&mut self.stream) {
            Ok(host) if host == self.host => Ok(()),
            Ok(host) => Err(format!("host {host} answers for host {}", self.host)),
            Err(error) => Err(format!("with host {}: {error}", self.host)),
        }
    }
}

/// One request, and the host that answers it.
fn ask(stream: &mut TcpStream) -> io::Result<u8> {
    stream.write_all(REQUEST)?;
    let mut answer = Vec::new();
    loop {
        let mut part = [0; 1024];
        let length = stream.read(&mut part)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answer.extend_from_slice(&part[..length]);
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && head
                .lines()
                .any(|line| line == format!("content-length: {}", body.len()))
        {
            let host = body.strip_prefix('h').and_then(|id| id.parse().ok());
            return host.ok_or_else(|| io::ErrorKind::InvalidData.into());
        }
    }
}

/// Opens connections to the virtual IP from the client.
pub(crate) fn open(lab: &Lab, count: usize) -> Vec<Connection> {
    let server = SocketAddr::from((lab.vip(), 80));
    netns::inside(&lab.namespace("client"), move || {
        (0..count)
            .map(|_| Connection::open(server).expect("a connection to a settled cluster"))
            .collect()
    })
}

/// Asks on every connection; says what is wrong with those that do not answer as they should.
pub(crate) fn check(connections: &mut [Connection]) -> Vec<String> {
    let checked = connections.iter_mut().map(Connection::check);
    checked.filter_map(Result::err).collect()
}

/// Of how many connections a host is the other end.
pub(crate) fn with_host(connections: &[Connection], host: u8) -> usize {
    connections.iter().filter(|one| one.host == host).count()
}
