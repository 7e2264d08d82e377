//! Takes away what a run made in a store: nothing outside its prefix, whatever a listing names.
//! In a bucket with versions that leaves the versions. Tested from outside, in tests/bench.rs.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::{HeaderName, Method};
use rusty_s3::{
    S3Action,
    actions::{DeleteBucket, DeleteObjects, ListObjectsV2, ObjectIdentifier},
};
use tokio::task::JoinSet;

use super::{PRESIGNED_FOR, Payload, RequestError, Store, WRONG_LISTING};

/// S3's limit for one DeleteObjects is 1,000 keys, which is also a page of a listing.
const DELETES_IN_FLIGHT: usize = 8;
/// A put that was cut off may still arrive; 5 s, with the pauses below.
const CLEAN_TRIES: u32 = 20;
const CLEAN_PAUSE: Duration = Duration::from_millis(250);

impl Store {
    /// Deletes what is there of this run, and its bucket, if that is the run's. After a run that
    /// was `cut_off` a user's prefix must be found empty twice.
    pub async fn clean(self: &Arc<Self>, cut_off: bool) -> Result<(), RequestError> {
        let passes_needed = if cut_off { 2 } else { 1 };
        let mut empty_passes = 0;
        let mut why = RequestError::failed("NotEmpty", "after each deletion there were objects again");
        for pass in 0..CLEAN_TRIES {
            if pass > 0 {
                tokio::time::sleep(CLEAN_PAUSE).await;
            }
            let deleted = match self.delete_all().await {
                Err(RequestError::Failed { code, .. }) if code == "NoSuchBucket" => {
                    self.used.store(false, Ordering::Relaxed);
                    return Ok(());
                }
                deleted => deleted?,
            };
            empty_passes = if deleted == 0 { empty_passes + 1 } else { 0 };
            let gone = if self.ours {
                match self.delete_bucket().await {
                    Ok(()) => true,
                    Err(error) => {
                        why = error;
                        false
                    }
                }
            } else {
                empty_passes >= passes_needed
            };
            if gone {
                self.used.store(false, Ordering::Relaxed);
                return Ok(());
            }
        }
        Err(why)
    }

    async fn delete_bucket(&self) -> Result<(), RequestError> {
        let url = DeleteBucket::new(&self.buckets[0], &self.credentials).sign(PRESIGNED_FOR);
        self.send(Method::DELETE, url.as_str(), &[], Payload::empty(), &mut |_| true).await.map(|_| ())
    }

    /// How many there were.
    async fn delete_all(self: &Arc<Self>) -> Result<usize, RequestError> {
        let (mut token, mut stranger) = (None::<String>, None::<String>);
        let (mut deleted, mut deletes) = (0, JoinSet::new());
        loop {
            let text = self.page(0, &self.prefix, token.as_deref()).await?;
            let page = ListObjectsV2::parse_response(&text)
                .map_err(|error| RequestError::failed("NotAListing", error))?;
            let keys = page.contents.into_iter().map(|object| object.key);
            // A store that ignores the prefix names what is the user's.
            let (ours, others): (Vec<String>, Vec<String>) =
                keys.partition(|key| key.starts_with(self.prefix.as_str()));
            stranger = stranger.or(others.into_iter().next());
            deleted += ours.len();
            if !ours.is_empty() {
                let store = self.clone();
                deletes.spawn(async move { store.delete_keys(ours).await });
            }
            token = page.next_continuation_token;
            let in_flight_max = if token.is_some() { DELETES_IN_FLIGHT - 1 } else { 0 };
            while deletes.len() > in_flight_max {
                let done = deletes.join_next().await.expect("there are some");
                done.expect("a deletion does not panic")?;
            }
            match (&token, &stranger) {
                (Some(_), _) => {}
                (None, None) => return Ok(deleted),
                (None, Some(key)) => {
                    let text = format!("a listing of {:?} shows {key:?}, which was left", self.prefix);
                    return Err(RequestError::failed(WRONG_LISTING, text));
                }
            }
        }
    }

    async fn delete_keys(&self, keys: Vec<String>) -> Result<(), RequestError> {
        let keys: Vec<ObjectIdentifier> = keys.into_iter().map(ObjectIdentifier::new).collect();
        let mut action = DeleteObjects::new(&self.buckets[0], Some(&self.credentials), keys.iter());
        action.set_quiet(true);
        let url = action.sign(PRESIGNED_FOR);
        let (body, digest) = action.body_with_md5();
        let headers = [(HeaderName::from_static("content-md5"), digest.as_str())];
        self.send(Method::POST, url.as_str(), &headers, Payload::Bytes(body.into()), &mut |_| true)
            .await
            .map(|_| ())
    }
}
