//! A bucket's lifecycle rules, from S3's words and back. What they do is done by
//! `atoll-objects`, round by round.

use std::collections::{BTreeMap, BTreeSet};

use atoll_objects::{
    BucketSetting, Expiration, LifecycleFilter, LifecycleRule, NoncurrentExpiration, SettingKind,
};
use atoll_types::WallTime;
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        self, AbortIncompleteMultipartUpload, DeleteBucketLifecycleInput, DeleteBucketLifecycleOutput,
        ExpirationStatus, GetBucketLifecycleConfigurationInput, GetBucketLifecycleConfigurationOutput,
        LifecycleExpiration, LifecycleRuleAndOperator, LifecycleRuleFilter, NoncurrentVersionExpiration,
        PutBucketLifecycleConfigurationInput, PutBucketLifecycleConfigurationOutput, Tag, Timestamp,
        TimestampFormat,
    },
    s3_error,
};

use super::{S3Operations, error::not_implemented, headers};

/// S3's limits.
const RULES_MAX: usize = 1000;
const ID_CHARS_MAX: usize = 255;
const KEPT_NONCURRENT_MAX: i32 = 100;
const DAY_MILLIS: u64 = 86_400_000;

impl S3Operations {
    pub(crate) async fn lifecycle(
        &self,
        req: S3Request<GetBucketLifecycleConfigurationInput>,
    ) -> S3Result<S3Response<GetBucketLifecycleConfigurationOutput>> {
        match self.setting(&req.input.bucket, SettingKind::Lifecycle).await? {
            Some(BucketSetting::Lifecycle(rules)) => {
                let rules = Some(rules.into_iter().map(said).collect());
                Ok(S3Response::new(GetBucketLifecycleConfigurationOutput { rules, ..Default::default() }))
            }
            _ => Err(s3_error!(NoSuchLifecycleConfiguration, "The lifecycle configuration does not exist")),
        }
    }

    pub(crate) async fn set_lifecycle(
        &self,
        req: S3Request<PutBucketLifecycleConfigurationInput>,
    ) -> S3Result<S3Response<PutBucketLifecycleConfigurationOutput>> {
        let rules = req.input.lifecycle_configuration.map(|given| given.rules).unwrap_or_default();
        if rules.is_empty() || rules.len() > RULES_MAX {
            return Err(malformed("A lifecycle configuration has 1 to 1000 rules"));
        }
        let rules = asked(rules)?;
        let setting = Some(BucketSetting::Lifecycle(rules));
        self.set(&req.input.bucket, SettingKind::Lifecycle, setting).await?;
        Ok(S3Response::new(PutBucketLifecycleConfigurationOutput::default()))
    }

    pub(crate) async fn delete_lifecycle(
        &self,
        req: S3Request<DeleteBucketLifecycleInput>,
    ) -> S3Result<S3Response<DeleteBucketLifecycleOutput>> {
        self.set(&req.input.bucket, SettingKind::Lifecycle, None).await?;
        let output = DeleteBucketLifecycleOutput::default();
        Ok(S3Response::with_status(output, http::StatusCode::NO_CONTENT))
    }
}

fn malformed(message: &str) -> s3s::S3Error {
    s3_error!(MalformedXML, "{message}")
}

fn asked(rules: Vec<dto::LifecycleRule>) -> S3Result<Vec<LifecycleRule>> {
    let mut ids: BTreeSet<String> = rules.iter().filter_map(|rule| rule.id.clone()).collect();
    if ids.len() < rules.iter().filter(|rule| rule.id.is_some()).count() {
        return Err(s3_error!(
            InvalidArgument,
            "Rule ID must be unique. Found same ID for more than one rule"
        ));
    }
    if ids.iter().any(|id| id.chars().count() > ID_CHARS_MAX) {
        return Err(s3_error!(InvalidArgument, "ID length should not exceed allowed limit of 255"));
    }
    let mut number = 0;
    let mut fresh = || loop {
        number += 1;
        let id = format!("rule-{number}");
        if ids.insert(id.clone()) {
            return id;
        }
    };
    rules
        .into_iter()
        .map(|rule| {
            let id = rule.id.clone().filter(|id| !id.is_empty());
            one(rule, id.unwrap_or_else(&mut fresh))
        })
        .collect()
}

