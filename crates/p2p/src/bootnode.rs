//! A relay given as URL, ENR or multiaddr becomes a relay peer, which may change.
//!
//! Spec: p2p, section 5.1 to 5.3. A URL answers with an ENR or with a JSON list of multiaddrs, and
//! is asked again for ever: each [`REFRESH`], and at once when the relay that it named is no longer
//! connected, since another one may have taken its place.
//!
//! - **Owner:** [`Bootnodes`] has one task per URL. What is found is in the [`P2PContext`], where
//!   whoever uses relays is woken by a change. A node makes it from its configuration.
//! - **Wake-ups:** timers, and changes of the context. Nothing is polled.
//! - **Bounds:** [`MAX_RELAYS`] relays; an answer has at most [`MAX_BODY`] bytes and comes within
//!   [`TIMEOUT`]; [`MAX_ADDRESSES`] addresses each; waits are jittered and end after 3.6 s at most.
//! - **Failure:** nothing fails because a relay is absent: it is said once, and tried again. What was
//!   known before stays; while it is connected, and only another one is named, the URL is asked each
//!   [`REFRESH`] still.
//! - **Cancellation:** at any await; [`Bootnodes::shutdown`] returns once all tasks have ended.

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc, time::Duration};

use libp2p::{Multiaddr, PeerId, identity, multiaddr::Protocol};
use pluto_crypto::enr::Enr;
use rand::RngExt;
use reqwest::{
    StatusCode, Url,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::p2p_context::{
    MAX_ADDRESSES, MAX_RELAYS, NodeGone, P2PContext, RelayView, ReservationState, Writer,
};

/// How often a URL is asked while its relay is connected; Charon's value.
pub const REFRESH: Duration = Duration::from_secs(120);
/// How long one request may take, its body included; Charon's value.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest answer, in bytes; Charon's value.
pub const MAX_BODY: usize = 64 << 10;
/// The first wait after a failure; Charon's value.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest, before its jitter of a fifth. What is behind the relay is to be found within five
/// seconds of its being back, too.
const BACKOFF_MAX: Duration = Duration::from_secs(3);
/// Identities of one URL that are remembered to tell that it alternates.
const MEMORY: usize = 4;

/// How a relay is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelaySource {
    /// A URL that names it, asked for ever.
    Url(Url),
    /// The relay itself.
    Peer(RelayPeer),
}

/// A relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayPeer {
    /// Who it is.
    pub id: PeerId,
    /// Where it is, without a trailing peer id.
    pub addresses: Vec<Multiaddr>,
}

/// What a relay's URL is told of the cluster, so that a balancer gives all its nodes one relay.
/// All nodes must send the same bytes (p2p spec, section 5.3).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Routing {
    /// `Charon-Cluster`: of a running cluster the first seven hexadecimal digits of the lock hash, of
    /// a ceremony all 64 of the definition hash.
    pub cluster: Option<HeaderValue>,
    /// `Cluster-Uuid`: as it is written in the cluster's file, in its letter case.
    pub uuid: Option<HeaderValue>,
}

/// Why a text is no relay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RelaySourceError {
    /// The URL cannot be read.
    #[error("`{text}` is no URL of a relay: write it as https://HOST")]
    Url {
        /// What was given.
        text: String,
        /// What is wrong with it.
        #[source]
        source: url::ParseError,
    },
    /// The ENR cannot be used.
    #[error("`{text}` is no ENR of a relay")]
    Enr {
        /// What was given.
        text: String,
        /// What is wrong with it.
        #[source]
        source: AnswerError,
    },
    /// It is neither.
    #[error(
        "`{text}` is no relay: give a URL, an ENR, or an address such as \
         /ip4/192.0.2.1/tcp/3610/p2p/16Uiu2…"
    )]
    Multiaddr {
        /// What was given.
        text: String,
    },
}

/// Why a URL did not name a relay. Each failure names the URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// It could not be asked.
    #[error("relay {url} could not be asked: {cause}")]
    Http {
        /// The URL, without credentials.
        url: Arc<str>,
        /// The cause, as the HTTP client tells it.
        cause: HttpCause,
    },
    /// It answered with an error.
    #[error("relay {url} answered with status {status} (is it the URL of a relay?)")]
    Status {
        /// The URL.
        url: Arc<str>,
        /// The status.
        status: StatusCode,
    },
    /// The answer is too long.
    #[error("relay {url} answered with more than {MAX_BODY} bytes (is it the URL of a relay?)")]
    TooLong {
        /// The URL.
        url: Arc<str>,
    },
    /// The answer names no relay.
    #[error("relay {url} answered with status {status}, but names no relay: {source}")]
    Answer {
        /// The URL.
        url: Arc<str>,
        /// The status.
        status: StatusCode,
        /// What is wrong with the answer.
        #[source]
        source: AnswerError,
    },
    /// It names one relay and then another. The present one is kept while it is connected.
    #[error(
        "relay {url} answers with {now} and {before} in turn (do all nodes of the cluster send it \
         the same headers, and are these let through to its balancer?)"
    )]
    Alternates {
        /// The URL.
        url: Arc<str>,
        /// Who it names now.
        now: PeerId,
        /// Who it named before, and before that not.
        before: PeerId,
    },
}

