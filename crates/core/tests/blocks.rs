//! Blocks and aggregates of every fork, with something in each of their lists.
//!
//! The expected roots are those that the containers of the beacon chain's specification (v1.5.0,
//! for blinded blocks with the header in place of the payload) have under `remerkleable`, which
//! also read these blocks and wrote the same bytes.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::num::NonZeroU64;

use pluto_core::{
    DutyType,
    signed::{ForkVersion, SignedAggregate, SignedData, SignedDataError, SignedProposal, SszError},
    signing::DomainKind,
};
use proptest::prelude::*;
use serde_json::json;

use ForkVersion::{Altair, Bellatrix, Capella, Deneb, Electra, Fulu, Phase0};

const SLOT: u64 = 0x0102_0304;
const SIGNATURE: [u8; 96] = [0x5a; 96];

/// Each block, the root of its message and the root of its body.
const BLOCKS: [(ForkVersion, bool, &str, &str); 12] = [
    (
        Phase0,
        false,
        "7d8d818f6bbc2d8efbdc8628135287d53b348e6c8835f664b11ea2ae4dd5da71",
        "175f4a2e591f09fed20de8613b21fdce33491f4c4d259ff3e4b32fc39bdd1d6f",
    ),
    (
        Altair,
        false,
        "0af9863169386c3121488938c7197b4b60985217b44aa18c3c78ade5ac34f32d",
        "f3cc1332d5baf2adf5afe7542613c25c2844209fc3921178ba6a8689158adc0a",
    ),
    (
        Bellatrix,
        false,
        "a75e36de1856e42e7ac91cfcfb0466dd8708f535b7bbe332af6a1c5ee9f37404",
        "a0a9aa0d31e28f8770fd2306aab49309e3a29b576c23a697a75d218afc8ee3f1",
    ),
    (
        Bellatrix,
        true,
        "26d2c9334cec9036d6ec51261014445f1ee02bc45a89be1213e92e6edc78c74b",
        "c2ad3e91d9c0dd05f241ee3116f4ea6772cf3f033ccaa40ae84b191b63a6cd90",
    ),
    (
        Capella,
        false,
        "60e31fbb55c383a211b4973c8e68a3cbc9b00532ae02ec09e63029da4f3125ea",
        "d0ab0d0f2c8a7b0c236ac0792f68fa67cc25ea57e15d5ebfdda3196264aca2fc",
    ),
    (
        Capella,
        true,
        "b96a5f2964f1fd6810efb913d33163db81a4ae327bc76238c6ad338cfd3015b7",
        "fd498b1d2bfde6f8c8915d383e603a727cee91d2c66939930cf1b140c1715f51",
    ),
    (
        Deneb,
        false,
        "4ce9c160d2978cc88eb98b553280e103eac6fd0f98cf265843c3804ff20d291e",
        "2eb417b41c38cee443e0efe5ac7be36f9aebbd4627cf024835333c4c86089fc8",
    ),
    (
        Deneb,
        true,
        "6bc36b458fe4283cf10100e7139f56a30f805d7598955ec16d0c74ac5f1a0283",
        "7ec10e5195b34a0e706fef6fda6a17ee447b9e37c7aa9856630f01d667ac8471",
    ),
    (
        Electra,
        false,
        "7ecf8c2ef72b6c2a580d1c9c24b78bcc418f638f570d3c5c761227d39f61be09",
        "3a0e16181885fa8cb8af86a72efb1d57496ac8e01693390617a5d7372937a1db",
    ),
    (
        Electra,
        true,
        "db4d121afaefb37ead12137bd993af7485742358350d6580d46218acda474ba6",
        "9fc3c305621f787c22a002c0c01574186eb30b8dec9299c397e74ae1f7a17dff",
    ),
    (
        Fulu,
        false,
        "7ecf8c2ef72b6c2a580d1c9c24b78bcc418f638f570d3c5c761227d39f61be09",
        "3a0e16181885fa8cb8af86a72efb1d57496ac8e01693390617a5d7372937a1db",
    ),
    (
        Fulu,
        true,
        "db4d121afaefb37ead12137bd993af7485742358350d6580d46218acda474ba6",
        "9fc3c305621f787c22a002c0c01574186eb30b8dec9299c397e74ae1f7a17dff",
    ),
];

