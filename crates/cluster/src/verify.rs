//! Checks a definition or a lock, and says everything that is wrong with it.
//!
//! Spec: cluster, sections 3 and 5.
//!
//! A file without a [`Severity::Error`] is one that Charon accepts too, with two exceptions, both on
//! purpose: a network that is not known is [`Severity::Unchecked`] here, and a lock whose deposits do
//! not belong to its validators, or whose operators are not all different, is an error here.
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

use crate::{Definition, HashError, LockFile, network};

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
    network: Option<([u8; 4], u64)>,
    wallets: Option<&'a dyn ContractWallets>,
}

impl<'a> Verifier<'a> {
    /// Knows the public networks and asks no contract.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Knows one more network, by its genesis fork version. A public one is not replaced.
    #[must_use]
    pub const fn with_network(mut self, fork_version: [u8; 4], chain_id: u64) -> Self {
        self.network = Some((fork_version, chain_id));
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

    fn chain_id(&self, fork_version: [u8; 4]) -> Option<u64> {
        network::chain_id(fork_version).or_else(|| {
            let (known, chain_id) = self.network?;
            (known == fork_version).then_some(chain_id)
        })
    }
}

impl std::fmt::Debug for Verifier<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier")
            .field("network", &self.network)
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
