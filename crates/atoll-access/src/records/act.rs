//! What administrators do, as a command in shard 0: checked where it is done, so that two
//! who act at once can't both be first.

use std::{collections::BTreeMap, ops::Bound};

use atoll_disk::StoreError;
use atoll_records::{Command, ReadView, Verdict, WriteView};
use atoll_types::{AclGrant, Format, Grantee};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    BucketId, BucketRules, KeyRecord, Ownership, PolicyRecord, PublicAccessBlock, ROOT_USER, TokenRecord,
    UserRecord, conversion::convert, decode, log, names,
};
use crate::{Rights, Secret, TokenHash, UserRights};

pub(crate) const ACT: &str = "access/act/1";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Act {
    /// Makes the log and the root user out of what older programs kept.
    Convert,
    /// Creates the first key of the root user, unless it has one.
    FoundRoot {
        access_key: String,
        secret: Secret,
    },
    CreateUser {
        name: String,
        canonical_id: String,
        display_name: String,
        email: String,
    },
    /// `rights` are given, or taken.
    ChangeUser {
        name: String,
        rights: UserRights,
        given: bool,
    },
    /// With all keys and grants.
    DeleteUser {
        name: String,
    },
    CreateKey {
        access_key: String,
        secret: Secret,
        user: String,
        rights: Rights,
    },
    ChangeKey {
        access_key: String,
        rights: Rights,
        given: bool,
    },
    LimitKey {
        access_key: String,
        requests_per_second: Option<u32>,
    },
    DeleteKey {
        access_key: String,
    },
    PutToken {
        hash: TokenHash,
        name: String,
    },
    DeleteToken {
        name: String,
    },
    ChangeGrant {
        bucket: BucketId,
        user: String,
        rights: Rights,
        given: bool,
    },
    PutPolicy {
        bucket: BucketId,
        policy: Option<PolicyRecord>,
    },
    PutPublicAccessBlock {
        bucket: BucketId,
        block: Option<PublicAccessBlock>,
    },
    /// The bucket is gone, and with it what was said of it.
    ForgetBucket {
        bucket: BucketId,
    },
    /// Sets what is given of the two.
    PutAcl {
        bucket: BucketId,
        /// The bucket owner's canonical id.
        owner: String,
        ownership: Option<Ownership>,
        /// The outer `None` leaves it; the inner is private.
        acl: Option<Option<Vec<AclGrant>>>,
    },
}

impl Format for Act {
    const NAME: &'static str = "access act";
    const VERSION: u8 = 1;
}

/// Why an act was not done. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refused {
    #[error("there is no user {name:?}")]
    NoSuchUser { name: String },
    #[error("there is a user {name:?} already")]
    UserExists { name: String },
    #[error("another user has the address {email}")]
    EmailTaken { email: String },
    #[error("there is no access key {access_key:?}")]
    NoSuchKey { access_key: String },
    #[error("there is an access key {access_key:?} already")]
    KeyExists { access_key: String },
    #[error("the root user stays as it is")]
    RootStays,
    /// Ours: a newer program asked for what this one does not know.
    #[error("this program does not know that")]
    Unknown,
    /// Its ownership controls are, or would be, `BucketOwnerEnforced`.
    #[error("the bucket's ACLs are disabled")]
    AclsDisabled,
    #[error("the bucket's ACL grants something to others")]
    AclGrantsOthers,
    #[error("public ACLs are blocked")]
    PublicAclBlocked,
}

/// The reason in an aborted command's output.
pub(crate) fn refused(output: &[u8]) -> Refused {
    postcard::from_bytes(output).unwrap_or(Refused::Unknown)
}

/// A store that fails, or an act that is refused.
enum Fault {
    Store(StoreError),
    Refused(Refused),
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Fault::Store(error)
    }
}

impl From<Refused> for Fault {
    fn from(why: Refused) -> Self {
        Fault::Refused(why)
    }
}

pub(super) struct PerformAct;

impl Command for PerformAct {
    fn apply(&self, view: &mut dyn WriteView, input: &[u8]) -> Result<Verdict, StoreError> {
        let done = match Act::decode(input) {
            Ok(act) => perform(view, act),
            Err(_) => Err(Fault::Refused(Refused::Unknown)),
        };
        match done {
            Ok(()) => Ok(Verdict::Commit(Vec::new())),
            Err(Fault::Store(error)) => Err(error),
            Err(Fault::Refused(why)) => {
                Ok(Verdict::Abort(postcard::to_stdvec(&why).expect("derived types always encode")))
            }
        }
    }
}

