//! The command line, and the environment in its place.
//!
//! What Charon reads from `CHARON_…` is read from there too, by all commands but `devnet`, so that
//! files of environments move over. A flag counts more than the environment.

use std::{
    ffi::{OsStr, OsString},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use clap::{
    Arg, ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum,
    builder::BoolishValueParser,
};
use libp2p::{Multiaddr, multiaddr::Protocol};
use pluto_cluster::{
    Verifier,
    http::{ExecutionClient, UrlError},
};
use pluto_eth::address::Address;
use pluto_eth::network::{CustomError, CustomFlags, Networks};
use pluto_eth::registration::DEFAULT_GAS_LIMIT;
use pluto_p2p::addr::{AddrError, Transport, parse_listen};

/// What it calls itself.
pub(crate) const VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"));

/// Peer-to-peer networking of an Ethereum distributed validator.
#[derive(Debug, Parser)]
#[command(name = "pluto", version = VERSION, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Args {
    /// Those that this program was started with. Ends it, as clap does, if they are wrong.
    pub(crate) fn read() -> Self {
        let mut command = command(|name| std::env::var_os(name));
        let args = command.try_get_matches_from_mut(std::env::args_os());
        args.and_then(|it| Self::from_arg_matches(&it))
            .unwrap_or_else(|error| error.format(&mut command).exit())
    }
}

/// Flags that Charon does not have.
const OURS: [&str; 4] = ["charon-version", "drain", "json", "strict"];

/// The commands, with the variables that their flags are read from.
fn command(value: fn(&str) -> Option<OsString>) -> clap::Command {
    let command = Args::command().mut_subcommand("create", |create| {
        create
            .mut_subcommand("dkg", |it| with_addresses(it, |arg| arg.required(true)))
            .mut_subcommand("cluster", |it| {
                with_addresses(it, |arg| arg.required_unless_present("definition_file"))
            })
    });
    command.mut_subcommands(move |command| match command.get_name() {
        // It is none of Charon's, and shall not run in the directory of a real node.
        "devnet" => command,
        _ => with_environment(command, value),
    })
}

/// Both commands have the flags, and each needs them in another case.
fn with_addresses(command: clap::Command, change: fn(Arg) -> Arg) -> clap::Command {
    command
        .mut_arg("fee_recipient_addresses", change)
        .mut_arg("withdrawal_addresses", change)
}

fn with_environment(command: clap::Command, value: fn(&str) -> Option<OsString>) -> clap::Command {
    let with_variable = move |arg: Arg| {
        let Some(flag) = arg.get_long().filter(|it| !OURS.contains(it)) else {
            return arg;
        };
        let name = format!("CHARON_{}", flag.to_ascii_uppercase().replace('-', "_"));
        let is_switch = matches!(arg.get_action(), ArgAction::SetTrue);
        // Neither is as good as not set: no flag can be given like that.
        let is_off = |it: OsString| it.is_empty() || (is_switch && is_no(&it));
        if value(&name).is_some_and(is_off) {
            return arg;
        }
        // Tokens are secrets.
        let arg = arg.env(name).hide_env_values(true);
        if is_switch {
            arg.value_parser(BoolishValueParser::new())
        } else {
            arg
        }
    };
    let of_subcommands = move |command| with_environment(command, value);
    command
        .mut_args(with_variable)
        .mut_subcommands(of_subcommands)
}

