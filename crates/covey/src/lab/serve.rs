//! `covey lab serve`: the service that the lab's cluster balances. Started by `lab up`, hidden from users.
//!
//! HTTP on port 80 answers every request with the host's name alone; UDP on port 7 echoes each datagram with
//! the name in front (`h1 ` + payload). So a client always sees who answered. docs/design.md, "Command line".

use anyhow::{Context, Result};
use axum::Router;
use axum::serve::ListenerExt;
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

/// Serves until the process is ended: over IPv4, and over IPv6 if one of the virtual IPs is of that kind.
///
/// # Errors
/// If a port cannot be bound.
pub(super) fn serve(name: &str, vips: &[IpAddr]) -> Result<()> {
    let ipv6 = vips.iter().any(IpAddr::is_ipv6);
    let unspecified = |six: bool| -> IpAddr {
        match six {
            false => Ipv4Addr::UNSPECIFIED.into(),
            true => Ipv6Addr::UNSPECIFIED.into(),
        }
    };
    let own = [Some(unspecified(false)), ipv6.then(|| unspecified(true))];
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the server's runtime")?
        .block_on(async {
            let name: Arc<str> = name.into();
            let mut services = JoinSet::new();
            // UDP first: once TCP accepts, everything is there.
            for address in own.into_iter().flatten().chain(vips.iter().copied()) {
                services.spawn(echo(name.clone(), udp_socket(address)?));
            }
            // A listener on `::` has both kinds of clients, as most servers' have.
            let listener = TcpListener::bind((unspecified(ipv6), 80))
                .await
                .context("cannot listen on TCP port 80")?;
            services.spawn(http(name, listener));
            while let Some(ended) = services.join_next().await {
                ended.context("a server ended")??;
            }
            Ok(())
        })
}

/// Port 7 on one address. A virtual IP gets a socket of its own, because an answer leaves with the address
/// its socket is bound to; it may be bound before the daemon has brought the address.
fn udp_socket(address: IpAddr) -> Result<UdpSocket> {
    let open = || {
        let address = SocketAddr::from((address, 7));
        let socket = Socket::new(
            Domain::for_address(address),
            Type::DGRAM,
            Some(Protocol::UDP),
        )?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        } else {
            socket.set_freebind_v4(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        UdpSocket::from_std(socket.into())
    };
    open().with_context(|| format!("cannot listen on UDP port 7 of {address}"))
}

async fn echo(name: Arc<str>, socket: UdpSocket) -> Result<()> {
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

async fn http(name: Arc<str>, listener: TcpListener) -> Result<()> {
    let body = name.to_string();
    let service = Router::new().fallback(move || async move { body });
    let listener = listener.tap_io(|connection| {
        // Without it an answer on a kept connection may wait for the client's delayed ACK.
        let _ = connection.set_nodelay(true);
    });
    axum::serve(listener, service)
        .await
        .context("the HTTP server ended")
}