fn perform(view: &mut dyn WriteView, act: Act) -> Result<(), Fault> {
    // Acts are for clusters whose nodes all keep the log.
    convert(view)?;
    let created = view.stamp();
    match act {
        Act::Convert => {}
        Act::FoundRoot { access_key, secret } => {
            let has_key = records::<KeyRecord>(view, names::KEY)?.iter().any(|key| key.user == ROOT_USER);
            if !has_key {
                let (user, rights) = (ROOT_USER.to_owned(), Rights::ALL);
                let key = KeyRecord { access_key, secret, user, rights, requests_per_second: None, created };
                put_key(view, &key)?;
            }
        }
        Act::CreateUser { name, canonical_id, display_name, email } => {
            if user(view, &name).is_ok() {
                return Err(Refused::UserExists { name }.into());
            }
            let taken = |user: &UserRecord| !email.is_empty() && user.email.eq_ignore_ascii_case(&email);
            if records::<UserRecord>(view, names::USER)?.iter().any(taken) {
                return Err(Refused::EmailTaken { email }.into());
            }
            let rights = UserRights::CREATE_BUCKETS;
            put_user(view, &UserRecord { name, canonical_id, display_name, email, rights, created })?;
        }
        Act::ChangeUser { name, rights, given } => {
            let mut user = user(view, &name)?;
            if name == ROOT_USER {
                return Err(Refused::RootStays.into());
            }
            user.rights = if given { user.rights.with(rights) } else { user.rights.without(rights) };
            put_user(view, &user)?;
        }
        Act::DeleteUser { name } => delete_user(view, &name)?,
        Act::CreateKey { access_key, secret, user: owner, rights } => {
            user(view, &owner)?;
            if key(view, &access_key).is_ok() {
                return Err(Refused::KeyExists { access_key }.into());
            }
            let key =
                KeyRecord { access_key, secret, user: owner, rights, requests_per_second: None, created };
            put_key(view, &key)?;
        }
        Act::ChangeKey { access_key, rights, given } => {
            let mut key = key(view, &access_key)?;
            key.rights = if given { key.rights.with(rights) } else { key.rights.without(rights) };
            put_key(view, &key)?;
        }
        Act::LimitKey { access_key, requests_per_second } => {
            let key = key(view, &access_key)?;
            put_key(view, &KeyRecord { requests_per_second, ..key })?;
        }
        Act::DeleteKey { access_key } => {
            key(view, &access_key)?;
            log::delete(view, &names::of(names::KEY, access_key.as_bytes()))?;
        }
        Act::PutToken { hash, name } => {
            let record = TokenRecord { hash, name, created };
            log::put(view, &names::of(names::TOKEN, record.name.as_bytes()), record.encode())?;
        }
        Act::DeleteToken { name } => log::delete(view, &names::of(names::TOKEN, name.as_bytes()))?,
        Act::ChangeGrant { bucket, user: name, rights, given } => {
            let id = user(view, &name)?.canonical_id;
            change_rules(view, bucket, |rules| {
                let before = rules.grants.get(&id).copied().unwrap_or_default();
                let after = if given { before.with(rights) } else { before.without(rights) };
                match after.is_none() {
                    true => drop(rules.grants.remove(&id)),
                    false => drop(rules.grants.insert(id, after)),
                }
            })?;
        }
        Act::PutPolicy { bucket, policy } => {
            // Who was deleted since the document was read must not be meant by it.
            for (name, id) in policy.iter().flat_map(|policy| &policy.users) {
                if user(view, name)?.canonical_id != *id {
                    return Err(Refused::NoSuchUser { name: name.clone() }.into());
                }
            }
            change_rules(view, bucket, |rules| rules.policy = policy)?;
        }
        Act::PutPublicAccessBlock { bucket, block } => {
            change_rules(view, bucket, |rules| rules.public_access_block = block)?;
        }
        Act::ForgetBucket { bucket } => log::delete(view, &names::bucket(bucket))?,
        Act::PutAcl { bucket, owner, ownership, acl } => {
            let mut rules = rules(view, bucket)?;
            let blocked = rules.public_access_block.is_some_and(|block| block.block_public_acls);
            let public = |grants: &Vec<AclGrant>| grants.iter().any(|grant| grant.grantee.is_public());
            if blocked && acl.iter().flatten().any(public) {
                return Err(Refused::PublicAclBlocked.into());
            }
            rules.ownership = ownership.unwrap_or(rules.ownership);
            let sets_grants = matches!(acl, Some(Some(_)));
            rules.acl = acl.unwrap_or(rules.acl);
            let others = |grant: &AclGrant| !matches!(&grant.grantee, Grantee::User(id) if *id == owner);
            if !rules.ownership.has_acls() && rules.acl.iter().flatten().any(others) {
                let why = if sets_grants { Refused::AclsDisabled } else { Refused::AclGrantsOthers };
                return Err(why.into());
            }
            put_rules(view, &names::bucket(bucket), &rules)?;
        }
    }
    Ok(())
}

