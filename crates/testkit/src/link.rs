//! A TCP link that fails on command.

use std::net::SocketAddr;

use libp2p::{Multiaddr, multiaddr::Protocol};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp},
    sync::watch,
    task::JoinSet,
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// What a link does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    Silent,
}

/// Forwards TCP connections to one address. Dropping it cuts them all.
pub struct Link {
    port: u16,
    mode: watch::Sender<Mode>,
    cut: watch::Sender<u64>,
    _stop: DropGuard,
}

impl Link {
    /// Opens a link to a TCP address on loopback.
    ///
    /// # Panics
    ///
    /// If the address is no TCP address.
    pub async fn to(target: &Multiaddr) -> Self {
        let port = target
            .iter()
            .find_map(|part| match part {
                Protocol::Tcp(port) => Some(port),
                _ => None,
            })
            .unwrap();
        let target = SocketAddr::from(([127, 0, 0, 1], port));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mode, cut) = (watch::Sender::new(Mode::Open), watch::Sender::new(0));
        let stop = CancellationToken::new();
        let work = accept(listener, target, mode.subscribe(), cut.subscribe());
        tokio::spawn(stop.clone().run_until_cancelled_owned(work));
        Self {
            port,
            mode,
            cut,
            _stop: stop.drop_guard(),
        }
    }

    /// Where the near end is.
    pub fn address(&self) -> Multiaddr {
        Multiaddr::empty()
            .with(Protocol::Ip4([127, 0, 0, 1].into()))
            .with(Protocol::Tcp(self.port))
    }

    /// Forwards nothing more and closes nothing: a firewall that forgot.
    pub fn fall_silent(&self) {
        self.mode.send_replace(Mode::Silent);
    }

    /// Forwards again, what it swallowed meanwhile being lost; new connections work.
    pub fn speak(&self) {
        self.mode.send_replace(Mode::Open);
    }

    /// Cuts the connections that are open now.
    pub fn cut(&self) {
        self.cut.send_modify(|cuts| *cuts += 1);
    }
}

async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    mode: watch::Receiver<Mode>,
    cut: watch::Receiver<u64>,
) {
    let mut pairs = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        let Ok(far) = TcpStream::connect(target).await else {
            continue;
        };
        let (mode, mut cut) = (mode.clone(), cut.clone());
        cut.mark_unchanged();
        pairs.spawn(async move {
            let (near_read, near_write) = near.into_split();
            let (far_read, far_write) = far.into_split();
            tokio::select! {
                () = forward(near_read, far_write, mode.clone()) => {}
                () = forward(far_read, near_write, mode) => {}
                _ = cut.changed() => {}
            }
        });
    }
}

/// Copies until either side ends; swallows while the link is silent.
async fn forward(
    mut from: tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    mode: watch::Receiver<Mode>,
) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(len) => {
                let open = *mode.borrow() == Mode::Open;
                if open && to.write_all(&buffer[..len]).await.is_err() {
                    return;
                }
            }
        }
    }
    // A silent link does not even tell that the other side has closed.
    let mut mode = mode;
    let _ = mode.wait_for(|mode| *mode == Mode::Open).await;
}
