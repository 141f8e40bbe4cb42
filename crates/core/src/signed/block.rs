//! Signed blocks of all forks, full and blinded.
//!
//! Spec: duties, sections 1.4 to 1.6. Containers and limits: the beacon chain's specification from
//! phase0 to electra, which fulu shares; what goes with a block: its builder and beacon-node APIs.

use serde::{Deserialize, de::DeserializeOwned};

use super::{
    ForkVersion, SignedDataError, SszError,
    container::{Root, Ssz, Unsigned, container},
    hash,
    json::{Dec, Hex},
    operations::{
        Attestations, AttesterSlashings, BlobCommitments, BlsToExecutionChanges, Deposits,
        ElectraAttestations, ElectraAttesterSlashings, Eth1Data, ExecutionRequests,
        ProposerSlashings, Signed, SyncAggregate, VoluntaryExits,
    },
    payload::{
        BellatrixHeader, BellatrixPayload, CapellaHeader, CapellaPayload, DenebHeader, DenebPayload,
    },
    ssz::{Reader, behind, split},
};
use crate::DutyType;

/// Where the signed object starts in its wrapper; senders may leave a gap.
const HEADER: usize = 13;

/// `BYTES_PER_BLOB`
const BLOB: usize = 131_072;
/// `MAX_BLOB_COMMITMENTS_PER_BLOCK`
const MAX_BLOBS: usize = 4_096;
/// Most proofs beside a block before fulu: one for each blob.
const BLOB_PROOFS: usize = MAX_BLOBS;
/// Most proofs since fulu: `FIELD_ELEMENTS_PER_EXT_BLOB` for each blob, far above the frame.
const CELL_PROOFS: usize = 8_192 * MAX_BLOBS;

/// A block with its signature. Of its body only the root is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignedProposal {
    /// The fork that gives its layout.
    pub version: ForkVersion,
    /// Whether the payload was given by its header. Never before bellatrix.
    pub blinded: bool,
    /// The slot.
    pub slot: u64,
    /// Who proposes.
    pub proposer_index: u64,
    /// The block before it.
    pub parent_root: [u8; 32],
    /// The state after it.
    pub state_root: [u8; 32],
    /// The root of everything else. A blinded body has the root of the full one.
    pub body_root: [u8; 32],
    /// The signature.
    pub signature: [u8; 96],
}

impl SignedProposal {
    pub(super) fn from_ssz(bytes: &[u8]) -> Result<Self, SszError> {
        let mut reader = Reader::new(bytes);
        let version = ForkVersion::from_ssz(&mut reader)?;
        let [blinded] = reader.array("blinded")?;
        let payload = behind(bytes, &mut reader, "block", HEADER)?;
        // Another number than 1 is no refusal but a full block, as everywhere.
        read(&SszBytes(payload), version, blinded == 1)
    }

    /// The root of a block is that of its header.
    pub(super) fn message_root(&self) -> [u8; 32] {
        hash::container(&[
            hash::u64(self.slot),
            hash::u64(self.proposer_index),
            self.parent_root,
            self.state_root,
            self.body_root,
        ])
    }
}

pub(super) fn from_json(bytes: &[u8]) -> Result<SignedProposal, SignedDataError> {
    let kind = DutyType::Proposer;
    // The flag stands behind the block that it tells how to read.
    let head: HeadJson = super::from_long_json(kind, bytes)?;
    let version = ForkVersion::from_json(kind, head.version)?;
    read(&JsonText(bytes), version, head.blinded)
}

#[derive(Deserialize)]
struct HeadJson {
    version: u64,
    #[serde(default)]
    blinded: bool,
}

#[derive(Deserialize)]
struct BlockJson<T> {
    block: T,
}

/// Either encoding of what is in a wrapper.
trait Encoded {
    type Error;

    fn read<T: Ssz + DeserializeOwned>(&self) -> Result<T, Self::Error>;
}

struct SszBytes<'a>(&'a [u8]);

impl Encoded for SszBytes<'_> {
    type Error = SszError;

    fn read<T: Ssz + DeserializeOwned>(&self) -> Result<T, SszError> {
        T::read(self.0, "block")
    }
}

struct JsonText<'a>(&'a [u8]);

impl Encoded for JsonText<'_> {
    type Error = SignedDataError;

    fn read<T: Ssz + DeserializeOwned>(&self) -> Result<T, SignedDataError> {
        super::from_long_json(DutyType::Proposer, self.0).map(|it: BlockJson<T>| it.block)
    }
}

fn read<E: Encoded>(
    from: &E,
    version: ForkVersion,
    blinded: bool,
) -> Result<SignedProposal, E::Error> {
    use ForkVersion::{Altair, Bellatrix, Capella, Deneb, Electra, Fulu, Phase0};
    let blinded = blinded && version >= Bellatrix;
    let (block, signature) = match (version, blinded) {
        (Phase0, _) => bare::<_, Phase0Body>(from)?,
        (Altair, _) => bare::<_, AltairBody>(from)?,
        (Bellatrix, false) => bare::<_, BellatrixBody>(from)?,
        (Bellatrix, true) => bare::<_, BlindedBellatrixBody>(from)?,
        (Capella, false) => bare::<_, CapellaBody>(from)?,
        (Capella, true) => bare::<_, BlindedCapellaBody>(from)?,
        (Deneb, false) => with_blobs::<_, DenebBody, BLOB_PROOFS>(from)?,
        (Deneb, true) => bare::<_, BlindedDenebBody>(from)?,
        (Electra, false) => with_blobs::<_, ElectraBody, BLOB_PROOFS>(from)?,
        (Fulu, false) => with_blobs::<_, ElectraBody, CELL_PROOFS>(from)?,
        (Electra | Fulu, true) => bare::<_, BlindedElectraBody>(from)?,
    };
    Ok(SignedProposal {
        version,
        blinded,
        slot: block.slot.0,
        proposer_index: block.proposer_index.0,
        parent_root: block.parent_root.0,
        state_root: block.state_root.0,
        body_root: block.body.0,
        signature,
    })
}