/// As Go reads a boolean, and clap.
fn is_no(value: &OsStr) -> bool {
    let no = ["0", "f", "false", "n", "no", "off"];
    let is = |it: &str| value.eq_ignore_ascii_case(it);
    no.into_iter().any(is)
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole cluster on this machine and watch its nodes find each other and sign.
    Devnet(Devnet),
    /// Run a relay: where nodes that cannot reach each other meet.
    Relay(Box<Relay>),
    /// Print the ENR of this node's identity key.
    Enr(DataDir),
    /// Check a definition, a lock, a node's directory, or a directory of several of those.
    Verify(Verify),
    /// Put the validators' keys together from the shares of several nodes.
    Combine(Combine),
    /// Create keys and files.
    #[command(subcommand)]
    Create(Create),
    /// Print the version.
    Version,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Create {
    /// Create this node's identity key and print its ENR. Never overwrites a key.
    Enr(DataDir),
    /// Create the definition of a cluster, which its operators then make with a ceremony.
    Dkg(Box<CreateDkg>),
    /// Create a whole cluster at once: the keys of all its nodes are made here.
    Cluster(Box<CreateCluster>),
}

/// What kind of cluster.
#[derive(Debug, clap::Args)]
pub(crate) struct Shape {
    /// Name of the cluster.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) name: String,
    /// Partial signatures that make one [default: two thirds of the nodes, rounded up].
    #[arg(long, short = 't')]
    pub(crate) threshold: Option<u32>,
    /// Who gets the fees: one address, or one for each validator.
    #[arg(long, value_delimiter = ',', value_name = "ADDRESS", value_parser = Address::from_typed)]
    pub(crate) fee_recipient_addresses: Vec<Address>,
    /// Who gets the stake back: one address, or one for each validator.
    #[arg(long, value_delimiter = ',', value_name = "ADDRESS")]
    pub(crate) withdrawal_addresses: Vec<String>,
    /// Partial deposits in whole ETH, 32 or more together [default: 1 and 32, or 1, 8, 32 and 256
    /// if compounding].
    #[arg(long, value_delimiter = ',', value_name = "ETH")]
    pub(crate) deposit_amounts: Vec<u64>,
    /// Consensus protocol that is preferred: qbft, or nothing.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) consensus_protocol: String,
    /// Gas limit that builders are asked for.
    #[arg(long, default_value_t = DEFAULT_GAS_LIMIT)]
    pub(crate) target_gas_limit: u64,
    /// Withdrawal credentials of the compounding kind (0x02).
    #[arg(long)]
    pub(crate) compounding: bool,
    /// Network: mainnet, sepolia, hoodi, gnosis or chiado.
    #[arg(long, default_value = "mainnet")]
    pub(crate) network: String,
    /// Oldest Charon that is to read the files. A cluster with one member that runs v1.10 needs v1.10.
    #[arg(long, value_enum, default_value_t = CharonVersion::V1_11)]
    pub(crate) charon_version: CharonVersion,
    #[command(flatten)]
    pub(crate) testnet: Testnet,
}

/// A release of Charon that files are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CharonVersion {
    #[value(name = "v1.10")]
    V1_10,
    #[value(name = "v1.11")]
    V1_11,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CreateDkg {
    #[command(flatten)]
    pub(crate) shape: Shape,
    /// ENRs of the operators, in order.
    #[arg(long, value_delimiter = ',', value_name = "ENR")]
    pub(crate) operator_enrs: Vec<String>,
    /// Wallet addresses of the operators, in order, instead of their ENRs: each operator still has to
    /// add its ENR and to sign before the ceremony.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "ADDRESS",
        value_parser = Address::from_typed,
        conflicts_with = "operator_enrs",
        required_unless_present_any = ["operator_enrs", "publish"]
    )]
    pub(crate) operator_addresses: Vec<Address>,
    /// Validators that the cluster is to run.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) num_validators: u32,
    /// Algorithm of the ceremony.
    #[arg(long, default_value = "default")]
    pub(crate) dkg_algorithm: String,
    /// Directory that the definition is written to.
    #[arg(long, default_value = ".charon", value_name = "DIR")]
    pub(crate) output_dir: PathBuf,
    /// Not supported: nothing is sent to a third party's service. Send the file to the operators.
    #[arg(long)]
    pub(crate) publish: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CreateCluster {
    #[command(flatten)]
    pub(crate) shape: Shape,
    /// A definition, as a file or at an http(s) address, instead of the flags that describe the
    /// cluster. Its operators must not have joined: their identity keys are made here.
    #[arg(long, value_name = "FILE|URL", conflicts_with_all = DESCRIPTION)]
    pub(crate) definition_file: Option<String>,
    /// Nodes of the cluster.
    #[arg(
        long,
        required_unless_present = "definition_file",
        value_parser = clap::value_parser!(u32).range(3..=256)
    )]
    pub(crate) nodes: Option<u32>,
    /// Validators of the cluster.
    #[arg(
        long,
        required_unless_present_any = ["definition_file", "split_existing_keys"],
        conflicts_with = "split_existing_keys",
        value_parser = clap::value_parser!(u32).range(1..=65_536)
    )]
    pub(crate) num_validators: Option<u32>,
    /// Split keys that exist instead of making new ones. Stop whatever signs with them first: a
    /// validator that signs twice is slashed.
    #[arg(long, requires = "split_keys_dir")]
    pub(crate) split_existing_keys: bool,
    /// Directory of the keystores to split (*.json), each with its password file (.txt). With one
    /// address for each validator they must be keystore-0.json, keystore-1.json and so on.
    #[arg(long, value_name = "DIR", requires = "split_existing_keys")]
    pub(crate) split_keys_dir: Option<PathBuf>,
    /// Directory that the nodes' directories are written to.
    #[arg(long, default_value = "./", value_name = "DIR")]
    pub(crate) cluster_dir: PathBuf,
    /// Keystores that open fast and protect nothing; for test networks.
    #[arg(long)]
    pub(crate) insecure_keys: bool,
    /// Not supported: import the keystores of each node with the tools of its key manager.
    #[arg(long, value_delimiter = ',', value_name = "URL")]
    pub(crate) keymanager_addresses: Vec<String>,
    /// Not supported, as --keymanager-addresses.
    #[arg(long, value_delimiter = ',', value_name = "TOKEN")]
    pub(crate) keymanager_auth_tokens: Vec<String>,
    /// Not supported: nothing is sent to a third party's service.
    #[arg(long)]
    pub(crate) publish: bool,
    /// Not supported: pack the nodes' directories with tar.
    #[arg(long)]
    pub(crate) zipped: bool,
    #[command(flatten)]
    pub(crate) wallets: Wallets,
}

