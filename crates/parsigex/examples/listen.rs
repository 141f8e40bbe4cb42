//! Joins a cluster as one of its members and prints each partial signature that the others send.
//!
//!     cargo run --release -p pluto-parsigex --example listen -- \
//!         --lock node0/cluster-lock.json --key node0/charon-enr-private-key \
//!         --peer /ip4/127.0.0.1/tcp/3610/p2p/16Uiu2HAm… [--count 10]
//!
//! With `--relay https://HOST` the members are found through a relay, and `--peer` is not needed. A
//! cluster on a simulated chain signs for whatever chain that is: `--unverified` prints that too.
//!
//! Signatures go to standard output, everything else to standard error. Ends with 0 after `--count`
//! signatures or Ctrl-C, with 1 when a file is wrong, with 2 when an argument is. The member whose
//! key it uses must not run elsewhere meanwhile.

use std::{
    error::Error,
    io::{self, Write},
    num::NonZeroU64,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use clap::Parser;
use futures::StreamExt;
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol, swarm::SwarmEvent};
use pluto_cluster::Lock;
use pluto_core::{Duty, ParSignedData, PubKey, ShareIdx, signing::Forks, threshold::Partial};
use pluto_crypto::keyfile;
use pluto_eth::network::Network;
use pluto_p2p::{
    Node, NodeConfig, NodeError, P2PContext, RelaySource, Routing,
    behaviours::pluto::PlutoBehaviourEvent,
    exchange::{Budget, Rejected},
    identity,
};
use pluto_parsigex::{
    BlsVerifier, Epochs, Event, Gate, Members, Received, Refusal, Unverified, Verifier, VerifyError,
};
use tokio_util::sync::CancellationToken;

/// How often it says why peers are not connected, while they are not.
const WHY_INTERVAL: Duration = Duration::from_secs(3);

/// Prints the partial signatures that the members of a cluster send.
#[derive(Debug, Parser)]
pub(crate) struct Args {
    /// The cluster's `cluster-lock.json`.
    #[arg(long, value_name = "FILE")]
    pub(crate) lock: PathBuf,
    /// The private key of the member to be, as in `charon-enr-private-key`.
    #[arg(long, value_name = "FILE")]
    pub(crate) key: PathBuf,
    /// Where members are; each address ends in `/p2p/` and the member's peer id.
    #[arg(long, value_name = "MULTIADDR", num_args = 1.., required_unless_present = "relay", value_parser = place)]
    pub(crate) peer: Vec<(PeerId, Multiaddr)>,
    /// Relays through which members are found, as URL, ENR or multiaddr.
    #[arg(long, value_name = "RELAY", num_args = 1..)]
    pub(crate) relay: Vec<RelaySource>,
    /// Prints what cannot be verified too, as on a simulated chain.
    #[arg(long)]
    pub(crate) unverified: bool,
    /// Ends after so many signatures.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
}

/// Why it could not listen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    #[error(transparent)]
    Lock(#[from] pluto_cluster::ReadError),
    #[error(transparent)]
    Key(#[from] keyfile::Error),
    #[error("{} is not the key of an operator in {}: use both of one node", key.display(), lock.display())]
    NotAnOperator { key: PathBuf, lock: PathBuf },
    #[error("--peer {peer} is no operator in {}: the lock of another cluster?", lock.display())]
    Stranger { peer: PeerId, lock: PathBuf },
    #[error("--peer {peer} is the member whose key is used: give the others")]
    Itself { peer: PeerId },
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("cannot write")]
    Write(#[from] io::Error),
}

impl ListenError {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Stranger { .. } | Self::Itself { .. } => 2,
            _ => 1,
        }
    }
}

/// Why text is no place of a peer.
#[derive(Debug, thiserror::Error)]
enum PlaceError {
    #[error("it is no multiaddr")]
    Address(#[from] libp2p::multiaddr::Error),
    #[error("it does not end in /p2p/<peer id>: without it nobody could tell who answers there")]
    NoPeerId,
}

fn place(text: &str) -> Result<(PeerId, Multiaddr), PlaceError> {
    let mut address: Multiaddr = text.parse()?;
    match address.pop() {
        Some(Protocol::P2p(peer)) => Ok((peer, address)),
        _ => Err(PlaceError::NoPeerId),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let stop = async {
        // Without a handler nobody can stop it this way; then it is not stopped this way.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    match listen(args, stop, &mut io::stdout(), &mut io::stderr()).await {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("error: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                eprint!(": {cause}");
                source = cause.source();
            }
            eprintln!();
            ExitCode::from(error.exit_code())
        }
    }
}

