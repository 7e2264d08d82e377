//! Lifecycle: what a bucket's rules let expire goes, round by round.
//!
//! One node at a time has a round (shard 0 gives it out); it lists the versions and uploads
//! of each bucket that has rules, judges them by the wall clock, and asks the shard to remove
//! what is due. The shard looks again (`shard/lifecycle.rs`), so a round that works with an
//! old listing, or beside another, takes nothing that was written since.
//!
//! S3 rounds an expiry up to the next midnight; here it is due after exactly that many days.

use std::{collections::BTreeMap, time::Duration};

use atoll_types::WallTime;

use crate::{
    error::{GetObjectError, HeadBucketError, Unavailable},
    maintenance::Worker,
    names::ObjectKey,
    objects::unexpected,
    request::{
        BucketInfo, BucketSetting, Expiration, GetObject, LifecycleFilter, LifecycleRule, ListUploads,
        ListVersions, SettingKind, UploadInfo, VersionEntry,
    },
    shard::{
        lifecycle::{self, Claim, Expire},
        list::PAGE_LIMIT_MAX,
    },
    versions::VERSIONS_SINCE,
};

/// Rounds a day: nothing outlives its day by more than an hour.
const ROUNDS_PER_DAY: u32 = 24;
/// However short a test makes the day.
const ROUND_MIN: Duration = Duration::from_secs(1);
/// Versions per expiring command: some milliseconds of applying.
const EXPIRE_AT_ONCE: usize = 100;
/// Between two pages of a walk, so that it stays in the background.
const PAGE_PAUSE: Duration = Duration::from_millis(20);

pub(crate) async fn run(worker: Worker) {
    let every = (worker.settings.lifecycle_day / ROUNDS_PER_DAY).max(ROUND_MIN);
    loop {
        worker.runtime().sleep(every).await;
        if let Err(error) = round(&worker, every).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "a lifecycle's round waits");
        }
    }
}

async fn round(worker: &Worker, every: Duration) -> Result<(), Unavailable> {
    let objects = &worker.objects;
    if !objects.has_version(VERSIONS_SINCE, objects.deadline()).await? {
        return Ok(());
    }
    let id = objects.inner.runtime.transaction_id();
    // A little less, so that the rounds of one node do not miss each other.
    let claim = Claim { interval: every.mul_f64(0.9) };
    let meta = atoll_types::ShardId::META;
    let claimed = objects.execute(meta, id, &lifecycle::CLAIM, claim, objects.deadline()).await?;
    if !claimed.map_err(unexpected)? {
        return Ok(());
    }
    for bucket in objects.list_buckets().await? {
        let setting = match objects.bucket_setting(&bucket.name, SettingKind::Lifecycle).await {
            Ok(setting) => setting,
            Err(HeadBucketError::NoSuchBucket(_)) => continue,
            Err(HeadBucketError::Unavailable(error)) => return Err(error),
        };
        let Some(BucketSetting::Lifecycle(rules)) = setting else { continue };
        let rules: Vec<LifecycleRule> = rules.into_iter().filter(|rule| rule.enabled).collect();
        expire_versions(worker, &bucket, &rules).await?;
        abort_uploads(worker, &bucket, &rules).await?;
    }
    Ok(())
}

async fn expire_versions(
    worker: &Worker,
    bucket: &BucketInfo,
    rules: &[LifecycleRule],
) -> Result<(), Unavailable> {
    if rules.iter().all(|rule| rule.expiration.is_none() && rule.noncurrent.is_none()) {
        return Ok(());
    }
    let objects = &worker.objects;
    let mut judge = Judge::new(rules, worker.settings.lifecycle_day);
    let mut after = None;
    loop {
        let list = ListVersions {
            bucket: bucket.name.clone(),
            prefix: Default::default(),
            delimiter: None,
            after,
            limit: PAGE_LIMIT_MAX,
        };
        // A bucket that went meanwhile has nothing left to expire.
        let Ok(page) = objects.list_versions(list).await else { return Ok(()) };
        let mut items = Vec::new();
        for due in judge.page(&page.versions, objects.inner.runtime.wall_now()) {
            let entry = &page.versions[due.place];
            if due.if_tagged.is_empty() || has_tags(worker, bucket, entry, &due.if_tagged).await? {
                items.push((entry.key.clone(), due.expire));
            }
        }
        for items in items.chunks(EXPIRE_AT_ONCE) {
            expire(worker, bucket, items).await?;
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(()),
        }
        worker.runtime().sleep(PAGE_PAUSE).await;
    }
}