/// The flags that a definition stands for.
const DESCRIPTION: [&str; 12] = [
    "name",
    "threshold",
    "fee_recipient_addresses",
    "withdrawal_addresses",
    "deposit_amounts",
    "consensus_protocol",
    "target_gas_limit",
    "compounding",
    "network",
    "charon_version",
    "nodes",
    "num_validators",
];

/// Who is asked about the signatures of contract wallets.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Wallets {
    /// Execution client of the cluster's network, asked by JSON-RPC whether contract wallets accept
    /// signatures that are not an address's own (ERC-1271).
    #[arg(long, value_name = "URL")]
    pub(crate) execution_client_rpc_endpoint: Option<String>,
}

impl Wallets {
    /// The client, if there is one.
    pub(crate) fn client(&self) -> Result<Option<ExecutionClient>, EndpointError> {
        // An empty one is none, as for Charon.
        let url = self.execution_client_rpc_endpoint.as_deref();
        let client = url.filter(|it| !it.is_empty()).map(ExecutionClient::new);
        Ok(client.transpose()?)
    }
}

/// What checks files with those networks, and asks that client if there is one.
pub(crate) fn verifier<'a>(
    networks: &'a Networks,
    client: Option<&'a ExecutionClient>,
) -> Verifier<'a> {
    let verifier = Verifier::new().with_networks(networks);
    match client {
        Some(client) => verifier.with_wallets(client),
        None => verifier,
    }
}

