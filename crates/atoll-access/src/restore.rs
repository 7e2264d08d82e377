//! What snapshots keep of users and of what was said of buckets, and giving it back.
//!
//! Keys and tokens are not among it: a snapshot, and with it a backup, has no secrets.

use atoll_types::{Format, FormatError, Instant};

use crate::{
    Access, BucketOf, BucketRules, ChangeError, NewUser, ROOT_USER, Refused, UserRecord, UserRights,
    access::LOOKUP_WAIT,
    records::{Act, BucketId, names},
};

/// Prefixes of the records of shard 0 that snapshots keep.
pub const KEPT_PREFIXES: [&[u8]; 2] = [names::USER, names::BUCKET];

/// Such a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeptRecord {
    User(UserRecord),
    Rules { bucket: BucketId, rules: BucketRules },
}

impl KeptRecord {
    /// `None` for what is no such record.
    pub fn read(key: &[u8], value: &[u8]) -> Result<Option<Self>, FormatError> {
        if key.starts_with(names::USER) {
            return Ok(Some(KeptRecord::User(UserRecord::decode(value)?)));
        }
        let Some(bucket) = key.strip_prefix(names::BUCKET).and_then(|id| <[u8; 8]>::try_from(id).ok()) else {
            return Ok(None);
        };
        let rules = BucketRules::decode(value)?;
        Ok(Some(KeptRecord::Rules { bucket: BucketId::from_be_bytes(bucket), rules }))
    }
}

impl Access {
    /// Makes a user as it was, with its canonical id. One who is there with that id stays, and
    /// so does the root user, who has the same id in every cluster.
    pub async fn restore_user(&self, user: UserRecord, deadline: Instant) -> Result<(), ChangeError> {
        let UserRecord { name, canonical_id, display_name, email, rights, .. } = user;
        if name == ROOT_USER {
            return Ok(());
        }
        NewUser { name: name.clone(), display_name: display_name.clone(), email: email.clone() }.check()?;
        let there = self.inner.refreshed(LOOKUP_WAIT).await?.content.users.get(&name).cloned();
        match there {
            Some(there) if there.canonical_id != canonical_id => {
                return Err(Refused::UserExists { name }.into());
            }
            // Somebody may have changed what it may since.
            Some(there) if there.rights != UserRights::CREATE_BUCKETS => return Ok(()),
            Some(_) => {}
            None => {
                let create = Act::CreateUser { name: name.clone(), canonical_id, display_name, email };
                self.act(create, deadline).await?;
            }
        }
        let given = Act::ChangeUser { name: name.clone(), rights, given: true };
        self.act(given, deadline).await?;
        let taken = UserRights::ALL.without(rights);
        self.act(Act::ChangeUser { name, rights: taken, given: false }, deadline).await
    }

    /// Gives a bucket that nobody can see yet the rules that it had. All users who have grants
    /// must be there.
    pub async fn restore_rules(
        &self,
        of: BucketOf<'_>,
        rules: BucketRules,
        deadline: Instant,
    ) -> Result<(), ChangeError> {
        let bucket = of.id;
        let there = self.newest_rules(bucket).await?;
        // Done again it must not meet the public access block that was restored after it.
        if (there.ownership, &there.acl) != (rules.ownership, &rules.acl) {
            self.put_acl(of, Some(rules.ownership), Some(rules.acl), deadline).await?;
        }
        let users = self.users().await?;
        for (id, rights) in rules.grants {
            let user = users.iter().find(|user| user.canonical_id == id);
            let name = || format!("with the canonical id {id}");
            let user = user.ok_or_else(|| Refused::NoSuchUser { name: name() })?.name.clone();
            self.act(Act::ChangeGrant { bucket, user, rights, given: true }, deadline).await?;
        }
        if let Some(mut policy) = rules.policy {
            // Deleted users may still be named in it; they match nobody, here as there.
            policy
                .users
                .retain(|name, id| users.iter().any(|user| user.name == *name && user.canonical_id == *id));
            self.act(Act::PutPolicy { bucket, policy: Some(policy) }, deadline).await?;
        }
        if rules.public_access_block.is_some() {
            self.put_public_access_block(bucket, rules.public_access_block, deadline).await?;
        }
        Ok(())
    }
}