/// Each aggregate and the root of its message.
const AGGREGATES: [(ForkVersion, &str); 7] = [
    (
        Phase0,
        "6aaa0a2d9c69a6dabf5de611a608833bef9072766b3b7cc9e32e527ef04059df",
    ),
    (
        Altair,
        "6aaa0a2d9c69a6dabf5de611a608833bef9072766b3b7cc9e32e527ef04059df",
    ),
    (
        Bellatrix,
        "6aaa0a2d9c69a6dabf5de611a608833bef9072766b3b7cc9e32e527ef04059df",
    ),
    (
        Capella,
        "6aaa0a2d9c69a6dabf5de611a608833bef9072766b3b7cc9e32e527ef04059df",
    ),
    (
        Deneb,
        "6aaa0a2d9c69a6dabf5de611a608833bef9072766b3b7cc9e32e527ef04059df",
    ),
    (
        Electra,
        "c2fb219b68dfaafe84d0a914a639224b33852be162a8c4b10d4ef8329ac6ebb7",
    ),
    (
        Fulu,
        "c2fb219b68dfaafe84d0a914a639224b33852be162a8c4b10d4ef8329ac6ebb7",
    ),
];

#[test]
fn blocks_of_all_forks_have_the_root_of_the_specification() {
    for (version, blinded, root, body_root) in BLOCKS {
        let block = Block::new(version, blinded);
        let name = format!("{version:?}, blinded: {blinded}");

        let proposal = block.decode().unwrap();
        assert_eq!(proposal.version, version, "{name}");
        assert_eq!(proposal.blinded, blinded, "{name}");
        assert_eq!(proposal.slot, SLOT, "{name}");
        assert_eq!(proposal.signature, SIGNATURE, "{name}");
        assert_eq!(hex::encode(proposal.body_root), body_root, "{name}");
        let json = SignedData::decode(DutyType::Proposer, &block.json());
        assert_eq!(json, Ok(SignedData::Proposer(proposal)), "{name}");

        let data = SignedData::Proposer(proposal);
        assert_eq!(hex::encode(data.message_root().unwrap()), root, "{name}");
        assert_eq!(data.signature(), SIGNATURE, "{name}");
        assert_eq!(data.domain(), Some(DomainKind::BeaconProposer), "{name}");
        let per_epoch = NonZeroU64::new(32).unwrap();
        assert_eq!(data.epoch(per_epoch), Some(SLOT / 32), "{name}");
    }
}

#[test]
fn aggregates_of_all_forks_have_the_root_of_the_specification() {
    for (version, root) in AGGREGATES {
        let aggregate = Aggregate::new(version);

        let decoded = aggregate.decode().unwrap();
        assert_eq!(decoded.aggregate.version, version);
        assert_eq!(decoded.aggregate.validator_index, None);
        let json = SignedData::decode(DutyType::Aggregator, &aggregate.json());
        let data = SignedData::Aggregator(decoded);
        assert_eq!(json.as_ref(), Ok(&data), "{version:?}");

        assert_eq!(
            hex::encode(data.message_root().unwrap()),
            root,
            "{version:?}"
        );
        assert_eq!(data.signature(), SIGNATURE, "{version:?}");
        assert_eq!(data.domain(), Some(DomainKind::AggregateAndProof));
        let per_epoch = NonZeroU64::new(32).unwrap();
        assert_eq!(data.epoch(per_epoch), Some(SLOT / 32), "{version:?}");
    }
}

#[test]
fn an_aggregate_without_wrapper_is_of_the_first_fork() {
    let aggregate = Aggregate::new(Phase0);
    let expected = aggregate.decode().unwrap();

    let bare = SignedData::decode(DutyType::Aggregator, &aggregate.signed.ssz());
    assert_eq!(bare, Ok(SignedData::Aggregator(expected.clone())));
    let bare = serde_json::to_vec(&aggregate.signed.json()).unwrap();
    let bare = SignedData::decode(DutyType::Aggregator, &bare);
    assert_eq!(bare, Ok(SignedData::Aggregator(expected)));
}

#[test]
fn a_full_and_a_blinded_body_have_one_root() {
    let full = Block::new(Fulu, false).decode().unwrap();
    let mut blinded = Block::new(Fulu, true);
    // What a header gives are the roots of the lists in the payload.
    for (name, root) in [
        ("transactions_root", TRANSACTIONS_ROOT),
        ("withdrawals_root", WITHDRAWALS_ROOT),
    ] {
        *blinded.at(&[name]) = Value::Fixed(hex::decode(root).unwrap());
    }

    assert_eq!(blinded.decode().unwrap().body_root, full.body_root);
}

