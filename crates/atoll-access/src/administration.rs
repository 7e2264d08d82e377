//! What administrators change: users, keys, tokens, grants. Each is one command in shard 0
//! that checks before it changes.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use atoll_types::{Format, Instant, ShardId};
use rand::Rng;

use crate::{
    Access, AccessError, AdminToken, KeyRecord, Refused, Rights, Secret, UserRecord, UserRights,
    access::LOOKUP_WAIT,
    records::{ACT, Act, BucketId, ROOT_USER, first, refused},
};

/// IAM's bound for user names.
const USER_NAME_CHARS_MAX: usize = 64;
const DISPLAY_NAME_CHARS_MAX: usize = 128;
/// RFC 5321's bound for a path, without its brackets.
const EMAIL_CHARS_MAX: usize = 254;

/// A node that has just started asks at once for the cluster's version, and through an
/// election gets an answer within this.
const ALLOWED_WAIT: Duration = Duration::from_secs(3);

/// Why something was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Nothing changed, and trying again does not help.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The caller's fault.
    #[error("{reason}")]
    Invalid { reason: String },
    /// Some node runs a program that does not know what would be written (rule 18).
    #[error("some nodes run a program that knows no users")]
    ProgramTooOld,
    /// Shard 0 did not answer: the outcome is unknown.
    #[error(transparent)]
    Access(#[from] AccessError),
}

/// A user to be.
#[derive(Debug, Clone, Default)]
pub struct NewUser {
    pub name: String,
    pub display_name: String,
    /// May be empty.
    pub email: String,
}

impl NewUser {
    pub(crate) fn check(&self) -> Result<(), ChangeError> {
        let invalid = |reason: &str| Err(ChangeError::Invalid { reason: reason.into() });
        let plain = |c: char| c.is_ascii_alphanumeric() || "+=,.@_-".contains(c);
        if self.name.is_empty() || self.name.len() > USER_NAME_CHARS_MAX || !self.name.chars().all(plain) {
            return invalid("a user's name is 1 to 64 letters, digits, + = , . @ _ or -");
        }
        if self.display_name.chars().count() > DISPLAY_NAME_CHARS_MAX
            || self.display_name.chars().any(char::is_control)
        {
            return invalid("a display name is up to 128 characters, none of them a control character");
        }
        let email = &self.email;
        let sound = email.len() <= EMAIL_CHARS_MAX
            && !email.chars().any(|c| c.is_control() || c.is_whitespace())
            && email.split_once('@').is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty());
        if !email.is_empty() && !sound {
            return invalid("an email address looks like ann@example.org");
        }
        Ok(())
    }
}

impl Access {
    /// All nodes read what acts write: from now on they may be written (rule 18). Older
    /// records are converted before the first of them.
    pub fn allow_acts(&self) {
        self.inner.acts_allowed.store(true, Ordering::Release);
    }

    /// Begins to keep users where there were none; changes nothing where it was done.
    pub async fn convert(&self, deadline: Instant) -> Result<(), ChangeError> {
        self.act(Act::Convert, deadline).await
    }

    /// Creates the cluster's first key unless there is one, and returns the oldest key
    /// of the root user.
    pub async fn found_root(
        &self,
        access_key: &str,
        secret: Secret,
        deadline: Instant,
    ) -> Result<Arc<KeyRecord>, AccessError> {
        let access_key = access_key.to_owned();
        if self.acts_allowed() {
            match self.act(Act::FoundRoot { access_key, secret }, deadline).await {
                Ok(()) => {}
                Err(ChangeError::Access(error)) => return Err(error),
                Err(_) => return Err(AccessError::gone()),
            }
        } else {
            self.change(first::Change::FoundRoot { access_key, secret }, deadline).await?;
        }
        let snapshot = self.inner.refreshed(LOOKUP_WAIT).await?;
        let keys = snapshot.content.keys.values().filter(|key| key.user == ROOT_USER);
        let oldest = keys.min_by_key(|key| (key.created, key.access_key.clone()));
        // Deleted between the two steps: gone again, ask again.
        oldest.cloned().ok_or_else(AccessError::gone)
    }

    pub async fn create_user(&self, new: NewUser, deadline: Instant) -> Result<Arc<UserRecord>, ChangeError> {
        new.check()?;
        let NewUser { name, display_name, email } = new;
        let canonical_id = data_encoding::HEXLOWER.encode(&self.inner.runtime.rng().random::<[u8; 32]>());
        let display_name = if display_name.is_empty() { name.clone() } else { display_name };
        self.act(Act::CreateUser { name: name.clone(), canonical_id, display_name, email }, deadline).await?;
        self.user(&name).await
    }

    /// The user as shard 0 has it now.
    pub async fn user(&self, name: &str) -> Result<Arc<UserRecord>, ChangeError> {
        let snapshot = self.inner.refreshed(LOOKUP_WAIT).await?;
        let no_such = || Refused::NoSuchUser { name: name.into() }.into();
        snapshot.content.users.get(name).cloned().ok_or_else(no_such)
    }

    pub async fn change_user(
        &self,
        name: &str,
        rights: UserRights,
        given: bool,
        deadline: Instant,
    ) -> Result<(), ChangeError> {
        self.act(Act::ChangeUser { name: name.into(), rights, given }, deadline).await
    }

    /// With all keys and grants.
    pub async fn delete_user(&self, name: &str, deadline: Instant) -> Result<(), ChangeError> {
        self.act(Act::DeleteUser { name: name.into() }, deadline).await
    }

