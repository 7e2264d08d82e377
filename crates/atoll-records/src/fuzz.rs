//! Fuzz targets: what lies in shards and their logs, and what nodes send each other about them.

use atoll_types::fuzzing::{self, Checked};

use crate::{alone, dedup, lease, lives, log, state, transaction, watch, wire};

const FORMATS: &[Checked] = &[
    Checked::of::<alone::Alone>(),
    Checked::of::<dedup::Remembered>(),
    Checked::of::<lease::Grant>(),
    Checked::of::<lease::Lock>(),
    Checked::of::<lease::Locks>(),
    Checked::of::<lease::Named>(),
    Checked::of::<lease::Output>(),
    Checked::of::<lease::Stored>(),
    Checked::of::<lives::Lives>(),
    Checked::of::<log::LogState>(),
    Checked::of::<state::Descriptor>(),
    Checked::of::<state::Meta>(),
    Checked::of::<transaction::Output>(),
    Checked::of::<transaction::Read>(),
    Checked::of::<transaction::ReadResult>(),
    Checked::of::<transaction::Stored>(),
    Checked::of::<transaction::Transaction>(),
    Checked::of::<watch::News>(),
    Checked::of::<watch::Stored>(),
    Checked::of::<wire::Answer>(),
    Checked::of::<wire::Call>(),
    Checked::of::<wire::ChangeEntry>(),
    Checked::of::<wire::CommandEntry>(),
    Checked::of::<wire::Frame>(),
    Checked::of::<wire::LoggedEntry>(),
    Checked::of::<wire::Piece>(),
    Checked::of::<wire::Pull>(),
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
    #[test]
    fn formats_hold() {
        fuzz::exercise(super::formats, super::formats_seeds());
    }
}
