//! What is asked over HTTP or HTTPS: a definition at an address, and contract wallets.
//!
//! Spec: cluster, sections 1.6 and 3.3. Only with the feature `http`, which is on by default.
//!
//! - **Bounds:** [`TIMEOUT`] for an answer as a whole, [`MAX_DEFINITION_BYTES`] of a definition,
//!   [`MAX_ANSWER_BYTES`] of an execution client's. The calling thread blocks.
//! - **Silence:** an execution client that did not answer once is not asked again: a file has some
//!   five hundred signatures, each of which would wait.
//! - **Proxies** are those of the usual variables (`HTTPS_PROXY` and so on).
//! - **Secrets:** addresses may hold the key of an account with a provider, so errors name hosts only.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use pluto_eth::address::Address;
use serde_json::{Value, json};
use ureq::{
    Agent,
    http::Uri,
    tls::{RootCerts, TlsConfig},
};

use crate::{
    Definition, MAX_DEFINITION_BYTES, ParseError,
    eip712::{ERC1271_MAGIC, erc1271_call},
    verify::{ContractWallets, WalletError},
};

/// How long an answer may take, from the question to its last byte (cluster spec, section 1.6).
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Longest answer of an execution client that is read. The right one has some hundred bytes; nodes
/// explain errors at length.
pub const MAX_ANSWER_BYTES: u64 = 64 << 10;

/// How much is shown of what an execution client says, in characters.
const MAX_SHOWN: usize = 200;

/// Why an address was not used.
#[derive(Debug, thiserror::Error)]
#[error("not an address that starts with http:// or https:// and names a host")]
pub struct UrlError;

/// Why a definition was not fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// It cannot be asked for.
    #[error("the definition's address cannot be used")]
    Url(#[from] UrlError),
    /// No answer, or none that is a definition's.
    #[error("no definition from {host}")]
    Http {
        /// Who was asked.
        host: String,
        /// Why not.
        source: Box<ureq::Error>,
    },
    /// Longer than any definition.
    #[error("the answer of {host} is longer than {MAX_DEFINITION_BYTES} bytes")]
    TooLong {
        /// Who was asked.
        host: String,
    },
    /// Something else.
    #[error("the answer of {host} is no definition")]
    Parse {
        /// Who was asked.
        host: String,
        /// What is wrong with it.
        source: ParseError,
    },
}

/// Fetches a definition. Reading is not verifying.
pub fn fetch_definition(url: &str) -> Result<Definition, FetchError> {
    let host = host(url)?;
    let answer = agent(REDIRECTS, TIMEOUT)
        .get(url)
        .call()
        .and_then(|mut answer| {
            let body = answer.body_mut().with_config().limit(MAX_DEFINITION_BYTES);
            body.read_to_vec()
        });
    match answer {
        Ok(json) => {
            Definition::from_json(&json).map_err(|source| FetchError::Parse { host, source })
        }
        Err(ureq::Error::BodyExceedsLimit(_)) => Err(FetchError::TooLong { host }),
        Err(source) => Err(FetchError::Http {
            host,
            source: Box::new(source),
        }),
    }
}

/// How often a server may send a reader elsewhere; as other readers.
const REDIRECTS: u32 = 5;

fn agent(redirects: u32, timeout: Duration) -> Agent {
    // As for relays: whom the machine trusts, a private authority among them.
    let roots = RootCerts::PlatformVerifier;
    let tls = TlsConfig::builder().root_certs(roots).build();
    Agent::config_builder()
        .timeout_global(Some(timeout))
        .max_redirects(redirects)
        .user_agent(concat!("pluto/v", env!("CARGO_PKG_VERSION")))
        .tls_config(tls)
        .build()
        .into()
}

fn host(url: &str) -> Result<String, UrlError> {
    let uri: Uri = url.parse().map_err(|_| UrlError)?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(authority)) => Ok(match authority.port() {
            Some(port) => format!("{}:{port}", authority.host()),
            None => authority.host().to_owned(),
        }),
        _ => Err(UrlError),
    }
}

/// An execution client, asked by JSON-RPC whether contract wallets accept signatures (ERC-1271).
#[derive(Debug)]
pub struct ExecutionClient {
    agent: Agent,
    url: String,
    host: String,
    silent: AtomicBool,
}