    /// A key for `user`, drawn at random, and its secret: nobody is told it again.
    pub async fn create_key(
        &self,
        user: &str,
        rights: Rights,
        deadline: Instant,
    ) -> Result<(String, Secret), ChangeError> {
        let (access_key, secret) = draw_key(&mut self.inner.runtime.rng());
        self.put_key(&access_key, secret.clone(), user, rights, deadline).await?;
        Ok((access_key, secret))
    }

    /// A key whose name and secret somebody else chose.
    pub async fn put_key(
        &self,
        access_key: &str,
        secret: Secret,
        user: &str,
        rights: Rights,
        deadline: Instant,
    ) -> Result<(), ChangeError> {
        let (access_key, user) = (access_key.to_owned(), user.to_owned());
        self.act(Act::CreateKey { access_key, secret, user, rights }, deadline).await
    }

    pub async fn change_key(
        &self,
        access_key: &str,
        rights: Rights,
        given: bool,
        deadline: Instant,
    ) -> Result<(), ChangeError> {
        self.act(Act::ChangeKey { access_key: access_key.into(), rights, given }, deadline).await
    }

    /// At most so many requests a second through each node; `None` for any number.
    pub async fn limit_key(
        &self,
        access_key: &str,
        requests_per_second: Option<u32>,
        deadline: Instant,
    ) -> Result<(), ChangeError> {
        if requests_per_second == Some(0) {
            let reason = "a key that may do nothing is revoked, not limited".into();
            return Err(ChangeError::Invalid { reason });
        }
        self.act(Act::LimitKey { access_key: access_key.into(), requests_per_second }, deadline).await
    }

    /// Holds on every node within [`crate::STALENESS_MAX`].
    pub async fn delete_key(&self, access_key: &str, deadline: Instant) -> Result<(), ChangeError> {
        self.act(Act::DeleteKey { access_key: access_key.into() }, deadline).await
    }

    pub async fn change_grant(
        &self,
        bucket: BucketId,
        user: &str,
        rights: Rights,
        given: bool,
        deadline: Instant,
    ) -> Result<(), ChangeError> {
        self.act(Act::ChangeGrant { bucket, user: user.into(), rights, given }, deadline).await
    }

    /// What was said of a bucket that is gone. Nobody asks for it any more, so it only takes
    /// room.
    pub async fn forget_bucket(&self, bucket: BucketId, deadline: Instant) -> Result<(), ChangeError> {
        if self.rules(bucket).await?.is_empty() {
            return Ok(());
        }
        self.act(Act::ForgetBucket { bucket }, deadline).await
    }

    /// Makes `token` this node's own: good here at once, and on every node once shard 0
    /// has its hash. `name` is unique; a second token under it replaces the first.
    pub async fn register_token(
        &self,
        name: &str,
        token: &AdminToken,
        deadline: Instant,
    ) -> Result<(), AccessError> {
        self.set_local_token(token.clone());
        self.change(first::Change::PutToken { hash: token.hash(), name: name.into() }, deadline).await
    }

    /// The part of [`Access::register_token`] that needs no shard.
    pub fn set_local_token(&self, token: AdminToken) {
        *self.inner.local_token.write().expect("never poisoned") = Some(token);
    }

    pub async fn delete_token(&self, name: &str, deadline: Instant) -> Result<(), AccessError> {
        self.change(first::Change::DeleteToken { name: name.into() }, deadline).await
    }

    fn acts_allowed(&self) -> bool {
        self.inner.acts_allowed.load(Ordering::Acquire)
    }

    pub(crate) async fn act(&self, act: Act, deadline: Instant) -> Result<(), ChangeError> {
        let inner = &self.inner;
        let until = inner.runtime.now() + ALLOWED_WAIT;
        while !self.acts_allowed() {
            if inner.runtime.now() >= until {
                return Err(ChangeError::ProgramTooOld);
            }
            inner.runtime.sleep(ALLOWED_WAIT / 30).await;
        }
        let id = inner.runtime.transaction_id();
        let executed = inner.records.execute(ShardId::META, id, ACT, act.encode().into(), deadline).await;
        let executed = executed.map_err(|source| AccessError::Unavailable { source })?;
        if executed.committed { Ok(()) } else { Err(refused(&executed.output).into()) }
    }

    /// In the words of the first programs, which every version knows.
    async fn change(&self, change: first::Change, deadline: Instant) -> Result<(), AccessError> {
        let inner = &self.inner;
        let id = inner.runtime.transaction_id();
        let executed =
            inner.records.execute(ShardId::META, id, first::CHANGE, change.encode().into(), deadline).await;
        executed.map_err(|source| AccessError::Unavailable { source })?;
        Ok(())
    }
}

/// An access key of S3's look, 20 capital letters and digits, and its secret.
pub fn draw_key(rng: &mut impl Rng) -> (String, Secret) {
    // 16 characters of base32: 80 bits, so no two are alike.
    let name = data_encoding::BASE32_NOPAD.encode(&rng.random::<[u8; 10]>());
    (format!("ATOL{name}"), Secret::generate(rng))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_t_be_a_user_is_refused() {
        let user = |name: &str, display_name: &str, email: &str| {
            NewUser { name: name.into(), display_name: display_name.into(), email: email.into() }.check()
        };
        assert_eq!(user("ann+1@x_y-z.=,", "Änn Ü.", "ann@example.org"), Ok(()));
        assert_eq!(user("ann", "", ""), Ok(()));
        for (name, display_name, email) in [
            ("", "", ""),
            ("a b", "", ""),
            ("a/b", "", ""),
            (&"a".repeat(65), "", ""),
            ("ann", "a\nb", ""),
            ("ann", "", "ann"),
            ("ann", "", "@example.org"),
            ("ann", "", "a b@example.org"),
        ] {
            assert!(matches!(user(name, display_name, email), Err(ChangeError::Invalid { .. })), "{name:?}");
        }
    }
}
