//! Shard 0: which root key the cluster has. The first one given stays.

use atoll_records::{ReadView, WriteView};

use super::{CommandName, Fault, QueryName, keys, read, records::RootKeyRecord, write};
use crate::encryption::RootKeyId;

pub const CLAIM: CommandName<RootKeyId, RootKeyId> = CommandName::new("objects/root-key-claim/1", claim);
pub const GET: QueryName<(), Option<RootKeyId>> = QueryName::new("objects/root-key/1", get);

/// The cluster's root key: this one, if it had none.
fn claim(view: &mut dyn WriteView, mine: RootKeyId) -> Result<RootKeyId, Fault> {
    if let Some(RootKeyRecord(id)) = read(view, &keys::ROOT_KEY)? {
        return Ok(id);
    }
    write(view, &keys::ROOT_KEY, &RootKeyRecord(mine));
    Ok(mine)
}

fn get(view: &dyn ReadView, (): ()) -> Result<Option<RootKeyId>, Fault> {
    Ok(read(view, &keys::ROOT_KEY)?.map(|RootKeyRecord(id)| id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::fake::FakeShard;

    #[test]
    fn the_first_root_key_stays() {
        let mut shard = FakeShard::new();
        assert_eq!(shard.query(&GET, ()), Ok(None));
        for id in [1, 2, 1] {
            assert_eq!(shard.execute(&CLAIM, RootKeyId([id; 8])), Ok(RootKeyId([1; 8])));
        }
        assert_eq!(shard.query(&GET, ()), Ok(Some(RootKeyId([1; 8]))));
    }
}
