//! `pluto relay`: a relay for clusters whose nodes cannot reach each other.
//!
//! - **Owner:** [`run`] owns the relay, and tells what it does as it changes.
//! - **Cancellation:** a first signal begins its drain, a second one ends it.

use std::{error::Error, process::ExitCode};

use pluto_crypto::{k1::SecretKey, keyfile};
use pluto_relay_server::{Config, Control, Limits, Outcome, Phase, Reach, RelayServer, State};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    args,
    say::{note, say},
    signals::{Signal, Signals},
};

pub(crate) fn run(args: args::Relay) -> Result<ExitCode, Box<dyn Error>> {
    let (key, created) = identity(&args)?;
    if created {
        // At once: the next thing may fail, and the key stays.
        tell_created(&args);
    }
    let config = config(&args, key)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(relay(args, config))
}

/// The key of the data directory; made if there is none and that is wanted.
fn identity(args: &args::Relay) -> Result<(SecretKey, bool), keyfile::Error> {
    let path = args.data_dir.join(keyfile::FILE_NAME);
    match keyfile::load(&path) {
        Err(keyfile::Error::Missing { .. }) if args.auto_p2pkey => match keyfile::create(&path) {
            // Another process was faster.
            Err(keyfile::Error::Exists { .. }) => Ok((keyfile::load(&path)?, false)),
            created => Ok((created?, true)),
        },
        loaded => Ok((loaded?, false)),
    }
}

fn config(args: &args::Relay, key: SecretKey) -> Result<Config, Box<dyn Error>> {
    let per_ip = usize::try_from(args.p2p_max_reservations)?;
    let all = usize::try_from(args.p2p_max_connections)?;
    let mut config = Config::new(key).with_drain(args.drain).with_limits(Limits {
        max_reservations: all,
        max_reservations_per_ip: per_ip,
        max_circuits: all.saturating_mul(4),
        max_circuits_per_peer: per_ip,
        ..Limits::default()
    });
    let listen = args.p2p_tcp_address.iter().chain(&args.p2p_udp_address);
    for address in listen.filter_map(|it| it.0.clone()) {
        config = config.with_listen(address);
    }
    if let Some(ip) = args.p2p_external_ip.0 {
        config = config.with_external_ip(ip);
    }
    if let Some(host) = &args.p2p_external_hostname.0 {
        config = config.with_external_host(host);
    }
    if args.p2p_advertise_private_addresses {
        config = config.with_private_addresses();
    }
    if let Some(address) = args.http_address.0 {
        config = config.with_http(address);
    }
    if let Some(address) = args.monitoring_address.0 {
        config = config.with_monitoring(address);
    }
    Ok(config)
}

async fn relay(args: args::Relay, config: Config) -> Result<ExitCode, Box<dyn Error>> {
    let mut signals = Signals::new()?;
    let relay = RelayServer::new(config)?;
    let control = relay.control();
    let voice = Voice {
        json: args.json,
        control: control.clone(),
    };
    for flag in args.unused.given() {
        let text =
            format!("{flag} is taken and does nothing here; RUST_LOG chooses what is logged");
        voice.warn("not used", &text);
    }
    if args.p2p_udp_address.iter().all(|it| it.0.is_none()) {
        voice.warn(
            "no QUIC",
            "no --p2p-udp-address: the relay is reached by TCP alone",
        );
    }
    if let Some(files) = open_files()
        && files < u64::from(args.p2p_max_connections)
    {
        let text = format!(
            "this process may open {files} files, and each peer on TCP takes one: raise the hard \
             limit (ulimit -Hn), or lower --p2p-max-connections"
        );
        voice.warn("open files", &text);
    }
    let cancel = CancellationToken::new();
    let telling = tokio::spawn(voice.clone().follow());
    let mut running = std::pin::pin!(relay.run(cancel.clone()));
    let outcome = loop {
        tokio::select! {
            biased;
            _ = signals.next() => {
                if cancel.is_cancelled() {
                    control.stop();
                }
                cancel.cancel();
            }
            outcome = &mut running => break outcome,
        }
    };
    // It ends with the relay.
    telling.await?;
    voice.ended(outcome);
    Ok(match outcome {
        Outcome::Stopped { circuits } if circuits > 0 => {
            ExitCode::from(Signal::Interrupt.exit_code())
        }
        _ => ExitCode::SUCCESS,
    })
}

fn tell_created(args: &args::Relay) {
    let path = args.data_dir.join(keyfile::FILE_NAME).display().to_string();
    if args.json {
        say!("{}", json!({"event": "key created", "path": path}));
    } else {
        say!("Created the identity key {path}. Back it up: clients know the relay by it.");
    }
}