fn one(rule: dto::LifecycleRule, id: String) -> S3Result<LifecycleRule> {
    let is_given = |count: Option<usize>| count.is_some_and(|count| count > 0);
    if is_given(rule.transitions.as_ref().map(Vec::len))
        || is_given(rule.noncurrent_version_transitions.as_ref().map(Vec::len))
    {
        return Err(not_implemented("A transition to another storage class"));
    }
    let enabled = match rule.status.as_str() {
        ExpirationStatus::ENABLED => true,
        ExpirationStatus::DISABLED => false,
        _ => return Err(malformed("A rule's status is Enabled or Disabled")),
    };
    let plain_prefix = rule.prefix.is_some();
    let filter = match (rule.prefix, rule.filter) {
        (Some(_), Some(_)) => return Err(malformed("A rule has either a Filter or a Prefix")),
        (Some(prefix), None) => LifecycleFilter { prefix: prefix.into(), ..Default::default() },
        (None, filter) => filter_of(filter.unwrap_or_default())?,
    };
    let expiration = rule.expiration.map(expiration_of).transpose()?;
    let noncurrent = rule.noncurrent_version_expiration.map(noncurrent_of).transpose()?;
    let abort_uploads_days = rule
        .abort_incomplete_multipart_upload
        .map(|abort| {
            days(
                abort.days_after_initiation,
                "'DaysAfterInitiation' for AbortIncompleteMultipartUpload action",
            )
        })
        .transpose()?;
    if expiration.is_none() && noncurrent.is_none() && abort_uploads_days.is_none() {
        return Err(s3_error!(InvalidRequest, "At least one action needs to be specified in a rule"));
    }
    let by_object = !filter.tags.is_empty() || filter.larger_than.is_some() || filter.smaller_than.is_some();
    if by_object && (abort_uploads_days.is_some() || expiration == Some(Expiration::LoneMarkers)) {
        return Err(s3_error!(
            InvalidRequest,
            "An action on uploads or delete markers cannot be specified with tags or sizes"
        ));
    }
    Ok(LifecycleRule { id, enabled, filter, expiration, noncurrent, abort_uploads_days, plain_prefix })
}

fn filter_of(filter: LifecycleRuleFilter) -> S3Result<LifecycleFilter> {
    let LifecycleRuleFilter { and, object_size_greater_than, object_size_less_than, prefix, tag } = filter;
    let plain = [
        object_size_greater_than.is_some(),
        object_size_less_than.is_some(),
        prefix.is_some(),
        tag.is_some(),
    ];
    if plain.into_iter().chain([and.is_some()]).filter(|given| *given).count() > 1 {
        return Err(malformed("A filter has one condition, or several in an And"));
    }
    let and = and.unwrap_or_else(|| LifecycleRuleAndOperator {
        object_size_greater_than,
        object_size_less_than,
        prefix,
        tags: tag.map(|tag| vec![tag]),
    });
    let size = |bytes: Option<i64>| {
        let bytes = bytes.map(u64::try_from).transpose();
        bytes.map_err(|_| s3_error!(InvalidRequest, "A size must not be negative"))
    };
    let mut tags = BTreeMap::new();
    for Tag { key, value } in and.tags.into_iter().flatten() {
        if tags.insert(key.unwrap_or_default(), value.unwrap_or_default()).is_some() {
            return Err(s3_error!(InvalidRequest, "Duplicate Tag Keys are not allowed."));
        }
    }
    Ok(LifecycleFilter {
        prefix: and.prefix.unwrap_or_default().into(),
        tags,
        larger_than: size(and.object_size_greater_than)?,
        smaller_than: size(and.object_size_less_than)?,
    })
}

fn days(days: Option<i32>, what: &str) -> S3Result<u32> {
    let days = days.and_then(|days| u32::try_from(days).ok()).filter(|days| *days > 0);
    days.ok_or_else(|| s3_error!(InvalidArgument, "{what} must be a positive integer"))
}

