//! Conditions on reads and writes, as pure functions: write conditions run inside the
//! commit, read conditions on what the read found.

use atoll_types::WallTime;
use serde::{Deserialize, Serialize};

use crate::object::{ETag, ObjectInfo};

/// `If-Match` and `If-None-Match`: any object at all, or one with one of these ETags. What a
/// client names may be no ETag of ours, so it stays text (without quotes).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ETagCondition {
    Any,
    OneOf(Vec<String>),
}

impl ETagCondition {
    fn holds(&self, etag: &ETag) -> bool {
        match self {
            ETagCondition::Any => true,
            ETagCondition::OneOf(tags) => tags.contains(&etag.to_string()),
        }
    }
}

/// What must hold of the object under a key for a write to happen; checked inside the
/// commit, so exactly one of racing writers wins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteConditions {
    pub if_match: Option<ETagCondition>,
    pub if_none_match: Option<ETagCondition>,
}

/// How a write condition failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailedCondition {
    /// The object exists and is not what was asked for: S3's 412.
    PreconditionFailed,
    /// `If-Match` on a key that has no object: S3's 404.
    NoSuchKey,
}

impl WriteConditions {
    pub fn check(&self, current: Option<&ETag>) -> Result<(), FailedCondition> {
        if let Some(condition) = &self.if_match {
            match current {
                None => return Err(FailedCondition::NoSuchKey),
                Some(etag) if !condition.holds(etag) => return Err(FailedCondition::PreconditionFailed),
                Some(_) => {}
            }
        }
        match (&self.if_none_match, current) {
            (Some(condition), Some(etag)) if condition.holds(etag) => {
                Err(FailedCondition::PreconditionFailed)
            }
            _ => Ok(()),
        }
    }
}

/// What must hold of an object for a read (or the read half of a copy) to go on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadConditions {
    pub if_match: Option<ETagCondition>,
    pub if_none_match: Option<ETagCondition>,
    pub if_modified_since: Option<WallTime>,
    pub if_unmodified_since: Option<WallTime>,
}

/// How a read condition failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailedRead {
    PreconditionFailed,
    NotModified,
}

impl ReadConditions {
    /// In the order of RFC 9110 section 13.2.2: a tag given makes its date ignored.
    /// HTTP dates have whole seconds, so the object's time is cut to seconds.
    pub fn check(&self, info: &ObjectInfo) -> Result<(), FailedRead> {
        let seconds = |time: WallTime| time.as_millis() / 1000;
        let modified = seconds(info.modified);
        match (&self.if_match, self.if_unmodified_since) {
            (Some(condition), _) if !condition.holds(&info.etag) => {
                return Err(FailedRead::PreconditionFailed);
            }
            (None, Some(since)) if modified > seconds(since) => return Err(FailedRead::PreconditionFailed),
            _ => {}
        }
        match (&self.if_none_match, self.if_modified_since) {
            (Some(condition), _) if condition.holds(&info.etag) => Err(FailedRead::NotModified),
            (None, Some(since)) if modified <= seconds(since) => Err(FailedRead::NotModified),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETAG: ETag = ETag { md5: [0xab; 16], parts: 0 };

    fn tag(text: &str) -> Option<ETagCondition> {
        Some(ETagCondition::OneOf(vec![text.into()]))
    }

    #[test]
    fn write_conditions_answer_as_s3_does() {
        let own = ETAG.to_string();
        let check =
            |if_match, if_none_match, current| WriteConditions { if_match, if_none_match }.check(current);
        assert_eq!(check(None, None, None), Ok(()));
        assert_eq!(check(None, Some(ETagCondition::Any), None), Ok(()));
        assert_eq!(
            check(None, Some(ETagCondition::Any), Some(&ETAG)),
            Err(FailedCondition::PreconditionFailed)
        );
        assert_eq!(check(None, tag("other"), Some(&ETAG)), Ok(()));
        assert_eq!(check(None, tag(&own), Some(&ETAG)), Err(FailedCondition::PreconditionFailed));
        assert_eq!(check(tag(&own), None, Some(&ETAG)), Ok(()));
        assert_eq!(check(tag("other"), None, Some(&ETAG)), Err(FailedCondition::PreconditionFailed));
        assert_eq!(check(tag(&own), None, None), Err(FailedCondition::NoSuchKey));
        assert_eq!(check(Some(ETagCondition::Any), None, Some(&ETAG)), Ok(()));
    }

    #[test]
    fn a_tag_makes_the_date_beside_it_ignored() {
        let info = ObjectInfo {
            size: 0,
            etag: ETAG,
            modified: WallTime(10_500),
            revision: atoll_types::Revision(1),
            version: None,
            headers: Default::default(),
            checksum: None,
            parts: vec![],
            encryption: None,
        };
        let own = ETAG.to_string();
        let at = |ms| Some(WallTime(ms));
        let check = |c: ReadConditions| c.check(&info);
        assert_eq!(
            check(ReadConditions { if_unmodified_since: at(9_000), ..Default::default() }),
            Err(FailedRead::PreconditionFailed)
        );
        assert_eq!(check(ReadConditions { if_unmodified_since: at(10_000), ..Default::default() }), Ok(()));
        assert_eq!(
            check(ReadConditions {
                if_match: tag(&own),
                if_unmodified_since: at(9_000),
                ..Default::default()
            }),
            Ok(())
        );
        assert_eq!(
            check(ReadConditions { if_modified_since: at(10_000), ..Default::default() }),
            Err(FailedRead::NotModified)
        );
        assert_eq!(check(ReadConditions { if_modified_since: at(9_000), ..Default::default() }), Ok(()));
        assert_eq!(
            check(ReadConditions {
                if_none_match: tag("other"),
                if_modified_since: at(99_000),
                ..Default::default()
            }),
            Ok(())
        );
        assert_eq!(
            check(ReadConditions { if_none_match: tag(&own), ..Default::default() }),
            Err(FailedRead::NotModified)
        );
    }
}
