//! JSON as Charon's files are read and written.
//!
//! Spec: cluster, sections 1.1, 12.15 and 12.16.

mod read;
mod write;

pub use read::Kind;
pub(crate) use read::Reader;
pub(crate) use write::Writer;