fn delete_user(view: &mut dyn WriteView, name: &str) -> Result<(), Fault> {
    let id = user(view, name)?.canonical_id;
    if name == ROOT_USER {
        return Err(Refused::RootStays.into());
    }
    for key in records::<KeyRecord>(view, names::KEY)? {
        if key.user == name {
            log::delete(view, &names::of(names::KEY, key.access_key.as_bytes()))?;
        }
    }
    for (bucket, rules) in named::<BucketRules>(view, names::BUCKET)? {
        if rules.grants.contains_key(&id) {
            let mut rules = rules;
            rules.grants.remove(&id);
            put_rules(view, &bucket, &rules)?;
        }
    }
    log::delete(view, &names::of(names::USER, name.as_bytes()))?;
    Ok(())
}

fn change_rules(
    view: &mut dyn WriteView,
    bucket: BucketId,
    change: impl FnOnce(&mut BucketRules),
) -> Result<(), Fault> {
    let mut rules = rules(view, bucket)?;
    change(&mut rules);
    Ok(put_rules(view, &names::bucket(bucket), &rules)?)
}

fn rules(view: &dyn ReadView, bucket: BucketId) -> Result<BucketRules, StoreError> {
    view.get(&names::bucket(bucket))?.map_or_else(|| Ok(BucketRules::default()), |bytes| decode(&bytes))
}

fn put_rules(view: &mut dyn WriteView, name: &[u8], rules: &BucketRules) -> Result<(), StoreError> {
    if rules.is_empty() { log::delete(view, name) } else { log::put(view, name, rules.encode()) }
}

fn put_user(view: &mut dyn WriteView, user: &UserRecord) -> Result<(), StoreError> {
    log::put(view, &names::of(names::USER, user.name.as_bytes()), user.encode())
}

fn put_key(view: &mut dyn WriteView, key: &KeyRecord) -> Result<(), StoreError> {
    log::put(view, &names::of(names::KEY, key.access_key.as_bytes()), key.encode())
}

fn user(view: &dyn ReadView, name: &str) -> Result<UserRecord, Fault> {
    let no_such = || Fault::Refused(Refused::NoSuchUser { name: name.into() });
    Ok(decode(&view.get(&names::of(names::USER, name.as_bytes()))?.ok_or_else(no_such)?)?)
}

fn key(view: &dyn ReadView, access_key: &str) -> Result<KeyRecord, Fault> {
    let no_such = || Fault::Refused(Refused::NoSuchKey { access_key: access_key.into() });
    Ok(decode(&view.get(&names::of(names::KEY, access_key.as_bytes()))?.ok_or_else(no_such)?)?)
}

fn records<T: Format + DeserializeOwned>(view: &dyn ReadView, family: &[u8]) -> Result<Vec<T>, StoreError> {
    Ok(named(view, family)?.into_values().collect())
}

fn named<T: Format + DeserializeOwned>(
    view: &dyn ReadView,
    family: &[u8],
) -> Result<BTreeMap<Vec<u8>, T>, StoreError> {
    let end = names::end(family);
    let pairs = view.range(Bound::Included(family), Bound::Excluded(&end));
    pairs.map(|pair| pair.and_then(|(name, bytes)| Ok((name.to_vec(), decode(&bytes)?)))).collect()
}

#[cfg(test)]
mod tests {
    use atoll_types::Permission;

    use super::*;
    use crate::records::fake::Shard;

    fn create(name: &str, email: &str) -> Act {
        let canonical_id = format!("id of {name}");
        Act::CreateUser { name: name.into(), canonical_id, display_name: name.into(), email: email.into() }
    }

    fn create_key(access_key: &str, user: &str) -> Act {
        let (access_key, secret) = (access_key.into(), Secret::new("secret-secret"));
        Act::CreateKey { access_key, secret, user: user.into(), rights: Rights::ALL }
    }

    fn grant(bucket: BucketId, user: &str, rights: Rights, given: bool) -> Act {
        Act::ChangeGrant { bucket, user: user.into(), rights, given }
    }

    fn rules(shard: &Shard, bucket: BucketId) -> Option<BucketRules> {
        shard.0.get(&names::bucket(bucket)).map(|bytes| BucketRules::decode(bytes).unwrap())
    }

    #[test]
    fn names_addresses_and_keys_are_given_once() {
        let mut shard = Shard::converted();
        shard.act(create("ann", "ann@example.org"));
        assert!(matches!(shard.try_act(create("ann", "")), Err(Refused::UserExists { .. })));
        assert!(matches!(shard.try_act(create("bob", "ANN@example.org")), Err(Refused::EmailTaken { .. })));
        shard.act(create("bob", ""));
        shard.act(create("eve", ""));
        shard.act(create_key("AK", "ann"));
        assert!(matches!(shard.try_act(create_key("AK", "bob")), Err(Refused::KeyExists { .. })));
        assert!(matches!(shard.try_act(create_key("BK", "nobody")), Err(Refused::NoSuchUser { .. })));
    }