/// What went wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HttpCause {
    /// No answer in time.
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    TimedOut,
    /// Nobody answers there, or its certificate is not trusted.
    #[error("no connection (is the URL right, is it up, and is its certificate trusted?)")]
    Connect,
    /// It sends from one place to the next.
    #[error("too many redirects")]
    Redirect,
    /// The answer broke off.
    #[error("the answer broke off")]
    Broken,
}

/// What is wrong with the text that names a relay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// The ENR cannot be read.
    #[error("the ENR cannot be read: {0}")]
    Enr(#[source] pluto_crypto::enr::Error),
    /// The ENR's key is no identity.
    #[error("the ENR has no usable key")]
    Key,
    /// The ENR has no IP address, or no port.
    #[error("the ENR has no {missing}")]
    EnrAddress {
        /// What it lacks.
        missing: &'static str,
    },
    /// It is neither an ENR nor a JSON list of addresses.
    #[error("it is neither an ENR nor a JSON list of addresses")]
    Format,
    /// The list has no address with a peer id.
    #[error("none of its {count} addresses has a host, a port and a peer id")]
    NoAddress {
        /// How many there were.
        count: usize,
    },
    /// The list mixes relays.
    #[error("it names several relays at once, {first} and {second}")]
    SeveralPeers {
        /// The first.
        first: PeerId,
        /// Another one.
        second: PeerId,
    },
}

impl fmt::Display for RelaySource {
    /// As it is configured, without credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => f.write_str(&shown(url)),
            Self::Peer(peer) => match peer.addresses.first() {
                Some(address) => write!(f, "{address}/p2p/{}", peer.id),
                None => write!(f, "/p2p/{}", peer.id),
            },
        }
    }
}

impl FromStr for RelaySource {
    type Err = RelaySourceError;

    fn from_str(text: &str) -> Result<Self, RelaySourceError> {
        let given = || text.to_owned();
        if text.starts_with("http://") || text.starts_with("https://") {
            return match Url::parse(text) {
                Ok(url) => Ok(Self::Url(url)),
                Err(source) => Err(RelaySourceError::Url {
                    text: given(),
                    source,
                }),
            };
        }
        if text.starts_with("enr:") {
            return match of_enr(text) {
                Ok(peer) => Ok(Self::Peer(peer)),
                Err(source) => Err(RelaySourceError::Enr {
                    text: given(),
                    source,
                }),
            };
        }
        match of_multiaddr(text) {
            Some((id, address)) => Ok(Self::Peer(RelayPeer {
                id,
                addresses: vec![address],
            })),
            None => Err(RelaySourceError::Multiaddr { text: given() }),
        }
    }
}

fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Only fails for URLs that cannot have any.
    let _ = (url.set_username(""), url.set_password(None));
    url.to_string()
}

/// Reads the answer of a relay's URL (p2p spec, section 5.3).
pub fn parse_answer(body: &str) -> Result<RelayPeer, AnswerError> {
    if body.starts_with("enr:") {
        return of_enr(body.trim_end());
    }
    let texts: Option<Vec<String>> = serde_json::from_str(body).map_err(|_| AnswerError::Format)?;
    let texts = texts.unwrap_or_default();
    let mut relay: Option<RelayPeer> = None;
    for text in &texts {
        let Some((id, address)) = of_multiaddr(text) else {
            tracing::warn!(address = ?text.chars().take(128).collect::<String>(), "a relay tells an address that cannot be used");
            continue;
        };
        let relay = relay.get_or_insert_with(|| RelayPeer {
            id,
            addresses: Vec::new(),
        });
        if relay.id != id {
            return Err(AnswerError::SeveralPeers {
                first: relay.id,
                second: id,
            });
        }
        if !relay.addresses.contains(&address) && relay.addresses.len() < MAX_ADDRESSES {
            relay.addresses.push(address);
        }
    }
    relay.ok_or(AnswerError::NoAddress { count: texts.len() })
}

