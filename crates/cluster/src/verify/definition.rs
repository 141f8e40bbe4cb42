//! A definition: its hashes, its wallet signatures, its operators.

use std::collections::BTreeMap;

use pluto_crypto::{enr::Enr, k1};

use super::{Findings, Problem, Signer, Verifier};
use crate::{
    Definition, Version,
    eip712::{self, Address},
    merkle::{MAX_SIGNATURES, SIGNATURE_BYTES},
};

/// Hashes and signatures.
pub(super) fn check(verifier: &Verifier<'_>, definition: &Definition, findings: &mut Findings) {
    check_hashes(definition, findings);
    if definition.version.has_eip712() {
        Signatures {
            verifier,
            definition,
            chain_id: chain_id(verifier, definition, findings),
        }
        .check(findings);
    } else {
        for (index, operator) in definition.operators.iter().enumerate() {
            for (key, signature) in [
                ("config_signature", &operator.config_signature),
                ("enr_signature", &operator.enr_signature),
            ] {
                if !signature.is_empty() {
                    findings.add(format!("operators[{index}].{key}"), Problem::OldSignature);
                }
            }
        }
    }
}

/// What a definition on its own may lack and a lock may not.
pub(super) fn check_operators(definition: &Definition, findings: &mut Findings) {
    for (index, operator) in definition.operators.iter().enumerate() {
        if operator.enr.is_empty() {
            findings.add(format!("operators[{index}].enr"), Problem::MissingEnr);
        }
    }
    let operators = definition.operators.len();
    if definition.usable_threshold().is_err() {
        let threshold = definition.threshold;
        let problem = Problem::UnusableThreshold {
            threshold,
            operators,
        };
        findings.add("threshold", problem);
    } else {
        check_usual_threshold(definition, "threshold", findings);
    }
}

/// Whether the threshold is what a cluster of this size normally has.
pub(super) fn check_usual_threshold(definition: &Definition, path: &str, findings: &mut Findings) {
    let operators = definition.operators.len();
    let usual = (2 * operators).div_ceil(3);
    let threshold = definition.threshold;
    if usize::try_from(threshold) != Ok(usual) {
        let problem = Problem::UnusualThreshold {
            threshold,
            operators,
            usual,
        };
        findings.add(path, problem);
    }
}

/// The identity of each operator whose ENR is valid.
pub(super) fn identities(
    definition: &Definition,
    path: &str,
    findings: &mut Findings,
) -> Vec<Option<k1::PublicKey>> {
    let mut first_with = BTreeMap::new();
    let operators = definition.operators.iter().enumerate();
    let identities = operators.map(|(index, operator)| {
        let at = format!("{path}[{index}].enr");
        match Enr::parse(&operator.enr) {
            Ok(enr) => {
                let key = *enr.public_key();
                let first = *first_with.entry(key).or_insert(index);
                if first != index {
                    findings.add(at, Problem::DuplicateEnr { first });
                }
                Some(key)
            }
            Err(error) => {
                findings.add(at, Problem::Enr(error));
                None
            }
        }
    });
    identities.collect()
}

fn check_hashes(definition: &Definition, findings: &mut Findings) {
    // What cannot be hashed for the config hash cannot be for the definition hash either.
    if let Ok(computed) = definition.compute_config_hash()
        && definition.config_hash != computed
    {
        let stored = definition.config_hash.clone();
        findings.add("config_hash", Problem::ConfigHash { stored, computed });
    }
    match definition.compute_definition_hash() {
        Ok(computed) if definition.definition_hash != computed => {
            let stored = definition.definition_hash.clone();
            findings.add(
                "definition_hash",
                Problem::DefinitionHash { stored, computed },
            );
        }
        Ok(_) => {}
        Err(errors) => findings.add_hash_errors(errors.errors),
    }
}

fn chain_id(
    verifier: &Verifier<'_>,
    definition: &Definition,
    findings: &mut Findings,
) -> Option<u64> {
    let Ok(fork_version) = <[u8; 4]>::try_from(definition.fork_version.as_slice()) else {
        let len = definition.fork_version.len();
        findings.add("fork_version", Problem::ForkVersionLength { len });
        return None;
    };
    let chain_id = verifier.chain_id(fork_version);
    if chain_id.is_none() {
        findings.add("fork_version", Problem::UnknownNetwork { fork_version });
    }
    chain_id
}

