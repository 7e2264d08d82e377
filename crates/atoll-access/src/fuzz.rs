//! Fuzz targets: what shard 0 keeps of users, keys, buckets and the audit trail, and policies.

use atoll_types::fuzzing::{self, Checked};

pub use crate::policy::fuzz::{policy, policy_seeds};
use crate::{audit, records};

const FORMATS: &[Checked] = &[
    Checked::of::<audit::Batch>(),
    Checked::of::<audit::Head>(),
    Checked::of::<audit::Link>(),
    Checked::of::<audit::LinkedBatch>(),
    Checked::of::<audit::SignedBatch>(),
    Checked::of::<audit::WitnessNote>(),
    Checked::of::<audit::WitnessStatement>(),
    Checked::of::<records::BucketRules>(),
    Checked::of::<records::KeyRecord>(),
    Checked::of::<records::TokenRecord>(),
    Checked::of::<records::UserRecord>(),
    Checked::of::<records::first::KeyRecord>(),
    Checked::of::<records::first::Change>(),
    Checked::of::<records::first::SnapshotReply>(),
    Checked::of::<records::first::SnapshotRequest>(),
];

/// The first byte chooses a format for the rest.
pub fn formats(bytes: &[u8]) {
    fuzzing::check(FORMATS, bytes);
}

pub fn formats_seeds() -> Vec<Vec<u8>> {
    fuzzing::seeds(FORMATS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_hold() {
        fuzz::exercise(formats, formats_seeds());
    }

    #[test]
    fn policies_hold() {
        fuzz::exercise(policy, policy_seeds());
    }
}