/// Of the transactions and withdrawals of [`payload`], from the same source as the other roots.
const TRANSACTIONS_ROOT: &str = "6a8ebaacd98eafd972f06394121609097e61f24441a859ac98dea23e45843d75";
const WITHDRAWALS_ROOT: &str = "128c60161b9ee9bba670a4d3a57e7aa729895bcdae65c45517c9bd3947fa339a";

#[test]
fn the_header_of_a_proposal_is_read_as_everywhere() {
    let block = Block::new(Capella, false);
    let expected = block.decode().unwrap();
    let payload = block.signed.ssz();
    let header = |version: u64, blinded: u8, offset: u32| {
        let mut bytes = version.to_le_bytes().to_vec();
        bytes.push(blinded);
        bytes.extend(offset.to_le_bytes());
        bytes
    };
    let decode = |header: Vec<u8>, gap: usize| {
        let bytes = [&header, &vec![0xee; gap][..], &payload].concat();
        SignedData::decode(DutyType::Proposer, &bytes)
    };
    let ssz = |source| {
        let kind = DutyType::Proposer;
        Err(SignedDataError::Ssz { kind, source })
    };
    let offset = |offset| {
        let field = "block";
        ssz(SszError::Offset { field, offset })
    };

    assert_eq!(
        decode(header(3, 0, 18), 5),
        Ok(SignedData::Proposer(expected))
    );
    assert_eq!(
        decode(header(3, 2, 13), 0),
        Ok(SignedData::Proposer(expected))
    );
    assert_eq!(decode(header(3, 0, 12), 0), offset(12));
    assert_eq!(decode(header(3, 0, u32::MAX), 0), offset(u32::MAX));
    assert_eq!(
        decode(header(7, 0, 13), 0),
        ssz(SszError::Version { version: 7 })
    );
    assert!(decode(header(3, 1, 13), 0).is_err());
    // The first forks have no blinded blocks; the flag means nothing there.
    let first = Block::new(Altair, false);
    let flagged = [header(1, 1, 13), first.signed.ssz()].concat();
    let flagged = SignedData::decode(DutyType::Proposer, &flagged);
    assert_eq!(flagged, first.decode().map(SignedData::Proposer));
}

#[test]
fn lists_are_read_up_to_their_limit() {
    for (version, path, max) in [
        (Capella, &["proposer_slashings"][..], 16),
        (Capella, &["attester_slashings"], 2),
        (Electra, &["attester_slashings"], 1),
        (Capella, &["attesting_indices"], 2_048),
        (Electra, &["attesting_indices"], 131_072),
        (Capella, &["attestations"], 128),
        (Electra, &["attestations"], 8),
        (Capella, &["deposits"], 16),
        (Capella, &["voluntary_exits"], 16),
        (Capella, &["withdrawals"], 16),
        (Capella, &["bls_to_execution_changes"], 16),
        (Deneb, &["blob_kzg_commitments"], 4_096),
        (Electra, &["execution_requests", "deposits"], 8_192),
        (Electra, &["execution_requests", "withdrawals"], 16),
        (Electra, &["execution_requests", "consolidations"], 2),
        (Electra, &["kzg_proofs"], 4_096),
    ] {
        let mut block = Block::new(version, false);
        let mut fill = |len| {
            let Value::List(list) = block.at(path) else {
                panic!("{path:?} is no list");
            };
            list.resize(len, list[0].clone());
            let json = SignedData::decode(DutyType::Proposer, &block.json());
            (block.decode(), json)
        };

        let (ssz, json) = fill(max);
        let proposal = ssz.unwrap_or_else(|err| panic!("{path:?}: {err:?}"));
        assert_eq!(json, Ok(SignedData::Proposer(proposal)), "{path:?}");
        let (ssz, json) = fill(max + 1);
        let (field, len) = (*path.last().unwrap(), max + 1);
        let source = SszError::TooMany { field, len, max };
        let kind = DutyType::Proposer;
        assert_eq!(ssz, Err(SignedDataError::Ssz { kind, source }), "{path:?}");
        assert!(
            matches!(json, Err(SignedDataError::Json { .. })),
            "{path:?}"
        );
    }
}