fn of_multiaddr(text: &str) -> Option<(PeerId, Multiaddr)> {
    let mut address: Multiaddr = text.parse().ok()?;
    let Some(Protocol::P2p(id)) = address.pop() else {
        return None;
    };
    crate::addr::is_dialable(&address).then_some((id, address))
}

fn of_enr(text: &str) -> Result<RelayPeer, AnswerError> {
    let enr = Enr::parse(text).map_err(AnswerError::Enr)?;
    let key = enr.public_key().to_bytes();
    let key = identity::secp256k1::PublicKey::try_from_bytes(&key).map_err(|_| AnswerError::Key)?;
    let ip = enr.ip4().ok_or(AnswerError::EnrAddress {
        missing: "IPv4 address",
    })?;
    let host = Multiaddr::from(IpAddr::V4(ip));
    let udp = enr.udp().map(|port| {
        let address = host.clone().with(Protocol::Udp(port));
        address.with(Protocol::QuicV1)
    });
    let tcp = enr.tcp().map(|port| host.clone().with(Protocol::Tcp(port)));
    let addresses: Vec<_> = udp.into_iter().chain(tcp).collect();
    if addresses.is_empty() {
        return Err(AnswerError::EnrAddress { missing: "port" });
    }
    Ok(RelayPeer {
        id: identity::PublicKey::from(key).to_peer_id(),
        addresses,
    })
}

/// The tasks that keep the relays of a context true.
#[derive(Debug)]
pub struct Bootnodes {
    tasks: JoinSet<()>,
    cancel: CancellationToken,
}

impl Bootnodes {
    /// Begins. At most [`MAX_RELAYS`] are used. Outside a tokio runtime it panics if a source is a
    /// URL.
    pub(crate) fn start(context: &P2PContext, sources: &[RelaySource], routing: &Routing) -> Self {
        let sources = &sources[..sources.len().min(MAX_RELAYS)];
        let writer = context.writer();
        writer.relays(sources.iter().map(|source| source.to_string().into()));
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for (index, source) in sources.iter().enumerate() {
            match source {
                RelaySource::Peer(peer) => {
                    let peer = peer.clone();
                    writer.relay(index, |relay| adopt(relay, peer));
                }
                RelaySource::Url(url) => {
                    if url.scheme() == "http" {
                        tracing::warn!(
                            url = shown(url),
                            "whoever is on the way can name another relay: use https"
                        );
                    }
                    let resolver = Resolver {
                        index,
                        name: shown(url).into(),
                        url: url.clone(),
                        headers: routing.headers(),
                        context: context.clone(),
                        writer: context.writer(),
                        named: Named::default(),
                        refresh: REFRESH,
                    };
                    let work = cancel.clone().run_until_cancelled_owned(resolver.run());
                    tasks.spawn(async {
                        // Cancelled or done is one: the node ends.
                        let _: Option<NodeGone> = work.await;
                    });
                }
            }
        }
        Self { tasks, cancel }
    }

    /// Ends all tasks, and returns once they have ended.
    pub async fn shutdown(mut self) {
        self.cancel.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Routing {
    fn headers(&self) -> HeaderMap {
        let named = [
            (HeaderName::from_static("charon-cluster"), &self.cluster),
            (HeaderName::from_static("cluster-uuid"), &self.uuid),
        ];
        let given = named
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.clone()?)));
        given.collect()
    }
}

/// A relay is now this peer.
fn adopt(relay: &mut RelayView, peer: RelayPeer) {
    if relay.peer != Some(peer.id) {
        relay.reservation = ReservationState::Dialing;
    }
    relay.peer = Some(peer.id);
    relay.addresses = peer.addresses;
    relay.problem = None;
}

struct Resolver {
    index: usize,
    name: Arc<str>,
    url: Url,
    headers: HeaderMap,
    context: P2PContext,
    writer: Writer,
    named: Named,
    /// [`REFRESH`], but for tests.
    refresh: Duration,
}

/// Who a URL named, newest last; at most [`MEMORY`].
#[derive(Debug, Default)]
struct Named(Vec<PeerId>);

/// Who a URL names now, beside who it named before.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    /// The same.
    None,
    /// Somebody new.
    New { before: PeerId },
    /// Somebody whom it had left.
    Back { before: PeerId },
}

impl Named {
    fn tell(&mut self, now: PeerId) -> Change {
        let before = self.0.last().copied();
        let change = match before {
            None => Change::None,
            Some(before) if before == now => return Change::None,
            Some(before) if self.0.contains(&now) => Change::Back { before },
            Some(before) => Change::New { before },
        };
        if self.0.len() == MEMORY {
            self.0.remove(0);
        }
        self.0.push(now);
        change
    }
}