/// A block by itself.
fn bare<E: Encoded, B: Ssz + Root + DeserializeOwned>(
    from: &E,
) -> Result<(Block<BodyRoot>, [u8; 96]), E::Error> {
    from.read().map(rooted::<B>)
}

/// A block with the blobs of its payload, which its signature does not cover.
fn with_blobs<E: Encoded, B: Ssz + Root + DeserializeOwned, const PROOFS: usize>(
    from: &E,
) -> Result<(Block<BodyRoot>, [u8; 96]), E::Error> {
    from.read()
        .map(|it: Contents<B, PROOFS>| rooted(it.signed_block))
}

fn rooted<B: Root>(signed: Signed<Block<B>>) -> (Block<BodyRoot>, [u8; 96]) {
    let block = signed.message;
    let block = Block {
        slot: block.slot,
        proposer_index: block.proposer_index,
        parent_root: block.parent_root,
        state_root: block.state_root,
        body: BodyRoot(block.body.root()),
    };
    (block, signed.signature.0)
}

struct BodyRoot([u8; 32]);

#[derive(Deserialize)]
struct Contents<B, const PROOFS: usize> {
    signed_block: Signed<Block<B>>,
    #[serde(rename = "kzg_proofs")]
    _kzg_proofs: Unsigned<48, PROOFS>,
    #[serde(rename = "blobs")]
    _blobs: Unsigned<BLOB, MAX_BLOBS>,
}

impl<B: Ssz, const PROOFS: usize> Ssz for Contents<B, PROOFS> {
    const SIZE: Option<usize> = None;

    fn read(bytes: &[u8], _: &'static str) -> Result<Self, SszError> {
        let fields = ["signed_block", "kzg_proofs", "blobs"];
        let [block, proofs, blobs] = split(bytes, fields.map(|field| (field, None)))?;
        Ok(Self {
            signed_block: Ssz::read(block, "signed_block")?,
            _kzg_proofs: Ssz::read(proofs, "kzg_proofs")?,
            _blobs: Ssz::read(blobs, "blobs")?,
        })
    }
}

container! {
    /// A block.
    Block<B> {
        slot: Dec,
        proposer_index: Dec,
        parent_root: Hex<32>,
        state_root: Hex<32>,
        body: B,
    }
}

/// A body: the same fields, then what the forks added. Since electra slashings and attestations
/// are of other types.
macro_rules! body {
    ($name:ident { $slashings:ty, $attestations:ty $(, $field:ident: $type:ty)* $(,)? }) => {
        container! {
            $name {
                randao_reveal: Hex<96>,
                eth1_data: Eth1Data,
                graffiti: Hex<32>,
                proposer_slashings: ProposerSlashings,
                attester_slashings: $slashings,
                attestations: $attestations,
                deposits: Deposits,
                voluntary_exits: VoluntaryExits,
                $($field: $type),*
            }
        }
    };
}

body! {
    Phase0Body {
        AttesterSlashings,
        Attestations,
    }
}

body! {
    AltairBody {
        AttesterSlashings,
        Attestations,
        sync_aggregate: SyncAggregate,
    }
}

body! {
    BellatrixBody {
        AttesterSlashings,
        Attestations,
        sync_aggregate: SyncAggregate,
        execution_payload: BellatrixPayload,
    }
}

body! {
    BlindedBellatrixBody {
        AttesterSlashings,
        Attestations,
        sync_aggregate: SyncAggregate,
        execution_payload_header: BellatrixHeader,
    }
}

body! {
    CapellaBody {
        AttesterSlashings,
        Attestations,
        sync_aggregate: SyncAggregate,
        execution_payload: CapellaPayload,
        bls_to_execution_changes: BlsToExecutionChanges,
    }
}

body! {
    BlindedCapellaBody {
        AttesterSlashings,
        Attestations,
        sync_aggregate: SyncAggregate,
        execution_payload_header: CapellaHeader,
        bls_to_execution_changes: BlsToExecutionChanges,
    }
}

body! {
    DenebBody {
        AttesterSlashings,
        Attestations,
        sync_aggregate: SyncAggregate,
        execution_payload: DenebPayload,
        bls_to_execution_changes: BlsToExecutionChanges,
        blob_kzg_commitments: BlobCommitments,
    }
}

body! {
    BlindedDenebBody {
        AttesterSlashings,
        Attestations,
        sync_aggregate: SyncAggregate,
        execution_payload_header: DenebHeader,
        bls_to_execution_changes: BlsToExecutionChanges,
        blob_kzg_commitments: BlobCommitments,
    }
}

body! {
    ElectraBody {
        ElectraAttesterSlashings,
        ElectraAttestations,
        sync_aggregate: SyncAggregate,
        execution_payload: DenebPayload,
        bls_to_execution_changes: BlsToExecutionChanges,
        blob_kzg_commitments: BlobCommitments,
        execution_requests: ExecutionRequests,
    }
}

body! {
    BlindedElectraBody {
        ElectraAttesterSlashings,
        ElectraAttestations,
        sync_aggregate: SyncAggregate,
        execution_payload_header: DenebHeader,
        bls_to_execution_changes: BlsToExecutionChanges,
        blob_kzg_commitments: BlobCommitments,
        execution_requests: ExecutionRequests,
    }
}