#[test]
fn fulu_has_proofs_for_every_cell() {
    let mut block = Block::new(Fulu, false);
    *block.at(&["kzg_proofs"]) = Value::List(vec![Value::Fixed(vec![1; 48]); 4_097]);

    assert_eq!(block.decode(), Block::new(Fulu, false).decode());
}

#[test]
fn byte_and_bit_lists_are_read_up_to_their_limit() {
    for (version, name, max, bits) in [
        (Capella, "extra_data", 32, false),
        (Capella, "aggregation_bits", 2_048, true),
        (Electra, "aggregation_bits", 131_072, true),
    ] {
        let decode = |len: usize| {
            let mut block = Block::new(version, false);
            let bytes = if bits {
                let mut bytes = vec![0xff; len / 8];
                bytes.push(1 << (len % 8));
                bytes
            } else {
                vec![1; len]
            };
            *block.at(&[name]) = Value::Variable(bytes);
            let json = SignedData::decode(DutyType::Proposer, &block.json());
            (block.decode(), json)
        };

        let (ssz, json) = decode(max);
        assert_eq!(json, ssz.map(SignedData::Proposer), "{name}");
        assert!(json.is_ok(), "{name}");
        let (ssz, json) = decode(max + 1);
        assert!(ssz.is_err() && json.is_err(), "{name}");
    }
    for (version, max) in [(Phase0, 2_048), (Electra, 131_072)] {
        let decode = |len: usize| {
            let mut aggregate = Aggregate::new(version);
            let mut bytes = vec![0; len / 8];
            bytes.push(1 << (len % 8));
            *aggregate.signed.at(&["aggregation_bits"]).unwrap() = Value::Variable(bytes);
            let json = SignedData::decode(DutyType::Aggregator, &aggregate.json());
            (aggregate.decode().is_ok(), json.is_ok())
        };
        assert_eq!(decode(max), (true, true), "{version:?}");
        assert_eq!(decode(max + 1), (false, false), "{version:?}");
    }
}

#[test]
fn transactions_above_their_limit_are_refused_by_their_first_offset() {
    let mut block = Block::new(Deneb, false);
    let limit = 1 << 20;
    // Only offsets: what they point to is never looked at.
    let offsets = u32::to_le_bytes(4 * (limit + 1)).repeat(limit as usize + 1);
    *block.at(&["transactions"]) = Value::Variable(offsets);

    let source = SszError::TooMany {
        field: "transactions",
        len: limit as usize + 1,
        max: limit as usize,
    };
    let kind = DutyType::Proposer;
    assert_eq!(block.decode(), Err(SignedDataError::Ssz { kind, source }));
}

#[test]
fn offsets_leave_no_choice() {
    // Two transactions of one byte: what their list says, and whether that is one.
    for (list, ok) in [
        (&[8, 0, 0, 0, 9, 0, 0, 0, 1, 2][..], true),
        (&[8, 0, 0, 0, 10, 0, 0, 0, 1, 2], true),
        (&[8, 0, 0, 0, 11, 0, 0, 0, 1, 2], false),
        (&[8, 0, 0, 0, 7, 0, 0, 0, 1, 2], false),
        (&[9, 0, 0, 0, 9, 0, 0, 0, 1, 2], false),
        (&[0, 0, 0, 0, 9, 0, 0, 0, 1, 2], false),
        (&[12, 0, 0, 0, 9, 0, 0, 0, 1, 2], false),
        (&[255, 255, 255, 255, 9, 0, 0, 0, 1, 2], false),
        (&[8, 0, 0], false),
        (&[], true),
    ] {
        let mut block = Block::new(Deneb, false);
        *block.at(&["transactions"]) = Value::Variable(list.to_vec());
        assert_eq!(block.decode().is_ok(), ok, "{list:?}");
    }
}