impl Resolver {
    /// Ends with the node only.
    async fn run(mut self) -> NodeGone {
        let client = reqwest::Client::builder().timeout(TIMEOUT).build();
        let client = match client {
            Ok(client) => client,
            Err(error) => {
                tracing::error!(url = %self.name, %error, "no HTTP client can be made: this relay is not used");
                return NodeGone;
            }
        };
        let mut attempts = 0;
        // What was said last of what does not work.
        let mut told = None;
        loop {
            match self.ask(&client).await.and_then(|peer| self.judge(peer)) {
                Ok(peer) => {
                    let (id, index) = (peer.id, self.index);
                    tracing::debug!(url = %self.name, peer = %id, "relay resolved");
                    self.writer.relay(index, |relay| adopt(relay, peer));
                    told = None;
                    attempts = match self.serves(id, attempts).await {
                        Ok(attempts) => attempts,
                        Err(gone) => return gone,
                    };
                }
                Err(problem) => {
                    let problem = Arc::new(problem);
                    if told.as_ref() != Some(&problem) {
                        tracing::warn!(%problem, "a relay is not resolved; it is tried again");
                        told = Some(problem.clone());
                    }
                    let present = match *problem {
                        ResolveError::Alternates { .. } => self.present(),
                        _ => None,
                    };
                    self.writer
                        .relay(self.index, |relay| relay.problem = Some(problem));
                    match present {
                        // It works: there is no hurry to ask for another.
                        Some(present) => {
                            attempts = match self.serves(present, attempts).await {
                                Ok(attempts) => attempts,
                                Err(gone) => return gone,
                            };
                        }
                        None => {
                            tokio::time::sleep(backoff(attempts)).await;
                            attempts = (attempts + 1).min(8);
                        }
                    }
                }
            }
            if self.context.view().is_gone() {
                return NodeGone;
            }
        }
    }

    /// Waits until it is time to ask again while this is the relay: after [`REFRESH`], or once it is not
    /// connected. Gives the failures since it was.
    async fn serves(&self, relay: PeerId, attempts: u32) -> Result<u32, NodeGone> {
        // A relay that can be reached is connected by then.
        tokio::time::sleep(backoff(attempts + 3)).await;
        let lost = self
            .context
            .wait_for(|view| (!view.is_connected(&relay)).then_some(()));
        match tokio::time::timeout(self.refresh, lost).await {
            Ok(Ok(())) => Ok((attempts + 1).min(8)),
            Ok(Err(gone)) => Err(gone),
            Err(_) => Ok(0),
        }
    }

    /// Who the relay is now.
    fn present(&self) -> Option<PeerId> {
        let view = self.context.view();
        view.relays.get(self.index).and_then(|relay| relay.peer)
    }

    /// Whether a newly named relay is to be used: a URL that goes to and fro between two would take
    /// a good one away.
    fn judge(&mut self, peer: RelayPeer) -> Result<RelayPeer, ResolveError> {
        let (now, view) = (peer.id, self.context.view());
        let works = self
            .present()
            .is_some_and(|present| present != now && view.is_connected(&present));
        match self.named.tell(now) {
            Change::None => {}
            Change::Back { before } if works => {
                return Err(ResolveError::Alternates {
                    url: self.name.clone(),
                    now,
                    before,
                });
            }
            Change::New { before } | Change::Back { before } => {
                tracing::info!(url = %self.name, peer = %now, %before, "the relay is another one now");
            }
        }
        Ok(peer)
    }

    async fn ask(&self, client: &reqwest::Client) -> Result<RelayPeer, ResolveError> {
        let failed = |error: reqwest::Error| ResolveError::Http {
            url: self.name.clone(),
            cause: if error.is_timeout() {
                HttpCause::TimedOut
            } else if error.is_redirect() {
                HttpCause::Redirect
            } else if error.is_connect() {
                HttpCause::Connect
            } else {
                HttpCause::Broken
            },
        };
        let request = client.get(self.url.clone()).headers(self.headers.clone());
        let mut answer = request.send().await.map_err(failed)?;
        let status = answer.status();
        if !status.is_success() {
            return Err(ResolveError::Status {
                url: self.name.clone(),
                status,
            });
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MAX_BODY {
                return Err(ResolveError::TooLong {
                    url: self.name.clone(),
                });
            }
            body.extend_from_slice(&chunk);
        }
        let text = std::str::from_utf8(&body).map_err(|_| AnswerError::Format);
        text.and_then(parse_answer)
            .map_err(|source| ResolveError::Answer {
                url: self.name.clone(),
                status,
                source,
            })
    }
}

