//! Links that fail on command.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use libp2p::{Multiaddr, multiaddr::Protocol};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket, tcp},
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// What a link does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    Silent,
    Stalled,
}

/// Forwards TCP connections to one address. Dropping it cuts them all.
pub struct Link {
    port: u16,
    mode: watch::Sender<Mode>,
    cut: watch::Sender<Cut>,
    _stop: DropGuard,
}

/// How connections were cut last. Each cut is a change, also to what was.
#[derive(Debug, Clone, Copy)]
enum Cut {
    Close,
    Reset,
}

impl Link {
    /// Opens a link to a TCP address on loopback.
    ///
    /// # Panics
    ///
    /// If the address is no TCP address.
    pub async fn to(target: &Multiaddr) -> Self {
        Self::slow(target, Duration::ZERO).await
    }

    /// As [`to`](Self::to); whatever passes arrives `delay` later, in either direction.
    ///
    /// # Panics
    ///
    /// If the address is no TCP address.
    pub async fn slow(target: &Multiaddr, delay: Duration) -> Self {
        Self::open(
            SocketAddr::from(([127, 0, 0, 1], 0)),
            tcp_port(target),
            delay,
        )
        .await
    }

    /// Opens a link in front of a relay that was started [behind](crate::TestRelay::behind) that
    /// host: whoever is told where the relay is comes here.
    ///
    /// # Panics
    ///
    /// If the relay's port is taken on that host.
    pub async fn before(relay: &crate::TestRelay, host: IpAddr) -> Self {
        Self::far(relay.address(), host, Duration::ZERO).await
    }

    /// Opens a [slow](Self::slow) link at the same port of another host of loopback: whoever is told
    /// that the target is on that host comes here.
    ///
    /// # Panics
    ///
    /// If the address is no TCP address, or its port is taken on that host.
    pub async fn far(target: &Multiaddr, host: IpAddr, delay: Duration) -> Self {
        let port = tcp_port(target);
        Self::open(SocketAddr::from((host, port)), port, delay).await
    }

    async fn open(near: SocketAddr, port: u16, delay: Duration) -> Self {
        let target = SocketAddr::from(([127, 0, 0, 1], port));
        let listener = listen(near);
        let port = listener.local_addr().unwrap().port();
        let mode = watch::Sender::new(Mode::Open);
        let cut = watch::Sender::new(Cut::Close);
        let stop = CancellationToken::new();
        let work = accept(listener, target, delay, mode.subscribe(), cut.subscribe());
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

    /// Reads nothing more, so that the buffers of whoever writes fill up: a host that froze.
    pub fn stall(&self) {
        self.mode.send_replace(Mode::Stalled);
    }

    /// Forwards again; what it swallowed in silence is lost. New connections work.
    pub fn speak(&self) {
        self.mode.send_replace(Mode::Open);
    }

    /// Cuts the connections that are open now.
    pub fn cut(&self) {
        self.cut.send_replace(Cut::Close);
    }

    /// Resets the connections that are open now, on both sides.
    pub fn reset(&self) {
        self.cut.send_replace(Cut::Reset);
    }
}

/// Whoever is behind a link at its own port dials from that port, of any host.
fn listen(near: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseport(true).unwrap();
    socket.bind(near).unwrap();
    socket.listen(128).unwrap()
}

fn tcp_port(address: &Multiaddr) -> u16 {
    let port = address.iter().find_map(|part| match part {
        Protocol::Tcp(port) => Some(port),
        _ => None,
    });
    port.unwrap()
}

async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    delay: Duration,
    mode: watch::Receiver<Mode>,
    cut: watch::Receiver<Cut>,
) {
    let mut pairs = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        let Ok(far) = TcpStream::connect(target).await else {
            continue;
        };
        // Otherwise small messages wait for the acknowledgement of those before them.
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        let (mode, mut cut) = (mode.clone(), cut.clone());
        cut.mark_unchanged();
        pairs.spawn(async move {
            let (mut near_read, mut near_write) = near.into_split();
            let (mut far_read, mut far_write) = far.into_split();
            tokio::select! {
                () = forward(&mut near_read, &mut far_write, delay, mode.clone()) => {}
                () = forward(&mut far_read, &mut near_write, delay, mode) => {}
                _ = cut.changed() => if let Cut::Reset = *cut.borrow() {
                    let near = near_read.as_ref().set_zero_linger();
                    near.and(far_read.as_ref().set_zero_linger()).unwrap();
                }
            }
        });
    }
}