#[test]
fn containers_have_their_parts_where_the_offsets_must_say() {
    let block = Block::new(Deneb, false);
    let bytes = block.ssz();
    // Behind the wrapper: where the block, the proofs and the blobs begin.
    let [first, second, third] =
        [13, 17, 21].map(|at| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()));
    let end = u32::try_from(bytes.len()).unwrap() - 13;
    for (offsets, ok) in [
        ([first, second, third], true),
        ([first + 1, second, third], false),
        ([first - 1, second, third], false),
        ([first, third, second], false),
        ([first, second, end + 1], false),
        ([first, end + 1, u32::MAX], false),
        ([first, 0, third], false),
        ([first, second - 1, third], false),
    ] {
        let mut bytes = bytes.clone();
        bytes[13..25].copy_from_slice(&offsets.map(u32::to_le_bytes).concat());
        let decoded = SignedData::decode(DutyType::Proposer, &bytes);
        assert_eq!(decoded.is_ok(), ok, "{offsets:?}");
    }
    // A gap is tolerated behind the wrapper only.
    let mut gap = bytes.clone();
    gap[13..25].copy_from_slice(
        &[first, second, third]
            .map(|it| (it + 1).to_le_bytes())
            .concat(),
    );
    gap.insert(25, 0);
    let source = SszError::Offset {
        field: "signed_block",
        offset: 13,
    };
    let kind = DutyType::Proposer;
    assert_eq!(
        SignedData::decode(kind, &gap),
        Err(SignedDataError::Ssz { kind, source })
    );
}

#[test]
fn blobs_are_checked_for_their_size_and_not_signed() {
    let block = Block::new(Deneb, false);
    let expected = block.decode();
    for (size, ok) in [(131_071, false), (131_072, true), (131_073, false)] {
        let mut block = Block::new(Deneb, false);
        *block.at(&["blobs"]) = Value::List(vec![Value::Fixed(vec![0xab; size])]);

        let json = SignedData::decode(DutyType::Proposer, &block.json());
        assert_eq!(block.decode().is_ok(), ok, "{size}");
        assert_eq!(json.is_ok(), ok, "{size}");
        if ok {
            assert_eq!(block.decode(), expected);
        }
    }
}