fn expiration_of(given: LifecycleExpiration) -> S3Result<Expiration> {
    match (given.days, given.date, given.expired_object_delete_marker.unwrap_or(false)) {
        (Some(given), None, false) => {
            Ok(Expiration::Days(days(Some(given), "'Days' for Expiration action")?))
        }
        (None, Some(date), false) => {
            let time = wall_time(&date).filter(|time| time.as_millis() % DAY_MILLIS == 0);
            let time = time.ok_or_else(|| s3_error!(InvalidArgument, "'Date' must be at midnight GMT"))?;
            Ok(Expiration::At(time))
        }
        (None, None, true) => Ok(Expiration::LoneMarkers),
        _ => Err(malformed("An expiration has either Days, a Date or ExpiredObjectDeleteMarker")),
    }
}

fn wall_time(timestamp: &Timestamp) -> Option<WallTime> {
    let mut text = Vec::new();
    timestamp.format(TimestampFormat::EpochSeconds, &mut text).ok()?;
    let seconds: f64 = std::str::from_utf8(&text).ok()?.parse().ok()?;
    (seconds >= 0.0).then(|| WallTime::from_millis((seconds * 1000.0) as u64))
}

fn noncurrent_of(given: NoncurrentVersionExpiration) -> S3Result<NoncurrentExpiration> {
    let days = days(given.noncurrent_days, "'NoncurrentDays' for NoncurrentVersionExpiration action")?;
    let keep = match given.newer_noncurrent_versions {
        None => 0,
        Some(count @ 1..=KEPT_NONCURRENT_MAX) => count as u32,
        Some(_) => {
            return Err(s3_error!(
                InvalidArgument,
                "'NewerNoncurrentVersions' must be between 1 and {KEPT_NONCURRENT_MAX}"
            ));
        }
    };
    Ok(NoncurrentExpiration { days, keep })
}