#[derive(Debug, thiserror::Error)]
#[error("--execution-client-rpc-endpoint cannot be used")]
pub(crate) struct EndpointError(#[from] UrlError);

#[derive(Debug, clap::Args)]
pub(crate) struct DataDir {
    /// Directory of this node's files.
    #[arg(long, default_value = ".charon", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    /// A definition, a lock, a node's directory, or a directory of several of those.
    #[arg(value_name = "FILE|DIR")]
    pub(crate) path: PathBuf,
    /// Fail also when something could not be checked.
    #[arg(long)]
    pub(crate) strict: bool,
    /// Print one JSON object on standard output: ok, kind, summary, findings, and error if there is
    /// nothing that can be looked at.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) wallets: Wallets,
    #[command(flatten)]
    pub(crate) testnet: Testnet,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Combine {
    /// Directory of the nodes' directories, each with its lock and validator_keys.
    #[arg(long, default_value = "./", value_name = "DIR")]
    pub(crate) cluster_dir: PathBuf,
    /// Directory that the keystores are written to: new, or empty.
    #[arg(long, default_value = "./validator_keys", value_name = "DIR")]
    pub(crate) output_dir: PathBuf,
    /// If there is something in the output directory, rename that to DIR.old (or .old2 and so on)
    /// first. Nothing is deleted.
    #[arg(long)]
    pub(crate) force: bool,
    /// Go on with a lock that is wrong, or that differs from the others: that is only told, and the
    /// first one is used. The keys have to be those of its validators in any case.
    #[arg(long)]
    pub(crate) no_verify: bool,
    #[command(flatten)]
    pub(crate) wallets: Wallets,
    #[command(flatten)]
    pub(crate) testnet: Testnet,
}

/// A network of one's own: all four, or none.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Testnet {
    /// Name of the custom test network.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) testnet_name: String,
    /// Genesis fork version of the custom test network (in hex).
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) testnet_fork_version: String,
    /// Chain id of the custom test network.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub(crate) testnet_chain_id: u64,
    /// Genesis time of the custom test network, in seconds since 1970.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub(crate) testnet_genesis_timestamp: u64,
}

impl Testnet {
    /// The networks there are with this one.
    pub(crate) fn networks(&self) -> Result<Networks, CustomError> {
        Networks::with_flags(&CustomFlags {
            name: self.testnet_name.clone(),
            fork_version: self.testnet_fork_version.clone(),
            chain_id: self.testnet_chain_id,
            genesis_time: self.testnet_genesis_timestamp,
            capella_version: String::new(),
        })
    }
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Devnet {
    /// Nodes of the cluster.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..=32))]
    pub(crate) nodes: u32,
    /// Partial signatures that make a group signature [default: two thirds of the nodes, rounded up].
    #[arg(long)]
    pub(crate) threshold: Option<u32>,
    /// Validators that the cluster runs.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) validators: u32,
    /// Length of a slot, for example 500ms or 2s.
    #[arg(long, default_value = "1s", value_parser = duration)]
    pub(crate) slot_duration: Duration,
    /// Slots to run; 0 runs until Ctrl-C.
    #[arg(long, default_value_t = 10)]
    pub(crate) slots: u64,
    /// Transport between the nodes.
    #[arg(long, value_enum, default_value_t = Net::Both)]
    pub(crate) transport: Net,
    /// Relays that the nodes find each other through, as real clusters do; without any they are told
    /// where the others are.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=8))]
    pub(crate) relays: u32,
    /// Stay on the relays instead of going direct.
    #[arg(long)]
    pub(crate) no_direct: bool,
    /// Directory of the cluster: its nodes' keys and its lock. One that is there is used again.
    #[arg(long, default_value = "devnet", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// Stop a node at the start of a slot, for example 2@3. May be repeated.
    #[arg(long, value_name = "NODE@SLOT")]
    pub(crate) kill: Vec<At>,
    /// Start a stopped node again at the start of a slot. May be repeated.
    #[arg(long, value_name = "NODE@SLOT")]
    pub(crate) restart: Vec<At>,
    /// Print one JSON object a line, and nothing else, on standard output.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Exit codes: 0 it was told to end and circuits had ended or had their time; 1 it did not start;
/// 2 wrong usage; 130 a second signal cut circuits.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
On SIGTERM or Ctrl-C the relay gives nothing new, frees its TCP ports, answers 503 on /readyz, and sends \
peers without a circuit away, so that they look for another relay at once. Running circuits get \
--drain. A second signal ends it now.

Exit codes: 0 ended as told, 1 it did not start, 2 wrong usage, 130 a second signal cut circuits.")]
pub(crate) struct Relay {
    /// Directory of the relay's identity key, charon-enr-private-key.
    #[arg(long, default_value = ".charon", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// Address (IP:PORT) of the HTTP server that tells clients where the relay is; "" disables it.
    #[arg(long, default_value = "127.0.0.1:3640", value_name = "IP:PORT", value_parser = maybe_socket)]
    pub(crate) http_address: MaybeSocket,
    /// Address (IP:PORT) of /metrics, /livez and /readyz; "" disables them.
    #[arg(long, default_value = "", value_name = "IP:PORT", hide_default_value = true, value_parser = maybe_socket)]
    pub(crate) monitoring_address: MaybeSocket,
    /// Make the identity key if there is none. A key that is there is never overwritten.
    #[arg(
        long,
        default_value_t = true,
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = BoolishValueParser::new(),
        value_name = "BOOL"
    )]
    pub(crate) auto_p2pkey: bool,
    /// TCP addresses (IP:PORT) to listen on, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "IP:PORT", required = true, value_parser = maybe_tcp)]
    pub(crate) p2p_tcp_address: Vec<MaybeListen>,
    /// UDP addresses (IP:PORT) to listen on for QUIC, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "IP:PORT", value_parser = maybe_quic)]
    pub(crate) p2p_udp_address: Vec<MaybeListen>,
    /// IP address under which the relay is reached from outside, at its ports.
    #[arg(long, value_name = "IP", default_value = "", hide_default_value = true, value_parser = maybe_ip)]
    pub(crate) p2p_external_ip: MaybeIp,
    /// Host name under which the relay is reached from outside, at its ports.
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true, value_parser = maybe_host)]
    pub(crate) p2p_external_hostname: MaybeHost,
    /// Tell clients private addresses too. Without it they are told only if there are no others.
    #[arg(
        long,
        default_value_t = false,
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = BoolishValueParser::new(),
        value_name = "BOOL"
    )]
    pub(crate) p2p_advertise_private_addresses: bool,
    /// Peers that may hold a place at the same time. Renewals are never refused for it.
    #[arg(long, default_value_t = 16_384, value_name = "PEERS", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) p2p_max_connections: u32,
    /// Two bounds at once, as in Charon: peers that may hold a place from one IPv4 address or IPv6
    /// network (/64), and circuits that one peer may have, those from it and to it together.
    #[arg(long, default_value_t = 512, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=2000))]
    pub(crate) p2p_max_reservations: u32,
    /// Time that running circuits get after SIGTERM or Ctrl-C, for example 30s; at most 1h.
    #[arg(long, default_value = "30s", value_parser = drain)]
    pub(crate) drain: Duration,
    /// Print one JSON object a line, and nothing else, on standard output.
    #[arg(long)]
    pub(crate) json: bool,
    /// Taken and not used, as in Charon: a relay uses no other relay.
    #[arg(long, hide = true, default_value = "", value_name = "URLS")]
    pub(crate) p2p_relays: String,
    #[command(flatten)]
    pub(crate) unused: Unused,
}