/// Prints until there are enough or it is stopped; gives how many there were.
pub(crate) async fn listen(
    args: Args,
    stop: impl Future<Output = ()>,
    out: &mut (impl Write + Send),
    notes: &mut (impl Write + Send),
) -> Result<u64, ListenError> {
    let lock = Lock::read(&args.lock)?;
    let key = identity::keypair(&keyfile::load(&args.key)?);
    let members = members(&lock);
    let local = key.public().to_peer_id();
    let Some(share_idx) = members.share_idx(&local) else {
        let Args { key, lock, .. } = args;
        return Err(ListenError::NotAnOperator { key, lock });
    };
    let mut config = NodeConfig::new(key).with_relays(args.relay.iter().cloned());
    config.routing = Routing {
        cluster: hex::encode(lock.lock_hash())[..7].parse().ok(),
        uuid: lock.uuid().parse().ok(),
    };
    for (peer, _) in &args.peer {
        let peer = *peer;
        if peer == local {
            return Err(ListenError::Itself { peer });
        }
        let Some(_) = members.share_idx(&peer) else {
            let lock = args.lock;
            return Err(ListenError::Stranger { peer, lock });
        };
        let places = args.peer.iter().filter(|(other, _)| *other == peer);
        config
            .book
            .set(peer, places.map(|(_, address)| address.clone()).collect());
    }

    let network = network(lock.fork_version()).filter(|_| !args.unverified);
    let checked = match &network {
        Some((name, ..)) => format!("signatures are verified for {name}"),
        None if args.unverified => "signatures are NOT verified, as told".to_owned(),
        None => "its network is not known here: signatures are NOT verified".to_owned(),
    };
    writeln!(
        notes,
        "{local} is share {share_idx} of {} in cluster \"{}\"; {checked}",
        lock.operators().len(),
        lock.name(),
    )?;
    let clock = network.as_ref().map(|(_, _, clock)| *clock);
    let gate = move |duty: Duty| clock.map_or(Ok(()), |clock| clock.check(duty));
    let verifier = Check(network.map(|(_, forks, _)| BlsVerifier::new(forks, shares(&lock))));

    let expected: Vec<PeerId> = match args.relay.is_empty() {
        true => args.peer.iter().map(|(peer, _)| *peer).collect(),
        false => members.peers().filter(|peer| *peer != local).collect(),
    };
    let context = P2PContext::new(members.peers());
    let (mut node, mut received) = Node::new(config, context.clone(), |builder| {
        let (context, local) = (builder.p2p_context(), builder.local_peer_id());
        // Nothing is sent, so the handle goes.
        let (behaviour, _, received) =
            pluto_parsigex::new(context, local, members, gate, verifier, Budget::default());
        Ok::<_, std::convert::Infallible>((behaviour, received))
    })?;

    let mut why = tokio::time::interval(WHY_INTERVAL);
    why.reset();
    let mut stop = std::pin::pin!(stop);
    let (mut count, mut advised) = (0, false);
    while args.count.is_none_or(|enough| count < enough) {
        tokio::select! {
            () = &mut stop => break,
            Some(received) = received.recv() => {
                for (pubkey, _) in received.message.set.iter() {
                    if args.count.is_none_or(|enough| count < enough) {
                        print(out, &received, pubkey)?;
                        count += 1;
                    }
                }
            }
            // Polling the node is what makes it run.
            Some(event) = node.next() => match event {
                SwarmEvent::Behaviour(PlutoBehaviourEvent::Inner(event)) => {
                    note(notes, &event)?;
                    if !advised && is_bad(&event) {
                        advised = true;
                        writeln!(notes, "if the cluster is on a simulated chain, use --unverified")?;
                    }
                }
                SwarmEvent::ConnectionEstablished { peer_id, endpoint, .. } => {
                    writeln!(notes, "connected to {peer_id} at {}", endpoint.get_remote_address())?;
                }
                _ => {}
            },
            _ = why.tick() => {
                for peer in &expected {
                    if let Some(why) = context.why_not_connected(*peer) {
                        writeln!(notes, "{why}")?;
                    }
                }
            }
        }
    }
    node.control().shutdown();
    node.run(CancellationToken::new()).await;
    writeln!(notes, "{count} partial signatures received")?;
    Ok(count)
}

fn print(out: &mut impl Write, received: &Received, validator: &PubKey) -> io::Result<()> {
    let Duty { slot, kind } = received.message.duty;
    let (validator, share_idx, peer) = (validator.short(), received.share_idx, received.peer);
    writeln!(
        out,
        "slot {slot} {kind} validator {validator} share {share_idx} peer {peer}"
    )
}