/// What is under way in one direction of a slow link; beyond it, reading waits.
const IN_FLIGHT: usize = 1024;

/// Copies until either side ends; swallows while the link is silent, waits while it is stalled.
async fn forward(
    from: &mut tcp::OwnedReadHalf,
    to: &mut tcp::OwnedWriteHalf,
    delay: Duration,
    mut mode: watch::Receiver<Mode>,
) {
    let (sender, in_flight) = mpsc::channel(IN_FLIGHT);
    // Ends with the arrival of the last that was read, or when either side is gone.
    tokio::join!(
        depart(from, delay, sender, mode.clone()),
        arrive(in_flight, to)
    );
    // A silent link does not even tell that the other side has closed.
    let _ = mode.wait_for(|mode| *mode == Mode::Open).await;
}

async fn depart(
    from: &mut tcp::OwnedReadHalf,
    delay: Duration,
    sender: mpsc::Sender<(Instant, Vec<u8>)>,
    mut mode: watch::Receiver<Mode>,
) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let len = tokio::select! {
            read = from.read(&mut buffer) => match read {
                Ok(0) | Err(_) => return,
                Ok(len) => len,
            },
            () = sender.closed() => return,
        };
        let Ok(mode) = mode
            .wait_for(|mode| *mode != Mode::Stalled)
            .await
            .map(|m| *m)
        else {
            return;
        };
        let arrival = (Instant::now() + delay, buffer[..len].to_vec());
        if mode == Mode::Open && sender.send(arrival).await.is_err() {
            return;
        }
    }
}

async fn arrive(mut in_flight: mpsc::Receiver<(Instant, Vec<u8>)>, to: &mut tcp::OwnedWriteHalf) {
    while let Some((at, bytes)) = in_flight.recv().await {
        // The timer counts in milliseconds and rounds up, even what is due.
        if at > Instant::now() {
            sleep_until(at).await;
        }
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// Forwards the datagrams of one connection to one address. Dropping it silences it for ever.
pub struct UdpLink {
    port: u16,
    mode: watch::Sender<Mode>,
    _stop: DropGuard,
}

impl UdpLink {
    /// Opens a link to a UDP address on loopback, such as one of QUIC.
    ///
    /// # Panics
    ///
    /// If the address is no UDP address.
    pub async fn to(target: &Multiaddr) -> Self {
        let port = target
            .iter()
            .find_map(|part| match part {
                Protocol::Udp(port) => Some(port),
                _ => None,
            })
            .unwrap();
        let far = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        far.connect(("127.0.0.1", port)).await.unwrap();
        let near = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = near.local_addr().unwrap().port();
        let mode = watch::Sender::new(Mode::Open);
        let stop = CancellationToken::new();
        let work = exchange(near, far, mode.subscribe());
        tokio::spawn(stop.clone().run_until_cancelled_owned(work));
        Self {
            port,
            mode,
            _stop: stop.drop_guard(),
        }
    }

    /// Where the near end is, for QUIC.
    pub fn address(&self) -> Multiaddr {
        Multiaddr::empty()
            .with(Protocol::Ip4([127, 0, 0, 1].into()))
            .with(Protocol::Udp(self.port))
            .with(Protocol::QuicV1)
    }

    /// Forwards nothing more.
    pub fn fall_silent(&self) {
        self.mode.send_replace(Mode::Silent);
    }

    /// Forwards again.
    pub fn speak(&self) {
        self.mode.send_replace(Mode::Open);
    }
}

/// Forwards to and fro. Whoever spoke last at the near end is answered.
async fn exchange(near: UdpSocket, far: UdpSocket, mode: watch::Receiver<Mode>) {
    let (mut ours, mut theirs) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut client = None;
    loop {
        // An error is that of an earlier datagram, which nobody took.
        tokio::select! {
            read = near.recv_from(&mut ours) => {
                let Ok((len, from)) = read else { continue };
                client = Some(from);
                if *mode.borrow() == Mode::Open {
                    let _ = far.send(&ours[..len]).await;
                }
            }
            read = far.recv(&mut theirs) => {
                let (Ok(len), Some(client)) = (read, client) else { continue };
                if *mode.borrow() == Mode::Open {
                    let _ = near.send_to(&theirs[..len], client).await;
                }
            }
        }
    }
}