fn said(rule: LifecycleRule) -> dto::LifecycleRule {
    let LifecycleRule { id, enabled, filter, expiration, noncurrent, abort_uploads_days, plain_prefix } =
        rule;
    let status = if enabled { ExpirationStatus::ENABLED } else { ExpirationStatus::DISABLED };
    let prefix = String::from_utf8_lossy(&filter.prefix).into_owned();
    let mut tags = filter.tags.into_iter().map(|(key, value)| Tag { key: Some(key), value: Some(value) });
    let (greater, less) = (filter.larger_than.map(|n| n as i64), filter.smaller_than.map(|n| n as i64));
    let conditions =
        tags.len() + [!prefix.is_empty(), greater.is_some(), less.is_some()].iter().filter(|is| **is).count();
    let said_filter = if plain_prefix {
        None
    } else if conditions > 1 {
        let and = LifecycleRuleAndOperator {
            object_size_greater_than: greater,
            object_size_less_than: less,
            prefix: Some(prefix.clone()).filter(|prefix| !prefix.is_empty()),
            tags: Some(tags.collect::<Vec<_>>()).filter(|tags: &Vec<Tag>| !tags.is_empty()),
        };
        Some(LifecycleRuleFilter { and: Some(and), ..Default::default() })
    } else {
        let tag = tags.next();
        Some(LifecycleRuleFilter {
            and: None,
            object_size_greater_than: greater,
            object_size_less_than: less,
            prefix: Some(prefix.clone()).filter(|_| tag.is_none() && greater.is_none() && less.is_none()),
            tag,
        })
    };
    dto::LifecycleRule {
        abort_incomplete_multipart_upload: abort_uploads_days
            .map(|days| AbortIncompleteMultipartUpload { days_after_initiation: Some(days as i32) }),
        expiration: expiration.map(|expiration| match expiration {
            Expiration::Days(days) => LifecycleExpiration { days: Some(days as i32), ..Default::default() },
            Expiration::At(time) => {
                LifecycleExpiration { date: Some(headers::timestamp(time)), ..Default::default() }
            }
            Expiration::LoneMarkers => {
                LifecycleExpiration { expired_object_delete_marker: Some(true), ..Default::default() }
            }
        }),
        filter: said_filter,
        id: Some(id),
        noncurrent_version_expiration: noncurrent.map(|NoncurrentExpiration { days, keep }| {
            NoncurrentVersionExpiration {
                newer_noncurrent_versions: (keep > 0).then_some(keep as i32),
                noncurrent_days: Some(days as i32),
            }
        }),
        noncurrent_version_transitions: None,
        prefix: plain_prefix.then_some(prefix),
        status: ExpirationStatus::from_static(status),
        transitions: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> dto::LifecycleRule {
        dto::LifecycleRule {
            abort_incomplete_multipart_upload: None,
            expiration: Some(LifecycleExpiration { days: Some(3), ..Default::default() }),
            filter: Some(LifecycleRuleFilter { prefix: Some("a/".into()), ..Default::default() }),
            id: None,
            noncurrent_version_expiration: None,
            noncurrent_version_transitions: None,
            prefix: None,
            status: ExpirationStatus::from_static(ExpirationStatus::ENABLED),
            transitions: None,
        }
    }

    fn code(rule: dto::LifecycleRule) -> String {
        asked(vec![rule]).map_or_else(|error| error.code().as_str().to_owned(), |_| "ok".into())
    }

    #[test]
    fn rules_are_said_as_they_were_given_and_get_an_id() {
        let tag = |key: &str| Tag { key: Some(key.into()), value: Some("v".into()) };
        let filters = [
            LifecycleRuleFilter { prefix: Some("a/".into()), ..Default::default() },
            LifecycleRuleFilter { prefix: Some("".into()), ..Default::default() },
            LifecycleRuleFilter { tag: Some(tag("t")), ..Default::default() },
            LifecycleRuleFilter { object_size_less_than: Some(5), ..Default::default() },
            LifecycleRuleFilter {
                and: Some(LifecycleRuleAndOperator {
                    object_size_greater_than: Some(1),
                    object_size_less_than: None,
                    prefix: Some("x".into()),
                    tags: Some(vec![tag("s"), tag("t")]),
                }),
                ..Default::default()
            },
        ];
        let mut given: Vec<_> =
            filters.into_iter().map(|filter| dto::LifecycleRule { filter: Some(filter), ..rule() }).collect();
        given[0].id = Some("rule-1".into());
        given.push(dto::LifecycleRule { filter: None, prefix: Some("old".into()), ..rule() });
        let back: Vec<_> = asked(given.clone()).unwrap().into_iter().map(said).collect();
        for (given, back) in given.iter().zip(&back) {
            assert_eq!((&given.filter, &given.prefix), (&back.filter, &back.prefix));
            assert_eq!(given.expiration, back.expiration);
        }
        let ids: BTreeSet<_> = back.iter().filter_map(|rule| rule.id.clone()).collect();
        assert_eq!(ids.len(), given.len());
    }

    #[test]
    fn rules_that_s3_refuses_are_refused() {
        let expire = |expiration| dto::LifecycleRule { expiration: Some(expiration), ..rule() };
        let date = |millis| Some(headers::timestamp(WallTime::from_millis(millis)));
        assert_eq!(code(rule()), "ok");
        assert_eq!(code(dto::LifecycleRule { expiration: None, ..rule() }), "InvalidRequest");
        assert_eq!(code(dto::LifecycleRule { prefix: Some("b".into()), ..rule() }), "MalformedXML");
        assert_eq!(
            code(expire(LifecycleExpiration { days: Some(0), ..Default::default() })),
            "InvalidArgument"
        );
        assert_eq!(
            code(expire(LifecycleExpiration { date: date(DAY_MILLIS * 20_000), ..Default::default() })),
            "ok"
        );
        assert_eq!(
            code(expire(LifecycleExpiration { date: date(DAY_MILLIS + 1), ..Default::default() })),
            "InvalidArgument"
        );
        assert_eq!(code(expire(LifecycleExpiration::default())), "MalformedXML");
        assert_eq!(
            code(dto::LifecycleRule { transitions: Some(vec![Default::default()]), ..rule() }),
            "NotImplemented"
        );
        let twice = dto::LifecycleRule { id: Some("x".into()), ..rule() };
        assert!(asked(vec![twice.clone(), twice]).is_err());
    }
}
