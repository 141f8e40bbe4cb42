//! The pages of a relay.
//!
//! Spec: p2p, section 9.3. Where clients look for the relay: `/` and every path that is not named
//! here is the list of its addresses, `/enr` its record, with any method, as in Charon. Where
//! operators look: `/metrics`. Both have `/livez` and `/readyz`.
//!
//! Unlike Charon's, `/` answers 503 while there is nothing to tell, so that clients ask again in a
//! moment and not in two minutes; `/enr` leaves out a transport that the relay does not have,
//! instead of inventing a port; and no name is resolved while somebody waits.
//!
//! - **Owner:** one task for each listener, which owns the tasks of its connections.
//! - **Bounds:** [`MAX_CONNECTIONS`] at a time, further ones wait in the system's queue, and of one host
//!   [`MAX_PER_HOST`], further ones are closed at once; [`HEADER_TIMEOUT`] for the head of a request and [`TIMEOUT`] for everything; one request each.
//!   Bodies are not read.
//! - **Cancellation:** the token ends the listener; what is being answered is answered.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use libp2p::{Multiaddr, multiaddr::Protocol};
use pluto_crypto::{enr::Enr, k1::SecretKey};
use pluto_p2p::addr::{Transport, counted_as, ip_of, is_private};
use prometheus_client::registry::Registry;
use tokio::{
    net::{TcpListener, TcpStream, lookup_host},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{metrics, server};

/// Connections of one listener that are served at a time.
const MAX_CONNECTIONS: usize = 256;
/// Connections of one host, as [`counted_as`] counts it, that are served at a time. Each is one request,
/// which takes milliseconds, so that a proxy in front of the relay has room for thousands in a second.
const MAX_PER_HOST: usize = 16;
/// How long the head of a request may take.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may take.
const TIMEOUT: Duration = Duration::from_secs(15);
/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 16 << 10;
/// How long a listener rests after an error, such as no more file descriptors.
const REST: Duration = Duration::from_millis(100);
/// How often the external host name is resolved anew; Charon's value.
const RESOLVE: Duration = Duration::from_secs(300);

/// What the pages tell of.
#[derive(Clone)]
pub(crate) struct Pages {
    pub(crate) state: watch::Receiver<server::State>,
    pub(crate) key: SecretKey,
    /// The address in `/enr`, where it is not that of the first address of the list.
    pub(crate) ip: watch::Receiver<Option<Ipv4Addr>>,
    pub(crate) registry: Arc<Registry>,
}

/// The pages for clients.
pub(crate) fn clients(pages: Pages) -> Router {
    Router::new()
        .route("/enr", any(enr))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .fallback(list)
        .with_state(Arc::new(pages))
}

/// The pages for operators.
pub(crate) fn monitoring(pages: Pages) -> Router {
    Router::new()
        .route("/metrics", get(measured))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .with_state(Arc::new(pages))
}

async fn list(State(pages): State<Arc<Pages>>) -> Response {
    let state = pages.state.borrow().clone();
    if !state.is_ready() {
        return not_ready(&state);
    }
    let list: Vec<String> = state.addresses.iter().map(ToString::to_string).collect();
    serde_json::Value::from(list).to_string().into_response()
}

async fn enr(State(pages): State<Arc<Pages>>) -> Response {
    let state = pages.state.borrow().clone();
    if !state.is_ready() {
        return not_ready(&state);
    }
    let ip = *pages.ip.borrow();
    match record(&pages.key, &state.addresses, ip) {
        Some(enr) => enr.text().to_owned().into_response(),
        None => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "no IPv4 address, and a record holds no other; use the list of addresses at /\n",
        )
            .into_response(),
    }
}

async fn livez() -> &'static str {
    "ok\n"
}

async fn readyz(State(pages): State<Arc<Pages>>) -> Response {
    let state = pages.state.borrow().clone();
    if state.is_ready() {
        "ok\n".into_response()
    } else {
        not_ready(&state)
    }
}

fn not_ready(state: &server::State) -> Response {
    let why = match state.phase {
        server::Phase::Starting | server::Phase::Serving => "starting\n",
        server::Phase::Draining { .. } | server::Phase::Ended => "shutting down\n",
    };
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}

