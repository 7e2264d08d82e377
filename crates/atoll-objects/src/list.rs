//! Listings, page by page.

use bytes::Bytes;

use crate::{
    error::{ListObjectsError, Unavailable},
    objects::{BUCKET_ATTEMPTS, Objects},
    request::{ListObjects, ObjectPage},
    shard::list::{self, Listed},
};

impl Objects {
    /// One page, read at one moment.
    pub async fn list(&self, request: ListObjects) -> Result<ObjectPage, ListObjectsError> {
        let no_such = || ListObjectsError::NoSuchBucket(request.bucket.clone());
        let deadline = self.deadline();
        let mut info = self.bucket(&request.bucket, deadline).await?.ok_or_else(no_such)?;
        for _ in 0..BUCKET_ATTEMPTS {
            // The range in which the page begins; today a bucket has one.
            let from: &Bytes = match &request.start_after {
                Some(after) if *after > request.prefix => after,
                _ => &request.prefix,
            };
            let ask = list::List {
                bucket: info.id,
                prefix: request.prefix.clone(),
                delimiter: request.delimiter.clone(),
                start_after: request.start_after.clone(),
                limit: u32::try_from(request.limit).unwrap_or(u32::MAX),
            };
            match self.query(info.shard_of(from), &list::OBJECTS, ask, deadline).await? {
                Ok(Listed { entries, common_prefixes, next }) => {
                    return Ok(ObjectPage { entries, common_prefixes, next });
                }
                Err(refused) => {
                    info = self.follow_bucket(&info, &refused, deadline).await?.ok_or_else(no_such)?;
                }
            }
        }
        Err(Unavailable::Unsettled.into())
    }
}