/// Flags of Charon's relay that there is nothing of here. They are taken, so that its command lines run,
/// and it is said that they do nothing.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Unused {
    #[arg(long, hide = true)]
    log_level: Option<String>,
    #[arg(long, hide = true)]
    log_format: Option<String>,
    #[arg(long, hide = true)]
    log_color: Option<String>,
    #[arg(long, hide = true)]
    log_output_path: Option<String>,
    #[arg(long, hide = true)]
    loki_addresses: Option<String>,
    #[arg(long, hide = true)]
    loki_service: Option<String>,
    #[arg(long, hide = true)]
    debug_address: Option<String>,
    #[arg(long, hide = true)]
    p2p_relay_loglevel: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    p2p_disable_reuseport: Option<String>,
}

impl Unused {
    /// Those that were given.
    pub(crate) fn given(&self) -> Vec<&'static str> {
        let Self {
            log_level,
            log_format,
            log_color,
            log_output_path,
            loki_addresses,
            loki_service,
            debug_address,
            p2p_relay_loglevel,
            p2p_disable_reuseport,
        } = self;
        let all = [
            ("--log-level", log_level),
            ("--log-format", log_format),
            ("--log-color", log_color),
            ("--log-output-path", log_output_path),
            ("--loki-addresses", loki_addresses),
            ("--loki-service", loki_service),
            ("--debug-address", debug_address),
            ("--p2p-relay-loglevel", p2p_relay_loglevel),
            ("--p2p-disable-reuseport", p2p_disable_reuseport),
        ];
        let given = all.into_iter().filter(|(_, value)| value.is_some());
        given.map(|(flag, _)| flag).collect()
    }
}