/// What was sent in vain.
fn note(notes: &mut impl Write, event: &Event) -> io::Result<()> {
    match event {
        Event::Refused {
            peer, duty, cause, ..
        } => {
            let duty = duty.map_or_else(|| "a message".to_owned(), |duty| duty.to_string());
            write!(notes, "refused: {duty} from {peer}: {cause}")?;
            let mut source = cause.source();
            while let Some(cause) = source {
                write!(notes, ": {cause}")?;
                source = cause.source();
            }
            writeln!(notes)
        }
        Event::Unchecked { peer, .. } => writeln!(notes, "not checked: a message from {peer}"),
        Event::Rejected(Rejected { peer, cause, .. }) => {
            writeln!(notes, "not read: from {peer}: {cause}")
        }
        _ => Ok(()),
    }
}

fn is_bad(event: &Event) -> bool {
    matches!(
        event,
        Event::Refused {
            cause: Refusal::Verify(VerifyError::Bad { .. }),
            ..
        }
    )
}

/// Verifies where the network is known.
struct Check(Option<BlsVerifier>);

impl Verifier for Check {
    fn verify(
        &self,
        duty: Duty,
        entries: &[(PubKey, ParSignedData)],
    ) -> Result<Vec<Partial>, VerifyError> {
        match &self.0 {
            Some(verifier) => verifier.verify(duty, entries),
            None => Unverified.verify(duty, entries),
        }
    }
}

fn members(lock: &Lock) -> Members {
    let operators = lock.operators().iter();
    Members::new(operators.map(|it| (identity::peer_id(&it.public_key), it.idx.share_idx())))
}

type Shares = std::collections::BTreeMap<ShareIdx, pluto_crypto::bls::PublicKey>;

fn shares(lock: &Lock) -> impl Iterator<Item = (PubKey, Shares)> {
    lock.validators().iter().map(|validator| {
        let operators = lock
            .operators()
            .iter()
            .map(|operator| operator.idx.share_idx());
        let shares = operators.zip(validator.public_shares.iter().copied());
        (validator.pubkey, shares.collect())
    })
}

/// The fork schedule and the clock of a public network, by its genesis fork version.
pub(crate) fn network(genesis_version: [u8; 4]) -> Option<(&'static str, Forks, Epochs)> {
    let mut networks = Network::BUILT_IN.into_iter();
    let network = networks.find(|it| it.genesis_version().0 == genesis_version)?;
    let Chain {
        name,
        validators_root,
        schedule,
    } = chain(network.name())?;
    let mut genesis_validators_root = [0; 32];
    hex::decode_to_slice(validators_root, &mut genesis_validators_root).ok()?;
    let slots_per_epoch = NonZeroU64::new(32)?;
    let clock = Epochs {
        genesis: SystemTime::UNIX_EPOCH + Duration::from_secs(network.genesis_time_secs()),
        slot_duration: network.slot_duration()?,
        slots_per_epoch,
    };
    let forks = Forks {
        genesis_version,
        genesis_validators_root,
        schedule,
        exit_version: network.capella_version().map(|it| it.0),
        slots_per_epoch,
    };
    Some((name, forks, clock))
}

struct Chain {
    name: &'static str,
    validators_root: &'static str,
    schedule: Vec<(u64, [u8; 4])>,
}

/// What a beacon node says of its network besides: facts of the networks' own configurations
/// (github.com/eth-clients). Epochs and versions of Altair and all forks after it.
fn chain(name: &str) -> Option<Chain> {
    let mainnet = |n| [n, 0, 0, 0];
    let sepolia = |n| [0x90, 0, 0, n];
    let hoodi = |n| [n, 0, 0x09, 0x10];
    let (name, validators_root, schedule) = match name {
        "mainnet" => (
            "mainnet",
            "4b363db94e286120d76eb905340fdd4e54bfe9f06bf33ff6cf5ad27f511bfe95",
            vec![
                (74_240, mainnet(1)),
                (144_896, mainnet(2)),
                (194_048, mainnet(3)),
                (269_568, mainnet(4)),
                (364_032, mainnet(5)),
                (411_392, mainnet(6)),
            ],
        ),
        "sepolia" => (
            "sepolia",
            "d8ea171f3c94aea21ebc42a1ed61052acf3f9209c00e4efbaaddac09ed9b8078",
            vec![
                (50, sepolia(0x70)),
                (100, sepolia(0x71)),
                (56_832, sepolia(0x72)),
                (132_608, sepolia(0x73)),
                (222_464, sepolia(0x74)),
                (272_640, sepolia(0x75)),
            ],
        ),
        "hoodi" => (
            "hoodi",
            "212f13fc4df078b6cb7db228f1c8307566dcecf900867401a92023d7ba99cb5f",
            vec![
                (0, hoodi(0x50)),
                (2_048, hoodi(0x60)),
                (50_688, hoodi(0x70)),
            ],
        ),
        _ => return None,
    };
    Some(Chain {
        name,
        validators_root,
        schedule,
    })
}
