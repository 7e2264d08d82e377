//! What shard 0 keeps of access, and the procedures that change and read it. All keys
//! begin with `access/`.
//!
//! Every change raises `access/version`, and notes under `access/log/` which record it was
//! about. The log has one line for each record, its newest change, and lines for records
//! that are gone; so a cache that asks for what is newer than N gets that and no more, and
//! one that has nothing gets everything, a page at a time.
//!
//! [`first`] is what programs before cluster version 3 write: keys and tokens only, and no
//! log. [`Act::Convert`] is the way from there, done once when the version is raised.

mod act;
mod conversion;
#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod first;
mod log;
mod shapes;

pub use act::Refused;
pub(crate) use act::{ACT, Act, refused};
pub(crate) use log::{CHANGES, Changed, ChangesReply, ChangesRequest};
pub use shapes::{
    BucketId, BucketRules, KeyRecord, Ownership, PolicyRecord, PublicAccessBlock, TokenRecord, UserRecord,
};

use atoll_disk::StoreError;
use atoll_records::Procedures;
use atoll_types::{Format, FormatError};

/// The user that owns whatever was there before there were users, and may do everything.
pub const ROOT_USER: &str = "root";

/// Registers what this crate runs in shard 0.
pub fn register(procedures: &mut Procedures) {
    procedures
        .command(first::CHANGE, first::ChangeAccess)
        .query(first::SNAPSHOT, first::TakeSnapshot)
        .command(ACT, act::PerformAct)
        .query(CHANGES, log::TellChanges);
    crate::audit::register(procedures);
}

/// The families of records, and the keys that they lie under.
pub(crate) mod names {
    use super::BucketId;

    pub const VERSION: &[u8] = b"access/version";
    /// There when the log is kept.
    pub const FORMAT: &[u8] = b"access/format";
    /// Lines of the log up to this version may be gone.
    pub const TRIMMED: &[u8] = b"access/trimmed";
    /// How many lines are of records that are gone.
    pub const GONE: &[u8] = b"access/gone";
    pub const LOG: &[u8] = b"access/log/";
    /// Where a record's line in the log is.
    pub const LINE_OF: &[u8] = b"access/line-of/";
    pub const KEY: &[u8] = b"access/key/";
    pub const TOKEN: &[u8] = b"access/token/";
    pub const USER: &[u8] = b"access/user/";
    pub const BUCKET: &[u8] = b"access/bucket/";

    pub fn of(family: &[u8], name: &[u8]) -> Vec<u8> {
        [family, name].concat()
    }

    pub fn bucket(bucket: BucketId) -> Vec<u8> {
        of(BUCKET, &bucket.to_be_bytes())
    }

    /// One past every key of the family: they end in `/`, and `/` + 1 = `0`.
    pub fn end(family: &[u8]) -> Vec<u8> {
        [&family[..family.len() - 1], b"0"].concat()
    }
}

/// Our own records that do not decode are a broken invariant: the replica stops .
fn decode<T: Format>(bytes: &[u8]) -> Result<T, StoreError> {
    T::decode(bytes).map_err(|error: FormatError| StoreError { operation: "decode", source: error.into() })
}