#[test]
fn every_field_of_a_body_is_signed() {
    for (version, blinded, ..) in BLOCKS {
        let block = Block::new(version, blinded);
        let expected = block.decode().unwrap();
        let bytes = block.ssz();
        let first = bytes.len() - block.signed.at_body().ssz().len() - block.after_body();
        let mut same = 0;
        for at in (first..bytes.len() - block.after_body()).step_by(61) {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            match SignedData::decode(DutyType::Proposer, &bytes) {
                Ok(SignedData::Proposer(other)) if other == expected => same += 1,
                Ok(_) | Err(_) => (),
            }
        }
        assert_eq!(same, 0, "{version:?}, blinded: {blinded}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_blocks_never_panic(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        with in any::<[u8; 4]>(),
        json in any::<bool>(),
        cut in any::<bool>(),
    ) {
        let (version, blinded, ..) = *which.get(&BLOCKS);
        let block = Block::new(version, blinded);
        let mut bytes = if json { block.json() } else { block.ssz() };
        let at = at.index(bytes.len() - 4);
        if cut {
            bytes.truncate(at);
        } else {
            bytes[at..at + 4].copy_from_slice(&with);
        }
        if let Ok(data) = SignedData::decode(DutyType::Proposer, &bytes) {
            let _ = (data.message_root(), data.signature());
        }
    }

    #[test]
    fn damaged_aggregates_never_panic(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        with in any::<[u8; 4]>(),
        json in any::<bool>(),
    ) {
        let aggregate = Aggregate::new(which.get(&AGGREGATES).0);
        let mut bytes = if json { aggregate.json() } else { aggregate.ssz() };
        let at = at.index(bytes.len() - 4);
        bytes[at..at + 4].copy_from_slice(&with);
        if let Ok(data) = SignedData::decode(DutyType::Aggregator, &bytes) {
            let _ = (data.message_root(), data.signature());
        }
    }
}

/// A signed block in its wrapper.
struct Block {
    version: ForkVersion,
    blinded: bool,
    signed: Value,
}

impl Block {
    fn new(version: ForkVersion, blinded: bool) -> Self {
        let block = signed(container([
            ("slot", Value::Number(SLOT)),
            ("proposer_index", Value::Number(7)),
            ("parent_root", fixed::<32>(1)),
            ("state_root", fixed::<32>(2)),
            ("body", body(version, blinded)),
        ]));
        let signed = if version >= Deneb && !blinded {
            let proof = Value::Fixed(vec![3; 48]);
            let blob = Value::Fixed(vec![4; 131_072]);
            container([
                ("signed_block", block),
                ("kzg_proofs", Value::List(vec![proof])),
                ("blobs", Value::List(vec![blob])),
            ])
        } else {
            block
        };
        Self {
            version,
            blinded,
            signed,
        }
    }

    fn ssz(&self) -> Vec<u8> {
        let mut bytes = (self.version as u64).to_le_bytes().to_vec();
        bytes.push(self.blinded.into());
        bytes.extend(13_u32.to_le_bytes());
        bytes.extend(self.signed.ssz());
        bytes
    }

    fn json(&self) -> Vec<u8> {
        let mut json = json!({ "version": self.version as u64, "block": self.signed.json() });
        if self.blinded {
            json["blinded"] = true.into();
        }
        serde_json::to_vec(&json).unwrap()
    }

    fn decode(&self) -> Result<SignedProposal, SignedDataError> {
        match SignedData::decode(DutyType::Proposer, &self.ssz())? {
            SignedData::Proposer(proposal) => Ok(proposal),
            other => panic!("{other:?}"),
        }
    }

    fn at(&mut self, path: &[&str]) -> &mut Value {
        self.signed.at(path).unwrap()
    }

    /// Bytes behind the body.
    fn after_body(&self) -> usize {
        match &self.signed {
            Value::Container(fields) if fields[0].0 == "signed_block" => {
                fields[1].1.ssz().len() + fields[2].1.ssz().len()
            }
            _ => 0,
        }
    }
}

/// A signed aggregate in its wrapper.
struct Aggregate {
    version: ForkVersion,
    signed: Value,
}

impl Aggregate {
    fn new(version: ForkVersion) -> Self {
        let signed = signed(container([
            ("aggregator_index", Value::Number(8)),
            ("aggregate", attestation(version, SLOT)),
            ("selection_proof", fixed::<96>(9)),
        ]));
        Self { version, signed }
    }

    fn ssz(&self) -> Vec<u8> {
        let mut bytes = (self.version as u64).to_le_bytes().to_vec();
        bytes.extend(12_u32.to_le_bytes());
        bytes.extend(self.signed.ssz());
        bytes
    }

    fn json(&self) -> Vec<u8> {
        let (version, signed) = (self.version as u64, self.signed.json());
        let json = json!({ "version": version, "aggregate_and_proof": signed });
        serde_json::to_vec(&json).unwrap()
    }

    fn decode(&self) -> Result<SignedAggregate, SignedDataError> {
        match SignedData::decode(DutyType::Aggregator, &self.ssz())? {
            SignedData::Aggregator(aggregate) => Ok(aggregate),
            other => panic!("{other:?}"),
        }
    }
}

fn body(version: ForkVersion, blinded: bool) -> Value {
    let header = |seed| {
        signed(container([
            ("slot", Value::Number(seed)),
            ("proposer_index", Value::Number(seed + 1)),
            ("parent_root", fixed::<32>(11)),
            ("state_root", fixed::<32>(12)),
            ("body_root", fixed::<32>(13)),
        ]))
    };
    let indexed = |indices: Vec<u64>| {
        let indices = indices.into_iter().map(Value::Number).collect();
        container([
            ("attesting_indices", Value::List(indices)),
            ("data", attestation_data(14)),
            ("signature", fixed::<96>(15)),
        ])
    };
    let proof = (0..33).map(|seed| fixed::<32>(100 + seed)).collect();
    let mut fields = vec![
        ("randao_reveal", fixed::<96>(16)),
        (
            "eth1_data",
            container([
                ("deposit_root", fixed::<32>(17)),
                ("deposit_count", Value::Number(18)),
                ("block_hash", fixed::<32>(19)),
            ]),
        ),
        ("graffiti", fixed::<32>(20)),
        (
            "proposer_slashings",
            Value::List(vec![container([
                ("signed_header_1", header(21)),
                ("signed_header_2", header(23)),
            ])]),
        ),
        (
            "attester_slashings",
            Value::List(vec![container([
                ("attestation_1", indexed(vec![1, 2, 3, 4, 5])),
                ("attestation_2", indexed(vec![u64::MAX])),
            ])]),
        ),
        (
            "attestations",
            Value::List(vec![attestation(version, 25), attestation(version, 26)]),
        ),
        (
            "deposits",
            Value::List(vec![container([
                ("proof", Value::Vector(proof)),
                (
                    "data",
                    container([
                        ("pubkey", fixed::<48>(27)),
                        ("withdrawal_credentials", fixed::<32>(28)),
                        ("amount", Value::Number(29)),
                        ("signature", fixed::<96>(30)),
                    ]),
                ),
            ])]),
        ),
        (
            "voluntary_exits",
            Value::List(vec![signed(container([
                ("epoch", Value::Number(31)),
                ("validator_index", Value::Number(32)),
            ]))]),
        ),
    ];
    if version >= Altair {
        let aggregate = container([
            ("sync_committee_bits", fixed::<64>(33)),
            ("sync_committee_signature", fixed::<96>(34)),
        ]);
        fields.push(("sync_aggregate", aggregate));
    }
    if version >= Bellatrix {
        let name = ["execution_payload", "execution_payload_header"][usize::from(blinded)];
        fields.push((name, payload(version, blinded)));
    }
    if version >= Capella {
        let change = signed(container([
            ("validator_index", Value::Number(35)),
            ("from_bls_pubkey", fixed::<48>(36)),
            ("to_execution_address", fixed::<20>(37)),
        ]));
        fields.push(("bls_to_execution_changes", Value::List(vec![change])));
    }
    if version >= Deneb {
        let commitments = (38..41).map(fixed::<48>).collect();
        fields.push(("blob_kzg_commitments", Value::List(commitments)));
    }
    if version >= Electra {
        let deposit = container([
            ("pubkey", fixed::<48>(41)),
            ("withdrawal_credentials", fixed::<32>(42)),
            ("amount", Value::Number(43)),
            ("signature", fixed::<96>(44)),
            ("index", Value::Number(45)),
        ]);
        let withdrawal = container([
            ("source_address", fixed::<20>(46)),
            ("validator_pubkey", fixed::<48>(47)),
            ("amount", Value::Number(48)),
        ]);
        let consolidation = container([
            ("source_address", fixed::<20>(49)),
            ("source_pubkey", fixed::<48>(50)),
            ("target_pubkey", fixed::<48>(51)),
        ]);
        let requests = container([
            ("deposits", Value::List(vec![deposit])),
            ("withdrawals", Value::List(vec![withdrawal])),
            ("consolidations", Value::List(vec![consolidation])),
        ]);
        fields.push(("execution_requests", requests));
    }
    Value::Container(fields)
}

fn payload(version: ForkVersion, blinded: bool) -> Value {
    let mut fields = vec![
        ("parent_hash", fixed::<32>(60)),
        ("fee_recipient", fixed::<20>(61)),
        ("state_root", fixed::<32>(62)),
        ("receipts_root", fixed::<32>(63)),
        ("logs_bloom", fixed::<256>(64)),
        ("prev_randao", fixed::<32>(65)),
        ("block_number", Value::Number(66)),
        ("gas_limit", Value::Number(67)),
        ("gas_used", Value::Number(68)),
        ("timestamp", Value::Number(69)),
        ("extra_data", Value::Variable(vec![70; 5])),
        ("base_fee_per_gas", Value::Wei),
        ("block_hash", fixed::<32>(71)),
    ];
    if blinded {
        fields.push(("transactions_root", fixed::<32>(72)));
    } else {
        let transactions = [vec![], vec![73], vec![74; 32], vec![75; 100]];
        let transactions = transactions.map(Value::Variable).into();
        fields.push(("transactions", Value::List(transactions)));
    }
    if version >= Capella && blinded {
        fields.push(("withdrawals_root", fixed::<32>(76)));
    } else if version >= Capella {
        let withdrawal = |seed| {
            container([
                ("index", Value::Number(seed)),
                ("validator_index", Value::Number(seed + 1)),
                ("address", fixed::<20>(77)),
                ("amount", Value::Number(seed + 2)),
            ])
        };
        let withdrawals = vec![withdrawal(78), withdrawal(81), withdrawal(84)];
        fields.push(("withdrawals", Value::List(withdrawals)));
    }
    if version >= Deneb {
        fields.push(("blob_gas_used", Value::Number(87)));
        fields.push(("excess_blob_gas", Value::Number(88)));
    }
    Value::Container(fields)
}

fn attestation(version: ForkVersion, slot: u64) -> Value {
    // 300 bits: more than one leaf.
    let mut bits = vec![0x35; 37];
    bits.push(0b1_0101);
    let mut fields = vec![
        ("aggregation_bits", Value::Variable(bits)),
        ("data", attestation_data(slot)),
        ("signature", fixed::<96>(90)),
    ];
    if version >= Electra {
        fields.push(("committee_bits", fixed::<8>(91)));
    }
    Value::Container(fields)
}

fn attestation_data(slot: u64) -> Value {
    let checkpoint =
        |epoch| container([("epoch", Value::Number(epoch)), ("root", fixed::<32>(92))]);
    container([
        ("slot", Value::Number(slot)),
        ("index", Value::Number(93)),
        ("beacon_block_root", fixed::<32>(94)),
        ("source", checkpoint(95)),
        ("target", checkpoint(96)),
    ])
}

fn signed(message: Value) -> Value {
    container([
        ("message", message),
        ("signature", Value::Fixed(SIGNATURE.to_vec())),
    ])
}

fn container<const N: usize>(fields: [(&'static str, Value); N]) -> Value {
    Value::Container(fields.into())
}

/// `N` bytes that count up from `seed`.
fn fixed<const N: usize>(seed: u8) -> Value {
    Value::Fixed((0..N).map(|at| seed.wrapping_add(at as u8)).collect())
}

/// A value of the beacon chain's specification, in both encodings.
#[derive(Clone)]
enum Value {
    /// A `uint64`.
    Number(u64),
    /// The `uint256` 2^128 + 1.
    Wei,
    /// Bytes of a fixed number.
    Fixed(Vec<u8>),
    /// Bytes of any number, or bits.
    Variable(Vec<u8>),
    /// Any number of values.
    List(Vec<Value>),
    /// A fixed number of values.
    Vector(Vec<Value>),
    Container(Vec<(&'static str, Value)>),
}

impl Value {
    /// The first value at the end of a path of field names, which may leave out what is between.
    fn at(&mut self, path: &[&str]) -> Option<&mut Self> {
        let Some((name, rest)) = path.split_first() else {
            return Some(self);
        };
        match self {
            Self::Container(fields) => {
                if let Some(found) = fields.iter().position(|(field, _)| field == name) {
                    return fields[found].1.at(rest);
                }
                fields.iter_mut().find_map(|(_, value)| value.at(path))
            }
            Self::List(values) => values.iter_mut().find_map(|value| value.at(path)),
            _ => None,
        }
    }

    fn at_body(&self) -> Self {
        self.clone().at(&["body"]).unwrap().clone()
    }

    fn is_fixed(&self) -> bool {
        match self {
            Self::Number(_) | Self::Wei | Self::Fixed(_) | Self::Vector(_) => true,
            Self::Variable(_) | Self::List(_) => false,
            Self::Container(fields) => fields.iter().all(|(_, value)| value.is_fixed()),
        }
    }

    fn ssz(&self) -> Vec<u8> {
        match self {
            Self::Number(number) => number.to_le_bytes().to_vec(),
            Self::Wei => {
                let mut bytes = vec![0; 32];
                bytes[0] = 1;
                bytes[16] = 1;
                bytes
            }
            Self::Fixed(bytes) | Self::Variable(bytes) => bytes.clone(),
            Self::List(values) | Self::Vector(values) => Self::join(values.iter()),
            Self::Container(fields) => Self::join(fields.iter().map(|(_, value)| value)),
        }
    }

    fn join<'a>(values: impl Iterator<Item = &'a Self> + Clone) -> Vec<u8> {
        let parts: Vec<_> = values.map(|it| (it.is_fixed(), it.ssz())).collect();
        let head = parts
            .iter()
            .map(|(fixed, part)| if *fixed { part.len() } else { 4 });
        let mut offset = head.sum::<usize>();
        let (mut head, mut tail) = (Vec::new(), Vec::new());
        for (fixed, part) in parts {
            if fixed {
                head.extend(part);
            } else {
                head.extend(u32::try_from(offset).unwrap().to_le_bytes());
                offset += part.len();
                tail.extend(part);
            }
        }
        [head, tail].concat()
    }

    fn json(&self) -> serde_json::Value {
        match self {
            Self::Number(number) => number.to_string().into(),
            Self::Wei => "340282366920938463463374607431768211457".into(),
            Self::Fixed(bytes) | Self::Variable(bytes) => {
                format!("0x{}", hex::encode(bytes)).into()
            }
            Self::List(values) | Self::Vector(values) => values.iter().map(Self::json).collect(),
            Self::Container(fields) => fields
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.json()))
                .collect(),
        }
    }
}
