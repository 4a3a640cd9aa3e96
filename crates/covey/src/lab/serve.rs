//! `covey lab serve`: the service that the lab's cluster balances. Started by `lab up`, hidden from users.
//!
//! HTTP on port 80 answers every request with the host's name alone; UDP on port 7 echoes each datagram with
//! the name in front (`h1 ` + payload). So a client always sees who answered. docs/design.md, "Command line".

use super::process::allow_open_files;
use anyhow::{Context, Result};
use axum::Router;
use axum::serve::ListenerExt;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use tokio::net::{TcpListener, TcpSocket, UdpSocket};

/// Connections that may wait to be accepted. The kernel takes no more than `net.core.somaxconn`, 4096.
const BACKLOG: u32 = 4096;

/// Serves until the process is ended.
///
/// # Errors
/// If a port cannot be bound.
pub(super) fn serve(name: &str, vip: Ipv4Addr) -> Result<()> {
    allow_open_files()?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the server's runtime")?
        .block_on(async {
            // UDP first: once TCP accepts, everything is there.
            let own = udp_socket(Ipv4Addr::UNSPECIFIED)?;
            let shared = udp_socket(vip)?;
            let listener = tcp_listener().context("cannot listen on TCP port 80")?;
            tokio::try_join!(echo(name, own), echo(name, shared), http(name, listener))?;
            Ok(())
        })
}

/// Port 7 on one address. The virtual IP gets a socket of its own, because an answer leaves with the address
/// its socket is bound to; it may be bound before the daemon has brought the address.
fn udp_socket(address: Ipv4Addr) -> Result<UdpSocket> {
    let open = || {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_freebind_v4(true)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::V4(SocketAddrV4::new(address, 7)).into())?;
        UdpSocket::from_std(socket.into())
    };
    open().with_context(|| format!("cannot listen on UDP port 7 of {address}"))
}

fn tcp_listener() -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::UNSPECIFIED, 80).into())?;
    socket.listen(BACKLOG)
}

async fn echo(name: &str, socket: UdpSocket) -> Result<()> {
    let mut datagram = vec![0_u8; 65_536];
    let prefix = format!("{name} ").into_bytes();
    loop {
        // Errors here are those of single peers (an ICMP error, a datagram too long to echo), not the socket's.
        if let Ok((length, peer)) = socket.recv_from(&mut datagram).await {
            let answer = [&prefix, &datagram[..length]].concat();
            let _ = socket.send_to(&answer, peer).await;
        }
    }
}

async fn http(name: &str, listener: TcpListener) -> Result<()> {
    let body = name.to_owned();
    let service = Router::new().fallback(move || async move { body });
    let listener = listener.tap_io(|connection| {
        // Without it an answer on a kept connection may wait for the client's delayed ACK.
        let _ = connection.set_nodelay(true);
    });
    axum::serve(listener, service)
        .await
        .context("the HTTP server ended")
}
