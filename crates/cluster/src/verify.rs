//! Checks a definition or a lock, and says everything that is wrong with it.
//!
//! Spec: cluster, sections 3 and 5.
//!
//! A file without a [`Severity::Error`] is one that Charon accepts too, but for one whose network is not
//! known: that is [`Severity::Unchecked`] here. The other way round there are errors here that Charon
//! does not look for when it reads a lock, each of one that no cluster can use: deposits that do not
//! belong to the validators, operators that are not all different, and, in versions where Charon does
//! not come to them, an ENR that is not valid (before v1.7) and a threshold that nobody can reach (v1.0
//! and v1.1 without an aggregate).
//!
//! - **Bounds:** those of the files. At most one finding for each value of a file, and a few more.
//! - **Cost:** about 0.1 ms for each public share and 1 ms for each further share of a validator
//!   than the threshold, spread over the cores there are. The calling thread blocks.
//! - **Network:** none, except what [`ContractWallets`] does when one is given.

mod definition;
mod lock;
mod problem;
mod wallet;

pub use problem::{Problem, Severity, Signer};
pub use wallet::{ContractWallets, WalletError};

use pluto_eth::network::{ForkVersion, Network, Networks};

use crate::{Definition, HashError, LockFile};

/// One thing that is wrong with a file, or could not be checked, or is worth knowing.
#[derive(Debug)]
pub struct Finding {
    /// The place in the file, such as `cluster_definition.operators[2].enr`.
    pub path: String,
    /// What is the matter there; its `Display` is the message.
    pub problem: Problem,
}

impl Finding {
    /// How bad it is.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        self.problem.severity()
    }

    /// The name of the rule, for machines: lower case, with hyphens.
    #[must_use]
    pub const fn rule(&self) -> &'static str {
        self.problem.rule()
    }

    /// What to do.
    #[must_use]
    pub const fn advice(&self) -> &'static str {
        self.problem.advice()
    }
}

/// Whether any of the findings is an error.
#[must_use]
pub fn has_errors(findings: &[Finding]) -> bool {
    findings.iter().any(|it| it.severity() == Severity::Error)
}

/// Checks files. Without anything else it knows the public networks and asks no contract.
#[derive(Clone, Copy, Default)]
pub struct Verifier<'a> {
    networks: Option<&'a Networks>,
    wallets: Option<&'a dyn ContractWallets>,
}

impl<'a> Verifier<'a> {
    /// Knows the public networks and asks no contract.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Knows these networks instead.
    #[must_use]
    pub const fn with_networks(mut self, networks: &'a Networks) -> Self {
        self.networks = Some(networks);
        self
    }

    /// Asks contracts about signatures that are not their address's own (ERC-1271).
    #[must_use]
    pub const fn with_wallets(mut self, wallets: &'a dyn ContractWallets) -> Self {
        self.wallets = Some(wallets);
        self
    }

    /// Checks hashes and signatures of a definition. Empty if there is nothing to say.
    #[must_use]
    pub fn definition(&self, definition: &Definition) -> Vec<Finding> {
        let mut findings = Findings::new("");
        definition::check(self, definition, &mut findings);
        definition::check_operators(definition, &mut findings);
        findings.list
    }

    /// Checks hashes and signatures of a lock and of what it contains. Empty if there is nothing to
    /// say.
    #[must_use]
    pub fn lock(&self, lock: &LockFile) -> Vec<Finding> {
        let mut findings = Findings::new("cluster_definition");
        definition::check(self, &lock.definition, &mut findings);
        findings.parent = "";
        lock::check(lock, &mut findings);
        findings.list
    }

    /// What wallets call the network; `None` for one that is not known.
    fn chain_id(&self, fork_version: ForkVersion) -> Option<u64> {
        let network = match self.networks {
            Some(networks) => networks.by_fork_version(fork_version).cloned(),
            None => Network::BUILT_IN
                .into_iter()
                .find(|it| it.genesis_version() == fork_version),
        };
        network.map(|it| it.chain_id())
    }
}

impl std::fmt::Debug for Verifier<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier")
            .field("networks", &self.networks)
            .field("wallets", &self.wallets.is_some())
            .finish()
    }
}

/// What was found so far, with the place of what is looked at in the whole file.
struct Findings {
    parent: &'static str,
    list: Vec<Finding>,
}

impl Findings {
    fn new(parent: &'static str) -> Self {
        Self {
            parent,
            list: Vec::new(),
        }
    }

    fn add(&mut self, path: impl Into<String>, problem: Problem) {
        let mut path = path.into();
        if !self.parent.is_empty() {
            path = format!("{}.{path}", self.parent);
        }
        self.list.push(Finding { path, problem });
    }

    /// Adds values that cannot be hashed.
    fn add_hash_errors(&mut self, errors: impl IntoIterator<Item = HashError>) {
        for error in errors {
            self.add(error.path, Problem::Hash(error.problem));
        }
    }
}