/// The wallet signatures of the versions that have verifiable ones.
struct Signatures<'a> {
    verifier: &'a Verifier<'a>,
    definition: &'a Definition,
    /// Without one, who signed is not checked, and everything else is.
    chain_id: Option<u64>,
}

impl Signatures<'_> {
    fn check(&self, findings: &mut Findings) {
        let Definition {
            version,
            operators,
            creator,
            config_hash,
            ..
        } = self.definition;

        let mut signed = 0;
        for (index, operator) in operators.iter().enumerate() {
            if operator.is_unsigned() {
                continue;
            }
            signed += 1;
            let digest = |chain_id| eip712::operator_config_digest(*version, config_hash, chain_id);
            self.check_one(
                Signer::Operator,
                &operator.address,
                &operator.config_signature,
                digest,
                &format!("operators[{index}]"),
                "config_signature",
                findings,
            );
            self.check_one(
                Signer::Operator,
                &operator.address,
                &operator.enr_signature,
                |chain_id| eip712::enr_digest(&operator.enr, chain_id),
                &format!("operators[{index}]"),
                "enr_signature",
                findings,
            );
        }
        let unsigned = operators.len() - signed;
        if signed > 0 && unsigned > 0 {
            findings.add(
                "operators",
                Problem::PartlySigned {
                    signed,
                    operators: operators.len(),
                },
            );
        }

        if *version == Version::V1_3 {
            return;
        }
        if creator.address.is_empty() && creator.config_signature.is_empty() {
            if unsigned == 0 {
                findings.add("creator", Problem::CreatorUnsigned);
            }
            return;
        }
        self.check_one(
            Signer::Creator,
            &creator.address,
            &creator.config_signature,
            |chain_id| eip712::creator_config_digest(config_hash, chain_id),
            "creator",
            "config_signature",
            findings,
        );
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "who, what and where of one signature"
    )]
    fn check_one(
        &self,
        signer: Signer,
        address: &str,
        signature: &[u8],
        digest: impl FnOnce(u64) -> [u8; 32],
        parent: &str,
        key: &str,
        findings: &mut Findings,
    ) {
        let at = format!("{parent}.{key}");
        if signature.is_empty() {
            return findings.add(at, Problem::MissingSignature { signer });
        }
        if let Err(problem) = self.check_length(signer, signature) {
            return findings.add(at, problem);
        }
        let Some(address) = Address::parse(address) else {
            let text = address.chars().take(64).collect();
            return findings.add(
                format!("{parent}.address"),
                Problem::SignerAddress { signer, text },
            );
        };
        if let Some(chain_id) = self.chain_id
            && let Err(problem) = self.check_signer(signer, address, &digest(chain_id), signature)
        {
            findings.add(at, problem);
        }
    }

    fn check_length(&self, signer: Signer, signature: &[u8]) -> Result<(), Problem> {
        let len = signature.len();
        let (right, allowed) = if self.definition.version.has_signature_lists() {
            let right =
                len.is_multiple_of(SIGNATURE_BYTES) && len <= MAX_SIGNATURES * SIGNATURE_BYTES;
            (right, "a multiple of 65, at most 2080")
        } else {
            (len == SIGNATURE_BYTES, "65")
        };
        if right {
            return Ok(());
        }
        Err(Problem::SignatureLength {
            signer,
            len,
            allowed,
        })
    }

    /// Whether it is the address's own, or accepted by the contract there.
    fn check_signer(
        &self,
        signer: Signer,
        address: Address,
        digest: &[u8; 32],
        signature: &[u8],
    ) -> Result<(), Problem> {
        let problem = match <&[u8; SIGNATURE_BYTES]>::try_from(signature) {
            Ok(signature) => match k1::recover(digest, signature) {
                Ok(key) => {
                    let recovered = Address(key.address());
                    if recovered == address {
                        return Ok(());
                    }
                    Problem::SignatureOfOther {
                        signer,
                        address,
                        recovered,
                    }
                }
                Err(source) => Problem::SignatureInvalid {
                    signer,
                    address,
                    source,
                },
            },
            Err(_) => Problem::ContractSignature {
                signer,
                address,
                count: signature.len() / SIGNATURE_BYTES,
            },
        };
        let Some(wallets) = self.verifier.wallets else {
            return Err(problem);
        };
        match wallets.accepts(&address.0, digest, signature) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Problem::ContractRefused { signer, address }),
            Err(source) => Err(Problem::ContractUnreachable {
                signer,
                address,
                source,
            }),
        }
    }
}