async fn expire(
    worker: &Worker,
    bucket: &BucketInfo,
    items: &[(ObjectKey, Expire)],
) -> Result<(), Unavailable> {
    let objects = &worker.objects;
    let mut by_shard: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for item in items {
        by_shard.entry(bucket.shard_of(item.0.as_bytes())).or_default().push(item.clone());
    }
    for (shard, items) in by_shard {
        let id = objects.inner.runtime.transaction_id();
        let expire = lifecycle::ExpireMany { bucket: bucket.id, items };
        // Refused: the bucket went, or moves. The next round looks again.
        let done = objects.execute(shard, id, &lifecycle::EXPIRE, expire, objects.deadline()).await?;
        let gone = done.map_or(0, |gone| gone.into_iter().filter(|gone| *gone).count());
        if gone > 0 {
            tracing::info!(bucket = %bucket.name, versions = gone, "expired by the bucket's lifecycle");
        }
    }
    Ok(())
}

/// Whether an object has all tags of one of these sets.
async fn has_tags(
    worker: &Worker,
    bucket: &BucketInfo,
    entry: &VersionEntry,
    any_of: &[BTreeMap<String, String>],
) -> Result<bool, Unavailable> {
    let get = GetObject {
        bucket: bucket.name.clone(),
        key: entry.key.clone(),
        version: Some(entry.version),
        range: None,
        conditions: Default::default(),
        customer_key: None,
    };
    match worker.objects.info(get).await {
        Ok(info) => Ok(any_of.iter().any(|tags| {
            tags.iter().all(|(key, value)| info.headers.tags.get(key).is_some_and(|has| has == value))
        })),
        Err(GetObjectError::Unavailable(error)) => Err(error),
        Err(_) => Ok(false),
    }
}

async fn abort_uploads(
    worker: &Worker,
    bucket: &BucketInfo,
    rules: &[LifecycleRule],
) -> Result<(), Unavailable> {
    if rules.iter().all(|rule| rule.abort_uploads_days.is_none()) {
        return Ok(());
    }
    let objects = &worker.objects;
    let mut after = None;
    loop {
        let list = ListUploads {
            bucket: bucket.name.clone(),
            prefix: Default::default(),
            delimiter: None,
            after,
            limit: PAGE_LIMIT_MAX,
        };
        let Ok(page) = objects.list_uploads(list).await else { return Ok(()) };
        let now = objects.inner.runtime.wall_now();
        for found in &page.uploads {
            if upload_is_due(rules, found, now, worker.settings.lifecycle_day) {
                // Completed or aborted meanwhile is as good.
                let _done = objects.abort_upload(&bucket.name, &found.key, found.upload).await;
            }
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(()),
        }
        worker.runtime().sleep(PAGE_PAUSE).await;
    }
}

fn upload_is_due(rules: &[LifecycleRule], upload: &UploadInfo, now: WallTime, day: Duration) -> bool {
    rules.iter().any(|rule| {
        let is_meant = upload.key.as_bytes().starts_with(&rule.filter.prefix);
        is_meant && rule.abort_uploads_days.is_some_and(|days| is_past(upload.initiated, days, now, day))
    })
}

fn is_past(since: WallTime, days: u32, now: WallTime, day: Duration) -> bool {
    now.saturating_since(since) >= day.saturating_mul(days)
}

impl LifecycleFilter {
    /// All but the tags, which a listing does not bring.
    fn suits(&self, entry: &VersionEntry) -> bool {
        entry.key.as_bytes().starts_with(&self.prefix)
            && self.larger_than.is_none_or(|bytes| entry.size > bytes)
            && self.smaller_than.is_none_or(|bytes| entry.size < bytes)
    }
}

