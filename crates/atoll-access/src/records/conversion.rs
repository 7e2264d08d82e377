//! From what programs before cluster version 3 kept to what this one keeps.

use std::ops::Bound;

use atoll_disk::StoreError;
use atoll_records::WriteView;
use atoll_types::Format;
use bytes::Bytes;

use super::{KeyRecord, ROOT_USER, UserRecord, decode, log, names};
use crate::{UserRights, canonical_id};

/// The newest form, under [`names::FORMAT`].
const FORMAT: u8 = 2;

/// Begins the log with every record that is there, keys in their newest shape, and writes
/// down the root user. Once: done again it changes nothing.
pub(super) fn convert(view: &mut dyn WriteView) -> Result<(), StoreError> {
    if log::is_kept(view)? {
        return Ok(());
    }
    view.put(names::FORMAT, Bytes::copy_from_slice(&[FORMAT]));
    let root = UserRecord {
        name: ROOT_USER.into(),
        canonical_id: canonical_id(ROOT_USER),
        display_name: ROOT_USER.into(),
        email: String::new(),
        rights: UserRights::ALL,
        created: view.stamp(),
    };
    log::put(view, &names::of(names::USER, ROOT_USER.as_bytes()), root.encode())?;
    for family in [names::KEY, names::TOKEN] {
        let range = (Bound::Included(family), names::end(family));
        let records: Vec<(Bytes, Bytes)> =
            view.range(range.0, Bound::Excluded(&range.1)).collect::<Result<_, _>>()?;
        for (name, bytes) in records {
            if family == names::KEY {
                log::put(view, &name, decode::<KeyRecord>(&bytes)?.encode())?;
            } else {
                log::note(view, &name)?;
            }
        }
    }
    Ok(())
}