    #[test]
    fn a_user_goes_with_its_keys_and_grants_and_the_root_user_stays() {
        let mut shard = Shard::converted();
        shard.act(create("ann", ""));
        shard.act(create("bob", ""));
        shard.act(create_key("AK", "ann"));
        shard.act(create_key("BK", "bob"));
        shard.act(grant(1, "ann", Rights::READ, true));
        shard.act(grant(2, "ann", Rights::READ, true));
        shard.act(grant(2, "bob", Rights::READ, true));
        shard.act(Act::DeleteUser { name: "ann".into() });
        assert!(matches!(
            shard.try_act(Act::DeleteKey { access_key: "AK".into() }),
            Err(Refused::NoSuchKey { .. })
        ));
        assert_eq!(rules(&shard, 1), None);
        assert_eq!(rules(&shard, 2).unwrap().grants.len(), 1);
        shard.act(Act::DeleteKey { access_key: "BK".into() });
        for act in [
            Act::DeleteUser { name: ROOT_USER.into() },
            Act::ChangeUser { name: ROOT_USER.into(), rights: UserRights::EVERYTHING, given: false },
        ] {
            assert_eq!(shard.try_act(act), Err(Refused::RootStays));
        }
    }

    #[test]
    fn grants_add_up_and_leave_nothing_when_all_are_taken() {
        let mut shard = Shard::converted();
        shard.act(create("ann", ""));
        shard.act(grant(1, "ann", Rights::READ, true));
        shard.act(grant(1, "ann", Rights::WRITE, true));
        assert_eq!(rules(&shard, 1).unwrap().grants["id of ann"], Rights::READ.with(Rights::WRITE));
        shard.act(grant(1, "ann", Rights::ALL, false));
        assert_eq!(rules(&shard, 1), None);
        shard.act(Act::ForgetBucket { bucket: 1 });
    }

    #[test]
    fn a_policy_means_only_those_who_were_there_when_it_was_read() {
        let mut shard = Shard::converted();
        shard.act(create("ann", ""));
        let policy = |id: &str| {
            let users = [("ann".to_owned(), id.to_owned())].into();
            Act::PutPolicy { bucket: 1, policy: Some(PolicyRecord { text: "{}".into(), users }) }
        };
        shard.act(policy("id of ann"));
        assert!(matches!(shard.try_act(policy("id of another")), Err(Refused::NoSuchUser { .. })));
        shard.act(Act::PutPolicy { bucket: 1, policy: None });
        assert_eq!(rules(&shard, 1), None);
    }

    #[test]
    fn a_bucket_s_acl_is_set_while_acls_are_enabled_and_kept_from_being_forgotten() {
        let mut shard = Shard::converted();
        let grant = |grantee| AclGrant { grantee, permission: Permission::Read };
        let put = |ownership, acl| Act::PutAcl { bucket: 1, owner: "ann".into(), ownership, acl };
        let public = Some(Some(vec![grant(Grantee::AllUsers)]));
        assert_eq!(shard.try_act(put(None, public.clone())), Err(Refused::AclsDisabled));
        let enforced = Some(Ownership::BucketOwnerEnforced);
        assert_eq!(shard.try_act(put(enforced, public.clone())), Err(Refused::AclsDisabled));
        shard.act(put(None, Some(None)));
        shard.act(put(Some(Ownership::ObjectWriter), public.clone()));
        assert_eq!(rules(&shard, 1).unwrap().acl, public.clone().flatten());
        assert_eq!(shard.try_act(put(enforced, None)), Err(Refused::AclGrantsOthers));
        let block_public_acls = true;
        let block = Some(PublicAccessBlock { block_public_acls, ..Default::default() });
        shard.act(Act::PutPublicAccessBlock { bucket: 1, block });
        assert_eq!(shard.try_act(put(None, public)), Err(Refused::PublicAclBlocked));
        shard.act(put(None, Some(Some(vec![grant(Grantee::User("id".into()))]))));
        shard.act(put(None, Some(None)));
        shard.act(put(enforced, None));
        shard.act(Act::PutPublicAccessBlock { bucket: 1, block: None });
        assert_eq!(rules(&shard, 1), None, "nothing is left of it");
    }

    #[test]
    fn an_act_that_does_not_decode_changes_nothing() {
        let mut shard = Shard::converted();
        let before = shard.0.clone();
        let verdict = PerformAct.apply(&mut shard, &[1, 200]).unwrap();
        assert!(matches!(verdict, Verdict::Abort(why) if refused(&why) == Refused::Unknown));
        assert_eq!(shard.0, before);
    }
}