/// Why an execution client did not say whether a signature is accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RpcError {
    /// Nothing came back in time, or nothing that is an answer.
    #[error("no answer from {host}")]
    Http {
        /// Who was asked.
        host: String,
        /// Why not.
        source: Box<ureq::Error>,
    },
    /// It did not answer an earlier question and was not asked this one.
    #[error("{host} did not answer before and was not asked again")]
    Silent {
        /// Who was not asked.
        host: String,
    },
    /// Longer than [`MAX_ANSWER_BYTES`].
    #[error("the answer of {host} is longer than {MAX_ANSWER_BYTES} bytes")]
    TooLong {
        /// Who was asked.
        host: String,
    },
    /// Not what JSON-RPC or a contract answers.
    #[error("the answer of {host} is not one to this question; is it an execution client?")]
    Garbage {
        /// Who was asked.
        host: String,
    },
    /// The client refused to ask the contract, or the contract failed.
    #[error("{host} answered with error {code}: {message}")]
    Refused {
        /// Who was asked.
        host: String,
        /// Its code.
        code: i64,
        /// Its words, shortened.
        message: String,
    },
    /// There is nothing that could have signed.
    #[error("{host} knows no contract at {address}; is it on the network of the cluster?")]
    NoContract {
        /// Who was asked.
        host: String,
        /// The address.
        address: Address,
    },
}

impl ExecutionClient {
    /// A client at an address. Nothing is asked before there is a question.
    pub fn new(url: &str) -> Result<Self, UrlError> {
        Ok(Self {
            agent: agent(0, TIMEOUT),
            url: url.to_owned(),
            host: host(url)?,
            silent: AtomicBool::new(false),
        })
    }

    /// Waits so long for an answer instead of [`TIMEOUT`].
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.agent = agent(0, timeout);
        self
    }

    fn ask(
        &self,
        address: &Address,
        digest: &[u8; 32],
        signature: &[u8],
    ) -> Result<bool, RpcError> {
        let host = || self.host.clone();
        if self.silent.load(Ordering::Relaxed) {
            return Err(RpcError::Silent { host: host() });
        }
        let question = json!({
            "jsonrpc": "2.0",
            "id": 1,
            "method": "eth_call",
            "params": [
                {
                    "to": format!("0x{}", hex::encode(address.0)),
                    "data": format!("0x{}", hex::encode(erc1271_call(digest, signature))),
                },
                "latest",
            ],
        });
        let answer = self.post(&question).map_err(|error| match error {
            ureq::Error::BodyExceedsLimit(_) => RpcError::TooLong { host: host() },
            source => {
                // Who refuses one question by its status may answer the next.
                if !matches!(source, ureq::Error::StatusCode(_)) {
                    self.silent.store(true, Ordering::Relaxed);
                }
                RpcError::Http {
                    host: host(),
                    source: Box::new(source),
                }
            }
        })?;
        let garbage = || RpcError::Garbage { host: host() };
        // `None` if it sends us elsewhere: what is there is not who was to be asked.
        let answer = answer.ok_or_else(garbage)?;
        let answer: Value = serde_json::from_slice(&answer).map_err(|_| garbage())?;
        if let Some(error) = answer.get("error").filter(|it| !it.is_null()) {
            let words = error["message"].as_str().unwrap_or_default().chars();
            return Err(RpcError::Refused {
                host: host(),
                code: error["code"].as_i64().unwrap_or_default(),
                message: words
                    .map(|c| if c.is_control() { '\u{fffd}' } else { c })
                    .take(MAX_SHOWN)
                    .collect(),
            });
        }
        let result = answer["result"].as_str().ok_or_else(garbage)?;
        let digits = result.strip_prefix("0x").ok_or_else(garbage)?;
        let bytes = hex::decode(digits).map_err(|_| garbage())?;
        match bytes.len() {
            0 => Err(RpcError::NoContract {
                host: host(),
                address: *address,
            }),
            // One word, whose first bytes are the answer.
            32.. => Ok(bytes.starts_with(&ERC1271_MAGIC)),
            _ => Err(garbage()),
        }
    }

    fn post(&self, question: &Value) -> Result<Option<Vec<u8>>, ureq::Error> {
        let mut answer = self
            .agent
            .post(&self.url)
            .header("Content-Type", "application/json")
            .send(question.to_string())?;
        if !answer.status().is_success() {
            return Ok(None);
        }
        let body = answer.body_mut().with_config().limit(MAX_ANSWER_BYTES);
        body.read_to_vec().map(Some)
    }
}

impl ContractWallets for ExecutionClient {
    fn accepts(
        &self,
        address: &Address,
        digest: &[u8; 32],
        signature: &[u8],
    ) -> Result<bool, WalletError> {
        self.ask(address, digest, signature)
            .map_err(|error| WalletError(Box::new(error)))
    }
}