/// One entry of a page that is to go.
#[derive(Debug, PartialEq, Eq)]
struct Due {
    place: usize,
    expire: Expire,
    /// Only if it has all tags of one of these; empty: in any case.
    if_tagged: Vec<BTreeMap<String, String>>,
}

/// Judges the versions of a bucket, page by page in their order.
struct Judge<'r> {
    rules: &'r [LifecycleRule],
    day: Duration,
    /// Of the entry before: its key, when it was written, and how many noncurrent versions
    /// of the key there were up to it.
    before: Option<(ObjectKey, WallTime, u32)>,
}

impl<'r> Judge<'r> {
    fn new(rules: &'r [LifecycleRule], day: Duration) -> Self {
        Self { rules, day, before: None }
    }

    fn page(&mut self, entries: &[VersionEntry], now: WallTime) -> Vec<Due> {
        let mut due = Vec::new();
        for (place, entry) in entries.iter().enumerate() {
            let newer = self.before.take().filter(|(key, _, _)| *key == entry.key && !entry.latest);
            let noncurrent = newer.as_ref().map_or(0, |(_, _, count)| *count);
            let expire = match &newer {
                Some(_) => Expire::Noncurrent(entry.version),
                // Where a page ends, the shard knows whether it is alone.
                None if entry.delete_marker => Expire::LoneMarker(entry.version),
                None => Expire::Current(entry.revision),
            };
            let has_older = entries.get(place + 1).is_some_and(|next| next.key == entry.key);
            let is_due = |rule: &LifecycleRule| match (&newer, rule.expiration, rule.noncurrent) {
                (Some((_, since, _)), _, Some(rule)) => {
                    noncurrent >= rule.keep && is_past(*since, rule.days, now, self.day)
                }
                (Some(_), _, None) => false,
                (None, Some(Expiration::Days(days)), _) => {
                    !(entry.delete_marker && has_older) && is_past(entry.modified, days, now, self.day)
                }
                (None, Some(Expiration::At(time)), _) => !(entry.delete_marker && has_older) && now >= time,
                (None, Some(Expiration::LoneMarkers), _) => entry.delete_marker && !has_older,
                (None, None, _) => false,
            };
            let mut if_tagged = Vec::new();
            let (mut always, mut found) = (false, false);
            for rule in self.rules.iter().filter(|rule| rule.filter.suits(entry) && is_due(rule)) {
                found = true;
                // A delete marker has no tags.
                match rule.filter.tags.is_empty() {
                    true => always = true,
                    false => if_tagged.push(rule.filter.tags.clone()),
                }
            }
            if found && (always || !entry.delete_marker) {
                if always {
                    if_tagged.clear();
                }
                due.push(Due { place, expire, if_tagged });
            }
            let count = if newer.is_some() { noncurrent + 1 } else { 0 };
            self.before = Some((entry.key.clone(), entry.modified, count));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{names::VersionId, object::ETag, request::NoncurrentExpiration};
    use atoll_types::Revision;

    const DAY: Duration = Duration::from_secs(86_400);

    fn days(days: u64) -> WallTime {
        WallTime::from_millis(days * 86_400_000)
    }

    fn entry(key: &'static str, revision: u64, latest: bool, delete_marker: bool) -> VersionEntry {
        VersionEntry {
            key: ObjectKey::new(key).unwrap(),
            version: VersionId::At(Revision(revision)),
            revision: Revision(revision),
            latest,
            delete_marker,
            size: revision,
            etag: ETag { md5: [0; 16], parts: 0 },
            // Written on the day of its revision.
            modified: days(revision),
        }
    }

    fn rule(expiration: Option<Expiration>, noncurrent: Option<NoncurrentExpiration>) -> LifecycleRule {
        LifecycleRule { enabled: true, expiration, noncurrent, ..Default::default() }
    }

    fn judged(rules: &[LifecycleRule], pages: &[&[VersionEntry]], now: u64) -> Vec<(usize, Expire)> {
        let mut judge = Judge::new(rules, DAY);
        let mut due = Vec::new();
        for (number, page) in pages.iter().enumerate() {
            due.extend(
                judge.page(page, days(now)).into_iter().map(|due| (number * 10 + due.place, due.expire)),
            );
        }
        due
    }

    #[test]
    fn an_object_expires_after_its_days_or_on_a_date() {
        let page = [entry("a", 1, true, false), entry("b", 5, true, false)];
        let by_days = [rule(Some(Expiration::Days(4)), None)];
        assert_eq!(judged(&by_days, &[&page], 4), []);
        assert_eq!(judged(&by_days, &[&page], 5), [(0, Expire::Current(Revision(1)))]);
        let by_date = [rule(Some(Expiration::At(days(7))), None)];
        assert_eq!(judged(&by_date, &[&page], 6), []);
        assert_eq!(judged(&by_date, &[&page], 7).len(), 2);
    }

    #[test]
    fn noncurrent_versions_count_from_when_they_were_replaced_over_pages_too() {
        let rules = [rule(None, Some(NoncurrentExpiration { days: 2, keep: 1 }))];
        let all = [
            entry("k", 9, true, false),
            entry("k", 6, false, false),
            entry("k", 4, false, true),
            entry("k", 1, false, false),
            entry("l", 1, true, false),
        ];
        let old = |revision| Expire::Noncurrent(VersionId::At(Revision(revision)));
        // Replaced on day 9, 6 and 4; the newest of them is kept.
        assert_eq!(judged(&rules, &[&all], 5), []);
        assert_eq!(judged(&rules, &[&all], 6), [(3, old(1))]);
        assert_eq!(judged(&rules, &[&all], 90), [(2, old(4)), (3, old(1))]);
        assert_eq!(judged(&rules, &[&all[..3], &all[3..]], 90), [(2, old(4)), (10, old(1))]);
    }

    #[test]
    fn a_delete_marker_goes_when_nothing_is_under_it() {
        let page = [entry("a", 3, true, true), entry("a", 1, false, false), entry("b", 3, true, true)];
        let lone = Expire::LoneMarker(VersionId::At(Revision(3)));
        assert_eq!(judged(&[rule(Some(Expiration::LoneMarkers), None)], &[&page], 3), [(2, lone)]);
        assert_eq!(judged(&[rule(Some(Expiration::Days(1)), None)], &[&page], 3), []);
        assert_eq!(judged(&[rule(Some(Expiration::Days(1)), None)], &[&page], 4), [(2, lone)]);
    }

    #[test]
    fn a_rule_is_for_its_prefix_sizes_and_tags() {
        let mut only = rule(Some(Expiration::Days(0)), None);
        only.filter = LifecycleFilter {
            prefix: "log/".into(),
            tags: BTreeMap::from([("keep".into(), "no".into())]),
            larger_than: Some(1),
            smaller_than: Some(5),
        };
        let page = [
            entry("log/a", 1, true, false),
            entry("log/b", 2, true, false),
            entry("log/c", 5, true, false),
            entry("other", 2, true, false),
        ];
        let mut judge = Judge::new(std::slice::from_ref(&only), DAY);
        let due = judge.page(&page, days(9));
        assert_eq!(due.len(), 1);
        assert_eq!((due[0].place, &due[0].if_tagged[0]), (1, &only.filter.tags));
    }

    #[test]
    fn an_upload_is_aborted_after_its_days() {
        let upload = UploadInfo {
            key: ObjectKey::new("log/a").unwrap(),
            upload: crate::names::UploadId(atoll_types::TransactionId([1; 16])),
            initiated: days(1),
            checksum: None,
        };
        let rule = LifecycleRule { enabled: true, abort_uploads_days: Some(2), ..Default::default() };
        assert!(!upload_is_due(std::slice::from_ref(&rule), &upload, days(2), DAY));
        assert!(upload_is_due(&[rule], &upload, days(3), DAY));
    }
}