async fn measured(State(pages): State<Arc<Pages>>) -> Response {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match metrics::page(&pages.registry) {
        Ok(page) => ([(CONTENT_TYPE, content_type)], page).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// The record of a relay: the first address of each transport, public ones first.
fn record(key: &SecretKey, addresses: &[Multiaddr], ip: Option<Ipv4Addr>) -> Option<Enr> {
    let mut addresses: Vec<_> = addresses.iter().collect();
    addresses.sort_by_key(|address| is_private(address));
    let host = |address: &Multiaddr| match ip_of(address) {
        Some(IpAddr::V4(of)) => Some(ip.unwrap_or(of)),
        Some(IpAddr::V6(_)) => None,
        // A name; what it resolves to is told apart.
        None => ip,
    };
    let first = |transport| {
        let mut of = addresses
            .iter()
            .filter(move |address| Transport::of(address) == transport);
        of.find_map(|address| Some((host(address)?, port(address)?)))
    };
    let (tcp, quic) = (first(Transport::Tcp), first(Transport::Quic));
    let (ip, _) = tcp.or(quic)?;
    let at = |told: Option<(Ipv4Addr, u16)>| {
        told.and_then(|(other, port)| (other == ip).then_some(port))
    };
    Some(Enr::for_address(key, ip, at(tcp), at(quic)))
}

fn port(address: &Multiaddr) -> Option<u16> {
    address.iter().find_map(|part| match part {
        Protocol::Tcp(port) | Protocol::Udp(port) => Some(port),
        _ => None,
    })
}

/// Keeps what a host name resolves to, until nobody wants to know or it is told to end.
pub(crate) async fn resolve(
    host: String,
    ip: watch::Sender<Option<Ipv4Addr>>,
    stop: CancellationToken,
) {
    let work = async {
        loop {
            match lookup_host((host.as_str(), 0)).await {
                Ok(found) => {
                    let found = found.into_iter().find_map(|address| match address.ip() {
                        IpAddr::V4(ip) => Some(ip),
                        IpAddr::V6(_) => None,
                    });
                    // A name that has gone keeps what it was.
                    if found.is_some() {
                        ip.send_replace(found);
                    }
                }
                Err(error) => {
                    tracing::warn!(host, %error, "the external host name is not resolved")
                }
            }
            sleep(RESOLVE).await;
        }
    };
    stop.run_until_cancelled(work).await;
}

/// Serves pages until told to end.
pub(crate) async fn serve(listener: std::net::TcpListener, pages: Router, stop: CancellationToken) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the pages cannot be served");
            return;
        }
    };
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let hosts = Hosts::default();
    let mut connections = JoinSet::new();
    let accept = async {
        loop {
            // Never closed.
            let Ok(slot) = slots.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, from)) => match hosts.enter(from.ip()) {
                    Some(place) => {
                        let pages = pages.clone();
                        connections.spawn(async move {
                            connection(stream, pages).await;
                            drop((place, slot));
                        });
                    }
                    None => tracing::debug!(%from, "a host has all its places for pages"),
                },
                Err(error) => {
                    tracing::warn!(%error, "no connection for a page");
                    sleep(REST).await;
                }
            }
            while connections.try_join_next().is_some() {}
        }
    };
    stop.run_until_cancelled(accept).await;
    connections.join_all().await;
}

/// How many connections each host has.
#[derive(Clone, Default)]
struct Hosts(Arc<Mutex<HashMap<IpAddr, usize>>>);

impl Hosts {
    /// One more of this host, if it may have one.
    fn enter(&self, ip: IpAddr) -> Option<Place> {
        let ip = counted_as(ip);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(ip).or_default();
        if *count >= MAX_PER_HOST {
            return None;
        }
        *count += 1;
        Some(Place {
            hosts: self.clone(),
            ip,
        })
    }
}

/// One of a host's places.
struct Place {
    hosts: Hosts,
    ip: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.hosts.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.ip);
            }
        }
    }
}

async fn connection(stream: TcpStream, pages: Router) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(pages));
    match timeout(TIMEOUT, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a page was not served"),
        Err(_) => tracing::debug!("a page took too long"),
    }
}

/// Binds a listener for pages.
pub(crate) fn bind(address: std::net::SocketAddr) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