/// An address, or none for an empty text.
pub(crate) type MaybeSocket = Wrapped<SocketAddr>;
/// An address to listen on, or none for an empty text.
pub(crate) type MaybeListen = Wrapped<Multiaddr>;
/// An IP address, or none for an empty text.
pub(crate) type MaybeIp = Wrapped<IpAddr>;
/// A host name, or none for an empty text.
pub(crate) type MaybeHost = Wrapped<String>;

/// Optional values that an empty text switches off. Not an `Option`, which clap reads as an absent
/// flag.
#[derive(Debug, Clone)]
pub(crate) struct Wrapped<T>(pub(crate) Option<T>);

#[derive(Debug, thiserror::Error)]
enum HostError {
    #[error(
        "write a host name, for example relay.example.org; an IP address goes to --p2p-external-ip"
    )]
    NotAName,
}

fn maybe_socket(text: &str) -> Result<MaybeSocket, std::net::AddrParseError> {
    let some = !text.is_empty();
    Ok(Wrapped(some.then(|| text.parse()).transpose()?))
}

fn maybe_tcp(text: &str) -> Result<MaybeListen, AddrError> {
    maybe_listen(text, Transport::Tcp)
}

fn maybe_quic(text: &str) -> Result<MaybeListen, AddrError> {
    maybe_listen(text, Transport::Quic)
}

fn maybe_listen(text: &str, transport: Transport) -> Result<MaybeListen, AddrError> {
    let some = !text.is_empty();
    Ok(Wrapped(
        some.then(|| parse_listen(text, transport)).transpose()?,
    ))
}

fn maybe_ip(text: &str) -> Result<MaybeIp, std::net::AddrParseError> {
    let some = !text.is_empty();
    Ok(Wrapped(some.then(|| text.parse()).transpose()?))
}

fn maybe_host(text: &str) -> Result<MaybeHost, HostError> {
    if text.is_empty() {
        return Ok(Wrapped(None));
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.len() > 253 || name.parse::<IpAddr>().is_ok() || !name.split('.').all(label) {
        return Err(HostError::NotAName);
    }
    Ok(Wrapped(Some(text.to_owned())))
}

/// What the nodes listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Net {
    Tcp,
    Quic,
    Both,
}

impl Net {
    /// Any port of loopback.
    pub(crate) fn listen(self) -> impl Iterator<Item = Multiaddr> {
        let loopback = Multiaddr::from(Ipv4Addr::LOCALHOST);
        let tcp = loopback.clone().with(Protocol::Tcp(0));
        let quic = loopback.with(Protocol::Udp(0)).with(Protocol::QuicV1);
        let (tcp, quic) = match self {
            Self::Tcp => (Some(tcp), None),
            Self::Quic => (None, Some(quic)),
            Self::Both => (Some(tcp), Some(quic)),
        };
        tcp.into_iter().chain(quic)
    }
}

/// A node at a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) node: usize,
    pub(crate) slot: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("write it as NODE@SLOT, for example 2@3: node 2 at slot 3")]
pub(crate) struct AtError;

impl FromStr for At {
    type Err = AtError;

    fn from_str(text: &str) -> Result<Self, AtError> {
        let (node, slot) = text.split_once('@').ok_or(AtError)?;
        Ok(Self {
            node: node.parse().map_err(|_| AtError)?,
            slot: slot.parse().map_err(|_| AtError)?,
        })
    }
}

#[derive(Debug, thiserror::Error)]
#[error("write a number with its unit, between 100ms and 1h: 500ms, 2s, 1m")]
pub(crate) struct DurationError;