/// 100 ms × 1.6ⁿ, capped and jittered (p2p spec, section 5.3).
fn backoff(attempts: u32) -> Duration {
    let spread = rand::rng().random_range(0.8..=1.2);
    let wait = BACKOFF_MIN.mul_f64(1.6f64.powi(attempts.min(16).cast_signed()));
    wait.min(BACKOFF_MAX).mul_f64(spread)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use libp2p::{core::Endpoint, swarm::ConnectionId};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::{addr::Transport, p2p_context::Path};

    #[test]
    fn who_comes_back_is_told_from_who_is_new() {
        let [a, b, c] = [(); 3].map(|()| PeerId::random());
        let mut named = Named::default();
        assert_eq!(named.tell(a), Change::None);
        assert_eq!(named.tell(a), Change::None);
        assert_eq!(named.tell(b), Change::New { before: a });
        assert_eq!(named.tell(a), Change::Back { before: b });
        assert_eq!(named.tell(c), Change::New { before: a });
        for _ in 0..2 * MEMORY {
            named.tell(PeerId::random());
        }
        assert_eq!(named.0.len(), MEMORY);
    }

    /// Longer than anything here takes.
    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn a_url_is_asked_again_each_so_often_while_its_relay_is_connected() {
        let relay = PeerId::random();
        let (context, mut url) = asked(Duration::from_millis(600)).await;
        context.writer().connected(relay, path(1));

        url.answer(relay).await;
        let began = Instant::now();
        url.answer(relay).await;

        assert!(began.elapsed() >= Duration::from_millis(600));
    }

    #[tokio::test]
    async fn a_url_that_alternates_is_said_to_and_its_relay_is_kept_without_hurry() {
        let [first, second] = [(); 2].map(|()| PeerId::random());
        let (context, mut url) = asked(Duration::from_millis(600)).await;
        let writer = context.writer();
        writer.connected(first, path(1));
        writer.connected(second, path(2));
        let present = || context.view().relays[0].clone();

        url.answer(first).await;
        url.answer(second).await;
        url.answer(first).await;
        let told = context.wait_for(|view| view.relays[0].problem.clone());
        let told = tokio::time::timeout(LIMIT, told).await.unwrap().unwrap();
        assert!(
            matches!(
                *told,
                ResolveError::Alternates { now, before, .. } if now == first && before == second
            ),
            "{told}"
        );
        assert_eq!(present().peer, Some(second));

        let began = Instant::now();
        url.answer(second).await;
        assert!(
            began.elapsed() >= Duration::from_millis(600),
            "the one that it has is connected"
        );
        let well = context.wait_for(|view| view.relays[0].problem.is_none().then_some(()));
        tokio::time::timeout(LIMIT, well).await.unwrap().unwrap();
        assert_eq!(present().peer, Some(second));
    }

    /// A resolver that runs, and the URL that it asks.
    async fn asked(refresh: Duration) -> (P2PContext, Server) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Url = format!("http://{}", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let context = P2PContext::default();
        context.writer().relays([url.to_string().into()]);
        let resolver = Resolver {
            index: 0,
            name: url.to_string().into(),
            url,
            headers: HeaderMap::new(),
            context: context.clone(),
            writer: context.writer(),
            named: Named::default(),
            refresh,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(async {
            let NodeGone = resolver.run().await;
        });
        let _tasks = tasks;
        (context, Server { listener, _tasks })
    }

    struct Server {
        listener: TcpListener,
        _tasks: JoinSet<()>,
    }

    impl Server {
        /// Answers the next request with this relay.
        async fn answer(&mut self, relay: PeerId) {
            let answer = async {
                let (mut stream, _) = self.listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                let body = format!(r#"["/ip4/10.0.0.1/tcp/1/p2p/{relay}"]"#);
                let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length:";
                let answer = format!("{head} {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            };
            tokio::time::timeout(LIMIT, answer).await.unwrap();
        }
    }

    fn path(n: usize) -> Path {
        Path::new(
            ConnectionId::new_unchecked(n),
            Endpoint::Dialer,
            None,
            Transport::Tcp,
            Multiaddr::empty(),
        )
    }

    #[test]
    fn waits_grow_to_their_bound_and_stay_below_five_seconds() {
        assert!(backoff(0) <= BACKOFF_MIN * 6 / 5);
        for attempts in 0..=u32::from(u8::MAX) {
            assert!(backoff(attempts) < Duration::from_secs(5));
        }
        assert!(backoff(u32::MAX) >= BACKOFF_MAX * 4 / 5);
    }
}