/// Raises the limit of open files as far as it goes, and gives it; `None` if there is none.
#[cfg(unix)]
fn open_files() -> Option<u64> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let before = limit.current;
    limit.current = limit.maximum;
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) => limit.current,
        Err(error) => {
            tracing::debug!(%error, "the limit of open files stays");
            before
        }
    }
}

#[cfg(not(unix))]
fn open_files() -> Option<u64> {
    None
}

/// What is said of the relay.
#[derive(Clone)]
struct Voice {
    json: bool,
    control: Control,
}

/// What was said already.
#[derive(Default)]
struct Said {
    serving: bool,
    draining: bool,
    unreachable: bool,
}

impl Voice {
    /// Says what changes, until the relay is gone.
    async fn follow(self) {
        let mut said = Said::default();
        loop {
            let news = self.control.wait_for(|state| {
                let serving = state.is_ready() && !said.serving;
                let draining = matches!(state.phase, Phase::Draining { .. }) && !said.draining;
                let unreachable = is_unreachable(state) && said.serving && !said.unreachable;
                (serving || draining || unreachable).then(|| state.clone())
            });
            let Ok(state) = news.await else {
                return;
            };
            if state.is_ready() && !said.serving {
                said.serving = true;
                self.serving(&state);
            }
            if is_unreachable(&state) && !said.unreachable {
                said.unreachable = true;
                self.unreachable(&state);
            }
            if let Phase::Draining { until } = state.phase
                && !said.draining
            {
                // Whatever else it learns does not matter any more.
                said = Said {
                    serving: true,
                    draining: true,
                    unreachable: true,
                };
                self.draining(&state, until);
            }
        }
    }

    fn serving(&self, state: &State) {
        let http = self.control.http_address();
        let monitoring = self.control.monitoring_address();
        let addresses: Vec<_> = state.addresses.iter().map(ToString::to_string).collect();
        if self.json {
            let line = json!({
                "event": "serving",
                "peer": self.control.peer_id().to_string(),
                "addresses": addresses,
                "http": http.map(|at| format!("http://{at}/")),
                "monitoring": monitoring.map(|at| format!("http://{at}/metrics")),
            });
            say!("{line}");
            return;
        }
        say!("Relay {} serves", self.control.peer_id());
        for address in addresses {
            say!("  {address}");
        }
        match http {
            Some(http) => say!("Clients find it with --p2p-relays http://{http}"),
            None => say!("Clients find it by one of these addresses: there is no HTTP server"),
        }
        if let Some(monitoring) = monitoring {
            say!("Metrics are at http://{monitoring}/metrics");
        }
    }

    fn unreachable(&self, state: &State) {
        let (why, text) = match state.reach {
            Reach::Private => (
                "not reached",
                "peers outside have tried to reach this relay and did not: open its ports, or give \
                 the address it is reached at with --p2p-external-ip or --p2p-external-hostname",
            ),
            _ => (
                "nothing public",
                "this relay has private addresses only, and tells those: nobody outside these \
                 networks can reach it. Give the address it is reached at with --p2p-external-ip or \
                 --p2p-external-hostname",
            ),
        };
        self.warn(why, text);
    }

    fn draining(&self, state: &State, until: Instant) {
        let left = until.saturating_duration_since(Instant::now());
        let seconds = left.as_secs_f64().ceil();
        if self.json {
            let line = json!({"event": "draining", "circuits": state.circuits, "seconds": seconds});
            say!("{line}");
        } else {
            say!(
                "Shutting down: circuits that run: {}. They get {seconds} s; a second signal ends it now",
                state.circuits
            );
        }
    }

    fn ended(&self, outcome: Outcome) {
        let (how, cut) = match outcome {
            Outcome::Drained => ("no circuit runs any more", 0),
            Outcome::TimeUp { circuits } => ("the time is over", circuits),
            Outcome::Stopped { circuits } => ("a second signal", circuits),
        };
        if self.json {
            say!("{}", json!({"event": "ended", "how": how, "cut": cut}));
        } else {
            say!("Ended: {how}. Circuits that were cut: {cut}");
        }
    }

    fn warn(&self, what: &str, text: &str) {
        if self.json {
            say!(
                "{}",
                json!({"event": "warning", "what": what, "text": text})
            );
        } else {
            note!("warning: {text}");
        }
    }
}

fn is_unreachable(state: &State) -> bool {
    matches!(state.reach, Reach::NothingPublic | Reach::Private)
}