fn duration(text: &str) -> Result<Duration, DurationError> {
    let millis = millis(text).ok_or(DurationError)?;
    if (100..=3_600_000).contains(&millis) {
        Ok(Duration::from_millis(millis))
    } else {
        Err(DurationError)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("write a number with its unit, at most 1h: 0s, 30s, 5m")]
pub(crate) struct DrainError;

fn drain(text: &str) -> Result<Duration, DrainError> {
    match millis(text) {
        Some(millis) if millis <= 3_600_000 => Ok(Duration::from_millis(millis)),
        _ => Err(DrainError),
    }
}

fn millis(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(char::is_alphabetic);
    let number: u64 = digits.parse().ok()?;
    match &text[digits.len()..] {
        "ms" => Some(number),
        "s" => Some(number.saturating_mul(1000)),
        "m" => Some(number.saturating_mul(60_000)),
        "h" => Some(number.saturating_mul(3_600_000)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_takes_charons_flags() {
        let parse = |more: &[&str]| {
            let words = ["pluto", "relay", "--p2p-tcp-address=127.0.0.1:0"];
            Args::try_parse_from(words.iter().chain(more)).map(|args| match args.command {
                Command::Relay(relay) => relay,
                other => panic!("{other:?}"),
            })
        };
        let relay = parse(&[]).unwrap();
        assert!(relay.auto_p2pkey && !relay.p2p_advertise_private_addresses);
        assert_eq!(relay.http_address.0, Some(([127, 0, 0, 1], 3640).into()));
        let charons = [
            "--auto-p2pkey=false",
            "--http-address",
            "",
            "--p2p-advertise-private-addresses",
            "--p2p-external-ip=10.0.0.1",
            "--p2p-external-hostname=relay.example.org",
            "--p2p-relays",
            "",
            "--drain=0s",
        ];
        let relay = parse(&charons).unwrap();
        assert!(!relay.auto_p2pkey && relay.p2p_advertise_private_addresses);
        assert!(relay.http_address.0.is_none());
        assert!(relay.unused.given().is_empty());
        let unused = ["--log-level=debug", "--p2p-disable-reuseport"];
        let given = parse(&unused).unwrap().unused.given();
        assert_eq!(given, ["--log-level", "--p2p-disable-reuseport"]);
        assert_eq!(relay.drain, Duration::ZERO);
        for wrong in [
            "--p2p-external-hostname=1.2.3.4",
            "--p2p-external-hostname=a..b",
            "--p2p-external-ip=relay",
            "--p2p-udp-address=3630",
            "--http-address=3640",
            "--p2p-max-reservations=0",
            "--drain=2h",
        ] {
            assert!(parse(&[wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        command(|_| None).debug_assert();
    }

    #[test]
    fn flags_that_charon_has_are_read_from_its_variables() {
        let variables = |command: &clap::Command| {
            let all = command.get_arguments();
            let all = all.filter_map(|it| it.get_env()?.to_str().map(str::to_owned));
            all.collect::<Vec<_>>()
        };
        let root = command(|_| None);
        let of = |name| variables(root.find_subcommand(name).unwrap());
        assert_eq!(of("enr"), ["CHARON_DATA_DIR"]);
        assert!(of("relay").contains(&"CHARON_P2P_TCP_ADDRESS".to_owned()));
        assert!(!of("relay").contains(&"CHARON_DRAIN".to_owned()));
        assert!(of("devnet").is_empty());

        let off = command(|name| (name == "CHARON_FORCE").then(|| "False".into()));
        let combine = variables(off.find_subcommand("combine").unwrap());
        assert!(combine.contains(&"CHARON_NO_VERIFY".to_owned()));
        assert!(!combine.contains(&"CHARON_FORCE".to_owned()));
    }

    #[test]
    fn durations_have_a_unit_and_bounds() {
        assert_eq!(duration("100ms").unwrap(), Duration::from_millis(100));
        assert_eq!(duration("2s").unwrap(), Duration::from_secs(2));
        assert_eq!(duration("1m").unwrap(), Duration::from_secs(60));
        for wrong in ["", "1", "99ms", "2h", "61m", "-1s", "1 s", "s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_node_at_a_slot_is_read() {
        assert_eq!("2@3".parse::<At>().unwrap(), At { node: 2, slot: 3 });
        for wrong in ["", "2", "@", "2@", "@3", "a@b", "2@3@4"] {
            assert!(wrong.parse::<At>().is_err(), "{wrong}");
        }
    }
}
